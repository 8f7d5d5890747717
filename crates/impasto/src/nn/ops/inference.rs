//! Kernels that only go forward, as an extension of Burn's Flex backend: what drawing does at every token, and
//! what published models have between their products. With gradients the operations of [`super::plain`] run.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use burn::tensor::{DType, Element, Shape, Tensor};
use bytemuck::Pod;
use half::bf16;
use impasto_kernels::self_attention::{Cache, Sizes};
use impasto_kernels::{self as kernels, Stored};

use super::Held;
use super::flex::{contiguous, floats, own, tensor, turn, with_last};

/// The operations; meaning and shapes: see [`super`].
#[backend_extension(Flex)]
pub trait InferenceOps: Backend {
    /// Layer normalisation.
    fn kernel_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// `x · σ(1.702 x)`.
    fn kernel_quick_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// GELU by tanh.
    fn kernel_tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x`, times its channel's slope where it is negative.
    fn kernel_prelu(x: FloatTensor<Self>, slopes: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Nearest-neighbour doubling.
    fn kernel_upsample2(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// [`super::extend`] of tensors on the CPU, whose caches are of one type. An extension of the backend can't take a list of
/// tensors.
pub(super) fn extend(
    qkv: Tensor<3>,
    turns: Option<(super::QkNormRope, super::QkNormRope)>,
    held: Vec<Held>,
    eps: f64,
) -> (Tensor<3>, Vec<Held>) {
    match held.first().map(|one| one.keys.dtype()) {
        Some(DType::BF16) => extend_stored::<bf16, u16>(qkv, turns, held, eps),
        _ => extend_stored::<f32, f32>(qkv, turns, held, eps),
    }
}

/// [`extend`] with caches of `B` in Burn's words, of `S` in the kernels'.
fn extend_stored<B: Element + Pod, S: Stored + Pod>(
    qkv: Tensor<3>,
    turns: Option<(super::QkNormRope, super::QkNormRope)>,
    held: Vec<Held>,
    eps: f64,
) -> (Tensor<3>, Vec<Held>) {
    let qkv = contiguous(&primitive(qkv));
    let [batch, length, joint] = qkv.layout().shape().dims();
    let (mut heads, mut dim) = (0, 0);
    let mut stored: Vec<(FlexTensor, FlexTensor)> = Vec::with_capacity(held.len());
    let mut shapes = Vec::with_capacity(held.len());
    for one in held {
        let [rows, own_heads, own_dim, capacity] = one.keys.dims();
        (heads, dim) = (own_heads, own_dim);
        shapes.push((rows, capacity, one.known));
        // Changed in place where nothing else holds them.
        stored.push((own(primitive(one.keys)), own(primitive(one.values))));
    }
    let sizes = Sizes {
        batch,
        length,
        heads,
        dim,
        eps: eps as f32,
        unit: None,
    };
    let turns = turns.map(|turns| {
        <[_; 2]>::from(turns).map(|one| {
            let (cos, sin) = (primitive(one.cos), primitive(one.sin));
            [&primitive(one.weight), &cos, &sin].map(contiguous)
        })
    });
    let turns = turns.as_ref().map(|turns| turns.each_ref().map(turn));
    let mut caches: Vec<Cache<'_, S>> = stored
        .iter_mut()
        .zip(&shapes)
        .map(|((keys, values), &(batch, capacity, known))| Cache {
            batch,
            keys: bytemuck::cast_slice_mut(keys.storage_mut::<B>()),
            values: bytemuck::cast_slice_mut(values.storage_mut::<B>()),
            capacity,
            known,
        })
        .collect();
    let turning = turns.as_ref().map(|[query, key]| (query, key));
    let seen = kernels::self_attention::extend(floats(&qkv), turning, &mut caches, &sizes);
    let held = stored.into_iter().zip(shapes);
    let held = held.map(|((keys, values), (.., known))| Held {
        keys: Tensor::from_primitive::<Flex>(keys),
        values: Tensor::from_primitive::<Flex>(values),
        known: known + length,
    });
    let seen = tensor(seen, with_last(&qkv, joint / 3));
    (Tensor::from_primitive::<Flex>(seen), held.collect())
}

/// The backend's own; see [`super::has_inference`].
fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>()
        .expect("a tensor on the CPU without gradients")
}

impl InferenceOps for Flex {
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

    fn kernel_tanh_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        tensor(kernels::gelu::tanh(floats(&x)), x.layout().shape().clone())
    }

    fn kernel_prelu(x: FlexTensor, slopes: FlexTensor) -> FlexTensor {
        let [_, _, height, width] = x.layout().shape().dims();
        let (mut x, slopes) = (own(x), contiguous(&slopes));
        // In place where nothing else holds it.
        kernels::prelu::forward(x.storage_mut(), floats(&slopes), height * width);
        x
    }

    fn kernel_upsample2(x: FlexTensor) -> FlexTensor {
        let [batch, channels, height, width] = x.layout().shape().dims();
        let y = kernels::enlarge::twice(floats(&contiguous(&x)), width);
        let shape = [batch, channels, 2 * height, 2 * width];
        tensor(y, Shape::from(shape))
    }
}
