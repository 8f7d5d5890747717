//! Matrix products, `C = A·B` and `C += A·B`, in `f32`.
//!
//! Blocked and packed as in BLIS (Van Zee & van de Geijn 2015): `B` is packed once into panels of
//! `NR` columns that all threads share, each task packs some rows of `A` into panels of `MR` rows
//! that stay in its L2 cache, and a register tile of `MR`×`NR` walks along `k`. Deviation: every
//! element of `C` is one chain of fused multiply-adds over ascending `k`, continued through memory
//! between blocks, so that the result is the same bits whatever the tile, block, path and number of
//! threads.

pub(crate) mod pack;
pub(crate) mod skinny;
mod tile;

use std::marker::PhantomData;

use crate::isa::{Isa, isa};
use crate::shared::{SharedPtr, with_scratch};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::simd::Portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::team;
use pack::Columns;
use tile::Tile;

/// A matrix within a slice; strides are in elements, so a transpose is free.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix that fills the slice's beginning.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// A matrix whose element `[i, j]` is `data[i · row_stride + j · col_stride]`.
    ///
    /// # Panics
    /// If the last element lies outside the slice.
    pub fn with_strides(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
            assert!(
                last < data.len(),
                "matrix {rows}x{cols} with strides {row_stride},{col_stride} needs {} floats but the slice has {}",
                last + 1,
                data.len()
            );
        }
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// An element.
    #[inline(always)]
    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// A row, and zeros behind it.
    pub(crate) fn copy_row(&self, row: usize, to: &mut [f32]) {
        let (to, rest) = to.split_at_mut(self.cols);
        rest.fill(0.0);
        if self.col_stride == 1 {
            to.copy_from_slice(&self.data[row * self.row_stride..][..self.cols]);
        } else {
            for (col, to) in to.iter_mut().enumerate() {
                *to = self.at(row, col);
            }
        }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A matrix to write to: rows are contiguous.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(crate) data: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// A row-major matrix that fills the slice's beginning.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A matrix whose element `[i, j]` is `data[i · row_stride + j]`.
    ///
    /// # Panics
    /// If rows overlap or the last element lies outside the slice.
    pub fn with_stride(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!(
                rows == 1 || row_stride >= cols,
                "rows of the result overlap"
            );
            let last = (rows - 1) * row_stride + cols - 1;
            assert!(
                last < data.len(),
                "result {rows}x{cols} does not fit its slice"
            );
        }
        // SAFETY: the elements lie in the slice, which stays borrowed.
        unsafe { Self::from_raw(data.as_mut_ptr(), rows, cols, row_stride) }
    }

    /// A matrix of elements `[i, j]` at `data + i · row_stride + j`.
    ///
    /// # Safety
    /// For as long as `'a`, the elements may be written and nothing else reads or writes them; the gaps
    /// between the rows may be anyone's.
    pub(crate) unsafe fn from_raw(
        data: *mut f32,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride,
            memory: PhantomData,
        }
    }
}

impl MatrixMut<'_> {
    /// The product of matrices without anything between them: zeros, or what is there.
    pub(crate) fn clear(self, into: Into) {
        if into == Into::Overwrite {
            for row in 0..self.rows {
                // SAFETY: a row of the result, which is borrowed mutably; zero bits are 0.0.
                unsafe {
                    self.data
                        .add(row * self.row_stride)
                        .write_bytes(0, self.cols)
                };
            }
        }
    }
}

/// What becomes of the result's previous content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// `C = A·B`; the content is never read.
    Overwrite,
    /// `C += A·B`: the chain of each element begins at its content.
    Add,
}

/// `C = A·B` or `C += A·B` on all threads of the current rayon pool.
///
/// # Panics
/// If the shapes do not match.
pub fn gemm(a: Matrix, b: Matrix, c: MatrixMut, into: Into) {
    run(isa(), true, a, b, c, into);
}

/// [`gemm`] on the calling thread alone; for callers that are parallel themselves.
pub fn gemm_serial(a: Matrix, b: Matrix, c: MatrixMut, into: Into) {
    run(isa(), false, a, b, c, into);
}

/// [`gemm`] with a given instruction set, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn gemm_with_isa(which: Isa, a: Matrix, b: Matrix, c: MatrixMut, into: Into) {
    assert!(
        which.is_available(),
        "{which:?} is not offered by this processor"
    );
    run(which, true, a, b, c, into);
}

fn run(isa: Isa, parallel: bool, a: Matrix, b: Matrix, c: MatrixMut, into: Into) {
    assert_eq!(a.cols, b.rows, "columns of A against rows of B");
    assert_eq!((a.rows, b.cols), (c.rows, c.cols), "shape of the result");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if a.cols == 0 {
        return c.clear(into);
    }
    let work = a.rows * b.cols * a.cols;
    let parallel = parallel && rayon::current_num_threads() > 1 && work >= PARALLEL_FROM;
    if a.rows <= skinny::MAX_ROWS && b.col_stride == 1 {
        // SAFETY: the elements lie in the slice, which stays borrowed.
        let b = unsafe {
            skinny::Rows::<f32>::new(b.data.as_ptr().cast(), b.rows, b.cols, b.row_stride)
        };
        return skinny::run(isa, parallel, a, &b, c, into);
    }
    by_blocks(isa, parallel, a, &b, c, into);
}

/// The product by blocks, of a `B` that may be made up while it is packed. The shapes match and none is
/// zero, and the processor has the instruction set.
pub(crate) fn by_blocks(
    isa: Isa,
    parallel: bool,
    a: Matrix,
    b: &impl Columns,
    c: MatrixMut,
    into: Into,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => blocked::<Avx512>(parallel, a, b, c, into),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => blocked::<Avx2>(parallel, a, b, c, into),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => blocked::<Neon>(parallel, a, b, c, into),
        _ => blocked::<Portable>(parallel, a, b, c, into),
    }
}

/// [`gemm_serial`] with a `B` that is made up while it is packed; always by blocks.
pub(crate) fn gemm_packing(a: Matrix, b: &impl Columns, c: MatrixMut, into: Into) {
    assert_eq!(
        (a.cols, a.rows),
        (b.depth(), c.rows),
        "rows of B and C against A"
    );
    assert_eq!(b.len(), c.cols, "columns of B against C");
    if c.rows == 0 || c.cols == 0 || a.cols == 0 {
        assert!(
            into == Into::Add || c.rows == 0 || c.cols == 0,
            "an empty product to overwrite"
        );
        return;
    }
    by_blocks(isa(), false, a, b, c, into);
}

/// Rows of `k` that a packed panel of `B` has: 32 KiB of the L1 cache at most.
const KC: usize = 256;
/// Rows of `A` that a task packs at a time: with `KC`, 256 KiB of the L2 cache.
const MC: usize = 240;
/// Floats of `B` that are packed at a time: 4 MiB of the last cache.
const PACKED_B: usize = 1 << 20;
/// The same where each thread packs its own: half of the L2 cache.
const PACKED_B_SERIAL: usize = 1 << 17;
/// Multiply-adds below which a second thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 19;

fn blocked<T: Tile>(parallel: bool, a: Matrix, b: &impl Columns, c: MatrixMut, into: Into) {
    let (m, n, k) = (a.rows, c.cols, a.cols);
    let packed_floats = if parallel { PACKED_B } else { PACKED_B_SERIAL };
    // Rows of A that are contiguous are read in place, unless pages apart: those would push each other
    // out of the cache.
    let in_place = a.col_stride == 1 && (!a.row_stride.is_multiple_of(1024) || n <= 4 * T::NR);
    let out = SharedPtr::new(c.data);
    let ldc = c.row_stride;
    // Columns at a time: all of them, unless a single block of k would already be too much.
    let nc = (packed_floats / KC.min(k))
        .next_multiple_of(T::NR)
        .min(n.next_multiple_of(T::NR));
    for j0 in (0..n).step_by(nc) {
        let cols = nc.min(n - j0);
        let panels = cols.div_ceil(T::NR);
        let depth = (packed_floats / (panels * T::NR)).max(KC) / KC * KC;
        for k0 in (0..k).step_by(depth) {
            let depth = depth.min(k - k0);
            let load = k0 > 0 || into == Into::Add;
            with_scratch(depth * panels * T::NR, |packed_b| {
                // Block after block of k, within it panel after panel.
                let blocks: Vec<(usize, usize)> = (0..depth)
                    .step_by(KC)
                    .map(|p0| (p0, KC.min(depth - p0)))
                    .collect();
                let pack_block = |&(p0, kc): &(usize, usize), target: &mut [f32]| {
                    b.pack(target, T::NR, k0 + p0, kc, j0, cols);
                };
                if parallel && blocks.len() > 1 {
                    let target = SharedPtr::new(packed_b.as_mut_ptr());
                    team::for_each(blocks.len(), |index| {
                        let block = &blocks[index];
                        let len = block.1 * panels * T::NR;
                        // SAFETY: blocks follow each other, so their parts are disjoint.
                        let part = unsafe {
                            std::slice::from_raw_parts_mut(
                                target.get().add(block.0 * panels * T::NR),
                                len,
                            )
                        };
                        pack_block(block, part);
                    });
                } else {
                    for block in &blocks {
                        let start = block.0 * panels * T::NR;
                        pack_block(block, &mut packed_b[start..][..block.1 * panels * T::NR]);
                    }
                }
                let packed_b = &*packed_b;

                // Tasks: some rows of A times some panels of B.
                let tasks = if parallel {
                    4 * rayon::current_num_threads()
                } else {
                    1
                };
                let rows = m
                    .div_ceil(tasks)
                    .next_multiple_of(T::MR)
                    .clamp(4 * T::MR, MC);
                let row_tasks = m.div_ceil(rows);
                let col_tasks = tasks.div_ceil(row_tasks).min(panels);
                let panels_each = panels.div_ceil(col_tasks);
                let task = |index: usize| {
                    let (i0, first) = (index / col_tasks * rows, index % col_tasks * panels_each);
                    let rows = rows.min(m - i0);
                    let last = (first + panels_each).min(panels);
                    let scratch = if in_place {
                        0
                    } else {
                        rows.next_multiple_of(T::MR) * KC
                    };
                    with_scratch(scratch, |packed_a| {
                        for &(p0, kc) in &blocks {
                            if !in_place {
                                pack::rows::<T>(packed_a, a, i0, rows, k0 + p0, kc);
                            }
                            let load = load || p0 > 0;
                            for panel in first..last {
                                let jp = panel * T::NR;
                                let bp = &packed_b[p0 * panels * T::NR + jp * kc..][..kc * T::NR];
                                for ip in (0..rows).step_by(T::MR) {
                                    let (tm, tn) = (T::MR.min(rows - ip), T::NR.min(cols - jp));
                                    // SAFETY: the panels hold `kc` steps; the tile of `tm`×`tn`
                                    // lies within C and its rows within A by the shapes checked
                                    // above, and no other task has it.
                                    unsafe {
                                        let at = out.get().add((i0 + ip) * ldc + j0 + jp);
                                        let bp = bp.as_ptr();
                                        if in_place {
                                            let lda = a.row_stride;
                                            let ap = a.data.as_ptr().add((i0 + ip) * lda + k0 + p0);
                                            T::run::<true>(kc, ap, lda, bp, at, ldc, tm, tn, load);
                                        } else {
                                            let ap = packed_a[ip * kc..][..kc * T::MR].as_ptr();
                                            T::run::<false>(kc, ap, 0, bp, at, ldc, tm, tn, load);
                                        }
                                    }
                                }
                            }
                        }
                    });
                };
                if parallel {
                    team::for_each(row_tasks * col_tasks, task);
                } else {
                    (0..row_tasks * col_tasks).for_each(task);
                }
            });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
