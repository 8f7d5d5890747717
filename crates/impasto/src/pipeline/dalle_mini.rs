//! The whole way with DALL·E mini: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::{AnyPipeline, BATCH, Drawn, GenerateRequest, Likelihood, Progress, Timings};
use crate::checkpoint::dalle_mini::{self as checkpoint, DalleMini, DalleMiniConfig};
use crate::checkpoint::{ModelSource, WeightFormat};
use crate::generate::dalle_mini::draw;
use crate::image::Picture;
use crate::import::{dalle_mini as published, name_of};
use crate::models::ImageTokenizer;
use crate::models::dalle::Order;
use crate::models::dalle_bart::Followers;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// A DALL·E mini that draws.
#[derive(Debug)]
pub struct DalleMiniPipeline {
    /// The model.
    pub model: DalleMini,
    /// How long loading took.
    pub load_time: Duration,
}

/// Whether a model is of this family, in our format or as it was published.
pub fn is_dalle_mini(source: &ModelSource) -> bool {
    checkpoint::is_dalle_mini(source) || source.folder().is_some_and(published::is_dalle_mini)
}

/// The config of a model of this family and the bytes of its weight files.
pub fn describe(source: &ModelSource) -> Result<(DalleMiniConfig, u64)> {
    match source.folder() {
        Some(folder) if !checkpoint::is_dalle_mini(source) => {
            let needs = source.needs().first();
            published::describe(folder, needs.map(PathBuf::as_path), &name_of(folder))
        }
        _ => Ok((
            checkpoint::config(source)?,
            checkpoint::weight_bytes(source)?,
        )),
    }
}

impl DalleMiniPipeline {
    /// Loads a model onto `device`: a checkpoint of ours, or a published folder as it is.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        Self::load_in(source, device, None)
    }

    /// [`Self::load`] with the transformer's weights held as `wanted`; without, as they are stored.
    pub fn load_in(
        source: &ModelSource,
        device: &Device,
        wanted: Option<WeightFormat>,
    ) -> Result<Self> {
        let started = Instant::now();
        let model = match source.folder() {
            Some(folder) if !checkpoint::is_dalle_mini(source) => {
                let needs = source.needs().first();
                let needs = needs.map(PathBuf::as_path);
                published::load(
                    folder,
                    needs,
                    &name_of(folder),
                    device,
                    wanted.unwrap_or_default(),
                )?
            }
            _ => DalleMini::load_in(source, device, wanted)?,
        };
        Ok(DalleMiniPipeline {
            model,
            load_time: started.elapsed(),
        })
    }
}

impl AnyPipeline for DalleMiniPipeline {
    fn name(&self) -> &str {
        &self.model.config.name
    }

    fn device(&self) -> &Device {
        &self.model.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.model.image
    }

    fn sampling(&self) -> &SamplingOptions {
        &self.model.config.sampling
    }

    fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()> {
        self.model.encode_caption(prompt, truncate).map(drop)
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
                format!("DALL·E mini draws in raster order, got {}", request.order),
            ));
        }
        let model = &self.model;
        let mut timings = Timings {
            load: self.load_time.as_secs_f64(),
            ..Timings::default()
        };
        let clock = Instant::now();
        let text_ids = model.encode_caption(&request.prompt, request.truncate)?;
        let caption = model.dalle.read(&text_ids)?;
        let null_caption = model.dalle.read(&model.text.null_caption())?;
        timings.text = clock.elapsed().as_secs_f64();
        let total = model.config.dalle_bart.image_length() * request.n;
        let mut drawn = Vec::with_capacity(request.n);
        let mut finished = 0;
        for first in (0..request.n).step_by(BATCH) {
            let rows = BATCH.min(request.n - first);
            let seeds: Vec<u64> = (first..first + rows)
                .map(|i| request.seed.wrapping_add(i as u64))
                .collect();
            let clock = Instant::now();
            let ids = draw(
                &model.dalle,
                &caption,
                &null_caption,
                &request.beginning,
                &seeds,
                &request.sampling,
                &mut |done, _, image_ids| {
                    progress(Progress {
                        done: finished + done * rows,
                        total,
                        image_ids,
                    })
                },
            )?;
            finished += model.config.dalle_bart.image_length() * rows;
            timings.decode += clock.elapsed().as_secs_f64();
            let clock = Instant::now();
            let image_ids: Vec<Vec<u32>> = ids.iter().map(|ids| ids.image_ids.clone()).collect();
            let pictures = model.image.decode(&image_ids)?;
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

    /// Captions themselves have no likelihood: the model reads them only.
    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood> {
        let text_ids = self.model.encode_caption(caption, truncate)?;
        let caption = self.model.dalle.read(&text_ids)?;
        let image_ids = self.encode(picture)?;
        let followers = [Followers {
            caption: &caption,
            rows: 1,
        }];
        let image_tokens = image_ids.len();
        let nats = self.model.dalle.image_nats(&[image_ids], &followers)?;
        Ok(Likelihood {
            text_log_likelihood: 0.0,
            image_log_likelihood: super::negative_sum(nats)?,
            text_tokens: 0,
            image_tokens,
        })
    }
}
