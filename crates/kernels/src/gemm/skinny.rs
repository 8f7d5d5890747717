//! Products with few rows of `A`: every element of `B` is read once, in place, by sweeps over several
//! of its rows at a time, and the few rows of C stay in the cache.

use rayon::prelude::*;

use super::tile::Tile;
use super::{Into, Matrix, MatrixMut};
use crate::shared::{SharedPtr, with_scratch};

/// Rows of `A` up to which sweeping beats packing `B`.
pub(super) const MAX_ROWS: usize = 16;

/// Columns a sweep covers: with four rows of C, 16 KiB of the L1 cache.
const COLUMNS: usize = 1024;

/// Rows of `B` in one sweep: as many streams as the prefetcher follows.
const STEP: usize = 8;

pub(super) fn run<T: Tile>(parallel: bool, a: Matrix, b: Matrix, c: MatrixMut, into: Into) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    // A in rows without gaps.
    with_scratch(m * k, |rows| {
        for i in 0..m {
            for p in 0..k {
                rows[i * k + p] = a.data[i * a.row_stride + p * a.col_stride];
            }
        }
        let rows = &*rows;
        let out = SharedPtr::new(c.data);
        let ldc = c.row_stride;
        let threads = if parallel {
            rayon::current_num_threads()
        } else {
            1
        };
        let columns = n.div_ceil(threads).next_multiple_of(16).min(COLUMNS);
        let task = |index: usize| {
            let j0 = index * columns;
            let n = columns.min(n - j0);
            for p0 in (0..k).step_by(STEP) {
                let load = p0 > 0 || into == Into::Add;
                let mut i = 0;
                while i < m {
                    let left = m - i;
                    // SAFETY: rows and columns lie within A, B and C; tasks have columns of their own.
                    unsafe {
                        let ap = rows.as_ptr().add(i * k + p0);
                        let bp = b.data.as_ptr().add(p0 * b.row_stride + j0);
                        let cp = out.get().add(i * ldc + j0);
                        let (ldb, steps) = (b.row_stride, STEP.min(k - p0));
                        i += match left {
                            1 => sweep::<T, 1>(steps, n, ap, k, bp, ldb, cp, ldc, load),
                            2 | 3 => sweep::<T, 2>(steps, n, ap, k, bp, ldb, cp, ldc, load),
                            _ => sweep::<T, 4>(steps, n, ap, k, bp, ldb, cp, ldc, load),
                        };
                    }
                }
            }
        };
        if parallel {
            (0..n.div_ceil(columns))
                .into_par_iter()
                .with_max_len(1)
                .for_each(task);
        } else {
            (0..n.div_ceil(columns)).for_each(task);
        }
    });
}

/// Sweeps over `steps` rows of `B`; returns `R`.
#[allow(clippy::too_many_arguments)]
#[inline]
unsafe fn sweep<T: Tile, const R: usize>(
    steps: usize,
    n: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    load: bool,
) -> usize {
    unsafe {
        if steps == STEP && R < 4 {
            T::sweep::<R, STEP>(n, a, lda, b, ldb, c, ldc, load);
            return R;
        }
        let mut p = 0;
        while p + 4 <= steps {
            T::sweep::<R, 4>(n, a.add(p), lda, b.add(p * ldb), ldb, c, ldc, load || p > 0);
            p += 4;
        }
        while p < steps {
            T::sweep::<R, 1>(n, a.add(p), lda, b.add(p * ldb), ldb, c, ldc, load || p > 0);
            p += 1;
        }
        R
    }
}
