#![allow(clippy::unwrap_used)]
use super::*;

use std::path::PathBuf;

use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::checkpoint::weights::Precision;
use crate::engine::{AutoregressiveModel, SampleSpec, sample};
use crate::error::Hint;
use crate::families::{Family, ImportOptions, ModelFiles, SaveAs};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, copied, numbers, refusal, refusal_of_changed,
};
use crate::import::masked_goldens::{Golden, masked, schedules_are_those_of_the_reference};
use crate::models::dalle::Order;
use crate::models::masked::{Masked, logits};
use crate::models::parameters::shapes;
use crate::observer::NoObserver;
use crate::text::clip::LongCaption;

const SETS: [&str; 3] = ["plain", "halved", "odd"];
/// Its other parts are those of `halved`.
const STUDENT: &str = "student";

type Model = FamilyModel<MeissonicFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("meissonic", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

fn chunks(set: &str) -> Expected {
    Expected::of(&goldens::chunk_golden("meissonic", set))
}

fn open_with(path: &Path, others: Option<&Path>) -> Result<Published<MeissonicFamily>> {
    let files = PublishedFiles {
        path,
        name: "x",
        access: Default::default(),
        image_tokenizer: others,
    };
    Form.load(files, &Device::flex(), WeightFormat::F32)
}

fn open(path: &Path) -> Result<Published<MeissonicFamily>> {
    open_with(path, None)
}

fn complete(published: Published<MeissonicFamily>) -> Model {
    let mut networks = published.networks.iter();
    assert!(networks.all(|network| network.tensors.is_complete()));
    published.model
}

fn loaded(set: &str) -> Model {
    complete(open(&golden(set)).unwrap())
}

fn student() -> Model {
    complete(open_with(&golden(STUDENT), Some(&golden("halved"))).unwrap())
}

fn of<'a>(model: &'a Model, expected: &'a Expected, set: &'a str) -> Golden<'a, MeissonicFamily> {
    Golden {
        model,
        expected,
        set,
    }
}

fn nll(model: &Model, set: &str) -> f64 {
    of(model, &expected(set), set).nll()
}

/// Captions, the text encoder, logits at a late and at an early pass, pixels, passes, likelihoods.
#[test]
fn figures_are_those_of_the_reference() {
    for set in SETS {
        let (model, expected) = (loaded(set), expected(set));
        let golden = of(&model, &expected, set);
        golden.captions_become_the_reference_ids();
        let (states, embeddings) = model.net.read_text(&golden.text_ids()).unwrap();
        assert_close(&numbers(states), &expected.floats("text_states"), set);
        assert_close(&numbers(embeddings), &expected.floats("text_embeds"), set);
        golden.logits_are_those_of_the_reference([Some(1), Some(40)]);
        golden.chunks_are_those_of_the_reference(&chunks(set), [Some(1), Some(40)]);
        golden.pixels_and_ids_are_those_of_the_reference();
        golden.every_pass_keeps_what_the_reference_keeps();
        golden.likelihoods_sum_over_passes();
    }
    schedules_are_those_of_the_reference(&expected("plain"));
}

/// The number of the pass is seen, and one that nobody counts is that of a drawing with as many masked ids.
#[test]
fn passes_that_nobody_counts_have_the_number_of_a_drawing() {
    let model = loaded("halved");
    let ids: Vec<Vec<u32>> = expected("halved").metadata("text_ids");
    let prompt = model.net.read(&ids[0]).unwrap();
    let targets = [0, 9, 63];
    let mut canvas = vec![None; 64];
    let found = |canvas: &[Option<u32>], left| {
        let picture = Masked {
            left,
            ..Masked::new(&prompt, canvas, &targets)
        };
        numbers(logits(&model.net, &[picture]).unwrap())
    };
    assert_eq!(found(&canvas, None), found(&canvas, Some(47)));
    assert_ne!(found(&canvas, None), found(&canvas, Some(46)));
    canvas[1..].fill(Some(5));
    assert_eq!(found(&canvas, None), found(&canvas, Some(0)));
}

/// A student's one pass: from the reference's random codes between masks, the number of its pass 0.
#[test]
fn one_pass_is_that_of_the_reference() {
    let model = student();
    let expected = expected(STUDENT);
    let seed: u64 = expected.metadata("seed");
    let text_ids: Vec<u32> = expected.metadata::<Vec<Vec<u32>>>("text_ids").remove(0);
    let prompt = model.net.read(&text_ids).unwrap();
    let positions = model.net.sizes().positions;
    let targets: Vec<u32> = (0..positions as u32).collect();
    let blank = vec![None; positions];
    let picture = Masked {
        seed,
        left: Some(31),
        ..Masked::new(&prompt, &blank, &targets)
    };
    let found = numbers(logits(&model.net, &[picture]).unwrap());
    assert_close(&found, &expected.floats("logits"), STUDENT);
    // The same net given the ids that stand there, the others masked.
    let mut sizes = model.config.sizes.clone();
    assert_eq!(sizes.masked_at_start, Some(0.5));
    let start = masked(&expected, "start").swap_remove(0);
    assert_eq!(
        start.iter().filter(|id| id.is_none()).count(),
        positions / 2
    );
    sizes.masked_at_start = Some(1.0);
    let student = student_of(&sizes);
    let prompt = student.net.read(&text_ids).unwrap();
    let picture = Masked::new(&prompt, &start, &targets);
    assert_eq!(numbers(logits(&student.net, &[picture]).unwrap()), found);

    let order = MeissonicFamily::order(&model.config.options);
    assert_eq!(order, Order::Confidence { steps: 1 });
    let specs = [SampleSpec { text_ids, seed }];
    for (name, temperature) in [("greedy", 0.0), ("sampled", 1.0)] {
        let sampling = SamplingOptions {
            temperature,
            ..model.config.sampling.clone()
        };
        assert!(!sampling.needs_unconditional());
        let empty = model.unconditional(&[]);
        let drawn = sample(
            &model.net,
            &specs,
            &empty,
            &sampling,
            order,
            &mut NoObserver,
        )
        .unwrap();
        assert_eq!(drawn[0].image_ids, expected.ids(name)[0], "{name}");
    }
}

/// The student with other sizes.
fn student_of(sizes: &MeissonicConfig) -> Model {
    let folder = copied(&golden(STUDENT));
    let config = folder.path().join("meissonic/transformer/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let share = sizes.masked_at_start.unwrap();
    let text = text.replacen('{', &format!("{{\"masked_at_start\": {share},"), 1);
    std::fs::write(&config, text).unwrap();
    let model = complete(open_with(folder.path(), Some(&golden("halved"))).unwrap());
    assert_eq!(model.config.sizes, *sizes);
    model
}

fn load_ours(folder: &Path, format: Option<WeightFormat>) -> Model {
    let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned())).unwrap();
    Model::load(&files, &Device::flex(), format).unwrap()
}

/// An import keeps every number, and 16-bit weights stay in 16 bits; so do all of them in bfloat16 and eight bits,
/// nearly.
#[test]
fn a_folder_of_ours_says_the_same_as_the_published_files() {
    for set in SETS {
        let place = tempfile::tempdir().unwrap();
        let files = ModelFiles::find(&ModelSource::Dir(golden(set))).unwrap();
        assert!(files.is_published_form());
        let options = ImportOptions {
            name: Some("mine".to_owned()),
            licence: None,
            image_tokenizer: None,
            precision: Precision::F16,
        };
        crate::families::import(&files, &options, place.path()).unwrap();
        let (ours, published) = (load_ours(place.path(), None), loaded(set));
        assert_eq!(nll(&ours, set), nll(&published, set), "{set}");
        assert_eq!(ours.config.sizes, published.config.sizes);
        assert_eq!(ours.config.options, published.config.options);
        assert_eq!(
            ours.encode_caption("a RED turtle", LongCaption::Refuse)
                .unwrap(),
            published
                .encode_caption("a RED turtle", LongCaption::Refuse)
                .unwrap()
        );
        let weights = std::fs::metadata(place.path().join("meissonic.safetensors")).unwrap();
        let numbers: usize = shapes(&published.net)
            .values()
            .map(|shape| shape.iter().product::<usize>())
            .sum();
        assert!(
            numbers as u64 > published.config.sizes.parameters(),
            "{set}"
        );
        // Names and shapes take more than the numbers of such small models.
        assert!(weights.len() < 2 * numbers as u64 + 60_000, "{set}");
        let info = crate::families::info(&files).unwrap();
        assert_eq!(info.dalle_parameters, numbers);
        assert_eq!(info.licence, LICENCE);
        assert_eq!(info.sampling.unwrap().guidance_scale, 9.0);
        for format in [WeightFormat::Bf16, WeightFormat::Int8] {
            let packed = place.path().join(format.to_string());
            crate::families::quantise(&files, format, &packed).unwrap();
            let error = nll(&load_ours(&packed, None), set) / nll(&published, set) - 1.0;
            assert!(
                error.abs() < 0.05 && error != 0.0,
                "{set} {format}: {error}"
            );
        }
    }
}

/// A student's folder knows its parts, and that it draws in one pass without guidance.
#[test]
fn a_student_is_known_by_its_place() {
    let source = ModelSource::Published {
        path: golden(STUDENT),
        needs: vec![golden("halved")],
    };
    let files = ModelFiles::find(&source).unwrap();
    let place = tempfile::tempdir().unwrap();
    let options = ImportOptions {
        name: None,
        licence: None,
        image_tokenizer: None,
        precision: Precision::F16,
    };
    crate::families::import(&files, &options, place.path()).unwrap();
    let ours = load_ours(place.path(), None);
    assert_eq!(ours.config.sizes.masked_at_start, Some(0.5));
    assert_eq!(ours.config.options.steps, 1);
    assert_eq!(ours.config.sampling.guidance_scale, 1.0);
    assert_eq!(ours.config.licence, LICENCE_OF_STUDENTS);
    // All in one folder, too; without the other parts, the error says what to do.
    let folder = copied(&golden("halved"));
    std::fs::remove_dir_all(folder.path().join("transformer")).unwrap();
    std::fs::create_dir(folder.path().join("meissonic")).unwrap();
    let moved = copied(&golden(STUDENT).join("meissonic/transformer"));
    std::fs::rename(moved.path(), folder.path().join("meissonic/transformer")).unwrap();
    let whole = open(folder.path()).unwrap().model;
    assert_eq!(whole.config.sizes, ours.config.sizes);
    match open(&golden(STUDENT)) {
        Err(Error::Missing {
            hint: Hint::Do(hint),
            ..
        }) => assert!(hint.contains("MeissonFlow/Meissonic"), "{hint}"),
        other => panic!("expected an error, got {other:?}"),
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let transformer = "transformer/config.json";
    for (file, from, to, expected) in [
        (
            transformer,
            "\"num_layers\": 2",
            "\"num_layers\": 3",
            "missing: transformer_blocks.2",
        ),
        (
            transformer,
            "\"num_layers\": 2",
            "\"num_layers\": 1",
            "nowhere: transformer_blocks.1",
        ),
        (
            transformer,
            "\"num_single_layers\": 1",
            "\"num_single_layers\": 10000",
            "n_single_layers is 10000",
        ),
        (
            transformer,
            "\"num_single_layers\": 1",
            "\"num_single_layers\": 1000",
            "describes",
        ),
        (
            transformer,
            "\"upsample\": false",
            "\"upsample\": true",
            "upsample is true, expected false",
        ),
        (
            transformer,
            "\"guidance_embeds\": false",
            "\"guidance_embeds\": true",
            "guidance_embeds is true",
        ),
        (
            transformer,
            "\"attention_head_dim\": 20",
            "\"attention_head_dim\": 24",
            "attention_head_dim is 24, expected 20",
        ),
        (
            transformer,
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 960000",
            "pooled_projection_dim is 40, expected 19200000",
        ),
        (
            transformer,
            "\"codebook_size\": 48",
            "\"codebook_size\": 47",
            "codebook_size is 47, expected 48",
        ),
        (
            transformer,
            "\"vocab_size\": 56",
            "\"vocab_size\": 57",
            "embed.embeddings.weight has shape [56, 40]",
        ),
        (
            transformer,
            "\"sample_size\": 6",
            "\"sample_size\": 0",
            "picture_size is 0",
        ),
        (
            transformer,
            "\"sample_size\": 6",
            "\"masked_at_start\": 1.5",
            "masked_at_start is 1.5",
        ),
        (
            "scheduler/scheduler_config.json",
            "55",
            "47",
            "mask_id is 47",
        ),
        (
            "text_encoder/config.json",
            "\"projection_dim\": 40",
            "\"projection_dim\": 41",
            "pooled_projection_dim is 40, expected 41",
        ),
    ] {
        let error = refusal_of_changed(&golden("plain"), (file, from, to), open);
        assert!(error.contains(expected), "{error}");
    }
    // Parts that have not arrived.
    for (file, expected) in [
        (
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer",
        ),
        ("transformer/config.json", "transformer"),
        ("text_encoder/model.safetensors", "text_encoder"),
        ("vqvae/diffusion_pytorch_model.safetensors", "vqvae"),
        ("vqvae/config.json", "vqvae"),
        ("tokenizer/vocab.json", "tokenizer"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
    ] {
        let folder = copied(&golden("plain"));
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let error = refusal(folder.path(), open);
        assert!(error.contains(expected), "{error}");
    }
    // The models of the same class's name in diffusers are others.
    let other = copied(&golden("plain"));
    let config = other.path().join(transformer);
    let class = br#"{"_class_name": "Transformer2DModel", "num_embeds_ada_norm": 1000}"#;
    std::fs::write(config, class).unwrap();
    assert!(!Form.is_published(other.path(), None));
}

/// Sizes of published models: pictures of 1024 pixels with down-sampling, of 512 without.
#[test]
fn sizes_of_pictures_follow_from_down_sampling() {
    for (set, size) in [("plain", 512), ("halved", 1024)] {
        let folder = copied(&golden(set));
        let path = folder.path().join("transformer/config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("sample_size", "other")).unwrap();
        let config = open(folder.path()).unwrap().model.config;
        assert_eq!(config.sizes.picture_size, size, "{set}");
        assert_eq!(config.sizes.grid, size / 2, "{set}");
    }
}

#[test]
fn fine_tuning_is_refused() {
    let net = loaded("odd").net;
    let Err(error) = MeissonicFamily::loss(&net, &[], &[], 1.0) else {
        panic!("expected an error")
    };
    assert!(error.to_string().contains("fine-tuned"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&[
            ("plain", "transformer/config.json"),
            ("plain", "transformer/diffusion_pytorch_model.safetensors"),
            ("halved", "transformer/diffusion_pytorch_model.fp16.safetensors"),
            ("halved", "text_encoder/model.fp16.safetensors"),
            ("plain", "text_encoder/config.json"),
            ("plain", "scheduler/scheduler_config.json"),
            ("plain", "vqvae/config.json"),
            ("plain", "tokenizer/tokenizer_config.json"),
        ][..]),
        damage in damage(),
    ) {
        open_damaged(&golden(set), name, &damage, open);
        open_damaged(&golden(set), name, &damage, |folder| {
            ModelFiles::find(&ModelSource::Dir(folder.to_owned()))
        });
    }

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&["config.json", "meissonic.safetensors"][..]),
        damage in damage(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        loaded("plain").save(folder.path(), SaveAs::Held).unwrap();
        open_damaged(folder.path(), name, &damage, |folder| {
            let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned()))?;
            Model::load(&files, &Device::flex(), None)
        });
    }
}
