#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::ModelSource;
use crate::checkpoint::stored::safetensors;
use crate::families::{self, AnyModel, DalleMini, FamilyLoss};
use crate::image::Image;
use crate::import::goldens::copied;
use crate::models::parameters::Parameters;
use crate::models::{DalleBart, DallePytorch, Janus, LlamaGen, RuDalle};
use crate::text::clip::LongCaption;
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

/// A file of a set: its tensors, and what JSON there is about them under `about`.
fn read<T: DeserializeOwned>(set: &str, file: &str, about: &str) -> (Parameters, T) {
    let path = golden(set).join(file);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors(&path, &bytes).unwrap();
    let tensors = tensors.into_iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (name, TensorData::new(tensor.floats(), shape))
    });
    let tensors = tensors.collect();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let about = &metadata.metadata().as_ref().unwrap()[about];
    (tensors, serde_json::from_str(about).unwrap())
}

/// What PyTorch's training of a set was given and said.
struct Expected {
    losses: Vec<f32>,
    captions: Vec<Vec<u32>>,
    image_ids: Vec<Vec<u32>>,
}

impl Expected {
    fn of(set: &str) -> Self {
        let (tensors, captions) = read(set, "expected.safetensors", "text_ids");
        let ids = &tensors["image_ids"];
        Expected {
            losses: tensors["losses"].try_to_vec().unwrap(),
            captions,
            image_ids: ids
                .as_slice::<f32>()
                .unwrap()
                .chunks(ids.shape()[1])
                .map(|row| row.iter().map(|&id| id as u32).collect())
                .collect(),
        }
    }
}

/// The same of additions of low rank.
struct ExpectedOfLora {
    losses: Vec<f32>,
    config: LoraConfig,
    /// The additions before the first step, and their gradients in it.
    before: Parameters,
    gradients: Parameters,
}

impl ExpectedOfLora {
    fn of(set: &str) -> Self {
        let (tensors, config) = read(set, "lora.safetensors", "lora");
        let under = |prefix: &str| -> Parameters {
            let named = tensors.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
            });
            named.collect()
        };
        ExpectedOfLora {
            losses: tensors["losses"].try_to_vec().unwrap(),
            config,
            before: under("before."),
            gradients: under("gradient."),
        }
    }
}

/// Ten steps as PyTorch made them: the same losses, and the same gradients in the first.
fn ten_steps<M: Module>(
    set: &str,
    mut model: M,
    weight_decay: f64,
    losses: &[f32],
    gradients: &Parameters,
    pass: impl Fn(&M) -> FamilyLoss,
) {
    let run = RunConfig {
        weight_decay,
        ema_decay: 0.0,
        ..RunConfig::default()
    };
    assert_eq!(losses.len(), 10);
    let mut optimizer = Optimizer::new(&run);
    for (step, &reference) in losses.iter().enumerate() {
        let pass = pass(&model);
        let found = pass.loss.clone().into_scalar::<f32>();
        assert!(
            (found - reference).abs() <= 1e-3 * reference,
            "{set}, step {step}: {found} {reference}"
        );
        let found = NamedGradients::collect(&model, &pass.loss.backward());
        if step == 0 {
            same_gradients(set, &found, gradients);
        }
        model = optimizer.step(model, found, 3e-3, 1.0, step as u64);
    }
}

/// What the names of a set's tensors that have no gradient begin with.
fn without_gradient(set: &str) -> &'static [&'static str] {
    match set {
        // What reads the captions is not trained.
        "llamagen" => &["caption.text.", "caption.nothing"],
        // What sees and speaks has no part in pictures.
        "janus" => &["text_head.", "vision"],
        // Angles of places are no weights.
        _ => &["rotary"],
    }
}

fn same_gradients(set: &str, found: &NamedGradients, expected: &Parameters) {
    for (name, reference) in expected {
        if without_gradient(set)
            .iter()
            .any(|start| name.starts_with(start))
        {
            assert!(!found.by_name.contains_key(name), "{name}");
            continue;
        }
        let reference = reference.as_slice::<f32>().unwrap();
        let gradient = found.by_name[name].to_data();
        let gradient = gradient.as_slice::<f32>().unwrap();
        assert_eq!(gradient.len(), reference.len(), "{set}: {name}");
        let largest = reference.iter().fold(0.0f32, |most, g| most.max(g.abs()));
        assert!(largest > 0.0, "{set}: {name}");
        for (a, b) in gradient.iter().zip(reference) {
            assert!(
                (a - b).abs() <= 1e-3 * largest + 1e-7,
                "{set}, {name}: {a} {b}, largest {largest}"
            );
        }
    }
}

type Loss<M> = fn(&M, &Expected) -> FamilyLoss;

fn trains_like_pytorch<M: Adapt>(set: &str, model: M, gradients: &M, loss: Loss<M>) {
    let expected = Expected::of(set);
    let model = for_training(model, &RunConfig::default());
    let gradients = parameters::export(gradients);
    assert!(gradients.len() > 20, "{}", gradients.len());
    let pass = |model: &M| loss(model, &expected);
    ten_steps(set, model, 0.0, &expected.losses, &gradients, pass);
}

/// The same where `model` stays as it is.
fn adapts_like_pytorch<M: Adapt>(set: &str, mut model: M, loss: Loss<M>) {
    let expected = Expected::of(set);
    let lora = ExpectedOfLora::of(set);
    let mut empty = Init::empty(&Device::flex());
    let adapter = Adapter::new(&lora.config, &model.linears(), &mut empty).unwrap();
    let walked = adapter.walked_names();
    assert_eq!(walked.len(), lora.gradients.len());
    let gradients = lora.gradients.iter();
    let gradients = gradients
        .map(|(name, gradient)| (walked[name].clone(), gradient.clone()))
        .collect();
    let adapter = adapter::fill(adapter, lora.before).unwrap();
    let adapter = for_training(adapter, &RunConfig::default());
    let pass = |adapter: &Adapter| {
        let mut adapted = model.clone();
        adapter.attach(adapted.linears(), None);
        loss(&adapted, &expected)
    };
    ten_steps(set, adapter, 0.1, &lora.losses, &gradients, pass);
}

#[test]
fn ten_steps_of_dalle_pytorch_are_those_of_pytorch() {
    for set in ["rotary", "kinds", "reversible"] {
        let load = |file: &str| pytorch(&golden(set).join(file));
        let loss: Loss<DallePytorch> = |model, expected| {
            type Family = families::DallePytorch;
            Family::loss(model, &expected.captions, &expected.image_ids, 7.0).unwrap()
        };
        let model = load("dalle.pt").for_training();
        trains_like_pytorch(set, model, &load("gradients.pt"), loss);
        adapts_like_pytorch(set, load("dalle.pt"), loss);
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

fn net<F: Family>(path: &Path) -> F::Net {
    let source = ModelSource::parse(path.to_str().unwrap()).unwrap();
    let files = ModelFiles::find(&source).unwrap();
    let wanted = Some(WeightFormat::F32);
    let model = FamilyModel::<F>::load(&files, &Device::flex(), wanted);
    model.unwrap().net
}

fn mini(folder: &Path) -> DalleBart {
    net::<DalleMini>(folder)
}

fn pytorch(file: &Path) -> DallePytorch {
    net::<families::DallePytorch>(file)
}

fn mini_loss(net: &DalleBart, expected: &Expected) -> FamilyLoss {
    DalleMini::loss(net, &expected.captions, &expected.image_ids, 1.0).unwrap()
}

#[test]
fn ten_steps_of_dalle_mini_are_those_of_pytorch() {
    let load = |suffix: &str| -> DalleBart { mini(mini_folder(suffix).path()) };
    trains_like_pytorch("mini", load(""), &load("_gradients"), mini_loss);
    adapts_like_pytorch("mini", load(""), mini_loss);
}

/// A folder with the transformer of a set, the other files those of an importer's golden.
fn rudalle_net(set: &str, file: &str, version: &str) -> RuDalle {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join(format!("pytorch_model_{version}.bin"));
    std::fs::copy(golden(set).join(file), to).unwrap();
    let others = published("rudalle/goldens").join(version);
    for file in ["bpe.model", "vqgan.gumbelf8-sber.model.ckpt"] {
        std::fs::copy(others.join(file), folder.path().join(file)).unwrap();
    }
    let heads = if version == "v2" { 3 } else { 2 };
    let config = json!({"model_params": {"num_attention_heads": heads}});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    net::<families::RuDalle>(folder.path())
}

#[test]
fn ten_steps_of_rudalle_are_those_of_pytorch() {
    for (set, version) in [("rudalle_v3", "v3"), ("rudalle_v2", "v2")] {
        let load = |file: &str| rudalle_net(set, file, version);
        let loss: Loss<RuDalle> = |model, expected| {
            type Family = families::RuDalle;
            Family::loss(model, &expected.captions, &expected.image_ids, 7.0).unwrap()
        };
        let file = format!("pytorch_model_{version}.bin");
        trains_like_pytorch(set, load(&file), &load("gradients.bin"), loss);
        adapts_like_pytorch(set, load(&file), loss);
    }
}

/// The transformer of an importer's golden, or what `reference/write_llamagen_fine_tuning_goldens.py` has in its place.
fn llamagen_net(file: Option<&str>) -> LlamaGen {
    let folder = copied(&published("llamagen/goldens/t2i"));
    if let Some(file) = file {
        let to = folder.path().join("t2i_tiny_256.pt");
        std::fs::copy(golden("llamagen").join(file), to).unwrap();
    }
    net::<families::LlamaGen>(folder.path())
}

#[test]
fn ten_steps_of_llamagen_are_those_of_pytorch() {
    let loss: Loss<LlamaGen> = |model, expected| {
        type Family = families::LlamaGen;
        Family::loss(model, &expected.captions, &expected.image_ids, 1.0).unwrap()
    };
    let model = families::LlamaGen::for_training(llamagen_net(None));
    let gradients = llamagen_net(Some("gradients.pt"));
    trains_like_pytorch("llamagen", model, &gradients, loss);
    adapts_like_pytorch("llamagen", llamagen_net(None), loss);
}

/// The model of an importer's golden, or what `reference/write_janus_fine_tuning_goldens.py` has in place of some of its
/// tensors.
fn janus_net(file: Option<&str>) -> Janus {
    let folder = copied(&published("janus/goldens/pro"));
    if let Some(file) = file {
        let path = folder.path().join("model.safetensors");
        let (whole, some) = (
            std::fs::read(&path).unwrap(),
            std::fs::read(golden("janus").join(file)).unwrap(),
        );
        let tensors = |bytes| SafeTensors::deserialize(bytes).unwrap();
        let (whole, some) = (tensors(&whole), tensors(&some));
        let mut merged: BTreeMap<_, _> = whole.iter().collect();
        for (name, tensor) in some.iter() {
            assert!(merged.insert(name, tensor).is_some(), "{name}");
        }
        let bytes = safetensors::serialize(merged, None).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    net::<families::Janus>(folder.path())
}

#[test]
fn ten_steps_of_janus_are_those_of_pytorch() {
    let loss: Loss<Janus> = |model, expected| {
        type Family = families::Janus;
        Family::loss(model, &expected.captions, &expected.image_ids, 1.0).unwrap()
    };
    let gradients = janus_net(Some("gradients.safetensors"));
    trains_like_pytorch("janus", janus_net(None), &gradients, loss);
    adapts_like_pytorch("janus", janus_net(None), loss);
}

const PYTORCH: &str = "dalle_pytorch/goldens/rotary/dalle.pt";
const MINI: &str = "dalle_mini/goldens/flax_stacked";
const RUDALLE: &str = "rudalle/goldens/v3";
const JANUS: &str = "janus/goldens/pro";

fn source(path: &str) -> ModelFiles {
    let source = ModelSource::parse(published(path).to_str().unwrap());
    ModelFiles::find(&source.unwrap()).unwrap()
}

fn config(change: serde_json::Value) -> FineTuneConfig {
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

fn tune(
    config: &FineTuneConfig,
    model: &str,
    dir: &Path,
    resume: bool,
    stop: u64,
) -> Result<PathBuf> {
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
        if config.lora.is_some() && model == PYTORCH {
            let other = "dalle_pytorch/goldens/reversible";
            let error = tune(&config, other, &parts, true, NEVER).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("in this folder began with"), "{error}");
        }
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
        (lora(2, "text_head"), JANUS, "image_head.inner"),
        (lora(0, "q"), MINI, "rank is 0"),
        (lora(99, "attention.q"), MINI, "expected 1 to 36"),
        (
            json!({"run": {"optimizer": "muon"}}),
            MINI,
            "expected adamw",
        ),
        (json!({"precision": "int8"}), MINI, "can't be trained in"),
        (
            json!({"image_loss_weight": 3.0}),
            MINI,
            "a loss of pictures alone",
        ),
        (
            json!({"image_loss_weight": 0.0}),
            PYTORCH,
            "image_loss_weight is 0",
        ),
        (json!({"caption_dropout": 1.5}), PYTORCH, "caption_dropout"),
        (
            json!({}),
            "image_tokenizer/goldens/discrete_vae/vae.pt",
            "can't be fine-tuned",
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

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// −log p of the ids of a picture after a caption.
fn nats(model: &dyn AnyModel) -> f64 {
    let size = model.image_tokenizer().config().picture_size();
    let picture = Image::filled(size, size, [200, 40, 90]);
    let ids = model.image_tokenizer().encode(&[picture], model.device());
    let generator = model.generator().unwrap();
    let likelihood = generator.likelihood("a red turtle", &ids.unwrap()[0], LongCaption::Refuse);
    -likelihood.unwrap().image_log_likelihood
}

/// Additions that are zero so far, in every place of both families.
#[test]
fn a_new_adapter_changes_no_bit_of_a_model() {
    let all = |rank: usize| -> LoraConfig {
        let targets = ["q", "k", "v", "out", "up", "gate", "down"];
        serde_json::from_value(json!({"rank": rank, "targets": targets})).unwrap()
    };
    let mut init = Init::new(1, &Device::flex());
    let expected = Expected::of("mini");
    let mut model = mini(mini_folder("").path());
    let nats = |model: &DalleBart| floats(mini_loss(model, &expected).loss);
    let before = nats(&model);
    let adapter = Adapter::new(&all(3), &model.linears(), &mut init).unwrap();
    adapter.attach(model.linears(), None);
    assert_eq!(nats(&model), before);
    let logits = |model: &DallePytorch, expected: &Expected| {
        let (states, mut known) = model.prefill(&expected.captions).unwrap();
        let behind = model.step(&expected.image_ids, &mut known).unwrap();
        (
            floats(model.text_logits(states)),
            floats(model.image_logits(behind)),
        )
    };
    for set in ["rotary", "kinds", "reversible"] {
        let expected = Expected::of(set);
        let mut model = pytorch(&golden(set).join("dalle.pt"));
        let before = logits(&model, &expected);
        let adapter = Adapter::new(&all(2), &model.linears(), &mut init).unwrap();
        adapter.attach(model.linears(), None);
        assert_eq!(logits(&model, &expected), before, "{set}");
    }
}

#[test]
fn merged_models_are_as_unmerged_ones() {
    for model in [PYTORCH, MINI, RUDALLE, JANUS] {
        let dir = tempfile::tempdir().unwrap();
        let adapter = tune(&config(lora()), model, dir.path(), false, NEVER).unwrap();
        let (source, device) = (source(model), Device::flex());
        let merged = dir.path().join("merged");
        families::merge(&source, &adapter, &merged).unwrap();
        let merged = ModelFiles::find(&ModelSource::Dir(merged)).unwrap();
        let plain = families::open(&source, &device, None, None).unwrap();
        let adapted = families::open(&source, &device, None, Some(&adapter)).unwrap();
        let whole = families::open(&merged, &device, None, None).unwrap();
        assert_eq!((adapted.name(), whole.name()), ("tuned", "tuned"));
        let (plain, adapted, whole) = (nats(&*plain), nats(&*adapted), nats(&*whole));
        assert!((adapted / plain - 1.0).abs() > 1e-4, "{plain} {adapted}");
        assert!((adapted / whole - 1.0).abs() < 1e-5, "{adapted} {whole}");
        // Another model of the same sizes: the merged one once more, trained on as a whole.
        let tuned = dir.path().join("tuned");
        let mut more = config(json!({}));
        more.run.steps = 1;
        let mut observer = StopAfter::steps(NEVER);
        let tuned = run(&more, &merged, &tuned, &device, false, &mut observer).unwrap();
        let other = ModelFiles::find(&ModelSource::Dir(tuned)).unwrap();
        let error = families::open(&other, &device, None, Some(&adapter)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("whose weights are not those of tuned"),
            "{error}"
        );
        // A damaged adapter.
        let file = adapter.join("adapter.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        let error = families::open(&source, &device, None, Some(&adapter)).unwrap_err();
        assert!(
            error.to_string().contains("not a whole safetensors file"),
            "{error}"
        );
    }
}

/// Weights that stay as they are may be held in fewer bits; what is learned beside them hardly differs.
#[test]
fn additions_to_packed_weights_learn_too() {
    let losses = |precision: Option<&str>| -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        let mut change = lora();
        change["precision"] = json!(precision);
        change["lora"]["dropout"] = json!(0.0);
        tune(&config(change), MINI, dir.path(), false, NEVER).unwrap();
        logged(dir.path(), "loss")
    };
    let plain = losses(None);
    for (format, tolerance) in [("bf16", 0.01), ("int8", 0.03)] {
        let packed = losses(Some(format));
        assert_ne!(packed, plain, "{format}");
        for (packed, plain) in packed.iter().zip(&plain) {
            assert!(
                (packed / plain - 1.0).abs() < tolerance,
                "{format}: {packed} {plain}"
            );
        }
    }
}

fn logged(dir: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_f64())
        .collect()
}
