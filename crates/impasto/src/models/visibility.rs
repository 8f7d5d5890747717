//! Attention of tokens that see some of those before them.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::nn::ops;

/// Which keys each of some queries sees. The queries are the last tokens of the sequence.
#[derive(Clone, Debug)]
pub(super) enum Visibility {
    /// All before it, for each.
    Causal,
    /// Of one query: the keys that it sees, `[seen]`.
    Places(Tensor<1, Int>),
    /// What is added to the scores: 0 of keys that are seen, −∞ of others, `[1, 1, queries, keys]`.
    Hidden(Tensor<4>),
}

impl Visibility {
    /// Of `queries` tokens, the last of which is token `total − 1`; `sees(from, to)` is asked for `to ≤ from` alone.
    pub fn new(
        [queries, total]: [usize; 2],
        device: &Device,
        sees: impl Fn(usize, usize) -> bool,
    ) -> Self {
        if queries == 1 {
            let seen = (0..total).filter(|&to| sees(total - 1, to));
            let seen: Vec<i32> = seen.map(|place| place as i32).collect();
            let seen = TensorData::new(seen.clone(), [seen.len()]);
            return Visibility::Places(Tensor::from_data(seen, device));
        }
        let mut hidden = Vec::with_capacity(queries * total);
        for from in total - queries..total {
            hidden.extend((0..total).map(|to| match to <= from && sees(from, to) {
                true => 0.0,
                false => f32::MIN,
            }));
        }
        let hidden = TensorData::new(hidden, [1, 1, queries, total]);
        Visibility::Hidden(Tensor::from_data(hidden, device))
    }

    /// # Shapes
    /// - `query`: `[batch, heads, queries, head_width]`
    /// - `keys`, `values`: `[batch, heads, keys, head_width]`
    /// - returns: `[batch, heads, queries, head_width]`
    pub fn attention(&self, query: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
        match self {
            Visibility::Causal => ops::attention(query, keys, values, true),
            // What is seen, side by side.
            Visibility::Places(places) => {
                let of = |all: Tensor<4>| all.select(2, places.clone());
                ops::attention(query, of(keys), of(values), false)
            }
            Visibility::Hidden(hidden) => {
                let [_, _, _, head_width] = query.dims();
                let scores = query.matmul(keys.swap_dims(2, 3));
                let scores = scores.div_scalar((head_width as f32).sqrt()) + hidden.clone();
                activation::softmax(scores, 3).matmul(values)
            }
        }
    }
}
