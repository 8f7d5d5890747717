//! The transformer block of our own `Dalle`: pre-RMSNorm, normalised queries and keys, SwiGLU, no biases.
//!
//! Sources: pre-normalisation and RMSNorm as in LLaMA (arXiv:2302.13971), QK-norm as in ViT-22B
//! (arXiv:2302.05442), SwiGLU (arXiv:2002.05202).

use burn::module::Module;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation};

use super::norm::EPSILON;
use super::recorded::{self, Recorded};
use super::rope::Rotation;
use super::{Adaptable, Init, Linear, RmsNorm, ops};

/// Keys and values of one layer, allocated once for the longest sequence, in the type of what is cached or, from
/// [`extend_groups`] with packed weights, in bfloat16.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// `[batch, heads, head_width, capacity]`; taken out while it is written, so that it is never copied.
    keys: Option<Tensor<4>>,
    /// `[batch, heads, capacity, head_width]`.
    values: Option<Tensor<4>>,
    length: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        KvCache {
            keys: None,
            values: None,
            length: 0,
            capacity,
        }
    }

    /// One empty cache for each layer of a net, with room for `capacity` tokens.
    pub fn of_layers(n_layers: usize, capacity: usize) -> Vec<Self> {
        (0..n_layers).map(|_| KvCache::new(capacity)).collect()
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes back the last tokens.
    pub fn rewind(&mut self, tokens: usize) {
        assert!(
            tokens <= self.length,
            "cache of {} tokens asked to take back {tokens}",
            self.length
        );
        self.length -= tokens;
    }

    /// The rows of the batch at `rows`, in that order and as often as they are named.
    pub fn select_rows(&mut self, rows: &[usize]) {
        let batch = self.keys.as_ref().map_or(0, |keys| keys.dims()[0]);
        if rows.iter().copied().eq(0..batch) {
            return;
        }
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let indices = |all: &Tensor<4>| {
            let rows = TensorData::new(rows.clone(), [rows.len()]);
            Tensor::<1, Int>::from_data(rows, &all.device())
        };
        self.keys = self.keys.take().map(|all| {
            let indices = indices(&all);
            ops::select_keys(all, indices)
        });
        self.values = self.values.take().map(|all| {
            let indices = indices(&all);
            all.select(0, indices)
        });
    }

    /// Appends `[batch, heads, n, head_width]` and returns all keys and values so far, for attention of
    /// another kind than [`KvCache::extend`]'s.
    pub(crate) fn append(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, n, head_width] = keys.dims();
        let end = self.length + n;
        assert!(
            end <= self.capacity,
            "cache of {} tokens asked to hold {end}",
            self.capacity
        );
        let places = self.length..end;
        let place = (&keys.device(), keys.dtype());
        let (all_keys, all_values) = self.take(batch, heads, head_width, place);
        let area = [0..batch, 0..heads, 0..head_width, places.clone()];
        let all_keys = all_keys.slice_assign(area, keys.swap_dims(2, 3));
        let area = [0..batch, 0..heads, places, 0..head_width];
        let all_values = all_values.slice_assign(area, values);
        let known = (
            all_keys.clone().narrow(3, 0, end).swap_dims(2, 3),
            all_values.clone().narrow(2, 0, end),
        );
        (self.keys, self.values) = (Some(all_keys), Some(all_values));
        self.length = end;
        known
    }

    /// Keys and values to be written to, room for which is made the first time.
    fn take(
        &mut self,
        batch: usize,
        heads: usize,
        head_width: usize,
        place: (&Device, DType),
    ) -> (Tensor<4>, Tensor<4>) {
        let (keys, values) = (self.keys.take(), self.values.take());
        let keys = keys.unwrap_or_else(|| {
            ops::room_for_keys([batch, heads, head_width, self.capacity], place)
        });
        let values = values
            .unwrap_or_else(|| Tensor::zeros([batch, heads, self.capacity, head_width], place));
        (keys, values)
    }

    /// Puts back what was taken and written to.
    fn put(&mut self, held: ops::Held) {
        (self.keys, self.values) = (Some(held.keys), Some(held.values));
        self.length = held.known;
    }

    /// What it holds, followed by `keys` and `values`, leaving the cache as it is.
    fn peek(&self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let (Some(known_keys), Some(known_values)) = (&self.keys, &self.values) else {
            return (keys, values);
        };
        let type_of_new = keys.dtype();
        let known_keys = known_keys.clone().narrow(3, 0, self.length).swap_dims(2, 3);
        let known_values = known_values.clone().narrow(2, 0, self.length);
        (
            Tensor::cat(vec![known_keys.cast(type_of_new), keys], 2),
            Tensor::cat(vec![known_values.cast(type_of_new), values], 2),
        )
    }
}

/// Consecutive rows of a batch and their cache. Rows of one cache have the same number of tokens in it; those of
/// different caches need not.
#[derive(Debug)]
pub struct CacheRows<'a> {
    /// Keys and values of these rows.
    pub cache: &'a mut KvCache,
    /// How many rows.
    pub rows: usize,
}

impl<'a> CacheRows<'a> {
    /// Those of a layer, of groups that have one cache for each layer, and how many rows each has.
    pub fn of_layer<'g: 'a>(
        groups: &'a mut [(&'g mut [KvCache], usize)],
        layer: usize,
    ) -> Vec<Self> {
        let groups = groups.iter_mut();
        groups
            .map(|(caches, rows)| CacheRows {
                cache: &mut caches[layer],
                rows: *rows,
            })
            .collect()
    }
}

/// Causal self-attention of new tokens, which join their rows' caches; see [`ops::extend`]. What a row sees does not depend
/// on the others.
///
/// # Shapes
/// - `qkv`: `[batch, n, 3 · width]`, `batch` the sum of the groups' rows; what `projection` made
/// - returns: `[batch, n, width]`
pub fn extend_groups(
    groups: &mut [CacheRows<'_>],
    qkv: Tensor<3>,
    projection: &Linear,
    turns: Option<(ops::QkNormRope, ops::QkNormRope)>,
    n_heads: usize,
) -> Tensor<3> {
    let [_, n, joint] = qkv.dims();
    let stored = ops::packed::cache_type(&projection.weight.val(), qkv.dtype());
    let place = (&qkv.device(), stored);
    let held = groups.iter_mut().map(|CacheRows { cache, rows }| {
        let (known, capacity) = (cache.length, cache.capacity);
        assert!(
            known + n <= capacity,
            "cache of {capacity} tokens asked to hold {}",
            known + n
        );
        let (keys, values) = cache.take(*rows, n_heads, joint / 3 / n_heads, place);
        ops::Held {
            keys,
            values,
            known,
        }
    });
    let held = held.collect();
    let (seen, held) = ops::extend(qkv, turns, held, EPSILON);
    for (group, held) in groups.iter_mut().zip(held) {
        group.cache.put(held);
    }
    seen
}

/// Which tokens a token attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All before it, and itself; the new tokens join the cache.
    Causal,
    /// The cache, and itself, but none of the other new tokens; the cache stays as it is. Several positions
    /// are predicted from one context in one pass (σ-GPT, arXiv:2404.09562, section 4).
    QueryOnly,
}

/// One layer.
#[derive(Module, Debug)]
pub struct Block {
    attention_norm: RmsNorm,
    qkv: Linear,
    query_norm: RmsNorm,
    key_norm: RmsNorm,
    attention_out: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
    #[module(skip)]
    n_heads: usize,
}

impl Block {
    /// A block of `n_heads` heads over `width`, with `hidden` units in its SwiGLU; `residual_std` is the
    /// standard deviation of the two projections that write into the residual stream.
    pub fn new(
        init: &mut Init,
        width: usize,
        n_heads: usize,
        hidden: usize,
        residual_std: f64,
    ) -> Self {
        assert!(
            width.is_multiple_of(n_heads),
            "width {width} is not a multiple of {n_heads} heads"
        );
        let std = 0.02;
        let head_width = width / n_heads;
        Block {
            attention_norm: RmsNorm::new(init, width),
            qkv: Linear::new(init, width, 3 * width, std),
            query_norm: RmsNorm::new(init, head_width),
            key_norm: RmsNorm::new(init, head_width),
            attention_out: Linear::new(init, width, width, residual_std),
            mlp_norm: RmsNorm::new(init, width),
            gate_up: Linear::new(init, width, 2 * hidden, std),
            down: Linear::new(init, hidden, width, residual_std),
            n_heads,
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

    /// `x` in the type that the block computes in; see [`super::precision`].
    pub fn like_weights<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if ops::is_cpu(&x.device()) {
            return x;
        }
        ops::like_weight(x, &self.qkv.weight.val())
    }

    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    /// - `own`, `target`: the rotations of the tokens' own places (keys) and of the target ones (queries)
    /// - `groups`: the rows' caches; none for a pass over whole sequences
    pub fn forward(
        &self,
        x: Tensor<3>,
        own: &Rotation,
        target: &Rotation,
        groups: &mut [CacheRows<'_>],
        mask: AttentionMask,
    ) -> Tensor<3> {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let turns = || (target.turn(&self.query_norm), own.turn(&self.key_norm));
        let seen = match (groups, mask) {
            ([], AttentionMask::Causal) => {
                let (query, key) = turns();
                let in_bf16 = ops::packed::is_in_bf16(&self.qkv.weight.val());
                ops::self_attention(qkv, query, key, self.n_heads, EPSILON, in_bf16)
            }
            (groups, AttentionMask::Causal) => {
                extend_groups(groups, qkv, &self.qkv, Some(turns()), self.n_heads)
            }
            (groups, AttentionMask::QueryOnly) => {
                assert!(groups.len() <= 1, "queries have one cache");
                let cache = groups.first().map(|group| &*group.cache);
                self.ask(qkv, own, target, cache)
            }
        };
        let x = x + self.attention_out.forward(seen);
        let inner = ops::swiglu(self.gate_up.forward(self.mlp_norm.forward(x.clone())));
        x + self.down.forward(inner)
    }

    /// [`Self::forward`] of one causal pass over a whole sequence, with the attention's weights, and with `gradient` the
    /// leaf whose gradient is theirs.
    pub(crate) fn forward_with_attention(
        &self,
        x: Tensor<3>,
        own: &Rotation,
        target: &Rotation,
        gradient: bool,
    ) -> (Tensor<3>, Recorded) {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let (query, key, value) = self.heads(qkv, own, target);
        let [batch, _, seq, head_width] = query.dims();
        let (seen, recorded) = recorded::attention(query, key, value, true, gradient);
        let seen = seen
            .swap_dims(1, 2)
            .reshape([batch, seq, self.n_heads * head_width]);
        let x = x + self.attention_out.forward(seen);
        let inner = ops::swiglu(self.gate_up.forward(self.mlp_norm.forward(x.clone())));
        (x + self.down.forward(inner), recorded)
    }

    /// Queries, keys and values, normalised and rotated, `[batch, heads, seq, head_width]` each.
    fn heads(
        &self,
        qkv: Tensor<3>,
        own: &Rotation,
        target: &Rotation,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let [batch, seq, joint] = qkv.dims();
        let qkv = qkv.reshape([batch, seq, 3 * self.n_heads, joint / 3 / self.n_heads]);
        let part = |i: usize| qkv.clone().narrow(2, i * self.n_heads, self.n_heads);
        let query = target.apply(self.query_norm.forward(part(0)));
        let key = own.apply(self.key_norm.forward(part(1)));
        (
            query.swap_dims(1, 2),
            key.swap_dims(1, 2),
            part(2).swap_dims(1, 2),
        )
    }

    /// The joined heads of questions.
    fn ask(
        &self,
        qkv: Tensor<3>,
        own: &Rotation,
        target: &Rotation,
        cache: Option<&KvCache>,
    ) -> Tensor<3> {
        let [batch, seq, joint] = qkv.dims();
        let width = joint / 3;
        let (query, key, value) = self.heads(qkv, own, target);
        let known = cache.map_or(0, KvCache::len);
        let (keys, values) = match cache {
            Some(cache) => cache.peek(key, value),
            None => (key, value),
        };
        let seen = attend_questions(query, keys, values, known);
        seen.swap_dims(1, 2).reshape([batch, seq, width])
    }
}

/// Each query sees the `known` first keys and its own.
fn attend_questions(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    known: usize,
) -> Tensor<4> {
    let [_, _, n, head_width] = query.dims();
    let [_, _, total, _] = keys.dims();
    let device = query.device();
    let hidden: Vec<bool> = (0..n)
        .flat_map(|i| (0..total).map(move |j| j >= known && j != known + i))
        .collect();
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, n, total]), &device);
    let scores = query
        .matmul(keys.swap_dims(2, 3))
        .div_scalar((head_width as f32).sqrt());
    let scores_shape = scores.dims();
    let probs = activation::softmax(
        scores.mask_fill(hidden.expand(scores_shape), f32::NEG_INFINITY),
        3,
    );
    probs.matmul(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::nn::ops::packed::{self, Memory, WeightFormat};
    use burn::module::Param;

    /// Values in −1 to 1, `[rows, n, 3 · width]`.
    fn numbers(shape: [usize; 3], seed: u32) -> Tensor<3> {
        let mut state = seed;
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn projection(width: usize, format: WeightFormat) -> Linear {
        let mut linear = Linear::new(&mut Init::new(1, &Device::flex()), width, 3 * width, 0.02);
        if !format.is_f32() {
            let shape = [width, 3 * width];
            let values: Vec<f32> = linear.weight.val().into_data().try_to_vec().unwrap();
            let bytes = packed::pack(&values, shape, format).unwrap();
            linear.weight = Param::from_tensor(packed::weight(Memory::Lent(&bytes), shape, format));
        }
        linear
    }

    fn extended(cache: &mut KvCache, rows: usize, qkv: Tensor<3>, of: &Linear) -> Tensor<3> {
        extend_groups(&mut [CacheRows { cache, rows }], qkv, of, None, 2)
    }

    /// What packed weights made is cached in bfloat16, near what `f32` holds, with the same bits in steps, in one pass,
    /// and for rows that were chosen.
    #[test]
    fn what_packed_weights_made_is_cached_in_half_the_memory() {
        let (rows, n, width, capacity) = (2, 9, 32, 12);
        let qkv = numbers([rows, n, 3 * width], 5);
        let run = |format: WeightFormat, parts: &[usize]| {
            let (of, mut cache) = (projection(width, format), KvCache::new(capacity));
            let mut seen = Vec::new();
            for &part in parts {
                let qkv = qkv.clone().narrow(1, cache.len(), part);
                seen.push(extended(&mut cache, rows, qkv, &of));
            }
            (Tensor::cat(seen, 1), cache, of)
        };
        let values = |x: &Tensor<3>| -> Vec<f32> { x.to_data().try_to_vec().unwrap() };
        let exact = values(&run(WeightFormat::F32, &[n]).0);
        for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int4] {
            let (whole, mut cache, of) = run(format, &[n]);
            let held = cache.keys.as_ref().unwrap();
            assert_eq!(held.dtype(), DType::BF16, "{format}");
            assert_eq!(cache.values.as_ref().unwrap().dtype(), DType::BF16);
            let (stepped, ..) = run(format, &[4, 1, 1, 3]);
            assert_eq!(values(&whole), values(&stepped), "{format}");
            for (x, exact) in values(&whole).iter().zip(&exact) {
                assert!((x - exact).abs() < 1e-2, "{format}: {x} for {exact}");
            }

            let next = numbers([rows, 1, 3 * width], 6);
            let mut chosen = cache.clone();
            let after = extended(&mut cache, rows, next.clone(), &of);
            chosen.select_rows(&[1, 1, 0]);
            let row = |x: &Tensor<3>, row: usize| x.clone().narrow(0, row, 1);
            let of_chosen = [1, 1, 0].map(|number| row(&next, number));
            let of_chosen = Tensor::cat(of_chosen.to_vec(), 0);
            let after_chosen = extended(&mut chosen, 3, of_chosen, &of);
            for (place, number) in [1, 1, 0].into_iter().enumerate() {
                assert_eq!(
                    values(&row(&after_chosen, place)),
                    values(&row(&after, number))
                );
            }

            // Taken back, it is as before.
            cache.rewind(1);
            let again = extended(&mut cache, rows, next, &of);
            assert_eq!(values(&again), values(&after), "{format}");
        }
    }

    /// Questions see what is held in bfloat16 as the numbers that these are.
    #[test]
    fn questions_read_a_cache_in_bf16() {
        let (rows, n, width) = (1, 5, 32);
        let of = projection(width, WeightFormat::Int8);
        let mut cache = KvCache::new(8);
        extended(&mut cache, rows, numbers([rows, n, 3 * width], 7), &of);
        let new = numbers([rows, 2, width], 8)
            .reshape([rows, 2, 2, 16])
            .swap_dims(1, 2);
        let (keys, values) = cache.peek(new.clone(), new.clone());
        assert_eq!(
            (keys.dtype(), keys.dims()),
            (DType::F32, [rows, 2, n + 2, 16])
        );
        assert_eq!(values.dtype(), DType::F32);
        let held = cache.keys.clone().unwrap().narrow(3, 0, n).swap_dims(2, 3);
        let held: Vec<f32> = held.cast(DType::F32).into_data().try_to_vec().unwrap();
        let seen = keys.clone().narrow(2, 0, n).into_data();
        assert_eq!(seen.try_to_vec::<f32>().unwrap(), held);
        let last: Vec<f32> = keys.narrow(2, n, 2).into_data().try_to_vec().unwrap();
        assert_eq!(last, new.into_data().try_to_vec::<f32>().unwrap());
    }
}
