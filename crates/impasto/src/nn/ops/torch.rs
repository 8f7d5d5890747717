//! The operations as LibTorch has them, fused where it fuses them: flash attention, normalisations in one pass,
//! log-softmax that reads bf16 and writes f32.
//!
//! Burn's LibTorch backend has no gradients of its own; its autodiff decorator composes backward passes from
//! elementary operations, which keep every intermediate result and never reach the fused backward passes. Here
//! each operation records a small LibTorch graph from its inputs to its output and plays it back in the backward
//! pass; in bf16 on CUDA the kernels of `impasto_torch` do what LibTorch has no fused operation for.

#![allow(deprecated)] // Burn marks this backend as deprecated; it has the fastest products on NVIDIA GPUs.

use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, Backend, Dispatch, DispatchDevice, LibTorch, backend_extension, libtorch::TchTensor,
};
use burn::prelude::*;
use impasto_torch::Rotation;
use tch::{Kind, Reduction};

use super::QkNormRope;

type Torch = tch::Tensor;

/// The operations of this file; meaning and shapes: see [`super`].
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

/// LibTorch's own functions, on its tensors.
mod forward {
    use super::{Kind, Reduction, Torch};

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
    fn rotated(x: &Torch, weight: &Torch, cos: &Torch, sin: &Torch, eps: f64) -> Torch {
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
        logits.log_softmax(-1, Kind::Float).g_nll_loss(
            targets,
            None::<&Torch>,
            Reduction::None,
            -100,
        )
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

/// What a backward pass needs of its forward pass.
#[derive(Debug)]
enum Tape {
    /// A graph of LibTorch's from inputs to an output, to be played back once.
    Graph {
        /// The differentiable inputs, as the graph's leaves.
        leaves: Vec<Torch>,
        output: Torch,
    },
    /// [`impasto_torch::rms_norm`].
    RmsNorm {
        x: Torch,
        weight: Torch,
        scale: Torch,
    },
    /// [`impasto_torch::swiglu`].
    Swiglu { x: Torch },
    /// [`impasto_torch::rotated_heads`], then attention as a graph from queries, keys and values.
    SelfAttention {
        qkv: Torch,
        query: [Torch; 3],
        key: [Torch; 3],
        heads: i64,
        eps: f64,
        leaves: [Torch; 3],
        output: Torch,
    },
}

impl Tape {
    /// The gradients of the differentiable inputs; of those alone that are `wanted`, where that is less work.
    fn gradients(self, gradient: &Torch, wanted: &[bool]) -> Vec<Option<Torch>> {
        // The gradient of Σ output · gradient with respect to the output is the gradient.
        let play = |output: &Torch, gradient: &Torch, leaves: &[&Torch]| {
            let sum = (output * gradient).sum(Kind::Float);
            Torch::run_backward(&[sum], leaves, false, false)
        };
        match self {
            Tape::Graph { leaves, output } => {
                let chosen: Vec<&Torch> = leaves
                    .iter()
                    .zip(wanted)
                    .filter_map(|(leaf, &wanted)| wanted.then_some(leaf))
                    .collect();
                let mut found = play(&output, gradient, &chosen).into_iter();
                wanted
                    .iter()
                    .map(|&wanted| wanted.then(|| found.next()).flatten())
                    .collect()
            }
            Tape::RmsNorm { x, weight, scale } => {
                match impasto_torch::rms_norm_backward(gradient, &x, &weight, &scale) {
                    Some((dx, dw)) => vec![Some(dx), Some(dw)],
                    None => panic!("the backward pass of a fused normalisation was refused"),
                }
            }
            Tape::Swiglu { x } => match impasto_torch::swiglu_backward(gradient, &x) {
                Some(dx) => vec![Some(dx)],
                None => panic!("the backward pass of a fused SwiGLU was refused"),
            },
            Tape::SelfAttention {
                qkv,
                query,
                key,
                heads,
                eps,
                leaves: [q, k, v],
                output,
            } => {
                let gradient = gradient.to_kind(output.kind());
                let found = play(&output, &gradient, &[&q, &k, &v]);
                let gradients = [&found[0], &found[1], &found[2]];
                let (query, key) = (rotation(&query), rotation(&key));
                match impasto_torch::rotated_heads_backward(gradients, &qkv, heads, query, key, eps)
                {
                    Some((dqkv, dq, dk)) => vec![Some(dqkv), Some(dq), Some(dk)],
                    None => panic!("the backward pass of fused rotations was refused"),
                }
            }
        }
    }
}

fn rotation([weight, cos, sin]: &[Torch; 3]) -> Rotation<'_> {
    Rotation { weight, cos, sin }
}

/// A fused forward pass: its output and what its backward pass needs. None where there is no such kernel.
mod fused {
    use super::{Kind, Tape, Torch, forward, rotation};

    pub fn rms_norm(x: &Torch, weight: &Torch, eps: f64) -> Option<(Tape, Torch)> {
        let (y, scale) = impasto_torch::rms_norm(x, weight, eps)?;
        let (x, weight) = (x.detach(), weight.detach());
        Some((Tape::RmsNorm { x, weight, scale }, y))
    }

    pub fn swiglu(x: &Torch) -> Option<(Tape, Torch)> {
        let y = impasto_torch::swiglu(x)?;
        Some((Tape::Swiglu { x: x.detach() }, y))
    }

    pub fn self_attention(
        qkv: &Torch,
        query: [&Torch; 3],
        key: [&Torch; 3],
        heads: i64,
        eps: f64,
    ) -> Option<(Tape, Torch)> {
        let query = query.map(|x| x.to_kind(Kind::Float).detach());
        let key = key.map(|x| x.to_kind(Kind::Float).detach());
        let (q, k) =
            impasto_torch::rotated_heads(qkv, heads, rotation(&query), rotation(&key), eps)?;
        let size = qkv.size();
        let shape = [size[0], size[1], 3, heads, impasto_torch::HEAD];
        let v = qkv.detach().view(shape).select(2, 2);
        let leaves = [q, k, v].map(|leaf| leaf.set_requires_grad(true));
        let output = tch::with_grad(|| {
            let [q, k, v] = leaves.each_ref().map(|leaf| leaf.transpose(1, 2));
            let seen = forward::attention(&q, &k, &v, true);
            let shape = [size[0], size[1], size[2] / 3];
            seen.transpose(1, 2).reshape(shape)
        });
        let result = output.detach();
        let tape = Tape::SelfAttention {
            qkv: qkv.detach(),
            query,
            key,
            heads,
            eps,
            leaves,
            output,
        };
        Some((tape, result))
    }
}

/// A [`Tape`], to be used once, and the inputs and the output as Burn holds them: as long as they are shared, Burn
/// changes none of them in place.
#[derive(Clone, Debug)]
struct Recorded {
    tape: Arc<Mutex<Option<Tape>>>,
    _shared: Vec<TchTensor>,
}

/// The backward pass of a recorded operation of `N` differentiable inputs.
#[derive(Debug)]
struct Replay;

impl<const N: usize> Backward<LibTorch, N> for Replay {
    type State = Recorded;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<LibTorch>(&ops.node);
        let tape = match ops.state.tape.lock() {
            Ok(mut tape) => tape.take(),
            Err(_) => None,
        };
        let Some(tape) = tape else {
            panic!("a recorded operation is differentiated a second time")
        };
        let wanted = ops.parents.each_ref().map(Option::is_some);
        if !wanted.contains(&true) {
            return;
        }
        let found = tape.gradients(&gradient.tensor, &wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<LibTorch>(parent.id, TchTensor::new(gradient));
            }
        }
    }
}

/// An operation with gradients: by a kernel of its own where there is one, else recorded.
fn differentiable<C: CheckpointStrategy, const N: usize>(
    inputs: [&FloatTensor<Autodiff<LibTorch, C>>; N],
    fused: impl FnOnce([&Torch; N]) -> Option<(Tape, Torch)>,
    forward: impl FnOnce([&Torch; N]) -> Torch,
) -> FloatTensor<Autodiff<LibTorch, C>> {
    let prepared = Replay
        .prepare::<C>(inputs.map(|input| input.node()))
        .compute_bound()
        .stateful();
    let primitives = inputs.map(|input| input.primitive());
    let (tape, output) = match fused(primitives.map(|x| &x.tensor)) {
        Some(done) => done,
        None => {
            let leaves = primitives.map(|x| x.tensor.detach().set_requires_grad(true));
            let output = tch::with_grad(|| forward(leaves.each_ref()));
            let result = output.detach();
            let leaves = leaves.into();
            (Tape::Graph { leaves, output }, result)
        }
    };
    let output = TchTensor::new(output);
    match prepared {
        OpsKind::Tracked(prepared) => {
            let mut shared: Vec<TchTensor> = primitives.iter().map(|&x| x.clone()).collect();
            shared.push(output.clone());
            let recorded = Recorded {
                tape: Arc::new(Mutex::new(Some(tape))),
                _shared: shared,
            };
            prepared.finish(recorded, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(output),
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
