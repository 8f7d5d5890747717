//! Attention with its weights, and their gradient: for explaining what a model computed, not for computing it fast.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Gradients, Tensor, TensorData, activation};

/// Attention of one layer in a pass over one sequence, and its gradient.
#[derive(Clone, Debug)]
pub struct LayerAttention {
    /// Softmax of the scores, `[heads, sequence, sequence]`: of each query over the keys.
    pub weights: Tensor<3>,
    /// Derivative of what is explained by them, of the same shape.
    pub gradient: Option<Tensor<3>>,
}

/// The weights of a layer, `[1, heads, sequence, sequence]`, and the leaf whose gradient is theirs.
pub(crate) type Recorded = (Tensor<4>, Option<Tensor<4>>);

impl LayerAttention {
    /// Of what was recorded, with the gradients where they were computed.
    pub(crate) fn of((weights, leaf): Recorded, gradients: Option<&Gradients>) -> Self {
        let [_, heads, queries, keys] = weights.dims();
        let gradient = gradients
            .zip(leaf)
            .and_then(|(gradients, leaf)| leaf.grad(gradients));
        LayerAttention {
            weights: weights.reshape([heads, queries, keys]),
            gradient: gradient.map(|gradient| gradient.reshape([heads, queries, keys])),
        }
    }
}

struct Recording;

impl ModuleMapper for Recording {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(Tensor::autodiff)
    }
}

/// A net of which all operations with its weights are recorded.
pub(crate) fn recording<M: Module>(net: &M) -> M {
    net.clone().map(&mut Recording)
}

/// Softmax attention with its weights; with `gradient` also the leaf that the gradient by them is taken of.
///
/// # Shapes
/// - `query`, `key`, `value`: `[1, heads, sequence, head_width]`
pub(crate) fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    causal: bool,
    gradient: bool,
) -> (Tensor<4>, Recorded) {
    let [_, _, n, head_width] = query.dims();
    let device = query.device();
    let mut scores = query
        .matmul(key.swap_dims(2, 3))
        .div_scalar((head_width as f32).sqrt());
    let shape = scores.dims();
    if causal {
        let hidden: Vec<bool> = (0..n).flat_map(|i| (0..n).map(move |j| j > i)).collect();
        let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, n, n]), &device);
        scores = scores.mask_fill(hidden.expand(shape), f32::NEG_INFINITY);
    }
    let weights = activation::softmax(scores, 3);
    // A sum's gradient is that of its parts: of a leaf that adds nothing.
    let leaf = gradient.then(|| Tensor::<4>::zeros(shape, &device).require_grad());
    let used = match &leaf {
        Some(leaf) => weights.clone() + leaf.clone(),
        None => weights.clone(),
    };
    (used.matmul(value), (weights, leaf))
}
