//! Janus's vision encoder: the image tower of SigLIP (Zhai et al. 2023, arXiv:2303.15343; `JanusVisionModel` of
//! transformers), a pre-norm transformer over patches without a class token. Its last hidden states are used, all of
//! them; the pooling head that the original's files have is not.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::{Conv2d, Embedding, Init, LayerNorm, Linear, heads, ops};
use crate::{Error, Result};

/// The sizes of a [`VisionEncoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Layers.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Units of each feed-forward layer.
    pub hidden: usize,
    /// Added to variances in the norms.
    pub norm_epsilon: f64,
    /// Linear layers between the encoder and the transformer.
    pub aligner_depth: usize,
}

impl VisionConfig {
    /// Patches of a picture.
    pub fn n_patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("janus config", format!("vision.{reason}")));
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("width", self.width),
            ("n_heads", self.n_heads),
            ("hidden", self.hidden),
        ] {
            if value == 0 || value > 1 << 16 {
                return bad(format!("{name} is {value}, expected 1 to 65536"));
            }
        }
        for (name, value) in [
            ("n_layers", self.n_layers),
            ("aligner_depth", self.aligner_depth),
        ] {
            if value == 0 || value > 1 << 10 {
                return bad(format!("{name} is {value}, expected 1 to 1024"));
            }
        }
        if !self.image_size.is_multiple_of(self.patch_size) || self.image_size > 1 << 13 {
            return bad(format!(
                "image_size is {}, expected a multiple of the patches' {}, 8192 at most",
                self.image_size, self.patch_size
            ));
        }
        if !self.width.is_multiple_of(self.n_heads) {
            return bad(format!(
                "width {} is not a multiple of {} heads",
                self.width, self.n_heads
            ));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return bad(format!(
                "norm_epsilon is {}, expected between 0 and 1",
                self.norm_epsilon
            ));
        }
        Ok(())
    }

    /// How many numbers the encoder has, norms and biases left out.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let (width, hidden) = (of(self.width), of(self.hidden));
        let layer = (4 * width)
            .saturating_mul(width)
            .saturating_add(2 * width * hidden);
        let patches = of(self.n_patches()) + 3 * of(self.patch_size).pow(2);
        of(self.n_layers)
            .saturating_mul(layer)
            .saturating_add(patches.saturating_mul(width))
    }

    /// An encoder with fresh weights.
    pub fn init(&self, init: &mut Init) -> VisionEncoder {
        let patch = self.patch_size;
        VisionEncoder {
            patch_embedding: Conv2d::new(init, [3, self.width], patch, patch, 0, 1.0),
            position_embedding: Embedding::new(init, self.n_patches(), self.width, 0.02),
            layers: (0..self.n_layers)
                .map(|_| EncoderLayer::new(init, self))
                .collect(),
            norm: LayerNorm::new(init, self.width),
            epsilon: self.norm_epsilon,
        }
    }
}

#[derive(Module, Debug)]
struct EncoderLayer {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention_out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    #[module(skip)]
    n_heads: usize,
}

impl EncoderLayer {
    fn new(init: &mut Init, config: &VisionConfig) -> Self {
        let (width, std) = (config.width, 0.02);
        EncoderLayer {
            attention_norm: LayerNorm::new(init, width),
            qkv: Linear::with_bias(init, width, 3 * width, std),
            attention_out: Linear::with_bias(init, width, width, std),
            mlp_norm: LayerNorm::new(init, width),
            up: Linear::with_bias(init, width, config.hidden, std),
            down: Linear::with_bias(init, config.hidden, width, std),
            n_heads: config.n_heads,
        }
    }

    fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        let qkv = self.qkv.forward(normal(&self.attention_norm, &x, epsilon));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        let seen = heads::join(ops::attention(q, k, v, false));
        let x = x + self.attention_out.forward(seen);
        let inner = self.up.forward(normal(&self.mlp_norm, &x, epsilon));
        x + self.down.forward(ops::gelu(inner))
    }
}

fn normal(norm: &LayerNorm, x: &Tensor<3>, epsilon: f64) -> Tensor<3> {
    ops::layer_norm(x.clone(), norm.weight.val(), norm.bias.val(), epsilon)
}

/// The encoder.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
    #[module(skip)]
    epsilon: f64,
}

impl VisionEncoder {
    /// The features of each patch.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch, patches, width]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embedding.forward(pixels);
        let [batch, width, rows, columns] = patches.dims();
        let x = patches
            .reshape([batch, width, rows * columns])
            .swap_dims(1, 2);
        let mut x = x + self.position_embedding.weight.val().unsqueeze::<3>();
        for layer in &self.layers {
            x = layer.forward(x, self.epsilon);
        }
        normal(&self.norm, &x, self.epsilon)
    }
}
