//! LibTorch's own functions, on its tensors. Meaning and shapes: see [`crate::nn::ops`].

use tch::{Kind, Reduction};

use super::Torch;

/// The heads where LibTorch's kernels can read them: they load 16 bytes at once, and not all of them check that
/// every row starts at a multiple of that.
fn aligned(x: &Torch) -> Torch {
    let bytes = if x.kind() == Kind::Float { 4 } else { 2 };
    let strides = x.stride();
    let (last, others) = (strides[3], &strides[..3]);
    let is_aligned = last == 1
        && others.iter().all(|stride| stride * bytes % 16 == 0)
        && (x.data_ptr() as usize).is_multiple_of(16);
    if is_aligned {
        x.shallow_clone()
    } else {
        x.contiguous()
    }
}

pub fn attention(q: &Torch, k: &Torch, v: &Torch, causal: bool) -> Torch {
    let (q, k, v) = (&aligned(q), &aligned(k), &aligned(v));
    let (queries, keys) = (q.size()[2], k.size()[2]);
    // LibTorch aligns a causal mask with the first key; ours with the last.
    let mask = (causal && queries > 1 && queries != keys)
        .then(|| Torch::ones([queries, keys], (Kind::Bool, q.device())).tril(keys - queries));
    let square = causal && queries == keys;
    Torch::scaled_dot_product_attention(q, k, v, mask, 0.0, square, None, false)
}

/// `[batch, length, heads, dim]`, normalised and rotated, as `[batch, heads, length, dim]`.
pub fn rotated(x: &Torch, weight: &Torch, cos: &Torch, sin: &Torch, eps: f64) -> Torch {
    let x = rms_norm(x, weight, eps);
    let (cos, sin) = (cos.to_kind(x.kind()), sin.to_kind(x.kind()));
    // (a, b) → (a·cos − b·sin, a·sin + b·cos): the halves exchanged, times signed sines.
    let cos = Torch::cat(&[&cos, &cos], -1);
    let sin = Torch::cat(&[&-&sin, &sin], -1);
    let half = x.size()[3] / 2;
    let exchanged = x.roll([half], [-1]);
    (&x * &cos).addcmul(&exchanged, &sin).transpose(1, 2)
}

pub fn self_attention(
    qkv: &Torch,
    query: [&Torch; 3],
    key: [&Torch; 3],
    heads: i64,
    eps: f64,
) -> Torch {
    let size = qkv.size();
    let (batch, length, width) = (size[0], size[1], size[2] / 3);
    let parts = qkv.view([batch, length, 3, heads, width / heads]);
    let q = rotated(&parts.select(2, 0), query[0], query[1], query[2], eps);
    let k = rotated(&parts.select(2, 1), key[0], key[1], key[2], eps);
    let v = parts.select(2, 2).transpose(1, 2);
    attention(&q, &k, &v, true)
        .transpose(1, 2)
        .reshape([batch, length, width])
}

pub fn rms_norm(x: &Torch, weight: &Torch, eps: f64) -> Torch {
    let weight = weight.to_kind(x.kind());
    x.rms_norm(weight.size(), Some(&weight), eps)
}

pub fn swiglu(x: &Torch) -> Torch {
    let halves = x.chunk(2, -1);
    halves[0].silu() * &halves[1]
}

pub fn cross_entropy(logits: &Torch, targets: &Torch) -> Torch {
    logits
        .log_softmax(-1, Kind::Float)
        .g_nll_loss(targets, None::<&Torch>, Reduction::None, -100)
}

pub fn group_norm(
    x: &Torch,
    weight: &Torch,
    bias: &Torch,
    groups: i64,
    eps: f64,
    silu: bool,
) -> Torch {
    let (weight, bias) = (weight.to_kind(x.kind()), bias.to_kind(x.kind()));
    let y = x.group_norm(groups, Some(&weight), Some(&bias), eps, false);
    if silu { y.silu() } else { y }
}
