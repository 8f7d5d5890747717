//! The files of a model, and which family they are of. `config.json` is read once.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Family, FamilyVisitor, NAMES, Native, PublishedFiles, published_as, visit};
use crate::checkpoint::ModelSource;
use crate::checkpoint::config_file::{CONFIG, architecture};
use crate::error::Reason;
use crate::files::FileAccess;
use crate::import::foreign::{Wanted, explain};
use crate::import::{image_tokenizer, name_of};
use crate::{Error, Result};

/// What files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// A model of the family of this name.
    Family(&'static str),
    /// An image tokenizer alone.
    ImageTokenizer,
}

/// A model's files, before anything of size is read.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// Where they are.
    pub source: ModelSource,
    /// What they are.
    pub kind: ModelKind,
    /// How weight files come into memory.
    pub access: FileAccess,
    /// Of a folder in our format.
    config: Option<Vec<u8>>,
    /// The name of a published one.
    name: String,
}

/// The tag of image tokenizers in `config.json`.
pub(crate) const IMAGE_TOKENIZER: &str = "image_tokenizer";

impl ModelFiles {
    /// Finds out what is there.
    ///
    /// # Errors
    /// Where it is no model, or one whose config says something impossible.
    pub fn find(source: &ModelSource) -> Result<Self> {
        let files = Self::detect(source)?;
        // What is wrong with a config is reported before the time that a device takes.
        if let (ModelKind::Family(name), Some(_)) = (files.kind, &files.config) {
            struct Check<'a>(&'a ModelFiles);
            impl FamilyVisitor for Check<'_> {
                type Output = Result<()>;
                fn visit<F: Family>(self) -> Result<()> {
                    super::FamilyConfig::<F>::of(self.0).map(drop)
                }
            }
            visit(name, Check(&files)).transpose()?;
        }
        Ok(files)
    }

    fn detect(source: &ModelSource) -> Result<Self> {
        let of = |kind, config| ModelFiles {
            source: source.clone(),
            kind,
            access: FileAccess::default(),
            config,
            name: source.folder().map(name_of).unwrap_or_default(),
        };
        let path = source.folder();
        let config = match path {
            Some(path) if path.is_file() => None,
            _ => source.read(CONFIG).ok(),
        };
        let tag = config.as_deref().and_then(architecture);
        if let Some(tag) = &tag {
            if tag == IMAGE_TOKENIZER {
                return Ok(of(ModelKind::ImageTokenizer, config.map(Into::into)));
            }
            if let Some(&name) = NAMES.iter().find(|name| *name == tag) {
                return Ok(of(ModelKind::Family(name), config.map(Into::into)));
            }
        }
        if let Some(path) = path {
            if let Some(name) = published_as(path, config.as_deref()) {
                return Ok(of(ModelKind::Family(name), None));
            }
            if image_tokenizer::is_published(path) {
                return Ok(of(ModelKind::ImageTokenizer, None));
            }
            if path.is_file() {
                return Err(Error::bad_file(
                    path,
                    "not a published model that is known: expected dalle.pt, vae.pt, or a .ckpt beside its .yaml",
                ));
            }
        }
        // The error of a folder without a config names that file.
        let config = match config {
            Some(config) => config,
            None => source
                .read(CONFIG)
                .map_err(|error| explained(source, error))?,
        };
        Ok(of(ModelKind::Family(Native::NAME), Some(config.into())))
    }

    /// Whether it is a model in the form in which it was published, not a folder in our format.
    pub fn is_published_form(&self) -> bool {
        self.config.is_none()
    }

    /// Whether the model embeds pictures ([`PictureEncoder`](super::PictureEncoder)).
    pub fn embeds_pictures(&self) -> bool {
        struct Embeds;
        impl FamilyVisitor for Embeds {
            type Output = bool;
            fn visit<F: Family>(self) -> bool {
                F::PICTURE_ENCODER.is_some()
            }
        }
        match self.kind {
            ModelKind::Family(name) => visit(name, Embeds).unwrap_or(false),
            ModelKind::ImageTokenizer => false,
        }
    }

    /// Whether it is one of impasto's own architecture.
    pub fn is_native(&self) -> bool {
        self.kind == ModelKind::Family(Native::NAME)
    }

    /// The files of a published one.
    pub fn published(&self) -> Option<PublishedFiles<'_>> {
        let path = self.source.folder().filter(|_| self.is_published_form())?;
        Some(PublishedFiles {
            path,
            name: &self.name,
            access: self.access,
            image_tokenizer: self.source.needs().first().map(AsRef::as_ref),
        })
    }

    /// The config of a folder in our format; `what` it is, for errors.
    pub(crate) fn parse_config<C: DeserializeOwned>(
        &self,
        what: &str,
        validate: impl FnOnce(&C) -> Result<()>,
    ) -> Result<C> {
        let bad = |reason: Reason| Error::bad_file(self.source.path(CONFIG), reason);
        let bytes = self.config.as_deref().unwrap_or_default();
        let config: C = serde_json::from_slice(bytes)
            .map_err(|e| explained(&self.source, bad(format!("not {what}: {e}").into())))?;
        validate(&config).map_err(|e| bad(Reason::of(e)))?;
        Ok(config)
    }

    /// The folder, for files whose names differ from model to model.
    pub(crate) fn folder(&self) -> &Path {
        self.source.folder().unwrap_or(Path::new(""))
    }
}

/// The error of a folder that is no model, or what the folder is if that is known.
fn explained(source: &ModelSource, error: Error) -> Error {
    let found = source.folder().and_then(|folder| {
        let reason = explain(folder, Wanted::Model)?;
        Some(Error::bad_file(folder, reason))
    });
    found.unwrap_or(error)
}
