//! A whole model for drawing: text tokenizer, image tokenizer and transformer, with their config.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::weights::Formats;
use super::{config_file, embedded, saving, weights};
use crate::models::{Dalle, DalleConfig, ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::nn::ops::packed::WeightFormat;
use crate::sampling::SamplingOptions;
use crate::text::TextTokenizer;
use crate::{Error, Result, files};

/// `config.json` of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The image tokenizer.
    pub image_tokenizer: ImageTokenizerConfig,
    /// The transformer.
    pub dalle: DalleConfig,
    /// What `generate` uses where nothing else is asked for.
    pub sampling: SamplingOptions,
    /// Whether pictures were told in random orders too while it was trained. A model that knows raster order
    /// only is edited by forcing what is known.
    #[serde(default = "any_order")]
    pub any_order: bool,
    /// In what the transformer's file has the weights of linear layers.
    #[serde(default, skip_serializing_if = "WeightFormat::is_f32")]
    pub precision: WeightFormat,
}

/// Models from before the field were all trained on mixed orders.
fn any_order() -> bool {
    true
}

impl ModelConfig {
    /// Says what is impossible.
    pub fn validate(&self) -> Result<()> {
        self.image_tokenizer.validate()?;
        self.dalle.validate()?;
        self.sampling.validate()?;
        config_file::check_codes(
            &self.image_tokenizer,
            self.dalle.grid,
            self.dalle.codebook_size,
        )
    }
}

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
pub const EMBEDDED_NAME: &str = "impasto-mini";
/// The embedded CLIP.
pub const EMBEDDED_CLIP: &str = "impasto-clip";

const TOKENIZER: &str = "tokenizer.json";
pub(crate) const DALLE: &str = "dalle.safetensors";
pub(crate) const IMAGE_TOKENIZER: &str = "image_tokenizer.safetensors";

impl ModelSource {
    /// A model by its name or directory.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(name) = embedded::find(text) {
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
                "give a checkpoint directory, a published model, {EMBEDDED_NAME}, or {EMBEDDED_CLIP} for a CLIP; `impasto model list` shows what is here"
            ),
        })
    }

    /// One of the model's files.
    pub fn read(&self, name: &'static str) -> Result<Cow<'static, [u8]>> {
        match self {
            ModelSource::Embedded(model) => embedded::file(model, name)
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::Missing {
                    what: "file of the embedded model",
                    path: name.into(),
                    hint: "build the program with the models/ folder of its repository".into(),
                }),
            ModelSource::Dir(dir) | ModelSource::Published { path: dir, .. } => {
                files::read(dir.join(name)).map(Cow::Owned)
            }
        }
    }

    /// A file of weights, mapped into memory where the system can.
    pub fn map(&self, name: &'static str) -> Result<Cow<'static, [u8]>> {
        match self {
            ModelSource::Embedded(_) => self.read(name),
            ModelSource::Dir(dir) | ModelSource::Published { path: dir, .. } => {
                files::map(&dir.join(name))
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

    /// The model's config, without its weights.
    pub fn config(&self) -> Result<ModelConfig> {
        let config = self.parsed_config("a model config", ModelConfig::validate)?;
        self.check_room(config.dalle.parameters(), &[DALLE])?;
        self.check_room(config.image_tokenizer.parameters(), &[IMAGE_TOKENIZER])?;
        Ok(config)
    }

    /// The model's text tokenizer.
    pub fn text_tokenizer(&self) -> Result<TextTokenizer> {
        let bad = |reason: String| Error::bad_file(self.path(TOKENIZER), reason);
        let text = TextTokenizer::from_bytes(&self.read(TOKENIZER)?)
            .map_err(|error| bad(error.to_string()))?;
        let (found, expected) = (text.vocab_size(), self.config()?.dalle.text_vocab_size);
        if found != expected {
            return Err(bad(format!(
                "has {found} ids, config.json expects {expected}"
            )));
        }
        Ok(text)
    }

    /// Bytes of the weight files.
    pub fn weight_bytes(&self) -> Result<u64> {
        self.file_bytes(&[DALLE, IMAGE_TOKENIZER])
    }

    /// Bytes of some of the model's files.
    pub(super) fn file_bytes(&self, names: &[&'static str]) -> Result<u64> {
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
    pub(super) fn load<M: Module>(
        &self,
        module: M,
        name: &'static str,
        formats: Formats,
    ) -> Result<M> {
        weights::load(module, &self.path(name), self.map(name)?, formats)
    }
}

/// A model ready to run.
#[derive(Debug)]
pub struct Model {
    /// The config.
    pub config: ModelConfig,
    /// Caption ↔ text ids.
    pub text: TextTokenizer,
    /// Pixels ↔ image ids.
    pub image: ImageTokenizer,
    /// The transformer.
    pub dalle: Dalle,
    /// Where the weights are.
    pub device: Device,
}

impl Model {
    /// Loads all of a model onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        Self::load_in(source, device, None)
    }

    /// [`Self::load`] with the transformer's weights held as `wanted`; without, as they are stored.
    pub fn load_in(
        source: &ModelSource,
        device: &Device,
        wanted: Option<WeightFormat>,
    ) -> Result<Self> {
        let mut config = source.config()?;
        let formats = Formats::new(config.precision, wanted)?;
        config.precision = formats.held();
        let text = source.text_tokenizer()?;
        // The fresh weights are all replaced; the seed is of no consequence.
        let mut init = Init::empty(device);
        let dalle = source.load(config.dalle.init(&mut init), DALLE, formats)?;
        let image = config.image_tokenizer.init(&mut init);
        let image = source.load(image, IMAGE_TOKENIZER, Formats::default())?;
        Ok(Model {
            config,
            text,
            image,
            dalle,
            device: device.clone(),
        })
    }

    /// Writes a checkpoint directory with all numbers as floats; each file is written whole or not at all, the
    /// config last.
    pub fn save(&self, dir: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        use crate::models::parameters::export;
        weights::write(&dir.join(DALLE), &export(&self.dalle), precision)?;
        weights::write(&dir.join(IMAGE_TOKENIZER), &export(&self.image), precision)?;
        self.save_rest(dir, WeightFormat::F32)
    }

    /// Writes a checkpoint directory with the weights as they are held; each file is written whole or not at all,
    /// the config last.
    pub fn save_as_held(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        saving::write(&dir.join(DALLE), &self.dalle)?;
        saving::write(&dir.join(IMAGE_TOKENIZER), &self.image)?;
        self.save_rest(dir, self.config.precision)
    }

    fn save_rest(&self, dir: &Path, precision: WeightFormat) -> Result<()> {
        self.text.save(dir)?;
        let config = ModelConfig {
            precision,
            ..self.config.clone()
        };
        config_file::save(dir, &config)
    }
}
