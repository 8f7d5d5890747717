//! An image tokenizer alone, for what needs no transformer: pictures ↔ ids.

use std::ops::ControlFlow;

use burn::tensor::Device;

use super::{AnyPipeline, GenerateRequest, GeneratedImage, Likelihood, Progress, Timings};
use crate::caption::{ContinueRequest, GeneratedCaption, Search};
use crate::checkpoint::ModelSource;
use crate::checkpoint::image_tokenizer::{
    self as checkpoint, Architecture, ImageTokenizerModelConfig,
};
use crate::generate::InfillModel;
use crate::image::Picture;
use crate::import::image_tokenizer as published;
use crate::models::ImageTokenizer;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// An image tokenizer, ready to run.
#[derive(Debug)]
pub struct ImageTokenizerPipeline {
    config: ImageTokenizerModelConfig,
    model: ImageTokenizer,
    device: Device,
    /// Of no use, there is nothing to sample.
    sampling: SamplingOptions,
}

/// Whether a model is an image tokenizer alone, in our format or as it was published.
pub fn is_image_tokenizer(source: &ModelSource) -> bool {
    checkpoint::is_image_tokenizer(source) || source.folder().is_some_and(published::is_published)
}

/// The config of an image tokenizer and the bytes of its weight files.
pub fn describe(source: &ModelSource) -> Result<(ImageTokenizerModelConfig, u64)> {
    match source.folder() {
        Some(path) if !checkpoint::is_image_tokenizer(source) => {
            // Sizes of most forms follow from the weights.
            let published = published::load(path, &Device::flex())?;
            let bytes = published.bytes;
            Ok((config_of(&published), bytes))
        }
        _ => Ok((
            checkpoint::config(source)?,
            checkpoint::weight_bytes(source)?,
        )),
    }
}

fn config_of(published: &published::PublishedImageTokenizer) -> ImageTokenizerModelConfig {
    ImageTokenizerModelConfig {
        architecture: Architecture::ImageTokenizer,
        name: published.name.clone(),
        licence: published.licence.clone(),
        image_tokenizer: published.model.config(),
    }
}

impl ImageTokenizerPipeline {
    /// Loads one onto `device`: a checkpoint of ours, or a published one as it is.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let (config, model) = match source.folder() {
            Some(path) if !checkpoint::is_image_tokenizer(source) => {
                let published = published::load(path, device)?;
                (config_of(&published), published.model)
            }
            _ => checkpoint::load(source, device)?,
        };
        Ok(ImageTokenizerPipeline {
            config,
            model,
            device: device.clone(),
            sampling: SamplingOptions::default(),
        })
    }

    fn no_transformer<T>(&self) -> Result<T> {
        Err(Error::invalid(
            "model",
            format!(
                "{} is an image tokenizer alone: it turns pictures into ids and back, and reads no words",
                self.config.name
            ),
        ))
    }
}

impl AnyPipeline for ImageTokenizerPipeline {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.sampling
    }

    fn check_prompt(&self, _prompt: &str, _truncate: bool) -> Result<()> {
        self.no_transformer()
    }

    fn generate(
        &self,
        _request: &GenerateRequest,
        _progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        self.no_transformer()
    }

    fn canvas_model(&self) -> Result<&dyn InfillModel> {
        self.no_transformer()
    }

    fn captions(
        &self,
        _picture: &Picture,
        _n: usize,
        _search: &Search,
    ) -> Result<Vec<GeneratedCaption>> {
        self.no_transformer()
    }

    fn continue_text(&self, _request: &ContinueRequest) -> Result<Vec<GeneratedCaption>> {
        self.no_transformer()
    }

    fn likelihood(
        &self,
        _caption: &str,
        _picture: &Picture,
        _truncate: bool,
    ) -> Result<Likelihood> {
        self.no_transformer()
    }
}
