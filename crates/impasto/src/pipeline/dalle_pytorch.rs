//! The whole way with a model of DALLE-pytorch: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::batches::Batches;
use super::{AnyPipeline, Drawn, GenerateRequest, Likelihood, Progress, Timings};
use crate::Result;
use crate::checkpoint::ModelSource;
use crate::checkpoint::dalle_pytorch::{
    self as checkpoint, DallePytorchModel, DallePytorchModelConfig,
};
use crate::generate::dalle_pytorch::draw;
use crate::image::Picture;
use crate::import::dalle_pytorch as published;
use crate::models::ImageTokenizer;
use crate::sampling::SamplingOptions;
use burn::tensor::Device;

/// Such a model, ready to run.
#[derive(Debug)]
pub struct DallePytorchPipeline {
    pub(crate) model: DallePytorchModel,
    device: Device,
    load_time: Duration,
}

/// Whether a model is of this family, in our format or as it was published.
pub fn is_dalle_pytorch(source: &ModelSource) -> bool {
    checkpoint::is_dalle_pytorch(source) || source.folder().is_some_and(published::is_published)
}

/// The path of a published one.
fn published_path(source: &ModelSource) -> Option<&Path> {
    source
        .folder()
        .filter(|_| !checkpoint::is_dalle_pytorch(source))
}

/// What a model is, and the bytes of its weight files. A published one is read for it: its file has everything.
pub fn describe(source: &ModelSource) -> Result<(DallePytorchModelConfig, u64)> {
    match published_path(source) {
        Some(path) => {
            let published = published::load(path, &Device::flex())?;
            Ok((published.model.config, published.bytes))
        }
        None => Ok((
            checkpoint::config(source)?,
            checkpoint::weight_bytes(source)?,
        )),
    }
}

impl DallePytorchPipeline {
    /// Loads a model onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let started = Instant::now();
        let model = match published_path(source) {
            Some(path) => published::load(path, device)?.model,
            None => DallePytorchModel::load(source, device)?,
        };
        Ok(DallePytorchPipeline {
            model,
            device: device.clone(),
            load_time: started.elapsed(),
        })
    }

    fn encode_caption(&self, caption: &str, truncate: bool) -> Result<Vec<u32>> {
        let length = self.model.dalle.config().text_length;
        self.model.text.encode_caption(caption, length, truncate)
    }
}

impl AnyPipeline for DallePytorchPipeline {
    fn name(&self) -> &str {
        &self.model.config.name
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.model.config.sampling
    }

    fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()> {
        self.encode_caption(prompt, truncate).map(drop)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<Drawn>, Timings)> {
        let batches = Batches::begin(request, self.load_time)?.in_raster_order("DALLE-pytorch")?;
        let caption = self.encode_caption(&request.prompt, request.truncate)?;
        batches.draw(
            &self.model.image,
            |seeds, progress| {
                let (beginning, sampling) = (&request.beginning, &request.sampling);
                draw(
                    &self.model.dalle,
                    &caption,
                    beginning,
                    seeds,
                    sampling,
                    progress,
                )
            },
            progress,
        )
    }

    /// The caption's likelihood counts what fills it up, as the training did.
    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood> {
        let caption = self.encode_caption(caption, truncate)?;
        let image_ids = self.encode(picture)?;
        let (text, image) = self.model.dalle.nats(&caption, &image_ids)?;
        Ok(Likelihood {
            text_log_likelihood: super::negative_sum(text)?,
            image_log_likelihood: super::negative_sum(image)?,
            text_tokens: self.model.dalle.config().text_length,
            image_tokens: image_ids.len(),
        })
    }
}
