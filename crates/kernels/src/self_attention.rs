//! Causal self-attention as our transformers do it, from the joint projection to the joined heads:
//! queries and keys are normalised head by head ([`crate::rms_norm`]) and turned by their rotary
//! positions (Su et al. 2021, pairs `(i, i + dim / 2)`), then attend. One pass writes the rotated queries
//! and keys, one the whole gradient of the projection; values are read and written in place.

use crate::attention::{self, Heads, Part, Shape, Target};
use crate::bf16::Unit;
use crate::shared::{SharedPtr, for_rows, fresh, rows_mut, with_scratch};
use crate::stored::Stored;
use crate::vector::{dot, dot3, multiply_add, vectorised};

/// What is done to queries or keys.
#[derive(Clone, Copy, Debug)]
pub struct QkNormRope<'a> {
    /// Weight of the normalisation, `[dim]`.
    pub weight: &'a [f32],
    /// Cosines, `[batch, length, dim / 2]`.
    pub cos: &'a [f32],
    /// Sines, likewise.
    pub sin: &'a [f32],
}

/// The sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Entries of the batch.
    pub batch: usize,
    /// Positions.
    pub length: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head, even.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// What multiplies in bfloat16, see [`Shape::unit`].
    pub unit: Option<Unit>,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.dim
    }

    fn check(&self, qkv: &[f32], turns: [&QkNormRope; 2]) {
        let positions = self.batch * self.length;
        assert!(
            self.dim > 0 && self.dim.is_multiple_of(2),
            "an even width of the heads"
        );
        assert_eq!(
            qkv.len(),
            positions * 3 * self.width(),
            "projection [batch, length, 3 · width]"
        );
        for turn in turns {
            assert_eq!(turn.weight.len(), self.dim, "weight of the normalisation");
            assert_eq!(turn.cos.len(), positions * self.dim / 2, "cosines");
            assert_eq!(turn.sin.len(), turn.cos.len(), "sines");
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            batch: self.batch,
            heads: self.heads,
            queries: self.length,
            keys: self.length,
            dim: self.dim,
            causal: true,
            scale: 1.0 / (self.dim as f32).sqrt(),
            unit: self.unit,
        }
    }

    fn heads<'a>(&self, data: &'a [f32], row_stride: usize) -> Heads<'a> {
        let batch_stride = self.length * row_stride;
        Heads {
            data,
            batch_stride,
            head_stride: self.dim,
            row_stride,
            dim_stride: 1,
        }
    }
}

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Turned queries, `[batch, length, heads, dim]`.
    pub queries: Vec<f32>,
    /// Turned keys, likewise.
    pub keys: Vec<f32>,
    /// Logs of the sums of exponentials, `[batch, heads, length]`.
    pub normalisers: Vec<f32>,
}

/// The joined heads, `[batch, length, width]`. A position of `qkv` holds queries, keys and values, each
/// head after head.
pub fn forward(
    qkv: &[f32],
    query: &QkNormRope,
    key: &QkNormRope,
    sizes: &Sizes,
) -> (Vec<f32>, Saved) {
    sizes.check(qkv, [query, key]);
    let width = sizes.width();
    let queries = turn(qkv, query, sizes);
    let keys = turn(&qkv[width.min(qkv.len())..], key, sizes);
    let (out, normalisers) = attention::forward(
        sizes.heads(&queries, width),
        sizes.heads(&keys, width),
        sizes.heads(&qkv[(2 * width).min(qkv.len())..], 3 * width),
        sizes.shape(),
    );
    (
        out,
        Saved {
            queries,
            keys,
            normalisers,
        },
    )
}

/// Keys and values of earlier positions of some entries of a batch, in `f32` or bfloat16.
#[derive(Debug)]
pub struct Cache<'a, E = f32> {
    /// How many entries.
    pub batch: usize,
    /// Keys, `[batch, heads, dim, capacity]`: as the scores of one more query read them.
    pub keys: &'a mut [E],
    /// Values, `[batch, heads, capacity, dim]`.
    pub values: &'a mut [E],
    /// Positions that there is room for.
    pub capacity: usize,
    /// Positions that are there.
    pub known: usize,
}

/// [`forward`] of positions after those that caches hold: their keys and values join them. The caches are those of
/// consecutive entries of the batch, which need not have the same number of positions in front. Without turns, queries and
/// keys attend as they are. Gives the joined heads.
pub fn extend<E: Stored>(
    qkv: &[f32],
    turns: Option<(&QkNormRope, &QkNormRope)>,
    caches: &mut [Cache<E>],
    sizes: &Sizes,
) -> Vec<f32> {
    let width = sizes.width();
    let positions = sizes.batch * sizes.length;
    match turns {
        Some((query, key)) => sizes.check(qkv, [query, key]),
        None => assert_eq!(qkv.len(), positions * 3 * width, "projection"),
    }
    let entries: usize = caches.iter().map(|cache| cache.batch).sum();
    assert_eq!(entries, sizes.batch, "entries of the caches");
    for cache in &*caches {
        assert!(
            cache.known + sizes.length <= cache.capacity,
            "positions against the cache's room"
        );
        let room = cache.batch * cache.capacity * width;
        assert_eq!(cache.keys.len(), room, "keys of the cache");
        assert_eq!(cache.values.len(), room, "values of the cache");
    }
    if positions == 0 {
        return Vec::new();
    }
    let turned = append(qkv, turns, caches, sizes);
    let queries = match turns {
        Some(_) => sizes.heads(&turned, width),
        None => sizes.heads(qkv, 3 * width),
    };
    let parts = caches.iter().map(|cache| {
        let capacity = cache.capacity;
        let view = |data, row_stride, dim_stride| Heads {
            data,
            batch_stride: sizes.heads * capacity * sizes.dim,
            head_stride: capacity * sizes.dim,
            row_stride,
            dim_stride,
        };
        Part {
            keys: view(&*cache.keys, 1, capacity),
            values: view(&*cache.values, sizes.dim, 1),
            shape: Shape {
                batch: cache.batch,
                keys: cache.known,
                ..sizes.shape()
            },
        }
    });
    attention::forward_parts(queries, &parts.collect::<Vec<_>>()).0
}

/// Positions whose keys are written together: a cache line of each component, or half of one.
const BLOCK: usize = 16;

/// Writes keys and values of the new positions into the caches; gives the turned queries, if they are turned.
fn append<E: Stored>(
    qkv: &[f32],
    turns: Option<(&QkNormRope, &QkNormRope)>,
    caches: &mut [Cache<E>],
    sizes: &Sizes,
) -> Vec<f32> {
    /// A cache that tasks write to.
    struct Room<E> {
        /// The entry after its last one.
        end: usize,
        batch: usize,
        keys: SharedPtr<E>,
        values: SharedPtr<E>,
        capacity: usize,
        known: usize,
    }
    let &Sizes {
        length, heads, dim, ..
    } = sizes;
    let (width, half, positions) = (sizes.width(), dim / 2, sizes.batch * length);
    let mut end = 0;
    let rooms: Vec<Room<E>> = caches
        .iter_mut()
        .map(|cache| {
            end += cache.batch;
            cache.known += length;
            Room {
                end,
                batch: cache.batch,
                keys: SharedPtr::new(cache.keys.as_mut_ptr()),
                values: SharedPtr::new(cache.values.as_mut_ptr()),
                capacity: cache.capacity,
                known: cache.known - length,
            }
        })
        .collect();
    let mut queries = fresh(if turns.is_some() {
        positions * width
    } else {
        0
    });
    let shared = SharedPtr::new(queries.as_mut_ptr());
    let turned = |x: &[f32], y: &mut [f32], turn: &QkNormRope, position: usize| {
        let cos = &turn.cos[position * half..][..half];
        let sin = &turn.sin[position * half..][..half];
        turn_position(y, x, turn.weight, cos, sin, sizes.eps);
    };
    let blocks = length.div_ceil(BLOCK);
    let block = |index: usize, scratch: &mut [f32]| {
        let (entry, first) = (index / blocks, index % blocks * BLOCK);
        let count = BLOCK.min(length - first);
        let position = entry * length + first;
        let room = &rooms[rooms.partition_point(|room| room.end <= entry)];
        let entry = entry + room.batch - room.end;
        let place = room.known + first;
        let x = &qkv[position * 3 * width..][..count * 3 * width];
        // Keys with this much from a position to the next one.
        let mut keys = (&x[width..], 3 * width);
        if let Some((of_query, of_key)) = turns {
            for (i, (x, key)) in x
                .chunks_exact(3 * width)
                .zip(scratch.chunks_exact_mut(width))
                .enumerate()
            {
                // SAFETY: each task has positions of its own.
                let y = unsafe { rows_mut(shared, position + i, 1, width) };
                turned(&x[..width], y, of_query, position + i);
                turned(&x[width..2 * width], key, of_key, position + i);
            }
            keys = (&*scratch, width);
        }
        for head in 0..heads {
            let start = (entry * heads + head) * dim * room.capacity;
            for i in 0..dim {
                let numbers = keys.0[head * dim + i..].iter().step_by(keys.1);
                // SAFETY: the places are within the cache, see `extend`, and no other task has these positions.
                unsafe {
                    let column = room.keys.get().add(start + i * room.capacity + place);
                    for (at, &key) in numbers.take(count).enumerate() {
                        *column.add(at) = E::nearest(key);
                    }
                }
            }
            for (at, x) in x.chunks_exact(3 * width).enumerate() {
                let value = &x[2 * width + head * dim..][..dim];
                // SAFETY: as above.
                unsafe {
                    let row = room.values.get().add(start + (place + at) * dim);
                    for (i, &value) in value.iter().enumerate() {
                        *row.add(i) = E::nearest(value);
                    }
                }
            }
        }
    };
    // A key's numbers lie far from each other: as slow as this many beside each other.
    const SPREAD: usize = 8;
    let work = SPREAD * width * BLOCK.min(length);
    for_rows(sizes.batch * blocks, work, |first, count| {
        with_scratch(BLOCK * width, |scratch| {
            (first..first + count).for_each(|index| block(index, scratch));
        });
    });
    queries
}

/// Normalises and turns every head of positions that are `3 · width` apart.
fn turn(x: &[f32], turn: &QkNormRope, sizes: &Sizes) -> Vec<f32> {
    let (width, half) = (sizes.width(), sizes.dim / 2);
    let positions = sizes.batch * sizes.length;
    let mut y = fresh(positions * width);
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(positions, width, |first, rows| {
        // SAFETY: each task has positions of its own.
        let y = unsafe { rows_mut(shared, first, rows, width) };
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let position = first + row;
            let x = &x[position * 3 * width..][..width];
            let cos = &turn.cos[position * half..][..half];
            let sin = &turn.sin[position * half..][..half];
            turn_position(y, x, turn.weight, cos, sin, sizes.eps);
        }
    });
    y
}

vectorised! {
    fn turn_position(y: &mut [f32], x: &[f32], weight: &[f32], cos: &[f32], sin: &[f32], eps: f32) {
        let (dim, half) = (weight.len(), weight.len() / 2);
        let (w1, w2) = weight.split_at(half);
        for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
            let scale = 1.0 / (dot::<FUSED>(x, x) / dim as f32 + eps).sqrt();
            let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
            let outputs = y1.iter_mut().zip(y2);
            let inputs = x1.iter().zip(x2).zip(w1).zip(w2).zip(cos).zip(sin);
            for ((y1, y2), (((((x1, x2), w1), w2), c), s)) in outputs.zip(inputs) {
                let (a, b) = (x1 * scale * w1, x2 * scale * w2);
                // Not fused, so that the steps one by one, as in decoding, give the same bits.
                *y1 = a * c - b * s;
                *y2 = a * s + b * c;
            }
        }
    }
}

/// The gradients of `qkv`, of the queries' weight and of the keys' weight.
pub fn backward(
    dout: &[f32],
    qkv: &[f32],
    (query, key): (&QkNormRope, &QkNormRope),
    (out, saved): (&[f32], &Saved),
    sizes: &Sizes,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    sizes.check(qkv, [query, key]);
    let width = sizes.width();
    let positions = sizes.batch * sizes.length;
    assert!(
        positions > 0 && dout.len() == positions * width,
        "gradient of the output"
    );
    let mut dqkv = fresh(qkv.len());
    let (mut dq, mut dk) = (fresh(positions * width), fresh(positions * width));
    let targets = [
        Target::new(&mut dq, width),
        Target::new(&mut dk, width),
        Target::new(&mut dqkv[2 * width..], 3 * width),
    ];
    let inputs = (
        sizes.heads(&saved.queries, width),
        sizes.heads(&saved.keys, width),
        sizes.heads(&qkv[2 * width..], 3 * width),
    );
    let known = (out, &saved.normalisers[..]);
    attention::backward_into(
        targets,
        sizes.heads(dout, width),
        inputs,
        known,
        sizes.shape(),
    );
    let dwq = turn_back(&mut dqkv, &dq, qkv, query, sizes);
    let dwk = turn_back(&mut dqkv[width..], &dk, &qkv[width..], key, sizes);
    (dqkv, dwq, dwk)
}

/// Positions whose weight gradients are summed before the partial sums are.
const POSITIONS: usize = 32;

/// Writes the gradients of what was turned; returns the weight's.
fn turn_back(dx: &mut [f32], dy: &[f32], x: &[f32], turn: &QkNormRope, sizes: &Sizes) -> Vec<f32> {
    let (width, dim, half) = (sizes.width(), sizes.dim, sizes.dim / 2);
    let positions = sizes.batch * sizes.length;
    assert!(
        dx.len() >= (positions - 1) * 3 * width + width,
        "gradient of the projection"
    );
    let blocks = positions.div_ceil(POSITIONS);
    let mut partial = vec![0.0; blocks * dim];
    let (dx, sums) = (
        SharedPtr::new(dx.as_mut_ptr()),
        SharedPtr::new(partial.as_mut_ptr()),
    );
    for_rows(blocks, POSITIONS * width, |first, blocks| {
        for block in first..first + blocks {
            // SAFETY: each task has blocks of its own.
            let dw = unsafe { rows_mut(sums, block, 1, dim) };
            for position in block * POSITIONS..positions.min((block + 1) * POSITIONS) {
                // SAFETY: each task has positions of its own; they lie within the slice, see above.
                let dx = unsafe { rows_mut(dx, 3 * position, 1, width) };
                turn_position_back(
                    dx,
                    dw,
                    &dy[position * width..][..width],
                    &x[position * 3 * width..][..width],
                    turn.weight,
                    &turn.cos[position * half..][..half],
                    &turn.sin[position * half..][..half],
                    sizes.eps,
                );
            }
        }
    });
    let mut dw = vec![0.0; dim];
    for partial in partial.chunks_exact(dim) {
        dw.iter_mut().zip(partial).for_each(|(sum, x)| *sum += x);
    }
    dw
}

vectorised! {
    fn turn_position_back(
        dx: &mut [f32],
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        weight: &[f32],
        cos: &[f32],
        sin: &[f32],
        eps: f32,
    ) {
        let (dim, half) = (weight.len(), weight.len() / 2);
        let heads = dx.chunks_exact_mut(dim).zip(dy.chunks_exact(dim)).zip(x.chunks_exact(dim));
        for ((dx, dy), x) in heads {
            // First the gradient of the normalised head.
            let ((g1, g2), (y1, y2)) = (dx.split_at_mut(half), dy.split_at(half));
            for ((((g1, g2), y1), y2), (c, s)) in
                g1.iter_mut().zip(g2).zip(y1).zip(y2).zip(cos.iter().zip(sin))
            {
                *g1 = multiply_add::<FUSED>(*y1, *c, y2 * s);
                *g2 = multiply_add::<FUSED>(*y2, *c, -(y1 * s));
            }
            let scale = 1.0 / (dot::<FUSED>(x, x) / dim as f32 + eps).sqrt();
            let along = dot3::<FUSED>(dx, weight, x);
            let pull = along * scale * scale * scale / dim as f32;
            for (((g, dw), x), w) in dx.iter_mut().zip(dw.iter_mut()).zip(x).zip(weight) {
                *dw = multiply_add::<FUSED>(*g * x, scale, *dw);
                *g = multiply_add::<FUSED>(*g * w, scale, -(x * pull));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16::{nearest, widened};
    use crate::gemm::tests::numbers;
    use crate::rms_norm;

    /// `[positions, heads, dim]` turned by hand; `sign` −1 turns back.
    fn rotate(
        x: &[f32],
        cos: &[f32],
        sin: &[f32],
        heads: usize,
        dim: usize,
        sign: f32,
    ) -> Vec<f32> {
        let half = dim / 2;
        let mut y = x.to_vec();
        for (row, y) in y.chunks_mut(dim).enumerate() {
            let at = row / heads * half;
            for i in 0..half {
                let (c, s) = (cos[at + i], sign * sin[at + i]);
                let (a, b) = (x[row * dim + i], x[row * dim + half + i]);
                y[i] = a * c - b * s;
                y[half + i] = a * s + b * c;
            }
        }
        y
    }

    fn part(qkv: &[f32], which: usize, width: usize) -> Vec<f32> {
        qkv.chunks(3 * width)
            .flat_map(|x| x[which * width..][..width].to_vec())
            .collect()
    }

    #[test]
    fn positions_one_by_one_equal_all_at_once() {
        one_by_one::<f32>(f32::NAN);
        one_by_one::<u16>(nearest(f32::NAN));
    }

    /// Room that was never written to holds `empty`.
    fn one_by_one<E: Stored>(empty: E) {
        let (batch, length, heads, dim, capacity) = (2, 21, 3, 8, 24);
        let (width, eps) = (heads * dim, 1e-5);
        let qkv = numbers(batch * length * 3 * width, 1);
        let weights = [numbers(dim, 3), numbers(dim, 4)];
        let cos = numbers(batch * length * dim / 2, 5);
        let sin = numbers(batch * length * dim / 2, 6);
        let part = |all: &[f32], each: usize, first: usize, count: usize| -> Vec<f32> {
            all.chunks(length * each)
                .flat_map(|entry| entry[first * each..][..count * each].to_vec())
                .collect()
        };
        let sizes = |length| Sizes {
            batch,
            length,
            heads,
            dim,
            eps,
            unit: None,
        };
        for turned in [true, false] {
            let run = |first: usize, count: usize, cache: &mut Cache<E>| {
                let (cos, sin) = (
                    part(&cos, dim / 2, first, count),
                    part(&sin, dim / 2, first, count),
                );
                let turns = weights.each_ref().map(|weight| QkNormRope {
                    weight,
                    cos: &cos,
                    sin: &sin,
                });
                let turns = turned.then_some((&turns[0], &turns[1]));
                let qkv = part(&qkv, 3 * width, first, count);
                cache.known = first;
                extend(&qkv, turns, std::slice::from_mut(cache), &sizes(count))
            };
            let room = || vec![empty; batch * capacity * width];
            let (mut keys, mut values) = (room(), room());
            let mut cache = Cache {
                batch,
                keys: &mut keys,
                values: &mut values,
                capacity,
                known: 0,
            };
            let all = run(0, length, &mut cache);
            let mut first = 0;
            for count in [5, 1, 1, 14] {
                let some = run(first, count, &mut cache);
                assert_eq!(some, part(&all, width, first, count), "from {first}");
                first += count;
            }
            if turned {
                let turns = weights.each_ref().map(|weight| QkNormRope {
                    weight,
                    cos: &cos,
                    sin: &sin,
                });
                let (whole, _) = forward(&qkv, &turns[0], &turns[1], &sizes(length));
                let error = all.iter().zip(&whole).map(|(a, b)| (a - b).abs());
                let most = if size_of::<E>() == 4 { 0.0 } else { 1e-2 };
                assert!(error.fold(0.0, f32::max) <= most);
            }
        }
    }

    /// Caches of different lengths in one call: the same bits as each by itself.
    #[test]
    fn caches_together_equal_each_alone() {
        together::<f32>(|x| x);
        together::<u16>(nearest);
    }

    fn together<E: Stored + std::fmt::Debug + PartialEq>(of: impl Fn(f32) -> E) {
        let (heads, dim, capacity) = (4, 16, 160);
        let width = heads * dim;
        let rows = [(2, 150), (1, 3), (3, 77), (4, 0)];
        for length in [1, 5] {
            let sizes = |batch| Sizes {
                batch,
                length,
                heads,
                dim,
                eps: 1e-5,
                unit: None,
            };
            let room = |batch: usize, seed| -> Vec<E> {
                let numbers = numbers(batch * capacity * width, seed);
                numbers.into_iter().map(&of).collect()
            };
            let qkv = numbers(10 * length * 3 * width, 1);
            let run = |rows: &[(usize, usize)], qkv: &[f32], seed: u64| {
                let mut stored: Vec<_> = (seed..)
                    .zip(rows)
                    .map(|(seed, &(batch, _))| (room(batch, seed), room(batch, seed + 9)))
                    .collect();
                let mut caches: Vec<Cache<E>> = stored
                    .iter_mut()
                    .zip(rows)
                    .map(|((keys, values), &(batch, known))| Cache {
                        batch,
                        keys,
                        values,
                        capacity,
                        known,
                    })
                    .collect();
                let batch = rows.iter().map(|&(batch, _)| batch).sum();
                let seen = extend(qkv, None, &mut caches, &sizes(batch));
                (seen, stored)
            };
            let (seen, stored) = run(&rows, &qkv, 2);
            let mut first = 0;
            for (number, one) in rows.iter().enumerate() {
                let (from, to) = (first * length, (first + one.0) * length);
                let own = &qkv[from * 3 * width..to * 3 * width];
                let alone = run(&[*one], own, 2 + number as u64);
                assert_eq!(alone.0, seen[from * width..to * width]);
                assert_eq!(alone.1[0], stored[number]);
                first += one.0;
            }
        }
    }

    /// What bfloat16 holds exactly is attended to with the same bits from it, for one query, some, and many.
    #[test]
    fn from_bf16_it_is_the_attention_to_what_that_holds() {
        let (batch, heads, dim, capacity) = (2, 3, 24, 64);
        let width = heads * dim;
        for length in [1, 3, 16, 17, 40] {
            let rounded = |mut x: Vec<f32>| {
                x.iter_mut().for_each(|x| *x = widened(nearest(*x)));
                x
            };
            let qkv = rounded(numbers(batch * length * 3 * width, 1));
            let before = rounded(numbers(2 * batch * capacity * width, 2));
            let sizes = Sizes {
                batch,
                length,
                heads,
                dim,
                eps: 1e-5,
                unit: None,
            };
            let (keys, values) = before.split_at(batch * capacity * width);
            fn run<E: Stored>(
                (keys, values): (Vec<E>, Vec<E>),
                qkv: &[f32],
                sizes: &Sizes,
            ) -> Vec<f32> {
                let (mut keys, mut values) = (keys, values);
                let cache = Cache {
                    batch: sizes.batch,
                    keys: &mut keys,
                    values: &mut values,
                    capacity: 64,
                    known: 21,
                };
                extend(qkv, None, &mut [cache], sizes)
            }
            let halves = |x: &[f32]| x.iter().map(|&x| nearest(x)).collect::<Vec<_>>();
            assert_eq!(
                run((halves(keys), halves(values)), &qkv, &sizes),
                run((keys.to_vec(), values.to_vec()), &qkv, &sizes),
                "{length} queries"
            );
        }
    }

    #[test]
    fn equals_its_steps_one_by_one() {
        for (batch, length, heads, dim) in [(1, 1, 1, 2), (2, 7, 3, 8), (2, 130, 2, 32)] {
            let sizes = Sizes {
                batch,
                length,
                heads,
                dim,
                eps: 1e-5,
                unit: None,
            };
            let (width, positions) = (heads * dim, batch * length);
            let qkv = numbers(positions * 3 * width, 1);
            let dout = numbers(positions * width, 2);
            let weights = [numbers(dim, 3), numbers(dim, 4)];
            let angles = [
                numbers(positions * dim / 2, 5),
                numbers(positions * dim / 2, 6),
            ];
            let cos = angles
                .each_ref()
                .map(|x| x.iter().map(|x| (3.0 * x).cos()).collect::<Vec<_>>());
            let sin = angles
                .each_ref()
                .map(|x| x.iter().map(|x| (3.0 * x).sin()).collect::<Vec<_>>());
            let turns: Vec<QkNormRope> = (0..2)
                .map(|i| QkNormRope {
                    weight: &weights[i],
                    cos: &cos[i],
                    sin: &sin[i],
                })
                .collect();
            let (out, saved) = forward(&qkv, &turns[0], &turns[1], &sizes);
            let (dqkv, dwq, dwk) =
                backward(&dout, &qkv, (&turns[0], &turns[1]), (&out, &saved), &sizes);

            let plain = [
                part(&qkv, 0, width),
                part(&qkv, 1, width),
                part(&qkv, 2, width),
            ];
            let turned: Vec<Vec<f32>> = (0..2)
                .map(|i| {
                    let normal = rms_norm::forward(&plain[i], &weights[i], 1e-5);
                    rotate(&normal, &cos[i], &sin[i], heads, dim, 1.0)
                })
                .collect();
            let view = |data| sizes.heads(data, width);
            let views = (view(&turned[0]), view(&turned[1]), view(&plain[2]));
            let (exact, norms) = attention::forward(views.0, views.1, views.2, sizes.shape());
            let close = |what: &str, a: &[f32], b: &[f32]| {
                assert_eq!(a.len(), b.len());
                for (a, b) in a.iter().zip(b) {
                    // The same sums with other roundings in between.
                    assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{what}: {a} {b}");
                }
            };
            close("out", &out, &exact);
            let (dq, dk, dv) =
                attention::backward(view(&dout), views, (&exact, &norms), sizes.shape());
            close("dv", &part(&dqkv, 2, width), &dv);
            for (i, (d, dw)) in [(dq, dwq), (dk, dwk)].into_iter().enumerate() {
                let back = rotate(&d, &cos[i], &sin[i], heads, dim, -1.0);
                let (dx, exact_dw) = rms_norm::backward(&back, &plain[i], &weights[i], 1e-5);
                close("dx", &part(&dqkv, i, width), &dx);
                close("dw", &dw, &exact_dw);
            }
        }
    }
}
