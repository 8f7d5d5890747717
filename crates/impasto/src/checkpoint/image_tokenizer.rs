//! A checkpoint folder of an image tokenizer alone: it turns pictures into ids and back, and draws nothing.
//!
//! `config.json` begins with `"architecture": "image_tokenizer"`; the weights are `image_tokenizer.safetensors`.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{IMAGE_TOKENIZER, config_file, weights};
use crate::families::{AnyModel, ModelFiles, config_json};
use crate::import::image_tokenizer as published;
use crate::models::parameters::export;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::{Error, Result};

/// The tag in `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only value.
    #[default]
    #[serde(rename = "image_tokenizer")]
    ImageTokenizer,
}

/// What such a model is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTokenizerModelConfig {
    /// The tag.
    pub architecture: Architecture,
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The autoencoder.
    pub image_tokenizer: ImageTokenizerConfig,
}

/// An image tokenizer, ready to run.
#[derive(Debug)]
pub struct ImageTokenizerModel {
    /// What it is.
    pub config: ImageTokenizerModelConfig,
    /// Pixels ↔ image ids.
    pub model: ImageTokenizer,
    /// Where the weights are.
    pub device: Device,
}

impl AnyModel for ImageTokenizerModel {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn family(&self) -> &'static str {
        "image tokenizer"
    }

    fn config(&self) -> Result<serde_json::Value> {
        config_json(&self.config)
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model
    }
}

impl ImageTokenizerModel {
    /// Writes it into `dir`; each file is written whole or not at all, the config last.
    pub fn save(&self, dir: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        weights::write(&dir.join(IMAGE_TOKENIZER), &export(&self.model), precision)?;
        config_file::save(dir, &self.config)
    }
}

impl published::PublishedImageTokenizer {
    /// As a model on `device`, where it was loaded.
    pub(crate) fn into_model(self, device: &Device) -> ImageTokenizerModel {
        ImageTokenizerModel {
            config: ImageTokenizerModelConfig {
                architecture: Architecture::ImageTokenizer,
                name: self.name,
                licence: self.licence,
                image_tokenizer: self.model.config(),
            },
            model: self.model,
            device: device.clone(),
        }
    }
}

/// The config of a folder in our format, without the weights.
pub fn config(files: &ModelFiles) -> Result<ImageTokenizerModelConfig> {
    let config = files.parse_config(
        "an image tokenizer's config",
        |config: &ImageTokenizerModelConfig| config.image_tokenizer.validate(),
    )?;
    let parameters = config.image_tokenizer.parameters();
    files.source.check_room(parameters, &[IMAGE_TOKENIZER])?;
    Ok(config)
}

/// The config of one, and the bytes of its weight files. The sizes of most published forms follow from the weights.
pub fn describe(files: &ModelFiles) -> Result<(ImageTokenizerModelConfig, u64)> {
    if let Some(published) = files.published() {
        let found = published::load(published.path, &Device::flex())?;
        let bytes = found.bytes;
        return Ok((found.into_model(&Device::flex()).config, bytes));
    }
    Ok((config(files)?, files.source.file_bytes(&[IMAGE_TOKENIZER])?))
}

/// Loads one onto `device`, in our format or as it was published.
pub fn load(files: &ModelFiles, device: &Device) -> Result<ImageTokenizerModel> {
    if let Some(published) = files.published() {
        return Ok(published::load(published.path, device)?.into_model(device));
    }
    let config = config(files)?;
    let model = weights::load_into(
        config.image_tokenizer.init(&mut Init::empty(device)),
        &files.source.path(IMAGE_TOKENIZER),
        &files.source.read(IMAGE_TOKENIZER)?,
    )?;
    Ok(ImageTokenizerModel {
        config,
        model,
        device: device.clone(),
    })
}
