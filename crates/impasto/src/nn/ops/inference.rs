//! Kernels that only go forward, as an extension of Burn's Flex backend: what drawing does at every token, and
//! what published models have between their products. With gradients the operations of [`super::plain`] run.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use impasto_kernels as kernels;
use impasto_kernels::self_attention::{Cache, QkNormRope, Sizes};

use super::flex::{contiguous, floats, own, tensor, turn, with_last};

/// The operations; meaning and shapes: see [`super`].
#[backend_extension(Flex)]
pub trait InferenceOps: Backend {
    /// Self-attention after a cache; a turn is weight, cosines, sines. Gives the heads, the keys and the values.
    #[allow(clippy::too_many_arguments)]
    fn kernel_extend_turned(
        qkv: FloatTensor<Self>,
        query_weight: FloatTensor<Self>,
        query_cos: FloatTensor<Self>,
        query_sin: FloatTensor<Self>,
        key_weight: FloatTensor<Self>,
        key_cos: FloatTensor<Self>,
        key_sin: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        eps: f64,
        known: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// The same without turns.
    fn kernel_extend(
        qkv: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        known: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Layer normalisation.
    fn kernel_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// `x · σ(1.702 x)`.
    fn kernel_quick_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x`, times its channel's slope where it is negative.
    fn kernel_prelu(x: FloatTensor<Self>, slopes: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `keys` and `values` are changed in place where nothing else holds them.
fn extend(
    qkv: &FlexTensor,
    turns: Option<(&QkNormRope, &QkNormRope)>,
    keys: FlexTensor,
    values: FlexTensor,
    eps: f64,
    known: usize,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let [batch, length, joint] = qkv.layout().shape().dims();
    let [_, heads, dim, capacity] = keys.layout().shape().dims();
    let sizes = Sizes {
        batch,
        length,
        heads,
        dim,
        eps: eps as f32,
        unit: None,
    };
    let (mut keys, mut values) = (own(keys), own(values));
    let mut cache = Cache {
        keys: keys.storage_mut(),
        values: values.storage_mut(),
        capacity,
        known,
    };
    let seen = kernels::self_attention::extend(floats(qkv), turns, &mut cache, &sizes);
    (tensor(seen, with_last(qkv, joint / 3)), keys, values)
}

impl InferenceOps for Flex {
    fn kernel_extend_turned(
        qkv: FlexTensor,
        query_weight: FlexTensor,
        query_cos: FlexTensor,
        query_sin: FlexTensor,
        key_weight: FlexTensor,
        key_cos: FlexTensor,
        key_sin: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        eps: f64,
        known: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let query = [&query_weight, &query_cos, &query_sin].map(contiguous);
        let key = [&key_weight, &key_cos, &key_sin].map(contiguous);
        let (query, key) = (turn(&query), turn(&key));
        extend(
            &contiguous(&qkv),
            Some((&query, &key)),
            keys,
            values,
            eps,
            known,
        )
    }

    fn kernel_extend(
        qkv: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        known: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        extend(&contiguous(&qkv), None, keys, values, 0.0, known)
    }

    fn kernel_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        eps: f64,
    ) -> FlexTensor {
        let [x, weight, bias] = [&x, &weight, &bias].map(contiguous);
        let (weight, bias) = (floats(&weight), floats(&bias));
        let y = kernels::layer_norm::forward(floats(&x), weight, bias, eps as f32);
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_quick_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        tensor(kernels::gelu::quick(floats(&x)), x.layout().shape().clone())
    }

    fn kernel_prelu(x: FlexTensor, slopes: FlexTensor) -> FlexTensor {
        let [_, _, height, width] = x.layout().shape().dims();
        let (mut x, slopes) = (own(x), contiguous(&slopes));
        // In place where nothing else holds it.
        kernels::prelu::forward(x.storage_mut(), floats(&slopes), height * width);
        x
    }
}
