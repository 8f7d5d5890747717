#![allow(clippy::unwrap_used)]
use super::*;

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::checkpoint::weights::Precision;
use crate::generate::dalle_pytorch::{continue_text, draw};
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
        let (prefix, mut known) = model.prefill(&text_ids).unwrap();
        let words = model.text_logits(prefix.clone().narrow(1, 0, text));
        assert_close(&numbers(words), &expected.floats("text_logits"), set);
        let told: Vec<Vec<u32>> = image_ids
            .iter()
            .map(|ids| ids[..image - 1].to_vec())
            .collect();
        let behind = model.step(&told, &mut known).unwrap();
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

/// Words one by one from the caches, as `forward` tells them for the whole caption.
#[test]
fn greedy_words_are_those_of_the_reference_id_by_id() {
    let greedy = SamplingOptions::greedy();
    for set in DRAWN {
        let model = loaded(set).dalle;
        let expected = expected(set);
        let beginnings: Vec<Vec<u32>> = expected.metadata("beginnings");
        let references: Vec<Vec<i64>> = expected.metadata("told_text_ids");
        for (beginning, reference) in beginnings.iter().zip(&references) {
            let words = reference.iter().take_while(|&&id| id >= 0);
            let words: Vec<u32> = words.map(|&id| id as u32).collect();
            for told in continue_text(&model, beginning, &[3, 4], &greedy).unwrap() {
                assert_eq!(told.text_ids, words, "{set}");
                assert_eq!(told.tokens, reference.len() - beginning.len(), "{set}");
            }
            // Going on from further on.
            let begun = &words[..beginning.len().midpoint(words.len())];
            let told = continue_text(&model, begun, &[5], &greedy).unwrap();
            assert_eq!(told[0].text_ids, words, "{set}");
        }
    }
}

/// `generate_texts` itself, of a model without shift: it begins with words in place of the start, and goes on with
/// the likeliest id whatever it is.
#[test]
fn generated_texts_are_those_of_the_reference() {
    let model = loaded("learned").dalle;
    let expected = expected("learned");
    let beginnings: Vec<Vec<u32>> = expected.metadata("beginnings");
    let references: Vec<Vec<u32>> = expected.metadata("generated_text_ids");
    for (beginning, reference) in beginnings.into_iter().zip(references) {
        let mut ids = match beginning.is_empty() {
            true => vec![0],
            false => beginning,
        };
        let mut known = model.empty_state();
        let mut newest = ids.clone();
        while ids.len() < model.config().text_length {
            let states = model.step_text(&[newest.clone()], &mut known).unwrap();
            let last = states.narrow(1, newest.len() - 1, 1);
            let logits = numbers(model.text_logits(last));
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            newest = vec![best.unwrap() as u32];
            ids.extend(&newest);
        }
        assert_eq!(ids, reference);
    }
}

#[test]
fn texts_of_ids_are_the_words_again() {
    for (set, text) in [
        ("rotary", "a red turtle on a hat"),
        ("learned", "a red turtle on hat"),
        ("reversible", "a red turtle, isn't it?"),
    ] {
        let model = loaded(set);
        let ids = model.text.encode_caption(text, 64, false).unwrap();
        let ids = [&[0], &ids[..], &[0, u32::MAX]].concat();
        let words = model.text.decode(&ids).unwrap();
        let squeezed = |text: &str| text.replace(' ', "");
        assert_eq!(squeezed(&words), squeezed(text), "{set}");
        assert!(words.starts_with("a red turtle"), "{set}: {words}");
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

/// Of two models of YouTokenToMe none is taken.
#[test]
fn words_of_youtokentome_are_those_of_the_model_beside_it() {
    let folder = copied(&golden("axial"));
    let path = |name: &str| folder.path().join(name);
    std::fs::remove_file(path("tokenizer.json")).unwrap();
    let words = golden("../../../text/youtokentome_goldens/bpe.model");
    std::fs::copy(words, path("captions.model")).unwrap();
    let text = load(folder.path(), &Device::flex()).unwrap().model.text;
    let ids = text.encode_caption("a red turtle", 20, false).unwrap();
    assert!(ids.len() < 6, "{ids:?}");
    assert_eq!(text.decode(&ids).unwrap(), "a red turtle");
    std::fs::copy(path("captions.model"), path("other.model")).unwrap();
    let error = load(folder.path(), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("one .model of YouTokenToMe"));
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

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&["config.json", "dalle_pytorch.safetensors", "tokenizer.json"][..]),
        damage in damage(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let saved = loaded("axial").save(folder.path(), &golden("axial"), Precision::F32);
        saved.unwrap();
        let path = folder.path().join(name);
        let bytes = damage.of(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        let source = ModelSource::Dir(folder.path().to_owned());
        if let Err(error) = DallePytorchModel::load(&source, &Device::flex()) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
