//! Where a model comes from, and its files.

use std::path::{Path, PathBuf};

use burn::module::Module;
use bytes::Bytes;

use super::weights::WeightPrecision;
use super::{adapter, weights};
use crate::files::FileAccess;
use crate::{Error, Result, files, hub};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// One inside the program, by its name.
    Embedded(&'static str),
    /// A checkpoint directory.
    Dir(PathBuf),
    /// A published model that is one file, or that was pulled.
    Published {
        /// Its folder, or the file.
        path: PathBuf,
        /// The folders of the other models that it does not run without.
        needs: Vec<PathBuf>,
    },
}

/// The embedded model that draws.
pub const EMBEDDED_NAME: &str = impasto_models::IMPASTO_STYLES;
/// The embedded CLIP.
pub const EMBEDDED_CLIP: &str = impasto_models::IMPASTO_CLIP;

/// The file of the image tokenizer's weights in every folder of ours.
pub(crate) const IMAGE_TOKENIZER: &str = "image_tokenizer.safetensors";

impl ModelSource {
    /// A model by its name or directory.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(name) = impasto_models::find(text) {
            return Ok(ModelSource::Embedded(name));
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(ModelSource::Dir(path));
        }
        if path.is_file() {
            files::check(&path)?;
            return Ok(ModelSource::Published {
                path,
                needs: Vec::new(),
            });
        }
        Err(Error::Missing {
            what: "model",
            path,
            hint: format!(
                "give a checkpoint directory, a published model, {EMBEDDED_NAME}, or {EMBEDDED_CLIP} for a CLIP"
            )
            .into(),
        })
    }

    /// [`ModelSource::parse`], or a model that was pulled into `cache`, by its name.
    ///
    /// # Errors
    /// Also where it is an adapter, which is no model by itself.
    pub fn find(text: &str, cache: Option<&Path>) -> Result<Self> {
        let source = match (ModelSource::parse(text), cache) {
            (Err(error), Some(cache)) => hub::find_pulled(text, cache)?.ok_or(error)?,
            (source, _) => source?,
        };
        if source.folder().is_some_and(adapter::is_adapter) {
            return Err(Error::bad_file(text, "is an adapter, expected a model"));
        }
        Ok(source)
    }

    /// One of the model's files.
    pub fn read(&self, name: &'static str) -> Result<Bytes> {
        match self {
            ModelSource::Embedded(model) => impasto_models::file(model, name)
                .map(Bytes::from_static)
                .ok_or_else(|| Error::Missing {
                    what: "file of the embedded model",
                    path: name.into(),
                    hint: "expected config.json, tokenizer.json, the weights or MODEL_CARD.md"
                        .into(),
                }),
            ModelSource::Dir(dir) | ModelSource::Published { path: dir, .. } => {
                files::read(dir.join(name)).map(Bytes::from)
            }
        }
    }

    /// A file of weights.
    pub fn weights(&self, name: &'static str, access: FileAccess) -> Result<Bytes> {
        match self {
            ModelSource::Embedded(_) => self.read(name),
            ModelSource::Dir(dir) | ModelSource::Published { path: dir, .. } => {
                files::bytes_of(&dir.join(name), access)
            }
        }
    }

    /// How the file is named in errors.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            ModelSource::Embedded(model) => Path::new(model).join(name),
            ModelSource::Dir(dir) | ModelSource::Published { path: dir, .. } => dir.join(name),
        }
    }

    /// The folder, or the file, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            ModelSource::Embedded(_) => None,
            ModelSource::Dir(path) | ModelSource::Published { path, .. } => Some(path),
        }
    }

    /// The folders of the other models that it does not run without.
    pub fn needs(&self) -> &[PathBuf] {
        match self {
            ModelSource::Published { needs, .. } => needs,
            _ => &[],
        }
    }

    /// Bytes of some of the model's files.
    pub(crate) fn file_bytes(&self, names: &[&'static str]) -> Result<u64> {
        let bytes = names.iter().map(|&name| match self {
            ModelSource::Embedded(_) => Ok(self.read(name)?.len() as u64),
            ModelSource::Dir(_) | ModelSource::Published { .. } => {
                let path = self.path(name);
                let file = std::fs::metadata(&path).map_err(Error::io("read", &path))?;
                Ok(file.len())
            }
        });
        bytes.sum()
    }

    /// Sets all parameters of `module` from one of the model's files.
    pub(crate) fn load<M: Module>(
        &self,
        module: M,
        name: &'static str,
        (formats, access): (WeightPrecision, FileAccess),
    ) -> Result<M> {
        let bytes = self.weights(name, access)?;
        weights::load(module, &self.path(name), &bytes, formats)
    }
}
