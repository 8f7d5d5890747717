#![allow(clippy::unwrap_used)]
use super::*;

use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

use crate::checkpoint::ModelSource;
use crate::engine::drafts::tests::drafts_change_nothing;
use crate::engine::{SampleSpec, likelihood, sample, sample_texts, unwatched};
use crate::families::ModelFiles;
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, assert_within, copied, numbers, refusal, refusal_of_changed,
};
use crate::models::dalle::Order;
use crate::models::janus::{Conversation, Part};
use crate::observer::{Event, NoObserver};
use crate::text::clip::LongCaption;

const SETS: [&str; 5] = ["pro", "sharded", "original", "old_roles", "one_bin"];

type Model = FamilyModel<JanusFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("janus", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
}

fn open_in(path: &Path, format: WeightFormat) -> Result<Published<JanusFamily>> {
    let files = PublishedFiles {
        path,
        name: "x",
        access: Default::default(),
        image_tokenizer: None,
    };
    Form.load(files, &Device::flex(), format)
}

/// In f32, which loses nothing.
fn open(path: &Path) -> Result<Published<JanusFamily>> {
    open_in(path, WeightFormat::F32)
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

#[test]
fn prompts_and_questions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let captions: Vec<String> = expected.metadata("captions");
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let null_ids: Vec<Vec<u32>> = expected.metadata("null_ids");
        for ((caption, ids), null) in captions.iter().zip(text_ids).zip(null_ids) {
            assert_eq!(
                model.encode_caption(caption, LongCaption::Refuse).unwrap(),
                ids,
                "{set}"
            );
            assert_eq!(model.unconditional(&ids), null, "{set}");
        }
        let questions: Vec<String> = expected.metadata("questions");
        let question_ids: Vec<Vec<u32>> = expected.metadata("question_ids");
        let (roles, positions) = (model.config.options.roles, model.config.sizes.grid.pow(2));
        for (question, ids) in questions.iter().zip(question_ids) {
            let found = model.text.encode_question(roles, question, true).unwrap();
            let at = found.before.len();
            assert_eq!(found.before, ids[..at], "{set}");
            assert_eq!(found.after, ids[at + positions..], "{set}");
        }
        let refused = model
            .text
            .encode_question(roles, "<image_placeholder>?", true);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("image_placeholder")
        );
    }
}

#[test]
fn long_prompts_are_refused_or_cut_within_their_template() {
    let text = loaded("pro").text;
    let roles = text.roles();
    let prompt = "a red turtle on a hat, ".repeat(20);
    let error = text.encode_prompt(roles, &prompt, 40, false).unwrap_err();
    assert!(error.to_string().contains("40"), "{error}");
    let ids = text.encode_prompt(roles, &prompt, 40, true).unwrap();
    let short = text.encode_prompt(roles, "a", 40, true).unwrap();
    assert!((30..=40).contains(&ids.len()), "{ids:?}");
    // Line, role, colon, start of the image.
    assert_eq!(ids[ids.len() - 3..], short[short.len() - 3..]);
    assert!(text.encode_prompt(roles, &prompt, 3, true).is_err());
}

#[test]
fn logits_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).net;
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let null_ids: Vec<Vec<u32>> = expected.metadata("null_ids");
        let logits = expected.floats("logits");
        let image_nll = expected.floats("image_nll");
        let mut found = Vec::new();
        for (row, ids) in expected.ids("image_ids").into_iter().enumerate() {
            for prompt in [&text_ids[row], &null_ids[row]] {
                let logits = model.whole_logits(prompt, std::slice::from_ref(&ids));
                found.extend(numbers(logits.unwrap()));
            }
            let nats = -likelihood(&model, &text_ids[row], &ids)
                .unwrap()
                .image_log_likelihood as f32;
            let reference = image_nll[row];
            assert!(
                (nats - reference).abs() <= 1e-4 * reference,
                "{set}: {nats} {reference}"
            );
        }
        assert_close(&found, &logits, set);
    }
}

/// Token by token from the caches; prompts of two lengths in one batch.
#[test]
fn greedy_pictures_are_those_of_the_reference_id_by_id() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
        let unconditional = |ids: &[u32]| model.unconditional(ids);
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
            let drawn = crate::engine::sample_guided(
                &model.net,
                &specs,
                &unconditional,
                &options,
                Order::Raster,
                &mut NoObserver,
            );
            let drawn: Vec<Vec<u32>> = drawn.unwrap().into_iter().map(|it| it.image_ids).collect();
            let all = [&reference[0], &reference[0], &reference[1]].map(Clone::clone);
            assert_eq!(drawn, all, "{set} {name}");
            let null = model.unconditional(&text_ids[1]);
            let alone = sample(
                &model.net,
                &specs[2..],
                &null,
                &options,
                Order::Raster,
                &mut NoObserver,
            );
            assert_eq!(alone.unwrap()[0].image_ids, reference[1], "{set} {name}");
        }
    }
}

#[test]
fn drafts_change_no_image() {
    for set in SETS {
        let model = loaded(set);
        let ids = expected(set).metadata::<Vec<Vec<u32>>>("text_ids")[0].clone();
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

fn seen(expected: &Expected) -> Tensor<4> {
    let (values, shape) = expected.tensor("seen");
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

#[test]
fn features_of_pictures_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set).net;
        let expected = expected(set);
        let (features, aligned) = model.see(seen(&expected));
        assert_close(&numbers(features), &expected.floats("features"), set);
        assert_close(&numbers(aligned), &expected.floats("aligned"), set);
    }
}

/// The mean over the patches of the reference's features, of length one.
#[test]
fn pictures_are_embedded_by_the_mean_of_their_features() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let (values, shape) = expected.tensor("wide");
        let rgb: Vec<u8> = values.iter().map(|&value| value as u8).collect();
        let wide = crate::image::Image::new(shape[1], shape[0], rgb).unwrap();
        let encoder = <JanusFamily as crate::families::Family>::PICTURE_ENCODER.unwrap();
        let found = numbers(encoder(&model).embed_pictures(&[wide]).unwrap());
        let (features, shape) = expected.tensor("features");
        let width = shape[2];
        let mut mean = vec![0.0; width];
        for patch in features.chunks_exact(width) {
            mean.iter_mut().zip(patch).for_each(|(m, x)| *m += x);
        }
        let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        let mean: Vec<f32> = mean.iter().map(|x| x / length).collect();
        assert_close(&found, &mean, set);
    }
}

/// A wide picture, whole in a padded square.
#[test]
fn pictures_are_prepared_as_by_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let (values, shape) = expected.tensor("wide");
        let rgb: Vec<u8> = values.iter().map(|&value| value as u8).collect();
        let wide = crate::image::Image::new(shape[1], shape[0], rgb).unwrap();
        let size = model.config.sizes.vision.image_size;
        let whole = wide.fit_whole_bicubic(size, [127; 3], 1).unwrap();
        assert_within(&whole.to_chw(), &expected.floats("seen"), 1e-6, set);

        // From pixels to words.
        let answerer = <JanusFamily as crate::families::Family>::answerer(&model).unwrap();
        let questions: Vec<String> = expected.metadata("questions");
        let answers: Vec<Vec<u32>> = expected.metadata("answers");
        for (question, ids) in questions.iter().zip(answers) {
            let mut texts = Vec::new();
            let watch = &mut |event: &Event<'_>| {
                let Event::Text(text) = *event else {
                    panic!("{event:?}");
                };
                texts.push(text.to_owned());
                match texts.len() < ids.len() {
                    true => std::ops::ControlFlow::Continue(()),
                    false => std::ops::ControlFlow::Break(()),
                }
            };
            let inquiry = crate::families::Inquiry {
                question,
                image: Some(&wide),
            };
            let greedy = SamplingOptions::greedy();
            assert!(answerer.answer(inquiry, &greedy, 1, watch).is_err());
            let last = texts.last().unwrap();
            assert_eq!(*last, model.text.decode(&ids).unwrap(), "{set}");
        }
        let captioner = <JanusFamily as crate::families::Family>::captioner(&model).unwrap();
        let search = crate::families::Search::Beam { width: 2 };
        let captions = captioner
            .captions(&wide, 2, &search, None, &mut NoObserver)
            .unwrap();
        assert_eq!(captions.len(), 2);
        assert!(captions[0].log_likelihood >= captions[1].log_likelihood);
    }
}

/// From the ids of the question and the picture's features, token by token from the cache.
#[test]
fn answers_are_those_of_the_reference_token_by_token() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let (_, aligned) = model.net.see(seen(&expected));
        let questions: Vec<String> = expected.metadata("questions");
        let answers: Vec<Vec<u32>> = expected.metadata("answers");
        for (number, question) in questions.iter().enumerate() {
            let roles = model.config.options.roles;
            let ids = model.text.encode_question(roles, question, true).unwrap();
            let conversation = Conversation {
                parts: vec![
                    Part::Text(ids.before),
                    Part::Image(aligned.clone()),
                    Part::Text(ids.after),
                ],
            };
            let (_, logits) =
                crate::engine::TextModel::begin_text(&model.net, Some(&conversation), &[]).unwrap();
            let logits = numbers(logits);
            let reference = expected.floats(&format!("answer_logits_{}", number + 1));
            assert_close(&logits, &reference[..logits.len()], set);

            let mut answer = Vec::new();
            let watched = &mut |text: &crate::engine::SampledText| {
                answer.clone_from(&text.text_ids);
                if text.ended {
                    answer.push(model.text.end());
                }
                match answer.len() < answers[number].len() {
                    true => std::ops::ControlFlow::Continue(()),
                    false => std::ops::ControlFlow::Break(()),
                }
            };
            let greedy = SamplingOptions::greedy();
            let stopped = sample_texts(
                &model.net,
                Some(&conversation),
                &[],
                &[1],
                &greedy,
                None,
                watched,
            );
            assert!(stopped.is_err());
            assert_eq!(answer, answers[number], "{set}");
            let texts = sample_texts(
                &model.net,
                Some(&conversation),
                &[],
                &[1, 2],
                &greedy,
                None,
                &mut unwatched,
            );
            for text in texts.unwrap() {
                let length = answers[number].len() - usize::from(text.ended);
                assert_eq!(text.text_ids[..length], answers[number][..length], "{set}");
            }
        }
    }
}

fn nll(model: &Model, expected: &Expected) -> f64 {
    let text_ids: Vec<Vec<u32>> = expected.metadata("text_ids");
    let ids = &expected.ids("image_ids")[0];
    let found = likelihood(&model.net, &text_ids[0], ids).unwrap();
    found.image_log_likelihood
}

fn load_ours(folder: &Path, format: Option<WeightFormat>) -> Model {
    let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned())).unwrap();
    Model::load(&files, &Device::flex(), format).unwrap()
}

/// An import keeps every number, and bfloat16 stays in 16 bits.
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
            precision: crate::checkpoint::weights::Precision::F16,
        };
        crate::families::import(&files, &options, place.path()).unwrap();
        let ours = load_ours(place.path(), Some(WeightFormat::F32));
        let (expected, published) = (expected(set), loaded(set));
        assert_eq!(nll(&ours, &expected), nll(&published, &expected), "{set}");
        let info = crate::families::info(&files).unwrap();
        let stored = if set == "pro" {
            WeightFormat::F32
        } else {
            WeightFormat::Bf16
        };
        assert_eq!(info.precision, stored, "{set}");
        let weights = std::fs::metadata(place.path().join("janus.safetensors")).unwrap();
        let numbers: usize = shapes(&published.net)
            .values()
            .map(|shape| shape.iter().product::<usize>())
            .sum();
        if set != "pro" {
            assert!(weights.len() < 3 * numbers as u64, "{set}");
            // Loaded as stored: bfloat16, the table of words too.
            let held = load_ours(place.path(), None);
            let error = nll(&held, &expected) / nll(&published, &expected) - 1.0;
            assert!(error.abs() < 0.02, "{set}: {error}");
        }
        // Eight bits, of the published files and of ours.
        let int8 = place.path().join("int8");
        crate::families::quantise(&files, WeightFormat::Int8, &int8).unwrap();
        let error = nll(&load_ours(&int8, None), &expected) / nll(&published, &expected) - 1.0;
        assert!(error.abs() < 0.05 && error != 0.0, "{set}: {error}");
    }
}

fn refused(folder: &Path) -> String {
    refusal(folder, open)
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    // A shard that has not arrived, and one that is another.
    let folder = copied(&golden("original"));
    let shard = |number: u32| {
        folder
            .path()
            .join(format!("pytorch_model-{number:05}-of-00002.bin"))
    };
    std::fs::copy(shard(1), shard(2)).unwrap();
    let error = refused(folder.path());
    assert!(
        error.contains("00002.bin") && error.contains("lacks the tensor"),
        "{error}"
    );
    std::fs::remove_file(shard(2)).unwrap();
    let error = refused(folder.path());
    assert!(
        error.contains("pytorch_model-00002-of-00002.bin"),
        "{error}"
    );

    // Sizes that the tensors have not got.
    let changed = |set: &str, from: &str, to: &str| {
        refusal_of_changed(&golden(set), (CONFIG, from, to), open)
    };
    let error = changed(
        "pro",
        "\"intermediate_size\": 96",
        "\"intermediate_size\": 90",
    );
    assert!(
        error.contains("mlp.gate_proj.weight has shape [96, 64]"),
        "{error}"
    );
    let error = changed(
        "original",
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 3",
    );
    assert!(
        error.contains("missing: language_model.model.layers.2"),
        "{error}"
    );
    let error = changed(
        "original",
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 1",
    );
    assert!(
        error.contains("nowhere: language_model.model.layers.1"),
        "{error}"
    );
    let error = changed(
        "pro",
        "\"num_key_value_heads\": 4",
        "\"num_key_value_heads\": 2",
    );
    assert!(error.contains("num_key_value_heads is 2"), "{error}");
    let error = changed(
        "pro",
        "\"rope_type\": \"default\"",
        "\"rope_type\": \"yarn\"",
    );
    assert!(error.contains("rotary"), "{error}");
    let error = changed("pro", "\"vocab_size\": 313", "\"vocab_size\": 312");
    assert!(error.contains("embed_tokens.weight"), "{error}");
    let error = changed("pro", "\"hidden_size\": 64", "\"hidden_size\": 1000000");
    assert!(error.contains("head_dim is 16"), "{error}");
    let error = changed(
        "original",
        "\"hidden_size\": 56",
        "\"hidden_size\": 1000000",
    );
    assert!(error.contains("describes"), "{error}");

    let folder = copied(&golden("pro"));
    let tokenizer = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    std::fs::write(&tokenizer, text.replace("<begin_of_image>", "<start>")).unwrap();
    let error = refused(folder.path());
    assert!(
        error.contains("lacks the token <begin_of_image>"),
        "{error}"
    );
    std::fs::remove_file(&tokenizer).unwrap();
    assert!(refused(folder.path()).contains("text tokenizer"));
}

/// A head that is tied to the embedding is the embedding, unless the file has one.
#[test]
fn a_tied_head_is_the_embedding() {
    let folder = copied(&golden("old_roles"));
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors
        .iter()
        .filter(|(name, _)| *name != "language_model.lm_head.weight");
    let file = safetensors::serialize(kept, None).unwrap();
    std::fs::write(&path, file).unwrap();
    let error = refused(folder.path());
    assert!(
        error.contains("missing: language_model.lm_head.weight"),
        "{error}"
    );
    let config = folder.path().join(CONFIG);
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replacen('{', "{\"tie_word_embeddings\": true,", 1);
    std::fs::write(&config, text).unwrap();
    open(folder.path()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// An error of one line or a model, nothing else.
    #[test]
    fn damaged_files_are_errors_and_nothing_else(
        (set, name) in prop::sample::select(&[
            ("pro", "model.safetensors"),
            ("sharded", "model-00002-of-00004.safetensors"),
            ("sharded", "model.safetensors.index.json"),
            ("original", "pytorch_model-00001-of-00002.bin"),
            ("original", "pytorch_model.bin.index.json"),
            ("one_bin", "pytorch_model.bin"),
            ("one_bin", "config.json"),
            ("pro", "config.json"),
            ("pro", "tokenizer.json"),
        ][..]),
        damage in damage(),
    ) {
        open_damaged(&golden(set), name, &damage, open);
    }

    #[test]
    fn damaged_folders_of_ours_are_errors_and_nothing_else(
        name in prop::sample::select(&["config.json", "janus.safetensors", "tokenizer.json"][..]),
        damage in damage(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        loaded("one_bin").save(folder.path(), SaveAs::Held).unwrap();
        open_damaged(folder.path(), name, &damage, |folder| {
            let files = ModelFiles::find(&ModelSource::Dir(folder.to_owned()))?;
            Model::load(&files, &Device::flex(), None)
        });
    }
}
