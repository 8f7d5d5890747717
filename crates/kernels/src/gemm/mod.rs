//! Matrix products, `C = A·B` and `C += A·B`, in `f32`.
//!
//! Blocked and packed as in BLIS (Van Zee & van de Geijn 2015): a task has some columns of C, and rows where those
//! are few; it packs `B` into panels of `NR` columns and rows of `A` that are not contiguous into panels of `MR` rows
//! that stay in its L2 cache, and a register tile of `MR`×`NR` walks along `k`. Deviation: every
//! element of `C` is one chain of fused multiply-adds over ascending `k`, continued through memory
//! between blocks, so that the result is the same bits whatever the tile, block, path and number of
//! threads.

pub(crate) mod pack;
pub(crate) mod skinny;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use crate::isa::{Caches, Isa, caches, isa};
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

    /// The slice, the stride of rows and the stride of columns.
    pub(crate) fn parts(&self) -> (&'a [f32], usize, usize) {
        (self.data, self.row_stride, self.col_stride)
    }

    /// An element.
    #[inline(always)]
    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// A row, and zeros after it.
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
    pub(crate) fn clear(self, output: Output) {
        if output == Output::Overwrite {
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
pub enum Output {
    /// `C = A·B`; the content is never read.
    Overwrite,
    /// `C += A·B`: the chain of each element begins at its content.
    Accumulate,
}

/// `C = A·B` or `C += A·B` on all threads of the current rayon pool.
///
/// # Panics
/// If the shapes do not match.
pub fn gemm(a: Matrix, b: Matrix, c: MatrixMut, output: Output) {
    run(isa(), true, a, b, c, output);
}

/// [`gemm`] on the calling thread alone; for callers that are parallel themselves.
pub fn gemm_serial(a: Matrix, b: Matrix, c: MatrixMut, output: Output) {
    run(isa(), false, a, b, c, output);
}

/// [`gemm`] with a given instruction set, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn gemm_with_isa(which: Isa, a: Matrix, b: Matrix, c: MatrixMut, output: Output) {
    assert!(
        which.is_available(),
        "{which:?} is not offered by this processor"
    );
    run(which, true, a, b, c, output);
}

fn run(isa: Isa, parallel: bool, a: Matrix, b: Matrix, c: MatrixMut, output: Output) {
    assert_eq!(a.cols, b.rows, "columns of A against rows of B");
    assert_eq!((a.rows, b.cols), (c.rows, c.cols), "shape of the result");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if a.cols == 0 {
        return c.clear(output);
    }
    let work = a.rows * b.cols * a.cols;
    let parallel = parallel && rayon::current_num_threads() > 1 && work >= PARALLEL_FROM;
    if a.rows <= skinny::MAX_ROWS && b.col_stride == 1 {
        // SAFETY: the elements lie in the slice, which stays borrowed.
        let b = unsafe {
            skinny::Rows::<f32>::new(b.data.as_ptr().cast(), b.rows, b.cols, b.row_stride)
        };
        return skinny::run(isa, parallel, a, &b, c, output);
    }
    by_blocks(isa, parallel, a, &b, c, output);
}

/// The product by blocks, of a `B` that may be made up while it is packed. The shapes match and none is
/// zero, and the processor has the instruction set.
pub(crate) fn by_blocks(
    isa: Isa,
    parallel: bool,
    a: Matrix,
    b: &impl Columns,
    c: MatrixMut,
    output: Output,
) {
    by_blocks_within(caches(), isa, parallel, a, b, c, output);
}

/// [`by_blocks`] as on a core with these caches.
fn by_blocks_within(
    caches: Caches,
    isa: Isa,
    parallel: bool,
    a: Matrix,
    b: &impl Columns,
    c: MatrixMut,
    output: Output,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => blocked::<Avx512>(caches, parallel, a, b, c, output),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => blocked::<Avx2>(caches, parallel, a, b, c, output),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => blocked::<Neon>(caches, parallel, a, b, c, output),
        _ => blocked::<Portable>(caches, parallel, a, b, c, output),
    }
}

/// [`gemm_serial`] with a `B` that is made up while it is packed; always by blocks.
pub(crate) fn gemm_packing(a: Matrix, b: &impl Columns, c: MatrixMut, output: Output) {
    assert_eq!(
        (a.cols, a.rows),
        (b.depth(), c.rows),
        "rows of B and C against A"
    );
    assert_eq!(b.len(), c.cols, "columns of B against C");
    if c.rows == 0 || c.cols == 0 || a.cols == 0 {
        assert!(
            output == Output::Accumulate || c.rows == 0 || c.cols == 0,
            "an empty product to overwrite"
        );
        return;
    }
    by_blocks(isa(), false, a, b, c, output);
}

/// Multiply-adds below which a second thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 19;

/// How much is packed at a time, by the caches of one core.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    /// Rows of `k` of a packed panel of `B`: as many as an eighth of the L2 cache holds, in equal parts. (Tiles read both
    /// factors from that cache in time; C, which may be in none, they read and write once for each part.)
    kc: usize,
    /// Rows of `A` that are taken together: with `kc`, a quarter of the L2 cache.
    mc: usize,
    /// Floats of `B` that are packed at a time: half of the L2 cache.
    packed_b: usize,
    /// Whether a set of the L1 cache holds a line of each row of a tile, where rows are whole pages apart. (It has as
    /// many sets as a page has lines: so it can be looked up before the page is known.)
    holds_rows: bool,
}

impl Blocks {
    fn of(caches: Caches, mr: usize, nr: usize, a: &Matrix) -> Self {
        let k = a.cols;
        // Rows of A that have to be gathered are the quicker to read the more of them are taken together.
        let part = if a.col_stride == 1 { 8 } else { 32 };
        let most = (caches.l2 / part / size_of::<f32>() / nr / 16 * 16).clamp(64, 2048);
        let kc = k.div_ceil(k.div_ceil(most)).next_multiple_of(16);
        Self {
            kc,
            mc: (caches.l2 / 16 / kc / mr).clamp(4, 40) * mr,
            packed_b: (caches.l2 / 8).max(kc * nr),
            holds_rows: mr <= caches.l1 / PAGE,
        }
    }
}

/// Bytes of a page.
const PAGE: usize = 4096;

/// Panels of `B` that a task has at least, where there are as many: so that long rows of memory are read on.
const PANELS: usize = 4;

/// A rectangle of C is a task; each packs what it takes of `B` into its own cache, where the threads would wait for
/// each other and for the last cache if they packed together.
fn blocked<T: Tile>(
    caches: Caches,
    parallel: bool,
    a: Matrix,
    b: &impl Columns,
    c: MatrixMut,
    output: Output,
) {
    let (m, n) = (a.rows, c.cols);
    let blocks = Blocks::of(caches, T::MR, T::NR, &a);
    let target = Target {
        data: SharedPtr::new(c.data),
        stride: c.row_stride,
        load: output == Output::Accumulate,
    };
    if !parallel {
        // SAFETY: the whole result, which is borrowed mutably.
        return unsafe { rectangle::<T>(blocks, a, b, target, 0..m, 0..n) };
    }
    let tasks = 4 * rayon::current_num_threads();
    // By columns where they are enough; then each part of `B` is packed once.
    let panels = n.div_ceil(T::NR);
    let columns = panels.div_ceil(tasks).max(PANELS.min(panels)) * T::NR;
    let column_tasks = n.div_ceil(columns);
    let row_tasks = (tasks / column_tasks).clamp(1, m.div_ceil(4 * T::MR));
    let rows = m.div_ceil(row_tasks).next_multiple_of(T::MR);
    let row_tasks = m.div_ceil(rows);
    team::for_each(row_tasks * column_tasks, |index| {
        let (row, column) = (index % row_tasks * rows, index / row_tasks * columns);
        let (rows, columns) = (row..m.min(row + rows), column..n.min(column + columns));
        // SAFETY: each task has a rectangle of its own.
        unsafe { rectangle::<T>(blocks, a, b, target, rows, columns) };
    });
}

/// Where a result is written to.
#[derive(Clone, Copy)]
struct Target {
    data: SharedPtr<f32>,
    stride: usize,
    /// Whether chains begin at its content.
    load: bool,
}

/// Computes some rows and columns of C.
///
/// # Safety
/// They lie within C, and nothing else reads or writes them. The shapes match, and the processor has the instruction
/// set.
unsafe fn rectangle<T: Tile>(
    blocks: Blocks,
    a: Matrix,
    b: &impl Columns,
    c: Target,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    let (k, ldc) = (a.cols, c.stride);
    let kc = blocks.kc;
    // Rows of A that are contiguous are read in place, unless they would push each other out of the L1 cache; then they
    // are copied closer together.
    let contiguous = a.col_stride == 1;
    let apart = !a.row_stride.is_multiple_of(PAGE / size_of::<f32>());
    let in_place = contiguous && (apart || blocks.holds_rows || columns.len() <= T::NR);
    let copied = kc + 16;
    // Columns at a time: all of them, unless a single block of k would already be too much.
    let nc = (blocks.packed_b / kc.min(k) / T::NR).max(1) * T::NR;
    for j0 in columns.clone().step_by(nc) {
        let cols = nc.min(columns.end - j0);
        let panels = cols.div_ceil(T::NR);
        let depth = (blocks.packed_b / (panels * T::NR)).max(kc) / kc * kc;
        for k0 in (0..k).step_by(depth) {
            let depth = depth.min(k - k0);
            with_scratch(depth * panels * T::NR, |packed_b| {
                // Block after block of k, within it panel after panel.
                for p0 in (0..depth).step_by(kc) {
                    let kc = kc.min(depth - p0);
                    let start = p0 * panels * T::NR;
                    let target = &mut packed_b[start..][..kc * panels * T::NR];
                    b.pack(target, T::NR, k0 + p0, kc, j0, cols);
                }
                let packed_b = &*packed_b;
                for i0 in rows.clone().step_by(blocks.mc) {
                    let rows = blocks.mc.min(rows.end - i0);
                    let scratch = match (in_place, contiguous) {
                        (true, _) => 0,
                        (false, true) => rows * copied,
                        (false, false) => rows.next_multiple_of(T::MR) * kc,
                    };
                    with_scratch(scratch, |packed_a| {
                        for p0 in (0..depth).step_by(kc) {
                            let kc = kc.min(depth - p0);
                            if contiguous && !in_place {
                                for (i, to) in packed_a.chunks_exact_mut(copied).enumerate() {
                                    let from = (i0 + i) * a.row_stride + k0 + p0;
                                    to[..kc].copy_from_slice(&a.data[from..][..kc]);
                                }
                            } else if !contiguous {
                                pack::rows::<T>(packed_a, a, i0, rows, k0 + p0, kc);
                            }
                            // Where rows of A lie, from the first of this part on.
                            let (from, lda) = match (in_place, contiguous) {
                                (true, _) => {
                                    (a.data[i0 * a.row_stride + k0 + p0..].as_ptr(), a.row_stride)
                                }
                                (false, true) => (packed_a.as_ptr(), copied),
                                (false, false) => (packed_a.as_ptr(), kc),
                            };
                            let load = c.load || k0 + p0 > 0;
                            for panel in 0..panels {
                                let jp = panel * T::NR;
                                let bp = &packed_b[p0 * panels * T::NR + jp * kc..][..kc * T::NR];
                                for ip in (0..rows).step_by(T::MR) {
                                    let (tm, tn) = (T::MR.min(rows - ip), T::NR.min(cols - jp));
                                    // SAFETY: the panels hold `kc` steps; the tile of `tm`×`tn`
                                    // lies within the rectangle and its rows within A.
                                    unsafe {
                                        let at = c.data.get().add((i0 + ip) * ldc + j0 + jp);
                                        let bp = bp.as_ptr();
                                        let ap = from.add(ip * lda);
                                        if contiguous {
                                            T::run::<true>(kc, ap, lda, bp, at, ldc, tm, tn, load);
                                        } else {
                                            T::run::<false>(kc, ap, 0, bp, at, ldc, tm, tn, load);
                                        }
                                    }
                                }
                            }
                        }
                    });
                }
            });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
