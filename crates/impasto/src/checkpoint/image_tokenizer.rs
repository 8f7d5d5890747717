//! A checkpoint folder of an image tokenizer alone: it turns pictures into ids and back, and draws nothing.
//!
//! `config.json` begins with `"architecture": "image_tokenizer"`; the weights are `image_tokenizer.safetensors`.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{ModelSource, config_file, weights};
use crate::models::parameters::export;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::{Error, Result};

const WEIGHTS: &str = "image_tokenizer.safetensors";

/// What tells `config.json` from that of other families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only one.
    #[default]
    #[serde(rename = "image_tokenizer")]
    ImageTokenizer,
}

/// What such a model is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTokenizerModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The autoencoder.
    pub image_tokenizer: ImageTokenizerConfig,
}

/// Whether `source` is one.
pub fn is_image_tokenizer(source: &ModelSource) -> bool {
    source.has_architecture::<Architecture>()
}

/// The config, without the weights.
pub fn config(source: &ModelSource) -> Result<ImageTokenizerModelConfig> {
    let config = source.parsed_config(
        "an image tokenizer's config",
        |config: &ImageTokenizerModelConfig| config.image_tokenizer.validate(),
    )?;
    source.check_room(config.image_tokenizer.parameters(), &[WEIGHTS])?;
    Ok(config)
}

/// Bytes of the weight file.
pub fn weight_bytes(source: &ModelSource) -> Result<u64> {
    source.file_bytes(&[WEIGHTS])
}

/// Loads one onto `device`.
pub fn load(
    source: &ModelSource,
    device: &Device,
) -> Result<(ImageTokenizerModelConfig, ImageTokenizer)> {
    let config = config(source)?;
    let model = weights::load_into(
        config.image_tokenizer.init(&mut Init::empty(device)),
        &source.path(WEIGHTS),
        &source.read(WEIGHTS)?,
    )?;
    Ok((config, model))
}

/// Writes one into `dir`; each file is written whole or not at all, the config last.
pub fn save(
    dir: &Path,
    config: &ImageTokenizerModelConfig,
    model: &ImageTokenizer,
    precision: weights::Precision,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    weights::write(&dir.join(WEIGHTS), &export(model), precision)?;
    config_file::save(dir, config)
}
