//! Checkpoints of DALLE-pytorch (`train_dalle.py`): one pickle with what the constructor was given, the weights,
//! and the image tokenizer's among them. Nothing in it is executed.
//!
//! What shapes and names say is taken from there: versions differ in what they write down. A part is wrapped into
//! more or fewer others from version to version, each of which puts an `fn` into the names; they are left out here.

pub mod clip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::image_tokenizer::{self, Hyperparameters};
use super::mapping::Mapping;
use super::weights::{Tensors, without_prefix};
use super::{ImportReport, taming};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::pytorch::{Archive, Item, mentions};
use crate::error::Reason;
use crate::families::{
    DallePytorch as DallePytorchFamily, FamilyConfig, FamilyModel, NetworkReport, NoOptions,
    Published, PublishedFiles, PublishedForm,
};
use crate::files::folder_of;
use crate::models::dalle_pytorch::{AttentionKind, DallePytorch, DallePytorchConfig};
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::PixelRange;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::dalle_pytorch::DallePytorchTokenizer;
use crate::{Error, Result, files};

/// What it was called by the program that wrote it.
const FILE: &str = "dalle.pt";

/// Sets are no part of weights, but of what is kept beside them.
const CLASSES: [&str; 2] = ["__builtin__.set", "builtins.set"];

/// The side of the pictures of OpenAI's dVAE and of taming VQGANs, which the original fixes.
const PICTURE_SIZE: usize = 256;

/// The file in a folder, or the file itself.
fn file_of(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join(FILE),
        false => path.to_owned(),
    }
}

/// Whether a folder or file looks like one, by the names of the files and what their pickles mention.
pub fn is_published(path: &Path) -> bool {
    if path.is_dir() {
        return path.join(FILE).is_file();
    }
    path.extension()
        .is_some_and(|extension| extension == "pt" || extension == "pth")
        && mentions(path, &["hparams", "text_seq_len", "weights"])
}

/// A folder with `dalle.pt`, or such a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

impl PublishedForm<DallePytorchFamily> for Form {
    fn is_published(&self, path: &Path, _config: Option<&[u8]>) -> bool {
        is_published(path)
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<DallePytorchFamily>> {
        load(files, device, format)
    }
}

fn load(
    published: PublishedFiles<'_>,
    device: &Device,
    format: WeightFormat,
) -> Result<Published<DallePytorchFamily>> {
    let path = published.path;
    let file = file_of(path);
    let bytes = files::bytes_of(&file, published.access)?;
    let archive = Archive::parse(&file, &bytes, &CLASSES)?;
    let bad = |reason: Reason| Error::bad_file(&file, reason);
    let root = archive.root();
    let (Some(hyperparameters), Some(weights)) = (root.get("hparams"), root.get("weights")) else {
        return Err(bad(
            "expected a checkpoint of DALLE-pytorch's train_dalle.py, with hparams and weights"
                .into(),
        ));
    };
    let (mut image_tensors, mut tensors) = (Tensors::new(), Tensors::new());
    for (name, tensor) in without_prefix(weights.tensors()?, "module.") {
        match name.strip_prefix("vae.") {
            Some(inner) => image_tensors.insert(inner.to_owned(), tensor),
            None => tensors.insert(name, tensor),
        };
    }
    let (image, image_report) = image(&file, root, image_tensors, device)?;
    let config = config(hyperparameters, &tensors, &image.config()).map_err(bad)?;
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    let text = DallePytorchTokenizer::load(folder_of(&file), config.text_vocab_size)?;
    let (dalle, report) = map(&file, tensors, &config, device, format)?;
    let config = FamilyConfig {
        name: published.name.to_owned(),
        // The checkpoints are their owners': none states a licence.
        licence: "unknown".to_owned(),
        image_tokenizer: image.config(),
        sampling: sampling(&config),
        sizes: config,
        options: NoOptions {},
        precision: format,
    };
    Ok(Published {
        model: FamilyModel {
            config,
            text,
            image,
            net: dalle,
            device: device.clone(),
        },
        networks: NetworkReport::of(report, image_report),
        bytes: bytes.len() as u64,
    })
}

/// The original's: `filter_thres` 0.5 keeps half of the joint vocabulary, words counted though none is drawn.
fn sampling(config: &DallePytorchConfig) -> SamplingOptions {
    let kept = (config.text_rows() + config.codebook_size) / 2;
    SamplingOptions {
        guidance_scale: 1.0,
        temperature: 1.0,
        top_k: (kept < config.codebook_size).then_some(kept.max(1)),
        top_p: None,
    }
}

/// The image tokenizer inside, by the name of its class, or by its tensors where that is not stated.
fn image(
    path: &Path,
    root: Item<'_>,
    tensors: Tensors<'_>,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let class = root.get("vae_class_name").and_then(Item::text);
    let has = |start: &str| tensors.keys().any(|name| name.starts_with(start));
    match class {
        Some("DiscreteVAE") | None if has("codebook.") => {
            let config = root
                .get("vae_params")
                .ok_or_else(|| bad("has no vae_params".into()))
                .and_then(|item| Hyperparameters(item).config().map_err(bad))?;
            image_tokenizer::discrete_vae(path, tensors, &config, device)
        }
        Some("OpenAIDiscreteVAE") | None if has("enc.") => {
            image_tokenizer::openai(path, tensors, device)
        }
        Some(name) if name.starts_with("VQGanVAE") && has("model.") => vqgan(path, tensors, device),
        None if has("model.") => vqgan(path, tensors, device),
        _ => Err(bad(format!(
            "has an image tokenizer of class {:?}, expected DiscreteVAE, OpenAIDiscreteVAE or VQGanVAE with its weights",
            class.unwrap_or("unknown")
        ).into())),
    }
}

fn vqgan(
    path: &Path,
    tensors: Tensors<'_>,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    let tensors: Tensors<'_> = tensors
        .into_iter()
        .map(|(name, tensor)| match name.strip_prefix("model.") {
            Some(inner) => (inner.to_owned(), tensor),
            None => (name, tensor),
        })
        .collect();
    let shape = |name: &str| tensors.get(name).map(|tensor| tensor.shape());
    let config = taming::sizes(&shape, PixelRange::Signed, |_| PICTURE_SIZE)
        .map_err(|reason| Error::bad_file(path, reason))?;
    config
        .validate()
        .map_err(|e| Error::bad_file(path, Reason::of(e)))?;
    image_tokenizer::taming(path, tensors, &config, device)
}

fn config(
    given: Item<'_>,
    tensors: &Tensors<'_>,
    image: &ImageTokenizerConfig,
) -> Result<DallePytorchConfig, Reason> {
    let size = |name: &str, default: Option<usize>| match given.get(name) {
        None => default.ok_or_else(|| format!("hparams lacks {name}")),
        Some(item) => item
            .integer()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| format!("hparams.{name} is no size")),
    };
    let set = |name: &str| given.get(name).and_then(Item::boolean).unwrap_or(false);
    let names = || tensors.keys().map(String::as_str);
    let attention = match given.get("attn_types").filter(|item| !item.is_none()) {
        None => vec![AttentionKind::Full],
        Some(item) => {
            let names = match item.text() {
                Some(name) => vec![Some(name)],
                None => item.items().into_iter().map(Item::text).collect(),
            };
            let kinds = names.into_iter().map(|name| {
                let name = name.unwrap_or("something that is no text");
                AttentionKind::parse(name).ok_or_else(|| match name {
                    "sparse" => "has sparse attention, which is DeepSpeed's and is not read; expected full, axial_row, axial_col or conv_like".to_owned(),
                    _ => format!(
                        "has attention {}, expected full, axial_row, axial_col or conv_like",
                        name.escape_debug()
                    ),
                })
            });
            kinds.collect::<Result<_, _>>()?
        }
    };
    // A part that shifts is wrapped once more at least.
    let wrapped = names().filter_map(|name| name.strip_suffix(".net.0.weight"));
    let depth = wrapped
        .map(|name| name.split('.').filter(|&part| part == "fn").count())
        .min();
    let rotary = tensors.get("transformer.pos_emb");
    Ok(DallePytorchConfig {
        text_vocab_size: size("num_text_tokens", Some(10_000))?,
        text_length: size("text_seq_len", Some(256))?,
        codebook_size: image.codebook_size(),
        grid: image.grid(),
        width: size("dim", None)?,
        n_layers: size("depth", None)?,
        n_heads: size("heads", Some(8))?,
        head_width: size("dim_head", Some(64))?,
        attention,
        reversible: names().any(|name| name.starts_with("transformer.layers.blocks.")),
        stable: set("stable"),
        sandwich_norm: names().any(|name| name.ends_with(".norm_out.weight")),
        shift_tokens: depth.is_some_and(|depth| depth > 2),
        rotary_width: rotary
            .and_then(|tensor| tensor.shape().last().copied())
            .unwrap_or(0),
    })
}

/// `transformer.layers.blocks.3.f.net.fn.fn.fn.to_qkv.weight` and `transformer.layers.layers.3.0.fn.fn.to_qkv.weight`
/// → `3.0.to_qkv.weight`; other names as they are.
fn short(name: &str) -> String {
    // Of older versions of the library that has them.
    if let Some(axis) = name.strip_prefix("image_pos_emb.weights_") {
        return format!("image_pos_emb.weights.{axis}");
    }
    let Some(rest) = name.strip_prefix("transformer.layers.") else {
        return name.to_owned();
    };
    let mut parts: Vec<&str> = rest.split('.').collect();
    if parts.len() < 4 {
        return name.to_owned();
    }
    if parts[0] == "blocks" && parts[3] == "net" {
        parts[2] = if parts[2] == "f" { "0" } else { "1" };
        parts.remove(3);
    }
    parts.remove(0);
    parts.retain(|&part| part != "fn");
    parts.join(".")
}

/// Whether weights can be of a model of this many parameters, before memory is requested for them. Tied embeddings are
/// counted twice; a tensor missing here and there is reported later by its name.
fn check_size(path: &Path, described: u64, tensors: &Tensors<'_>) -> Result<()> {
    let held: usize = tensors
        .values()
        .map(|tensor| tensor.shape().iter().product::<usize>())
        .sum();
    if described > 3 * held as u64 + (1 << 16) {
        return Err(Error::bad_file(
            path,
            format!("describes {described} parameters, the weights hold {held}"),
        ));
    }
    Ok(())
}

/// The model of a state dict.
fn map(
    path: &Path,
    mut tensors: Tensors<'_>,
    config: &DallePytorchConfig,
    device: &Device,
    format: WeightFormat,
) -> Result<(DallePytorch, ImportReport)> {
    check_size(path, config.parameters(), &tensors)?;
    let bad = |reason: Reason| Error::bad_file(path, reason);
    // The joint vocabulary's head is two of ours, and tied embeddings are its rows.
    let (words, codes) = (config.text_rows(), config.codebook_size);
    let tied = tensors.contains_key("text_emb.linear.weight");
    split_head(&mut tensors, [words, codes]).map_err(bad)?;
    if tied {
        for part in ["text", "image"] {
            if let Some(rows) = tensors.get(&format!("to_logits.1.weight ({part})")) {
                let rows = rows.clone();
                tensors.insert(format!("{part}_emb.weight"), rows);
            }
        }
    }
    // The same numbers again, and angles that follow from the others.
    let again = |name: &str| {
        let tied = ["text_emb.linear.", "image_emb.linear."];
        tied.iter().any(|start| name.starts_with(start))
            || name == "logits_mask"
            || name.ends_with(".static_mask")
    };
    let ignored: Vec<String> = tensors.keys().filter(|name| again(name)).cloned().collect();
    let by_short: BTreeMap<String, String> = tensors
        .keys()
        .map(|name| (short(name), name.clone()))
        .collect();
    let model = config.init(&mut Init::empty(device));
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    for name in ignored {
        mapping.ignore(&name);
    }
    for name in ours {
        let (theirs, turned) = theirs(&name)
            .ok_or_else(|| bad(format!("nothing is known that {name} comes from").into()))?;
        let theirs = by_short.get(&theirs).unwrap_or(&theirs);
        match turned {
            true => mapping.transposed(&name, theirs)?,
            false => mapping.reshaped(&name, theirs)?,
        }
    }
    mapping.finish_in(model, format)
}

/// `to_logits.1`, the head over the joint vocabulary of `words` and `codes`, as two: `to_logits.1.weight (text)` and
/// `to_logits.1.weight (image)`, and so the biases.
pub(super) fn split_head(
    tensors: &mut Tensors<'_>,
    [words, codes]: [usize; 2],
) -> Result<(), Reason> {
    for leaf in ["weight", "bias"] {
        let joint = format!("to_logits.1.{leaf}");
        let Some(tensor) = tensors.remove(&joint) else {
            continue;
        };
        if tensor.shape().first() != Some(&(words + codes)) {
            return Err(format!(
                "{joint} has shape {:?}, expected {} rows",
                tensor.shape(),
                words + codes
            )
            .into());
        }
        for (part, start, count) in [("text", 0, words), ("image", words, codes)] {
            tensors.insert(format!("{joint} ({part})"), tensor.rows(start, count)?);
        }
    }
    Ok(())
}

/// Their short name of a parameter of ours, and whether it lies the other way.
fn theirs(ours: &str) -> Option<(String, bool)> {
    let straight = |name: &str| Some((name.to_owned(), false));
    match ours {
        "text_embedding.weight" => return straight("text_emb.weight"),
        "image_embedding.weight" => return straight("image_emb.weight"),
        "text_positions.weight" => return straight("text_pos_emb.weight"),
        "image_rows.weight" => return straight("image_pos_emb.weights.0"),
        "image_columns.weight" => return straight("image_pos_emb.weights.1"),
        "rotary" => return straight("transformer.pos_emb"),
        "norm.weight" => return straight("to_logits.0.weight"),
        "norm.bias" => return straight("to_logits.0.bias"),
        _ => {}
    }
    if let Some((part, leaf)) = ours.split_once("_head.") {
        return Some((format!("to_logits.1.{leaf} ({part})"), leaf == "weight"));
    }
    let (number, rest) = ours.strip_prefix("layers.")?.split_once('.')?;
    let (part, rest) = rest.split_once('.')?;
    let part = match part {
        "attention" => "0",
        "feed_forward" => "1",
        _ => return None,
    };
    let (inner, turned) = match rest {
        "qkv.weight" => ("to_qkv.weight", true),
        "out.weight" => ("to_out.0.weight", true),
        "out.bias" => ("to_out.0.bias", false),
        "up_gate.weight" => ("net.0.weight", true),
        "up_gate.bias" => ("net.0.bias", false),
        "down.weight" => ("net.3.weight", true),
        "down.bias" => ("net.3.bias", false),
        around => (around.strip_prefix("around.")?, false),
    };
    Some((format!("{number}.{part}.{inner}"), turned))
}

#[cfg(test)]
mod tests;
