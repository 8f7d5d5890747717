//! A checkpoint folder of DALL·E mini or mega: a published model under our names.
//!
//! `config.json` begins with `"architecture": "dalle_mini"`; the weights are `dalle_bart.safetensors` and
//! `image_tokenizer.safetensors`; `tokenizer.json` is BART's; `enwiki-words-frequency.txt`, if there, splits
//! hashtags.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::weights::Formats;
use super::{ModelSource, config_file, saving};
use crate::models::{DalleBart, DalleBartConfig, ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::nn::ops::packed::WeightFormat;
use crate::sampling::SamplingOptions;
use crate::text::bart::BartTokenizer;
use crate::text::normalizer::{TextNormalizer, WordFrequencies};
use crate::{Error, Result, files};

/// The transformer's weights.
pub const TRANSFORMER: &str = "dalle_bart.safetensors";
/// The image tokenizer's weights.
pub const IMAGE_TOKENIZER: &str = "image_tokenizer.safetensors";
/// The words that hashtags are split into, the most frequent first.
pub const WORD_FREQUENCIES: &str = "enwiki-words-frequency.txt";

const TOKENIZER: &str = "tokenizer.json";

/// What tells `config.json` from that of other families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only one.
    #[default]
    #[serde(rename = "dalle_mini")]
    DalleMini,
}

/// What a model of this family is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DalleMiniConfig {
    /// The family.
    pub architecture: Architecture,
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Whether captions are normalised as in the training.
    pub normalize_text: bool,
    /// The image tokenizer.
    pub image_tokenizer: ImageTokenizerConfig,
    /// The transformer.
    pub dalle_bart: DalleBartConfig,
    /// What `generate` uses where nothing else is asked for.
    pub sampling: SamplingOptions,
    /// In what the transformer's file has the weights of linear layers.
    #[serde(default, skip_serializing_if = "WeightFormat::is_f32")]
    pub precision: WeightFormat,
}

impl DalleMiniConfig {
    /// Says what is impossible.
    pub fn validate(&self) -> Result<()> {
        self.image_tokenizer.validate()?;
        self.dalle_bart.validate()?;
        self.sampling.validate()?;
        let dalle = &self.dalle_bart;
        config_file::check_codes(&self.image_tokenizer, dalle.grid, dalle.codebook_size)
    }

    /// Writes `config.json` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        config_file::save(dir, self)
    }
}

/// Whether `source` is of this family.
pub fn is_dalle_mini(source: &ModelSource) -> bool {
    source.has_architecture::<Architecture>()
}

/// The config of a model of this family, without its weights.
pub fn config(source: &ModelSource) -> Result<DalleMiniConfig> {
    source.parsed_config("a DALL·E mini config", DalleMiniConfig::validate)
}

/// Bytes of the weight files.
pub fn weight_bytes(source: &ModelSource) -> Result<u64> {
    source.file_bytes(&[TRANSFORMER, IMAGE_TOKENIZER])
}

/// A model of this family, ready to run.
#[derive(Debug)]
pub struct DalleMini {
    /// The config.
    pub config: DalleMiniConfig,
    /// Caption → text ids.
    pub text: BartTokenizer,
    /// What captions go through before.
    pub normalizer: Option<TextNormalizer>,
    /// Pixels ↔ image ids.
    pub image: ImageTokenizer,
    /// The transformer.
    pub dalle: DalleBart,
    /// Where the weights are.
    pub device: Device,
}

impl DalleMini {
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
        let text = BartTokenizer::from_bytes(&source.read(TOKENIZER)?)
            .and_then(|text| text.check(&config.dalle_bart).map(|()| text))
            .map_err(|e| Error::bad_file(source.path(TOKENIZER), e.to_string()))?;
        let words = match source.read(WORD_FREQUENCIES) {
            Ok(bytes) => Some(
                WordFrequencies::parse(&bytes)
                    .map_err(|e| Error::bad_file(source.path(WORD_FREQUENCIES), e.to_string()))?,
            ),
            Err(_) => None,
        };
        let normalizer = config.normalize_text.then(|| TextNormalizer::new(words));
        source.check_room(
            config.dalle_bart.parameters(),
            &[TRANSFORMER, IMAGE_TOKENIZER],
        )?;
        // The fresh weights are all replaced; the seed is of no consequence.
        let mut init = Init::empty(device);
        let dalle = source.load(config.dalle_bart.init(&mut init), TRANSFORMER, formats)?;
        let image = config.image_tokenizer.init(&mut init);
        let image = source.load(image, IMAGE_TOKENIZER, Formats::default())?;
        Ok(DalleMini {
            config,
            text,
            normalizer,
            image,
            dalle,
            device: device.clone(),
        })
    }

    /// Writes a checkpoint directory with the weights as they are held; each file is written whole or not at all,
    /// the config last. `source` is where the model is from.
    pub fn save_as_held(&self, source: &ModelSource, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        saving::write(&dir.join(TRANSFORMER), &self.dalle)?;
        self.save_rest(source, dir)
    }

    /// [`Self::save_as_held`] with the transformer's weights in 16 bits.
    pub fn save_rounded(&self, source: &ModelSource, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        saving::write_rounded(&dir.join(TRANSFORMER), &self.dalle)?;
        self.save_rest(source, dir)
    }

    fn save_rest(&self, source: &ModelSource, dir: &Path) -> Result<()> {
        saving::write(&dir.join(IMAGE_TOKENIZER), &self.image)?;
        self.text.save(dir)?;
        match source.read(WORD_FREQUENCIES) {
            Ok(words) => files::write_atomic(dir.join(WORD_FREQUENCIES), &words)?,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.config.save(dir)
    }

    /// The ids of a caption, its start and end included, without padding.
    pub fn encode_caption(&self, caption: &str, truncate: bool) -> Result<Vec<u32>> {
        let normalised = match &self.normalizer {
            Some(normalizer) => normalizer.normalize(caption),
            None => caption.to_owned(),
        };
        self.text
            .encode_caption(&normalised, self.config.dalle_bart.text_length, truncate)
    }
}
