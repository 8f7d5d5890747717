//! The discrete VAE of the DALL·E paper (Ramesh et al. 2021, arXiv:2102.12092, section 2.1 and appendix A;
//! openai/DALL-E `encoder.py`, `decoder.py`): codes through a Gumbel-softmax, pixels under a logit-Laplace.
//!
//! Deviations: the number of groups and blocks and the widths are in the config; ours are smaller.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::nn::{Conv2d, Init, ops};
use crate::{Error, Result};

/// Pixels are mapped into 0.1..0.9, away from where the logit is infinite (appendix A.3).
const LOGIT_LAPLACE_EPS: f64 = 0.1;

/// The sizes of a [`Dvae`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DvaeConfig {
    /// Side of the pictures in pixels.
    pub picture_size: usize,
    /// Groups of blocks; the side halves between them (4 in the paper: 256 → 32).
    pub n_groups: usize,
    /// Blocks in a group (2 in the paper).
    pub n_blocks: usize,
    /// Channels of the first group; each next one doubles (256 in the paper).
    pub width: usize,
    /// Channels after the codebook in the decoder (128 in the paper).
    pub code_width: usize,
    /// Codes (8192 in the paper).
    pub codebook_size: usize,
}

impl DvaeConfig {
    /// Codes along a side.
    pub fn grid(&self) -> usize {
        self.picture_size >> (self.n_groups.max(1) - 1)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("dvae config", reason));
        if self.n_groups == 0
            || self.n_blocks == 0
            || self.codebook_size < 2
            || self.code_width == 0
        {
            return bad("n_groups, n_blocks, codebook_size and code_width must not be 0".into());
        }
        // Far beyond every model: what these are multiplied by stays a number.
        for (name, value, most) in [
            ("picture_size", self.picture_size, 1 << 14),
            ("n_groups", self.n_groups, 10),
            ("n_blocks", self.n_blocks, 64),
            ("width", self.width, 1 << 12),
            ("code_width", self.code_width, 1 << 14),
        ] {
            if value > most {
                return bad(format!("{name} is {value}, expected at most {most}"));
            }
        }
        if self.codebook_size > 1 << 16 {
            return bad(format!(
                "codebook_size is {}, expected 65536 or fewer",
                self.codebook_size
            ));
        }
        if self.width < 4 || !self.width.is_multiple_of(4) {
            return bad(format!("width is {}, expected a multiple of 4", self.width));
        }
        let step = 1 << (self.n_groups - 1);
        if self.picture_size == 0 || !self.picture_size.is_multiple_of(step) {
            return bad(format!(
                "picture_size {} is not a multiple of {step}",
                self.picture_size
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, biases and what changes widths left out; for refusing sizes before any memory
    /// is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let groups = (0..self.n_groups).map(|group| {
            let hidden = of(self.width << group) / 4;
            // Of the four convolutions two stay within the narrow part; one comes from it, one leads to it.
            2 * of(self.n_blocks) * (18 * hidden * hidden + 8 * hidden * hidden)
        });
        let deepest = of(self.width << (self.n_groups.max(1) - 1));
        let codes = of(self.codebook_size) * (deepest + of(self.code_width));
        groups.sum::<u64>() + codes
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Dvae {
        let post_gain = 1.0 / ((self.n_groups * self.n_blocks) as f64).powi(2);
        let group_width = |group: usize| self.width << group;
        let mut channels = self.width;
        let mut encoder = Vec::new();
        for group in 0..self.n_groups {
            for _ in 0..self.n_blocks {
                encoder.push(DvaeBlock::new(
                    init,
                    channels,
                    group_width(group),
                    [3, 3, 3, 1],
                    post_gain,
                ));
                channels = group_width(group);
            }
        }
        let encoder_out = Conv2d::same(init, channels, self.codebook_size, 1);
        let decoder_in = Conv2d::same(init, self.codebook_size, self.code_width, 1);
        channels = self.code_width;
        let mut decoder = Vec::new();
        for group in (0..self.n_groups).rev() {
            for _ in 0..self.n_blocks {
                decoder.push(DvaeBlock::new(
                    init,
                    channels,
                    group_width(group),
                    [1, 3, 3, 3],
                    post_gain,
                ));
                channels = group_width(group);
            }
        }
        Dvae {
            encoder_in: Conv2d::same(init, 3, self.width, 7),
            encoder,
            encoder_out,
            decoder_in,
            decoder,
            decoder_out: Conv2d::same(init, channels, 6, 1),
            config: self.clone(),
        }
    }
}

/// `id(x) + post_gain · res(x)`, a ReLU before each of four convolutions.
#[derive(Module, Debug)]
struct DvaeBlock {
    id_path: Option<Conv2d>,
    res_path: Vec<Conv2d>,
    #[module(skip)]
    post_gain: f64,
}

impl DvaeBlock {
    fn new(
        init: &mut Init,
        width_in: usize,
        width_out: usize,
        kernels: [usize; 4],
        post_gain: f64,
    ) -> Self {
        let hidden = width_out / 4;
        let widths = [width_in, hidden, hidden, hidden, width_out];
        DvaeBlock {
            id_path: (width_in != width_out).then(|| Conv2d::same(init, width_in, width_out, 1)),
            res_path: (0..4)
                .map(|i| Conv2d::same(init, widths[i], widths[i + 1], kernels[i]))
                .collect(),
            post_gain,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let residual = self
            .res_path
            .iter()
            .fold(x.clone(), |x, conv| conv.forward(activation::relu(x)));
        let id = match &self.id_path {
            Some(conv) => conv.forward(x),
            None => x,
        };
        id + residual.mul_scalar(self.post_gain)
    }
}

/// Encoder and decoder.
#[derive(Module, Debug)]
pub struct Dvae {
    encoder_in: Conv2d,
    encoder: Vec<DvaeBlock>,
    encoder_out: Conv2d,
    decoder_in: Conv2d,
    decoder: Vec<DvaeBlock>,
    decoder_out: Conv2d,
    #[module(skip)]
    config: DvaeConfig,
}

impl Dvae {
    /// The sizes.
    pub fn config(&self) -> &DvaeConfig {
        &self.config
    }

    /// The logits of each position's code.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch, codebook_size, grid, grid]`
    pub fn encode_logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = self.encoder_in.forward(map_pixels(pixels));
        for (i, block) in self.encoder.iter().enumerate() {
            if i > 0 && i % self.config.n_blocks == 0 {
                x = burn::tensor::module::max_pool2d(
                    x,
                    burn::tensor::ops::MaxPoolOptions::new([2, 2]).with_stride([2, 2]),
                );
            }
            x = block.forward(x);
        }
        self.encoder_out.forward(activation::relu(x))
    }

    /// The decoder's output: `[batch, codebook_size, grid, grid]` weights of the codes (one-hot, or soft in
    /// training) → `[batch, 6, size, size]`: three logits of pixels, three logarithms of their scales.
    pub fn decode_soft(&self, codes: Tensor<4>) -> Tensor<4> {
        let mut x = self.decoder_in.forward(codes);
        for (i, block) in self.decoder.iter().enumerate() {
            if i > 0 && i % self.config.n_blocks == 0 {
                x = ops::upsample2(x);
            }
            x = block.forward(x);
        }
        self.decoder_out.forward(activation::relu(x))
    }

    /// `[batch, 3, size, size]` → `[batch · grid²]`: the most likely codes.
    pub fn encode(&self, pixels: Tensor<4>) -> Tensor<1, Int> {
        let logits = self.encode_logits(pixels);
        let [batch, codes, rows, columns] = logits.dims();
        logits
            .permute([0, 2, 3, 1])
            .reshape([batch * rows * columns, codes])
            .argmax(1)
            .squeeze_dim::<1>(1)
    }

    /// `[batch][grid²]` → `[batch, 3, size, size]` in −1..1.
    pub fn decode(&self, ids: &[Vec<u32>]) -> Tensor<4> {
        let grid = self.config.grid();
        self.decode_grid(ids, [grid, grid])
    }

    /// Pictures of ids on a grid of any `rows` and `columns`.
    ///
    /// # Shapes
    /// - `ids`: `[batch][rows · columns]`
    pub fn decode_grid(&self, ids: &[Vec<u32>], [rows, columns]: [usize; 2]) -> Tensor<4> {
        let codes = self.config.codebook_size;
        let positions = rows * columns;
        let mut one_hot = vec![0f32; ids.len() * codes * positions];
        for (row, ids) in ids.iter().enumerate() {
            for (position, &id) in ids.iter().enumerate() {
                one_hot[(row * codes + id as usize) * positions + position] = 1.0;
            }
        }
        let device = self.decoder_in.weight.val().device();
        let one_hot = Tensor::from_data(
            TensorData::new(one_hot, [ids.len(), codes, rows, columns]),
            &device,
        );
        pixels_of(self.decode_soft(one_hot))
    }
}

/// −1..1 → 0.1..0.9.
fn map_pixels(pixels: Tensor<4>) -> Tensor<4> {
    let unit = pixels.add_scalar(1.0).mul_scalar(0.5);
    unit.mul_scalar(1.0 - 2.0 * LOGIT_LAPLACE_EPS)
        .add_scalar(LOGIT_LAPLACE_EPS)
}

/// The decoder's output → pixels in −1..1.
pub fn pixels_of(output: Tensor<4>) -> Tensor<4> {
    let mean = activation::sigmoid(output.narrow(1, 0, 3));
    let unit = mean
        .sub_scalar(LOGIT_LAPLACE_EPS)
        .div_scalar(1.0 - 2.0 * LOGIT_LAPLACE_EPS);
    unit.clamp(0.0, 1.0).mul_scalar(2.0).sub_scalar(1.0)
}

/// −log p of the pixels under the decoder's logit-Laplace, mean over values (appendix A.3, equation 2):
/// f(x | μ, b) = 1 / (2 b x (1 − x)) · exp(−|logit(x) − μ| / b).
pub fn logit_laplace_nats(output: Tensor<4>, pixels: Tensor<4>) -> Tensor<1> {
    let x = map_pixels(pixels);
    let logit = x.clone().log() - x.clone().neg().add_scalar(1.0).log();
    let mean = output.clone().narrow(1, 0, 3);
    // Scales below e^-6 only chase rounding.
    let log_scale = output.narrow(1, 3, 3).clamp_min(-6.0);
    let density = (x.clone() * x.neg().add_scalar(1.0)).log();
    let distance = (logit - mean).abs() / log_scale.clone().exp();
    (distance + log_scale + density)
        .add_scalar(2f32.ln())
        .mean()
}

/// Relaxed samples of the codes (Jang et al. 2017, arXiv:1611.01144): softmax((logits + gumbel) / τ) over
/// dimension 1. `uniform` has the logits' shape and lies in (0, 1).
pub fn gumbel_softmax(logits: Tensor<4>, uniform: Tensor<4>, temperature: f64) -> Tensor<4> {
    let gumbel = uniform.log().neg().log().neg();
    activation::softmax((logits + gumbel).div_scalar(temperature), 1)
}

/// KL of the code distributions to uniform, mean over positions: Σ q (log q + log K).
pub fn kl_to_uniform(logits: Tensor<4>) -> Tensor<1> {
    let [batch, codes, rows, columns] = logits.dims();
    let log_probs = activation::log_softmax(logits, 1);
    let sum = (log_probs.clone().exp() * log_probs.add_scalar((codes as f32).ln())).sum();
    sum.div_scalar((batch * rows * columns) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// The density must integrate to 1 over (0, 1): checked by the trapezoid rule on the mapped pixels.
    #[test]
    fn logit_laplace_is_a_density() {
        let device = Device::flex();
        let n = 4001;
        // x in (0, 1), undone through the pixel map: p = (x − 0.1) / 0.8 · 2 − 1.
        let xs: Vec<f64> = (0..n).map(|i| (i as f64 + 0.5) / n as f64).collect();
        let mut total = 0.0;
        for &x in &xs {
            let pixel = ((x - 0.1) / 0.8 * 2.0 - 1.0) as f32;
            let pixels = Tensor::<4>::full([1, 3, 1, 1], pixel, &device);
            let output = Tensor::<4>::full([1, 6, 1, 1], -0.5, &device);
            let nats: f32 = logit_laplace_nats(output, pixels).into_scalar();
            total += (-f64::from(nats)).exp() / n as f64;
        }
        assert!(
            (total - 1.0).abs() < 5e-3,
            "{total}: trapezoid error near the ends"
        );
    }

    #[test]
    fn kl_is_zero_for_uniform_and_log_k_for_certain() {
        let device = Device::flex();
        let uniform: f32 = kl_to_uniform(Tensor::zeros([1, 8, 2, 2], &device)).into_scalar();
        assert!(uniform.abs() < 1e-5);
        let mut logits = vec![0f32; 8];
        logits[3] = 100.0;
        let certain = Tensor::from_data(TensorData::new(logits, [1, 8, 1, 1]), &device);
        let certain: f32 = kl_to_uniform(certain).into_scalar();
        assert!((certain - 8f32.ln()).abs() < 1e-4);
    }

    #[test]
    fn shapes_follow_the_config() {
        let config = DvaeConfig {
            picture_size: 16,
            n_groups: 3,
            n_blocks: 1,
            width: 8,
            code_width: 8,
            codebook_size: 16,
        };
        let device = Device::flex();
        let model = config.init(&mut Init::new(5, &device));
        assert_eq!(config.grid(), 4);
        assert_eq!(
            model.encode(Tensor::zeros([2, 3, 16, 16], &device)).dims(),
            [32]
        );
        assert_eq!(model.decode(&[vec![3; 16]]).dims(), [1, 3, 16, 16]);
    }
}
