#![allow(clippy::unwrap_used)]
use super::*;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::image::Image;
use crate::import::damage::damage;
use crate::import::goldens::{self, Expected, assert_within, copied, numbers};

fn golden(set: &str) -> PathBuf {
    goldens::golden("image_tokenizer", set)
}

const SETS: [&str; 9] = [
    "taming_plain",
    "taming_gumbel",
    "taming_one_level",
    "openai",
    "openai_legacy",
    "openai_wide",
    "discrete_vae",
    "discrete_vae_plain",
    "discrete_vae_normalised",
];

/// Pictures on a square grid of any size.
fn decoded(model: &ImageTokenizer, ids: &[Vec<u32>]) -> Vec<f32> {
    let grid = ids[0].len().isqrt();
    let pixels = match model {
        ImageTokenizer::Dvae(model) => model.decode_grid(ids, [grid, grid]),
        model => model.decode_pixels(ids),
    };
    numbers(pixels)
}

/// As the families promise, of a range of 2.
const FAR: f32 = 1e-3;

#[test]
fn ids_and_pictures_are_those_of_the_reference() {
    let device = Device::flex();
    for set in SETS {
        let published = load(&golden(set), &device).unwrap();
        assert_eq!(published.name, set);
        assert!(published.report.is_complete());
        let expected = Expected::of(&golden(set));
        let (values, shape) = expected.tensor("picture");
        let pixels = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let pixels = Tensor::from_data(TensorData::new::<f32, _>(pixels, shape), &device);
        let found = published.model.encode_pixels(pixels).unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
        let back = decoded(&published.model, &found);
        assert_within(&back, &expected.floats("picture_decoded"), FAR, set);
        let ids = expected.ids("ids");
        let pictures = decoded(&published.model, &ids);
        assert_within(&pictures, &expected.floats("decoded"), FAR, set);
    }
}

#[test]
fn evidence_speaks_most_for_the_ids_that_are_read() {
    let device = Device::flex();
    for set in ["taming_plain", "taming_gumbel", "openai", "discrete_vae"] {
        let model = load(&golden(set), &device).unwrap().model;
        let (values, shape) = Expected::of(&golden(set)).tensor("picture");
        let values: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let picture = Image::from_chw(&values, shape[3], shape[2]).unwrap();
        let picture = [picture.fit_square(model.config().picture_size()).unwrap()];
        let ids = model.encode(&picture, &device).unwrap();
        let evidence = model.evidence(&picture, &device).unwrap();
        let codes = model.config().codebook_size();
        for (id, evidence) in ids[0].iter().zip(evidence[0].chunks(codes)) {
            let largest = evidence.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(evidence[*id as usize], largest, "{set}");
            // Nats: neither nothing nor more than a sum of them holds.
            let smallest = evidence.iter().copied().fold(f32::MAX, f32::min);
            assert!((0.01..1e4).contains(&(largest - smallest)), "{set}");
        }
    }
}

#[test]
fn a_file_is_as_good_as_its_folder_and_training_leftovers_are_not_used() {
    let device = Device::flex();
    for (set, file) in [
        ("taming_plain", "last.ckpt"),
        ("openai", "encoder.pkl"),
        ("discrete_vae", "vae.pt"),
    ] {
        let path = golden(set).join(file);
        assert!(is_published(&path), "{set}");
        let published = load(&path, &device).unwrap();
        assert_eq!(published.name, file);
    }
    let report = load(&golden("taming_plain"), &device).unwrap().report;
    assert_eq!(report.ignored.len(), 2, "{:?}", report.ignored);
    // DALLE-pytorch's by another name.
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("mine.pt");
    std::fs::copy(golden("discrete_vae").join("vae.pt"), &renamed).unwrap();
    assert!(is_published(&renamed) && !is_published(folder.path()));
}

#[test]
fn what_does_not_fit_is_reported_in_one_line() {
    let refused = |folder: &Path| {
        let error = load(folder, &Device::flex()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    for (from, to, part) in [
        ("n_embed: 50", "n_embed: 51", "has shape"),
        ("ch: 32", "ch: 33", "not a multiple of 32"),
        ("ch: 32", "ch: 16000", "describes"),
        ("double_z: false", "double_z: true", "double_z"),
        ("VQModel", "VQSomething", "expected VQModel or GumbelVQ"),
        (
            "taming.models.vqgan.VQModel",
            "x.GumbelVQ",
            "missing: quantize.embed.weight",
        ),
        ("num_res_blocks: 1", "num_res_blocks: 2", "missing"),
        ("n_embed: 50", "n_embed: many", "not a VQGAN config"),
        ("n_embed: 50", "n_embed: [", "not a VQGAN config"),
    ] {
        let folder = copied(&golden("taming_plain"));
        let path = folder.path().join("model.yaml");
        let config = std::fs::read_to_string(&path).unwrap();
        assert!(config.contains(from), "{from}");
        std::fs::write(path, config.replace(from, to)).unwrap();
        let error = refused(folder.path());
        assert!(error.contains(part), "{from} → {to}: {error}");
    }
    // A name that is spelt otherwise is guessed. (PyTorch's older files have no checksums.)
    let folder = copied(&golden("openai_legacy"));
    let path = folder.path().join("encoder.pkl");
    let mut bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() - 6 {
        if bytes[at..].starts_with(b"conv_4") {
            bytes[at + 5] = b'9';
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let error = refused(folder.path());
    let block = "enc.blocks.group_1.block_1.res_path";
    let guess = format!("perhaps {block}.conv_9.b is {block}.conv_4.b");
    assert!(error.contains(&guess), "{error}");
    // Code is not run and not even known.
    let folder = copied(&golden("openai"));
    let path = folder.path().join("encoder.pkl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::copy(golden("taming_plain").join("last.ckpt"), &path).unwrap();
    assert!(refused(folder.path()).contains("imports pytorch_lightning"));
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(folder.path());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        set in prop::sample::select(&["taming_one_level", "openai", "openai_legacy", "discrete_vae"][..]),
        which in 0usize..2,
        damage in damage(),
    ) {
        let folder = copied(&golden(set));
        let names = ["model.yaml", "last.ckpt", "encoder.pkl", "decoder.pkl", "vae.pt"];
        let paths = names.iter().map(|name| folder.path().join(name));
        let paths: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
        let path = &paths[which % paths.len()];
        let bytes = damage.of(std::fs::read(path).unwrap());
        std::fs::write(path, bytes).unwrap();
        if let Err(error) = load(folder.path(), &Device::flex()) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
        // What is guessed of it is none of a panic's business either.
        let _ = is_published(path);
    }
}
