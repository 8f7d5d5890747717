//! The block of LLaMA (Touvron et al. 2023, arXiv:2302.13971; `LlamaDecoderLayer` of transformers): pre-RMSNorm,
//! rotary positions in one dimension or, as LlamaGen has them, in two; SwiGLU, no biases.
//!
//! Deviation, which changes no number beyond rounding: queries, keys and values are one product, so are both halves of
//! the SwiGLU.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Adaptable, CacheRows, Init, Linear, RmsNorm, extend_groups, heads, ops};

/// The rotations of the places of a sequence.
pub use super::ops::Turns as Rotation;

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
        let turns = positions.iter().flat_map(|&position| self.turns(position));
        Rotation::new(turns, [batch, self.inverse.len()], device)
    }

    /// Cosine and sine of each pair at a position.
    fn turns(&self, position: u32) -> impl Iterator<Item = [f32; 2]> + '_ {
        self.inverse.iter().map(move |frequency| {
            let angle = f64::from(frequency * position as f32);
            [angle.cos() as f32, angle.sin() as f32]
        })
    }
}

/// The frequencies of a head's pairs over a grid (`precompute_freqs_cis_2d` of LlamaGen): the first half of the pairs
/// turns with the row, the second with the column.
#[derive(Clone, Debug)]
pub struct GridFrequencies {
    axis: Frequencies,
    grid: usize,
}

impl GridFrequencies {
    /// Of a `grid` × `grid` image; `head_width` is a multiple of 4.
    pub fn new(grid: usize, head_width: usize, base: f64) -> Self {
        GridFrequencies {
            axis: Frequencies::new(head_width / 2, base),
            grid,
        }
    }

    /// The rotations of cells, `[batch, seq]` row after row. Where there is no cell, queries and keys vanish: the tables
    /// of LlamaGen are zero there.
    pub fn rotation(&self, cells: &[Option<u32>], batch: usize, device: &Device) -> Rotation {
        let per_axis = self.axis.inverse.len();
        let grid = self.grid as u32;
        let mut turns = Vec::with_capacity(cells.len() * 2 * per_axis);
        for cell in cells {
            match *cell {
                Some(cell) => {
                    turns.extend(self.axis.turns(cell / grid));
                    turns.extend(self.axis.turns(cell % grid));
                }
                None => turns.extend(std::iter::repeat_n([0.0; 2], 2 * per_axis)),
            }
        }
        Rotation::new(turns.into_iter(), [batch, 2 * per_axis], device)
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
        let qkv = ops::rotate_heads(qkv, rotation, self.n_heads);
        let seen = match groups {
            [] => self.attend(qkv),
            groups => extend_groups(groups, qkv, &self.qkv, None, self.n_heads),
        };
        let x = x + self.attention_out.forward(seen);
        let inner = self.gate_up.forward(self.normal(&self.mlp_norm, &x));
        x + self.down.forward(ops::swiglu(inner))
    }

    fn normal(&self, norm: &RmsNorm, x: &Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x.clone(), norm.weight.val(), self.epsilon)
    }

    fn attend(&self, qkv: Tensor<3>) -> Tensor<3> {
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        heads::join(ops::attention(q, k, v, true))
    }
}
