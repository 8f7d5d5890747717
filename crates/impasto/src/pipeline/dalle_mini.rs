//! The whole way with DALL·E mini: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::{BATCH, Drawn, GenerateRequest, Likelihood, Progress, Timings};
use crate::checkpoint::ModelSource;
use crate::checkpoint::dalle_mini::DalleMini;
use crate::generate::dalle_mini::draw;
use crate::image::Picture;
use crate::models::dalle::Order;
use crate::models::dalle_bart::Followers;
use crate::{Error, Result};

/// A DALL·E mini that draws.
#[derive(Debug)]
pub struct DalleMiniPipeline {
    /// The model.
    pub model: DalleMini,
    /// How long loading took.
    pub load_time: Duration,
}

impl DalleMiniPipeline {
    /// Loads a model onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let started = Instant::now();
        let model = DalleMini::load(source, device)?;
        Ok(DalleMiniPipeline {
            model,
            load_time: started.elapsed(),
        })
    }

    /// Side of the pictures in pixels.
    pub fn picture_size(&self) -> usize {
        self.model.config.image_tokenizer.picture_size()
    }

    /// Draws; see [`super::Pipeline::generate`].
    pub fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
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
                &seeds,
                &request.sampling,
                &mut |done, _, _| {
                    progress(Progress {
                        done: finished + done * rows,
                        total,
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

    /// ln p of a picture given a caption. Captions themselves have none: the model reads them only.
    pub fn likelihood(
        &self,
        caption: &str,
        picture: &Picture,
        truncate: bool,
    ) -> Result<Likelihood> {
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

    /// Row-major ids of a picture of any size: its middle square, scaled to the model's.
    pub fn encode(&self, picture: &Picture) -> Result<Vec<u32>> {
        let picture = picture.fit_square(self.picture_size())?;
        let ids = self.model.image.encode(&[picture], &self.model.device);
        Ok(ids?.swap_remove(0))
    }

    /// The picture of row-major ids.
    pub fn decode(&self, image_ids: &[u32]) -> Result<Picture> {
        let pictures = self.model.image.decode(&[image_ids.to_vec()]);
        Ok(pictures?.swap_remove(0))
    }
}
