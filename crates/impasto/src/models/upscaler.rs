//! Published networks that enlarge pictures: `RRDBNet` of ESRGAN and Real-ESRGAN (Wang et al. 2018, arXiv:1809.00219;
//! Wang et al. 2021, arXiv:2107.10833; BasicSR `basicsr/archs/rrdbnet_arch.py`) and `SRVGGNetCompact` (Real-ESRGAN
//! `realesrgan/archs/srvgg_arch.py`).
//!
//! Field names are the checkpoints' own. Pixels are 0 to 1, results are not cut to that. Deviations: none in what is
//! computed; what comes after the last block of an `RRDBNet` is computed in bands of rows, because there a picture is
//! sixteen times as large and 64 channels wide.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, s};
use serde::{Deserialize, Serialize};

use super::vqgan::{shuffle, unshuffle};
use crate::nn::{Conv2d, Init, ops};
use crate::{Error, Result};

/// The slope of `RRDBNet`'s leaky ReLUs.
const SLOPE: f64 = 0.2;
/// What a residual is worth in `RRDBNet`.
const RESIDUAL: f64 = 0.2;
/// Numbers of one of the large tensors of a band.
const BAND: usize = 1 << 24;
/// Rows of features above and below that a band's pixels depend on: three convolutions after two doublings reach 5 of
/// the enlarged rows.
const HALO: usize = 2;

/// Which network, and its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all = "snake_case")]
pub enum UpscalerConfig {
    /// `RRDBNet`.
    Rrdb(RrdbConfig),
    /// `SRVGGNetCompact`.
    Compact(CompactConfig),
}

/// The sizes of an `RRDBNet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RrdbConfig {
    /// How many times as large a side becomes: 4, or 2, where each 2 × 2 pixels become channels first.
    pub scale: usize,
    /// Channels (`num_feat`).
    pub width: usize,
    /// Blocks of three dense blocks each (`num_block`).
    pub n_blocks: usize,
    /// Channels that each convolution of a dense block adds (`num_grow_ch`).
    pub growth: usize,
}

/// The sizes of an `SRVGGNetCompact`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactConfig {
    /// How many times as large a side becomes (`upscale`).
    pub scale: usize,
    /// Channels (`num_feat`).
    pub width: usize,
    /// Convolutions between the first and the last (`num_conv`).
    pub n_convolutions: usize,
}

impl UpscalerConfig {
    /// How many times as large a side becomes.
    pub fn scale(&self) -> usize {
        match self {
            UpscalerConfig::Rrdb(config) => config.scale,
            UpscalerConfig::Compact(config) => config.scale,
        }
    }

    /// Of how many pixels the sides have to be multiples.
    pub fn step(&self) -> usize {
        match self {
            UpscalerConfig::Rrdb(config) => 4 / config.scale,
            UpscalerConfig::Compact(_) => 1,
        }
    }

    /// How many pixels away a pixel may have an effect.
    pub fn reach(&self) -> usize {
        match self {
            // Five convolutions in each of three dense blocks, one before and after all blocks; the last ones are at twice
            // and four times the size.
            UpscalerConfig::Rrdb(config) => (15 * config.n_blocks + 2 + HALO) * self.step(),
            UpscalerConfig::Compact(config) => config.n_convolutions + 2,
        }
    }

    /// The published name of the architecture.
    pub fn name(&self) -> &'static str {
        match self {
            UpscalerConfig::Rrdb(_) => "RRDBNet",
            UpscalerConfig::Compact(_) => "SRVGGNetCompact",
        }
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let (scales, sizes): (&[usize], _) = match self {
            UpscalerConfig::Rrdb(config) => (
                &[2, 4],
                [
                    ("width", config.width, 1024),
                    ("n_blocks", config.n_blocks, 256),
                    ("growth", config.growth, 1024),
                ],
            ),
            UpscalerConfig::Compact(config) => (
                &[2, 3, 4, 8],
                [
                    ("width", config.width, 1024),
                    ("n_convolutions", config.n_convolutions, 1024),
                    ("scale", config.scale, 8),
                ],
            ),
        };
        let bad = |reason: String| Err(Error::invalid("upscaler config", reason));
        if !scales.contains(&self.scale()) {
            return bad(format!(
                "scale is {}, expected one of {scales:?}",
                self.scale()
            ));
        }
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        Ok(())
    }

    /// How many numbers the network has.
    pub fn parameters(&self) -> u64 {
        let conv = |from: usize, to: usize| (9 * from as u64 + 1) * to as u64;
        match *self {
            UpscalerConfig::Rrdb(RrdbConfig {
                width,
                n_blocks,
                growth,
                ..
            }) => {
                let grown: u64 = (0..4).map(|i| conv(width + i * growth, growth)).sum();
                let dense = grown + conv(width + 4 * growth, width);
                conv(3 * self.step().pow(2), width)
                    + 3 * n_blocks as u64 * dense
                    + 4 * conv(width, width)
                    + conv(width, 3)
            }
            UpscalerConfig::Compact(CompactConfig {
                scale,
                width,
                n_convolutions,
            }) => {
                let n = n_convolutions as u64;
                conv(3, width)
                    + n * conv(width, width)
                    + (n + 1) * width as u64
                    + conv(width, 3 * scale * scale)
            }
        }
    }

    /// A network with fresh weights.
    pub fn init(&self, init: &mut Init) -> UpscalerNet {
        match self {
            UpscalerConfig::Rrdb(config) => UpscalerNet::Rrdb(config.init(init)),
            UpscalerConfig::Compact(config) => UpscalerNet::Compact(config.init(init)),
        }
    }
}

/// A network that enlarges pictures.
// One value a program: its size on the stack is of no consequence, and `Module` is not derived for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum UpscalerNet {
    /// `RRDBNet`.
    Rrdb(RrdbNet),
    /// `SRVGGNetCompact`.
    Compact(CompactNet),
}

impl UpscalerNet {
    /// Which network, and its sizes.
    pub fn config(&self) -> UpscalerConfig {
        match self {
            UpscalerNet::Rrdb(net) => UpscalerConfig::Rrdb(net.config.clone()),
            UpscalerNet::Compact(net) => UpscalerConfig::Compact(net.config.clone()),
        }
    }

    /// A picture enlarged.
    ///
    /// # Shapes
    /// - `pixels`: `[1, 3, height, width]` in 0..1, sides of multiples of [`UpscalerConfig::step`]
    /// - returns: `[1, 3, scale · height, scale · width]`, about 0..1
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        match self {
            UpscalerNet::Rrdb(net) => net.forward(pixels, BAND),
            UpscalerNet::Compact(net) => net.forward(pixels),
        }
    }
}

impl RrdbConfig {
    fn init(&self, init: &mut Init) -> RrdbNet {
        let width = self.width;
        let same = |init: &mut Init| Conv2d::same(init, width, width, 3);
        RrdbNet {
            conv_first: Conv2d::same(init, 3 * (4 / self.scale).pow(2), width, 3),
            body: (0..self.n_blocks)
                .map(|_| Rrdb {
                    rdb1: DenseBlock::new(init, width, self.growth),
                    rdb2: DenseBlock::new(init, width, self.growth),
                    rdb3: DenseBlock::new(init, width, self.growth),
                })
                .collect(),
            conv_body: same(init),
            conv_up1: same(init),
            conv_up2: same(init),
            conv_hr: same(init),
            conv_last: Conv2d::same(init, width, 3, 3),
            config: self.clone(),
        }
    }
}

/// `ResidualDenseBlock`: each convolution sees what all before it have made.
#[derive(Module, Debug)]
struct DenseBlock {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    conv4: Conv2d,
    conv5: Conv2d,
}

impl DenseBlock {
    fn new(init: &mut Init, width: usize, growth: usize) -> Self {
        let mut grow =
            |i: usize, outputs: usize| Conv2d::same(init, width + i * growth, outputs, 3);
        DenseBlock {
            conv1: grow(0, growth),
            conv2: grow(1, growth),
            conv3: grow(2, growth),
            conv4: grow(3, growth),
            conv5: grow(4, width),
        }
    }

    /// `room` holds all channels side by side, so that none of them is copied for the next convolution:
    /// `[1, width + 4 · growth, height, width]`.
    fn forward(&self, x: Tensor<4>, room: &mut Option<Tensor<4>>) -> Tensor<4> {
        let [_, width, ..] = x.dims();
        let mut all = room.take().unwrap_or_else(|| self.room(&x));
        all = all.slice_assign(s![.., 0..width], x.clone());
        let mut known = width;
        for conv in [&self.conv1, &self.conv2, &self.conv3, &self.conv4] {
            let more = leaky(conv.forward(all.clone().narrow(1, 0, known)));
            let [_, growth, ..] = more.dims();
            all = all.slice_assign(s![.., known..known + growth], more);
            known += growth;
        }
        let inner = self.conv5.forward(all.clone());
        *room = Some(all);
        inner.mul_scalar(RESIDUAL) + x
    }

    fn room(&self, x: &Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let [_, channels, ..] = self.conv5.weight.dims();
        Tensor::zeros([batch, channels, height, width], &x.device())
    }
}

#[derive(Module, Debug)]
struct Rrdb {
    rdb1: DenseBlock,
    rdb2: DenseBlock,
    rdb3: DenseBlock,
}

impl Rrdb {
    fn forward(&self, x: Tensor<4>, room: &mut Option<Tensor<4>>) -> Tensor<4> {
        let mut inner = x.clone();
        for block in [&self.rdb1, &self.rdb2, &self.rdb3] {
            inner = block.forward(inner, room);
        }
        inner.mul_scalar(RESIDUAL) + x
    }
}

/// `RRDBNet`.
#[derive(Module, Debug)]
pub struct RrdbNet {
    conv_first: Conv2d,
    body: Vec<Rrdb>,
    conv_body: Conv2d,
    conv_up1: Conv2d,
    conv_up2: Conv2d,
    conv_hr: Conv2d,
    conv_last: Conv2d,
    #[module(skip)]
    config: RrdbConfig,
}

fn leaky(x: Tensor<4>) -> Tensor<4> {
    let [_, channels, ..] = x.dims();
    let slopes = Tensor::full([channels], SLOPE, &x.device());
    ops::prelu(x, slopes)
}

impl RrdbNet {
    /// With bands whose large tensors have about `band` numbers.
    fn forward(&self, pixels: Tensor<4>, band: usize) -> Tensor<4> {
        let first = self
            .conv_first
            .forward(unshuffle(pixels, 4 / self.config.scale));
        let mut x = first.clone();
        let mut room = None;
        for block in &self.body {
            x = block.forward(x, &mut room);
        }
        drop(room);
        let features = self.conv_body.forward(x) + first;
        let [_, channels, height, width] = features.dims();
        let rows = (band / (16 * channels * width)).max(2 * HALO);
        let bands = (0..height).step_by(rows).map(|start| {
            let end = (start + rows).min(height);
            let (above, below) = (start.saturating_sub(HALO), (end + HALO).min(height));
            let seen = features.clone().narrow(2, above, below - above);
            let enlarged = self.enlarged(seen);
            enlarged.narrow(2, 4 * (start - above), 4 * (end - start))
        });
        Tensor::cat(bands.collect(), 2)
    }

    /// Pixels of features, at four times their size.
    fn enlarged(&self, features: Tensor<4>) -> Tensor<4> {
        let mut x = features;
        for conv in [&self.conv_up1, &self.conv_up2] {
            x = leaky(conv.forward(ops::upsample2(x)));
        }
        self.conv_last.forward(leaky(self.conv_hr.forward(x)))
    }
}

impl CompactConfig {
    fn init(&self, init: &mut Init) -> CompactNet {
        let width = self.width;
        CompactNet {
            convolutions: (0..=self.n_convolutions)
                .map(|i| Conv2d::same(init, if i == 0 { 3 } else { width }, width, 3))
                .collect(),
            slopes: (0..=self.n_convolutions)
                .map(|_| Slopes {
                    weight: init.constant([width], 0.25),
                })
                .collect(),
            last: Conv2d::same(init, width, 3 * self.scale * self.scale, 3),
            config: self.clone(),
        }
    }
}

/// `PReLU`.
#[derive(Module, Debug)]
struct Slopes {
    /// `[channels]`.
    weight: Param<Tensor<1>>,
}

/// `SRVGGNetCompact`. In the checkpoints all layers are one list, `body`: convolution, slopes, convolution, ….
#[derive(Module, Debug)]
pub struct CompactNet {
    convolutions: Vec<Conv2d>,
    slopes: Vec<Slopes>,
    last: Conv2d,
    #[module(skip)]
    config: CompactConfig,
}

impl CompactNet {
    fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = pixels.clone();
        for (conv, slopes) in self.convolutions.iter().zip(&self.slopes) {
            x = ops::prelu(conv.forward(x), slopes.weight.val());
        }
        let (scale, [batch, channels, height, width]) = (self.config.scale, pixels.dims());
        // Each pixel stands for scale × scale of them.
        let nearest = pixels
            .reshape([batch, channels, height, 1, width, 1])
            .expand([batch, channels, height, scale, width, scale])
            .reshape([batch, channels, height * scale, width * scale]);
        shuffle(self.last.forward(x), scale) + nearest
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Device;

    use super::*;
    use crate::models::parameters::shapes;

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn bands_change_nothing() {
        let config = RrdbConfig {
            scale: 2,
            width: 12,
            n_blocks: 1,
            growth: 6,
        };
        let init = &mut Init::new(1, &Device::flex());
        let net = config.init(init);
        let x = init.normal([1, 3, 42, 20], 1.0).val();
        let whole = values(net.forward(x.clone(), usize::MAX));
        // Four rows of features at a time.
        let banded = values(net.forward(x, 1));
        let apart = whole.iter().zip(&banded).map(|(a, b)| (a - b).abs());
        let furthest = apart.fold(0.0, f32::max);
        assert!(furthest < 1e-5, "{furthest}");
    }

    #[test]
    fn the_number_of_parameters_is_known_beforehand() {
        let configs = [
            UpscalerConfig::Rrdb(RrdbConfig {
                scale: 4,
                width: 64,
                n_blocks: 23,
                growth: 32,
            }),
            UpscalerConfig::Rrdb(RrdbConfig {
                scale: 2,
                width: 5,
                n_blocks: 2,
                growth: 3,
            }),
            UpscalerConfig::Compact(CompactConfig {
                scale: 4,
                width: 64,
                n_convolutions: 32,
            }),
        ];
        for config in configs {
            config.validate().unwrap();
            let net = config.init(&mut Init::empty(&Device::flex()));
            let numbers = shapes(&net)
                .values()
                .map(|shape| shape.iter().product::<usize>())
                .sum::<usize>();
            assert_eq!(config.parameters(), numbers as u64, "{config:?}");
        }
    }
}
