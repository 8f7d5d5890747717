#![allow(clippy::unwrap_used)]
use super::*;

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;
use serde::Deserialize;

use crate::canvas::{Canvas, Conditioning};
use crate::checkpoint::ModelSource;
use crate::engine::{
    AutoregressiveModel, Batch, FillOptions, FillRequest, InfillRow, MaskSchedule, Prompted,
    confidence_passes, likelihood,
};
use crate::families::{ImportOptions, ModelFiles, SaveAs};
use crate::import::damage::{damage, open_damaged};
use crate::import::goldens::{
    self, Expected, assert_close, assert_within, copied, numbers, refusal, refusal_of_changed,
};
use crate::models::dalle::Order;
use crate::models::masked::{Masked, logits};

const SETS: [&str; 3] = ["plain", "halved", "odd"];

type Model = FamilyModel<AmusedFamily>;

fn golden(set: &str) -> PathBuf {
    goldens::golden("amused", set)
}

fn expected(set: &str) -> Expected {
    Expected::of(&golden(set))
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

#[test]
fn captions_become_the_reference_ids() {
    for set in SETS {
        let model = loaded(set);
        let captions: Vec<String> = expected(set).metadata("captions");
        for (caption, ids) in captions.iter().zip(text_ids(set)) {
            assert_eq!(model.encode_caption(caption, true).unwrap(), ids, "{set}");
        }
        let null = text_ids(set).pop().unwrap();
        assert_eq!(model.unconditional(&[]), null, "{set}");
        let error = model.encode_caption(&"turtle ".repeat(20), false);
        assert!(error.is_err(), "{set}");
    }
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

/// Ids that may be masked, of rows.
fn masked(expected: &Expected, name: &str) -> Vec<Vec<Option<u32>>> {
    let (values, shape) = expected.tensor(name);
    let of = |&value: &f32| (value >= 0.0).then_some(value as u32);
    values
        .chunks(*shape.last().unwrap())
        .map(|row| row.iter().map(of).collect())
        .collect()
}

/// Of a picture that is masked in part and of one that is masked wholly, under a caption and under none; alone, and
/// all in one pass.
#[test]
fn logits_are_those_of_the_reference() {
    for set in SETS {
        let net = loaded(set).net;
        let expected = expected(set);
        let reference = expected.floats("logits");
        let prompts: Vec<_> = text_ids(set)[1..]
            .iter()
            .map(|ids| net.read_prompt(ids).unwrap())
            .collect();
        let canvases = masked(&expected, "canvas");
        let targets: Vec<u32> = (0..canvases[0].len() as u32).collect();
        let mut pictures = Vec::new();
        for prompt in &prompts {
            for image_ids in &canvases {
                pictures.push(Masked::new(prompt, image_ids, &targets));
            }
        }
        let together = numbers(logits(&net, &pictures).unwrap());
        assert_close(&together, &reference, set);
        let alone: Vec<f32> = pictures
            .iter()
            .flat_map(|picture| numbers(logits(&net, std::slice::from_ref(picture)).unwrap()))
            .collect();
        assert_eq!(alone, together, "{set}");
        let some = Masked::new(pictures[1].prompt, pictures[1].image_ids, &targets[3..5]);
        let codes = net.config().codebook_size;
        let start = (targets.len() + 3) * codes;
        let found = numbers(logits(&net, &[some]).unwrap());
        assert_eq!(found, together[start..start + 2 * codes], "{set}");
    }
}

#[test]
fn pixels_and_ids_of_the_image_tokenizer_are_those_of_the_reference() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let ids = expected.ids("image_ids").swap_remove(0);
        let pixels = numbers(model.image.decode_pixels(&[ids]));
        let pixels: Vec<f32> = pixels.iter().map(|value| (value + 1.0) / 2.0).collect();
        assert_within(&pixels, &expected.floats("pixels"), 1e-3, set);
        let (values, shape) = expected.tensor("picture");
        let pixels: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, shape), &Device::flex());
        let found = model.image.encode_pixels(pixels).unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
    }
}

/// How a picture of the reference was drawn.
struct Drawing {
    canvas: Canvas,
    caption: usize,
    /// The caption that guidance leads away from.
    negative: usize,
    guidance_scale: f32,
    temperature: f32,
    seed: u64,
}

/// The ids after each pass.
fn steps(model: &Model, set: &str, drawings: &[&Drawing]) -> Vec<Vec<Vec<Option<u32>>>> {
    let ids = text_ids(set);
    let read = |caption: usize| Arc::new(model.net.read(&ids[caption]).unwrap());
    let rows = drawings.iter().map(|drawing| InfillRow {
        prompt: read(drawing.caption),
        unconditional: read(drawing.negative),
        canvas: Arc::new(drawing.canvas.clone()),
        seed: drawing.seed,
    });
    let request = FillRequest {
        rows: rows.collect(),
        options: FillOptions {
            sampling: SamplingOptions {
                guidance_scale: drawings[0].guidance_scale,
                temperature: drawings[0].temperature,
                top_k: None,
                top_p: None,
            },
            order: Order::Confidence {
                steps: expected(set).metadata("steps"),
            },
            conditioning: Conditioning::Prefix,
            tries: 1,
        },
    };
    let mut batch = Batch::new(&model.net);
    let ticket = batch.join(&request).unwrap();
    let mut steps = Vec::new();
    loop {
        let going = batch.step().unwrap();
        let ids = batch.image_ids(ticket);
        steps.push(ids.into_iter().map(<[Option<u32>]>::to_vec).collect());
        if !going {
            break;
        }
    }
    steps
}

/// With the reference's random numbers in the place of its own: which ids every pass keeps, and what they are, with
/// guidance and without, of whole pictures and of holes, greedily and by chance.
#[test]
fn every_pass_keeps_what_the_reference_keeps() {
    for set in SETS {
        let model = loaded(set);
        let expected = expected(set);
        let positions = model.net.sizes().positions;
        let drawing = |guidance_scale, temperature, seed| Drawing {
            canvas: Canvas::blank(positions),
            caption: 0,
            negative: 2,
            guidance_scale,
            temperature,
            seed,
        };
        let hole = expected.ids("hole").swap_remove(0);
        let holed = Canvas::of(&expected.ids("picture_ids")[0])
            .masked((0..positions as u32).filter(|&at| hole[at as usize] == 1));
        let inpainting = |temperature, seed| Drawing {
            canvas: holed.clone(),
            caption: 1,
            ..drawing(4.0, temperature, seed)
        };
        let negative = Drawing {
            negative: 1,
            ..drawing(4.0, 0.0, 1)
        };
        for (name, drawing) in [
            ("greedy_steps", drawing(1.0, 0.0, 1)),
            ("guided_steps", drawing(4.0, 0.0, 1)),
            ("negative_steps", negative),
            ("sampled_steps", drawing(1.0, 1.0, 7)),
            ("sampled_guided_steps", drawing(4.0, 1.0, 8)),
            ("inpaint_greedy_steps", inpainting(0.0, 1)),
            ("inpaint_steps", inpainting(1.0, 9)),
        ] {
            let reference = masked(&expected, name);
            let found = steps(&model, set, &[&drawing]);
            let alone: Vec<_> = found.into_iter().map(|mut rows| rows.remove(0)).collect();
            assert_eq!(alone, reference, "{set} {name}");
            // Among others in a batch, each its own.
            let other = Drawing {
                canvas: drawing.canvas.clone(),
                seed: 77,
                ..drawing
            };
            let mut among = steps(&model, set, &[&other, &drawing, &other]);
            let last = among.pop().unwrap();
            assert_eq!(Some(&last[1]), reference.last(), "{set} {name}");
            assert_eq!(last[0], last[2], "{set} {name}");
        }
    }
}

/// How many ids each pass leaves masked, for all numbers of passes and ids that matter.
#[test]
fn schedules_are_those_of_the_reference() {
    #[derive(Debug, Deserialize)]
    struct Schedule {
        schedule: MaskSchedule,
        positions: usize,
        steps: usize,
        /// At the start, and after each pass.
        masked: Vec<usize>,
    }
    let schedules: Vec<Schedule> = expected("plain").metadata("schedules");
    assert!(schedules.len() > 200);
    for schedule in schedules {
        let (masked, positions) = (schedule.masked[0], schedule.positions);
        let passes = confidence_passes(schedule.schedule, masked, positions, schedule.steps);
        let mut left = vec![masked];
        for number in 0..schedule.steps {
            let pass = passes.iter().find(|pass| pass.number == number);
            let kept = pass.map_or(0, |pass| pass.kept);
            left.push(left[number] - kept);
        }
        assert_eq!(left, schedule.masked, "{schedule:?}");
    }
}

fn nll(model: &Model, set: &str) -> f64 {
    let prompt = model.net.read(&text_ids(set)[0]).unwrap();
    let ids = &expected(set).ids("image_ids")[0];
    let found = likelihood(&model.net, &prompt, ids).unwrap();
    found.image_log_likelihood
}

/// The likelihood is that of drawing in a few passes, id by id in the order of positions, and the same in a batch.
#[test]
fn likelihoods_sum_over_passes() {
    for set in SETS {
        let model = loaded(set);
        let ids = text_ids(set);
        let prompts = [0, 1].map(|caption: usize| model.net.read(&ids[caption]).unwrap());
        let images = expected(set).ids("image_ids");
        let groups = prompts
            .each_ref()
            .map(|prompt| Prompted { prompt, rows: 1 });
        let together = numbers(model.net.token_nll(&groups, &images, true).unwrap().image);
        let positions = images[0].len();
        assert_eq!(together.len(), 2 * positions);
        for (row, group) in groups.iter().enumerate() {
            let image = std::slice::from_ref(&images[row]);
            let alone = model
                .net
                .token_nll(std::slice::from_ref(group), image, true)
                .unwrap()
                .image;
            let alone = numbers(alone);
            assert_eq!(alone, together[row * positions..][..positions], "{set}");
            // A random picture is about as unlikely as one of codes drawn evenly, or less likely.
            let mean = alone.iter().sum::<f32>() / positions as f32;
            let even = (model.net.config().codebook_size as f32).ln();
            assert!((0.5 * even..8.0 * even).contains(&mean), "{set}: {mean}");
        }
        // In an order: the first pass sees nothing, so that its logits are those of a blank picture.
        let order: Vec<u32> = (0..positions as u32).rev().collect();
        let found = model
            .net
            .image_logits_in(&prompts[1], &images[0], &order)
            .unwrap();
        let [rows, codes] = found.dims();
        assert_eq!((rows, codes), (positions, model.net.config().codebook_size));
        let nothing = vec![None; positions];
        let blank = Masked::new(&prompts[1], &nothing, &order[..1]);
        let first = numbers(logits(&model.net, &[blank]).unwrap());
        assert_eq!(numbers(found)[..codes], first, "{set}");
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
            ours.encode_caption("a RED turtle", false).unwrap(),
            published.encode_caption("a RED turtle", false).unwrap()
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
