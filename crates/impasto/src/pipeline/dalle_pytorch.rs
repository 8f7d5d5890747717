//! The whole way with a model of DALLE-pytorch: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde::Serialize;

use super::{AnyPipeline, BATCH, Drawn, GenerateRequest, Likelihood, Progress, Timings};
use crate::checkpoint::ModelSource;
use crate::generate::dalle_pytorch::draw;
use crate::image::Picture;
use crate::import::dalle_pytorch::{self as published, PublishedDallePytorch};
use crate::models::dalle::Order;
use crate::models::dalle_pytorch::DallePytorchConfig;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// Such a model, ready to run.
#[derive(Debug)]
pub struct DallePytorchPipeline {
    model: PublishedDallePytorch,
    device: Device,
    sampling: SamplingOptions,
    load_time: Duration,
}

/// What such a model is.
#[derive(Clone, Debug, Serialize)]
pub struct DescribedDallePytorch {
    /// What its folder or file is called.
    pub name: String,
    /// The image tokenizer.
    pub image_tokenizer: ImageTokenizerConfig,
    /// The transformer.
    pub dalle_pytorch: DallePytorchConfig,
    /// What `generate` uses where nothing else is asked for.
    pub sampling: SamplingOptions,
}

/// Whether a model is of this family.
pub fn is_dalle_pytorch(source: &ModelSource) -> bool {
    source.folder().is_some_and(published::is_published)
}

/// What a model is, and the bytes of its file. Everything is in the one file, so it is read.
pub fn describe(source: &ModelSource) -> Result<(DescribedDallePytorch, u64)> {
    let model = published::load(
        source.folder().unwrap_or(std::path::Path::new("")),
        &Device::flex(),
    )?;
    let dalle_pytorch = model.dalle.config().clone();
    let described = DescribedDallePytorch {
        name: model.name,
        image_tokenizer: model.image.config(),
        sampling: sampling(&dalle_pytorch),
        dalle_pytorch,
    };
    Ok((described, model.bytes))
}

/// The original's: `filter_thres` 0.5 keeps half of the joint vocabulary, words counted though none is drawn.
fn sampling(config: &DallePytorchConfig) -> SamplingOptions {
    let kept = (config.text_rows() + config.codebook_size) / 2;
    SamplingOptions {
        guidance_scale: 1.0,
        temperature: 1.0,
        top_k: (kept < config.codebook_size).then_some(kept.max(1)),
        top_p: None,
    }
}

impl DallePytorchPipeline {
    /// Loads a model onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let started = Instant::now();
        let model = published::load(source.folder().unwrap_or(std::path::Path::new("")), device)?;
        Ok(DallePytorchPipeline {
            sampling: sampling(model.dalle.config()),
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
        &self.model.name
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.sampling
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
