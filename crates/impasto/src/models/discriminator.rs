//! PatchGAN (Isola et al. 2017, arXiv:1611.07004; as in taming-transformers' `NLayerDiscriminator`): says of
//! each patch whether it is from a picture or from the decoder.
//!
//! Deviation: GroupNorm in place of BatchNorm, so that a picture's score does not depend on its batch.

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use crate::nn::{Conv2d, GroupNormSilu, Init};

/// Strided convolutions down to a map of logits.
#[derive(Module, Debug)]
pub struct Discriminator {
    first: Conv2d,
    convs: Vec<Conv2d>,
    norms: Vec<GroupNormSilu>,
    last: Conv2d,
}

impl Discriminator {
    /// `n_layers` halvings, `width` channels after the first, doubled up to eight times that.
    pub fn new(init: &mut Init, width: usize, n_layers: usize) -> Self {
        let mut channels = width;
        let mut convs = Vec::new();
        let mut norms = Vec::new();
        for layer in 1..n_layers {
            let next = width << layer.min(3);
            convs.push(Conv2d::new(init, [channels, next], 4, 2, 1, 1.0));
            norms.push(GroupNormSilu::new(init, next, 4));
            channels = next;
        }
        Discriminator {
            first: Conv2d::new(init, [3, width], 4, 2, 1, 1.0),
            convs,
            norms,
            last: Conv2d::new(init, [channels, 1], 3, 1, 1, 1.0),
        }
    }

    /// Logits, positive for pictures.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, height, width]` in −1..1
    /// - returns: `[batch, 1, rows, columns]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = activation::leaky_relu(self.first.forward(pixels), 0.2);
        for (conv, norm) in self.convs.iter().zip(&self.norms) {
            x = norm.forward(conv.forward(x));
        }
        self.last.forward(x)
    }

    /// The hinge loss of the discriminator (arXiv:1705.02894).
    pub fn hinge_loss(&self, real: Tensor<4>, drawn: Tensor<4>) -> Tensor<1> {
        let real = activation::relu(self.forward(real).neg().add_scalar(1.0)).mean();
        let drawn = activation::relu(self.forward(drawn).add_scalar(1.0)).mean();
        (real + drawn).mul_scalar(0.5)
    }

    /// What the decoder is trained to lower.
    pub fn generator_loss(&self, drawn: Tensor<4>) -> Tensor<1> {
        self.forward(drawn).mean().neg()
    }
}
