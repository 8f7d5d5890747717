//! `Vit`: a classifier of pictures (Dosovitskiy et al. 2021, arXiv:2010.11929; `ViTForImageClassification` of
//! transformers' `modeling_vit.py`): patches after a class token, pre-norm blocks, a norm, and a linear layer that reads
//! the class token.
//!
//! # Parameters
//! Linear weights are `[in, out]`, the transpose of PyTorch's. The blocks are those of a CLIP ([`super::clip`]).
//! | ours | shape | transformers |
//! |---|---|---|
//! | `patch_embedding.{weight, bias}` | `[3 · patch², width]` | `vit.embeddings.patch_embeddings.projection` |
//! | `class_embedding` | `[width]` | `vit.embeddings.cls_token` |
//! | `position_embedding` | `[1 + patches, width]` | `vit.embeddings.position_embeddings` |
//! | `blocks.I.…` | | `vit.encoder.layer.I.…` |
//! | `norm.{weight, bias}` | `[width]` | `vit.layernorm` |
//! | `classifier.{weight, bias}` | `[width, labels]` | `classifier` |

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::clip::{Activation, Block, Blocks, ClipImageConfig, TowerConfig, in_patches};
use crate::nn::{Init, LayerNorm, Linear};
use crate::{Error, Result};

/// The sizes of a [`Vit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels; divides `image_size`.
    pub patch_size: usize,
    /// The blocks.
    pub tower: TowerConfig,
    /// Its classes, in the order of its outputs.
    pub labels: Vec<String>,
    /// Added to variances in the norms.
    pub norm_epsilon: f64,
}

impl VitConfig {
    fn tower(&self) -> ClipImageConfig {
        ClipImageConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            tower: self.tower,
            projection_width: self.labels.len(),
            activation: Activation::Gelu,
        }
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        self.tower().validate()?;
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            let reason = format!(
                "norm_epsilon is {}, expected between 0 and 1",
                self.norm_epsilon
            );
            return Err(Error::invalid("vit config", reason));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out.
    pub fn parameters(&self) -> u64 {
        self.tower().parameters()
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Vit {
        let (width, std) = (self.tower.width, 0.02);
        let patches = self.tower().patches();
        let patch = 3 * self.patch_size * self.patch_size;
        Vit {
            patch_embedding: Linear::with_bias(init, patch, width, std),
            class_embedding: init.normal([width], std),
            position_embedding: init.normal([1 + patches, width], std),
            blocks: Blocks::with_epsilon(init, &self.tower, Activation::Gelu, self.norm_epsilon),
            norm: LayerNorm::with_epsilon(init, width, self.norm_epsilon),
            classifier: Linear::with_bias(init, width, self.labels.len(), std),
            config: self.clone(),
        }
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Vit {
    patch_embedding: Linear,
    class_embedding: Param<Tensor<1>>,
    position_embedding: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    classifier: Linear,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    /// The sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.class_embedding.val().device()
    }

    /// Logits of the labels.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    /// - returns: `[batch, labels]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let batch = pixels.dims()[0];
        let width = self.config.tower.width;
        let patches = in_patches(pixels, self.config.patch_size);
        let class = self.class_embedding.val().reshape([1, 1, width]);
        let tokens = Tensor::cat(
            vec![
                class.expand([batch, 1, width]),
                self.patch_embedding.forward(patches),
            ],
            1,
        );
        let mut x = tokens + self.position_embedding.val().unsqueeze::<3>();
        for block in &self.blocks {
            x = block.forward(x, false);
        }
        let class = x.narrow(1, 0, 1).reshape([batch, width]);
        self.classifier.forward(self.norm.forward(class))
    }
}
