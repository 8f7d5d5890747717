//! VQGAN: pictures to a grid of codes and back (Esser et al. 2021, arXiv:2012.09841), with the
//! L2-normalised codebook of ViT-VQGAN (Yu et al. 2021, arXiv:2110.04627).
//!
//! Deviations from taming-transformers: the picture is first cut into patches (pixel unshuffle) and the
//! convolutions work on those, sizes change by pixel (un)shuffle and a 1×1 convolution, there is no
//! attention, the codebook is a moving average of what it encodes (van den Oord et al. 2017,
//! arXiv:1711.00937, appendix A.1) and codes that fall out of use are set to encoder outputs again.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::nn::{Conv2d, GroupNormSilu, Init, ResBlock, ops};
use crate::{Error, Result};

/// The sizes of a [`Vqgan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqganConfig {
    /// Side of the pictures in pixels.
    pub picture_size: usize,
    /// Side of the patches that the first convolution sees, in pixels.
    pub patch: usize,
    /// Channels at each level; every level after the first halves the side.
    pub widths: Vec<usize>,
    /// Residual blocks at each level, in the encoder and in the decoder each.
    pub n_res_blocks: usize,
    /// Groups of the normalisations.
    pub groups: usize,
    /// Codes.
    pub codebook_size: usize,
    /// Width of a code.
    pub code_width: usize,
}

impl VqganConfig {
    /// Codes along a side.
    pub fn grid(&self) -> usize {
        (self.picture_size / self.patch) >> (self.widths.len().max(1) - 1)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("vqgan config", reason));
        if self.widths.is_empty()
            || self.patch == 0
            || self.codebook_size < 2
            || self.code_width == 0
        {
            return bad(
                "widths, patch, codebook_size and code_width must not be empty or 0".into(),
            );
        }
        // Far beyond every model: what these are multiplied by stays a number.
        let widest = self.widths.iter().copied().max().unwrap_or(1);
        for (name, value, most) in [
            ("picture_size", self.picture_size, 1 << 14),
            ("patch", self.patch, 1 << 10),
            ("levels", self.widths.len(), 10),
            ("widths", widest, 1 << 14),
            ("n_res_blocks", self.n_res_blocks, 64),
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
        let step = self.patch << (self.widths.len() - 1);
        if self.picture_size == 0 || !self.picture_size.is_multiple_of(step) {
            return bad(format!(
                "picture_size {} is not a multiple of {step}",
                self.picture_size
            ));
        }
        if self.groups == 0 {
            return bad("groups is 0".into());
        }
        if let Some(width) = self
            .widths
            .iter()
            .find(|&&width| width == 0 || width % self.groups != 0)
        {
            return bad(format!(
                "{width} channels don't split into {} groups",
                self.groups
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let pixels = 3 * of(self.patch) * of(self.patch);
        let blocks = self.widths.iter().map(|&width| {
            // Two convolutions of 3 × 3 each, in the encoder and in the decoder.
            2 * of(self.n_res_blocks) * 18 * of(width) * of(width)
        });
        let resizes = self
            .widths
            .windows(2)
            .map(|pair| 8 * of(pair[0]) * of(pair[1]));
        let first = self.widths.first().copied().unwrap_or(0);
        let last = self.widths.last().copied().unwrap_or(0);
        let ends = 18 * pixels * of(first) + 10 * of(last) * of(self.code_width);
        let codebook = of(self.codebook_size) * of(self.code_width);
        blocks.chain(resizes).sum::<u64>() + ends + codebook
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Vqgan {
        let pixels = 3 * self.patch * self.patch;
        let blocks = |init: &mut Init, width: usize| -> Vec<ResBlock> {
            (0..self.n_res_blocks)
                .map(|_| ResBlock::new(init, width, self.groups))
                .collect()
        };
        let last = self.widths.len() - 1;
        let encoder = self
            .widths
            .iter()
            .enumerate()
            .map(|(i, &width)| Level {
                resize: (i > 0).then(|| Conv2d::same(init, 4 * self.widths[i - 1], width, 1)),
                blocks: blocks(init, width),
            })
            .collect();
        let decoder = (0..=last)
            .rev()
            .map(|i| Level {
                resize: (i < last)
                    .then(|| Conv2d::same(init, self.widths[i + 1], 4 * self.widths[i], 1)),
                blocks: blocks(init, self.widths[i]),
            })
            .collect();
        let (first, deep) = (self.widths[0], self.widths[last]);
        Vqgan {
            conv_in: Conv2d::same(init, pixels, first, 3),
            encoder,
            encoder_norm: GroupNormSilu::new(init, deep, self.groups),
            to_code: Conv2d::same(init, deep, self.code_width, 1),
            codebook: init.normal([self.codebook_size, self.code_width], 1.0),
            from_code: Conv2d::same(init, self.code_width, deep, 3),
            decoder,
            decoder_norm: GroupNormSilu::new(init, first, self.groups),
            conv_out: Conv2d::new(init, [first, pixels], 3, 1, 1, 0.1),
            config: self.clone(),
        }
    }
}

/// One resolution: a change of size, then residual blocks.
#[derive(Module, Debug)]
struct Level {
    resize: Option<Conv2d>,
    blocks: Vec<ResBlock>,
}

/// The autoencoder with its codebook.
#[derive(Module, Debug)]
pub struct Vqgan {
    conv_in: Conv2d,
    encoder: Vec<Level>,
    encoder_norm: GroupNormSilu,
    to_code: Conv2d,
    /// `[codebook_size, code_width]`; rows are used normalised. Not trained by gradients.
    pub codebook: Param<Tensor<2>>,
    from_code: Conv2d,
    decoder: Vec<Level>,
    decoder_norm: GroupNormSilu,
    conv_out: Conv2d,
    #[module(skip)]
    config: VqganConfig,
}

impl Vqgan {
    /// The sizes.
    pub fn config(&self) -> &VqganConfig {
        &self.config
    }

    /// Unit-length code vectors, one per grid position, before they are snapped to the codebook.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: `[batch · grid², code_width]`, row-major positions
    pub fn encode_vectors(&self, pixels: Tensor<4>) -> Tensor<2> {
        let mut x = self.conv_in.forward(unshuffle(pixels, self.config.patch));
        for level in &self.encoder {
            if let Some(resize) = &level.resize {
                x = resize.forward(unshuffle(x, 2));
            }
            for block in &level.blocks {
                x = block.forward(x);
            }
        }
        // Codes are compared in f32, whatever the convolutions are computed in.
        let x = self.to_code.forward(self.encoder_norm.forward(x));
        let x = x.cast(FloatDType::F32);
        let [batch, width, rows, columns] = x.dims();
        unit_rows(
            x.permute([0, 2, 3, 1])
                .reshape([batch * rows * columns, width]),
        )
    }

    /// The cosine of each vector to each code: `[n, code_width]` → `[n, codebook_size]`.
    pub fn nearness(&self, vectors: Tensor<2>) -> Tensor<2> {
        let codes = unit_rows(self.codebook.val());
        ops::linear(vectors, codes.transpose(), None)
    }

    /// The nearest code of each vector: `[n, code_width]` → `[n]`.
    pub fn nearest(&self, vectors: Tensor<2>) -> Tensor<1, Int> {
        // Rows have length 1: the nearest has the largest product.
        self.nearness(vectors).argmax(1).squeeze_dim::<1>(1)
    }

    /// The unit-length codes of ids: `[n]` → `[n, code_width]`.
    pub fn codes(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        unit_rows(self.codebook.val()).select(0, ids)
    }

    /// Pictures of code vectors.
    ///
    /// # Shapes
    /// - `vectors`: `[batch · grid², code_width]`
    /// - returns: `[batch, 3, size, size]`, about −1..1
    pub fn decode_vectors(&self, vectors: Tensor<2>) -> Tensor<4> {
        let grid = self.config.grid();
        self.decode_vectors_grid(vectors, [grid, grid])
    }

    fn decode_vectors_grid(&self, vectors: Tensor<2>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        let [n, width] = vectors.dims();
        let batch = n / (rows * columns);
        let x = vectors
            .reshape([batch, rows, columns, width])
            .permute([0, 3, 1, 2]);
        // Unit-length vectors have small entries; back to about unit variance.
        let mut x = self.from_code.forward(x.mul_scalar((width as f32).sqrt()));
        for level in &self.decoder {
            if let Some(resize) = &level.resize {
                x = shuffle(resize.forward(x), 2);
            }
            for block in &level.blocks {
                x = block.forward(x);
            }
        }
        let pixels = self.conv_out.forward(self.decoder_norm.forward(x));
        shuffle(pixels.cast(FloatDType::F32), self.config.patch)
    }

    /// `[batch, 3, size, size]` → `[batch · grid²]`.
    pub fn encode(&self, pixels: Tensor<4>) -> Tensor<1, Int> {
        self.nearest(self.encode_vectors(pixels))
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
    pub fn decode_grid(&self, ids: &[Vec<u32>], grid: [usize; 2]) -> Tensor<4> {
        let flat: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let count = flat.len();
        let device = self.codebook.val().device();
        let ids = Tensor::from_data(TensorData::new(flat, [count]), &device);
        self.decode_vectors_grid(self.codes(ids), grid)
    }
}

/// Rows scaled to length 1.
fn unit_rows(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    x / norm
}

/// Each `factor` × `factor` patch becomes channels: `[b, c, h, w]` → `[b, c·f², h/f, w/f]`.
pub fn unshuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / factor, width / factor);
    x.reshape([batch, channels, rows, factor, columns, factor])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([batch, channels * factor * factor, rows, columns])
}

/// The inverse of [`unshuffle`].
pub fn shuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [batch, channels, rows, columns] = x.dims();
    let channels = channels / (factor * factor);
    x.reshape([batch, channels, factor, factor, rows, columns])
        .permute([0, 1, 4, 2, 5, 3])
        .reshape([batch, channels, rows * factor, columns * factor])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn tiny() -> VqganConfig {
        VqganConfig {
            picture_size: 16,
            patch: 2,
            widths: vec![8, 16],
            n_res_blocks: 1,
            groups: 4,
            codebook_size: 32,
            code_width: 4,
        }
    }

    #[test]
    fn shuffle_undoes_unshuffle() {
        let device = Device::flex();
        let x = Tensor::<1, Int>::arange(0..2 * 3 * 8 * 8, &device)
            .float()
            .reshape([2, 3, 8, 8]);
        let back = shuffle(unshuffle(x.clone(), 4), 4);
        back.into_data().assert_eq(&x.into_data(), true);
    }

    #[test]
    fn codes_of_codes_are_themselves() {
        let device = Device::flex();
        let model = tiny().init(&mut Init::new(3, &device));
        let ids = Tensor::<1, Int>::arange(0..32, &device);
        let again = model.nearest(model.codes(ids.clone()));
        again.into_data().assert_eq(&ids.into_data(), true);
    }

    #[test]
    fn shapes_follow_the_config() {
        let device = Device::flex();
        let config = tiny();
        assert_eq!(config.grid(), 4);
        let model = config.init(&mut Init::new(3, &device));
        let pixels = Tensor::zeros([2, 3, 16, 16], &device);
        assert_eq!(model.encode(pixels).dims(), [2 * 16]);
        assert_eq!(
            model.decode(&[vec![1; 16], vec![2; 16]]).dims(),
            [2, 3, 16, 16]
        );
    }
}
