//! The operations of [`super`] composed of Burn's own: for the devices that have no kernels of ours,
//! and the reference that the kernels are tested against. Shapes and meaning: see [`super`].
//!
//! Inputs in bf16 give results in bf16; sums, normalisations and the softmax are computed in f32.

use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::{log_softmax, sigmoid, silu, softmax};
use burn::tensor::module;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};

use super::{AdamW, Held, QkNormRope};

/// See [`super::linear`].
pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let [inputs, outputs] = w.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    shape[D - 1] = outputs;
    let mut y = x.reshape([rows, inputs]).matmul(w);
    if let Some(bias) = bias {
        let bias = bias.cast(y.dtype());
        y = y + bias.unsqueeze();
    }
    y.reshape(shape)
}

/// See [`super::attention`].
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [_, _, queries, dim] = q.dims();
    let keys = k.dims()[2];
    let mut scores = q.matmul(k.transpose()) * (1.0 / (dim as f64).sqrt());
    if causal && queries > 1 {
        let hidden = Tensor::<2, Bool>::tril_mask(
            [queries, keys],
            keys as i64 - queries as i64,
            &scores.device(),
        );
        scores = scores.mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY);
    }
    let dtype = v.dtype();
    softmax(scores.cast(FloatDType::F32), 3)
        .cast(dtype)
        .matmul(v)
}

/// See [`super::self_attention`].
pub fn self_attention(
    qkv: Tensor<3>,
    query: QkNormRope,
    key: QkNormRope,
    heads: usize,
    eps: f64,
) -> Tensor<3> {
    let [batch, length, joint] = qkv.dims();
    let (width, dim) = (joint / 3, joint / 3 / heads);
    let part = |i: usize| {
        qkv.clone()
            .narrow(2, i * width, width)
            .reshape([batch, length, heads, dim])
    };
    attention(
        turned(part(0), query, eps),
        turned(part(1), key, eps),
        part(2).swap_dims(1, 2),
        true,
    )
    .swap_dims(1, 2)
    .reshape([batch, length, width])
}

/// Heads `[batch, length, heads, dim]` normalised, turned, and as `[batch, heads, length, dim]`.
fn turned(x: Tensor<4>, turn: QkNormRope, eps: f64) -> Tensor<4> {
    let [_, _, _, dim] = x.dims();
    let x = rms_norm(x, turn.weight, eps);
    let (first, second) = (
        x.clone().narrow(3, 0, dim / 2),
        x.narrow(3, dim / 2, dim / 2),
    );
    let dtype = first.dtype();
    let (cos, sin) = (turn.cos.cast(dtype), turn.sin.cast(dtype));
    let left = first.clone() * cos.clone() - second.clone() * sin.clone();
    let right = first * sin + second * cos;
    Tensor::cat(vec![left, right], 3).swap_dims(1, 2)
}

/// See [`super::rotate_heads`].
pub fn rotate_heads(qkv: Tensor<3>, cos: &Tensor<4>, sin: &Tensor<4>, n_heads: usize) -> Tensor<3> {
    let [batch, seq, joint] = qkv.dims();
    let width = joint / 3;
    let half = width / n_heads / 2;
    let heads = qkv
        .clone()
        .narrow(2, 0, 2 * width)
        .reshape([batch, seq, 2 * n_heads, 2 * half]);
    let first = heads.clone().narrow(3, 0, half);
    let second = heads.narrow(3, half, half);
    let dtype = first.dtype();
    let (cos, sin) = match cos.dtype() == dtype {
        true => (cos.clone(), sin.clone()),
        false => (cos.clone().cast(dtype), sin.clone().cast(dtype)),
    };
    let left = first.clone() * cos.clone() - second.clone() * sin.clone();
    let right = second * cos + first * sin;
    let rotated = Tensor::cat(vec![left, right], 3).reshape([batch, seq, 2 * width]);
    Tensor::cat(vec![rotated, qkv.narrow(2, 2 * width, width)], 2)
}

/// See [`super::extend`].
pub fn extend(
    qkv: Tensor<3>,
    turns: Option<(QkNormRope, QkNormRope)>,
    held: Vec<Held>,
    eps: f64,
) -> (Tensor<3>, Vec<Held>) {
    let mut first = 0;
    let (mut attended, mut extended) = (Vec::new(), Vec::new());
    for one in held {
        let rows = one.keys.dims()[0];
        let qkv = qkv.clone().narrow(0, first, rows);
        let turns = turns.as_ref().map(|(query, key)| {
            let of = |one: &QkNormRope| one.narrow_rows(first, rows);
            (of(query), of(key))
        });
        let (seen, one) = extend_one(qkv, turns, one, eps);
        attended.push(seen);
        extended.push(one);
        first += rows;
    }
    (Tensor::cat(attended, 0), extended)
}

fn extend_one(
    qkv: Tensor<3>,
    turns: Option<(QkNormRope, QkNormRope)>,
    held: Held,
    eps: f64,
) -> (Tensor<3>, Held) {
    let Held {
        keys,
        values,
        known,
    } = held;
    let [batch, length, joint] = qkv.dims();
    let [_, heads, dim, _] = keys.dims();
    let end = known + length;
    let part = |i: usize| {
        qkv.clone()
            .narrow(2, i * joint / 3, joint / 3)
            .reshape([batch, length, heads, dim])
    };
    let (query, key) = match turns {
        Some((query, key)) => (turned(part(0), query, eps), turned(part(1), key, eps)),
        None => (part(0).swap_dims(1, 2), part(1).swap_dims(1, 2)),
    };
    let (computed, stored) = (qkv.dtype(), keys.dtype());
    let place = [0..batch, 0..heads, 0..dim, known..end];
    let keys = keys.slice_assign(place, key.swap_dims(2, 3).cast(stored));
    let place = [0..batch, 0..heads, known..end, 0..dim];
    let values = values.slice_assign(place, part(2).swap_dims(1, 2).cast(stored));
    let all_keys = keys.clone().narrow(3, 0, end).swap_dims(2, 3);
    let all_keys = all_keys.cast(computed);
    let all_values = values.clone().narrow(2, 0, end).cast(computed);
    let seen = attention(query, all_keys, all_values, true)
        .swap_dims(1, 2)
        .reshape([batch, length, joint / 3]);
    let held = Held {
        keys,
        values,
        known: end,
    };
    (seen, held)
}

/// See [`super::adamw`].
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
    adam: &AdamW,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let gradient = gradient * adam.gradient_scale;
    let first = first * adam.beta1 + gradient.clone() * (1.0 - adam.beta1);
    let second = second * adam.beta2 + gradient.square() * (1.0 - adam.beta2);
    let root = (second.clone() / adam.correction2).sqrt() + adam.eps;
    let update = first.clone() / root * (adam.learning_rate / adam.correction1);
    (param * adam.decay - update, first, second)
}

/// See [`super::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(FloatDType::F32);
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    let weight = weight.cast(FloatDType::F32);
    (x / (mean_square + eps).sqrt() * weight.unsqueeze()).cast(dtype)
}

/// See [`super::gelu`]. Burn's own has the slope of an approximation.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let below = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * below * 0.5
}

/// See [`super::gelu_gate`].
pub fn gelu_gate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let hidden = x.dims()[D - 1] / 2;
    gelu(x.clone().narrow(D - 1, 0, hidden)) * x.narrow(D - 1, hidden, hidden)
}

/// See [`super::quick_gelu`].
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * sigmoid(x * 1.702)
}

/// See [`super::tanh_gelu`].
pub fn tanh_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone().powi_scalar(3).mul_scalar(0.044_715) + x.clone())
        .mul_scalar((2.0 / std::f64::consts::PI).sqrt());
    // (1 + tanh(y)) / 2 = σ(2y).
    x * sigmoid(inner.mul_scalar(2.0))
}

/// See [`super::swiglu`].
pub fn swiglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let hidden = x.dims()[D - 1] / 2;
    let gate = x.clone().narrow(D - 1, 0, hidden);
    silu(gate) * x.narrow(D - 1, hidden, hidden)
}

/// See [`super::cross_entropy`].
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    log_softmax(logits.cast(FloatDType::F32), 1)
        .gather(1, targets.reshape([rows, 1]))
        .neg()
        .reshape([rows])
}

/// See [`super::conv2d`].
pub fn conv2d(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let bias = bias.map(|bias| bias.cast(w.dtype()));
    let options = ConvOptions::new([stride, stride], [padding, padding], [1, 1], 1);
    module::conv2d(x, w, bias, options)
}

/// See [`super::conv_transpose2d`].
pub fn conv_transpose2d(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let bias = bias.map(|bias| bias.cast(w.dtype()));
    let pair = |value| [value, value];
    let options = ConvTransposeOptions::new(pair(stride), pair(padding), pair(0), pair(1), 1);
    module::conv_transpose2d(x, w, bias, options)
}

/// See [`super::group_norm`].
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let dtype = x.dtype();
    let x = x.cast(FloatDType::F32);
    let grouped = x.reshape([batch, groups, channels / groups * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let normal = (centred / (variance + eps).sqrt()).reshape([batch, channels, height, width]);
    let of_channels = |x: Tensor<1>| x.cast(FloatDType::F32).reshape([1, channels, 1, 1]);
    (normal * of_channels(weight) + of_channels(bias)).cast(dtype)
}

/// See [`super::group_norm_silu`].
pub fn group_norm_silu(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    silu(group_norm(x, groups, weight, bias, eps))
}

/// See [`super::prelu`].
pub fn prelu(x: Tensor<4>, slopes: Tensor<1>) -> Tensor<4> {
    let [channels] = slopes.dims();
    let slopes = slopes.reshape([1, channels, 1, 1]);
    x.clone().clamp_min(0.0) + x.clamp_max(0.0) * slopes
}

/// See [`super::upsample2`].
pub fn upsample2(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}
