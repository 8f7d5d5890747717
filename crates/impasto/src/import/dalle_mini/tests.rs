#![allow(clippy::unwrap_used)]
use super::*;

use burn::tensor::Tensor;
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::checkpoint::ModelSource;
use crate::checkpoint::weights::Precision;
use crate::engine::{SampleSpec, likelihood, sample};
use crate::families::ModelFiles;
use crate::image::Image;
use crate::import::damage::damage;
use crate::import::goldens::{self, Expected, assert_close, copied, numbers};
use crate::models::dalle::Order;
use crate::models::dalle_bart::CaptionRows;
use crate::observer::NoObserver;
use crate::text::clip::LongCaption;
use crate::text::normalizer::TextNormalizer;

fn golden(set: &str) -> PathBuf {
    goldens::golden("dalle_mini", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

const SETS: [&str; 3] = ["flax_stacked", "flax_unrolled", "min_dalle"];

/// The VQGAN of the second set is the first one's.
fn image_tokenizer(set: &str) -> Option<PathBuf> {
    (set == "flax_unrolled").then(|| golden("flax_stacked/vqgan"))
}

fn import(
    folder: &Path,
    image_tokenizer: Option<&Path>,
    name: &str,
    output: &Path,
) -> Result<Vec<NetworkReport>> {
    let files = PublishedFiles {
        path: folder,
        name,
        access: Default::default(),
        image_tokenizer,
    };
    let options = ImportOptions {
        name: None,
        licence: None,
        image_tokenizer: None,
        precision: Precision::F32,
    };
    Form.import(files, &options, output)
}

fn imported(set: &str, output: &Path) -> Vec<NetworkReport> {
    let folder = golden(set);
    let config = std::fs::read(folder.join(CONFIG)).ok();
    assert!(is_dalle_mini(&folder, config.as_deref()));
    import(&folder, image_tokenizer(set).as_deref(), set, output).unwrap()
}

fn load(folder: &Path) -> Result<FamilyModel<DalleMini>> {
    let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned()))?;
    FamilyModel::load(&files, &Device::flex(), None)
}

fn loaded(set: &str) -> FamilyModel<DalleMini> {
    let output = tempfile::tempdir().unwrap();
    imported(set, output.path());
    load(output.path()).unwrap()
}

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        for (caption, ids) in captions.iter().zip(text_ids) {
            assert_eq!(
                model
                    .encode_caption(caption, LongCaption::Truncate)
                    .unwrap(),
                ids,
                "{set}"
            );
        }
        let long = model.encode_caption(&"turtle ".repeat(40), LongCaption::Refuse);
        assert!(
            long.unwrap_err()
                .to_string()
                .contains("tokens but the model reads")
        );
    }
}

/// Logits to 1e-3 of their spread and likelihoods to 1e-4, as the family promises.
#[test]
fn logits_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let config = model.net.config().clone();
        let positions = config.image_length();
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let image_ids = expected.ids("image_ids");
        let captions: Vec<_> = text_ids
            .iter()
            .map(|ids| model.net.encode(ids).unwrap())
            .collect();
        let caption_rows: Vec<CaptionRows<'_>> = captions
            .iter()
            .map(|caption| CaptionRows { caption, rows: 1 })
            .collect();
        let inputs: Vec<Vec<u32>> = image_ids
            .iter()
            .map(|ids| [&[config.start_id][..], &ids[..positions - 1]].concat())
            .collect();
        let states = model.net.decode(&inputs, 0, &caption_rows, None).unwrap();
        let logits = numbers(model.net.image_logits(states));
        assert_close(&logits, &expected.floats("logits"), set);
        let nats = model.net.image_nll(&image_ids, &caption_rows).unwrap();
        let nats = numbers(nats);
        for (row, reference) in nats
            .chunks(positions)
            .zip(expected.floats("nats").chunks(positions))
        {
            let (sum, reference): (f32, f32) = (row.iter().sum(), reference.iter().sum());
            assert!(
                (sum - reference).abs() <= 1e-4 * reference,
                "{set}: {sum} {reference}"
            );
        }
    }
}

#[test]
fn greedy_pictures_are_those_of_the_reference_id_by_id() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let null = model.unconditional(&[]);
        for (name, guidance_scale) in [("greedy_ids", 1.0), ("guided_ids", 3.0)] {
            let options = SamplingOptions {
                guidance_scale,
                ..SamplingOptions::greedy()
            };
            let rows = expected.ids(name);
            for (ids, reference) in text_ids.iter().zip(rows) {
                let spec = SampleSpec {
                    text_ids: ids.clone(),
                    seed: 1,
                };
                let (specs, order) = ([spec], Order::Raster);
                let drawn =
                    sample(&model.net, &specs, &null, &options, order, &mut NoObserver).unwrap();
                assert_eq!(drawn[0].image_ids, reference, "{set} {name}");
            }
        }
    }
}

#[test]
fn ids_and_pixels_of_the_vqgan_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let ids = expected.ids("image_ids");
        // The reference's pixels are in 0..1.
        let unit = |pixels: Tensor<4>| -> Vec<f32> {
            let signed = numbers(pixels).into_iter();
            signed.map(|x| (x + 1.0) / 2.0).collect()
        };
        let decoded = unit(model.image.decode_pixels(&ids));
        assert_close(&decoded, &expected.floats("decoded"), set);
        let size = model.image.config().picture_size();
        if !expected.has("picture") {
            let picture = Image::from_chw(&vec![0.0; 3 * size * size], size, size).unwrap();
            let error = model.image.encode(&[picture], &model.device).unwrap_err();
            assert!(
                error.to_string().contains("came without an encoder"),
                "{error}"
            );
            continue;
        }
        let values = expected.floats("picture");
        let chw: Vec<f32> = values.iter().map(|x| x / 127.5 - 1.0).collect();
        let picture = Image::from_chw(&chw, size, size).unwrap();
        let found = model
            .image
            .encode(std::slice::from_ref(&picture), &model.device)
            .unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
        let decoded = unit(model.image.decode_pixels(&found));
        assert_close(&decoded, &expected.floats("picture_decoded"), set);
    }
}

/// The way that the commands go, from a caption and a picture to figures.
#[test]
fn the_likelihood_of_a_picture_is_that_of_the_reference() {
    let output = tempfile::tempdir().unwrap();
    imported("flax_stacked", output.path());
    let expected = expected("flax_stacked");
    let model = load(output.path()).unwrap();
    let size = model.image.config().picture_size();
    let values = expected.floats("picture");
    let chw: Vec<f32> = values.iter().map(|x| x / 127.5 - 1.0).collect();
    let picture = Image::from_chw(&chw, size, size).unwrap();
    let captions: Vec<String> = expected.metadata("captions");
    let text_ids = model
        .encode_caption(&captions[0], LongCaption::Truncate)
        .unwrap();
    let prompt = model.net.encode(&text_ids).unwrap();
    let image_ids = model.image.encode(&[picture], &model.device).unwrap();
    let found = likelihood(&model.net, &prompt, &image_ids[0]).unwrap();
    let reference = -f64::from(expected.floats("picture_nats").iter().sum::<f32>());
    let apart = (found.image_log_likelihood - reference).abs();
    assert!(apart <= 1e-4 * reference.abs(), "{found:?} {reference}");
}

#[test]
fn what_the_file_has_in_sixteen_bits_is_written_in_sixteen_bits() {
    for (set, bits) in [
        ("flax_stacked", 16),
        ("flax_unrolled", 32),
        ("min_dalle", 16),
    ] {
        let output = tempfile::tempdir().unwrap();
        let report = imported(set, output.path());
        assert!(report.iter().all(|network| network.tensors.is_complete()));
        assert!(report[0].tensors.applied.len() > 20);
        let bytes = std::fs::read(output.path().join(DalleMini::WEIGHTS)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.tensors() {
            assert_eq!(view.dtype().bitsize(), bits, "{set} {name}");
        }
    }
}

fn refused(folder: &Path) -> String {
    let output = tempfile::tempdir().unwrap();
    let target = output.path().join("model");
    let error = import(folder, None, "x", &target).unwrap_err();
    assert!(!target.join("config.json").exists());
    error.to_string()
}

#[test]
fn what_does_not_fit_is_reported_by_the_names_of_the_file() {
    let change = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        assert!(config.contains(from), "{from}");
        std::fs::write(path, config.replace(from, to)).unwrap();
    };
    for (from, to, part) in [
        ("\"encoder_layers\": 2", "\"encoder_layers\": 3", "encoder"),
        ("\"d_model\": 36", "\"d_model\": 30", "has shape"),
        ("\"d_model\": 36", "\"d_model\": 600000", "describes"),
        ("\"d_model\": 36", "\"d_model\": 35", "not a multiple"),
        (
            "\"decoder_layers\": 3",
            "\"decoder_layers\": 2",
            "has shape",
        ),
        ("\"gelu\"", "\"relu\"", "activation_function is \"relu\""),
        (
            "\"image_length\": 16",
            "\"image_length\": 25",
            "image_length is 25",
        ),
        (
            "\"decoder_start_token_id\": 40",
            "\"decoder_start_token_id\": 400",
            "start_id",
        ),
        (
            "\"encoder_vocab_size\": 300",
            "\"encoder_vocab_size\": 3",
            "knows ids below 3",
        ),
    ] {
        let folder = copied(&golden("flax_stacked"));
        change(folder.path(), from, to);
        let error = refused(folder.path());
        assert!(error.contains(part), "{from} → {to}: {error}");
    }
    for missing in ["vocab.json", "vqgan", "flax_model.msgpack", "config.json"] {
        let folder = copied(&golden("flax_stacked"));
        let path = folder.path().join(missing);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        refused(folder.path());
    }
}

const DAMAGED: [(&str, &str); 11] = [
    ("flax_stacked", "flax_model.msgpack"),
    ("flax_stacked", "config.json"),
    ("flax_stacked", "vqgan/flax_model.msgpack"),
    ("flax_stacked", "vqgan/config.json"),
    ("flax_stacked", "vocab.json"),
    ("flax_stacked", "merges.txt"),
    ("min_dalle", "encoder.pt"),
    ("min_dalle", "decoder.pt"),
    ("min_dalle", "detoker.pt"),
    ("min_dalle", "vocab.json"),
    ("min_dalle", "merges.txt"),
];

const OURS: [&str; 4] = [
    "config.json",
    "dalle_bart.safetensors",
    "image_tokenizer.safetensors",
    "tokenizer.json",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&DAMAGED[..]),
        damage in damage(),
    ) {
        let folder = copied(&golden(set));
        let path = folder.path().join(name);
        let bytes = damage.of(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        let output = tempfile::tempdir().unwrap();
        let config = std::fs::read(folder.path().join(CONFIG)).ok();
        let _ = is_dalle_mini(folder.path(), config.as_deref());
        if let Err(error) = import(folder.path(), None, "x", output.path()) {
            prop_assert!(!error.to_string().contains('\n'), "{}: {}", name, error);
        }
    }

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&OURS[..]),
        damage in damage(),
    ) {
        let output = tempfile::tempdir().unwrap();
        import(&golden("flax_stacked"), None, "x", output.path()).unwrap();
        let path = output.path().join(name);
        let bytes = damage.of(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = load(output.path()) {
            prop_assert!(!error.to_string().contains('\n'), "{}: {}", name, error);
        }
    }

    #[test]
    fn any_text_is_normalised(text in any::<String>()) {
        let normalised = TextNormalizer::new(None).normalize(&text);
        prop_assert!(normalised.is_ascii() && normalised.starts_with(' '), "{:?}", normalised);
    }
}
