#![allow(clippy::unwrap_used)]
//! What a family gets without a line of its own.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use super::net::ToySizes;
use crate::Error;
use crate::checkpoint::{ModelSource, WeightFormat, weights::Precision};
use crate::edit::{self, EditRequest, Mask, edit};
use crate::families::{self, ImportOptions, ModelFiles, NetSizes};
use crate::image::{Image, Original};
use crate::model::{Model, OpenOptions};
use crate::models::ImageTokenizerConfig;
use crate::models::dalle::Order;
use crate::models::vqgan::VqganConfig;
use crate::nn::Init;
use crate::observer::{Event, NoObserver};
use crate::progress::Progress;
use crate::request::Generate;
use crate::sampling::SamplingOptions;
use crate::text::TextTokenizer;
use crate::text::clip::LongCaption;
use crate::train::fine_tune;
use crate::train::tests::{NEVER, StopAfter};

/// A published toy.
fn published() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let captions = ["a red turtle", "two blue fish on a hat", "green trees"];
    let captions = captions
        .iter()
        .cycle()
        .take(30)
        .map(|&text| text.to_owned());
    let text = TextTokenizer::train(captions, 280).unwrap();
    text.save(folder.path()).unwrap();
    let sizes = ToySizes {
        words: text.vocab_size(),
        text_length: 80,
        codes: 32,
        grid: 4,
        width: 12,
    };
    let image_tokenizer = ImageTokenizerConfig::Vqgan(VqganConfig {
        picture_size: 64,
        patch: 16,
        widths: vec![8],
        n_res_blocks: 1,
        groups: 4,
        codebook_size: 32,
        code_width: 4,
    });
    let config = json!({"net": sizes, "image_tokenizer": image_tokenizer});
    std::fs::write(folder.path().join("toy.json"), config.to_string()).unwrap();
    // PyTorch's names and layout.
    let tensors = [
        ("word_emb", [sizes.words, 12]),
        ("code_emb", [33, 12]),
        ("pos", [16, 12]),
        ("q", [12, 12]),
        ("k", [12, 12]),
        ("v", [12, 12]),
        ("o", [12, 12]),
        ("logits", [32, 12]),
    ];
    let mut init = Init::new(5, &Device::flex());
    let mut numbers = |shape: [usize; 2]| -> Vec<u8> {
        let values = init.normal(shape, 0.7).val().into_data();
        let values: Vec<f32> = values.try_into_vec().unwrap();
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let bytes = tensors.map(|(name, shape)| (format!("{name}.weight"), shape, numbers(shape)));
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
        (name.clone(), view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("toy.safetensors"), file).unwrap();
    folder
}

fn find(folder: &Path) -> ModelFiles {
    ModelFiles::find(&ModelSource::Dir(folder.to_owned())).unwrap()
}

fn open(folder: &Path, adapter: Option<&Path>) -> Model {
    let options = OpenOptions {
        adapter: adapter.map(Path::to_owned),
        ..OpenOptions::default()
    };
    Model::open_files(&find(folder), &Device::flex(), &options).unwrap()
}

fn drawn(model: &Model) -> Vec<Vec<u32>> {
    let request = Generate {
        n: 3,
        ..Generate::new("a red turtle", 4)
    };
    let outcome = model.run(&request, &mut NoObserver).unwrap();
    outcome
        .images
        .into_iter()
        .map(|image| image.image_ids)
        .collect()
}

fn likelihood(model: &Model) -> f64 {
    let ids: Vec<u32> = (0..16).map(|id| id * 7 % 32).collect();
    let found = model.generator().unwrap();
    let found = found
        .likelihood("two blue fish", &ids, LongCaption::Refuse)
        .unwrap();
    found.image_log_likelihood
}

/// Only CLIPs and T5s read chunks: the net was trained on what they make of any caption.
#[test]
fn chunks_are_for_text_encoders() {
    let place = published();
    let model = open(place.path(), None);
    let request = Generate {
        long: LongCaption::Chunks,
        ..Generate::new("a cat", 1)
    };
    let error = model.run(&request, &mut NoObserver).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("CLIP or T5 text encoder"), "{error}");
}

#[test]
fn a_family_of_three_files_does_all_that_a_model_does() {
    let place = published();
    let (folder, device) = (place.path(), Device::flex());
    let files = find(folder);
    assert!(files.is_published_form() && !files.is_native());

    // Reported, and drawn with, as it was published.
    let info = families::info(&files).unwrap();
    assert_eq!(info.transformer.unwrap().layers, "1 layer x 12");
    let model = open(folder, None);
    assert_eq!(model.family(), "a toy");
    let ids = drawn(&model);
    assert_ne!(ids[0], ids[1]);

    // Imported, and the same.
    let ours = folder.join("ours");
    let options = ImportOptions {
        name: Some("my toy".to_owned()),
        licence: None,
        image_tokenizer: None,
        precision: Precision::F32,
    };
    let imported = families::import(&files, &options, &ours).unwrap();
    assert!(
        imported
            .networks
            .iter()
            .all(|network| network.tensors.is_complete())
    );
    let loaded = open(&ours, None);
    assert_eq!((loaded.name(), drawn(&loaded)), ("my toy", ids.clone()));
    let info = families::info(&find(&ours)).unwrap();
    assert_eq!(info.config["architecture"], "toy");
    assert_eq!(info.config["net"]["width"], 12);

    // Edited: what is outside of the hole stays.
    let picture = Original::from(&Image::filled(64, 64, [200, 80, 20]));
    let mask = Mask::of_area(64, 64, "16,16,20,30".parse().unwrap()).unwrap();
    let request = EditRequest {
        prompt: Some("green trees".to_owned()),
        negative_prompt: Some("a red balloon".to_owned()),
        n: 1,
        seed: 2,
        sampling: SamplingOptions::default(),
        order: Order::Raster,
        conditioning: loaded.generator().unwrap().conditioning(),
        tries: edit::TRIES,
        ranker: None,
        window: None,
        long: LongCaption::Refuse,
    };
    let edits = edit(&loaded, &picture, &mask, &request, &mut NoObserver).unwrap();
    let mut edited = picture.clone();
    edits.candidates[0].apply(&mut edited, &mask);
    for (x, y) in (0..64).flat_map(|y| (0..64).map(move |x| (x, y))) {
        assert!(mask.asks(x, y) || edited.same_at(&picture, x, y));
    }

    // Quantised.
    let int8 = folder.join("int8");
    families::quantise(&find(&ours), WeightFormat::Int8, &int8).unwrap();
    assert_eq!(
        families::info(&find(&int8)).unwrap().precision,
        WeightFormat::Int8
    );
    let (whole, packed) = (likelihood(&loaded), likelihood(&open(&int8, None)));
    assert!(
        packed != whole && (packed / whole - 1.0).abs() < 0.02,
        "{whole} {packed}"
    );

    // Fine-tuned by LoRA, used beside the weights, and merged.
    let config = json!({
        "name": "tuned", "data": {"scenes": {"world": "tiny", "seed": 3}}, "encoded_pictures": 6,
        "run": {"seed": 5, "steps": 4, "batch_size": 2, "learning_rate": 0.01, "warmup_steps": 1,
                "checkpoint_every": 4},
        "lora": {"rank": 2, "targets": ["q", "head"]}, "validation": 2, "samples": 1
    });
    let config: fine_tune::FineTuneConfig = serde_json::from_value(config).unwrap();
    let run = folder.join("run");
    let mut observer = StopAfter::steps(NEVER);
    let adapter =
        fine_tune::run(&config, &find(&ours), &run, &device, false, &mut observer).unwrap();
    let adapted = likelihood(&open(&ours, Some(&adapter)));
    assert!((adapted / whole - 1.0).abs() > 1e-4, "{whole} {adapted}");
    let merged = folder.join("merged");
    families::merge(&find(&ours), &adapter, &merged).unwrap();
    let merged = open(&merged, None);
    assert_eq!(merged.name(), "tuned");
    assert!((likelihood(&merged) / adapted - 1.0).abs() < 1e-5);

    // It only reads captions.
    assert!(loaded.captioner().is_err());
}

/// Sizes that the weights can't hold are refused before room is made for them.
#[test]
fn configs_of_any_family_are_held_against_the_weights() {
    let place = published();
    let ours = place.path().join("ours");
    let options = ImportOptions {
        name: None,
        licence: None,
        image_tokenizer: None,
        precision: Precision::F16,
    };
    families::import(&find(place.path()), &options, &ours).unwrap();
    let path = ours.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = ModelFiles::find(&ModelSource::Dir(ours.clone())).unwrap_err();
        error.to_string()
    };
    assert!(refused("\"width\": 12", "\"width\": 1000").contains("describes"));
    assert!(refused("\"width\": 12", "\"width\": 0").contains("expected 1 to 1024"));
    assert!(refused("\"width\"", "\"wide\"").contains("net: "));
    assert!(refused("\"name\"", "\"nome\"").contains("name"));
    assert!(refused("\"licence\"", "\"x\": 1, \"licence\"").contains("unknown field `x`"));
    let other = refused(
        "\"architecture\": \"toy\"",
        "\"architecture\": \"dalle_mini\"",
    );
    assert!(other.contains("DALL·E mini"), "{other}");
}

#[test]
fn sizes_of_a_toy_count_its_numbers() {
    let sizes = ToySizes {
        words: 10,
        text_length: 5,
        codes: 7,
        grid: 2,
        width: 4,
    };
    let net = sizes.init(&mut Init::new(1, &Device::flex()));
    let shapes = crate::models::parameters::shapes(&net);
    let numbers: usize = shapes
        .values()
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    // The start's row is left out.
    assert_eq!(numbers as u64, sizes.parameters() + 4);
}

#[test]
fn loading_is_watched_and_stops() {
    let place = published();
    let (files, device) = (find(place.path()), Device::flex());
    let load = || Model::open_files(&files, &device, &OpenOptions::default());
    let progress = Arc::new(Progress::default());
    progress.over(load).unwrap();
    let size = std::fs::metadata(place.path().join("toy.safetensors")).unwrap();
    let (done, total) = (&progress.done, &progress.total);
    assert_eq!(total.load(Ordering::Relaxed), size.len());
    // All numbers of the file, and the image tokenizer that is embedded.
    assert!(done.load(Ordering::Relaxed) > 4 * 12 * (33 + 16 + 4 * 12 + 32));

    progress.stop.store(true, Ordering::Relaxed);
    assert!(matches!(progress.over(load), Err(Error::Stopped)));
    // Who does not watch is not stopped.
    load().unwrap();
    let mut observer = |event: &Event<'_>| {
        assert!(matches!(event, Event::Loading { .. }));
        ControlFlow::Continue(())
    };
    let options = OpenOptions::default();
    let watched = Model::open_watched(&files, &device, &options, &mut observer).unwrap();
    assert_eq!(drawn(&watched), drawn(&load().unwrap()));
}
