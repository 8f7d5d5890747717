//! The kernels as an extension of Burn's Flex backend, with hand-written backward passes for its
//! autodiff decorator. Tensors are read and made in place: a view is copied only where a kernel wants
//! contiguous rows.

mod backward;
mod forward;
mod views;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Flex, backend_extension};
use impasto_kernels as kernels;
use impasto_kernels::adamw::AdamW;

use forward::*;
pub(super) use forward::{own, turn};
use views::*;
pub(super) use views::{contiguous, floats, tensor, with_last};

/// The operations that have kernels; meaning and shapes: see [`super`].
#[backend_extension(Autodiff, Flex)]
pub trait KernelOps: Backend {
    /// `x · w`.
    fn kernel_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x · w + bias`.
    fn kernel_linear_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Attention.
    fn kernel_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self>;
    /// RMS normalisation.
    fn kernel_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    /// The SwiGLU gate.
    fn kernel_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x · Φ(x)`.
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `a · Φ(a) · b`.
    fn kernel_gelu_gate(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Cross-entropy per row.
    fn kernel_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Convolution.
    fn kernel_conv2d(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
    /// Convolution with a bias.
    fn kernel_conv2d_bias(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
    /// Group normalisation, with SiLU after it or without.
    fn kernel_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// Self-attention; a turn is weight, cosines, sines.
    #[allow(clippy::too_many_arguments)]
    fn kernel_self_attention(
        qkv: FloatTensor<Self>,
        query_weight: FloatTensor<Self>,
        query_cos: FloatTensor<Self>,
        query_sin: FloatTensor<Self>,
        key_weight: FloatTensor<Self>,
        key_cos: FloatTensor<Self>,
        key_sin: FloatTensor<Self>,
        heads: usize,
        eps: f64,
        in_bf16: bool,
    ) -> FloatTensor<Self>;
    /// A step of AdamW: parameter, first and second moment.
    fn kernel_adamw(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        adam: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl KernelOps for Flex {
    fn kernel_linear(x: FlexTensor, w: FlexTensor) -> FlexTensor {
        linear(&x, &w, None)
    }

    fn kernel_linear_bias(x: FlexTensor, w: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear(&x, &w, Some(&bias))
    }

    fn kernel_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, causal: bool) -> FlexTensor {
        let (q, k, v) = (heads_in_place(&q), in_place(&k), in_place(&v));
        attention(&q, &k, &v, causal).0
    }

    fn kernel_rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (contiguous(&x), contiguous(&weight));
        let y = kernels::rms_norm::forward(floats(&x), floats(&weight), eps as f32);
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_swiglu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let hidden = last(&x) / 2;
        tensor(
            kernels::swiglu::forward(floats(&x), hidden),
            with_last(&x, hidden),
        )
    }

    fn kernel_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let y = kernels::gelu::forward(floats(&x));
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_gelu_gate(x: FlexTensor) -> FlexTensor {
        let x = contiguous(&x);
        let hidden = last(&x) / 2;
        tensor(
            kernels::gelu::gate(floats(&x), hidden),
            with_last(&x, hidden),
        )
    }

    fn kernel_cross_entropy(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
        cross_entropy(&contiguous(&logits), &ids(&targets)).0
    }

    fn kernel_conv2d(x: FlexTensor, w: FlexTensor, stride: usize, padding: usize) -> FlexTensor {
        let (x, w) = (contiguous(&x), contiguous(&w));
        conv2d(&x, &w, None, &conv_sizes(&x, &w, stride, padding))
    }

    fn kernel_conv2d_bias(
        x: FlexTensor,
        w: FlexTensor,
        bias: FlexTensor,
        stride: usize,
        padding: usize,
    ) -> FlexTensor {
        let (x, w) = (contiguous(&x), contiguous(&w));
        conv2d(&x, &w, Some(&bias), &conv_sizes(&x, &w, stride, padding))
    }

    fn kernel_group_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> FlexTensor {
        let [x, weight, bias] = [&x, &weight, &bias].map(contiguous);
        let norm = group_norm_sizes(&x, groups, eps, silu);
        let y = kernels::group_norm::forward(floats(&x), floats(&weight), floats(&bias), &norm);
        tensor(y, x.layout().shape().clone())
    }

    fn kernel_self_attention(
        qkv: FlexTensor,
        query_weight: FlexTensor,
        query_cos: FlexTensor,
        query_sin: FlexTensor,
        key_weight: FlexTensor,
        key_cos: FlexTensor,
        key_sin: FlexTensor,
        heads: usize,
        eps: f64,
        in_bf16: bool,
    ) -> FlexTensor {
        let qkv = contiguous(&qkv);
        let query = [&query_weight, &query_cos, &query_sin].map(contiguous);
        let key = [&key_weight, &key_cos, &key_sin].map(contiguous);
        let sizes = self_attention_sizes(&qkv, heads, eps, in_bf16);
        self_attention(&qkv, &query, &key, &sizes).0
    }

    fn kernel_adamw(
        param: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        adam: AdamW,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let gradient = contiguous(&gradient);
        let [mut param, mut first, mut second] = [param, first, second].map(own);
        kernels::adamw::step(
            param.storage_mut(),
            floats(&gradient),
            first.storage_mut(),
            second.storage_mut(),
            &adam,
        );
        (param, first, second)
    }
}
