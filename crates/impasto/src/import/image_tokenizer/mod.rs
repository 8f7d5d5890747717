//! Published image tokenizers, as they are.
//!
//! | what | files |
//! |---|---|
//! | VQGAN of taming-transformers, plain and Gumbel | `.ckpt` and `.yaml` |
//! | OpenAI's discrete VAE | `encoder.pkl`, `decoder.pkl` |
//! | `DiscreteVAE` of DALLE-pytorch | `vae.pt` |
//!
//! All of them are PyTorch's pickles, of which nothing is executed.

mod discrete_vae;
mod openai;
mod taming;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::weights::Tensors;
use super::{ImportReport, name_of};
use crate::checkpoint::pytorch::mentions;
use crate::models::ImageTokenizer;
use crate::{Error, Result};

pub(super) use discrete_vae::Hyperparameters;
pub(super) use discrete_vae::map as discrete_vae;
pub(super) use openai::map_state as openai;
pub(super) use taming::{map as taming, read as read_taming};

/// A published image tokenizer.
#[derive(Debug)]
pub struct PublishedImageTokenizer {
    /// What its folder or file is called.
    pub name: String,
    /// SPDX expression of the licence it was published under, where that is known.
    pub licence: String,
    /// Pixels ↔ image ids.
    pub model: ImageTokenizer,
    /// What became of the tensors.
    pub report: ImportReport,
    /// Bytes of the weight files.
    pub bytes: u64,
}

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Taming { weights: PathBuf, config: PathBuf },
    OpenAi { encoder: PathBuf, decoder: PathBuf },
    DiscreteVae { weights: PathBuf },
}

impl Form {
    /// By the names of the files alone.
    fn of(path: &Path) -> Option<Self> {
        let openai = |folder: &Path| {
            let [encoder, decoder] = ["encoder.pkl", "decoder.pkl"].map(|name| folder.join(name));
            (encoder.is_file() && decoder.is_file()).then_some(Form::OpenAi { encoder, decoder })
        };
        if path.is_file() {
            let config = config_of(path);
            return match extension(path)? {
                "pkl" => openai(crate::files::folder_of(path)),
                "ckpt" => config.map(|config| Form::Taming {
                    weights: path.to_owned(),
                    config,
                }),
                "pt" | "pth" if is_discrete_vae(path) => Some(Form::DiscreteVae {
                    weights: path.to_owned(),
                }),
                _ => None,
            };
        }
        let own = path.join("vae.pt");
        if own.is_file() && !path.join("dalle.pt").is_file() {
            return Some(Form::DiscreteVae { weights: own });
        }
        openai(path).or_else(|| {
            let weights = only(path, &["ckpt"])?;
            let config = config_of(&weights)?;
            Some(Form::Taming { weights, config })
        })
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

/// The one file of a folder whose name ends so.
fn only(folder: &Path, extensions: &[&str]) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| extension(path).is_some_and(|end| extensions.contains(&end)));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The config beside a checkpoint: of the same name, `model.yaml`, or the only one.
fn config_of(weights: &Path) -> Option<PathBuf> {
    let named = ["yaml", "yml"]
        .into_iter()
        .map(|end| weights.with_extension(end));
    let usual = [weights.with_file_name("model.yaml")];
    named
        .chain(usual)
        .find(|path| path.is_file())
        .or_else(|| only(crate::files::folder_of(weights), &["yaml", "yml"]))
}

/// `vae.pt` of DALLE-pytorch by another name: a pickle with the sizes that its constructor takes.
fn is_discrete_vae(path: &Path) -> bool {
    mentions(path, &["hparams", "image_size", "num_layers", "weights"])
        && !mentions(path, &["text_seq_len"])
}

/// Whether a folder or file looks like one of them.
pub fn is_published(path: &Path) -> bool {
    Form::of(path).is_some()
}

/// Loads a folder or a file onto `device`.
pub fn load(path: &Path, device: &Device) -> Result<PublishedImageTokenizer> {
    let form = Form::of(path).ok_or_else(|| Error::Missing {
        what: "published image tokenizer",
        path: path.to_owned(),
        hint: "expected a .ckpt with its .yaml, encoder.pkl with decoder.pkl, or vae.pt".into(),
    })?;
    let (loaded, licence, files) = match &form {
        Form::Taming { weights, config } => {
            (taming::load(weights, config, device)?, "MIT", vec![weights])
        }
        // "Modified MIT", which has no name among SPDX's.
        Form::OpenAi { encoder, decoder } => (
            openai::load(encoder, decoder, device)?,
            "LicenseRef-OpenAI-modified-MIT",
            vec![encoder, decoder],
        ),
        Form::DiscreteVae { weights } => (
            discrete_vae::load(weights, device)?,
            "unknown",
            vec![weights],
        ),
    };
    let (model, report) = loaded;
    let mut bytes = 0;
    for file in files {
        bytes += std::fs::metadata(file)
            .map_err(Error::io("read", file))?
            .len();
    }
    Ok(PublishedImageTokenizer {
        name: name_of(path),
        licence: licence.to_owned(),
        model,
        report,
        bytes,
    })
}

/// Refuses sizes that describe more numbers than the file has bytes, before room is made for them.
fn check_size(path: &Path, described: u64, tensors: &Tensors<'_>) -> Result<()> {
    let held: usize = tensors
        .values()
        .map(|tensor| tensor.shape().iter().product::<usize>())
        .sum();
    // Half as much is a tensor missing here and there, which is reported later by its name.
    if described > 2 * held as u64 + (1 << 16) {
        return Err(Error::bad_file(
            path,
            format!("describes {described} parameters, the weights hold {held}"),
        ));
    }
    Ok(())
}
