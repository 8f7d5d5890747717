//! Fused CUDA kernels for LibTorch's tensors: what LibTorch computes in many passes over memory (the rotary
//! positions of normalised heads, SwiGLU, and the gradients of both) in one each.
//!
//! The kernels ([`kernels.cu`](https://docs.nvidia.com/cuda/nvrtc/)) are compiled by NVRTC when they are first needed,
//! for the GPU that is there. They are launched on the legacy default stream of the device's primary context,
//! which is the one that LibTorch works on unless another is set: they run in order with its operations.
//!
//! Each function returns none where it does not apply (another device or type, sizes that the kernels don't have,
//! no NVRTC): the caller then composes LibTorch's own operations.

#![cfg(feature = "libtorch")]

mod attention;
mod context;
mod module;

pub use attention::{attention, extend, rotate_heads};
pub use context::{allow_tf32, without_cudnn_attention};
use module::{Argument, Kernels, Module};
use tch::{Device, Kind, Tensor};

/// Width of the heads that [`rotated_heads`] takes.
pub const HEAD: i64 = 64;

/// Widths of rows that [`rms_norm`] takes: multiples of this, up to [`MAX_WIDTH`].
const WIDTH_STEP: i64 = 64;
/// A lane of a warp keeps its share of a row in registers.
const MAX_WIDTH: i64 = 2048;

const THREADS: u32 = 128;
const WARPS: i64 = 4;
/// Blocks that fill the largest of today's GPUs several times over; each loops over what is left.
const MAX_BLOCKS: i64 = 132 * 16;

fn is_ready(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cuda(0)
        && tensor.kind() == Kind::BFloat16
        && tensor.is_contiguous()
        && tensor.numel() > 0
        // Pairs are read at once.
        && (tensor.data_ptr() as usize).is_multiple_of(4)
}

/// A small operand, as the kernels read it.
fn floats(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float).contiguous()
}

fn blocks(items: i64, of_block: i64) -> u32 {
    ((items + of_block - 1) / of_block).clamp(1, MAX_BLOCKS) as u32
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension, and the scales `1 / √(mean(x²) + eps)`.
///
/// # Shapes
/// - `x`: `[.., width]` in bf16; `weight`: `[width]`
/// - returns: `[.., width]` in bf16, `[rows]` in f32
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Option<(Tensor, Tensor)> {
    let (width, module) = width_module(x, weight)?;
    let rows = x.numel() as i64 / width;
    let (weight, y) = (floats(weight), x.empty_like());
    let scale = Tensor::empty([rows], (Kind::Float, x.device()));
    module.launch(
        "rms_norm_forward",
        [blocks(rows, WARPS), 1],
        &[
            Argument::of(x),
            Argument::of(&weight),
            Argument::of(&y),
            Argument::of(&scale),
            Argument::Long(rows),
            Argument::Float(eps as f32),
        ],
    )?;
    Some((y, scale))
}

/// The gradients of [`rms_norm`] with respect to `x` and `weight`.
pub fn rms_norm_backward(
    gradient: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    scale: &Tensor,
) -> Option<(Tensor, Tensor)> {
    let (width, module) = width_module(x, weight)?;
    let gradient = gradient.to_kind(Kind::BFloat16).contiguous();
    let rows = x.numel() as i64 / width;
    let fits = gradient.size() == x.size()
        && is_ready(&gradient)
        && scale.size() == [rows]
        && scale.kind() == Kind::Float
        && scale.device() == x.device();
    if !fits {
        return None;
    }
    let (weight, dx) = (floats(weight), x.empty_like());
    let dw = Tensor::zeros([width], (Kind::Float, x.device()));
    module.launch(
        "rms_norm_backward",
        [blocks(rows, WARPS * 4), 1],
        &[
            Argument::of(&gradient),
            Argument::of(x),
            Argument::of(&weight),
            Argument::of(scale),
            Argument::of(&dx),
            Argument::of(&dw),
            Argument::Long(rows),
        ],
    )?;
    Some((dx, dw))
}

fn width_module(x: &Tensor, weight: &Tensor) -> Option<(i64, &'static Module)> {
    let width = *x.size().last()?;
    let fits = is_ready(x)
        && weight.size() == [width]
        && weight.device() == x.device()
        && width % WIDTH_STEP == 0
        && width <= MAX_WIDTH;
    if !fits {
        return None;
    }
    Some((width, Module::get(Kernels::Block { width })?))
}

/// How queries or keys are normalised and rotated.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Of the normalisation, `[64]`.
    pub weight: &'a Tensor,
    /// Cosines, `[.., 32]`, one row a token.
    pub cos: &'a Tensor,
    /// Sines, likewise.
    pub sin: &'a Tensor,
}

impl Rotation<'_> {
    fn fits(&self, tokens: i64, device: Device) -> bool {
        let of_rotation = (tokens * HEAD / 2) as usize;
        self.weight.numel() as i64 == HEAD
            && self.cos.numel() == of_rotation
            && self.sin.numel() == of_rotation
            && [self.weight, self.cos, self.sin]
                .iter()
                .all(|tensor| tensor.device() == device)
    }
}

fn tokens(qkv: &Tensor, heads: i64, query: Rotation, key: Rotation) -> Option<i64> {
    let width = 3 * heads * HEAD;
    if heads < 1 || !is_ready(qkv) || *qkv.size().last()? != width {
        return None;
    }
    let tokens = qkv.numel() as i64 / width;
    let fit = query.fits(tokens, qkv.device()) && key.fits(tokens, qkv.device());
    fit.then_some(tokens)
}

/// Queries and keys of a joint projection, each head RMS-normalised, then its pairs `(i, i + 32)` rotated.
///
/// # Shapes
/// - `qkv`: `[batch, length, 3 · heads · 64]` in bf16
/// - returns: `[batch, length, heads, 64]` in bf16 each
pub fn rotated_heads(
    qkv: &Tensor,
    heads: i64,
    query: Rotation,
    key: Rotation,
    eps: f64,
) -> Option<(Tensor, Tensor)> {
    let tokens = tokens(qkv, heads, query, key)?;
    let module = Module::get(Kernels::Block { width: WIDTH_STEP })?;
    let size = qkv.size();
    let out = || {
        Tensor::empty(
            [size[0], size[1], heads, HEAD],
            (Kind::BFloat16, qkv.device()),
        )
    };
    let (q, k) = (out(), out());
    let small = [
        query.weight,
        key.weight,
        query.cos,
        query.sin,
        key.cos,
        key.sin,
    ]
    .map(floats);
    let mut arguments = vec![Argument::of(qkv)];
    arguments.extend(small.iter().map(Argument::of));
    arguments.extend([
        Argument::of(&q),
        Argument::of(&k),
        Argument::Long(tokens),
        Argument::Int(heads as i32),
        Argument::Float(eps as f32),
    ]);
    let grid = [blocks(tokens * heads, WARPS), 2];
    module.launch("rotated_heads_forward", grid, &arguments)?;
    Some((q, k))
}

/// The gradients of [`rotated_heads`]: with respect to `qkv`, whose values' part gets `values_gradient`, and with
/// respect to both weights.
///
/// # Shapes
/// - `gradients`: of queries, keys and values, `[batch, length, heads, 64]` each
/// - returns: like `qkv`; `[64]` in f32 each
pub fn rotated_heads_backward(
    gradients: [&Tensor; 3],
    qkv: &Tensor,
    heads: i64,
    query: Rotation,
    key: Rotation,
    eps: f64,
) -> Option<(Tensor, Tensor, Tensor)> {
    let tokens = tokens(qkv, heads, query, key)?;
    let module = Module::get(Kernels::Block { width: WIDTH_STEP })?;
    let size = qkv.size();
    let [dq, dk, dv] = gradients.map(|gradient| gradient.to_kind(Kind::BFloat16).contiguous());
    let shape = [size[0], size[1], heads, HEAD];
    if [&dq, &dk, &dv]
        .iter()
        .any(|gradient| !is_ready(gradient) || gradient.size() != shape)
    {
        return None;
    }
    let dqkv = qkv.empty_like();
    let dw = Tensor::zeros([2, HEAD], (Kind::Float, qkv.device()));
    let small = [
        query.weight,
        key.weight,
        query.cos,
        query.sin,
        key.cos,
        key.sin,
    ]
    .map(floats);
    let mut arguments = vec![Argument::of(&dq), Argument::of(&dk), Argument::of(qkv)];
    arguments.extend(small.iter().map(Argument::of));
    arguments.extend([
        Argument::of(&dqkv),
        Argument::of(&dw),
        Argument::Long(tokens),
        Argument::Int(heads as i32),
        Argument::Float(eps as f32),
    ]);
    let grid = [blocks(tokens * heads, WARPS * 8), 2];
    module.launch("rotated_heads_backward", grid, &arguments)?;
    dqkv.view([size[0], size[1], 3, heads, HEAD])
        .select(2, 2)
        .copy_(&dv);
    Some((dqkv, dw.get(0), dw.get(1)))
}

/// `silu(a) · b`, with `a` the first half of the last dimension and `b` the second.
///
/// # Shapes
/// - `x`: `[.., 2 · hidden]` in bf16, `hidden` even
/// - returns: `[.., hidden]` in bf16
pub fn swiglu(x: &Tensor) -> Option<Tensor> {
    let (rows, hidden) = halves(x)?;
    let module = Module::get(Kernels::Block { width: WIDTH_STEP })?;
    let mut size = x.size();
    *size.last_mut()? = hidden;
    let y = Tensor::empty(&size, (Kind::BFloat16, x.device()));
    module.launch(
        "swiglu_forward",
        [blocks(rows * hidden / 2, i64::from(THREADS)), 1],
        &[
            Argument::of(x),
            Argument::of(&y),
            Argument::Long(rows),
            Argument::Int((hidden / 2) as i32),
        ],
    )?;
    Some(y)
}

/// The gradient of [`swiglu`].
pub fn swiglu_backward(gradient: &Tensor, x: &Tensor) -> Option<Tensor> {
    let (rows, hidden) = halves(x)?;
    let module = Module::get(Kernels::Block { width: WIDTH_STEP })?;
    let gradient = gradient.to_kind(Kind::BFloat16).contiguous();
    if !is_ready(&gradient) || gradient.numel() as i64 != rows * hidden {
        return None;
    }
    let dx = x.empty_like();
    module.launch(
        "swiglu_backward",
        [blocks(rows * hidden / 2, i64::from(THREADS)), 1],
        &[
            Argument::of(&gradient),
            Argument::of(x),
            Argument::of(&dx),
            Argument::Long(rows),
            Argument::Int((hidden / 2) as i32),
        ],
    )?;
    Some(dx)
}

/// Rows, and half of each.
fn halves(x: &Tensor) -> Option<(i64, i64)> {
    let width = *x.size().last()?;
    let fits = is_ready(x) && width % 4 == 0;
    fits.then(|| (x.numel() as i64 / width, width / 2))
}
