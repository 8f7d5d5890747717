//! Published models in their own formats, given our names and layouts.
//!
//! Importing is strict: a tensor that is missing, has another shape, or belongs nowhere ends it, and what was
//! found is reported by the names that the file uses. Nothing in a file is ever executed.

pub mod amused;
pub mod clip;
pub mod dalle_mini;
pub mod dalle_pytorch;
#[cfg(test)]
pub(crate) mod damage;
mod diffusers;
pub(crate) mod foreign;
#[cfg(test)]
pub(crate) mod goldens;
pub mod image_tokenizer;
pub mod janus;
pub mod llamagen;
pub(crate) mod mapping;
#[cfg(test)]
mod masked_goldens;
pub mod meissonic;
pub mod rudalle;
pub mod safety;
mod taming;
pub mod upscaler;
mod weights;

use std::path::{Path, PathBuf};

use crate::files::folder_of;

pub use mapping::{ImportReport, Misshapen};

/// The name of a file or folder; empty where it is none of Unicode.
fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// What a folder holds, in the order of names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// A published model is called after its folder or file; one of the hub's cache after its repository
/// (`models--{owner}--{name}/snapshots/{commit}`).
pub fn name_of(path: &Path) -> String {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let snapshots = folder_of(path);
    if name(snapshots).is_some_and(|name| name == "snapshots")
        && let Some(repository) = name(folder_of(snapshots))
        && let Some(repository) = repository.strip_prefix("models--")
    {
        return repository.replacen("--", "/", 1);
    }
    // "." and the like have no name of their own.
    name(path)
        .or_else(|| name(&path.canonicalize().ok()?))
        .unwrap_or_else(|| "model".to_owned())
}
