//! The operations as LibTorch has them, fused where it fuses them: flash attention, normalisations in one pass,
//! log-softmax that reads bf16 and writes f32.
//!
//! Burn's LibTorch backend has no gradients of its own; its autodiff decorator composes backward passes from
//! elementary operations, which keep every intermediate result and never reach the fused backward passes. Here
//! each operation records a small LibTorch graph from its inputs to its output and plays it back in the backward
//! pass; in bf16 on CUDA the kernels of `impasto_torch` do what LibTorch has no fused operation for.

#![allow(deprecated)] // Burn marks this backend as deprecated; it has the fastest products on NVIDIA GPUs.

mod forward;
pub(super) mod inference;
mod tape;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, DispatchDevice, LibTorch, backend_extension, libtorch::TchTensor,
};
use burn::prelude::*;

use super::QkNormRope;
use tape::{differentiable, fused};

type Torch = tch::Tensor;

/// The operations; meaning and shapes: see [`super`].
#[backend_extension(Autodiff, LibTorch)]
pub trait TorchOps: Backend {
    /// Attention.
    fn torch_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self>;
    /// Causal self-attention; a turn is weight, cosines, sines.
    #[allow(clippy::too_many_arguments)]
    fn torch_self_attention(
        qkv: FloatTensor<Self>,
        query_weight: FloatTensor<Self>,
        query_cos: FloatTensor<Self>,
        query_sin: FloatTensor<Self>,
        key_weight: FloatTensor<Self>,
        key_cos: FloatTensor<Self>,
        key_sin: FloatTensor<Self>,
        heads: usize,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// RMS normalisation.
    fn torch_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// The SwiGLU gate.
    fn torch_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Cross-entropy per row, in f32.
    fn torch_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Group normalisation, with SiLU after it or without.
    fn torch_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
}

/// Whether the tensor lives in LibTorch.
pub(super) fn has<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    match device.as_dispatch() {
        DispatchDevice::LibTorch(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(&**inner, DispatchDevice::LibTorch(_)),
        _ => false,
    }
}

/// Whether the tensor lives in LibTorch and has no gradients.
pub(super) fn infers<const D: usize>(x: &Tensor<D>) -> bool {
    is_libtorch(&x.device())
}

/// Whether tensors of a device live in LibTorch and have no gradients.
pub(super) fn is_libtorch(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::LibTorch(_))
}

/// See [`super::attention`].
pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::torch_attention(q, k, v, causal))
}

/// See [`super::self_attention`].
pub(super) fn self_attention(
    qkv: Tensor<3>,
    query: QkNormRope,
    key: QkNormRope,
    heads: usize,
    eps: f64,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::torch_self_attention(
        qkv.into_dispatch(),
        query.weight.into_dispatch(),
        query.cos.into_dispatch(),
        query.sin.into_dispatch(),
        key.weight.into_dispatch(),
        key.cos.into_dispatch(),
        key.sin.into_dispatch(),
        heads,
        eps,
    ))
}

/// See [`super::rms_norm`].
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::torch_rms_norm(x, weight, eps))
}

/// See [`super::swiglu`].
pub(super) fn swiglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::torch_swiglu(x.into_dispatch()))
}

/// See [`super::cross_entropy`].
pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(Dispatch::torch_cross_entropy(logits, targets))
}

/// See [`super::group_norm`].
pub(super) fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    silu: bool,
) -> Tensor<4> {
    let (x, weight, bias) = (
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    Tensor::from_dispatch(Dispatch::torch_group_norm(
        x, weight, bias, groups, eps, silu,
    ))
}

impl TorchOps for LibTorch {
    fn torch_attention(q: TchTensor, k: TchTensor, v: TchTensor, causal: bool) -> TchTensor {
        TchTensor::new(forward::attention(&q.tensor, &k.tensor, &v.tensor, causal))
    }

    fn torch_self_attention(
        qkv: TchTensor,
        query_weight: TchTensor,
        query_cos: TchTensor,
        query_sin: TchTensor,
        key_weight: TchTensor,
        key_cos: TchTensor,
        key_sin: TchTensor,
        heads: usize,
        eps: f64,
    ) -> TchTensor {
        let query = [&query_weight, &query_cos, &query_sin].map(|x| &x.tensor);
        let key = [&key_weight, &key_cos, &key_sin].map(|x| &x.tensor);
        let (qkv, heads) = (&qkv.tensor, heads as i64);
        let out = match fused::self_attention(qkv, query, key, heads, eps) {
            Some((_, out)) => out,
            None => forward::self_attention(qkv, query, key, heads, eps),
        };
        TchTensor::new(out)
    }

    fn torch_rms_norm(x: TchTensor, weight: TchTensor, eps: f64) -> TchTensor {
        let (x, weight) = (&x.tensor, &weight.tensor);
        let y = match impasto_torch::rms_norm(x, weight, eps) {
            Some((y, _)) => y,
            None => forward::rms_norm(x, weight, eps),
        };
        TchTensor::new(y)
    }

    fn torch_swiglu(x: TchTensor) -> TchTensor {
        let y = impasto_torch::swiglu(&x.tensor).unwrap_or_else(|| forward::swiglu(&x.tensor));
        TchTensor::new(y)
    }

    fn torch_cross_entropy(logits: TchTensor, targets: TchTensor) -> TchTensor {
        TchTensor::new(forward::cross_entropy(&logits.tensor, &targets.tensor))
    }

    fn torch_group_norm(
        x: TchTensor,
        weight: TchTensor,
        bias: TchTensor,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> TchTensor {
        TchTensor::new(forward::group_norm(
            &x.tensor,
            &weight.tensor,
            &bias.tensor,
            groups as i64,
            eps,
            silu,
        ))
    }
}

impl<C: CheckpointStrategy> TorchOps for Autodiff<LibTorch, C> {
    fn torch_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        differentiable::<C, 3>(
            [&q, &k, &v],
            |_| None,
            |[q, k, v]| forward::attention(q, k, v, causal),
        )
    }

    fn torch_self_attention(
        qkv: FloatTensor<Self>,
        query_weight: FloatTensor<Self>,
        query_cos: FloatTensor<Self>,
        query_sin: FloatTensor<Self>,
        key_weight: FloatTensor<Self>,
        key_cos: FloatTensor<Self>,
        key_sin: FloatTensor<Self>,
        heads: usize,
        eps: f64,
    ) -> FloatTensor<Self> {
        // The rotations have no gradients.
        let rotations = [&query_cos, &query_sin, &key_cos, &key_sin]
            .map(|rotation| rotation.primitive().tensor.detach());
        let [query_cos, query_sin, key_cos, key_sin] = &rotations;
        differentiable::<C, 3>(
            [&qkv, &query_weight, &key_weight],
            |[qkv, query_weight, key_weight]| {
                let query = [query_weight, query_cos, query_sin];
                let key = [key_weight, key_cos, key_sin];
                fused::self_attention(qkv, query, key, heads as i64, eps)
            },
            |[qkv, query_weight, key_weight]| {
                let query = [query_weight, query_cos, query_sin];
                let key = [key_weight, key_cos, key_sin];
                forward::self_attention(qkv, query, key, heads as i64, eps)
            },
        )
    }

    fn torch_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        differentiable::<C, 2>(
            [&x, &weight],
            |[x, weight]| fused::rms_norm(x, weight, eps),
            |[x, weight]| forward::rms_norm(x, weight, eps),
        )
    }

    fn torch_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable::<C, 1>([&x], |[x]| fused::swiglu(x), |[x]| forward::swiglu(x))
    }

    fn torch_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        differentiable::<C, 1>(
            [&logits],
            |_| None,
            |[logits]| forward::cross_entropy(logits, &targets.tensor),
        )
    }

    fn torch_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FloatTensor<Self> {
        differentiable::<C, 3>(
            [&x, &weight, &bias],
            |_| None,
            |[x, weight, bias]| forward::group_norm(x, weight, bias, groups as i64, eps, silu),
        )
    }
}
