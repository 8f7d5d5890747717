//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Init, ops};

/// PyTorch's default, which all published CLIPs use.
pub const EPSILON: f64 = 1e-5;

/// `y = (x − mean(x)) / sqrt(var(x) + 1e-5) · weight + bias`, over the last dimension.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// With all weights 1 and all biases 0.
    pub fn new(init: &mut Init, width: usize) -> Self {
        LayerNorm::with_epsilon(init, width, EPSILON)
    }

    /// The same with another number added to the variance.
    pub fn with_epsilon(init: &mut Init, width: usize, epsilon: f64) -> Self {
        LayerNorm {
            weight: init.constant([width], 1.0),
            bias: init.constant([width], 0.0),
            epsilon,
        }
    }

    /// # Shapes
    /// - `x`: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}
