//! What every command that draws or measures needs, of whichever family the model is.

use std::ops::ControlFlow;

use burn::tensor::Device;

use super::dalle_mini::DalleMiniPipeline;
use super::{Drawn, GenerateRequest, Likelihood, Pipeline, Progress, Timings};
use crate::Result;
use crate::checkpoint::ModelSource;
use crate::checkpoint::dalle_mini::is_dalle_mini;
use crate::image::Picture;
use crate::sampling::SamplingOptions;

/// A model of any family that draws.
// One value a program: its size on the stack is of no consequence.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum AnyPipeline {
    /// Our own.
    Own(Pipeline),
    /// DALL·E mini and mega.
    DalleMini(DalleMiniPipeline),
}

impl AnyPipeline {
    /// Loads a model onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        if is_dalle_mini(source) {
            return Ok(AnyPipeline::DalleMini(DalleMiniPipeline::load(
                source, device,
            )?));
        }
        Ok(AnyPipeline::Own(Pipeline::load(source, device)?))
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        match self {
            AnyPipeline::Own(pipeline) => &pipeline.model.config.name,
            AnyPipeline::DalleMini(pipeline) => &pipeline.model.config.name,
        }
    }

    /// What the model draws with where nothing else is asked for.
    pub fn sampling(&self) -> &SamplingOptions {
        match self {
            AnyPipeline::Own(pipeline) => &pipeline.model.config.sampling,
            AnyPipeline::DalleMini(pipeline) => &pipeline.model.config.sampling,
        }
    }

    /// Side of the pictures in pixels.
    pub fn picture_size(&self) -> usize {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.picture_size(),
            AnyPipeline::DalleMini(pipeline) => pipeline.picture_size(),
        }
    }

    /// Image ids along a side.
    pub fn grid(&self) -> usize {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.model.config.image_tokenizer.grid(),
            AnyPipeline::DalleMini(pipeline) => pipeline.model.config.image_tokenizer.grid(),
        }
    }

    /// Whether the model can read a prompt.
    pub fn check_prompt(&self, prompt: &str, truncate: bool) -> Result<()> {
        match self {
            AnyPipeline::Own(pipeline) => {
                let model = &pipeline.model;
                let length = model.config.dalle.text_length;
                model.text.encode_caption(prompt, length, truncate)?;
            }
            AnyPipeline::DalleMini(pipeline) => {
                pipeline.model.encode_caption(prompt, truncate)?;
            }
        }
        Ok(())
    }

    /// See [`Pipeline::generate`].
    pub fn generate(
        &self,
        request: &GenerateRequest,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Vec<Drawn>, Timings)> {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.generate(request, progress),
            AnyPipeline::DalleMini(pipeline) => pipeline.generate(request, progress),
        }
    }

    /// See [`Pipeline::likelihood`].
    pub fn likelihood(
        &self,
        caption: &str,
        picture: &Picture,
        truncate: bool,
    ) -> Result<Likelihood> {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.likelihood(caption, picture, truncate),
            AnyPipeline::DalleMini(pipeline) => pipeline.likelihood(caption, picture, truncate),
        }
    }

    /// See [`Pipeline::encode`].
    pub fn encode(&self, picture: &Picture) -> Result<Vec<u32>> {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.encode(picture),
            AnyPipeline::DalleMini(pipeline) => pipeline.encode(picture),
        }
    }

    /// See [`Pipeline::decode`].
    pub fn decode(&self, image_ids: &[u32]) -> Result<Picture> {
        match self {
            AnyPipeline::Own(pipeline) => pipeline.decode(image_ids),
            AnyPipeline::DalleMini(pipeline) => pipeline.decode(image_ids),
        }
    }

    /// A picture through the image tokenizer and back.
    pub fn reconstruct(&self, picture: &Picture) -> Result<Picture> {
        self.decode(&self.encode(picture)?)
    }
}
