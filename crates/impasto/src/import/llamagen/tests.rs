//! LlamaGen against the reference's own code (`reference/write_llamagen_goldens.py`), and damage.

#![allow(clippy::unwrap_used)]
use super::*;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::checkpoint::config_file::CONFIG;
use crate::engine::drafts::tests::drafts_change_nothing;
use crate::engine::{
    AutoregressiveModel, Input, Prompted, Rows, SampleSpec, likelihood, sample_guided,
};
use crate::families::{Family, ImportOptions, ModelFiles, SaveAs};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, assert_within, copied, numbers, refusal, refusal_of_changed,
};
use crate::models::dalle::Order;
use crate::models::llamagen::NEXT_CHUNK;
use crate::observer::NoObserver;
use crate::text::clip::LongCaption;
use crate::text::t5::clean;
use crate::text::t5::tests::letters;

const SETS: [&str; 4] = ["t2i", "t2i_half", "c2i", "hub"];

type Model = FamilyModel<LlamaGenFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("llamagen", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

fn files(path: &Path) -> PublishedFiles<'_> {
    PublishedFiles {
        path,
        name: "x",
        access: Default::default(),
        image_tokenizer: None,
    }
}

fn open(path: &Path) -> Result<Published<LlamaGenFamily>> {
    Form.load(files(path), &Device::flex(), WeightFormat::F32)
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

fn text_ids(expected: &Expected) -> Vec<Vec<u32>> {
    expected.metadata("text_ids")
}

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        for (caption, ids) in captions.iter().zip(text_ids(&expected)) {
            // Where there are few places, the reference has cut one.
            assert_eq!(
                model
                    .encode_caption(caption, LongCaption::Truncate)
                    .unwrap(),
                ids,
                "{set}"
            );
        }
        if !set.starts_with("t2i") {
            for bad in ["a cat", "-1", "7", ""] {
                let error = model
                    .encode_caption(bad, LongCaption::Refuse)
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("the number of one, 0 to"), "{error}");
            }
            continue;
        }
        let raw: Vec<String> = expected.metadata("raw");
        let cleaned: Vec<String> = expected.metadata("cleaned");
        for (caption, cleaned) in raw.iter().zip(cleaned) {
            assert_eq!(clean(caption).unwrap(), cleaned, "{caption:?}");
        }
        // A long caption is refused, or cut as the reference does.
        let long: String = expected.metadata("long");
        let ids: Vec<u32> = expected.metadata("long_ids");
        assert_eq!(
            model.encode_caption(&long, LongCaption::Truncate).unwrap(),
            ids,
            "{set}"
        );
        let error = model
            .encode_caption(&long, LongCaption::Refuse)
            .unwrap_err();
        assert!(matches!(error, Error::CaptionTooLong { .. }), "{error}");
        let error = model
            .encode_caption("红色的乌龟", LongCaption::Refuse)
            .unwrap_err();
        assert!(error.to_string().contains("no Chinese"), "{error}");
    }
}

#[test]
fn features_of_captions_are_those_of_the_reference() {
    for set in ["t2i", "t2i_half"] {
        let model = loaded(set).net;
        let expected = expected(set);
        for (number, ids) in text_ids(&expected).iter().enumerate() {
            let features = numbers(model.features(ids).unwrap());
            let wanted = expected.floats(&format!("features_{}", number + 1));
            assert_close(&features, &wanted, set);
        }
    }
}

#[test]
fn logits_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let text_ids = text_ids(&expected);
        let image_nll = expected.floats("image_nll");
        let mut found = Vec::new();
        for (row, ids) in expected.ids("image_ids").into_iter().enumerate() {
            let nothing = model.unconditional(&text_ids[row]);
            for prompt in [&text_ids[row], &nothing] {
                let prompt = model.net.read(prompt).unwrap();
                let logits = model.net.whole_logits(&prompt, std::slice::from_ref(&ids));
                found.extend(numbers(logits.unwrap()));
            }
            let nats = -likelihood(&model.net, &model.net.read(&text_ids[row]).unwrap(), &ids)
                .unwrap()
                .image_log_likelihood as f32;
            let reference = image_nll[row];
            assert!(
                (nats - reference).abs() <= 1e-4 * reference,
                "{set}: {nats} {reference}"
            );
        }
        assert_close(&found, &expected.floats("logits"), set);
    }
}

/// `reference/write_long_caption_goldens.py`: each chunk is read apart, their states stand one after the other.
#[test]
fn captions_in_chunks_are_those_of_the_reference() {
    let set = "t2i_half";
    let (model, expected) = (loaded(set), expected(set));
    let chunks = Expected::of(&goldens::chunk_golden("llamagen", set));
    let long: String = chunks.metadata("caption");
    let rows: Vec<Vec<u32>> = chunks.metadata("text_ids");
    let ids = model.encode_caption(&long, LongCaption::Chunks).unwrap();
    assert_eq!(ids, rows.join(&NEXT_CHUNK));
    let prompt = model.net.read(&ids).unwrap();
    let images = expected.ids("image_ids");
    let logits = numbers(model.net.whole_logits(&prompt, &images).unwrap());
    assert_close(&logits, &chunks.floats("logits"), set);
    // Drawn with guidance, beside a caption that fits: both as they are alone.
    let spec = |text_ids: &[u32]| SampleSpec {
        text_ids: text_ids.to_vec(),
        seed: 3,
    };
    let short = model.encode_caption("a hat", LongCaption::Chunks).unwrap();
    assert_eq!(
        short,
        model.encode_caption("a hat", LongCaption::Refuse).unwrap()
    );
    let drawn = |specs: &[SampleSpec]| {
        let nothing = |ids: &[u32]| model.unconditional(ids);
        let sampling = &model.config.sampling;
        let net = &model.net;
        sample_guided(
            net,
            specs,
            &nothing,
            sampling,
            Order::Raster,
            &mut NoObserver,
        )
        .unwrap()
    };
    let together = drawn(&[spec(&ids), spec(&short)]);
    for (spec, found) in [spec(&ids), spec(&short)].into_iter().zip(together) {
        assert_eq!(drawn(&[spec])[0].image_ids, found.image_ids);
    }
    // A whole word longer than a chunk, one that ends with a chunk, and far too many.
    let word = model.encode_caption(&"turtlecat".repeat(20), LongCaption::Chunks);
    let word = word.unwrap();
    assert!(
        word.split(|&id| id == NEXT_CHUNK)
            .all(|chunk| chunk.len() <= 24)
    );
    assert!(word.contains(&NEXT_CHUNK));
    let error = model.encode_caption(&"a hat ".repeat(900), LongCaption::Chunks);
    let error = error.unwrap_err();
    let beyond = |tokens, limit| tokens > limit && limit == 16 * 24;
    assert!(
        matches!(error, Error::CaptionTooLong { tokens, limit, .. } if beyond(tokens, limit)),
        "{error}"
    );
    // Whatever fits: chunks where they are read and not too many, else the start.
    let (some, endless) = ("a hat ".repeat(30), "a hat ".repeat(900));
    for (caption, as_read) in [
        ("a hat", LongCaption::Refuse),
        (&some, LongCaption::Chunks),
        (&endless, LongCaption::Truncate),
    ] {
        let fit = model.encode_caption(caption, LongCaption::Fit).unwrap();
        assert_eq!(fit, model.encode_caption(caption, as_read).unwrap());
    }
    let of_classes = loaded("c2i");
    let class = of_classes.encode_caption("3", LongCaption::Fit).unwrap();
    assert_eq!(class, [3]);
    let error = of_classes
        .encode_caption("3", LongCaption::Chunks)
        .unwrap_err();
    assert!(
        error.to_string().contains("without a CLIP or T5"),
        "{error}"
    );
}

/// A T5 with `spiece.model` alone.
#[test]
fn a_text_encoder_without_tokenizer_json_is_read() {
    let folder = copied(&golden("t2i"));
    let of_text = folder.path().join("flan-t5");
    std::fs::remove_file(of_text.join("tokenizer.json")).unwrap();
    std::fs::write(of_text.join("spiece.model"), letters()).unwrap();
    let model = open(folder.path()).unwrap().model;
    let ids = model
        .encode_caption("A red turtle on a hat", LongCaption::Refuse)
        .unwrap();
    // Letters and spaces, and the end.
    assert!(ids.len() == 23 && model.net.read(&ids).is_ok());
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path(), SaveAs::Held).unwrap();
    assert!(saved.path().join("tokenizer.json").is_file());
    std::fs::write(of_text.join("spiece.model"), [0xff; 40]).unwrap();
    let error = refusal(folder.path(), open);
    assert!(
        error.contains("spiece.model") && error.contains("not a model of"),
        "{error}"
    );
}

/// From the caches, along the reference's own picture.
#[test]
fn logits_of_every_step_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).net;
        let expected = expected(set);
        let positions = model.sizes().positions as u32;
        for (row, text_ids) in text_ids(&expected).iter().enumerate() {
            let prompt = model.read(text_ids).unwrap();
            let prompted = Prompted {
                prompt: &prompt,
                rows: 1,
            };
            let mut state = model.prefill(&[prompted]).unwrap();
            let ids = &expected.ids("greedy_ids")[row];
            let mut found = Vec::new();
            for target in 0..positions {
                let token = target
                    .checked_sub(1)
                    .map(|before| (before, ids[before as usize]));
                let mut rows = Rows {
                    inputs: &[vec![Input { token, target }]],
                    state: &mut state,
                };
                let logits = model.step(std::slice::from_mut(&mut rows), 1).unwrap();
                found.extend(numbers(logits));
            }
            let steps = expected.floats("greedy_logits");
            let wanted = &steps[row * found.len()..][..found.len()];
            assert_close(&found, wanted, set);
        }
    }
}

/// Token by token from the caches; prompts of two lengths in one batch.
#[test]
fn greedy_pictures_are_those_of_the_reference_id_by_id() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let text_ids = text_ids(&expected);
        let specs: Vec<SampleSpec> = [0, 0, 1]
            .map(|caption: usize| SampleSpec {
                text_ids: text_ids[caption].clone(),
                seed: 1,
            })
            .to_vec();
        for (name, guidance_scale) in [("greedy_ids", 1.0), ("guided_ids", 5.0)] {
            let options = SamplingOptions {
                guidance_scale,
                ..SamplingOptions::greedy()
            };
            let reference = expected.ids(name);
            let drawn = sample_guided(
                &model.net,
                &specs,
                &|ids: &[u32]| model.unconditional(ids),
                &options,
                Order::Raster,
                &mut NoObserver,
            );
            let drawn: Vec<Vec<u32>> = drawn.unwrap().into_iter().map(|it| it.image_ids).collect();
            let all = [&reference[0], &reference[0], &reference[1]].map(Clone::clone);
            assert_eq!(drawn, all, "{set} {name}");
        }
    }
}

#[test]
fn drafts_change_no_image() {
    for set in SETS {
        let model = loaded(set);
        let ids = text_ids(&expected(set))[0].clone();
        let unconditional = model.unconditional(&ids);
        drafts_change_nothing(&model.net, &ids, &unconditional);
    }
}

#[test]
fn pixels_and_ids_of_the_image_tokenizer_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let pixels = model.image.decode_pixels(&expected.ids("image_ids"));
        assert_within(&numbers(pixels), &expected.floats("pixels"), 1e-3, set);
        let (values, shape) = expected.tensor("picture");
        let pixels: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, shape), &Device::flex());
        let found = model.image.encode_pixels(pixels).unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
    }
}

fn load_ours(folder: &Path, format: Option<WeightFormat>) -> Result<Model> {
    let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned()))?;
    Model::load(&files, &Device::flex(), format)
}

fn nll(model: &Model, expected: &Expected) -> f64 {
    let ids = &expected.ids("image_ids")[0];
    let prompt = model.net.read(&text_ids(expected)[0]).unwrap();
    let found = likelihood(&model.net, &prompt, ids).unwrap();
    found.image_log_likelihood
}

#[test]
fn a_folder_of_ours_says_the_same_as_the_published_files() {
    for set in SETS {
        let place = tempfile::tempdir().unwrap();
        let files = ModelFiles::find(&ModelSource::Dir(golden(set))).unwrap();
        assert!(files.is_published_form());
        let options = ImportOptions {
            name: None,
            licence: None,
            image_tokenizer: None,
            precision: crate::checkpoint::weights::Precision::F32,
        };
        crate::families::import(&files, &options, place.path()).unwrap();
        let ours = load_ours(place.path(), Some(WeightFormat::F32)).unwrap();
        let (expected, published) = (expected(set), loaded(set));
        assert_eq!(nll(&ours, &expected), nll(&published, &expected), "{set}");
        let info = crate::families::info(&files).unwrap();
        let stored = match set {
            "t2i_half" | "c2i" => WeightFormat::Bf16,
            _ => WeightFormat::F32,
        };
        assert_eq!(info.precision, stored, "{set}");
        let int8 = place.path().join("int8");
        crate::families::quantise(&files, WeightFormat::Int8, &int8).unwrap();
        let ours = load_ours(&int8, None).unwrap();
        let error = nll(&ours, &expected) / nll(&published, &expected) - 1.0;
        assert!(error.abs() < 0.05 && error != 0.0, "{set}: {error}");
    }
}

/// A transformer may be named by its file, and the text encoder stand elsewhere.
#[test]
fn parts_are_found_by_their_names() {
    let folder = copied(&golden("t2i"));
    let file = folder.path().join("t2i_tiny_256.pt");
    assert!(Form.is_published(&file, None) && Form.is_published(folder.path(), None));
    open(&file).unwrap();
    std::fs::copy(&file, folder.path().join("t2i_other_512.pt")).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("2 transformers"), "{error}");
    open(&file).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let t5 = elsewhere.path().join("flan");
    std::fs::rename(folder.path().join("flan-t5"), &t5).unwrap();
    let error = refusal(&file, open);
    assert!(error.contains("text encoder"), "{error}");
    let published = PublishedFiles {
        image_tokenizer: Some(&t5),
        ..files(&file)
    };
    Form.load(published, &Device::flex(), WeightFormat::F32)
        .unwrap();
    // Without a config the name has to say what the tensors don't.
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = refusal(&file, open);
    assert!(error.contains("no published size"), "{error}");
    std::fs::remove_file(folder.path().join("vq_ds16_t2i.pt")).unwrap();
    let error = refusal(&file, open);
    assert!(error.contains("image tokenizer"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let changed = |set: &str, file: &str, from: &str, to: &str| {
        refusal_of_changed(&golden(set), (file, from, to), open)
    };
    for (set, file, from, to, expected) in [
        (
            "c2i",
            CONFIG,
            "\"block_size\": 25",
            "\"block_size\": 24",
            "block_size is 24",
        ),
        (
            "c2i",
            CONFIG,
            "\"n_head\": 2",
            "\"n_head\": 5",
            "not a multiple of 4 for each of 5 heads",
        ),
        (
            "c2i",
            CONFIG,
            "\"n_kv_head\": null",
            "\"n_kv_head\": 1",
            "n_kv_head is not n_head",
        ),
        (
            "c2i",
            CONFIG,
            "\"model_type\": \"c2i\"",
            "\"model_type\": \"t2i\"",
            "the tensors are those of c2i",
        ),
        (
            "hub",
            CONFIG,
            "\"cls_token_num\": 1",
            "\"cls_token_num\": 2",
            "cls_token_num is 2",
        ),
        (
            "t2i",
            "flan-t5/config.json",
            "\"gated-gelu\"",
            "\"relu\"",
            "gated-gelu",
        ),
        (
            "t2i",
            "flan-t5/config.json",
            "\"d_model\": 24",
            "\"d_model\": 28",
            "width 24, its text encoder makes 28",
        ),
        (
            "t2i",
            "flan-t5/config.json",
            "\"d_ff\": 40",
            "\"d_ff\": 400000",
            "describe",
        ),
        (
            "t2i",
            "flan-t5/config.json",
            "\"num_layers\": 2",
            "\"num_layers\": 1",
            "nowhere: encoder.block.1",
        ),
        (
            "t2i",
            "flan-t5/tokenizer.json",
            "\"</s>\"",
            "\"<end>\"",
            "lacks the token </s>",
        ),
    ] {
        let error = changed(set, file, from, to);
        assert!(error.contains(expected), "{file}: {error}");
    }
    let folder = copied(&golden("t2i"));
    std::fs::remove_file(folder.path().join("flan-t5/tokenizer.json")).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("tokenizer.json"), "{error}");
    std::fs::remove_file(folder.path().join("flan-t5/model.safetensors")).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("weights"), "{error}");
}

#[test]
fn training_has_a_loss_and_leaves_the_text_encoder_alone() {
    for set in ["t2i", "c2i"] {
        let model = loaded(set);
        let expected = expected(set);
        let net = LlamaGenFamily::for_training(model.net);
        let (captions, images) = (text_ids(&expected), expected.ids("image_ids"));
        let loss = LlamaGenFamily::loss(&net, &captions, &images, 1.0).unwrap();
        let nll = expected.floats("image_nll");
        let mean = nll.iter().sum::<f32>() / (images.len() * images[0].len()) as f32;
        let found: f32 = loss.loss.into_scalar();
        assert!((found - mean).abs() < 1e-4 * mean, "{set}: {found} {mean}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&[
            ("t2i", "t2i_tiny_256.pt"),
            ("t2i_half", "vq_ds16_t2i.pt"),
            ("t2i", "flan-t5/model.safetensors"),
            ("t2i_half", "flan-t5/config.json"),
            ("t2i_half", "flan-t5/tokenizer.json"),
            ("c2i", "c2i_tiny_256.pt"),
            ("c2i", "config.json"),
            ("hub", "model.safetensors"),
            ("hub", "vq-ds16/model.safetensors"),
            ("hub", "config.json"),
        ][..]),
        damage in damage(),
    ) {
        open_damaged(&golden(set), name, &damage, open);
    }

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&["config.json", "llamagen.safetensors", "tokenizer.json"][..]),
        damage in damage(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        loaded("t2i_half").save(folder.path(), SaveAs::Held).unwrap();
        open_damaged(folder.path(), name, &damage, |folder| load_ours(folder, None));
    }
}
