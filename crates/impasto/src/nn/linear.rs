//! Linear layers and embeddings.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::{Init, ops};

/// `y = x · weight + bias`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[width_in, width_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[width_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer without bias, weights normal with standard deviation `std`.
    pub fn new(init: &mut Init, width_in: usize, width_out: usize, std: f64) -> Self {
        Linear {
            weight: init.normal([width_in, width_out], std),
            bias: None,
        }
    }

    /// A layer whose bias starts at 0, weights normal with standard deviation `std`.
    pub fn with_bias(init: &mut Init, width_in: usize, width_out: usize, std: f64) -> Self {
        Linear {
            weight: init.normal([width_in, width_out], std),
            bias: Some(init.constant([width_out], 0.0)),
        }
    }

    /// # Shapes
    /// - `x`: `[.., width_in]`
    /// - returns: `[.., width_out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(
            x,
            self.weight.val(),
            self.bias.as_ref().map(|bias| bias.val()),
        )
    }
}

/// A table of learned rows.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table with normal entries of standard deviation `std`.
    pub fn new(init: &mut Init, rows: usize, width: usize, std: f64) -> Self {
        Embedding {
            weight: init.normal([rows, width], std),
        }
    }

    /// # Shapes
    /// - `ids`: `[batch, seq]`
    /// - returns: `[batch, seq, width]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let [_, width] = self.weight.dims();
        self.weight
            .val()
            .select(0, ids.reshape([batch * seq]))
            .reshape([batch, seq, width])
    }
}
