//! The operations on tensors of the CPU.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use impasto_kernels as kernels;
use impasto_kernels::attention::Heads;
use impasto_kernels::conv2d::Conv2d;
use impasto_kernels::group_norm::GroupNorm;
use impasto_kernels::self_attention::{QkNormRope, Saved, Sizes};

use super::super::packed;
use super::views::*;

pub(super) fn linear(x: &FlexTensor, w: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    let (x, bias) = (contiguous(x), bias.map(contiguous));
    let bias = bias.as_ref().map(floats);
    let w = &weight_in_place(w);
    let y = packed::forward(rows(&x), w, bias)
        .unwrap_or_else(|| kernels::linear::forward(rows(&x), matrix(w), bias));
    tensor(y, with_last(&x, last(w)))
}

/// `[batch, heads, length, dim]` in place where `dim` is contiguous.
pub(super) fn heads_in_place(x: &FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|&stride| stride >= 0) {
        x.clone()
    } else {
        x.to_contiguous()
    }
}

pub(super) fn heads(x: &FlexTensor) -> Heads<'_> {
    let strides = x.layout().strides();
    Heads {
        data: &x.storage::<f32>()[x.layout().start_offset()..],
        batch_stride: strides[0] as usize,
        head_stride: strides[1] as usize,
        row_stride: strides[2] as usize,
        dim_stride: strides[3] as usize,
    }
}

/// A result in memory order `[batch, length, heads, dim]` as the tensor `[batch, heads, length, dim]`,
/// so that joining the heads after it moves nothing.
pub(super) fn from_heads(floats: Vec<f32>, [batch, heads, length, dim]: [usize; 4]) -> FlexTensor {
    let strides = [length * heads * dim, dim, heads * dim, 1].map(|stride| stride as isize);
    let layout = Layout::new(
        Shape::from([batch, heads, length, dim]),
        strides.to_vec(),
        0,
    );
    FlexTensor::new(Bytes::from_elems(floats), layout, DType::F32)
}

pub(super) fn attention_shape(
    q: &FlexTensor,
    k: &FlexTensor,
    causal: bool,
) -> kernels::attention::Shape {
    let [batch, heads, queries, dim] = q.layout().shape().dims();
    let keys = k.layout().shape()[2];
    let scale = 1.0 / (dim as f32).sqrt();
    kernels::attention::Shape {
        batch,
        heads,
        queries,
        keys,
        dim,
        causal,
        scale,
        unit: None,
    }
}

/// The output, and the normalisers.
pub(super) fn attention(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    causal: bool,
) -> (FlexTensor, Vec<f32>) {
    let shape = attention_shape(q, k, causal);
    let (out, normalisers) = kernels::attention::forward(heads(q), heads(k), heads(v), shape);
    (from_heads(out, q.layout().shape().dims()), normalisers)
}

pub(super) fn ids(targets: &FlexTensor) -> Vec<usize> {
    let targets = contiguous(targets);
    let range = targets.layout().start_offset()..;
    let len = targets.layout().num_elements();
    match targets.dtype() {
        DType::I64 => targets.storage::<i64>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::I32 => targets.storage::<i32>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::U32 => targets.storage::<u32>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        DType::U8 => targets.storage::<u8>()[range][..len]
            .iter()
            .map(|&id| id as usize)
            .collect(),
        other => panic!("target ids of type {other:?}"),
    }
}

pub(super) fn cross_entropy(logits: &FlexTensor, ids: &[usize]) -> (FlexTensor, Vec<f32>) {
    let (losses, normalisers) = kernels::cross_entropy::forward(floats(logits), ids, last(logits));
    (tensor(losses, Shape::from([ids.len()])), normalisers)
}

/// The sizes of a convolution of contiguous tensors.
pub(super) fn conv_sizes(x: &FlexTensor, w: &FlexTensor, stride: usize, padding: usize) -> Conv2d {
    let [batch, inputs, height, width] = x.layout().shape().dims();
    let [outputs, _, kernel_height, kernel_width] = w.layout().shape().dims();
    let kernel = [kernel_height, kernel_width];
    Conv2d {
        batch,
        inputs,
        height,
        width,
        outputs,
        kernel,
        stride,
        padding,
    }
}

pub(super) fn conv2d(
    x: &FlexTensor,
    w: &FlexTensor,
    bias: Option<&FlexTensor>,
    conv: &Conv2d,
) -> FlexTensor {
    let bias = bias.map(contiguous);
    let bias = bias.as_ref().map(floats);
    let y = match packed::kernels_in_bf16(w) {
        Some((unit, w)) => kernels::conv2d::forward_bf16(unit, floats(x), &w, bias, conv),
        None => kernels::conv2d::forward(floats(x), floats(w), bias, conv),
    };
    let [height, width] = conv.output();
    tensor(y, Shape::from([conv.batch, conv.outputs, height, width]))
}

pub(super) fn group_norm_sizes(x: &FlexTensor, groups: usize, eps: f64, silu: bool) -> GroupNorm {
    let [_, _, height, width] = x.layout().shape().dims();
    GroupNorm {
        groups,
        pixels: height * width,
        eps: eps as f32,
        silu,
    }
}

/// The sizes, of a projection `[batch, length, 3 · width]`.
pub(super) fn self_attention_sizes(
    qkv: &FlexTensor,
    heads: usize,
    eps: f64,
    in_bf16: bool,
) -> Sizes {
    let [batch, length, joint] = qkv.layout().shape().dims();
    Sizes {
        batch,
        length,
        heads,
        dim: joint / 3 / heads,
        eps: eps as f32,
        unit: if in_bf16 { packed::matrix_unit() } else { None },
    }
}

/// Weight, cosines and sines of contiguous tensors.
pub(in super::super) fn turn([weight, cos, sin]: &[FlexTensor; 3]) -> QkNormRope<'_> {
    QkNormRope {
        weight: floats(weight),
        cos: floats(cos),
        sin: floats(sin),
    }
}

/// The output, and what the backward pass needs.
pub(super) fn self_attention(
    qkv: &FlexTensor,
    query: &[FlexTensor; 3],
    key: &[FlexTensor; 3],
    sizes: &Sizes,
) -> (FlexTensor, Saved) {
    let (query, key) = (turn(query), turn(key));
    let (out, saved) = kernels::self_attention::forward(floats(qkv), &query, &key, sizes);
    (tensor(out, with_last(qkv, sizes.heads * sizes.dim)), saved)
}

/// The tensor with contiguous elements that nothing else holds, to be changed in place.
pub(in super::super) fn own(x: FlexTensor) -> FlexTensor {
    let whole = x.is_contiguous()
        && x.layout().start_offset() == 0
        && x.bytes().len() == x.layout().num_elements() * x.dtype().size();
    if whole { x } else { x.to_contiguous() }
}
