//! Scaled dot-product attention, `softmax(scale · q·kᵀ)·v`, and its gradients, head by head: scores of
//! some queries at a time stay in the cache and are recomputed going backward (Dao et al. 2022;
//! deviation: whole rows of keys instead of online softmax, as sequences here are some hundred long).

use crate::bf16::{self, Unit};
use crate::gemm::{Matrix, MatrixMut, Output, gemm_serial};
use crate::shared::{SharedPtr, fresh, with_scratch};
use crate::stored::{Stored, View};
use crate::team;
use crate::vector::{dot, exp, maximum, sum_of, vectorised};

/// `[batch, heads, length, dim]` within a slice, with any strides; only keys and values may have one of `dim`
/// that is not one. So `[batch, length, heads, dim]` in memory needs no copy. The scores of a single query are
/// computed where the keys are if those lie `[batch, heads, dim, length]` in memory.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, E = f32> {
    /// The elements; the first one of the view is the first one of the slice.
    pub data: &'a [E],
    /// Elements from a batch entry to the next one.
    pub batch_stride: usize,
    /// Elements from a head to the next one.
    pub head_stride: usize,
    /// Elements from a position to the next one.
    pub row_stride: usize,
    /// Elements from a component of a position to the next one.
    pub dim_stride: usize,
}

impl<'a, E> Heads<'a, E> {
    fn view(&self, batch: usize, head: usize, rows: usize, dim: usize) -> View<'a, E> {
        View {
            data: &self.data[batch * self.batch_stride + head * self.head_stride..],
            rows,
            cols: dim,
            row_stride: self.row_stride,
            col_stride: self.dim_stride,
        }
    }
}

impl<'a> Heads<'a> {
    fn matrix(&self, batch: usize, head: usize, rows: usize, dim: usize) -> Matrix<'a> {
        let start = batch * self.batch_stride + head * self.head_stride;
        Matrix::with_strides(
            &self.data[start..],
            rows,
            dim,
            self.row_stride,
            self.dim_stride,
        )
    }

    fn row_block(&self, batch: usize, head: usize, first: usize) -> &'a [f32] {
        &self.data[batch * self.batch_stride + head * self.head_stride + first * self.row_stride..]
    }

    fn row(&self, batch: usize, head: usize, row: usize, dim: usize) -> &'a [f32] {
        &self.data[batch * self.batch_stride + head * self.head_stride + row * self.row_stride..]
            [..dim]
    }
}

/// What an attention computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Entries of the batch.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Positions that ask.
    pub queries: usize,
    /// Positions that are asked.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
    /// Whether query `i` sees the keys `0..=keys − queries + i` only.
    pub causal: bool,
    /// Factor of the scores.
    pub scale: f32,
    /// What multiplies queries, keys, values and probabilities in bfloat16; nothing where all is in `f32`.
    pub unit: Option<Unit>,
}

impl Shape {
    /// Keys that a query sees.
    fn visible(&self, query: usize) -> usize {
        if self.causal {
            self.keys + query + 1 - self.queries
        } else {
            self.keys
        }
    }

    /// A product on the calling thread.
    pub(crate) fn product(&self, a: Matrix, b: Matrix, c: MatrixMut, output: Output) {
        match self.unit {
            Some(unit) => bf16::gemm_serial(unit, a, b, c, output),
            None => gemm_serial(a, b, c, output),
        }
    }

    fn check(&self) {
        assert!(self.keys > 0 && self.dim > 0, "attention to nothing");
        assert!(
            !self.causal || self.queries <= self.keys,
            "causal queries are among the keys"
        );
    }
}

/// Queries whose scores are held at a time: with 512 keys, 192 KiB of the L2 cache.
const QUERIES: usize = 96;

/// A result in memory order `[batch, length, heads, dim]`, positions `row_stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    data: SharedPtr<f32>,
    len: usize,
    row_stride: usize,
}

impl Target {
    pub(crate) fn new(data: &mut [f32], row_stride: usize) -> Self {
        Self {
            data: SharedPtr::new(data.as_mut_ptr()),
            len: data.len(),
            row_stride,
        }
    }

    /// Runs a product into rows `first..first + rows` of a head.
    ///
    /// # Safety
    /// No other task writes to these rows of this head; `self` came from a live slice.
    unsafe fn product(
        &self,
        shape: Shape,
        (batch, head): (usize, usize),
        (length, dim): (usize, usize),
        (first, rows): (usize, usize),
        (a, b): (Matrix, Matrix),
        output: Output,
    ) {
        // SAFETY: the caller's.
        let part = unsafe { self.part((batch, head), (length, dim), (first, rows)) };
        shape.product(a, b, part, output);
    }

    /// Rows `first..first + rows` of a head.
    ///
    /// # Safety
    /// As for [`Self::product`].
    unsafe fn part(
        &self,
        (batch, head): (usize, usize),
        (length, dim): (usize, usize),
        (first, rows): (usize, usize),
    ) -> MatrixMut<'_> {
        let start = (batch * length + first) * self.row_stride + head * dim;
        let span = (rows - 1) * self.row_stride + dim;
        assert!(
            start + span <= self.len,
            "gradient or output of the attention's shape"
        );
        // SAFETY: the rows lie within the slice, and only this task touches them.
        unsafe { MatrixMut::from_raw(self.data.get().add(start), rows, dim, self.row_stride) }
    }
}

/// Keys and values that some consecutive entries of a batch attend to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a, E> {
    pub keys: Heads<'a, E>,
    pub values: Heads<'a, E>,
    /// That of these entries alone.
    pub shape: Shape,
}

/// The output in memory order `[batch, queries, heads, dim]`, and each row's log of the sum of
/// exponentials, `[batch, heads, queries]`, which [`backward`] wants.
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    let (keys, values) = (k, v);
    forward_parts(
        q,
        &[Part {
            keys,
            values,
            shape,
        }],
    )
}

/// Products that are worth a task of their own.
const TASK: usize = 1 << 14;

/// [`forward`] of entries that have keys of their own number, part by part; all else is alike in their shapes.
pub(crate) fn forward_parts<E: Stored>(q: Heads, parts: &[Part<'_, E>]) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(
        q.dim_stride, 1,
        "components of the queries beside each other"
    );
    let Some(&Part { shape, .. }) = parts.first() else {
        return (Vec::new(), Vec::new());
    };
    let Shape {
        heads,
        queries,
        dim,
        ..
    } = shape;
    // Where each part's entries end.
    let mut ends = Vec::with_capacity(parts.len());
    let (mut batch, mut keys) = (0, 0);
    for part in parts {
        part.shape.check();
        let own = (part.shape.heads, part.shape.queries, part.shape.dim);
        assert_eq!(
            own,
            (heads, queries, dim),
            "heads, queries and width of all"
        );
        batch += part.shape.batch;
        keys += part.shape.batch * part.shape.keys;
        ends.push(batch);
    }
    let mut out = fresh(batch * queries * heads * dim);
    let mut normalisers = fresh(batch * heads * queries);
    let target = Target::new(&mut out, heads * dim);
    let blocks = queries.div_ceil(QUERIES);
    let norms = SharedPtr::new(normalisers.as_mut_ptr());
    let attend = |index: usize| {
        let (unit, block) = (index / blocks, index % blocks);
        let (entry, h) = (unit / heads, unit % heads);
        let number = ends.partition_point(|&end| end <= entry);
        let Part {
            keys: k,
            values: v,
            shape,
        } = parts[number];
        let b = entry + shape.batch - ends[number];
        let first = block * QUERIES;
        let rows = QUERIES.min(queries - first);
        let keys = shape.visible(first + rows - 1);
        with_scratch(rows * keys, |scores| {
            let qm = Matrix::with_strides(q.row_block(entry, h, first), rows, dim, q.row_stride, 1);
            let transposed = k.view(b, h, keys, dim).transposed();
            let to = MatrixMut::new(scores, rows, keys);
            E::product(&shape, qm, transposed, to, Output::Overwrite);
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let normaliser = softmax(row, shape.visible(first + i), shape.scale);
                // SAFETY: this row is this task's alone.
                unsafe { *norms.get().add(unit * queries + first + i) = normaliser };
            }
            // SAFETY: tasks have rows of their own.
            let to = unsafe { target.part((entry, h), (queries, dim), (first, rows)) };
            let probabilities = Matrix::new(scores, rows, keys);
            E::product(
                &shape,
                probabilities,
                v.view(b, h, keys, dim),
                to,
                Output::Overwrite,
            );
        });
    };
    let pieces = batch * heads * blocks;
    let work = keys * heads * queries * dim;
    if work < 1 << 17 {
        (0..pieces).for_each(attend);
    } else {
        // Single queries are little work each.
        let each =
            (TASK * pieces / work).clamp(1, pieces.div_ceil(4 * rayon::current_num_threads()));
        team::for_each(pieces.div_ceil(each), |task| {
            (task * each..pieces.min((task + 1) * each)).for_each(attend);
        });
    }
    (out, normalisers)
}

vectorised! {
    /// Softmax of the scaled first `visible` scores, zeros after; returns the log of the sum.
    fn softmax(row: &mut [f32], visible: usize, scale: f32) -> f32 {
        let (row, hidden) = row.split_at_mut(visible);
        hidden.fill(0.0);
        for x in row.iter_mut() {
            *x *= scale;
        }
        let largest = maximum(row);
        for x in row.iter_mut() {
            *x = exp::<FUSED>(*x - largest);
        }
        let sum = sum_of(&row[..visible], |x| x);
        let factor = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= factor;
        }
        largest + sum.ln()
    }
}

/// The gradients of `q`, `k` and `v`, each in memory order `[batch, length, heads, dim]`.
///
/// `out` and `normalisers` are what [`forward`] gave, `dout` is the output's gradient.
pub fn backward(
    dout: Heads,
    (q, k, v): (Heads, Heads, Heads),
    (out, normalisers): (&[f32], &[f32]),
    shape: Shape,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Shape {
        batch,
        heads,
        queries,
        keys,
        dim,
        ..
    } = shape;
    let mut dq = fresh(batch * queries * heads * dim);
    let mut dk = fresh(batch * keys * heads * dim);
    let mut dv = fresh(batch * keys * heads * dim);
    let targets = [&mut dq, &mut dk, &mut dv].map(|data| Target::new(data, heads * dim));
    backward_into(targets, dout, (q, k, v), (out, normalisers), shape);
    (dq, dk, dv)
}

/// [`backward`] that writes every element of the targets' heads.
pub(crate) fn backward_into(
    [tq, tk, tv]: [Target; 3],
    dout: Heads,
    (q, k, v): (Heads, Heads, Heads),
    (out, normalisers): (&[f32], &[f32]),
    shape: Shape,
) {
    shape.check();
    let Shape {
        batch,
        heads,
        queries,
        keys,
        dim,
        scale,
        ..
    } = shape;
    assert_eq!(
        out.len(),
        batch * queries * heads * dim,
        "output of the forward pass"
    );
    assert_eq!(
        normalisers.len(),
        batch * heads * queries,
        "normalisers of the forward pass"
    );
    assert!(queries > 0, "the gradient of no query");
    assert_eq!(
        (q.dim_stride, dout.dim_stride),
        (1, 1),
        "components beside each other"
    );
    let out = Heads {
        data: out,
        batch_stride: queries * heads * dim,
        head_stride: dim,
        row_stride: heads * dim,
        dim_stride: 1,
    };
    let task = |unit: usize| {
        let (b, h) = (unit / heads, unit % heads);
        // The last queries first: they see all keys, so nothing has to be zero before.
        for first in (0..queries).step_by(QUERIES).rev() {
            let rows = QUERIES.min(queries - first);
            let seen = shape.visible(first + rows - 1);
            with_scratch(2 * rows * seen, |scratch| {
                let (probs, dscores) = scratch.split_at_mut(rows * seen);
                let qm = Matrix::with_strides(q.row_block(b, h, first), rows, dim, q.row_stride, 1);
                let dm = Matrix::with_strides(
                    dout.row_block(b, h, first),
                    rows,
                    dim,
                    dout.row_stride,
                    1,
                );
                let (km, vm) = (k.matrix(b, h, seen, dim), v.matrix(b, h, seen, dim));
                shape.product(
                    qm,
                    km.transposed(),
                    MatrixMut::new(probs, rows, seen),
                    Output::Overwrite,
                );
                shape.product(
                    dm,
                    vm.transposed(),
                    MatrixMut::new(dscores, rows, seen),
                    Output::Overwrite,
                );
                for i in 0..rows {
                    let row = first + i;
                    score_gradients(
                        &mut probs[i * seen..][..seen],
                        &mut dscores[i * seen..][..seen],
                        shape.visible(row),
                        scale,
                        normalisers[unit * queries + row],
                        dout.row(b, h, row, dim),
                        out.row(b, h, row, dim),
                    );
                }
                let (pm, sm) = (
                    Matrix::new(probs, rows, seen),
                    Matrix::new(dscores, rows, seen),
                );
                let last = first + rows == queries;
                let output = if last {
                    Output::Overwrite
                } else {
                    Output::Accumulate
                };
                // SAFETY: each task has a head of its own.
                unsafe {
                    tq.product(
                        shape,
                        (b, h),
                        (queries, dim),
                        (first, rows),
                        (sm, km),
                        Output::Overwrite,
                    );
                    tk.product(
                        shape,
                        (b, h),
                        (keys, dim),
                        (0, seen),
                        (sm.transposed(), qm),
                        output,
                    );
                    tv.product(
                        shape,
                        (b, h),
                        (keys, dim),
                        (0, seen),
                        (pm.transposed(), dm),
                        output,
                    );
                }
            });
        }
    };
    team::for_each(batch * heads, task);
}

vectorised! {
    /// From raw scores to probabilities, from the probabilities' gradients to those of the raw scores.
    fn score_gradients(
        probs: &mut [f32],
        gradients: &mut [f32],
        visible: usize,
        scale: f32,
        normaliser: f32,
        dout: &[f32],
        out: &[f32],
    ) {
        let mean = dot::<FUSED>(dout, out);
        let (probs, hidden) = probs.split_at_mut(visible);
        hidden.fill(0.0);
        let (gradients, hidden) = gradients.split_at_mut(visible);
        hidden.fill(0.0);
        for (p, g) in probs.iter_mut().zip(gradients) {
            *p = exp::<FUSED>(*p * scale - normaliser);
            *g = *p * (*g - mean) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    /// Memory order `[batch, length, heads, dim]`.
    fn heads<'a>(data: &'a [f32], length: usize, heads: usize, dim: usize) -> Heads<'a> {
        Heads {
            data,
            batch_stride: length * heads * dim,
            head_stride: dim,
            row_stride: heads * dim,
            dim_stride: 1,
        }
    }

    /// Loss `Σ dout · attention` in `f64`, and its gradients by the definition.
    fn reference([q, k, v, dout]: [&[f32]; 4], s: Shape) -> [Vec<f64>; 4] {
        let at = |x: &[f32], length: usize, b: usize, h: usize, t: usize, i: usize| {
            x[((b * length + t) * s.heads + h) * s.dim + i] as f64
        };
        let place = |length: usize, b: usize, h: usize, t: usize, i: usize| {
            ((b * length + t) * s.heads + h) * s.dim + i
        };
        let mut out = vec![0.0; q.len()];
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
        for b in 0..s.batch {
            for h in 0..s.heads {
                for t in 0..s.queries {
                    let keys = s.visible(t);
                    let scores: Vec<f64> = (0..keys)
                        .map(|u| {
                            (0..s.dim)
                                .map(|i| at(q, s.queries, b, h, t, i) * at(k, s.keys, b, h, u, i))
                                .sum::<f64>()
                                * s.scale as f64
                        })
                        .collect();
                    let total: f64 = scores.iter().map(|x| x.exp()).sum();
                    let p: Vec<f64> = scores.iter().map(|x| x.exp() / total).collect();
                    let dp: Vec<f64> = (0..keys)
                        .map(|u| {
                            (0..s.dim)
                                .map(|i| {
                                    at(dout, s.queries, b, h, t, i) * at(v, s.keys, b, h, u, i)
                                })
                                .sum()
                        })
                        .collect();
                    let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                    for u in 0..keys {
                        let ds = p[u] * (dp[u] - mean) * s.scale as f64;
                        for i in 0..s.dim {
                            out[place(s.queries, b, h, t, i)] += p[u] * at(v, s.keys, b, h, u, i);
                            dq[place(s.queries, b, h, t, i)] += ds * at(k, s.keys, b, h, u, i);
                            dk[place(s.keys, b, h, u, i)] += ds * at(q, s.queries, b, h, t, i);
                            dv[place(s.keys, b, h, u, i)] += p[u] * at(dout, s.queries, b, h, t, i);
                        }
                    }
                }
            }
        }
        [out, dq, dk, dv]
    }

    fn close(what: &str, x: &[f32], exact: &[f64]) {
        for (x, exact) in x.iter().zip(exact) {
            // Sums of some hundred products of numbers below one, and exponentials of rounded scores.
            assert!(
                (*x as f64 - exact).abs() < 2e-5 * (1.0 + exact.abs()),
                "{what}: {x} {exact}"
            );
        }
    }

    #[test]
    fn output_and_gradients_equal_the_plain_ones() {
        for (batch, n_heads, queries, keys, dim, causal) in [
            (1, 1, 1, 1, 1, false),
            (2, 3, 5, 9, 7, false),
            (2, 3, 5, 9, 7, true),
            (1, 2, 200, 200, 32, true),
            (1, 2, 130, 77, 16, false),
            (3, 2, 1, 50, 24, true),
        ] {
            let scale = 1.0 / (dim as f32).sqrt();
            let shape = Shape {
                batch,
                heads: n_heads,
                queries,
                keys,
                dim,
                causal,
                scale,
                unit: None,
            };
            let (nq, nk) = (
                batch * n_heads * queries * dim,
                batch * n_heads * keys * dim,
            );
            let (q, k, v, dout) = (
                numbers(nq, 1),
                numbers(nk, 2),
                numbers(nk, 3),
                numbers(nq, 4),
            );
            let view = (
                heads(&q, queries, n_heads, dim),
                heads(&k, keys, n_heads, dim),
                heads(&v, keys, n_heads, dim),
            );
            let (out, normalisers) = forward(view.0, view.1, view.2, shape);
            let (dq, dk, dv) = backward(
                heads(&dout, queries, n_heads, dim),
                view,
                (&out, &normalisers),
                shape,
            );
            let exact = reference([&q, &k, &v, &dout], shape);
            close("out", &out, &exact[0]);
            close("dq", &dq, &exact[1]);
            close("dk", &dk, &exact[2]);
            close("dv", &dv, &exact[3]);
        }
    }

    #[test]
    fn a_query_alone_equals_the_query_in_a_causal_batch() {
        let (n_heads, t, dim) = (2, 150, 32);
        let n = n_heads * t * dim;
        let (q, k, v) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
        let view = |x| heads(x, t, n_heads, dim);
        let scale = 0.2;
        let whole = Shape {
            batch: 1,
            heads: n_heads,
            queries: t,
            keys: t,
            dim,
            causal: true,
            scale,
            unit: None,
        };
        let (all, _) = forward(view(&q), view(&k), view(&v), whole);
        for i in [0, 1, 17, 95, 96, 149] {
            let one = Shape {
                queries: 1,
                keys: i + 1,
                ..whole
            };
            let alone = heads(&q[i * n_heads * dim..], 1, n_heads, dim);
            let (out, _) = forward(alone, view(&k), view(&v), one);
            assert_eq!(out, all[i * n_heads * dim..][..n_heads * dim]);
        }
    }

    /// Rounded to bfloat16.
    fn rounded(x: Vec<f32>) -> Vec<f32> {
        let bytes = bf16::round(&x);
        bf16::widen(&bf16::Weights::new(1, x.len(), &bytes))
    }

    #[test]
    fn in_bf16_output_and_gradients_are_near_the_plain_ones() {
        for unit in Unit::all() {
            for (batch, n_heads, queries, keys, dim, causal) in [
                (1, 1, 1, 1, 1, false),
                (2, 3, 5, 9, 7, true),
                (1, 2, 200, 200, 64, true),
                (2, 1, 130, 77, 40, false),
            ] {
                let shape = Shape {
                    batch,
                    heads: n_heads,
                    queries,
                    keys,
                    dim,
                    causal,
                    scale: 1.0 / (dim as f32).sqrt(),
                    unit: Some(unit),
                };
                let of =
                    |length: usize, seed| rounded(numbers(batch * n_heads * length * dim, seed));
                let (q, k, v, dout) = (of(queries, 1), of(keys, 2), of(keys, 3), of(queries, 4));
                let view = (
                    heads(&q, queries, n_heads, dim),
                    heads(&k, keys, n_heads, dim),
                    heads(&v, keys, n_heads, dim),
                );
                let (out, normalisers) = forward(view.0, view.1, view.2, shape);
                let dout_view = heads(&dout, queries, n_heads, dim);
                let known = (&out[..], &normalisers[..]);
                let (dq, dk, dv) = backward(dout_view, view, known, shape);
                let exact = reference([&q, &k, &v, &dout], shape);
                for (what, x, exact) in [
                    ("out", &out, &exact[0]),
                    ("dq", &dq, &exact[1]),
                    ("dk", &dk, &exact[2]),
                    ("dv", &dv, &exact[3]),
                ] {
                    for (x, exact) in x.iter().zip(exact) {
                        // Probabilities and their gradients are rounded to 8 significant bits.
                        let near = (*x as f64 - exact).abs() < 1e-2 * (1.0 + exact.abs());
                        assert!(near, "{unit:?} {what}: {x} {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn in_bf16_an_entry_alone_equals_the_entry_in_a_batch_on_any_threads() {
        let (n_heads, length, dim) = (3, 150, 40);
        let n = n_heads * length * dim;
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| numbers(2 * n, seed));
        for unit in Unit::all() {
            let run = |first: usize, batch: usize| {
                let shape = Shape {
                    batch,
                    heads: n_heads,
                    queries: length,
                    keys: length,
                    dim,
                    causal: true,
                    scale: 0.2,
                    unit: Some(unit),
                };
                let [q, k, v, dout] = [&q, &k, &v, &dout].map(|x| &x[first * n..]);
                let view = |x| heads(x, length, n_heads, dim);
                let (out, normalisers) = forward(view(q), view(k), view(v), shape);
                let qkv = (view(q), view(k), view(v));
                let (dq, dk, dv) = backward(view(dout), qkv, (&out, &normalisers), shape);
                [out, dq, dk, dv]
            };
            let all = run(0, 2);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let alone = pool.build().expect("a pool").install(|| run(1, 1));
                for (all, alone) in all.iter().zip(&alone) {
                    assert_eq!(&all[n..], &alone[..], "{unit:?} on {threads} threads");
                }
            }
        }
    }

    #[test]
    fn in_bf16_what_is_not_finite_stays_in_its_head() {
        let (n_heads, length, dim) = (2, 40, 16);
        let n = n_heads * length * dim;
        for unit in Unit::all() {
            for wrong in [f32::NAN, f32::INFINITY] {
                let shape = Shape {
                    batch: 1,
                    heads: n_heads,
                    queries: length,
                    keys: length,
                    dim,
                    causal: true,
                    scale: 0.25,
                    unit: Some(unit),
                };
                let (q, k, v) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
                fn view(x: &[f32]) -> Heads<'_> {
                    heads(x, 40, 2, 16)
                }
                let (sound, _) = forward(view(&q), view(&k), view(&v), shape);
                // The second head's query of position 7.
                let row = (7 * n_heads + 1) * dim;
                let mut changed = q.clone();
                changed[row] = wrong;
                let (out, _) = forward(view(&changed), view(&k), view(&v), shape);
                for (i, (x, sound)) in out.iter().zip(&sound).enumerate() {
                    if (row..row + dim).contains(&i) {
                        assert!(x.is_nan(), "{unit:?}: {x} of {wrong}");
                    } else {
                        assert_eq!(x.to_bits(), sound.to_bits(), "{unit:?}: number {i}");
                    }
                }
            }
        }
    }
}
