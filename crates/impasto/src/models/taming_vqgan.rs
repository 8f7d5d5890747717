//! The VQGAN of taming-transformers (Esser et al. 2021, arXiv:2012.09841;
//! `taming/modules/diffusionmodules/model.py`), as published checkpoints have it. DALL·E mini's is this one
//! with pixels in 0..1; its Flax port is github.com/patil-suraj/vqgan-jax.
//!
//! Field names are the checkpoints' own. With `gumbel` the encoder scores the codes itself
//! (`taming/models/vqgan.py`, `GumbelVQ`); the id is the best score, without the noise of the training.
//! LlamaGen's VQ-16 (Sun et al. 2024, arXiv:2406.06525; `tokenizer/tokenizer_image/vq_model.py`), which Janus draws with,
//! is this one with `normalised_codes` and attention at the coarsest level. aMUSEd's `VQModel` (diffusers
//! `models/autoencoders/vq_model.py`) is this one without any attention (`middle_attention`).
//! Deviations: none. Our own [`super::vqgan`] is another architecture.

use burn::module::{Module, Param};
use burn::tensor::ops::PadMode;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::nn::{Conv2d, Embedding, GroupNormSilu, Init, ops};
use crate::{Error, Result};

/// Groups of every normalisation.
const GROUPS: usize = 32;

/// What numbers the pixels are for the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelRange {
    /// −1 to 1.
    #[default]
    Signed,
    /// 0 to 1.
    Unit,
}

/// The sizes of a [`TamingVqgan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TamingVqganConfig {
    /// Side of the pictures in pixels (`resolution`).
    pub picture_size: usize,
    /// Channels that the multipliers multiply (`ch`).
    pub base_width: usize,
    /// Channels of each level; every level after the first halves the side (`ch_mult`).
    pub multipliers: Vec<usize>,
    /// Residual blocks of a level in the encoder; the decoder's have one more.
    pub n_res_blocks: usize,
    /// Sides at which each block is followed by attention (`attn_resolutions`).
    #[serde(default)]
    pub attention_sizes: Vec<usize>,
    /// Channels between encoder, codes and decoder (`z_channels`).
    pub latent_width: usize,
    /// Codes (`n_embed`).
    pub codebook_size: usize,
    /// Width of a code (`embed_dim`).
    pub code_width: usize,
    /// Whether the encoder scores the codes itself.
    #[serde(default)]
    pub gumbel: bool,
    /// Whether codes and the encoder's vectors have the length 1 (`codebook_l2_norm` of LlamaGen's VQ-16).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalised_codes: bool,
    /// Whether there is attention between the two blocks of the coarsest level's middle (`mid_block_add_attention` of
    /// diffusers).
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub middle_attention: bool,
    /// What numbers the pixels are.
    pub pixel_range: PixelRange,
    /// Whether there is an encoder; some files hold only what draws.
    #[serde(default = "yes")]
    pub encoder: bool,
}

fn yes() -> bool {
    true
}

impl TamingVqganConfig {
    /// Codes along a side.
    pub fn grid(&self) -> usize {
        self.picture_size >> (self.multipliers.len().max(1) - 1)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("taming_vqgan config", reason));
        let positive = [
            ("picture_size", self.picture_size),
            ("base_width", self.base_width),
            ("n_res_blocks", self.n_res_blocks),
            ("latent_width", self.latent_width),
            ("code_width", self.code_width),
        ];
        for (name, value) in positive {
            if value == 0 || value > 1 << 14 {
                return bad(format!("{name} is {value}, expected 1 to 16384"));
            }
        }
        if !(2..=1 << 16).contains(&self.codebook_size) {
            return bad(format!(
                "codebook_size is {}, expected 2 to 65536",
                self.codebook_size
            ));
        }
        if self.multipliers.is_empty() || self.multipliers.len() > 10 || self.n_res_blocks > 64 {
            return bad("expected 1 to 10 multipliers and at most 64 n_res_blocks".into());
        }
        if let Some(multiplier) = self
            .multipliers
            .iter()
            .find(|&&m| m == 0 || m > 64 || !(m * self.base_width).is_multiple_of(GROUPS))
        {
            return bad(format!(
                "multiplier {multiplier} times base_width {} is not a multiple of {GROUPS} channels",
                self.base_width
            ));
        }
        if !self.base_width.is_multiple_of(GROUPS) {
            return bad(format!(
                "base_width {} is not a multiple of {GROUPS}",
                self.base_width
            ));
        }
        let step = 1 << (self.multipliers.len() - 1);
        if !self.picture_size.is_multiple_of(step) {
            return bad(format!(
                "picture_size {} is not a multiple of {step}",
                self.picture_size
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, biases, norms and attention left out; for refusing sizes before any
    /// memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let conv = |from: usize, to: usize| 9 * of(from) * of(to);
        let block = |from: usize, to: usize| conv(from, to) + conv(to, to);
        let last = self.multipliers.len() - 1;
        let deep = self.width(last);
        let mut count = of(self.codebook_size) * of(self.code_width);
        for coder in [
            self.encoder.then_some(self.n_res_blocks),
            Some(self.n_res_blocks + 1),
        ] {
            let Some(blocks) = coder else { continue };
            count += 2 * block(deep, deep) + conv(self.latent_width, deep);
            for level in 0..=last {
                let width = self.width(level);
                count += of(blocks) * 2 * conv(width, width).min(block(width, width));
            }
        }
        count
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> TamingVqgan {
        let score = |init: &mut Init| Conv2d::same(init, self.code_width, self.codebook_size, 1);
        TamingVqgan {
            encoder: self.encoder.then(|| Encoder::new(init, self)),
            quant_conv: self
                .encoder
                .then(|| Conv2d::same(init, self.latent_width, self.code_width, 1)),
            quantize: Quantize {
                proj: (self.gumbel && self.encoder).then(|| score(init)),
                embedding: Embedding::new(init, self.codebook_size, self.code_width, 1.0),
            },
            post_quant_conv: Conv2d::same(init, self.code_width, self.latent_width, 1),
            decoder: Decoder::new(init, self),
            config: self.clone(),
        }
    }

    fn width(&self, level: usize) -> usize {
        self.base_width * self.multipliers[level]
    }

    fn attends(&self, level: usize) -> bool {
        self.attention_sizes.contains(&(self.picture_size >> level))
    }
}

/// Two times (GroupNorm, SiLU, conv 3×3), added to the input or, where the width changes, to a 1×1
/// convolution of it.
#[derive(Module, Debug)]
struct ResnetBlock {
    norm1: GroupNormSilu,
    conv1: Conv2d,
    norm2: GroupNormSilu,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn new(init: &mut Init, from: usize, to: usize) -> Self {
        ResnetBlock {
            norm1: GroupNormSilu::new(init, from, GROUPS),
            conv1: Conv2d::same(init, from, to, 3),
            norm2: GroupNormSilu::new(init, to, GROUPS),
            conv2: Conv2d::same(init, to, to, 3),
            nin_shortcut: (from != to).then(|| Conv2d::same(init, from, to, 1)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let inner = self.conv1.forward(self.norm1.forward(x.clone()));
        let inner = self.conv2.forward(self.norm2.forward(inner));
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x) + inner,
            None => x + inner,
        }
    }
}

#[derive(Module, Debug)]
struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

/// Every position attends to every other, with one head as wide as the channels.
#[derive(Module, Debug)]
struct AttnBlock {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
}

impl AttnBlock {
    fn new(init: &mut Init, width: usize) -> Self {
        AttnBlock {
            norm: GroupNorm {
                weight: init.constant([width], 1.0),
                bias: init.constant([width], 0.0),
            },
            q: Conv2d::same(init, width, width, 1),
            k: Conv2d::same(init, width, width, 1),
            v: Conv2d::same(init, width, width, 1),
            proj_out: Conv2d::same(init, width, width, 1),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, width, rows, columns] = x.dims();
        let normal = ops::group_norm(
            x.clone(),
            GROUPS,
            self.norm.weight.val(),
            self.norm.bias.val(),
            1e-6,
        );
        let positions = |conv: &Conv2d| {
            conv.forward(normal.clone())
                .reshape([batch, 1, width, rows * columns])
                .swap_dims(2, 3)
        };
        let (query, keys, values) = (positions(&self.q), positions(&self.k), positions(&self.v));
        let seen = ops::attention(query, keys, values, false)
            .swap_dims(2, 3)
            .reshape([batch, width, rows, columns]);
        x + self.proj_out.forward(seen)
    }
}

/// A convolution that follows or makes a change of size.
#[derive(Module, Debug)]
struct Resample {
    conv: Conv2d,
}

/// Residual blocks at one resolution, each with attention after it or none.
fn level(x: Tensor<4>, blocks: &[ResnetBlock], attention: &[AttnBlock]) -> Tensor<4> {
    let mut x = x;
    for (i, block) in blocks.iter().enumerate() {
        x = block.forward(x);
        if let Some(attention) = attention.get(i) {
            x = attention.forward(x);
        }
    }
    x
}

fn blocks(init: &mut Init, from: usize, to: usize, count: usize) -> Vec<ResnetBlock> {
    (0..count)
        .map(|i| ResnetBlock::new(init, if i == 0 { from } else { to }, to))
        .collect()
}

fn attentions(init: &mut Init, width: usize, count: usize) -> Vec<AttnBlock> {
    (0..count).map(|_| AttnBlock::new(init, width)).collect()
}

#[derive(Module, Debug)]
struct Down {
    block: Vec<ResnetBlock>,
    attn: Vec<AttnBlock>,
    downsample: Option<Resample>,
}

#[derive(Module, Debug)]
struct Up {
    block: Vec<ResnetBlock>,
    attn: Vec<AttnBlock>,
    upsample: Option<Resample>,
}

#[derive(Module, Debug)]
struct Mid {
    block_1: ResnetBlock,
    attn_1: Option<AttnBlock>,
    block_2: ResnetBlock,
}

impl Mid {
    fn new(init: &mut Init, width: usize, attends: bool) -> Self {
        Mid {
            block_1: ResnetBlock::new(init, width, width),
            attn_1: attends.then(|| AttnBlock::new(init, width)),
            block_2: ResnetBlock::new(init, width, width),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.block_1.forward(x);
        if let Some(attention) = &self.attn_1 {
            x = attention.forward(x);
        }
        self.block_2.forward(x)
    }
}

#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down: Vec<Down>,
    mid: Mid,
    norm_out: GroupNormSilu,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(init: &mut Init, config: &TamingVqganConfig) -> Self {
        let last = config.multipliers.len() - 1;
        let count = config.n_res_blocks;
        let down = (0..=last)
            .map(|i| {
                let from = match i {
                    0 => config.base_width,
                    _ => config.width(i - 1),
                };
                let width = config.width(i);
                let attended = if config.attends(i) { count } else { 0 };
                Down {
                    block: blocks(init, from, width, count),
                    attn: attentions(init, width, attended),
                    downsample: (i < last).then(|| Resample {
                        conv: Conv2d::new(init, [width, width], 3, 2, 0, 1.0),
                    }),
                }
            })
            .collect();
        let deep = config.width(last);
        Encoder {
            conv_in: Conv2d::same(init, 3, config.base_width, 3),
            down,
            mid: Mid::new(init, deep, config.middle_attention),
            norm_out: GroupNormSilu::new(init, deep, GROUPS),
            conv_out: Conv2d::same(init, deep, config.latent_width, 3),
        }
    }

    fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(pixels);
        for down in &self.down {
            x = level(x, &down.block, &down.attn);
            if let Some(downsample) = &down.downsample {
                // One column of zeros to the right, one row below.
                x = downsample
                    .conv
                    .forward(x.pad((0, 1, 0, 1), PadMode::Constant(0.0)));
            }
        }
        self.conv_out
            .forward(self.norm_out.forward(self.mid.forward(x)))
    }
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid: Mid,
    /// The finest first, as in the checkpoints; run from the last to the first.
    up: Vec<Up>,
    norm_out: GroupNormSilu,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(init: &mut Init, config: &TamingVqganConfig) -> Self {
        let last = config.multipliers.len() - 1;
        let count = config.n_res_blocks + 1;
        let up = (0..=last)
            .map(|i| {
                let from = config.width(if i < last { i + 1 } else { last });
                let width = config.width(i);
                let attended = if config.attends(i) { count } else { 0 };
                Up {
                    block: blocks(init, from, width, count),
                    attn: attentions(init, width, attended),
                    upsample: (i > 0).then(|| Resample {
                        conv: Conv2d::same(init, width, width, 3),
                    }),
                }
            })
            .collect();
        Decoder {
            conv_in: Conv2d::same(init, config.latent_width, config.width(last), 3),
            mid: Mid::new(init, config.width(last), config.middle_attention),
            up,
            norm_out: GroupNormSilu::new(init, config.width(0), GROUPS),
            conv_out: Conv2d::same(init, config.width(0), 3, 3),
        }
    }

    fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid.forward(self.conv_in.forward(latents));
        for up in self.up.iter().rev() {
            x = level(x, &up.block, &up.attn);
            if let Some(upsample) = &up.upsample {
                x = upsample.conv.forward(ops::upsample2(x));
            }
        }
        self.conv_out.forward(self.norm_out.forward(x))
    }
}

#[derive(Module, Debug)]
struct Quantize {
    /// Scores of the codes, where the encoder gives them itself.
    proj: Option<Conv2d>,
    /// `[codebook_size, code_width]`.
    embedding: Embedding,
}

/// Rows of length 1 (`torch.nn.functional.normalize`).
fn normalised(rows: Tensor<2>) -> Tensor<2> {
    let lengths = rows.clone().square().sum_dim(1).sqrt();
    rows / lengths.clamp_min(1e-12)
}

/// What a squared distance as large as the codes' variance is worth, in nats.
const SHARPNESS: f32 = 16.0;

/// The autoencoder with its codebook.
#[derive(Module, Debug)]
pub struct TamingVqgan {
    encoder: Option<Encoder>,
    quant_conv: Option<Conv2d>,
    quantize: Quantize,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    #[module(skip)]
    config: TamingVqganConfig,
}

impl TamingVqgan {
    /// The sizes.
    pub fn config(&self) -> &TamingVqganConfig {
        &self.config
    }

    /// Whether it has its encoder, without which pictures can't be read.
    pub fn reads_pictures(&self) -> bool {
        self.encoder.is_some()
    }

    /// Ids of pictures.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch · grid²]`, row-major positions
    pub fn encode(&self, pixels: Tensor<4>) -> Result<Tensor<1, Int>> {
        Ok(self.scores(pixels)?.argmax(1).squeeze_dim::<1>(1))
    }

    /// What pictures say for each code, in nats.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch · grid², codebook_size]`
    pub fn evidence(&self, pixels: Tensor<4>) -> Result<Tensor<2>> {
        let scores = self.scores(pixels)?;
        if self.quantize.proj.is_some() {
            return Ok(scores);
        }
        // Distances count beside those between the codes.
        let codes = self.codes();
        let spread = codes.clone() - codes.mean_dim(0);
        let variance = spread.square().sum_dim(1).mean().reshape([1, 1]);
        Ok(scores.mul_scalar(SHARPNESS) / variance.clamp_min(f32::MIN_POSITIVE))
    }

    /// The codes as vectors are compared with them and decoded: `[codebook_size, code_width]`.
    fn codes(&self) -> Tensor<2> {
        let codes = self.quantize.embedding.weight.val();
        match self.config.normalised_codes {
            true => normalised(codes),
            false => codes,
        }
    }

    /// Of which the largest is a position's id.
    fn scores(&self, pixels: Tensor<4>) -> Result<Tensor<2>> {
        let (Some(encoder), Some(quant_conv)) = (&self.encoder, &self.quant_conv) else {
            return Err(Error::invalid(
                "image tokenizer",
                "this model came without an encoder, it can draw but not read pictures",
            ));
        };
        let pixels = match self.config.pixel_range {
            PixelRange::Signed => pixels,
            PixelRange::Unit => pixels.add_scalar(1.0).mul_scalar(0.5),
        };
        let vectors = quant_conv.forward(encoder.forward(pixels));
        let [batch, _, rows, columns] = vectors.dims();
        let positions = |x: Tensor<4>| {
            let [_, width, ..] = x.dims();
            x.permute([0, 2, 3, 1])
                .reshape([batch * rows * columns, width])
        };
        Ok(match &self.quantize.proj {
            Some(proj) => positions(proj.forward(vectors)),
            None => {
                // The nearest code has the largest 2 z·e − |e|².
                let codes = self.codes();
                let squares = codes.clone().square().sum_dim(1).squeeze_dim::<1>(1);
                let vectors = match self.config.normalised_codes {
                    true => normalised(positions(vectors)),
                    false => positions(vectors),
                };
                ops::linear(
                    vectors.mul_scalar(2.0),
                    codes.transpose(),
                    Some(squares.neg()),
                )
            }
        })
    }

    /// Pictures of ids on a grid of any `rows` and `columns`.
    ///
    /// # Shapes
    /// - `ids`: `[batch][rows · columns]`
    /// - returns: `[batch, 3, 2ⁿ · rows, 2ⁿ · columns]`, about −1..1
    pub fn decode_grid(&self, ids: &[Vec<u32>], [rows, columns]: [usize; 2]) -> Tensor<4> {
        let device = self.quantize.embedding.weight.val().device();
        let flat: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let flat = TensorData::new(flat, [ids.len(), rows * columns]);
        let flat = Tensor::<2, Int>::from_data(flat, &device);
        let codes = self
            .codes()
            .select(0, flat.reshape([ids.len() * rows * columns]));
        let codes = codes
            .reshape([ids.len(), rows, columns, self.config.code_width])
            .permute([0, 3, 1, 2]);
        let pixels = self.decoder.forward(self.post_quant_conv.forward(codes));
        match self.config.pixel_range {
            PixelRange::Signed => pixels,
            PixelRange::Unit => pixels.mul_scalar(2.0).sub_scalar(1.0),
        }
    }

    /// `[batch][grid²]` → `[batch, 3, size, size]`.
    pub fn decode(&self, ids: &[Vec<u32>]) -> Tensor<4> {
        let grid = self.config.grid();
        self.decode_grid(ids, [grid, grid])
    }
}
