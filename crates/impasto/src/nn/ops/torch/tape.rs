//! What a backward pass needs of its forward pass: a kernel's inputs, or a recorded graph of LibTorch's.

use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, LibTorch, libtorch::TchTensor};
use impasto_torch::Rotation;
use tch::Kind;

use super::{Torch, forward};

/// What a backward pass needs of its forward pass.
#[derive(Debug)]
pub(super) enum Tape {
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
pub(super) mod fused {
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
pub(super) fn differentiable<C: CheckpointStrategy, const N: usize>(
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
