//! The hot operations of our models, as functions on tensors.
//!
//! On the CPU (Burn's Flex backend) they run the kernels of `impasto_kernels`, plugged in as a
//! backend extension with hand-written backward passes; on LibTorch the ones that it fuses; on every other
//! device they are composed of Burn's own operations ([`plain`]), which also are the reference of the tests.
//!
//! Mixed precision: where a weight of a product is in bf16, the other operand is cast to it, and so is what comes of
//! it; see [`crate::nn::precision`]. On a CPU that multiplies bfloat16s the other operand is rounded within the
//! product, and what comes of it stays in f32, as all else.
//!
//! Batch and thread invariance: on the CPU, a row's result does not depend on the rows beside it,
//! nor on the number of threads.

mod flex;
mod inference;
pub mod packed;
pub mod plain;
#[cfg(feature = "tch")]
mod torch;
mod turns;

use burn::backend::{Dispatch, DispatchDevice};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
use flex::KernelOps;
pub use impasto_kernels::adamw::AdamW;
use inference::InferenceOps;
pub use turns::{Turns, rotate_heads};

/// Whether the kernels can take it: it is on the CPU, in `f32`.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    is_cpu(&x.device()) && x.dtype() == DType::F32
}

/// Whether a device is the CPU with our kernels.
pub(crate) fn is_cpu(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(&**inner, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// `x` in the type of the weight that it is multiplied with; see [`crate::nn::precision`].
pub(crate) fn like_weight<const D: usize, const W: usize>(
    x: Tensor<D>,
    w: &Tensor<W>,
) -> Tensor<D> {
    match w.dtype() {
        DType::BF16 if x.dtype() == DType::F32 => x.cast(FloatDType::BF16),
        _ => x,
    }
}

/// Whether the kernels that only go forward can take it: [`has_kernels`], and no gradients are kept.
fn has_inference<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// `x · w + bias`.
///
/// # Shapes
/// - `x`: `[.., inputs]`
/// - `w`: `[inputs, outputs]`, in `f32` or [`packed`]
/// - `bias`: `[outputs]`
/// - returns: `[.., outputs]`
pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if !has_kernels(&x) || !(has_kernels(&w) || packed::is_packed(&w) || packed::is_in_bf16(&w)) {
        let x = like_weight(x, &w);
        #[cfg(feature = "tch")]
        if torch::infers(&x) && x.dtype() == w.dtype() {
            return torch::inference::linear(x, w, bias);
        }
        return plain::linear(x, w, bias);
    }
    let [inputs, _] = w.dims();
    assert_eq!(
        x.dims()[D - 1],
        inputs,
        "last dimension of x against rows of w"
    );
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::kernel_linear_bias(x, w, bias.into_dispatch()),
        None => Dispatch::kernel_linear(x, w),
    })
}

/// Scaled dot-product attention, `softmax(q·kᵀ / √dim)·v`.
///
/// With `causal`, query `i` sees the keys `0..=keys − queries + i`: the queries are the last of the
/// keys' positions, as when decoding with a cache.
///
/// # Shapes
/// - `q`: `[batch, heads, queries, dim]`
/// - `k`, `v`: `[batch, heads, keys, dim]`
/// - returns: `[batch, heads, queries, dim]`
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [batch, heads, queries, dim] = q.dims();
    let [_, _, keys, _] = k.dims();
    assert_eq!(k.dims(), [batch, heads, keys, dim], "shape of the keys");
    assert_eq!(v.dims(), k.dims(), "shape of the values");
    assert!(
        !causal || queries <= keys,
        "causal queries are the last of the keys"
    );
    if !(has_kernels(&q) && has_kernels(&k) && has_kernels(&v)) || keys == 0 {
        #[cfg(feature = "tch")]
        if torch::infers(&q) && keys > 0 {
            return torch::inference::attention(q, k, v, causal);
        }
        #[cfg(feature = "tch")]
        if torch::has(&q) && keys > 0 {
            return torch::attention(q, k, v, causal);
        }
        return plain::attention(q, k, v, causal);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::kernel_attention(q, k, v, causal))
}

/// What [`self_attention`] does to queries or keys: normalise each head, then rotate the pairs
/// `(i, i + dim / 2)` by angles that have no gradient.
#[derive(Clone, Debug)]
pub struct QkNormRope {
    /// Weight of the RMS normalisation, `[dim]`.
    pub weight: Tensor<1>,
    /// Cosines, `[batch, length, 1, dim / 2]`.
    pub cos: Tensor<4>,
    /// Sines, likewise.
    pub sin: Tensor<4>,
}

impl QkNormRope {
    /// That of `rows` rows of the batch from `first` on.
    fn narrow_rows(&self, first: usize, rows: usize) -> Self {
        let of = |x: &Tensor<4>| x.clone().narrow(0, first, rows);
        QkNormRope {
            weight: self.weight.clone(),
            cos: of(&self.cos),
            sin: of(&self.sin),
        }
    }
}

/// Causal self-attention from the joint projection of queries, keys and values to the joined heads. With `in_bf16`
/// the CPU's kernels multiply in bf16, where it has units for that; elsewhere the tensors' types say in what is multiplied.
///
/// # Shapes
/// - `qkv`: `[batch, length, 3 · width]`, `width` = `heads · dim`
/// - returns: `[batch, length, width]`
pub fn self_attention(
    qkv: Tensor<3>,
    query: QkNormRope,
    key: QkNormRope,
    heads: usize,
    eps: f64,
    in_bf16: bool,
) -> Tensor<3> {
    let [batch, length, joint] = qkv.dims();
    assert!(
        heads > 0 && joint.is_multiple_of(6 * heads),
        "{joint} columns for {heads} heads"
    );
    let dim = joint / 3 / heads;
    for turn in [&query, &key] {
        assert_eq!(turn.weight.dims(), [dim], "weight of the normalisation");
        assert_eq!(turn.cos.dims(), [batch, length, 1, dim / 2], "cosines");
        assert_eq!(turn.sin.dims(), turn.cos.dims(), "sines");
    }
    let has = |turn: &QkNormRope| {
        has_kernels(&turn.weight) && has_kernels(&turn.cos) && has_kernels(&turn.sin)
    };
    if batch * length == 0 || !(has_kernels(&qkv) && has(&query) && has(&key)) {
        #[cfg(feature = "tch")]
        if torch::has(&qkv) && batch * length > 0 {
            return torch::self_attention(qkv, query, key, heads, eps);
        }
        return plain::self_attention(qkv, query, key, heads, eps);
    }
    Tensor::from_dispatch(Dispatch::kernel_self_attention(
        qkv.into_dispatch(),
        query.weight.into_dispatch(),
        query.cos.into_dispatch(),
        query.sin.into_dispatch(),
        key.weight.into_dispatch(),
        key.cos.into_dispatch(),
        key.sin.into_dispatch(),
        heads,
        eps,
        in_bf16,
    ))
}

/// What a cache holds of some rows of a batch, in the type of what is cached or in bfloat16 ([`packed::cache_type`]).
#[derive(Clone, Debug)]
pub struct Held {
    /// `[rows, heads, dim, capacity]`.
    pub keys: Tensor<4>,
    /// `[rows, heads, capacity, dim]`.
    pub values: Tensor<4>,
    /// Positions that are there.
    pub known: usize,
}

/// Causal self-attention of positions after those that caches hold, from the joint projection to the joined heads; their
/// keys and values are written into the caches, in place where nothing else holds these. The caches are those of
/// consecutive rows; the number of their known positions may differ. Without turns, queries and keys attend as they are.
///
/// # Shapes
/// - `qkv`: `[batch, length, 3 · width]`, `width` = `heads · dim`, `batch` the sum of the caches' rows
/// - returns: `[batch, length, width]`, and the caches
pub fn extend(
    qkv: Tensor<3>,
    turns: Option<(QkNormRope, QkNormRope)>,
    held: Vec<Held>,
    eps: f64,
) -> (Tensor<3>, Vec<Held>) {
    let [batch, length, joint] = qkv.dims();
    let mut entries = 0;
    for one in &held {
        let [rows, heads, dim, capacity] = one.keys.dims();
        let of_values = [rows, heads, capacity, dim];
        assert_eq!(one.values.dims(), of_values, "shape of the values");
        assert_eq!(3 * heads * dim, joint, "cache against qkv");
        assert!(
            one.known + length <= capacity,
            "positions against the cache"
        );
        entries += rows;
    }
    assert_eq!(entries, batch, "rows of the caches against qkv");
    let has = {
        let mut turning = turns
            .iter()
            .flat_map(|(query, key)| [&query.cos, &query.sin, &key.cos, &key.sin]);
        let stored = held.iter().flat_map(|one| [&one.keys, &one.values]);
        has_inference(&qkv) && turning.all(has_inference) && packed::can_attend_to(stored)
    };
    #[cfg(feature = "tch")]
    if batch * length > 0 && torch::infers(&qkv) {
        return torch::inference::extend(qkv, turns, held, eps);
    }
    match batch * length > 0 && has {
        true => inference::extend(qkv, turns, held, eps),
        false => plain::extend(qkv, turns, held, eps),
    }
}

/// Empty room for keys, `[rows, heads, dim, capacity]`, in memory as [`extend`] reads them on the device.
pub(crate) fn room_for_keys(shape: [usize; 4], place: (&Device, DType)) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if torch::is_libtorch(place.0) {
        return torch::inference::room_for_keys(shape, place);
    }
    Tensor::zeros(shape, place)
}

/// Rows of a cache's keys, `[rows, heads, dim, capacity]`, in memory as [`room_for_keys`] made them.
pub(crate) fn select_keys(keys: Tensor<4>, rows: Tensor<1, Int>) -> Tensor<4> {
    match is_cpu(&keys.device()) {
        true => keys.select(0, rows),
        false => keys.swap_dims(2, 3).select(0, rows).swap_dims(2, 3),
    }
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension.
///
/// # Shapes
/// - `x`: `[.., width]`
/// - `weight`: `[width]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_eq!(
        x.dims()[D - 1],
        weight.dims()[0],
        "last dimension of x against the weight"
    );
    if !has_kernels(&x) || !has_kernels(&weight) {
        #[cfg(feature = "tch")]
        if torch::infers(&x) && x.dtype() == weight.dtype() {
            return torch::inference::rms_norm(x, weight, eps);
        }
        #[cfg(feature = "tch")]
        if torch::has(&x) {
            return torch::rms_norm(x, weight, eps);
        }
        return plain::rms_norm(x, weight, eps);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::kernel_rms_norm(x, weight, eps))
}

/// `(x − mean(x)) / √(var(x) + eps) · weight + bias` over the last dimension; the variance is the mean of
/// the squares.
///
/// # Shapes
/// - `x`: `[.., width]`
/// - `weight`, `bias`: `[width]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let width = x.dims()[D - 1];
    assert_eq!(
        (weight.dims(), bias.dims()),
        ([width], [width]),
        "last dimension of x against weight and bias"
    );
    if has_inference(&x) && has_inference(&weight) && has_inference(&bias) {
        let (x, weight, bias) = (
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
        );
        return Tensor::from_dispatch(Dispatch::kernel_layer_norm(x, weight, bias, eps));
    }
    #[cfg(feature = "tch")]
    if torch::infers(&x) && torch::infers(&weight) && torch::infers(&bias) {
        return torch::inference::layer_norm(x, Some(weight), bias, eps);
    }
    // Centred values have the variance for their mean square: the rest is the other normalisation.
    // In f32, as all normalisations; nothing is cast where all is.
    let dtype = x.dtype();
    let [weight, bias] = [weight, bias].map(|x| x.cast(FloatDType::F32));
    let x = x.cast(FloatDType::F32);
    let centred = x.clone() - x.mean_dim(D - 1);
    (rms_norm(centred, weight, eps) + bias.unsqueeze()).cast(dtype)
}

/// [`layer_norm`] with a scale of 1.
pub fn layer_norm_shifted<const D: usize>(x: Tensor<D>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if torch::infers(&x) && torch::infers(&bias) {
        return torch::inference::layer_norm(x, None, bias, eps);
    }
    let weight = Tensor::ones(bias.dims(), &bias.device());
    layer_norm(x, weight, bias, eps)
}

/// `x · Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_kernels(&x) {
        #[cfg(feature = "tch")]
        if torch::infers(&x) {
            return torch::inference::gelu(x);
        }
        return plain::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_gelu(x.into_dispatch()))
}

/// `x · σ(1.702 x)`, the fast approximation of [`gelu`] that OpenAI's CLIP was trained with.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_inference(&x) {
        return plain::quick_gelu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_quick_gelu(x.into_dispatch()))
}

/// The tanh approximation of [`gelu`], `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))` (Hendrycks and Gimpel 2016,
/// arXiv:1606.08415, section 2; `gelu_new` of transformers).
pub fn tanh_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !has_inference(&x) {
        return plain::tanh_gelu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_tanh_gelu(x.into_dispatch()))
}

/// `gelu(a) · b`, with `a` the first half of the last dimension and `b` the second.
///
/// # Shapes
/// - `x`: `[.., 2 · hidden]`
/// - returns: `[.., hidden]`
pub fn gelu_gate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    assert!(
        x.dims()[D - 1].is_multiple_of(2),
        "last dimension has two halves"
    );
    if !has_kernels(&x) {
        #[cfg(feature = "tch")]
        if torch::infers(&x) {
            return torch::inference::gelu_gate(x);
        }
        return plain::gelu_gate(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_gelu_gate(x.into_dispatch()))
}

/// `silu(a) · b`, with `a` the first half of the last dimension and `b` the second.
///
/// # Shapes
/// - `x`: `[.., 2 · hidden]`
/// - returns: `[.., hidden]`
pub fn swiglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    assert!(
        x.dims()[D - 1].is_multiple_of(2),
        "last dimension has two halves"
    );
    if !has_kernels(&x) {
        #[cfg(feature = "tch")]
        if torch::has(&x) {
            return torch::swiglu(x);
        }
        return plain::swiglu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_swiglu(x.into_dispatch()))
}

/// Each row's cross-entropy, `−log softmax(logits)[target]`; weigh and reduce it as you need.
///
/// # Shapes
/// - `logits`: `[rows, vocab]`
/// - `targets`: `[rows]`, each in `0..vocab`
/// - returns: `[rows]`
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    assert_eq!(
        logits.dims()[0],
        targets.dims()[0],
        "rows of logits against targets"
    );
    if !has_kernels(&logits) {
        #[cfg(feature = "tch")]
        if torch::has(&logits) {
            return torch::cross_entropy(logits, targets);
        }
        return plain::cross_entropy(logits, targets);
    }
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(Dispatch::kernel_cross_entropy(logits, targets))
}

/// 2-D convolution (cross-correlation) with zero padding.
///
/// # Shapes
/// - `x`: `[batch, inputs, height, width]`
/// - `w`: `[outputs, inputs, kernel_height, kernel_width]`
/// - `bias`: `[outputs]`
pub fn conv2d(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let ([_, inputs, height, width], [_, w_inputs, kh, kw]) = (x.dims(), w.dims());
    assert_eq!(inputs, w_inputs, "channels of x against those of w");
    assert!(
        height + 2 * padding >= kh && width + 2 * padding >= kw,
        "the kernel fits into x"
    );
    if !has_kernels(&x) || !(has_kernels(&w) || packed::is_in_bf16(&w)) || padding >= kh.min(kw) {
        return plain::conv2d(like_weight(x, &w), w, bias, stride, padding);
    }
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::kernel_conv2d_bias(x, w, bias.into_dispatch(), stride, padding),
        None => Dispatch::kernel_conv2d(x, w, stride, padding),
    })
}

/// 2-D transposed convolution; `padding` is taken off the result's border.
///
/// # Shapes
/// - `x`: `[batch, inputs, height, width]`
/// - `w`: `[inputs, outputs, kernel_height, kernel_width]`
/// - `bias`: `[outputs]`
pub fn conv_transpose2d(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    plain::conv_transpose2d(like_weight(x, &w), w, bias, stride, padding)
}

/// Group normalisation with a weight and bias per channel.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, `channels` a multiple of `groups`
/// - `weight`, `bias`: `[channels]`
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    group_norm_with(x, groups, weight, bias, eps, false)
}

/// [`group_norm`] followed by SiLU.
pub fn group_norm_silu(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    group_norm_with(x, groups, weight, bias, eps, true)
}

fn group_norm_with(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    silu: bool,
) -> Tensor<4> {
    check_groups(&x, groups, &weight, &bias);
    if !has_kernels(&x) || !has_kernels(&weight) {
        #[cfg(feature = "tch")]
        if torch::has(&x) {
            return torch::group_norm(x, groups, weight, bias, eps, silu);
        }
        let plain = if silu {
            plain::group_norm_silu
        } else {
            plain::group_norm
        };
        return plain(x, groups, weight, bias, eps);
    }
    let (x, weight, bias) = (
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    Tensor::from_dispatch(Dispatch::kernel_group_norm(
        x, weight, bias, groups, eps, silu,
    ))
}

/// One step of AdamW: the parameter and its moments, moved; in place where nothing else holds them.
/// Tensors without gradients (see [`Tensor::inner`]).
///
/// # Shapes
/// - all alike
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
    adam: &AdamW,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let tensors = [&param, &gradient, &first, &second];
    assert!(
        tensors.iter().all(|x| x.dims() == param.dims()),
        "tensors of one shape"
    );
    if !tensors.into_iter().all(has_kernels) {
        return plain::adamw(param, gradient, first, second, adam);
    }
    let (param, first, second) = Dispatch::kernel_adamw(
        param.into_dispatch(),
        gradient.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        *adam,
    );
    (
        Tensor::from_dispatch(param),
        Tensor::from_dispatch(first),
        Tensor::from_dispatch(second),
    )
}

fn check_groups(x: &Tensor<4>, groups: usize, weight: &Tensor<1>, bias: &Tensor<1>) {
    let [_, channels, _, _] = x.dims();
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "{channels} channels in {groups} groups"
    );
    assert_eq!(
        (weight.dims(), bias.dims()),
        ([channels], [channels]),
        "a weight and bias per channel"
    );
}

/// Leaky ReLU with a slope for each channel (He et al. 2015, arXiv:1502.01852); in place where nothing else holds `x`.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - `slopes`: `[channels]`
pub fn prelu(x: Tensor<4>, slopes: Tensor<1>) -> Tensor<4> {
    let [_, channels, height, width] = x.dims();
    assert_eq!(slopes.dims(), [channels], "a slope per channel");
    if !has_inference(&x) || !has_inference(&slopes) || channels * height * width == 0 {
        return plain::prelu(x, slopes);
    }
    Tensor::from_dispatch(Dispatch::kernel_prelu(
        x.into_dispatch(),
        slopes.into_dispatch(),
    ))
}

/// Nearest-neighbour doubling of height and width.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - returns: `[batch, channels, 2 · height, 2 · width]`
pub fn upsample2(x: Tensor<4>) -> Tensor<4> {
    if !has_inference(&x) || x.dims().contains(&0) {
        return plain::upsample2(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_upsample2(x.into_dispatch()))
}

#[cfg(test)]
mod tests;
