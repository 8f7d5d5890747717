//! `Clip`: a tower for pictures and one for captions, into one space (Radford et al. 2021,
//! arXiv:2103.00020; references: openai/CLIP `clip/model.py`, transformers `modeling_clip.py`).
//!
//! The published architecture at any size: a ViT over patches after a class token, a causal transformer
//! over text ids, both of pre-LayerNorm blocks with biases, no dropout, linear projections without bias,
//! and a learned scale of the cosines, kept as its logarithm. What differs is only how it is written:
//! - a text is computed up to its end: the attention is causal, so that what stands after does not count;
//! - the convolution over patches is the product that it is;
//! - a bias of the logits, off in every published CLIP, for SigLIP's loss (arXiv:2303.15343).
//!
//! # Parameters
//! Linear weights are `[in, out]`, the transpose of PyTorch's. With `TOWER` one of `image` and `text`:
//! | ours | shape | openai/CLIP |
//! |---|---|---|
//! | `image.patch_embedding.weight` | `[3 · patch², width]`, rows in the order channel, row, column | `visual.conv1.weight`, `[width, 3, patch, patch]` |
//! | `image.class_embedding` | `[width]` | `visual.class_embedding` |
//! | `image.position_embedding` | `[1 + patches, width]` | `visual.positional_embedding` |
//! | `image.pre_norm.{weight, bias}` | `[width]` | `visual.ln_pre` |
//! | `image.post_norm.{weight, bias}` | `[width]` | `visual.ln_post` |
//! | `image.projection.weight` | `[width, projection_width]` | `visual.proj`, not transposed |
//! | `text.token_embedding.weight` | `[vocabulary, width]` | `token_embedding.weight` |
//! | `text.position_embedding` | `[text_length, width]` | `positional_embedding` |
//! | `text.final_norm.{weight, bias}` | `[width]` | `ln_final` |
//! | `text.projection.weight` | `[width, projection_width]` | `text_projection`, not transposed |
//! | `TOWER.blocks.I.attention_norm.{weight, bias}` | `[width]` | `….resblocks.I.ln_1` |
//! | `TOWER.blocks.I.qkv.{weight, bias}` | `[width, 3 · width]` | `….attn.in_proj_{weight, bias}` |
//! | `TOWER.blocks.I.attention_out.{weight, bias}` | `[width, width]` | `….attn.out_proj` |
//! | `TOWER.blocks.I.mlp_norm.{weight, bias}` | `[width]` | `….ln_2` |
//! | `TOWER.blocks.I.up.{weight, bias}` | `[width, hidden]` | `….mlp.c_fc` |
//! | `TOWER.blocks.I.down.{weight, bias}` | `[hidden, width]` | `….mlp.c_proj` |
//! | `logit_scale`, `logit_bias` | `[1]` | `logit_scale`, – |

mod config;
mod loss;
mod relevance;
mod towers;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

pub use config::{
    Activation, ClipConfig, ClipImageConfig, ClipTextConfig, EndOfText, Normalisation, TowerConfig,
};
pub use loss::ContrastiveLoss;
pub use relevance::PairRelevance;
pub(crate) use towers::{Block, Blocks, in_patches};
pub use towers::{ImageTower, TextTower};

use crate::image::Image;
use crate::{Error, Result};

/// The largest logarithm of the scale, ln 100 (section 2.5 of the paper).
pub const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// Both towers.
#[derive(Module, Debug)]
pub struct Clip {
    image: ImageTower,
    text: TextTower,
    /// ln(1 / τ), `[1]`.
    logit_scale: Param<Tensor<1>>,
    /// `[1]`.
    logit_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: ClipConfig,
}

impl Clip {
    /// The sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.logit_scale.val().device()
    }

    /// The pictures as the model reads them: cut to the middle square, scaled, normalised.
    ///
    /// # Shapes
    /// - returns: `[batch, 3, image_size, image_size]`
    pub fn pixels(&self, pictures: &[Image]) -> Result<Tensor<4>> {
        if pictures.is_empty() {
            return Err(Error::invalid(
                "pictures",
                "expected 1 or more to be encoded, got 0",
            ));
        }
        let size = self.config.image_size;
        let mut values = Vec::with_capacity(pictures.len() * 3 * size * size);
        for picture in pictures {
            values.extend(
                self.config
                    .normalisation
                    .apply(&picture.fit_square_bicubic(size)?),
            );
        }
        let shape = [pictures.len(), 3, size, size];
        let data = burn::tensor::TensorData::new(values, shape);
        Ok(Tensor::from_data(data, &self.device()))
    }

    /// Embeddings of normalised pictures, of any length.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    /// - returns: `[batch, projection_width]`
    pub fn encode_image(&self, pixels: Tensor<4>) -> Tensor<2> {
        let size = self.config.image_size;
        let [_, channels, height, width] = pixels.dims();
        assert_eq!([channels, height, width], [3, size, size], "pixels");
        self.image.forward(pixels, &self.config.image_tower())
    }

    /// Embeddings of captions, of any length. What stands after a caption's end does not count.
    ///
    /// # Shapes
    /// - `text_ids`: `[batch]` captions of up to `text_length` ids, padded or not
    /// - returns: `[batch, projection_width]`
    pub fn encode_text(&self, text_ids: &[Vec<u32>]) -> Result<Tensor<2>> {
        self.text.forward(text_ids, &self.config.text_tower())
    }

    /// 1 / τ, by which cosines are multiplied, `[1]`.
    pub fn logit_scale(&self) -> Tensor<1> {
        self.logit_scale.val().exp()
    }

    /// The learned parameters of the logits themselves, `[1]` each: the scale's logarithm, and the bias if
    /// there is one.
    pub(crate) fn logit_parameters(&self) -> Vec<Tensor<1>> {
        std::iter::once(self.logit_scale.val())
            .chain(self.logit_bias.as_ref().map(Param::val))
            .collect()
    }

    /// Cosines times [`Clip::logit_scale`], plus the bias if there is one.
    ///
    /// # Shapes
    /// - `image`: `[pictures, projection_width]`
    /// - `text`: `[captions, projection_width]`
    /// - returns: `[pictures, captions]`
    pub fn logits(&self, image: Tensor<2>, text: Tensor<2>) -> Tensor<2> {
        let cosines = unit(image).matmul(unit(text).transpose());
        let logits = cosines * self.logit_scale().reshape([1, 1]);
        match &self.logit_bias {
            Some(bias) => logits + bias.val().reshape([1, 1]),
            None => logits,
        }
    }

    /// With the scale at 100 at most, as the paper keeps it after each step.
    pub fn with_clamped_scale(mut self) -> Self {
        self.logit_scale = self.logit_scale.map(|scale| {
            let requires = scale.is_require_grad();
            let clamped = if scale.is_autodiff() {
                Tensor::from_inner(scale.inner().clamp_max(MAX_LOGIT_SCALE))
            } else {
                scale.clamp_max(MAX_LOGIT_SCALE)
            };
            clamped.set_require_grad(requires)
        });
        self
    }
}

/// Rows of length one.
///
/// # Shapes
/// - `x`: `[rows, width]`
pub fn unit(x: Tensor<2>) -> Tensor<2> {
    // The smallest normal number: a row of zeros stays one, any other is not changed by it.
    let length = x.clone().square().sum_dim(1).sqrt();
    x / length.clamp_min(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests;
