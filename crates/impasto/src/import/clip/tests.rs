#![allow(clippy::unwrap_used)]

use std::fs;

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;
use safetensors::SafeTensors;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::weights::Precision;
use crate::checkpoint::{ClipModel, ModelSource};
use crate::image::Image;
use crate::import::damage::damage;
use crate::models::clip::{Activation, ContrastiveLoss, EndOfText, unit};
use crate::text::clip::LongCaption;
use crate::train::config::RunConfig;
use crate::train::optimizer::{NamedGradients, Optimizer};

/// `reference/write_clip_goldens.py` made these folders.
fn golden(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources.join("import/clip/goldens").join(name)
}

const FOLDERS: [&str; 4] = [
    "hugging_face",
    "hugging_face_bin",
    "open_clip",
    "open_clip_quickgelu",
];

fn load_golden(name: &str) -> PublishedClip {
    load(&golden(name), &Options::default(), &Device::flex()).unwrap()
}

/// What the reference made of a model.
struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn of(folder: &str) -> Self {
        let bytes = fs::read(golden(folder).join("expected.safetensors")).unwrap();
        Expected { bytes }
    }

    fn words(&self, name: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let (words, rest) = view.data().as_chunks::<4>();
        assert!(rest.is_empty());
        (view.shape().to_vec(), words.to_vec())
    }

    fn floats(&self, name: &str) -> TensorData {
        let (shape, words) = self.words(name);
        let values: Vec<f32> = words.into_iter().map(f32::from_le_bytes).collect();
        TensorData::new(values, shape)
    }

    /// Rows of ids, those that fill them up left out.
    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, words) = self.words(name);
        let ids: Vec<i32> = words.into_iter().map(i32::from_le_bytes).collect();
        let rows = ids.chunks(shape[1]);
        rows.map(|row| {
            row.iter()
                .filter(|&&id| id >= 0)
                .map(|&id| id as u32)
                .collect()
        })
        .collect()
    }

    fn captions(&self) -> Vec<String> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["captions"]).unwrap()
    }
}

/// Within `relative` of the largest expected value.
fn assert_close(found: TensorData, expected: TensorData, relative: f32, what: &str) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let found: Vec<f32> = found.try_into_vec().unwrap();
    let expected: Vec<f32> = expected.try_into_vec().unwrap();
    let scale = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(
            apart <= relative * scale,
            "{what}[{i}]: {found}, PyTorch has {expected}"
        );
    }
}

/// Captions and pictures to ids, pixels, embeddings and logits.
fn check(name: &str, published: &PublishedClip) {
    let expected = Expected::of(name);
    let clip = &published.clip;
    let limit = clip.config().text_length;
    let mut ids = Vec::new();
    for caption in expected.captions() {
        ids.extend(
            published
                .text
                .encode_caption(&caption, limit, LongCaption::Refuse)
                .unwrap(),
        );
    }
    assert_eq!(ids, expected.ids("text_ids"), "{name}");
    let pictures = [0, 1].map(|i| Image::open(golden(name).join(format!("{i}.png"))).unwrap());
    let pixels = clip.pixels(&pictures).unwrap();
    // Bytes are equal; their division rounds in another order.
    let what = |part: &str| format!("{name} {part}");
    assert_close(
        pixels.clone().into_data(),
        expected.floats("pixels"),
        1e-6,
        &what("pixels"),
    );
    let image = clip.encode_image(pixels);
    let text = clip.encode_text(&ids).unwrap();
    // Sums of some hundred products in another order, through some layers.
    let (image_data, text_data) = (image.clone().into_data(), text.clone().into_data());
    assert_close(image_data, expected.floats("image"), 1e-5, &what("image"));
    assert_close(text_data, expected.floats("text"), 1e-5, &what("text"));
    let logits = clip.logits(image, text).into_data();
    assert_close(logits, expected.floats("logits"), 1e-5, &what("logits"));
}

#[test]
fn transformers_models_compute_what_pytorch_does() {
    let published = load_golden("hugging_face");
    assert_eq!(published.format, Format::HuggingFace);
    assert_eq!(published.clip.config().activation, Activation::Gelu);
    assert!(matches!(published.clip.config().end_of_text, EndOfText::FirstOf(id) if id > 2));
    check("hugging_face", &published);
    let published = load_golden("hugging_face_bin");
    assert_eq!(published.clip.config().end_of_text, EndOfText::HighestId);
    assert!(published.report.missing.is_empty() && published.report.applied.len() > 50);
    check("hugging_face_bin", &published);
}

#[test]
fn open_clip_models_compute_what_pytorch_does() {
    check("open_clip", &load_golden("open_clip"));
    let published = load_golden("open_clip_quickgelu");
    assert!(published.clip.config().logit_bias);
    assert_eq!(published.clip.config().image.n_heads, 2);
    check("open_clip_quickgelu", &published);
    // The checkpoint by itself is the same with its config beside it.
    let file = golden("open_clip").join("open_clip_pytorch_model.bin");
    let published = load(&file, &Options::default(), &Device::flex()).unwrap();
    check("open_clip", &published);
}

#[test]
fn an_archive_of_openai_computes_what_pytorch_does() {
    let file = golden("openai").join("small.pt");
    let published = load(&file, &Options::default(), &Device::flex()).unwrap();
    assert_eq!(published.format, Format::OpenAi);
    let ignored = [
        "input_resolution",
        "context_length",
        "vocab_size",
        "attn_mask",
    ];
    assert_eq!(published.report.ignored, ignored);
    check("openai", &published);
}

#[test]
fn ten_training_steps_have_pytorchs_losses() {
    let expected = Expected::of("open_clip");
    let device = Device::flex().autodiff();
    let published = load(&golden("open_clip"), &Options::default(), &device).unwrap();
    let mut clip = published.clip;
    let mut optimizer = Optimizer::new(&RunConfig {
        weight_decay: 0.2,
        beta1: 0.9,
        beta2: 0.98,
        ema_decay: 0.0,
        ..RunConfig::default()
    });
    let pixels = Tensor::<4>::from_data(expected.floats("train.pixels"), &device);
    let ids = expected.ids("train.text_ids");
    let mut losses = Vec::new();
    for step in 0..10 {
        let image = clip.encode_image(pixels.clone());
        let text = clip.encode_text(&ids).unwrap();
        let loss = clip.contrastive_loss(image, text, ContrastiveLoss::InfoNce);
        losses.push(loss.clone().into_scalar::<f32>());
        let gradients = NamedGradients::collect(&clip, &loss.backward());
        clip = optimizer
            .step(clip, gradients, 1e-3, 1.0, step)
            .with_clamped_scale();
    }
    let expected: Vec<f32> = expected.floats("train.losses").try_into_vec().unwrap();
    for (found, expected) in losses.iter().zip(&expected) {
        assert!(
            (found - expected).abs() < 1e-3,
            "{losses:?}, PyTorch has {expected:?}"
        );
    }
}

/// A copy of a golden folder, to be damaged.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn error(folder: &TempDir) -> String {
    let loaded = load(folder.path(), &Options::default(), &Device::flex());
    let message = loaded.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn replace(folder: &TempDir, file: &str, from: &str, to: &str) {
    let path = folder.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_config_that_does_not_fit_its_weights_is_refused() {
    let config = "config.json";
    for (from, to, expected) in [
        // Another width.
        ("\"hidden_size\": 30", "\"hidden_size\": 28", "has shape"),
        // More layers than there are.
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 4",
            "missing: vision_model.encoder.layers.3.",
        ),
        // Fewer.
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 2",
            "belonging nowhere: vision_model.encoder.layers.2.",
        ),
        // Memory for nothing.
        (
            "\"hidden_size\": 30",
            "\"hidden_size\": 900000",
            "describes",
        ),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 1000000",
            "n_layers is 1000000",
        ),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 7",
            "multiple of 7 heads",
        ),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": -1",
            "vision_config",
        ),
        ("\"patch_size\": 4", "\"patch_size\": 0", "patch_size is 0"),
        (
            "\"hidden_act\": \"gelu\"",
            "\"hidden_act\": \"relu\"",
            "hidden_act is",
        ),
        ("1e-05", "1e-06", "layer_norm_eps"),
        ("{", "[", ""),
    ] {
        let folder = copy("hugging_face");
        replace(&folder, config, from, to);
        let message = error(&folder);
        assert!(message.contains(expected), "{to}: {message}");
    }
    let folder = copy("hugging_face_bin");
    replace(
        &folder,
        "preprocessor_config.json",
        "\"resample\": 3",
        "\"resample\": 2",
    );
    assert!(error(&folder).contains("resample is 2, expected 3"));
    let folder = copy("hugging_face_bin");
    replace(
        &folder,
        "preprocessor_config.json",
        "\"crop_size\": 21",
        "\"crop_size\": 20",
    );
    assert!(error(&folder).contains("crop_size is 20, expected the model's 21"));
    let folder = copy("open_clip");
    let config = "open_clip_config.json";
    replace(
        &folder,
        config,
        "\"layers\": 2",
        "\"pool_type\": \"last\", \"layers\": 2",
    );
    assert!(error(&folder).contains("vision_cfg.pool_type is \"last\""));
    let folder = copy("open_clip");
    replace(&folder, config, "\"head_width\": 8", "\"head_width\": 9");
    assert!(error(&folder).contains("no multiple of heads of 9"));
}

#[test]
fn damaged_weights_are_refused() {
    let folder = copy("hugging_face");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    assert!(error(&folder).contains("model.safetensors: not a whole safetensors file"));
    fs::remove_file(&path).unwrap();
    assert!(error(&folder).contains("is a CLIP of transformers without its weights"));
    // Whoever swaps the weights for a program gets its name back.
    let folder = copy("hugging_face_bin");
    let path = folder.path().join("pytorch_model.bin");
    let bytes = fs::read(&path).unwrap();
    let head = [
        &[
            0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
        ][..],
        b".\x80\x02M\xe9\x03.\x80\x02}.\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
    ]
    .concat();
    fs::write(&path, head).unwrap();
    assert!(error(&folder).contains("pytorch_model.bin: imports os.system"));
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(error(&folder).contains("not a whole PyTorch file"));
    fs::write(&path, b"").unwrap();
    assert!(error(&folder).contains("not a whole safetensors file"));
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let folder = copy("open_clip_quickgelu");
    let path = folder.path().join("open_clip_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(error(&folder).contains("holds NaN at index"));
}

#[test]
fn a_list_of_files_is_read_as_one_and_leads_nowhere_else() {
    let folder = copy("hugging_face");
    let (list, file) = (
        "model.safetensors.index.json",
        "model-00001-of-00001.safetensors",
    );
    let write = |name: &str| {
        let json = serde_json::json!({"weight_map": {"logit_scale": name}});
        fs::write(folder.path().join(list), json.to_string()).unwrap();
    };
    fs::rename(
        folder.path().join("model.safetensors"),
        folder.path().join(file),
    )
    .unwrap();
    write(file);
    check(
        "hugging_face",
        &load(folder.path(), &Options::default(), &Device::flex()).unwrap(),
    );
    write("../model.safetensors");
    assert!(error(&folder).contains("expected one beside it"));
}

#[test]
fn a_bare_checkpoint_needs_its_architectures_name() {
    let folder = copy("open_clip");
    fs::remove_file(folder.path().join("open_clip_config.json")).unwrap();
    let file = folder.path().join("open_clip_pytorch_model.bin");
    let load_as = |architecture: Option<&str>| {
        let options = Options {
            architecture: architecture.map(str::to_owned),
            tokenizer: None,
        };
        load(&file, &options, &Device::flex())
            .unwrap_err()
            .to_string()
    };
    assert!(load_as(None).contains("give the architecture's name"));
    assert!(load_as(Some("RN50")).contains("\"RN50\" is not known"));
    // All that have names have heads of 64 and more.
    assert!(load_as(Some("ViT-B-32")).contains("no multiple of heads of 64"));
    assert!(load_as(Some("ViT-H-14-quickgelu")).contains("no multiple of heads of 80"));
}

#[test]
fn long_captions_average_their_pieces() {
    let model = ClipModel::from(load_golden("hugging_face"));
    let caption = "a red turtle and a blue balloon on a yellow background, 夜空下的乌龟 and more";
    let captions = [caption.to_owned(), "a cat".to_owned()];
    let embed = |long| model.embed_texts(&captions, long);
    assert!(embed(LongCaption::Refuse).is_err());
    let averaged = embed(LongCaption::Chunks).unwrap();
    assert_eq!(averaged.dims(), [2, 20]);
    let limit = model.clip.config().text_length;
    let pieces = model
        .text
        .encode_caption(caption, limit, LongCaption::Chunks);
    let pieces = unit(model.clip.encode_text(&pieces.unwrap()).unwrap());
    assert!(pieces.dims()[0] > 1);
    let expected = unit(pieces.mean_dim(0)).into_data();
    // The same products among other rows.
    let first = averaged.narrow(0, 0, 1).into_data();
    assert_close(first, expected, 1e-5, "average");
    // A short one is only itself, of its own length.
    let alone = model
        .embed_texts(&captions[1..], LongCaption::Chunks)
        .unwrap();
    let whole = embed(LongCaption::Truncate).unwrap().narrow(0, 1, 1);
    assert_close(alone.into_data(), whole.into_data(), 1e-5, "short");
}

#[test]
fn an_imported_model_is_the_same_in_our_own_folder() {
    for (name, precision, relative) in [
        ("hugging_face", Precision::F32, 0.0),
        // Its weights have this precision already, but for norms, embeddings and biases.
        ("openai", Precision::F16, 5e-3),
    ] {
        let path = match name {
            "openai" => golden(name).join("small.pt"),
            _ => golden(name),
        };
        let device = Device::flex();
        let load = |path: &Path| {
            ClipModel::load(
                &ModelSource::parse(path.to_str().unwrap()).unwrap(),
                &device,
            )
        };
        let model = load(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), precision).unwrap();
        let loaded = load(folder.path()).unwrap();
        assert_eq!(loaded.config.name, model.config.name);
        assert_eq!(loaded.clip.config(), model.clip.config());
        assert_eq!(loaded.text.kind(), model.text.kind());
        let captions = ["TWO cats &amp; a dog".to_owned(), "夜空 🐢".to_owned()];
        let embed = |model: &ClipModel| {
            let embedded = model.embed_texts(&captions, LongCaption::Refuse);
            embedded.unwrap().into_data()
        };
        assert_close(embed(&loaded), embed(&model), relative, name);
        let config = folder.path().join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            config,
            text.replacen("text_vocab_size\": 5", "text_vocab_size\": 4", 1),
        )
        .unwrap();
        let message = load(folder.path()).unwrap_err().to_string();
        let expected = match name {
            "openai" => "tokenizer.json: has 554 ids, config.json expects 454",
            _ => "config.json: clip config: end_of_text is 553, expected an id below 454",
        };
        assert!(message.contains(expected), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn damaged_folders_are_loaded_or_refused(
        which in 0usize..4,
        file in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let folder = copy(FOLDERS[which]);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e != "png"))
            .collect();
        paths.sort();
        let path = file.get(&paths);
        let mut bytes = fs::read(path).unwrap();
        for (at, value) in changes {
            // Headers and names lie at both ends.
            let at = at.index(bytes.len().min(3000));
            bytes[at] = value;
        }
        fs::write(path, bytes).unwrap();
        let _ = load(folder.path(), &Options::default(), &Device::flex());
    }

    #[test]
    fn damaged_archives_of_openai_are_loaded_or_refused(damage in damage()) {
        let folder = copy("openai");
        let path = folder.path().join("small.pt");
        fs::write(&path, damage.of(fs::read(&path).unwrap())).unwrap();
        if let Err(error) = load(&path, &Options::default(), &Device::flex()) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}

/// `reference/write_clip_relevance_goldens.py`: transformers and open_clip with PyTorch's gradients.
#[test]
fn relevance_is_that_of_the_references() {
    for folder in FOLDERS {
        let expected = Expected::of(folder);
        let (shape, all) = expected.words("pixels");
        let bytes = fs::read(golden(folder).join("relevance.safetensors")).unwrap();
        let relevance = Expected { bytes };
        let clip = load_golden(folder).clip;
        let per_picture = all.len() / shape[0];
        let mut compared = 0;
        for (p, words) in all.chunks(per_picture).enumerate() {
            let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
            let data = TensorData::new(values, [1, shape[1], shape[2], shape[3]]);
            for (c, ids) in expected.ids("text_ids").iter().enumerate() {
                let pixels = Tensor::from_data(data.clone(), &Device::flex());
                let found = clip.relevance(pixels, ids).unwrap();
                for (name, ours) in [("patches", &found.patches), ("ids", &found.ids)] {
                    let (_, theirs) = relevance.words(&format!("{p}.{c}.{name}"));
                    assert_eq!(ours.len(), theirs.len(), "{folder} {p}.{c}.{name}");
                    let theirs: Vec<f64> = theirs
                        .iter()
                        .map(|&word| f64::from(f32::from_le_bytes(word)))
                        .collect();
                    let largest = theirs.iter().copied().fold(0.0, f64::max);
                    for (a, b) in ours.iter().zip(&theirs) {
                        assert!(
                            (a - b).abs() <= 1e-3 * largest + 1e-9,
                            "{folder} {p}.{c}.{name}: {a} {b}"
                        );
                    }
                    compared += theirs.len();
                }
            }
        }
        assert!(compared > 50, "{folder}: {compared}");
    }
}
