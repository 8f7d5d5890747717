//! The encoder of T5 v1.1 and flan-T5 (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202;
//! `modeling_t5.py` of transformers, `T5EncoderModel`): pre-RMSNorm, attention without a scale and with a learned bias
//! for each distance, gated tanh-GELU, no biases.
//!
//! Deviations, none of which changes a number beyond rounding: queries, keys and values are one product, so are both
//! halves of the gate; captions are run without their padding, which the reference masks.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::ids::{check_ids, ids as rows_of};
use crate::nn::{Embedding, Init, Linear, RmsNorm, VocabularyEmbedding, heads, ops};
use crate::{Error, Result};

/// The sizes of a [`T5Encoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Config {
    /// Rows of the embedding (`vocab_size`).
    pub vocab_size: usize,
    /// Width of the residual stream (`d_model`).
    pub width: usize,
    /// Layers (`num_layers`).
    pub n_layers: usize,
    /// Attention heads (`num_heads`).
    pub n_heads: usize,
    /// Width of a head (`d_kv`); all heads together may be wider than the stream.
    pub head_width: usize,
    /// Units of each gate (`d_ff`).
    pub hidden: usize,
    /// Groups of distances (`relative_attention_num_buckets`).
    pub n_buckets: usize,
    /// The distance from which on all are alike (`relative_attention_max_distance`).
    pub max_distance: usize,
    /// Added to mean squares in the norms.
    pub norm_epsilon: f64,
}

impl T5Config {
    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("t5 config", reason));
        for (name, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 20),
            ("width", self.width, 1 << 16),
            ("n_layers", self.n_layers, 1 << 10),
            ("n_heads", self.n_heads, 1 << 10),
            ("head_width", self.head_width, 1 << 12),
            ("hidden", self.hidden, 1 << 20),
            ("n_buckets", self.n_buckets, 1 << 12),
            ("max_distance", self.max_distance, 1 << 20),
        ] {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        // A quarter of the groups are single distances, in each direction.
        if !self.n_buckets.is_multiple_of(4) || self.max_distance <= self.n_buckets / 4 {
            return bad(format!(
                "n_buckets is {} and max_distance {}, expected a multiple of 4 and more than a quarter of it",
                self.n_buckets, self.max_distance
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

    /// Width of all heads together.
    fn inner(&self) -> usize {
        self.n_heads * self.head_width
    }

    /// How many numbers the encoder has, norms left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let (width, hidden) = (of(self.width), of(self.hidden));
        let layer = 4 * width * of(self.inner()) + 3 * width * hidden;
        of(self.vocab_size) * width + of(self.n_layers).saturating_mul(layer)
    }

    /// An encoder with fresh weights.
    pub fn init(&self, init: &mut Init) -> T5Encoder {
        let (width, inner, std) = (self.width, self.inner(), 0.02);
        T5Encoder {
            embedding: VocabularyEmbedding::new(init, self.vocab_size, width, 1.0),
            bias: Embedding::new(init, self.n_buckets, self.n_heads, std),
            layers: (0..self.n_layers)
                .map(|_| T5Layer {
                    attention_norm: RmsNorm::new(init, width),
                    qkv: Linear::new(init, width, 3 * inner, std),
                    attention_out: Linear::new(init, inner, width, std),
                    mlp_norm: RmsNorm::new(init, width),
                    gate_up: Linear::new(init, width, 2 * self.hidden, std),
                    down: Linear::new(init, self.hidden, width, std),
                })
                .collect(),
            norm: RmsNorm::new(init, width),
            config: self.clone(),
        }
    }
}

#[derive(Module, Debug)]
struct T5Layer {
    attention_norm: RmsNorm,
    qkv: Linear,
    attention_out: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct T5Encoder {
    embedding: VocabularyEmbedding,
    /// Of each group of distances, what is added to each head's scores: `[n_buckets, n_heads]`.
    bias: Embedding,
    layers: Vec<T5Layer>,
    norm: RmsNorm,
    #[module(skip)]
    config: T5Config,
}

impl T5Encoder {
    /// The sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The states of a caption's ids (`last_hidden_state`): `[1, n, width]`.
    ///
    /// # Errors
    /// Where there are none, or one that the embedding has no row for.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor<3>> {
        if ids.is_empty() {
            return Err(Error::invalid("text ids", "expected one or more, got none"));
        }
        check_ids("text ids", ids, self.config.vocab_size)?;
        let device = self.norm.weight.val().device();
        let mut x = self.embedding.forward(rows_of(&[ids], &device));
        let bias = self.distances(ids.len(), &device);
        for layer in &self.layers {
            x = self.layer(layer, x, &bias);
        }
        Ok(ops::rms_norm(
            x,
            self.norm.weight.val(),
            self.config.norm_epsilon,
        ))
    }

    /// What distances add to scores: `[1, heads, n, n]`.
    fn distances(&self, n: usize, device: &Device) -> Tensor<4> {
        let buckets: Vec<i32> = (0..n)
            .flat_map(|query| (0..n).map(move |key| key as i64 - query as i64))
            .map(|distance| {
                bucket(distance, self.config.n_buckets, self.config.max_distance) as i32
            })
            .collect();
        let buckets = Tensor::<2, Int>::from_data(TensorData::new(buckets, [n, n]), device);
        self.bias.forward(buckets).permute([2, 0, 1]).unsqueeze()
    }

    fn layer(&self, layer: &T5Layer, x: Tensor<3>, bias: &Tensor<4>) -> Tensor<3> {
        let config = &self.config;
        let normal = |norm: &RmsNorm, x: &Tensor<3>| {
            ops::rms_norm(x.clone(), norm.weight.val(), config.norm_epsilon)
        };
        let qkv = layer.qkv.forward(normal(&layer.attention_norm, &x));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], config.n_heads));
        // The scale is in the weights.
        let scores = q.matmul(k.swap_dims(2, 3)) + bias.clone();
        let seen = heads::join(softmax(scores, 3).matmul(v));
        let x = x + layer.attention_out.forward(seen);
        let inner = layer.gate_up.forward(normal(&layer.mlp_norm, &x));
        let gate = ops::tanh_gelu(inner.clone().narrow(2, 0, config.hidden));
        let up = inner.narrow(2, config.hidden, config.hidden);
        x + layer.down.forward(gate * up)
    }
}

/// The group of a distance, in both directions (`_relative_position_bucket`): near ones alone, further ones by the
/// logarithm of their distance.
fn bucket(distance: i64, n_buckets: usize, max_distance: usize) -> usize {
    let half = n_buckets / 2;
    let after = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if distance < exact {
        return after + distance;
    }
    // In f32, as the reference rounds.
    let far = (distance as f32 / exact as f32).ln()
        / ((max_distance as f64 / exact as f64).ln() as f32)
        * (half - exact) as f32;
    after + (exact + far as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_the_groups_of_the_reference() {
        // `T5Attention._relative_position_bucket` of transformers 5.24 with 32 groups up to 128.
        for (distance, expected) in [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-12, 9),
            (-16, 10),
            (-31, 11),
            (-32, 12),
            (-64, 14),
            (-119, 15),
            (-500, 15),
            (1, 17),
            (8, 24),
            (119, 31),
        ] {
            assert_eq!(bucket(distance, 32, 128), expected, "{distance}");
        }
    }
}
