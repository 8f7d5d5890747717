//! A checkpoint folder of a model of DALLE-pytorch: a published one under our names.
//!
//! `config.json` begins with `"architecture": "dalle_pytorch"`; the weights are `dalle_pytorch.safetensors` and
//! `image_tokenizer.safetensors`; the text tokenizer's file is the one that it came with.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::weights::Formats;
use super::{ModelSource, config_file, saving, weights};
use crate::models::parameters::export;
use crate::models::{DallePytorch, DallePytorchConfig, ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::nn::ops::packed::WeightFormat;
use crate::sampling::SamplingOptions;
use crate::text::dalle_pytorch::DallePytorchTokenizer;
use crate::{Error, Result, files};

const TRANSFORMER: &str = "dalle_pytorch.safetensors";
const IMAGE_TOKENIZER: &str = "image_tokenizer.safetensors";

/// What tells `config.json` from that of other families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only one.
    #[default]
    #[serde(rename = "dalle_pytorch")]
    DallePytorch,
}

/// What a model of this family is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DallePytorchModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The image tokenizer.
    pub image_tokenizer: ImageTokenizerConfig,
    /// The transformer.
    pub dalle_pytorch: DallePytorchConfig,
    /// What `generate` uses where nothing else is asked for.
    pub sampling: SamplingOptions,
    /// In what the transformer's file has the weights of linear layers.
    #[serde(default, skip_serializing_if = "WeightFormat::is_f32")]
    pub precision: WeightFormat,
}

impl DallePytorchModelConfig {
    /// Says what is impossible.
    pub fn validate(&self) -> Result<()> {
        self.image_tokenizer.validate()?;
        self.dalle_pytorch.validate()?;
        self.sampling.validate()?;
        let dalle = &self.dalle_pytorch;
        config_file::check_codes(&self.image_tokenizer, dalle.grid, dalle.codebook_size)
    }
}

/// A model of this family, ready to run.
#[derive(Debug)]
pub struct DallePytorchModel {
    /// The config.
    pub config: DallePytorchModelConfig,
    /// Caption → ids.
    pub text: DallePytorchTokenizer,
    /// Pixels ↔ image ids.
    pub image: ImageTokenizer,
    /// The transformer.
    pub dalle: DallePytorch,
}

/// Whether `source` is of this family.
pub fn is_dalle_pytorch(source: &ModelSource) -> bool {
    source.has_architecture::<Architecture>()
}

/// The config, without the weights.
pub fn config(source: &ModelSource) -> Result<DallePytorchModelConfig> {
    source.parsed_config("a DALLE-pytorch config", DallePytorchModelConfig::validate)
}

/// Bytes of the weight files.
pub fn weight_bytes(source: &ModelSource) -> Result<u64> {
    source.file_bytes(&[TRANSFORMER, IMAGE_TOKENIZER])
}

impl DallePytorchModel {
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
        let mut config = config(source)?;
        let formats = Formats::new(config.precision, wanted)?;
        config.precision = formats.held();
        let folder = source.folder().unwrap_or(Path::new(""));
        let text = DallePytorchTokenizer::load(folder, config.dalle_pytorch.text_vocab_size)?;
        source.check_room(
            config.dalle_pytorch.parameters(),
            &[TRANSFORMER, IMAGE_TOKENIZER],
        )?;
        let mut init = Init::empty(device);
        let dalle = source.load(config.dalle_pytorch.init(&mut init), TRANSFORMER, formats)?;
        let image = config.image_tokenizer.init(&mut init);
        let image = source.load(image, IMAGE_TOKENIZER, Formats::default())?;
        Ok(DallePytorchModel {
            config,
            text,
            image,
            dalle,
        })
    }

    /// Writes a checkpoint folder with all numbers as floats, and the text tokenizer's file out of `tokenizer`; the
    /// config last.
    pub fn save(&self, dir: &Path, tokenizer: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        weights::write(&dir.join(TRANSFORMER), &export(&self.dalle), precision)?;
        weights::write(&dir.join(IMAGE_TOKENIZER), &export(&self.image), precision)?;
        self.save_rest(dir, tokenizer, WeightFormat::F32)
    }

    /// [`Self::save`] with the weights as they are held.
    pub fn save_as_held(&self, dir: &Path, tokenizer: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        saving::write(&dir.join(TRANSFORMER), &self.dalle)?;
        saving::write(&dir.join(IMAGE_TOKENIZER), &self.image)?;
        self.save_rest(dir, tokenizer, self.config.precision)
    }

    fn save_rest(&self, dir: &Path, tokenizer: &Path, precision: WeightFormat) -> Result<()> {
        if let Some(file) = DallePytorchTokenizer::file_in(tokenizer) {
            let bytes = files::read(&file)?;
            files::write_atomic(dir.join(file.file_name().unwrap_or_default()), &bytes)?;
        }
        let config = DallePytorchModelConfig {
            precision,
            ..self.config.clone()
        };
        config_file::save(dir, &config)
    }
}
