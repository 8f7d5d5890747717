#![allow(clippy::unwrap_used)]
use super::*;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::canvas::{Canvas, Conditioning};
use crate::checkpoint::ModelSource;
use crate::checkpoint::weights::Precision;
use crate::engine::{FillOptions, FillRequest, InfillRow, fill, sample_texts, unwatched};
use crate::families::{ModelFiles, SaveAs};
use crate::import::damage::damage;
use crate::import::goldens::{self, Expected, assert_close, copied, numbers};
use crate::models::dalle::Order;
use crate::observer::NoObserver;

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

type Model = FamilyModel<DallePytorchFamily>;

fn open(path: &Path) -> Result<Published<DallePytorchFamily>> {
    let files = PublishedFiles {
        path,
        name: "x",
        access: Default::default(),
        image_tokenizer: None,
    };
    load(files, &Device::flex(), WeightFormat::F32)
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

fn nll(model: &DallePytorch, text_ids: &[u32], image_ids: &[u32]) -> (Tensor<1>, Tensor<1>) {
    let nll = model.nll(&[text_ids.to_vec()], &[image_ids.to_vec()]);
    nll.unwrap()
}

/// Images of a caption that start with `prefix_ids`, one for each seed.
fn drawn(
    model: &DallePytorch,
    text_ids: &[u32],
    prefix_ids: &[u32],
    seeds: &[u64],
    sampling: &SamplingOptions,
) -> Vec<Vec<u32>> {
    let canvas = Canvas::with_prefix(prefix_ids, model.config().image_length()).unwrap();
    let (canvas, prompt) = (Arc::new(canvas), Arc::new(text_ids.to_vec()));
    let unconditional = Arc::new(Vec::new());
    let rows = seeds.iter().map(|&seed| InfillRow {
        prompt: prompt.clone(),
        unconditional: unconditional.clone(),
        canvas: canvas.clone(),
        seed,
    });
    let request = FillRequest {
        rows: rows.collect(),
        options: FillOptions {
            sampling: sampling.clone(),
            order: Order::Raster,
            conditioning: Conditioning::TeacherForced,
            tries: 1,
        },
    };
    let images = fill(model, &request, &mut NoObserver).unwrap();
    images.into_iter().map(|image| image.image_ids).collect()
}

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let limit = model.net.config().text_length;
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
        let model = loaded(set).net;
        let expected = expected(set);
        let config = model.config().clone();
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let image_ids = expected.ids("image_ids");
        let (text, image) = (config.text_length, config.image_length());
        let (prefix, mut known) = model.prefill(&text_ids).unwrap();
        let words = model.text_logits(prefix.clone().narrow(1, 0, text));
        assert_close(&numbers(words), &expected.floats("text_logits"), set);
        let texts: Vec<Vec<u32>> = image_ids
            .iter()
            .map(|ids| ids[..image - 1].to_vec())
            .collect();
        let behind = model.step(&texts, &mut known).unwrap();
        let states = Tensor::cat(vec![prefix.narrow(1, text, 1), behind], 1);
        let codes = model.image_logits(states);
        assert_close(&numbers(codes), &expected.floats("logits"), set);

        let (text_nats, image_nats) = (expected.floats("text_nats"), expected.floats("image_nats"));
        for (row, ids) in image_ids.iter().enumerate() {
            let (text, image) = nll(&model, &text_ids[row], ids);
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
    for set in DRAWN {
        let model = loaded(set).net;
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        for (name, guidance_scale) in [("greedy_ids", 1.0), ("guided_ids", 3.0)] {
            let options = SamplingOptions {
                guidance_scale,
                ..SamplingOptions::greedy()
            };
            for (ids, reference) in text_ids.iter().zip(expected.ids(name)) {
                let both = drawn(&model, ids, &[], &[1, 2], &options);
                assert_eq!(both, [reference.clone(), reference.clone()], "{set} {name}");
                // Going on from a beginning of some rows and a bit.
                let begun = &reference[..reference.len() / 2 + 1];
                let begun = drawn(&model, ids, begun, &[1], &options);
                assert_eq!(begun, [reference], "{set} {name}");
            }
        }
    }
}

/// Words one by one from the caches, as `forward` predicts them for the whole caption.
#[test]
fn greedy_words_are_those_of_the_reference_id_by_id() {
    let greedy = SamplingOptions::greedy();
    for set in DRAWN {
        let model = loaded(set).net;
        let expected = expected(set);
        let beginnings: Vec<Vec<u32>> = expected.metadata("beginnings");
        let references: Vec<Vec<i64>> = expected.metadata("best_text_ids");
        for (beginning, reference) in beginnings.iter().zip(&references) {
            let words = reference.iter().take_while(|&&id| id >= 0);
            let words: Vec<u32> = words.map(|&id| id as u32).collect();
            for texts in sample_texts(
                &model,
                None,
                beginning,
                &[3, 4],
                &greedy,
                None,
                &mut unwatched,
            )
            .unwrap()
            {
                assert_eq!(texts.text_ids, words, "{set}");
                assert_eq!(texts.tokens, reference.len() - beginning.len(), "{set}");
            }
            // Going on from further on.
            let begun = &words[..beginning.len().midpoint(words.len())];
            let texts =
                sample_texts(&model, None, begun, &[5], &greedy, None, &mut unwatched).unwrap();
            assert_eq!(texts[0].text_ids, words, "{set}");
        }
    }
}

/// `generate_texts` itself, of a model without shift: it begins with words in place of the start, and goes on with
/// the likeliest id whatever it is.
#[test]
fn generated_texts_are_those_of_the_reference() {
    let model = loaded("learned").net;
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
            .save(output.path(), SaveAs::Floats(Precision::F32))
            .unwrap();
        let files = ModelFiles::find(&ModelSource::Dir(output.path().to_owned())).unwrap();
        let ours = Model::load(&files, &device, None).unwrap();
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let ids = &expected.ids("image_ids")[0];
        let nats = |model: &Model| {
            let (text, image) = nll(&model.net, &text_ids[0], ids);
            (numbers(text), numbers(image))
        };
        assert_eq!(nats(&ours), nats(&published), "{set}");
        assert_eq!(ours.config.name, "x");
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
    let text = open(folder.path()).unwrap().model.text;
    let ids = text.encode_caption("a red turtle", 20, false).unwrap();
    assert!(ids.len() < 6, "{ids:?}");
    assert_eq!(text.decode(&ids).unwrap(), "a red turtle");
    std::fs::copy(path("captions.model"), path("other.model")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("one .model of YouTokenToMe"));
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let refused = |folder: &Path| {
        let error = open(folder).unwrap_err().to_string();
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
        if let Err(error) = open(folder.path()) {
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
        let saved = loaded("axial").save(folder.path(), SaveAs::Floats(Precision::F32));
        saved.unwrap();
        let path = folder.path().join(name);
        let bytes = damage.of(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        let found = ModelFiles::find(&ModelSource::Dir(folder.path().to_owned()));
        let opened = found.and_then(|files| Model::load(&files, &Device::flex(), None));
        if let Err(error) = opened {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
