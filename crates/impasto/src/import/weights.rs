//! Weight files by what they hold, whatever they are called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;

use crate::checkpoint::pytorch::{self, Archive};
use crate::checkpoint::stored::{self, StoredTensor};
use crate::error::Reason;
use crate::files::FileAccess;
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

/// Where training programs put the weights among other things: PyTorch Lightning, plain loops, DeepSpeed.
const INNER: [&str; 3] = ["state_dict", "model", "module"];

/// What they put beside the weights; read as plain data and not used.
const CLASSES: [&str; 1] = ["argparse.Namespace"];

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

/// Which file has each tensor, from a list of files.
fn list(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct List {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = files::read(path)?;
    let list: List = serde_json::from_slice(&bytes)
        .map_err(|e| Error::bad_file(path, Reason::because("no list of weight files", e)))?;
    for name in list.weight_map.values() {
        // A name in a file must not lead out of its folder.
        if Path::new(name)
            .file_name()
            .is_none_or(|file| file != name.as_str())
        {
            let reason = format!("names the file {name:?}, expected one beside it");
            return Err(Error::bad_file(path, reason));
        }
    }
    Ok(list.weight_map)
}

/// A list of files as `transformers` writes it: `{"weight_map": {name: file}}`.
fn read_list<T>(path: &Path, then: impl FnOnce(Container, Tensors<'_>) -> Result<T>) -> Result<T> {
    let listed = list(path)?;
    let names: BTreeSet<&String> = listed.values().collect();
    let mut files = Vec::new();
    for name in names {
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

/// The weight files that a folder of `transformers` may have, the best first.
const IN_FOLDER: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The weights of a folder, whole or in several files, mapped: a tensor is read when it is converted.
#[derive(Debug)]
pub struct WeightFolder {
    /// The file, or the list of files; for errors.
    path: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    /// Which file has each tensor, where there is a list.
    listed: BTreeMap<String, String>,
}

impl WeightFolder {
    /// Whether a folder has any.
    pub fn is_in(folder: &Path) -> bool {
        IN_FOLDER.iter().any(|name| folder.join(name).is_file())
    }

    /// Maps the files of `folder`.
    ///
    /// # Errors
    /// Where there are none, or one that a list names is not there.
    pub fn open(folder: &Path, access: FileAccess) -> Result<Self> {
        WeightFolder::open_named(folder, &IN_FOLDER, access)
    }

    /// [`WeightFolder::open`] of the first of these files that is there.
    pub fn open_named(folder: &Path, names: &[&str], access: FileAccess) -> Result<Self> {
        let mut paths = names.iter().map(|name| folder.join(name));
        let path = paths
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Missing {
                what: "weights of the model",
                path: folder.to_owned(),
                hint: format!("expected one of {}", names.join(", ")).into(),
            })?;
        if path.extension().is_none_or(|extension| extension != "json") {
            let files = vec![(path.clone(), files::bytes_of(&path, access)?)];
            let listed = BTreeMap::new();
            return Ok(WeightFolder {
                path,
                files,
                listed,
            });
        }
        let listed = list(&path)?;
        let names: BTreeSet<&String> = listed.values().collect();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let file = path.with_file_name(name);
            if !file.is_file() {
                let reason = format!("lists {name:?}, which is not there; expected all its files");
                return Err(Error::bad_file(&path, reason));
            }
            files.push((file.clone(), files::bytes_of(&file, access)?));
        }
        Ok(WeightFolder {
            path,
            files,
            listed,
        })
    }

    /// [`WeightFolder::open`] of one file.
    pub fn open_file(path: &Path, access: FileAccess) -> Result<Self> {
        WeightFolder::open_named(files::folder_of(path), &[super::file_name(path)], access)
    }

    /// The file, or the list of files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Gives the memory of what was read back to the system.
    pub fn release(&self) {
        for (path, _) in &self.files {
            files::release_mapped(path);
        }
    }

    /// Understands the files and passes their tensors on.
    ///
    /// # Errors
    /// Where a file is damaged, or lacks a tensor that the list says it has.
    pub fn read<T>(&self, then: impl FnOnce(Tensors<'_>) -> Result<T>) -> Result<T> {
        let mut archives = Vec::new();
        let mut tensors = Tensors::new();
        for (path, bytes) in &self.files {
            if pytorch::is_pytorch(bytes) {
                archives.push((path, Archive::parse(path, bytes, &CLASSES)?));
            } else {
                let found = safetensors(path, bytes)?;
                self.check(path, &found)?;
                tensors.extend(found);
            }
        }
        for (path, archive) in &archives {
            let root = archive.root();
            let inner = INNER.iter().find_map(|key| root.get(key)).unwrap_or(root);
            let found = inner.tensors()?.into_iter().collect();
            self.check(path, &found)?;
            tensors.extend(found);
        }
        then(without_prefix(tensors, PARALLEL))
    }

    /// Refuses a file that lacks what the list says it has.
    fn check(&self, file: &Path, found: &Tensors<'_>) -> Result<()> {
        let name = file.file_name().unwrap_or_default();
        let of_file = self.listed.iter().filter(|(_, of)| name == of.as_str());
        match of_file
            .map(|(tensor, _)| tensor)
            .find(|tensor| !found.contains_key(*tensor))
        {
            None => Ok(()),
            Some(tensor) => Err(Error::bad_file(
                file,
                format!(
                    "lacks the tensor {}, which {} says is in it",
                    tensor.escape_debug(),
                    self.path.display()
                ),
            )),
        }
    }
}
