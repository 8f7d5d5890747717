#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Error;
use crate::checkpoint::ModelSource;
use crate::engine::AutoregressiveModel;
use crate::families::{Family, ModelFiles, Native as NativeFamily, NativeModel, Search};
use crate::image::Image;
use crate::model::{Model, OpenOptions};
use crate::observer;
use crate::text::clip::LongCaption;
use crate::train::config::TrainingPrecision;

/// Stops after this many steps.
pub(crate) struct StopAfter(Cell<u64>);

impl StopAfter {
    pub(crate) fn steps(n: u64) -> Self {
        StopAfter(Cell::new(n))
    }
}

impl Observer for StopAfter {
    fn event(&mut self, event: &observer::Event<'_>) -> ControlFlow<()> {
        if matches!(event, observer::Event::Training(TrainingEvent::Step { .. })) {
            self.0.set(self.0.get().saturating_sub(1));
        }
        ControlFlow::Continue(())
    }

    fn stop(&self) -> bool {
        self.0.get() == 0
    }
}

pub(crate) const NEVER: u64 = u64::MAX;

fn run_config() -> serde_json::Value {
    json!({
        "seed": 5, "steps": 6, "batch_size": 4, "gradient_accumulation": 2, "learning_rate": 0.003,
        "warmup_steps": 2, "log_every": 1, "checkpoint_every": 2, "keep_checkpoints": 2
    })
}

fn vqgan() -> image_tokenizer::ImageTokenizerTrainingConfig {
    serde_json::from_value(json!({
        "model": {
            "architecture": "vqgan", "picture_size": 64, "patch": 8, "widths": [8, 16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 32, "code_width": 4
        },
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "run": run_config(),
        "vqgan": {"adversarial": {"weight": 0.1, "start_step": 1, "width": 4, "n_layers": 2, "learning_rate": 0.001}},
        "validation": 4
    }))
    .unwrap()
}

fn dvae() -> image_tokenizer::ImageTokenizerTrainingConfig {
    serde_json::from_value(json!({
        "model": {
            "architecture": "dvae", "picture_size": 64, "n_groups": 4, "n_blocks": 1, "width": 8,
            "code_width": 8, "codebook_size": 16
        },
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "run": run_config(),
        "validation": 4
    }))
    .unwrap()
}

/// Every file of a directory by its path in it.
fn files_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(dir).unwrap().to_path_buf(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

pub(super) fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (files_of(a), files_of(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(bytes == &b[path], "{} differs", path.display());
    }
}

fn train_image_tokenizer(
    config: &image_tokenizer::ImageTokenizerTrainingConfig,
    dir: &Path,
    resume: bool,
    stop: u64,
) -> crate::Result<PathBuf> {
    image_tokenizer::run(
        config,
        dir,
        &Device::flex(),
        resume,
        &mut StopAfter::steps(stop),
    )
}

/// A run of 6 steps must leave the same bits as one stopped after 3 (between two checkpoints) and resumed:
/// weights, moments, averages, codebook, discriminator, metrics, pictures.
#[test]
fn resumed_image_tokenizers_equal_uninterrupted_ones() {
    for config in [vqgan(), dvae()] {
        let dir = TempDir::new().unwrap();
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        train_image_tokenizer(&config, &whole, false, NEVER).unwrap();
        assert!(matches!(
            train_image_tokenizer(&config, &parts, false, 3),
            Err(Error::Stopped)
        ));
        train_image_tokenizer(&config, &parts, true, NEVER).unwrap();
        // The stop at step 3 left a checkpoint more, which pushed none of the last two out.
        assert_same_files(&whole, &parts);
    }
}

fn dalle_config(dir: &Path) -> dalle::DalleTrainingConfig {
    // The tokenizers' runs cover AdamW alone, this one Muon beside it.
    let mut run = run_config();
    run["optimizer"] = json!("muon");
    serde_json::from_value(json!({
        "name": "test", "licence": "CC0-1.0",
        "text_tokenizer": dir.join("text"), "image_tokenizer": dir.join("image"),
        "model": {"text_length": 40, "width": 16, "n_layers": 2, "n_heads": 2, "hidden": 32, "contrastive_width": 8},
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "encoded_pictures": 16,
        "run": run,
        "losses": {"contrastive": 0.1},
        "captioning_share": 0.5,
        "validation": 4
    }))
    .unwrap()
}

/// Trains the tokenizers that a transformer needs, for a step or two.
fn prepare(dir: &Path) -> dalle::DalleTrainingConfig {
    let text = serde_json::from_value(json!({
        "vocab_size": 300, "samples": 50, "data": {"scenes": {"world": "tiny", "seed": 3}}
    }))
    .unwrap();
    text_tokenizer::run(&text, &dir.join("text"), &mut StopAfter::steps(NEVER)).unwrap();
    let mut image = vqgan();
    image.run.steps = 1;
    train_image_tokenizer(&image, &dir.join("image"), false, NEVER).unwrap();
    dalle_config(dir)
}

#[test]
fn a_model_is_trained_on() {
    let dir = TempDir::new().unwrap();
    let mut config = prepare(dir.path());
    let device = Device::flex();
    let train = |config: &dalle::DalleTrainingConfig, out: &str| {
        let out = dir.path().join(out);
        dalle::run(config, &out, &device, false, &mut StopAfter::steps(NEVER))
    };
    let first = train(&config, "first").unwrap();
    config.from = Some(first.to_str().unwrap().to_owned());
    let error = train(&config, "second").unwrap_err().to_string();
    assert!(error.contains("leave them out"), "{error}");
    config.text_tokenizer = None;
    config.image_tokenizer = None;
    config.model = None;
    config.run.steps = 1;
    config.run.warmup_steps = 0;
    config.run.weight_decay = 0.0;
    config.run.learning_rate = 1e-7;
    // No row of the batch, were it not at least one.
    config.captioning_share = 0.01;
    let second = train(&config, "second").unwrap();
    let load = |path: PathBuf| {
        let files = ModelFiles::find(&ModelSource::Dir(path)).unwrap();
        NativeModel::load(&files, &device, None).unwrap()
    };
    let (first, second) = (load(first), load(second));
    let weights = crate::models::parameters::export(&second.net);
    for (name, before) in crate::models::parameters::export(&first.net) {
        // A step of next to nothing from the same weights.
        before.assert_approx_eq::<f32>(&weights[&name], burn::tensor::Tolerance::absolute(1e-5));
    }
    config.captioning_share = 0.0;
    train(&config, "third").unwrap();
    for (folder, captions) in [("second", true), ("third", false)] {
        let path = dir.path().join(folder).join("model");
        let model = Model::open(path.to_str().unwrap(), &device, &OpenOptions::default()).unwrap();
        assert_eq!(crate::judges::model_judges(&model), captions, "{folder}");
        let search = Search::Beam { width: 1 };
        let picture = Image::filled(16, 16, [9; 3]);
        let captioner = model.captioner().unwrap();
        let found = captioner.captions(&picture, 1, &search, None, &mut StopAfter::steps(NEVER));
        match (found, captions) {
            (Ok(found), true) => assert_eq!(found.len(), 1),
            (Err(error), false) => {
                assert!(error.to_string().contains("without captions"), "{error}")
            }
            (found, _) => panic!("{folder}: {found:?}"),
        }
    }
    config.from = None;
    let error = train(&config, "fourth").unwrap_err().to_string();
    assert!(error.contains("or `from`, a model to train on"), "{error}");
}

#[test]
fn resumed_transformers_equal_uninterrupted_ones() {
    resumed_equal_uninterrupted(TrainingPrecision::F32);
}

#[test]
fn resumed_transformers_equal_uninterrupted_ones_in_bf16() {
    if impasto_kernels::bf16::unit().is_some() {
        resumed_equal_uninterrupted(TrainingPrecision::Bf16);
    }
}

fn resumed_equal_uninterrupted(precision: TrainingPrecision) {
    let dir = TempDir::new().unwrap();
    let mut config = prepare(dir.path());
    config.run.precision = precision;
    let run = |out: &str, resume: bool, stop: u64| {
        dalle::run(
            &config,
            &dir.path().join(out),
            &Device::flex(),
            resume,
            &mut StopAfter::steps(stop),
        )
    };
    run("whole", false, NEVER).unwrap();
    assert!(matches!(run("parts", false, 3), Err(Error::Stopped)));
    // A model can be drawn with as soon as there is a checkpoint.
    let unfinished = dir.path().join("parts/model");
    let files = ModelFiles::find(&ModelSource::Dir(unfinished)).unwrap();
    NativeModel::load(&files, &Device::flex(), None).unwrap();
    run("parts", true, NEVER).unwrap();
    assert_same_files(&dir.path().join("whole"), &dir.path().join("parts"));
}

/// The same with captions that are not filled up, whose batches are sorted by their lengths.
#[test]
fn resumed_transformers_without_padding_equal_uninterrupted_ones() {
    let dir = TempDir::new().unwrap();
    let mut config = prepare(dir.path());
    if let Some(sizes) = &mut config.model {
        sizes.padded_text = false;
    }
    let run = |config: &dalle::DalleTrainingConfig, out: &str, resume: bool, stop: u64| {
        let (out, mut observer) = (dir.path().join(out), StopAfter::steps(stop));
        dalle::run(config, &out, &Device::flex(), resume, &mut observer)
    };
    let mut streamed = config.clone();
    streamed.encoded_pictures = None;
    for (config, whole, parts) in [
        (&streamed, "streamed whole", "streamed parts"),
        (&config, "whole", "parts"),
    ] {
        run(config, whole, false, NEVER).unwrap();
        assert!(matches!(run(config, parts, false, 3), Err(Error::Stopped)));
        run(config, parts, true, NEVER).unwrap();
        assert_same_files(&dir.path().join(whole), &dir.path().join(parts));
    }
    let draws = |model: &str| {
        let files = ModelFiles::find(&ModelSource::Dir(dir.path().join(model))).unwrap();
        let model = NativeModel::load(&files, &Device::flex(), None).unwrap();
        let ids = model.encode_caption("a cat", LongCaption::Refuse).unwrap();
        // With words and without.
        for ids in [&ids[..], &[]] {
            let null = NativeFamily::unconditional(&model.text, &model.config, ids);
            assert!(ids.len() <= null.len() && model.net.read(&null).is_ok());
        }
        (model.config.sizes.padded_text, ids.len())
    };
    let (padded, length) = draws("whole/model");
    assert!(!padded && length < 10, "{length}");
    // A model can be trained on with its captions filled up, or no longer so.
    config.from = Some(dir.path().join("whole/model").display().to_string());
    (config.text_tokenizer, config.image_tokenizer) = (None, None);
    config.model = None;
    config.padded_text = Some(true);
    run(&config, "padded", false, NEVER).unwrap();
    assert_eq!(draws("padded/model"), (true, 40));
}

/// A model's tokenizers, for a transformer of other sizes.
#[test]
fn the_tokenizers_of_a_model_are_taken() {
    let dir = TempDir::new().unwrap();
    let mut config = prepare(dir.path());
    let device = Device::flex();
    let train = |config: &dalle::DalleTrainingConfig, out: &str| {
        let out = dir.path().join(out);
        dalle::run(config, &out, &device, false, &mut StopAfter::steps(NEVER))
    };
    let first = train(&config, "first").unwrap();
    config.text_tokenizer = Some(first.clone());
    config.image_tokenizer = Some(first.clone());
    let again = train(&config, "again").unwrap();
    // The image tokenizer is written with the precision of a model the first time.
    let read = |model: &Path, file: &str| std::fs::read(model.join(file)).unwrap();
    for file in ["image_tokenizer.safetensors", "tokenizer.json"] {
        assert!(read(&first, file) == read(&again, file), "{file}");
    }
    if let Some(sizes) = &mut config.model {
        sizes.n_layers = 1;
    }
    let smaller = train(&config, "smaller").unwrap();
    assert!(read(&smaller, "dalle.safetensors").len() < read(&first, "dalle.safetensors").len());
}

/// Pictures of an endless world that are made beside the training: the same as without a stop, too.
#[test]
fn streamed_pictures_resume_where_they_were() {
    let dir = TempDir::new().unwrap();
    let mut config = prepare(dir.path());
    config.encoded_pictures = None;
    let run = |out: &str, resume: bool, stop: u64| {
        let out = dir.path().join(out);
        let mut observer = StopAfter::steps(stop);
        dalle::run(&config, &out, &Device::flex(), resume, &mut observer)
    };
    run("whole", false, NEVER).unwrap();
    assert!(matches!(run("parts", false, 3), Err(Error::Stopped)));
    run("parts", true, NEVER).unwrap();
    assert_same_files(&dir.path().join("whole"), &dir.path().join("parts"));
}

/// A run whose time is up measures, writes its model and does nothing when it is resumed.
#[test]
fn a_run_ends_when_its_time_is_up() {
    let dir = TempDir::new().unwrap();
    let mut config = vqgan();
    config.run.seconds = Some(1e-3);
    let weights = train_image_tokenizer(&config, dir.path(), false, NEVER).unwrap();
    let checkpoints = || {
        let found = std::fs::read_dir(dir.path().join("checkpoints")).unwrap();
        found
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert_eq!(checkpoints(), ["step-00000001"]);
    let before = std::fs::read(&weights).unwrap();
    train_image_tokenizer(&config, dir.path(), true, NEVER).unwrap();
    assert_eq!(checkpoints(), ["step-00000001"]);
    assert!(before == std::fs::read(&weights).unwrap());
}

#[test]
fn an_image_tokenizer_starts_from_another() {
    let dir = TempDir::new().unwrap();
    let mut config = vqgan();
    config.run.steps = 1;
    let first = dir.path().join("first");
    train_image_tokenizer(&config, &first, false, NEVER).unwrap();
    config.from = Some(first.clone());
    config.run.learning_rate = 1e-9;
    config.run.warmup_steps = 0;
    config.run.weight_decay = 0.0;
    let second = dir.path().join("second");
    train_image_tokenizer(&config, &second, false, NEVER).unwrap();
    let load = |dir: &Path| image_tokenizer::load(dir, &Device::flex()).unwrap();
    let weights = crate::models::parameters::export(&load(&second));
    for (name, before) in crate::models::parameters::export(&load(&first)) {
        // The codebook moves by averages, whatever the learning rate.
        if !name.contains("codebook") {
            before
                .assert_approx_eq::<f32>(&weights[&name], burn::tensor::Tolerance::absolute(1e-5));
        }
    }
    let image_tokenizer::ImageTokenizerTrainingConfig { model, .. } = &mut config;
    if let crate::models::ImageTokenizerConfig::Vqgan(sizes) = model {
        sizes.code_width = 8;
    }
    let third = dir.path().join("third");
    let error = train_image_tokenizer(&config, &third, false, NEVER).unwrap_err();
    assert!(error.to_string().contains("another autoencoder"), "{error}");
}

#[test]
fn bf16_is_refused_where_the_kernels_have_none() {
    let dir = TempDir::new().unwrap();
    let mut configs = vec![dvae()];
    if impasto_kernels::bf16::unit().is_none() {
        configs.push(vqgan());
    }
    for mut config in configs {
        config.run.precision = TrainingPrecision::Bf16;
        let error = train_image_tokenizer(&config, dir.path(), false, NEVER).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("expected \"precision\": \"f32\""), "{text}");
    }
}

#[test]
fn a_run_does_not_overwrite_another_unasked() {
    let dir = TempDir::new().unwrap();
    let mut config = vqgan();
    config.run.steps = 2;
    train_image_tokenizer(&config, dir.path(), false, NEVER).unwrap();
    let error = train_image_tokenizer(&config, dir.path(), false, NEVER).unwrap_err();
    assert_eq!(error.hint(), Some(crate::error::Hint::Resume), "{error}");
}

/// A learning rate that throws the weights to infinity must stop the run and name step and samples.
#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let dir = TempDir::new().unwrap();
    let mut config = vqgan();
    config.run.learning_rate = 1e30;
    config.run.warmup_steps = 1;
    let error = train_image_tokenizer(&config, dir.path(), false, NEVER).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("non-finite"), "{text}");
    assert!(text.contains("step") && text.contains("samples"), "{text}");
}

#[test]
fn a_run_that_ends_outside_its_expectation_fails() {
    let dir = TempDir::new().unwrap();
    let mut config = vqgan();
    config.run.steps = 1;
    let bounds = config::Bounds {
        at_least: Some(90.0),
        at_most: None,
    };
    config.run.expect.insert("validation_psnr".into(), bounds);
    let error = train_image_tokenizer(&config, dir.path(), false, NEVER)
        .unwrap_err()
        .to_string();
    assert!(error.contains("validation_psnr ended at"), "{error}");
    // Resuming the finished run used to measure nothing, and passed.
    let again = train_image_tokenizer(&config, dir.path(), true, NEVER)
        .unwrap_err()
        .to_string();
    assert_eq!(again, error);
}

/// A user's own pictures, with a broken one and one without a caption among them, train without code.
#[test]
fn a_folder_of_pictures_trains_and_lists_what_it_leaves_out() {
    use crate::image::{Format, Image};
    let dir = TempDir::new().unwrap();
    let pictures = dir.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for i in 0..20u8 {
        let picture = Image::filled(70, 90, [i * 12, 100, 255 - i * 12]);
        std::fs::write(
            pictures.join(format!("{i}.png")),
            picture.encode(Format::Png, 100).unwrap(),
        )
        .unwrap();
        std::fs::write(
            pictures.join(format!("{i}.txt")),
            format!("picture number {i}\n"),
        )
        .unwrap();
    }
    std::fs::write(
        pictures.join("alone.png"),
        Image::filled(9, 9, [0; 3])
            .encode(Format::Png, 100)
            .unwrap(),
    )
    .unwrap();
    std::fs::write(pictures.join("broken.jpg"), b"no").unwrap();
    std::fs::write(pictures.join("broken.txt"), b"a caption").unwrap();
    let mut config = vqgan();
    config.data = serde_json::from_value(
        json!({"pairs": {"from": {"folder": pictures}, "validation_share": 0.2}}),
    )
    .unwrap();
    let out = dir.path().join("out");
    train_image_tokenizer(&config, &out, false, NEVER).unwrap();
    let excluded: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("excluded.json")).unwrap()).unwrap();
    assert_eq!(excluded["usable"], 20);
    assert_eq!(excluded["without_caption"], json!(["alone.png"]));
    assert_eq!(excluded["unreadable"][0]["key"], "broken.jpg");
}

fn clip_config(dir: &Path) -> clip::ClipTrainingConfig {
    let tower = json!({"width": 16, "n_layers": 2, "n_heads": 2, "hidden": 32});
    serde_json::from_value(json!({
        "name": "test", "licence": "CC0-1.0", "text_tokenizer": dir.join("text"),
        "model": {
            "image_size": 64, "patch_size": 16, "image": tower, "text_length": 40, "text": tower,
            "projection_width": 8
        },
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "run": run_config(),
        "validation": 6
    }))
    .unwrap()
}

fn prepare_clip(dir: &Path) -> clip::ClipTrainingConfig {
    let text = serde_json::from_value(json!({
        "vocab_size": 300, "samples": 50, "data": {"scenes": {"world": "tiny", "seed": 3}}
    }))
    .unwrap();
    text_tokenizer::run(&text, &dir.join("text"), &mut StopAfter::steps(NEVER)).unwrap();
    clip_config(dir)
}

fn train_clip(
    config: &clip::ClipTrainingConfig,
    dir: &Path,
    resume: bool,
    stop: u64,
) -> crate::Result<PathBuf> {
    let mut observer = StopAfter::steps(stop);
    clip::run(config, dir, &Device::flex(), resume, &mut observer)
}

#[test]
fn resumed_clips_equal_uninterrupted_ones() {
    let dir = TempDir::new().unwrap();
    let mut config = prepare_clip(dir.path());
    config.run.optimizer = config::OptimizerKind::Muon;
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train_clip(&config, &whole, false, NEVER).unwrap();
    assert!(matches!(
        train_clip(&config, &parts, false, 3),
        Err(Error::Stopped)
    ));
    train_clip(&config, &parts, true, NEVER).unwrap();
    assert_same_files(&whole, &parts);
}

/// Eight pairs at once, or in four passes that share their loss: the same losses and the same gradients,
/// up to the order of sums.
#[test]
fn a_batch_in_chunks_has_the_gradients_of_the_whole() {
    for loss in ["info_nce", "sigmoid"] {
        let dir = TempDir::new().unwrap();
        let mut config = prepare_clip(dir.path());
        config.loss = serde_json::from_value(json!(loss)).unwrap();
        config.run.steps = 3;
        let logged = |config: &clip::ClipTrainingConfig, name: &str| -> Vec<(f64, f64)> {
            let out = dir.path().join(name);
            train_clip(config, &out, false, NEVER).unwrap();
            let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
            text.lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
                .filter_map(|line| Some((line["loss"].as_f64()?, line["gradient_norm"].as_f64()?)))
                .collect()
        };
        config.run.batch_size = 8;
        config.run.gradient_accumulation = 1;
        let whole = logged(&config, "whole");
        config.run.batch_size = 2;
        config.run.gradient_accumulation = 4;
        let chunks = logged(&config, "chunks");
        assert_eq!((whole.len(), chunks.len()), (3, 3));
        for ((loss, norm), (chunked_loss, chunked_norm)) in whole.into_iter().zip(chunks) {
            assert!(
                (loss - chunked_loss).abs() < 1e-5 * loss,
                "{loss} {chunked_loss}"
            );
            assert!(
                (norm - chunked_norm).abs() < 1e-4 * norm,
                "{norm} {chunked_norm}"
            );
        }
    }
}
