//! The `DiscreteVAE` of DALLE-pytorch (github.com/lucidrains/DALLE-pytorch, `dalle_pytorch.py`): strided
//! convolutions down to logits of the codes, transposed ones up from them.
//!
//! Layers are numbered as in its checkpoints, activations counted; see `Stage`. The id of a position is its best
//! score, without the noise of the training. Deviations: none; like the reference the decoder's output is in the
//! normalised space that the encoder reads, which is undone here.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::nn::{Conv2d, ConvTranspose2d, Embedding, Init};
use crate::{Error, Result};

/// The sizes of a [`DiscreteVae`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscreteVaeConfig {
    /// Side of the pictures in pixels (`image_size`).
    pub picture_size: usize,
    /// Codes (`num_tokens`).
    pub codebook_size: usize,
    /// Width of a code (`codebook_dim`).
    pub code_width: usize,
    /// Times that the side is halved (`num_layers`).
    pub n_layers: usize,
    /// Residual blocks on either side of the codes (`num_resnet_blocks`).
    pub n_res_blocks: usize,
    /// Channels (`hidden_dim`).
    pub width: usize,
    /// What is taken from the channels of a pixel in 0..1, and what they are then divided by.
    pub normalization: Normalization,
}

/// Means and deviations of red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// What is taken away.
    pub mean: [f32; 3],
    /// What is divided by.
    pub deviation: [f32; 3],
}

impl Default for Normalization {
    /// −1..1.
    fn default() -> Self {
        Normalization {
            mean: [0.5; 3],
            deviation: [0.5; 3],
        }
    }
}

impl DiscreteVaeConfig {
    /// Codes along a side.
    pub fn grid(&self) -> usize {
        self.picture_size >> self.n_layers
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("discrete_vae config", reason));
        let positive = [
            ("picture_size", self.picture_size, 1 << 14),
            ("code_width", self.code_width, 1 << 14),
            ("n_layers", self.n_layers, 14),
            ("width", self.width, 1 << 14),
        ];
        for (name, value, most) in positive {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !(2..=1 << 16).contains(&self.codebook_size) {
            return bad(format!(
                "codebook_size is {}, expected 2 to 65536",
                self.codebook_size
            ));
        }
        if self.n_res_blocks > 64 {
            return bad(format!(
                "n_res_blocks is {}, expected at most 64",
                self.n_res_blocks
            ));
        }
        if self.grid() == 0 || !self.picture_size.is_multiple_of(1 << self.n_layers) {
            return bad(format!(
                "picture_size {} is not a multiple of 2^{}",
                self.picture_size, self.n_layers
            ));
        }
        let normal = self.normalization;
        let fits = |value: f32| value.is_finite();
        if !normal.mean.into_iter().all(fits)
            || !normal.deviation.into_iter().all(|d| fits(d) && d != 0.0)
        {
            return bad("the normalisation is not finite or divides by 0".into());
        }
        Ok(())
    }

    /// How many numbers the model has, biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let (width, codes) = (of(self.width), of(self.codebook_size));
        let blocks = 2 * of(self.n_res_blocks) * 19 * width * width;
        let levels = 2 * of(self.n_layers - 1) * 16 * width * width;
        codes * (of(self.code_width) + width) + blocks + levels
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> DiscreteVae {
        let width = self.width;
        let mut encoder = Vec::new();
        for i in 0..self.n_layers {
            let from = if i == 0 { 3 } else { width };
            encoder.push(Stage::Down(Conv2d::new(init, [from, width], 4, 2, 1, 1.0)));
        }
        let mut decoder = Vec::new();
        if self.n_res_blocks > 0 {
            decoder.push(Stage::Pointwise(Conv2d::same(
                init,
                self.code_width,
                width,
                1,
            )));
        }
        for _ in 0..self.n_res_blocks {
            encoder.push(Stage::Residual(Residual::new(init, width)));
            decoder.push(Stage::Residual(Residual::new(init, width)));
        }
        encoder.push(Stage::Pointwise(Conv2d::same(
            init,
            width,
            self.codebook_size,
            1,
        )));
        for i in 0..self.n_layers {
            let from = match (i, self.n_res_blocks) {
                (0, 0) => self.code_width,
                _ => width,
            };
            decoder.push(Stage::Up(ConvTranspose2d::new(
                init,
                [from, width],
                4,
                2,
                1,
            )));
        }
        decoder.push(Stage::Pointwise(Conv2d::same(init, width, 3, 1)));
        DiscreteVae {
            codebook: Embedding::new(init, self.codebook_size, self.code_width, 1.0),
            encoder,
            decoder,
            config: self.clone(),
        }
    }
}

/// `net(x) + x`: convolutions 3×3, 3×3 and 1×1 with ReLU between them.
#[derive(Module, Debug)]
struct Residual {
    net: Vec<Conv2d>,
}

impl Residual {
    fn new(init: &mut Init, width: usize) -> Self {
        let net = [3, 3, 1].map(|kernel| Conv2d::same(init, width, width, kernel));
        Residual { net: net.into() }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut inner = x.clone();
        for (i, conv) in self.net.iter().enumerate() {
            if i > 0 {
                inner = activation::relu(inner);
            }
            inner = conv.forward(inner);
        }
        inner + x
    }
}

/// One of the numbered steps of encoder or decoder.
#[derive(Module, Debug)]
enum Stage {
    /// Halves the side, then ReLU.
    Down(Conv2d),
    /// Doubles the side, then ReLU.
    Up(ConvTranspose2d),
    Residual(Residual),
    /// From one number of channels to another.
    Pointwise(Conv2d),
}

impl Stage {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Stage::Down(conv) => activation::relu(conv.forward(x)),
            Stage::Up(conv) => activation::relu(conv.forward(x)),
            Stage::Residual(block) => block.forward(x),
            Stage::Pointwise(conv) => conv.forward(x),
        }
    }
}

/// Encoder, codes, decoder.
#[derive(Module, Debug)]
pub struct DiscreteVae {
    /// `[codebook_size, code_width]`.
    codebook: Embedding,
    encoder: Vec<Stage>,
    decoder: Vec<Stage>,
    #[module(skip)]
    config: DiscreteVaeConfig,
}

impl DiscreteVae {
    /// The sizes.
    pub fn config(&self) -> &DiscreteVaeConfig {
        &self.config
    }

    /// The logits of each position's code.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch, codebook_size, grid, grid]`
    pub fn encode_logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        let (mean, deviation) = self.normalization();
        let unit = pixels.add_scalar(1.0).mul_scalar(0.5);
        let x = (unit - mean) / deviation;
        self.encoder.iter().fold(x, |x, stage| stage.forward(x))
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

    /// `[batch][grid²]` → `[batch, 3, size, size]`.
    pub fn decode(&self, ids: &[Vec<u32>]) -> Tensor<4> {
        let grid = self.config.grid();
        self.decode_grid(ids, [grid, grid])
    }

    /// Pictures of ids on a grid of any `rows` and `columns`.
    ///
    /// # Shapes
    /// - `ids`: `[batch][rows · columns]`
    /// - returns: `[batch, 3, 2ⁿ · rows, 2ⁿ · columns]`, about −1..1
    pub fn decode_grid(&self, ids: &[Vec<u32>], [rows, columns]: [usize; 2]) -> Tensor<4> {
        let device = self.codebook.weight.val().device();
        let flat: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let flat = TensorData::new(flat, [ids.len(), rows * columns]);
        let codes = self.codebook.forward(Tensor::from_data(flat, &device));
        let x = codes
            .reshape([ids.len(), rows, columns, self.config.code_width])
            .permute([0, 3, 1, 2]);
        let x = self.decoder.iter().fold(x, |x, stage| stage.forward(x));
        let (mean, deviation) = self.normalization();
        (x * deviation + mean).mul_scalar(2.0).sub_scalar(1.0)
    }

    /// `[1, 3, 1, 1]` each.
    fn normalization(&self) -> (Tensor<4>, Tensor<4>) {
        let device = self.codebook.weight.val().device();
        let of = |values: [f32; 3]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
        };
        let normal = self.config.normalization;
        (of(normal.mean), of(normal.deviation))
    }
}
