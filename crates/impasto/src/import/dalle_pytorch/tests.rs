#![allow(clippy::unwrap_used)]
use super::*;

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::checkpoint::weights::Precision;
use crate::generate::dalle_pytorch::draw;
use crate::import::damage::damage;
use crate::import::goldens::{self, Expected, assert_close, copied, numbers};

fn golden(set: &str) -> PathBuf {
    goldens::golden("dalle_pytorch", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

const SETS: [&str; 6] = [
    "rotary",
    "learned",
    "reversible",
    "axial",
    "openai",
    "vqgan",
];

/// Sets with a picture and with what is drawn.
const DRAWN: [&str; 4] = ["rotary", "learned", "reversible", "axial"];

fn loaded(set: &str) -> DallePytorchModel {
    let published = load(&golden(set), &Device::flex()).unwrap();
    assert!(published.report.is_complete() && published.image_report.is_complete());
    published.model
}

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let limit = model.dalle.config().text_length;
        for (caption, ids) in captions.iter().zip(text_ids) {
            let found = model.text.encode_caption(caption, limit, true).unwrap();
            assert_eq!(found, ids, "{set}");
        }
        let long = model.text.encode_caption(&"cat ".repeat(90), limit, false);
        let error = long.unwrap_err().to_string();
        assert!(error.contains("tokens but the model reads"), "{error}");
    }
}

#[test]
fn logits_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).dalle;
        let expected = expected(set);
        let config = model.config().clone();
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let image_ids = expected.ids("image_ids");
        let (text, image) = (config.text_length, config.image_length());
        let (prefix, mut known) = model.read(&text_ids).unwrap();
        let words = model.text_logits(prefix.clone().narrow(1, 0, text));
        assert_close(&numbers(words), &expected.floats("text_logits"), set);
        let told: Vec<Vec<u32>> = image_ids
            .iter()
            .map(|ids| ids[..image - 1].to_vec())
            .collect();
        let behind = model.go_on(&told, &mut known).unwrap();
        let states = Tensor::cat(vec![prefix.narrow(1, text, 1), behind], 1);
        let codes = model.image_logits(states);
        assert_close(&numbers(codes), &expected.floats("logits"), set);

        let (text_nats, image_nats) = (expected.floats("text_nats"), expected.floats("image_nats"));
        for (row, ids) in image_ids.iter().enumerate() {
            let (text, image) = model.nats(&text_ids[row], ids).unwrap();
            let sums = [
                numbers(text).iter().sum::<f32>(),
                numbers(image).iter().sum(),
            ];
            for (sum, reference) in sums.into_iter().zip([text_nats[row], image_nats[row]]) {
                assert!(
                    (sum - reference).abs() <= 1e-4 * reference,
                    "{set}: {sum} {reference}"
                );
            }
        }
    }
}

/// Token by token from the caches: attention that gathers its keys, shifts that remember.
#[test]
fn greedy_pictures_are_those_of_the_reference_id_by_id() {
    let go = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
    for set in DRAWN {
        let model = loaded(set).dalle;
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        for (name, guidance_scale) in [("greedy_ids", 1.0), ("guided_ids", 3.0)] {
            let options = SamplingOptions {
                guidance_scale,
                ..SamplingOptions::greedy()
            };
            for (ids, reference) in text_ids.iter().zip(expected.ids(name)) {
                let drawn = draw(&model, ids, &[], &[1, 2], &options, go).unwrap();
                assert_eq!(drawn[0].image_ids, reference, "{set} {name}");
                assert_eq!(drawn[1].image_ids, reference, "{set} {name}");
                // Going on from a beginning of some rows and a bit.
                let begun = &reference[..reference.len() / 2 + 1];
                let drawn = draw(&model, ids, begun, &[1], &options, go).unwrap();
                assert_eq!(drawn[0].image_ids, reference, "{set} {name}");
            }
        }
    }
}

#[test]
fn ids_of_pictures_are_those_of_the_reference() {
    for set in DRAWN {
        let model = loaded(set);
        let expected = expected(set);
        let (values, shape) = expected.tensor("picture");
        let pixels: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, shape), &Device::flex());
        let found = model.image.encode_pixels(pixels).unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
    }
}

#[test]
fn a_folder_of_ours_says_the_same_as_the_published_file() {
    let device = Device::flex();
    for set in SETS {
        let output = tempfile::tempdir().unwrap();
        let published = loaded(set);
        published
            .save(output.path(), &golden(set), Precision::F32)
            .unwrap();
        let source = ModelSource::Dir(output.path().to_owned());
        let ours = DallePytorchModel::load(&source, &device).unwrap();
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let ids = &expected.ids("image_ids")[0];
        let nats = |model: &DallePytorchModel| {
            let (text, image) = model.dalle.nats(&text_ids[0], ids).unwrap();
            (numbers(text), numbers(image))
        };
        assert_eq!(nats(&ours), nats(&published), "{set}");
        assert_eq!(ours.config.name, set);
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let refused = |folder: &Path| {
        let error = load(folder, &Device::flex()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(refused(&golden("sparse")).contains("sparse attention"));
    let folder = copied(&golden("rotary"));
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = refused(folder.path());
    assert!(error.contains("bpe_simple_vocab_16e6"), "{error}");
    // A tokenizer of more ids than the model knows.
    let wide = golden("learned").join("vocab.txt");
    let mut words = std::fs::read_to_string(wide).unwrap();
    for i in 0..600 {
        words.push_str(&format!("word{i}\n"));
    }
    std::fs::write(folder.path().join("vocab.txt"), words).unwrap();
    assert!(refused(folder.path()).contains("ids, the model"));
    let vae = golden("../../image_tokenizer/goldens/discrete_vae/vae.pt");
    assert!(!is_published(&vae) && is_published(&golden("rotary").join("dalle.pt")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        set in prop::sample::select(&["rotary", "learned", "reversible"][..]),
        weights in any::<bool>(),
        damage in damage(),
    ) {
        let folder = copied(&golden(set));
        let path = match weights {
            true => folder.path().join("dalle.pt"),
            false => DallePytorchTokenizer::file_in(folder.path()).unwrap(),
        };
        let bytes = damage.of(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = load(folder.path(), &Device::flex()) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
        let _ = is_published(&path);
    }
}
