//! Published CLIP models: Hugging Face folders, open_clip's checkpoints, OpenAI's archives.
//!
//! | what | recognised by | text ids cleaned as |
//! |---|---|---|
//! | Hugging Face folder | `config.json` with `"model_type": "clip"` | `transformers` |
//! | open_clip folder | `open_clip_config.json` | OpenAI |
//! | open_clip checkpoint, a file | the architecture's name, given | OpenAI |
//! | OpenAI archive, a file | TorchScript | OpenAI |
//!
//! The tokenizer is looked for in the same folder. Pictures are prepared as all of them do it: bicubic,
//! middle square, mean and deviation; a file that asks for something else is refused.

pub(super) mod hugging_face;
mod open_clip;
pub(super) mod preprocessing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::ImportReport;
use super::weights::Tensors;
use crate::models::clip::{Clip, ClipConfig, TowerConfig};
use crate::text::clip::{Cleaning, ClipTokenizer};
use crate::{Error, Result, files};

/// Which of the formats a model had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A folder of `transformers`.
    HuggingFace,
    /// A folder or file of open_clip.
    OpenClip,
    /// An archive of OpenAI.
    #[serde(rename = "openai")]
    OpenAi,
}

impl Format {
    /// How captions are cleaned for it.
    pub fn cleaning(self) -> Cleaning {
        match self {
            Format::HuggingFace => Cleaning::Transformers,
            Format::OpenClip | Format::OpenAi => Cleaning::OpenAi,
        }
    }
}

/// What a file alone does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// open_clip's name of the architecture, such as `ViT-B-32-quickgelu`.
    pub architecture: Option<String>,
    /// The folder of the tokenizer, if it is another.
    pub tokenizer: Option<PathBuf>,
}

/// A published model.
#[derive(Debug)]
pub struct PublishedClip {
    /// What it is called after.
    pub name: String,
    /// Both towers.
    pub clip: Clip,
    /// Caption → ids.
    pub text: ClipTokenizer,
    /// Where it came from.
    pub format: Format,
    /// What became of the tensors.
    pub report: ImportReport,
}

/// Whether `folder` looks like a published CLIP.
pub fn is_published(folder: &Path) -> bool {
    folder.join("open_clip_config.json").is_file() || hugging_face::is_folder(folder)
}

/// Loads a folder or a file onto `device`.
pub fn load(path: &Path, options: &Options, device: &Device) -> Result<PublishedClip> {
    let (format, (clip, report)) = if path.is_dir() {
        if hugging_face::is_folder(path) && hugging_face::weights(path).is_some() {
            (Format::HuggingFace, hugging_face::load(path, device)?)
        } else if path.join("open_clip_config.json").is_file() {
            (Format::OpenClip, open_clip::load_folder(path, device)?)
        } else if let Some(reason) = super::foreign::explain(path, super::foreign::Wanted::Clip) {
            return Err(Error::bad_file(path, reason));
        } else {
            return Err(Error::Missing {
                what: "published CLIP",
                path: path.join("config.json"),
                hint:
                    "expected config.json with \"model_type\": \"clip\" and model.safetensors or \
                       pytorch_model.bin, or open_clip_config.json with its weights"
                        .into(),
            });
        }
    } else {
        open_clip::load_file(path, options.architecture.as_deref(), device)?
    };
    let folder = match &options.tokenizer {
        Some(folder) => folder,
        None if path.is_dir() => path,
        None => files::folder_of(path),
    };
    let vocab_size = clip.config().text_vocab_size;
    let text = ClipTokenizer::load(folder, vocab_size, format.cleaning())?;
    if text.vocab_size() > vocab_size {
        return Err(Error::bad_file(
            folder,
            format!(
                "the text tokenizer has {} ids, the model {vocab_size}",
                text.vocab_size()
            ),
        ));
    }
    Ok(PublishedClip {
        name: super::name_of(path),
        clip,
        text,
        format,
        report,
    })
}

/// Refuses a config that describes more than the file holds, before room is made for it.
fn check_size(path: &Path, config: &ClipConfig, tensors: &Tensors<'_>) -> Result<()> {
    config
        .validate()
        .map_err(|e| Error::bad_file(path, e.to_string()))?;
    let tower = |tower: &TowerConfig| {
        let (w, h) = (tower.width as f64, tower.hidden as f64);
        tower.n_layers as f64 * (4.0 * w * w + 2.0 * w * h)
    };
    let described = tower(&config.image)
        + tower(&config.text)
        + (config.text_vocab_size + config.text_length) as f64 * config.text.width as f64
        + (3 * config.patch_size * config.patch_size + config.patches()) as f64
            * config.image.width as f64
        + ((config.image.width + config.text.width) * config.projection_width) as f64;
    let held: usize = tensors
        .values()
        .map(|tensor| tensor.shape().iter().product::<usize>())
        .sum();
    // Half as much is a tensor missing here and there, which is reported later by its name.
    if described > 2.0 * held as f64 + 1e6 {
        return Err(Error::bad_file(
            path,
            format!("describes {described:.0} parameters, the weights hold {held}"),
        ));
    }
    Ok(())
}

/// Parses a JSON file.
fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = files::read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::bad_file(path, e.to_string()))
}
