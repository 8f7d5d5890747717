//! The config file of trainings of the transformer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use super::source::SourceConfig;
use crate::models::dalle::LossWeights;
use crate::sampling::SamplingOptions;

/// The config file of `impasto train dalle`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DalleTrainingConfig {
    /// The finished model's name.
    pub name: String,
    /// SPDX expression of the finished weights' licence.
    pub licence: String,
    /// A model, by its name or folder, that is trained on: its tokenizers and weights are what the training
    /// begins with. The next three are then left out.
    #[serde(default)]
    pub from: Option<String>,
    /// Output directory of `train text-tokenizer`, or the folder of a model whose text tokenizer is taken.
    #[serde(default)]
    pub text_tokenizer: Option<PathBuf>,
    /// Output directory of `train image-tokenizer`, or the folder of a model of ours whose image tokenizer is taken.
    #[serde(default)]
    pub image_tokenizer: Option<PathBuf>,
    /// Sizes of the transformer.
    #[serde(default)]
    pub model: Option<Sizes>,
    /// Whether captions are filled up to the model's text length, where that is to be another way than in the model
    /// that is trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padded_text: Option<bool>,
    /// The pairs.
    pub data: SourceConfig,
    /// Pictures encoded before the training; each step draws from these. None: all of a finite data set; of an
    /// endless one, each picture is made, encoded and seen once, beside the training.
    #[serde(default)]
    pub encoded_pictures: Option<u64>,
    /// The run.
    #[serde(default)]
    pub run: RunConfig,
    /// How much each loss counts.
    #[serde(default)]
    pub losses: LossWeights,
    /// Share of the pictures in raster order; the others in random orders.
    #[serde(default = "default_raster_share")]
    pub raster_share: f64,
    /// Of these others, the share whose order ends with a rectangular hole, as in editing.
    #[serde(default)]
    pub hole_share: f64,
    /// Share of the captions dropped, for guidance.
    #[serde(default = "default_caption_dropout")]
    pub caption_dropout: f64,
    /// Share of each batch that also trains captioning: at least one row of it, unless the share is 0.
    #[serde(default = "default_captioning_share")]
    pub captioning_share: f64,
    /// What the finished model's `generate` uses by default, and the samples drawn on the way.
    #[serde(default)]
    pub sampling: SamplingOptions,
    /// Held-out pairs measured at each checkpoint.
    #[serde(default = "default_validation")]
    pub validation: usize,
}

/// Sizes that don't follow from the tokenizers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// The most text tokens, start and end included.
    pub text_length: usize,
    /// Whether shorter captions are filled up to it.
    #[serde(default = "default_padded_text")]
    pub padded_text: bool,
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Heads.
    pub n_heads: usize,
    /// Units of each SwiGLU.
    pub hidden: usize,
    /// Width of the contrastive space.
    #[serde(default)]
    pub contrastive_width: Option<usize>,
}

fn default_padded_text() -> bool {
    true
}

fn default_raster_share() -> f64 {
    0.5
}

fn default_caption_dropout() -> f64 {
    0.1
}

impl DalleTrainingConfig {
    /// Rows of each batch that are also trained with the picture first and the caption last.
    pub(super) fn captioned(&self) -> usize {
        let rows = (self.run.batch_size as f64 * self.captioning_share).round() as usize;
        rows.max(usize::from(self.captioning_share > 0.0))
    }
}

fn default_captioning_share() -> f64 {
    0.125
}

fn default_validation() -> usize {
    128
}
