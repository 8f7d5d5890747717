#![allow(clippy::unwrap_used)]
use super::*;

use std::path::PathBuf;

use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::families::{ImportOptions, ModelFiles, SaveAs};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, copied, numbers, refusal, refusal_of_changed,
};
use crate::import::masked_goldens::{Golden, schedules_are_those_of_the_reference};
use crate::models::parameters::shapes;
use crate::text::clip::LongCaption;

const SETS: [&str; 3] = ["plain", "halved", "odd"];

type Model = FamilyModel<AmusedFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("amused", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

fn chunks(set: &str) -> Expected {
    Expected::of(&goldens::chunk_golden("amused", set))
}

fn open(path: &Path) -> Result<Published<AmusedFamily>> {
    let files = PublishedFiles {
        path,
        name: "x",
        access: Default::default(),
        image_tokenizer: None,
    };
    Form.load(files, &Device::flex(), WeightFormat::F32)
}

fn loaded(set: &str) -> Model {
    let published = open(&golden(set)).unwrap();
    assert!(
        published
            .networks
            .iter()
            .all(|network| network.tensors.is_complete())
    );
    published.model
}

fn text_ids(set: &str) -> Vec<Vec<u32>> {
    expected(set).metadata("text_ids")
}

fn of<'a>(model: &'a Model, expected: &'a Expected, set: &'a str) -> Golden<'a, AmusedFamily> {
    Golden {
        model,
        expected,
        set,
    }
}

fn nll(model: &Model, set: &str) -> f64 {
    of(model, &expected(set), set).nll()
}

/// Captions, logits, pixels, passes, likelihoods.
#[test]
fn figures_are_those_of_the_reference() {
    for set in SETS {
        let (model, expected) = (loaded(set), expected(set));
        let golden = of(&model, &expected, set);
        golden.captions_become_the_reference_ids();
        golden.logits_are_those_of_the_reference([None; 2]);
        golden.chunks_are_those_of_the_reference(&chunks(set), [None; 2]);
        golden.pixels_and_ids_are_those_of_the_reference();
        golden.every_pass_keeps_what_the_reference_keeps();
        golden.likelihoods_sum_over_passes();
    }
    schedules_are_those_of_the_reference(&expected("plain"));
}

#[test]
fn states_and_embeddings_of_captions_are_those_of_the_reference() {
    for set in SETS {
        let expected = expected(set);
        let (states, embeddings) = loaded(set).net.read_text(&text_ids(set)).unwrap();
        assert_close(&numbers(states), &expected.floats("text_states"), set);
        assert_close(&numbers(embeddings), &expected.floats("text_embeds"), set);
    }
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
            precision: crate::checkpoint::weights::Precision::F16,
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
        let weights = std::fs::metadata(place.path().join("amused.safetensors")).unwrap();
        let numbers: usize = shapes(&published.net)
            .values()
            .map(|shape| shape.iter().product::<usize>())
            .sum();
        // Names and shapes take more than the numbers of such small models.
        assert!(weights.len() < 2 * numbers as u64 + 40_000, "{set}");
        let info = crate::families::info(&files).unwrap();
        assert_eq!(info.dalle_parameters, numbers);
        assert_eq!(info.licence, LICENCE);
        assert_eq!(info.sampling.unwrap().guidance_scale, 10.0);
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

fn refused(folder: &Path) -> String {
    refusal(folder, open)
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let changed = |set: &str, file: &str, from: &str, to: &str| {
        refusal_of_changed(&golden(set), (file, from, to), open)
    };
    let transformer = "transformer/config.json";
    for (file, from, to, expected) in [
        (
            transformer,
            "\"intermediate_size\": 72",
            "\"intermediate_size\": 70",
            "transformer_layers.0.ff.net.0.proj.weight has shape [144, 48]",
        ),
        (
            transformer,
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "missing: transformer_layers.2",
        ),
        (
            transformer,
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "nowhere: transformer_layers.1",
        ),
        (
            transformer,
            "\"upsample\": false",
            "\"upsample\": true",
            "upsample is true, expected false",
        ),
        (
            transformer,
            "\"use_bias\": false",
            "\"use_bias\": true",
            "use_bias is true",
        ),
        (
            transformer,
            "\"hidden_size\": 48",
            "\"hidden_size\": 960000",
            "describes",
        ),
        (
            transformer,
            "\"codebook_size\": 48",
            "\"codebook_size\": 47",
            "codebook_size is 47, expected 48",
        ),
        (
            transformer,
            "\"sample_size\": 6",
            "\"sample_size\": 0",
            "picture_size is 0",
        ),
        (
            "scheduler/scheduler_config.json",
            "55",
            "47",
            "mask_id is 47",
        ),
        (
            "vqvae/config.json",
            "\"mid_block_add_attention\": false",
            "\"mid_block_add_attention\": true",
            "mid_block_add_attention is true, expected false",
        ),
        (
            "text_encoder/config.json",
            "\"hidden_act\": \"quick_gelu\"",
            "\"hidden_act\": \"relu\"",
            "hidden_act is \"relu\"",
        ),
        (
            "text_encoder/config.json",
            "\"projection_dim\": 20",
            "\"projection_dim\": 21",
            "cond_embed_dim is 20, expected 21",
        ),
        (
            "tokenizer/tokenizer_config.json",
            "\"model_max_length\": 13",
            "\"model_max_length\": 8",
            "model_max_length is 8",
        ),
        (
            "tokenizer/special_tokens_map.json",
            "\"pad_token\": \"<|endoftext|>\"",
            "\"pad_token\": \"<pad>\"",
            "pad_token \"<pad>\" is not in the vocabulary",
        ),
    ] {
        let error = changed("plain", file, from, to);
        assert!(error.contains(expected), "{error}");
    }
    // Parts that have not arrived.
    for (file, expected) in [
        (
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer",
        ),
        ("text_encoder/model.safetensors", "text_encoder"),
        ("vqvae/diffusion_pytorch_model.safetensors", "vqvae"),
        ("tokenizer/vocab.json", "tokenizer"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
    ] {
        let folder = copied(&golden("plain"));
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let error = refused(folder.path());
        assert!(error.contains(expected), "{error}");
    }
    // Other pipelines are no aMUSEd.
    assert!(!config::is_amused(
        b"{\"_class_name\": \"StableDiffusionPipeline\"}"
    ));
    assert!(!config::is_amused(b"[]"));
}

#[test]
fn fine_tuning_is_refused() {
    let net = loaded("odd").net;
    let loss = <AmusedFamily as crate::families::Family>::loss(&net, &[], &[], 1.0);
    let Err(error) = loss else {
        panic!("expected an error")
    };
    assert!(error.to_string().contains("fine-tuned"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&[
            ("plain", "model_index.json"),
            ("plain", "transformer/config.json"),
            ("plain", "transformer/diffusion_pytorch_model.safetensors"),
            ("halved", "transformer/diffusion_pytorch_model.fp16.safetensors"),
            ("odd", "text_encoder/model.safetensors"),
            ("odd", "text_encoder/config.json"),
            ("odd", "vqvae/diffusion_pytorch_model.safetensors"),
            ("plain", "vqvae/config.json"),
            ("plain", "scheduler/scheduler_config.json"),
            ("plain", "tokenizer/vocab.json"),
            ("plain", "tokenizer/merges.txt"),
            ("plain", "tokenizer/tokenizer_config.json"),
            ("plain", "tokenizer/special_tokens_map.json"),
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
        name in prop::sample::select(&["config.json", "amused.safetensors", "tokenizer.json"][..]),
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
