//! Linear layers and embeddings.

use burn::module::{Module, Param};
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::{Init, Lora, lora, ops};

/// `y = x · weight + bias`, and what adapters add.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[width_in, width_out]`.
    pub weight: Param<Tensor<2>>,
    /// `[width_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// In the order of their columns; see [`super::Adapter::attach`].
    pub(super) adapters: Vec<Lora>,
}

impl Linear {
    /// A layer without bias, weights normal with standard deviation `std`.
    pub fn new(init: &mut Init, width_in: usize, width_out: usize, std: f64) -> Self {
        Linear {
            weight: init.normal([width_in, width_out], std),
            bias: None,
            adapters: Vec::new(),
        }
    }

    /// A layer whose bias starts at 0, weights normal with standard deviation `std`.
    pub fn with_bias(init: &mut Init, width_in: usize, width_out: usize, std: f64) -> Self {
        Linear {
            weight: init.normal([width_in, width_out], std),
            bias: Some(init.constant([width_out], 0.0)),
            adapters: Vec::new(),
        }
    }

    /// # Shapes
    /// - `x`: `[.., width_in]`
    /// - returns: `[.., width_out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        if self.adapters.is_empty() {
            return ops::linear(x, self.weight.val(), bias);
        }
        let y = ops::linear(x.clone(), self.weight.val(), bias);
        let [_, outputs] = self.weight.dims();
        y + lora::additions(&self.adapters, &x, outputs)
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

/// The table of a large vocabulary. It is in bfloat16 in memory where the weights of linear layers are in fewer than
/// 32 bits: a hundred thousand rows take as much as many layers, and a pass reads a few of them.
#[derive(Module, Debug)]
pub struct VocabularyEmbedding {
    /// `[rows, width]`.
    pub weight: Param<Tensor<2>>,
}

impl VocabularyEmbedding {
    /// A table with normal entries of standard deviation `std`.
    pub fn new(init: &mut Init, rows: usize, width: usize, std: f64) -> Self {
        VocabularyEmbedding {
            weight: init.normal([rows, width], std),
        }
    }

    /// # Shapes
    /// - `ids`: `[batch, seq]`
    /// - returns: `[batch, seq, width]`, in f32 on the CPU, as the table is elsewhere
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let [_, width] = self.weight.dims();
        let rows = self.weight.val().select(0, ids.reshape([batch * seq]));
        let rows = match rows.dtype() {
            DType::BF16 if ops::is_cpu(&rows.device()) => rows.cast(FloatDType::F32),
            _ => rows,
        };
        rows.reshape([batch, seq, width])
    }
}
