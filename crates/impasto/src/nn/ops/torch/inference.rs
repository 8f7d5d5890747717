//! What drawing does at every token, without gradients. On a GPU a token of a small model is bound by how many
//! operations the host issues, so each of these is as few of LibTorch's as there are: one call for a product with its
//! bias, a norm, attention to a cache that is written in place.

use burn::backend::{LibTorch, libtorch::TchTensor};
use burn::prelude::*;
use tch::Kind;

use super::super::{Held, QkNormRope};
use super::{Torch, forward};

/// The backend's own; see [`super::infers`].
fn primitive<const D: usize>(x: Tensor<D>) -> TchTensor {
    x.try_into_primitive::<LibTorch>()
        .expect("a tensor in LibTorch without gradients")
}

/// A result that shares no memory with an operand.
fn fresh<const D: usize>(x: Torch) -> Tensor<D> {
    Tensor::from_primitive::<LibTorch>(TchTensor::new(x))
}

/// A small operand in the type of what it is applied to; a copy of nothing where it has that type.
fn of_kind(x: Tensor<1>, kind: Kind) -> Torch {
    primitive(x).tensor.to_kind(kind)
}

/// See [`crate::nn::ops::linear`].
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    w: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let (x, w) = (primitive(x).tensor, primitive(w).tensor);
    let mut size = x.size();
    let outputs = w.size()[1];
    let rows = x.reshape([-1, w.size()[0]]);
    let y = match bias {
        Some(bias) => of_kind(bias, rows.kind()).addmm(&rows, &w),
        None => rows.mm(&w),
    };
    size[D - 1] = outputs;
    fresh(y.view(&size[..]))
}

/// See [`crate::nn::ops::layer_norm`]; without a weight its scale is 1.
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Option<Tensor<1>>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let x = primitive(x).tensor;
    let weight = weight.map(|weight| of_kind(weight, x.kind()));
    let bias = of_kind(bias, x.kind());
    fresh(x.layer_norm(bias.size(), weight.as_ref(), Some(&bias), eps, false))
}

/// See [`crate::nn::ops::rms_norm`].
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let (x, weight) = (primitive(x).tensor, primitive(weight).tensor);
    fresh(forward::rms_norm(&x, &weight, eps))
}

/// See [`crate::nn::ops::gelu`].
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    fresh(primitive(x).tensor.gelu("none"))
}

/// See [`crate::nn::ops::gelu_gate`].
pub(crate) fn gelu_gate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let halves = primitive(x).tensor.chunk(2, -1);
    let mut gate = halves[0].gelu("none");
    fresh(gate.g_mul_(&halves[1]))
}

/// See [`crate::nn::ops::rotate_heads`]; cosines twice, and sines with their signs, `[batch, length, 1, dim]`.
pub(crate) fn rotate_heads(qkv: Tensor<3>, [cos, sin]: [&Tensor<4>; 2], heads: usize) -> Tensor<3> {
    let (mut qkv, heads) = (primitive(qkv), heads as i64);
    let (cos, sin) = (primitive(cos.clone()).tensor, primitive(sin.clone()).tensor);
    // Changed in place where nothing else holds it.
    if !qkv.can_mut() || !qkv.tensor.is_contiguous() {
        qkv = TchTensor::new(qkv.tensor.copy().contiguous());
    }
    if impasto_torch::rotate_heads(&qkv.tensor, &cos, &sin, heads).is_some() {
        return Tensor::from_primitive::<LibTorch>(qkv);
    }
    let size = qkv.tensor.size();
    let dim = size[2] / 3 / heads;
    let mut turned =
        qkv.tensor
            .narrow(2, 0, size[2] / 3 * 2)
            .view([size[0], size[1], 2 * heads, dim]);
    // (a, b) → (a·cos − b·sin, a·sin + b·cos): the halves exchanged, times signed sines.
    let exchanged = turned.roll([dim / 2], [-1]);
    let _ = turned.g_mul_(&cos).addcmul_(&exchanged, &sin);
    Tensor::from_primitive::<LibTorch>(qkv)
}

/// See [`crate::nn::ops::extend`].
pub(crate) fn extend(
    qkv: Tensor<3>,
    turns: Option<(QkNormRope, QkNormRope)>,
    held: Vec<Held>,
    eps: f64,
) -> (Tensor<3>, Vec<Held>) {
    let qkv = primitive(qkv).tensor;
    let (n, width) = (qkv.size()[1], qkv.size()[2] / 3);
    let turns = turns.map(|turns| {
        <[QkNormRope; 2]>::from(turns).map(|one| {
            (
                primitive(one.weight),
                primitive(one.cos),
                primitive(one.sin),
            )
        })
    });
    let mut first = 0;
    let (mut attended, mut extended) = (Vec::with_capacity(held.len()), Vec::new());
    for one in held {
        let [rows, heads, dim, _] = one.keys.dims().map(|size| size as i64);
        let shape = [rows, n, 3, heads, dim];
        let (keys, values) = (own(primitive(one.keys)), own(primitive(one.values)));
        let by_position = keys.tensor.transpose(2, 3);
        let known = one.known as i64;
        let fused = match &turns {
            None if n == 1 => {
                let own = qkv.narrow(0, first, rows);
                impasto_torch::extend(&own, &by_position, &values.tensor, known)
            }
            _ => None,
        };
        let put = |keys, values| Held {
            keys: Tensor::from_primitive::<LibTorch>(keys),
            values: Tensor::from_primitive::<LibTorch>(values),
            known: one.known + n as usize,
        };
        if let Some(seen) = fused {
            attended.push(seen);
            extended.push(put(keys, values));
            first += rows;
            continue;
        }
        let parts = qkv.narrow(0, first, rows).reshape(shape);
        // `[rows, heads, n, dim]`, turned or as they are.
        let part = |index: i64| {
            let x = parts.select(2, index);
            match turns.as_ref().and_then(|turns| turns.get(index as usize)) {
                Some((weight, cos, sin)) => {
                    let of = |x: &TchTensor| x.tensor.narrow(0, first, rows);
                    forward::rotated(&x, &weight.tensor, &of(cos), &of(sin), eps)
                }
                None => x.transpose(1, 2),
            }
        };
        let (query, key, value) = (part(0), part(1), part(2));
        by_position.narrow(2, known, n).copy_(&key);
        values.tensor.narrow(2, known, n).copy_(&value);
        let end = known + n;
        let all_keys = by_position.narrow(2, 0, end);
        let all_values = values.tensor.narrow(2, 0, end);
        let seen = attend(&query, &all_keys, &all_values, true);
        attended.push(seen.transpose(1, 2).reshape([rows, n, width]));
        extended.push(put(keys, values));
        first += rows;
    }
    let seen = match attended.len() {
        1 => attended.remove(0),
        _ => Torch::cat(&attended, 0),
    };
    (fresh(seen), extended)
}

/// See [`crate::nn::ops::attention`].
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(|x| primitive(x).tensor);
    let fused = match causal {
        false => impasto_torch::attention(&q, &k, &v),
        true => None,
    };
    fresh(fused.unwrap_or_else(|| attend(&q, &k, &v, causal)))
}

/// Attention of drawing: the number of keys is another one at every token, and cuDNN's attention, which LibTorch may
/// prefer, plans anew for each.
fn attend(q: &Torch, k: &Torch, v: &Torch, causal: bool) -> Torch {
    impasto_torch::without_cudnn_attention(|| forward::attention(q, k, v, causal))
}

/// The tensor itself where nothing else holds it, else a copy of the same layout.
fn own(x: TchTensor) -> TchTensor {
    match x.can_mut() {
        true => x,
        false => TchTensor::new(x.tensor.copy()),
    }
}

/// Room for keys, `[rows, heads, dim, capacity]`: as attention reads them, those of a position side by side.
pub(crate) fn room_for_keys(
    [rows, heads, dim, capacity]: [usize; 4],
    place: (&Device, burn::tensor::DType),
) -> Tensor<4> {
    Tensor::zeros([rows, heads, capacity, dim], place).swap_dims(2, 3)
}
