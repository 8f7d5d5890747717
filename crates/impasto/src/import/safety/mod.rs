//! Published checkers of pictures, as they are: Stable Diffusion's (CLIP and concepts, of diffusers) and classifiers by
//! ViT (of transformers).
//!
//! | what | recognised by |
//! |---|---|
//! | Stable Diffusion's | `config.json` with the architecture `StableDiffusionSafetyChecker` |
//! | a classifier | `config.json` with `"model_type": "vit"` |

mod checker;
#[cfg(test)]
mod tests;
mod vit;

use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;

use super::ImportReport;
use super::weights::WeightFolder;
use crate::files::FileAccess;
use crate::image::Filter;
use crate::import::clip::hugging_face::CHECKER;
use crate::models::clip::Normalisation;
use crate::models::{SafetyChecker, Vit};
use crate::{Error, Result, files};

/// A checker.
#[derive(Debug)]
pub enum PublishedChecker {
    /// Stable Diffusion's.
    Concepts {
        /// The model.
        model: Box<SafetyChecker>,
        /// How its pictures are prepared.
        normalisation: Normalisation,
    },
    /// A classifier.
    Classifier {
        /// The model.
        model: Box<Vit>,
        /// How its pictures are scaled.
        filter: Filter,
        /// How its pictures are prepared.
        normalisation: Normalisation,
    },
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
}

const CONFIG: &str = "config.json";
fn kind(folder: &Path) -> Option<Kind> {
    serde_json::from_slice(&files::read(folder.join(CONFIG)).ok()?).ok()
}

fn has_architecture(kind: &Kind, name: &str) -> bool {
    kind.architectures.iter().any(|found| found == name)
}

/// Whether a folder holds a checker.
pub fn is_published(folder: &Path) -> bool {
    kind(folder).is_some_and(|kind| kind.model_type == "vit" || has_architecture(&kind, CHECKER))
}

/// Loads a folder onto `device`.
///
/// # Errors
/// Where it holds no checker, or one that is damaged, or that prepares pictures in another way.
pub fn load(folder: &Path, device: &Device) -> Result<(PublishedChecker, ImportReport)> {
    let Some(kind) = kind(folder) else {
        return Err(Error::Missing {
            what: "checker of pictures",
            path: folder.join(CONFIG),
            hint: "expected config.json of a StableDiffusionSafetyChecker or a ViTForImageClassification, and its weights".into(),
        });
    };
    let weights = WeightFolder::open(folder, FileAccess::Map)?;
    if has_architecture(&kind, CHECKER) {
        return checker::load(folder, &weights, device);
    }
    if kind.model_type == "vit" {
        return vit::load(folder, &weights, device);
    }
    let found = format!("{:?}", kind.architectures);
    let reason = format!(
        "is of the architecture {found}, expected StableDiffusionSafetyChecker or ViTForImageClassification"
    );
    Err(Error::bad_file(folder.join(CONFIG), reason))
}
