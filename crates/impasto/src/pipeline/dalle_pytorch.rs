//! The whole way with a model of DALLE-pytorch: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{AnyPipeline, BATCH, Drawn, GenerateRequest, Likelihood, Progress, Timings};
use crate::checkpoint::ModelSource;
use crate::checkpoint::dalle_pytorch::{
    self as checkpoint, DallePytorchModel, DallePytorchModelConfig,
};
use crate::generate::dalle_pytorch::draw;
use crate::image::Picture;
use crate::import::dalle_pytorch as published;
use crate::models::ImageTokenizer;
use crate::models::dalle::Order;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};
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
        if request.n == 0 {
            return Err(Error::invalid("n", "expected 1 or more pictures, got 0"));
        }
        if request.order != Order::Raster {
            return Err(Error::invalid(
                "order",
                format!("DALLE-pytorch draws in raster order, got {}", request.order),
            ));
        }
        let mut timings = Timings {
            load: self.load_time.as_secs_f64(),
            ..Timings::default()
        };
        let clock = Instant::now();
        let caption = self.encode_caption(&request.prompt, request.truncate)?;
        timings.text = clock.elapsed().as_secs_f64();
        let positions = self.model.dalle.config().image_length();
        let mut drawn = Vec::with_capacity(request.n);
        for first in (0..request.n).step_by(BATCH) {
            let rows = BATCH.min(request.n - first);
            let seeds: Vec<u64> = (first..first + rows)
                .map(|i| request.seed.wrapping_add(i as u64))
                .collect();
            let clock = Instant::now();
            let ids = draw(
                &self.model.dalle,
                &caption,
                &request.beginning,
                &seeds,
                &request.sampling,
                &mut |done, _, image_ids| {
                    progress(Progress {
                        done: first * positions + done * rows,
                        total: positions * request.n,
                        image_ids,
                    })
                },
            )?;
            timings.decode += clock.elapsed().as_secs_f64();
            let clock = Instant::now();
            let image_ids: Vec<Vec<u32>> = ids.iter().map(|ids| ids.image_ids.clone()).collect();
            let pictures = self.model.image.decode(&image_ids)?;
            timings.pixels += clock.elapsed().as_secs_f64();
            for ((picture, ids), seed) in pictures.into_iter().zip(ids).zip(seeds) {
                drawn.push(Drawn {
                    picture,
                    seed,
                    image_ids: ids.image_ids,
                    log_likelihood: ids.log_likelihood,
                });
            }
        }
        Ok((drawn, timings))
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
