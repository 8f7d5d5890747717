#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use safetensors::SafeTensors;
use serde_json::json;
use tempfile::TempDir;

use super::published::{mini_loss, pytorch_loss};
use super::*;
use crate::checkpoint::adapter;
use crate::checkpoint::dalle_mini::DalleMini;
use crate::checkpoint::stored::safetensors;
use crate::import;
use crate::models::{DalleBart, DallePytorch};
use crate::train::engine::Pass;
use crate::train::optimizer::{NamedGradients, Optimizer};
use crate::train::tests::{NEVER, StopAfter, assert_same_files};

/// `reference/write_fine_tuning_goldens.py` made these folders.
fn golden(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources.join("train/fine_tune/goldens").join(name)
}

/// Those of the importers.
fn published(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/import")
        .join(path)
}

/// What PyTorch's training of a set was given and said.
struct Expected {
    losses: Vec<f32>,
    captions: Vec<Vec<u32>>,
    image_ids: Vec<Vec<u32>>,
}

impl Expected {
    fn of(set: &str) -> Self {
        let path = golden(set).join("expected.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors(&path, &bytes).unwrap();
        let find = |name: &str| {
            let (_, tensor) = tensors.iter().find(|(found, _)| found == name).unwrap();
            (tensor.floats(), tensor.shape().to_vec())
        };
        let (ids, shape) = find("image_ids");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let text_ids = &metadata.metadata().as_ref().unwrap()["text_ids"];
        Expected {
            losses: find("losses").0,
            captions: serde_json::from_str(text_ids).unwrap(),
            image_ids: ids
                .chunks(shape[1])
                .map(|row| row.iter().map(|&id| id as u32).collect())
                .collect(),
        }
    }
}

/// Ten steps as PyTorch made them: the same losses, and the same gradients in the first.
fn trains_like_pytorch<M: Adapt>(
    set: &str,
    model: M,
    gradients: &M,
    loss: impl Fn(&M, &Expected) -> Pass,
) {
    let run = RunConfig {
        weight_decay: 0.0,
        ema_decay: 0.0,
        ..RunConfig::default()
    };
    let expected = Expected::of(set);
    assert_eq!(expected.losses.len(), 10);
    let mut model = for_training(model, &run);
    let mut optimizer = Optimizer::new(&run);
    for (step, &reference) in expected.losses.iter().enumerate() {
        let pass = loss(&model, &expected);
        let found = pass.loss.clone().into_scalar::<f32>();
        assert!(
            (found - reference).abs() <= 1e-3 * reference,
            "{set}, step {step}: {found} {reference}"
        );
        let found = NamedGradients::collect(&model, &pass.loss.backward());
        if step == 0 {
            same_gradients(set, &found, &parameters::export(gradients));
        }
        model = optimizer.step(model, found, 3e-3, 1.0, step as u64);
    }
}

fn same_gradients(set: &str, found: &NamedGradients, expected: &BTreeMap<String, TensorData>) {
    let mut compared = 0;
    for (name, reference) in expected {
        // Angles of places are no weights, and have no gradient.
        if name == "rotary" {
            assert!(!found.by_name.contains_key(name));
            continue;
        }
        let reference = reference.as_slice::<f32>().unwrap();
        let gradient = found.by_name[name].to_data();
        let gradient = gradient.as_slice::<f32>().unwrap();
        let largest = reference.iter().fold(0.0f32, |most, g| most.max(g.abs()));
        assert!(largest > 0.0, "{set}: {name}");
        for (a, b) in gradient.iter().zip(reference) {
            assert!(
                (a - b).abs() <= 1e-3 * largest + 1e-7,
                "{set}, {name}: {a} {b}, largest {largest}"
            );
        }
        compared += gradient.len();
    }
    assert!(compared > 3000, "{compared}");
}

#[test]
fn ten_steps_of_dalle_pytorch_are_those_of_pytorch() {
    for set in ["rotary", "kinds", "reversible"] {
        let load = |file: &str| -> DallePytorch {
            let path = golden(set).join(file);
            let published = import::dalle_pytorch::load(&path, &Device::flex()).unwrap();
            assert!(published.report.is_complete());
            published.model.dalle
        };
        let model = load("dalle.pt").for_training();
        trains_like_pytorch(set, model, &load("gradients.pt"), |model, expected| {
            pytorch_loss(model, &expected.captions, &expected.image_ids, 7.0).unwrap()
        });
    }
}

/// A folder like min-dalle's, with the image tokenizer and words of another golden.
fn mini_folder(suffix: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["encoder", "decoder"] {
        let from = golden("mini").join(format!("{file}{suffix}.pt"));
        std::fs::copy(from, folder.path().join(format!("{file}.pt"))).unwrap();
    }
    for file in ["detoker.pt", "vocab.json", "merges.txt"] {
        let from = published("dalle_mini/goldens/min_dalle").join(file);
        std::fs::copy(from, folder.path().join(file)).unwrap();
    }
    folder
}

fn mini(folder: &Path) -> DalleMini {
    let source = ModelSource::Dir(folder.to_owned());
    let wanted = Some(WeightFormat::F32);
    let pipeline = DalleMiniPipeline::load_in(&source, &Device::flex(), wanted);
    pipeline.unwrap().model
}

#[test]
fn ten_steps_of_dalle_mini_are_those_of_pytorch() {
    let load = |suffix: &str| -> DalleBart { mini(mini_folder(suffix).path()).dalle };
    trains_like_pytorch("mini", load(""), &load("_gradients"), |model, expected| {
        mini_loss(model, &expected.captions, &expected.image_ids).unwrap()
    });
}

const PYTORCH: &str = "dalle_pytorch/goldens/rotary/dalle.pt";
const MINI: &str = "dalle_mini/goldens/flax_stacked";

fn source(path: &str) -> ModelSource {
    ModelSource::parse(published(path).to_str().unwrap()).unwrap()
}

fn config(change: serde_json::Value) -> Config {
    let mut config = json!({
        "name": "tuned",
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "encoded_pictures": 12,
        "run": {
            "seed": 5, "steps": 6, "batch_size": 3, "gradient_accumulation": 2, "learning_rate": 0.003,
            "warmup_steps": 2, "log_every": 1, "checkpoint_every": 2, "weight_decay": 0.01
        },
        "caption_dropout": 0.3, "validation": 3, "samples": 1
    });
    for (name, value) in change.as_object().unwrap() {
        config[name] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn lora() -> serde_json::Value {
    json!({"lora": {"rank": 2, "alpha": 4, "targets": ["attention.q", "attention.v", "down"], "dropout": 0.2}})
}

fn tune(config: &Config, model: &str, dir: &Path, resume: bool, stop: u64) -> Result<PathBuf> {
    let mut observer = StopAfter::steps(stop);
    run(
        config,
        &source(model),
        dir,
        &Device::flex(),
        resume,
        &mut observer,
    )
}

/// Weights and additions, moments, averages, metrics, pictures: all bits.
#[test]
fn resumed_runs_equal_uninterrupted_ones() {
    for (model, change) in [
        (PYTORCH, json!({})),
        (PYTORCH, lora()),
        (MINI, json!({})),
        (MINI, lora()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        let config = config(change);
        let written = tune(&config, model, &whole, false, NEVER).unwrap();
        let name = if config.lora.is_some() {
            "adapter"
        } else {
            "model"
        };
        assert_eq!(written, whole.join(name));
        let stopped = tune(&config, model, &parts, false, 3);
        assert!(matches!(stopped, Err(Error::Stopped)));
        tune(&config, model, &parts, true, NEVER).unwrap();
        assert_same_files(&whole, &parts);
    }
}

/// The weights that the additions are to are not trained, kept or written.
#[test]
fn an_adapted_run_stores_the_additions_only() {
    let dir = tempfile::tempdir().unwrap();
    let written = tune(&config(lora()), MINI, dir.path(), false, NEVER).unwrap();
    let bytes = |path: PathBuf| std::fs::metadata(path).unwrap().len();
    let stored = bytes(written.join("adapter.safetensors"));
    let checkpoint = bytes(
        dir.path()
            .join("checkpoints/step-00000006/model.safetensors"),
    );
    let whole = bytes(published(MINI).join("flax_model.msgpack"));
    // In 32 bits, against 16.
    assert!(
        stored < whole / 3 && checkpoint < whole / 3,
        "{stored} {checkpoint} {whole}"
    );
    assert!(!dir.path().join("model").exists());
    let about = adapter::config(&written).unwrap();
    assert_eq!(
        (about.name.as_str(), about.base.as_str()),
        ("tuned", "flax_stacked")
    );
}

#[test]
fn what_can_not_be_trained_is_refused() {
    let refused = |change: serde_json::Value, model: &str| {
        let dir = tempfile::tempdir().unwrap();
        let error = tune(&config(change), model, dir.path(), false, NEVER);
        let error = error.unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        (error, left)
    };
    let lora = |rank: usize, target: &str| json!({"lora": {"rank": rank, "targets": [target]}});
    for (change, model, part) in [
        (lora(2, "attention.z"), PYTORCH, "feed_forward.gate"),
        (lora(2, "attention.z"), MINI, "decoder.caption_attention.k"),
        (lora(0, "q"), MINI, "rank is 0"),
        (lora(99, "attention.q"), MINI, "expected 1 to 36"),
        (
            json!({"run": {"optimizer": "muon"}}),
            MINI,
            "expected adamw",
        ),
        (json!({"precision": "int8"}), MINI, "can't be trained in"),
        (json!({"image_loss_weight": 3.0}), MINI, "for DALLE-pytorch"),
        (
            json!({"image_loss_weight": 0.0}),
            PYTORCH,
            "image_loss_weight is 0",
        ),
        (json!({"caption_dropout": 1.5}), PYTORCH, "caption_dropout"),
        (
            json!({}),
            "image_tokenizer/goldens/discrete_vae/vae.pt",
            "can't be trained on",
        ),
    ] {
        let (error, left) = refused(change, model);
        assert!(error.contains(part), "{part}: {error}");
        assert_eq!(left, 0, "{error}");
    }
    let (error, _) = refused(json!({}), "dalle_mini/goldens/min_dalle");
    assert!(error.contains("without an encoder"), "{error}");
    let (error, _) = refused(json!({"encoded_pictures": null}), PYTORCH);
    assert!(error.contains("encoded_pictures must be given"), "{error}");
}
