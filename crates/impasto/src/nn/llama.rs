//! The block of LLaMA (Touvron et al. 2023, arXiv:2302.13971; `LlamaDecoderLayer` of transformers): pre-RMSNorm,
//! rotary positions in one dimension, SwiGLU, no biases.
//!
//! Deviation, which changes no number beyond rounding: queries, keys and values are one product, so are both halves of
//! the SwiGLU.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use super::{Adaptable, CacheRows, Init, Linear, RmsNorm, extend_groups, ops};

/// The rotations of the places of a sequence.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[batch, seq, 1, head_width / 2]` each.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

/// The frequencies of a head's pairs.
#[derive(Clone, Debug)]
pub struct Frequencies {
    inverse: Vec<f32>,
}

impl Frequencies {
    /// `base^(−2i / head_width)`, in f32 as the reference has them.
    pub fn new(head_width: usize, base: f64) -> Self {
        let half = head_width / 2;
        let exponent = |pair: usize| (2 * pair) as f64 / head_width as f64;
        let inverse = (0..half).map(|pair| base.powf(-exponent(pair)) as f32);
        Frequencies {
            inverse: inverse.collect(),
        }
    }

    /// The rotations of `positions`, `[batch, seq]` row after row.
    pub fn rotation(&self, positions: &[u32], batch: usize, device: &Device) -> Rotation {
        let seq = positions.len() / batch.max(1);
        let angles = || {
            positions.iter().flat_map(|&position| {
                let of = move |frequency: &f32| f64::from(frequency * position as f32);
                self.inverse.iter().map(of)
            })
        };
        let tensor = |values: Vec<f32>| {
            let shape = [batch, seq, 1, self.inverse.len()];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Rotation {
            cos: tensor(angles().map(|angle| angle.cos() as f32).collect()),
            sin: tensor(angles().map(|angle| angle.sin() as f32).collect()),
        }
    }
}

impl Rotation {
    /// Rotates the pairs (i, i + head_width / 2) of queries and keys; values stay as they are.
    ///
    /// # Shapes
    /// - `qkv`: `[batch, seq, 3 · width]`
    fn apply(&self, qkv: Tensor<3>, n_heads: usize) -> Tensor<3> {
        let [batch, seq, joint] = qkv.dims();
        let width = joint / 3;
        let half = width / n_heads / 2;
        let heads =
            qkv.clone()
                .narrow(2, 0, 2 * width)
                .reshape([batch, seq, 2 * n_heads, 2 * half]);
        let first = heads.clone().narrow(3, 0, half);
        let second = heads.narrow(3, half, half);
        let dtype = first.dtype();
        let (cos, sin) = match self.cos.dtype() == dtype {
            true => (self.cos.clone(), self.sin.clone()),
            false => (self.cos.clone().cast(dtype), self.sin.clone().cast(dtype)),
        };
        let left = first.clone() * cos.clone() - second.clone() * sin.clone();
        let right = second * cos + first * sin;
        let rotated = Tensor::cat(vec![left, right], 3).reshape([batch, seq, 2 * width]);
        Tensor::cat(vec![rotated, qkv.narrow(2, 2 * width, width)], 2)
    }
}

/// One layer.
#[derive(Module, Debug)]
pub struct LlamaBlock {
    attention_norm: RmsNorm,
    qkv: Linear,
    attention_out: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
    #[module(skip)]
    n_heads: usize,
    #[module(skip)]
    epsilon: f64,
}

impl LlamaBlock {
    /// A block of `n_heads` heads over `width`, with `hidden` units in its SwiGLU; `epsilon` is that of its norms.
    pub fn new(init: &mut Init, width: usize, n_heads: usize, hidden: usize, epsilon: f64) -> Self {
        let std = 0.02;
        LlamaBlock {
            attention_norm: RmsNorm::new(init, width),
            qkv: Linear::new(init, width, 3 * width, std),
            attention_out: Linear::new(init, width, width, std),
            mlp_norm: RmsNorm::new(init, width),
            gate_up: Linear::new(init, width, 2 * hidden, std),
            down: Linear::new(init, hidden, width, std),
            n_heads,
            epsilon,
        }
    }

    /// The linear layers and what their columns make.
    pub(crate) fn linears(&mut self) -> [Adaptable<'_>; 4] {
        [
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut self.qkv,
            ),
            Adaptable::whole("attention.out", &mut self.attention_out),
            Adaptable::new(&["feed_forward.gate", "feed_forward.up"], &mut self.gate_up),
            Adaptable::whole("feed_forward.down", &mut self.down),
        ]
    }

    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    /// - `groups`: the rows' caches; none for a pass over whole sequences
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        groups: &mut [CacheRows<'_>],
    ) -> Tensor<3> {
        let qkv = self.qkv.forward(self.normal(&self.attention_norm, &x));
        let qkv = rotation.apply(qkv, self.n_heads);
        let seen = match groups {
            [] => self.attend(qkv),
            groups => extend_groups(groups, qkv, None, self.n_heads),
        };
        let x = x + self.attention_out.forward(seen);
        let inner = self.gate_up.forward(self.normal(&self.mlp_norm, &x));
        x + self.down.forward(ops::swiglu(inner))
    }

    fn normal(&self, norm: &RmsNorm, x: &Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x.clone(), norm.weight.val(), self.epsilon)
    }

    fn attend(&self, qkv: Tensor<3>) -> Tensor<3> {
        let [batch, seq, joint] = qkv.dims();
        let width = joint / 3;
        let part = |i: usize| {
            qkv.clone()
                .narrow(2, i * width, width)
                .reshape([batch, seq, self.n_heads, width / self.n_heads])
                .swap_dims(1, 2)
        };
        ops::attention(part(0), part(1), part(2), true)
            .swap_dims(1, 2)
            .reshape([batch, seq, width])
    }
}
