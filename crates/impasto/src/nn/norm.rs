//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Init, ops};

pub(super) const EPSILON: f64 = 1e-5;

/// `y = x / sqrt(mean(x²) + 1e-5) · weight`, over the last dimension.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
}

impl RmsNorm {
    /// With all weights 1.
    pub fn new(init: &mut Init, width: usize) -> Self {
        RmsNorm {
            weight: init.constant([width], 1.0),
        }
    }

    /// # Shapes
    /// - `x`: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), EPSILON)
    }
}
