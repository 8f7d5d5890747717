//! Weight files by what they hold, whatever they are called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::pytorch::{self, Archive};
use crate::checkpoint::stored::{self, StoredTensor};
use crate::error::Reason;
use crate::{Error, Result, files};

/// The tensors of one or several files.
pub type Tensors<'a> = BTreeMap<String, StoredTensor<'a>>;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Safetensors.
    Safetensors,
    /// PyTorch's, plain tensors.
    PyTorch,
    /// PyTorch's, with code beside the tensors.
    TorchScript,
}

/// Where training programs put the weights among other things.
const INNER: [&str; 1] = ["state_dict"];

/// Reads all tensors of a file and passes them on.
///
/// A list of files (`*.index.json`) is read as all its files. Of a training's checkpoint the weights are
/// taken; what wrappers of a model put into its names is left out.
pub fn read<T>(path: &Path, then: impl FnOnce(Container, Tensors<'_>) -> Result<T>) -> Result<T> {
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return read_list(path, then);
    }
    let bytes = files::read(path)?;
    if !pytorch::is_pytorch(&bytes) {
        return then(Container::Safetensors, safetensors(path, &bytes)?);
    }
    let archive = Archive::parse(path, &bytes, pytorch::TORCH_SCRIPT)?;
    let container = if archive.has_classes() {
        Container::TorchScript
    } else {
        Container::PyTorch
    };
    let root = archive.root();
    let inner = INNER.iter().find_map(|key| root.get(key)).unwrap_or(root);
    then(container, without_prefix(inner.tensors()?, PARALLEL))
}

fn safetensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<Tensors<'a>> {
    let tensors = stored::safetensors(path, bytes)?;
    Ok(without_prefix(tensors.into_iter().collect(), PARALLEL))
}

/// What data parallelism puts before every name.
const PARALLEL: &str = "module.";

/// Without a prefix that all names have, and without the `_orig_mod.` that PyTorch puts before the names of whatever was
/// compiled, the whole model or a part of it; one may be within the other.
pub fn without_prefix<'a>(mut tensors: Tensors<'a>, prefix: &str) -> Tensors<'a> {
    const COMPILED: &str = "_orig_mod.";
    loop {
        let is_parallel =
            !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(prefix));
        let is_compiled = tensors.keys().any(|name| name.contains(COMPILED));
        if !is_parallel && !is_compiled {
            return tensors;
        }
        let count = tensors.len();
        let renamed: Tensors<'a> = tensors
            .iter()
            .map(|(name, tensor)| {
                let name = if is_parallel {
                    &name[prefix.len()..]
                } else {
                    name
                };
                (name.replace(COMPILED, ""), tensor.clone())
            })
            .collect();
        // Two names for one: not what a wrapper does.
        if renamed.len() != count {
            return tensors;
        }
        tensors = renamed;
    }
}

/// A list of files as `transformers` writes it: `{"weight_map": {name: file}}`.
fn read_list<T>(path: &Path, then: impl FnOnce(Container, Tensors<'_>) -> Result<T>) -> Result<T> {
    #[derive(Deserialize)]
    struct List {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = files::read(path)?;
    let list: List = serde_json::from_slice(&bytes)
        .map_err(|e| Error::bad_file(path, Reason::because("no list of weight files", e)))?;
    let names: BTreeSet<&String> = list.weight_map.values().collect();
    let mut files = Vec::new();
    for name in names {
        // A name in a file must not lead out of its folder.
        if Path::new(name)
            .file_name()
            .is_none_or(|file| file != name.as_str())
        {
            let reason = format!("names the file {name:?}, expected one beside it");
            return Err(Error::bad_file(path, reason));
        }
        let file = path.with_file_name(name);
        let bytes = files::read(&file)?;
        files.push((file, bytes));
    }
    let mut archives = Vec::new();
    let mut tensors = Tensors::new();
    for (file, bytes) in &files {
        if pytorch::is_pytorch(bytes) {
            archives.push(Archive::parse(file, bytes, &[])?);
        } else {
            tensors.extend(safetensors(file, bytes)?);
        }
    }
    let container = if archives.is_empty() {
        Container::Safetensors
    } else {
        Container::PyTorch
    };
    for archive in &archives {
        tensors.extend(archive.root().tensors()?);
    }
    then(container, without_prefix(tensors, PARALLEL))
}
