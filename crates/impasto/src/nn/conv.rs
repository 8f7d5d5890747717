//! Convolutional blocks of the image tokenizers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Init, ops};

/// A square convolution over `[batch, channels, height, width]` with a bias.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[channels_out, channels_in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl Conv2d {
    /// Stride 1 and as much padding as keeps the size (odd kernels).
    pub fn same(init: &mut Init, channels_in: usize, channels_out: usize, kernel: usize) -> Self {
        assert!(
            kernel % 2 == 1,
            "kernel {kernel} is even: no padding keeps the size"
        );
        Conv2d::new(
            init,
            [channels_in, channels_out],
            kernel,
            1,
            kernel / 2,
            1.0,
        )
    }

    /// Weights as He et al. 2015 (arXiv:1502.01852) times `gain`.
    pub fn new(
        init: &mut Init,
        [channels_in, channels_out]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
        gain: f64,
    ) -> Self {
        let std = gain / ((channels_in * kernel * kernel) as f64).sqrt();
        Conv2d {
            weight: init.normal([channels_out, channels_in, kernel, kernel], std),
            bias: init.constant([channels_out], 0.0),
            stride,
            padding,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels_in, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv2d(
            x,
            self.weight.val(),
            Some(self.bias.val()),
            self.stride,
            self.padding,
        )
    }
}

/// A square transposed convolution over `[batch, channels, height, width]` with a bias.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[channels_in, channels_out, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl ConvTranspose2d {
    /// Weights with a standard deviation that keeps the size of what goes through.
    pub fn new(
        init: &mut Init,
        [channels_in, channels_out]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Self {
        let taps = (kernel * kernel).div_ceil(stride * stride);
        let std = 1.0 / ((channels_in * taps) as f64).sqrt();
        ConvTranspose2d {
            weight: init.normal([channels_in, channels_out, kernel, kernel], std),
            bias: init.constant([channels_out], 0.0),
            stride,
            padding,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels_in, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv_transpose2d(
            x,
            self.weight.val(),
            Some(self.bias.val()),
            self.stride,
            self.padding,
        )
    }
}

/// GroupNorm (arXiv:1803.08494) followed by SiLU, as every block of the taming VQGAN begins.
#[derive(Module, Debug)]
pub struct GroupNormSilu {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl GroupNormSilu {
    /// `groups` must divide `channels`.
    pub fn new(init: &mut Init, channels: usize, groups: usize) -> Self {
        assert!(
            channels.is_multiple_of(groups),
            "{channels} channels don't split into {groups} groups"
        );
        GroupNormSilu {
            weight: init.constant([channels], 1.0),
            bias: init.constant([channels], 0.0),
            groups,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm_silu(x, self.groups, self.weight.val(), self.bias.val(), 1e-6)
    }
}

/// The VQGAN's residual block: (GroupNorm, SiLU, conv 3×3) twice, added to the input.
#[derive(Module, Debug)]
pub struct ResBlock {
    norm1: GroupNormSilu,
    conv1: Conv2d,
    norm2: GroupNormSilu,
    conv2: Conv2d,
}

impl ResBlock {
    /// The second convolution starts at a tenth of its usual size, so that the block starts near the
    /// identity.
    pub fn new(init: &mut Init, channels: usize, groups: usize) -> Self {
        ResBlock {
            norm1: GroupNormSilu::new(init, channels, groups),
            conv1: Conv2d::same(init, channels, channels, 3),
            norm2: GroupNormSilu::new(init, channels, groups),
            conv2: Conv2d::new(init, [channels, channels], 3, 1, 1, 0.1),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let inner = self.conv1.forward(self.norm1.forward(x.clone()));
        x + self.conv2.forward(self.norm2.forward(inner))
    }
}
