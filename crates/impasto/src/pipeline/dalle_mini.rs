//! The whole way with DALL·E mini: prompt → ids → picture, and picture → ids → likelihood.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::batches::Batches;
use super::{AnyPipeline, GenerateRequest, GeneratedImage, Likelihood, Progress, Timings};
use crate::Result;
use crate::checkpoint::dalle_mini::{self as checkpoint, DalleMini, DalleMiniConfig};
use crate::checkpoint::{ModelSource, WeightFormat};
use crate::generate::InfillModel;
use crate::generate::dalle_mini::draw;
use crate::image::Picture;
use crate::import::{dalle_mini as published, name_of};
use crate::models::ImageTokenizer;
use crate::models::dalle_bart::CaptionRows;
use crate::sampling::SamplingOptions;

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
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        let batches = Batches::begin(request, self.load_time)?.in_raster_order("DALL·E mini")?;
        let model = &self.model;
        let text_ids = model.encode_caption(&request.prompt, request.truncate)?;
        let caption = model.dalle.encode(&text_ids)?;
        let null_caption = model.dalle.encode(&model.text.null_caption())?;
        batches.draw(
            &model.image,
            |seeds, progress| {
                let (beginning, sampling) = (&request.beginning, &request.sampling);
                let (dalle, null) = (&model.dalle, &null_caption);
                draw(dalle, &caption, null, beginning, seeds, sampling, progress)
            },
            progress,
        )
    }

    fn canvas_model(&self) -> Result<&dyn InfillModel> {
        Ok(&self.model)
    }

    /// Captions themselves have no likelihood: the model reads them only.
    fn likelihood(&self, caption: &str, picture: &Picture, truncate: bool) -> Result<Likelihood> {
        let text_ids = self.model.encode_caption(caption, truncate)?;
        let caption = self.model.dalle.encode(&text_ids)?;
        let image_ids = self.encode(picture)?;
        let caption_rows = [CaptionRows {
            caption: &caption,
            rows: 1,
        }];
        let image_tokens = image_ids.len();
        let nats = self.model.dalle.image_nats(&[image_ids], &caption_rows)?;
        Ok(Likelihood {
            text_log_likelihood: 0.0,
            image_log_likelihood: super::negative_sum(nats)?,
            text_tokens: 0,
            image_tokens,
        })
    }
}
