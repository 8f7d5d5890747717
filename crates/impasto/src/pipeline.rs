//! The whole way: prompt → ids → picture, and back: picture → ids → likelihood.

mod adapted;
mod any;
mod batches;
pub mod dalle_mini;
pub mod dalle_pytorch;
mod image_tokenizer;
mod info;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use serde::Serialize;

use crate::checkpoint::{Model, ModelSource, WeightFormat};
use crate::generate::{SampleSpec, draw};
use crate::image::Picture;
use crate::models::dalle::{DalleBatch, Order, Part, image_part, raster};
use crate::nn::block::AttentionMask;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

use self::batches::Batches;

pub use adapted::{merge, open_adapted};
pub use any::{AnyPipeline, check, is_published, open, quantise};
pub use info::{AnyConfig, ModelInfo, info};

/// A model that draws.
#[derive(Debug)]
pub struct Pipeline {
    /// The model.
    pub model: Model,
    /// How long loading took.
    pub load_time: Duration,
}

/// What to draw.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The caption.
    pub prompt: String,
    /// Pictures; picture number i has the seed `seed + i`.
    pub n: usize,
    /// Seed of the first picture.
    pub seed: u64,
    /// Guidance, temperature, cuts.
    pub sampling: SamplingOptions,
    /// Token order.
    pub order: Order,
    /// Cut a caption that is too long instead of refusing it.
    pub truncate: bool,
    /// Row-major ids that every picture starts with; published models continue from them.
    pub beginning: Vec<u32>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Image tokens drawn, over all pictures.
    pub done: usize,
    /// Image tokens to draw.
    pub total: usize,
    /// Of the pictures that are being drawn the ids so far, row after row; none from models that do not tell
    /// them on the way.
    pub image_ids: &'a [Vec<u32>],
}

/// A picture drawn.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The pixels.
    pub picture: Picture,
    /// Its seed.
    pub seed: u64,
    /// Its row-major ids.
    pub image_ids: Vec<u32>,
    /// log p of the ids given the caption, in nats.
    pub log_likelihood: f64,
}

/// How long each part of a request took, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timings {
    /// Reading the model.
    pub load: f64,
    /// Tokenizing the caption.
    pub text: f64,
    /// Drawing the ids.
    pub decode: f64,
    /// Ids to pixels.
    pub pixels: f64,
}

/// The likelihood of a pair under the model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Likelihood {
    /// ln p(text).
    pub text_log_likelihood: f64,
    /// ln p(picture | text), in raster order.
    pub image_log_likelihood: f64,
    /// Text tokens counted, the end among them.
    pub text_tokens: usize,
    /// Image tokens counted.
    pub image_tokens: usize,
}

impl Pipeline {
    /// Loads a model onto `device`.
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
        let model = Model::load_in(source, device, wanted)?;
        Ok(Pipeline {
            model,
            load_time: started.elapsed(),
        })
    }

    /// Side of the pictures in pixels.
    pub fn picture_size(&self) -> usize {
        self.model.config.image_tokenizer.picture_size()
    }

    /// Draws. `progress` may stop the work, which is then [`Error::Stopped`].
    pub fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        let batches = Batches::begin(request, self.load_time)?;
        if !request.beginning.is_empty() {
            return Err(Error::invalid(
                "beginning",
                "a model of impasto's own completes pictures (`complete`), in any order",
            ));
        }
        let length = self.model.config.dalle.text_length;
        let text_ids = self
            .model
            .text
            .encode_caption(&request.prompt, length, request.truncate)?;
        let null_caption = self.model.text.null_caption(length);
        let drawing = |&seed: &u64| SampleSpec {
            text_ids: text_ids.clone(),
            seed,
        };
        batches.draw(
            &self.model.image,
            |seeds, progress| {
                let drawings: Vec<SampleSpec> = seeds.iter().map(drawing).collect();
                draw(
                    &self.model.dalle,
                    &drawings,
                    &null_caption,
                    &request.sampling,
                    request.order,
                    &mut |done, total| progress(done, total, &[]),
                )
            },
            progress,
        )
    }

    /// ln p of a caption and of a picture given it.
    pub fn likelihood(
        &self,
        caption: &str,
        picture: &Picture,
        truncate: bool,
    ) -> Result<Likelihood> {
        let config = &self.model.config.dalle;
        let text_ids =
            vec![
                self.model
                    .text
                    .encode_caption(caption, config.text_length, truncate)?,
            ];
        let image_ids = vec![self.encode(picture)?];
        let batch = DalleBatch {
            orders: vec![raster(config.image_length())],
            text_ids,
            image_ids,
            captioned: 0,
        };
        let text = Part::Text {
            ids: batch.text_ids[0].clone(),
            start: 0,
        };
        let image = image_part(&batch.image_ids, &batch.orders, config.codebook_size, false);
        let states = self
            .model
            .dalle
            .forward(&[text, image], 1, None, AttentionMask::Causal);
        let (text_nats, counted) = self.model.dalle.text_nats(
            states.clone().narrow(1, 0, config.text_length),
            &batch.text_ids,
        );
        let image_states = states.narrow(1, config.text_length, config.image_length());
        let image_nats = self.model.dalle.image_nats(image_states, &batch, 1);
        Ok(Likelihood {
            text_log_likelihood: negative_sum(text_nats)?,
            image_log_likelihood: negative_sum(image_nats)?,
            text_tokens: counted.iter().filter(|&&counts| counts).count(),
            image_tokens: config.image_length(),
        })
    }

    /// Row-major ids of a picture of any size: its middle square, scaled to the model's.
    pub fn encode(&self, picture: &Picture) -> Result<Vec<u32>> {
        let picture = picture.fit_square(self.picture_size())?;
        Ok(self
            .model
            .image
            .encode(&[picture], &self.model.device)?
            .swap_remove(0))
    }

    /// The picture of row-major ids.
    pub fn decode(&self, image_ids: &[u32]) -> Result<Picture> {
        Ok(self
            .model
            .image
            .decode(&[image_ids.to_vec()])?
            .swap_remove(0))
    }

    /// A picture through the image tokenizer and back.
    pub fn reconstruct(&self, picture: &Picture) -> Result<Picture> {
        self.decode(&self.encode(picture)?)
    }
}

/// −Σ, added up on the host.
fn negative_sum(nats: Tensor<1>) -> Result<f64> {
    let nats: Vec<f32> = nats
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("likelihood", format!("{e:?}")))?;
    let total: f64 = nats.into_iter().map(f64::from).sum();
    if !total.is_finite() {
        return Err(Error::NonFinite {
            what: "likelihood",
            detail: format!("{total}"),
        });
    }
    Ok(-total)
}
