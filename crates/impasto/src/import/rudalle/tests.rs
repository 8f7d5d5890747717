//! ruDALL-E against the reference's own code (`reference/write_rudalle_goldens.py`), and damage.

#![allow(clippy::unwrap_used)]
use super::*;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::canvas::{Canvas, Conditioning};
use crate::checkpoint::ModelSource;
use crate::checkpoint::config_file::CONFIG;
use crate::checkpoint::weights::Precision;
use crate::engine::{
    AutoregressiveModel, FillOptions, FillRequest, InfillRow, SampleSpec, fill, likelihood,
    sample_guided,
};
use crate::families::{Family, ImportOptions, ModelFiles, SaveAs};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, assert_within, copied, numbers, refusal, refusal_of_changed,
};
use crate::models::dalle::Order;
use crate::models::rudalle::RuDalleVersion;
use crate::observer::NoObserver;
use crate::text::clip::LongCaption;

const SETS: [&str; 3] = ["v3", "v2", "plain"];

type Model = FamilyModel<RuDalleFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("rudalle", set)
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

fn open(path: &Path) -> Result<Published<RuDalleFamily>> {
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
fn sizes_and_versions_are_those_of_the_files() {
    for (set, version, sandwich_norm) in [
        ("v3", RuDalleVersion::V3, true),
        ("v2", RuDalleVersion::V2, true),
        ("plain", RuDalleVersion::V3, false),
    ] {
        let path = golden(set);
        assert!(Form.is_published(&path, None));
        let (config, _) = Form.describe(files(&path)).unwrap();
        assert_eq!(
            (config.sizes.version, config.sizes.sandwich_norm),
            (version, sandwich_norm)
        );
        assert_eq!(config.sampling.top_p, Some(0.995));
    }
    for other in [
        goldens::golden("dalle_pytorch", "rotary"),
        goldens::golden("llamagen", "c2i"),
        goldens::golden("image_tokenizer", "taming_plain"),
    ] {
        assert!(!Form.is_published(&other, None), "{}", other.display());
    }
}

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        for (caption, ids) in captions.iter().zip(text_ids(&expected)) {
            assert_eq!(
                model
                    .encode_caption(caption, LongCaption::Truncate)
                    .unwrap(),
                ids,
                "{set}"
            );
        }
        let nothing: Vec<u32> = expected.metadata("nothing");
        assert_eq!(model.unconditional(&[]), nothing, "{set}");
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
        assert!(error.to_string().contains("no character"), "{error}");
        model
            .encode_caption("红色的乌龟", LongCaption::Truncate)
            .unwrap();
    }
}

#[test]
fn logits_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).net;
        let (config, expected) = (model.config().clone(), expected(set));
        let (captions, images) = (text_ids(&expected), expected.ids("image_ids"));
        let (prefix, _) = model.prefill(&captions).unwrap();
        let words = model.text_logits(prefix.narrow(1, 0, config.predicted_text()));
        assert_close(&numbers(words), &expected.floats("text_logits"), set);
        let codes = model.logits(&captions, &images).unwrap();
        assert_close(&numbers(codes), &expected.floats("logits"), set);

        let (text_nats, image_nats) = (expected.floats("text_nats"), expected.floats("image_nats"));
        for (row, (caption, image)) in captions.iter().zip(&images).enumerate() {
            let nll = model.nll(std::slice::from_ref(caption), std::slice::from_ref(image));
            let (text, image) = nll.unwrap();
            for (found, reference) in [(text, text_nats[row]), (image, image_nats[row])] {
                let found = numbers(found).iter().sum::<f32>();
                assert!(
                    (found - reference).abs() <= 1e-4 * reference,
                    "{set}: {found} {reference}"
                );
            }
        }
        let loss = RuDalleFamily::loss(&model, &captions, &images, 7.0).unwrap();
        let reference = expected.floats("loss")[0];
        let found = loss.loss.into_scalar::<f32>();
        assert!(
            (found - reference).abs() <= 1e-4 * reference,
            "{set}: {found} {reference}"
        );
    }
}

/// One id after the other, in steps of several, and whole: the same logits.
#[test]
fn logits_through_the_cache_are_those_of_whole_sequences() {
    for set in SETS {
        let model = loaded(set).net;
        let expected = expected(set);
        let (captions, images) = (text_ids(&expected), expected.ids("image_ids"));
        let positions = model.sizes().positions;
        let whole = model.logits(&captions, &images).unwrap();
        let whole: Tensor<3> = whole.reshape([captions.len() as i64, positions as i64, -1]);
        let reference = numbers(whole.narrow(1, 1, positions - 1));
        for length in [1, 4, positions] {
            let (_, mut tokens) = model.prefill(&captions).unwrap();
            let mut found = Vec::new();
            let mut at = 0;
            while at < positions - 1 {
                let n = length.min(positions - 1 - at);
                let next: Vec<Vec<u32>> =
                    images.iter().map(|row| row[at..at + n].to_vec()).collect();
                let states = model.step(&next, &mut tokens).unwrap();
                found.push(model.image_logits(states));
                at += n;
            }
            assert_close(&numbers(Tensor::cat(found, 1)), &reference, set);
        }
    }
}

/// Token by token from the caches; captions of two lengths in one batch.
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
        for (name, guidance_scale) in [("greedy_ids", 1.0), ("guided_ids", 3.0)] {
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

/// `ImagePrompts`: borders of a picture that stay, what is drawn inside knows those before it.
#[test]
fn pictures_inside_borders_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).net;
        let expected = expected(set);
        let grid = model.config().grid;
        let picture = &expected.ids("picture_ids")[0];
        let borders: Vec<BTreeMap<String, usize>> = expected.metadata("borders");
        let prompt = Arc::new(text_ids(&expected)[0].clone());
        for (border, reference) in borders.iter().zip(expected.ids("prompted_ids")) {
            let of = |side: &str| border.get(side).copied().unwrap_or(0);
            let is_inside = |&place: &u32| {
                let (row, column) = (place as usize / grid, place as usize % grid);
                row >= of("up")
                    && row < grid - of("down")
                    && column >= of("left")
                    && column < grid - of("right")
            };
            let inside = (0..(grid * grid) as u32).filter(is_inside);
            let canvas = Canvas::of(picture).masked(inside);
            let request = FillRequest {
                rows: vec![InfillRow {
                    prompt: prompt.clone(),
                    unconditional: Arc::new(vec![2, 3]),
                    canvas: Arc::new(canvas),
                    seed: 1,
                }],
                options: FillOptions {
                    sampling: SamplingOptions::greedy(),
                    order: Order::Raster,
                    conditioning: Conditioning::TeacherForced,
                    tries: 1,
                },
            };
            let drawn = fill(&model, &request, &mut NoObserver).unwrap();
            assert_eq!(drawn[0].image_ids, reference, "{set} {border:?}");
        }
    }
}

#[test]
fn pixels_and_ids_of_the_image_tokenizer_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let pixels = model.image.decode_pixels(&expected.ids("image_ids"));
        // The reference cuts them to the range.
        let pixels = pixels.clamp(-1.0, 1.0);
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
    likelihood(&model.net, &prompt, ids)
        .unwrap()
        .image_log_likelihood
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
            precision: Precision::F32,
        };
        crate::families::import(&files, &options, place.path()).unwrap();
        let ours = load_ours(place.path(), Some(WeightFormat::F32)).unwrap();
        let (expected, published) = (expected(set), loaded(set));
        assert_eq!(nll(&ours, &expected), nll(&published, &expected), "{set}");
        assert_eq!(ours.config.sizes, published.config.sizes);
        let again = place.path().join("again");
        ours.save(&again, SaveAs::Held).unwrap();
        let ours = load_ours(&again, None).unwrap();
        assert_eq!(nll(&ours, &expected), nll(&published, &expected), "{set}");
        let int8 = place.path().join("int8");
        crate::families::quantise(&files, WeightFormat::Int8, &int8).unwrap();
        let ours = load_ours(&int8, None).unwrap();
        let error = nll(&ours, &expected) / nll(&published, &expected) - 1.0;
        assert!(error.abs() < 0.05 && error != 0.0, "{set}: {error}");
    }
}

#[test]
fn sizes_in_our_config_are_held_against_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    loaded("plain").save(folder.path(), SaveAs::Held).unwrap();
    let path = folder.path().join(CONFIG);
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, part) in [
        ("n_layers", 1u64 << 40, "n_layers is 1099511627776"),
        ("n_layers", 1024, "the weight files have"),
        ("text_length", 1 << 14, "the weight files have"),
        ("grid", 1 << 9, "grid is 512"),
        ("n_heads", 4, "not a multiple of n_heads 4"),
        ("text_vocab_size", 62, "text_embedding.weight"),
    ] {
        let mut changed = config.clone();
        changed["rudalle"][field] = value.into();
        std::fs::write(&path, changed.to_string()).unwrap();
        let error = refusal(folder.path(), |folder| load_ours(folder, None));
        assert!(error.contains(part), "{field}: {error}");
    }
}

/// A transformer may be named by its file, and the other parts stand elsewhere, as the package's repositories have them.
#[test]
fn parts_are_found_by_their_names() {
    let folder = copied(&golden("v3"));
    let file = folder.path().join("pytorch_model_v3.bin");
    assert!(Form.is_published(&file, None));
    open(&file).unwrap();
    std::fs::copy(&file, folder.path().join("pytorch_model_v2.bin")).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("2 transformers"), "{error}");
    std::fs::remove_file(folder.path().join("pytorch_model_v2.bin")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for (name, part) in [
        (VQGAN, "the image tokenizer"),
        ("bpe.model", "the text tokenizer"),
    ] {
        std::fs::rename(folder.path().join(name), elsewhere.path().join(name)).unwrap();
        let published = PublishedFiles {
            image_tokenizer: Some(elsewhere.path()),
            ..files(folder.path())
        };
        Form.load(published, &Device::flex(), WeightFormat::F32)
            .unwrap();
        let error = refusal(&file, open);
        assert!(error.contains(part), "{error}");
        let back = folder.path().join(name);
        std::fs::copy(elsewhere.path().join(name), back).unwrap();
    }
    // Nothing says which version it is: the masks are not there, nor is the file's name.
    let other = folder.path().join("pytorch_model.bin");
    std::fs::rename(&file, &other).unwrap();
    let error = refusal(folder.path(), open);
    assert!(
        error.contains("unknown version") && error.contains("hf_version"),
        "{error}"
    );
    for (name, version) in [
        ("ai-forever/rudalle-Emojich", RuDalleVersion::V2),
        ("shonenkov-AI/Kandinsky", RuDalleVersion::V3),
    ] {
        let published = PublishedFiles {
            name,
            ..files(folder.path())
        };
        let (config, _) = Form.describe(published).unwrap();
        assert_eq!(config.sizes.version, version);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    for (set, from, to, expected) in [
        (
            "v3",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
            "not a multiple of n_heads 5",
        ),
        (
            "v3",
            "\"num_attention_heads\": 4",
            "\"hidden_size\": 32",
            "is 32 wide, which no published model is",
        ),
        (
            "v3",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 4, \"num_layers\": 5",
            "config.json says num_layers is 5, the tensors say 4",
        ),
        ("plain", "\"v3\"", "\"v4\"", "the version v4"),
        ("v3", "{", "[", "table of models"),
        (
            "v2",
            "\"model_params\"",
            "\"hf_version\": \"v3\", \"model_params\"",
            "transformer.conv_mask is that of v2",
        ),
    ] {
        let error = refusal_of_changed(&golden(set), (CONFIG, from, to), open);
        assert!(error.contains(expected), "{error}");
    }
    // The text tokenizer of another model: more ids, other marks.
    let folder = copied(&golden("plain"));
    let path = folder.path().join("bpe.model");
    let own = std::fs::read_to_string(&path).unwrap();
    std::fs::copy(golden("v3").join("bpe.model"), &path).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("has 100 ids, the model 61"), "{error}");
    let other = own.trim_end().strip_suffix("1 0 2 3").unwrap();
    std::fs::write(&path, format!("{other}1 0 3 2\n")).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("has <BOS> at id 3, expected 2"), "{error}");
    // The image tokenizer of another one.
    let folder = copied(&golden("v3"));
    std::fs::copy(golden("v2").join(VQGAN), folder.path().join(VQGAN)).unwrap();
    let error = refusal(folder.path(), open);
    assert!(error.contains("45") && error.contains("60"), "{error}");
    // Half a file.
    let path = folder.path().join("pytorch_model_v3.bin");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = refusal(&path, open);
    assert!(error.contains("not a whole PyTorch file"), "{error}");
}

/// A tensor that is missing, one too many and one of another shape, under the file's own names. (The older container has
/// no checksums.)
#[test]
fn tensors_that_do_not_fit_are_named() {
    let renamed = |names: &[(&str, &str)]| {
        let folder = copied(&golden("plain"));
        let path = folder.path().join("tuned.pt");
        let mut bytes = std::fs::read(&path).unwrap();
        let place = |from: &&(&str, &str)| {
            let places = bytes.windows(from.0.len());
            places
                .into_iter()
                .rposition(|place| place == from.0.as_bytes())
        };
        let places: Vec<usize> = names.iter().map(|name| place(&name).unwrap()).collect();
        for (at, (from, to)) in places.into_iter().zip(names) {
            assert_eq!(from.len(), to.len());
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
        std::fs::write(&path, bytes).unwrap();
        refusal(folder.path(), open)
    };
    let error = renamed(&[("to_logits.0.bias", "to_logits.0.bios")]);
    assert!(error.contains("missing: to_logits.0.bias"), "{error}");
    assert!(error.contains("perhaps to_logits.0.bios is"), "{error}");
    let (up, down) = (
        "layers.1.mlp.dense_h_to_4h.weight",
        "layers.1.mlp.dense_4h_to_h.weight",
    );
    let error = renamed(&[(up, down), (down, up)]);
    assert!(
        error.contains("transformer.layers.1.mlp.dense_") && error.contains("has shape ["),
        "{error}"
    );
    let error = renamed(&[("image_embeddings.weight", "image_embedding_.weight")]);
    assert!(
        error.contains("lacks the tensor image_embeddings.weight"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&[
            ("v3", "pytorch_model_v3.bin"),
            ("plain", "tuned.pt"),
            ("v2", VQGAN),
            ("plain", "bpe.model"),
            ("plain", CONFIG),
        ][..]),
        damage in damage(),
    ) {
        open_damaged(&golden(set), name, &damage, open);
    }

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&["config.json", "rudalle.safetensors", "bpe.model"][..]),
        damage in damage(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        loaded("plain").save(folder.path(), SaveAs::Held).unwrap();
        open_damaged(folder.path(), name, &damage, |folder| load_ours(folder, None));
    }
}
