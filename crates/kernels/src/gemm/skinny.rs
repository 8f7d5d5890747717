//! Products with few rows of `A`: every element of `B` is read once, in place, by sweeps along some of
//! its rows at a time, and the few rows of C stay in the cache.

use std::marker::PhantomData;

use super::{Matrix, MatrixMut, Output};
use crate::isa::Isa;
use crate::shared::{SharedPtr, with_scratch};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Portable, Vector};
use crate::team;

/// Rows of `A` up to which sweeping beats packing `B`.
pub(crate) const MAX_ROWS: usize = 16;

/// Most bytes of a row of B in a task: memory is quickest with long ones, and the sums, up to 128 KiB, stay in the L2
/// cache.
const MOST_BYTES: usize = 8192;

/// Floats between two rows of sums: a cache line, so that rows lie in different sets of the cache.
const GAP: usize = 16;

/// Rows of `B` in one sweep: as many streams as the processor follows.
const DEPTH: usize = 8;

/// Bytes of a row between what is multiplied and what is prefetched meanwhile.
const AHEAD: usize = 1024;

/// How the elements of `B` are stored.
pub(crate) trait Element: Sync {
    /// Bytes of one.
    const SIZE: usize;

    /// Reads a register of them, or the first `n`.
    ///
    /// # Safety
    /// As for [`Vector::load`] and [`Vector::load_first`].
    unsafe fn load<V: Vector>(at: *const u8) -> V;

    /// See [`Self::load`].
    #[allow(clippy::missing_safety_doc)]
    unsafe fn load_first<V: Vector>(at: *const u8, n: usize) -> V;
}

impl Element for f32 {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_first<V: Vector>(at: *const u8, n: usize) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_first(at.cast(), n) }
    }
}

/// A matrix whose rows are contiguous, `stride` elements apart.
pub(crate) struct Rows<'a, E> {
    data: SharedPtr<u8>,
    rows: usize,
    cols: usize,
    stride: usize,
    memory: PhantomData<&'a E>,
}

impl<'a, E: Element> Rows<'a, E> {
    /// # Safety
    /// For as long as `'a`, the elements `[i, j]` at `data + i · stride + j` may be read.
    pub(crate) unsafe fn new(data: *const u8, rows: usize, cols: usize, stride: usize) -> Self {
        Self {
            data: SharedPtr::new(data.cast_mut()),
            rows,
            cols,
            stride,
            memory: PhantomData,
        }
    }

    fn at(&self, i: usize, j: usize) -> *const u8 {
        debug_assert!(i < self.rows && j < self.cols);
        // SAFETY: the element exists.
        unsafe { self.data.get().add((i * self.stride + j) * E::SIZE) }
    }
}

/// The product of up to [`MAX_ROWS`] rows; the shapes match, and the processor has the instruction set.
pub(crate) fn run<E: Element>(
    isa: Isa,
    parallel: bool,
    a: Matrix,
    b: &Rows<E>,
    c: MatrixMut,
    output: Output,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(
        k == b.rows && m == c.rows && n == c.cols,
        "shapes were checked"
    );
    if k == 0 {
        return c.clear(output);
    }
    // A in rows without gaps.
    with_scratch(m * k, |rows| {
        for (i, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
            a.copy_row(i, row);
        }
        let rows = &*rows;
        let out = SharedPtr::new(c.data);
        let ldc = c.row_stride;
        // Parts of the rows of A, as equal as can be.
        let parts = m.div_ceil(most_rows(isa));
        let each = m.div_ceil(parts);
        let threads = if parallel {
            rayon::current_num_threads()
        } else {
            1
        };
        // As many columns for each thread, in whole cache lines.
        let tasks = n.div_ceil(MOST_BYTES / E::SIZE).next_multiple_of(threads);
        let columns = n.div_ceil(tasks).next_multiple_of(32);
        let task = |index: usize| {
            let j0 = index * columns;
            let n = columns.min(n - j0);
            // Sums stand in memory of this thread until they are whole: in C, tasks would write to both halves of a cache
            // line by turns, and rows that are a multiple of 4 KiB apart would wait for each other's stores.
            let stride = columns + GAP;
            with_scratch(m * stride, |sums| {
                if output == Output::Accumulate {
                    for (i, sums) in sums.chunks_exact_mut(stride).enumerate() {
                        // SAFETY: the row and its columns lie within C, and no other task has them.
                        let row =
                            unsafe { std::slice::from_raw_parts(out.get().add(i * ldc + j0), n) };
                        sums[..n].copy_from_slice(row);
                    }
                }
                for p0 in (0..k).step_by(DEPTH) {
                    for i in (0..m).step_by(each) {
                        // SAFETY: rows and columns lie within A, B and the sums.
                        unsafe {
                            let place = SweepOperands {
                                n,
                                depth: DEPTH.min(k - p0),
                                prefetch: i == 0,
                                a: rows.as_ptr().add(i * k + p0),
                                lda: k,
                                b: b.at(p0, j0),
                                ldb: b.stride * E::SIZE,
                                c: sums.as_mut_ptr().add(i * stride),
                                ldc: stride,
                                load: p0 > 0 || output == Output::Accumulate,
                            };
                            sweep::<E>(isa, each.min(m - i), place);
                        }
                    }
                }
                for (i, sums) in sums.chunks_exact(stride).enumerate() {
                    // SAFETY: as above; the tasks' columns are their own.
                    unsafe {
                        let row = out.get().add(i * ldc + j0);
                        std::ptr::copy_nonoverlapping(sums.as_ptr(), row, n);
                    }
                }
            });
        };
        if parallel {
            team::for_each(n.div_ceil(columns), task);
        } else {
            (0..n.div_ceil(columns)).for_each(task);
        }
    });
}

/// Rows of A that a sweep takes: what the accumulators have registers for.
fn most_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Neon => 8,
        Isa::Avx2 => 6,
        Isa::Portable => 4,
    }
}

/// Where a sweep reads and writes; `ldb` in bytes. With `load` the chains begin at C's content.
#[derive(Clone, Copy)]
struct SweepOperands {
    n: usize,
    depth: usize,
    /// Whether what comes next of B is prefetched meanwhile: each row begins in another page, where the processor does
    /// not look ahead by itself.
    prefetch: bool,
    a: *const f32,
    lda: usize,
    b: *const u8,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    load: bool,
}

impl SweepOperands {
    /// Bytes between column `j` of B and what is prefetched with it: [`AHEAD`], and at the end of a row the next sweep's.
    fn ahead<E: Element>(&self, j: usize) -> usize {
        if j * E::SIZE + AHEAD < self.n * E::SIZE {
            AHEAD
        } else {
            (DEPTH * self.ldb + AHEAD).wrapping_sub(self.n * E::SIZE)
        }
    }
}

/// `c[r][j] += Σ_p a[r][p] · b[p][j]` for some rows, `p` ascending.
///
/// # Safety
/// The processor has the instruction set; `rows` rows of A and C, `depth` of B, `n` columns.
unsafe fn sweep<E: Element>(isa: Isa, rows: usize, place: SweepOperands) {
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => sweep_on::<Avx512, E>(rows, place),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => sweep_on::<Avx2, E>(rows, place),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => sweep_on::<Neon, E>(rows, place),
            _ => sweep_on::<Portable, E>(rows, place),
        }
    }
}

/// # Safety
/// As for [`sweep`].
unsafe fn sweep_on<V: Vector, E: Element>(rows: usize, place: SweepOperands) {
    // SAFETY: the caller's. Enough chains of multiply-adds stand side by side that none waits for itself.
    unsafe {
        match rows {
            1 => V::enter(Sweep::<E, 1, 8>::new(place)),
            2 => V::enter(Sweep::<E, 2, 4>::new(place)),
            3 => V::enter(Sweep::<E, 3, 2>::new(place)),
            4 => V::enter(Sweep::<E, 4, 2>::new(place)),
            5 => V::enter(Sweep::<E, 5, 2>::new(place)),
            6 => V::enter(Sweep::<E, 6, 2>::new(place)),
            7 => V::enter(Sweep::<E, 7, 2>::new(place)),
            8 => V::enter(Sweep::<E, 8, 2>::new(place)),
            _ => unreachable!("no sweep has {rows} rows"),
        }
    }
}

/// A sweep of `R` rows in tiles of `N` registers.
struct Sweep<E, const R: usize, const N: usize> {
    place: SweepOperands,
    element: PhantomData<E>,
}

impl<E: Element, const R: usize, const N: usize> Sweep<E, R, N> {
    fn new(place: SweepOperands) -> Self {
        Self {
            place,
            element: PhantomData,
        }
    }
}

impl<E: Element, const R: usize, const N: usize> Kernel for Sweep<E, R, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        if R <= 2 && self.place.depth == DEPTH {
            // SAFETY: the caller's.
            return unsafe { along::<V, E, R>(self.place) };
        }
        let SweepOperands { n, b, c, .. } = self.place;
        let at = |j: usize| SweepOperands {
            // SAFETY: there are `n` columns.
            b: unsafe { b.add(j * E::SIZE) },
            // SAFETY: as above.
            c: unsafe { c.add(j) },
            n: n - j,
            ..self.place
        };
        let mut j = 0;
        // SAFETY: the caller's, see `sweep`.
        unsafe {
            while j + N * V::LANES <= n {
                tile::<V, E, R, N, true>(at(j), self.place.ahead::<E>(j));
                j += N * V::LANES;
            }
            while j < n {
                tile::<V, E, R, 1, false>(at(j), self.place.ahead::<E>(j));
                j += V::LANES;
            }
        }
    }
}

/// All columns, with [`DEPTH`] rows of B: their factors stay in registers.
#[inline(always)]
unsafe fn along<V: Vector, E: Element, const R: usize>(place: SweepOperands) {
    let SweepOperands {
        n,
        a,
        lda,
        b,
        ldb,
        c,
        ldc,
        load,
        ..
    } = place;
    // SAFETY: the caller's, see `sweep`.
    unsafe {
        let x: [[V; DEPTH]; R] =
            std::array::from_fn(|r| std::array::from_fn(|p| V::splat(*a.add(r * lda + p))));
        let mut j = 0;
        while j < n {
            let whole = j + V::LANES <= n;
            let mut acc: [V; R] = std::array::from_fn(|r| {
                let at = c.add(r * ldc + j);
                match (load, whole) {
                    (false, _) => V::splat(0.0),
                    (true, true) => V::load(at),
                    (true, false) => V::load_first(at, n - j),
                }
            });
            let ahead = place.ahead::<E>(j);
            for p in 0..DEPTH {
                let at = b.add(p * ldb + j * E::SIZE);
                let w = if whole {
                    E::load::<V>(at)
                } else {
                    E::load_first::<V>(at, n - j)
                };
                if place.prefetch && (j * E::SIZE).is_multiple_of(64) {
                    V::prefetch(at.wrapping_add(ahead));
                }
                for r in 0..R {
                    acc[r] = x[r][p].multiply_add(w, acc[r]);
                }
            }
            for (r, y) in acc.into_iter().enumerate() {
                let at = c.add(r * ldc + j);
                if whole {
                    y.store(at);
                } else {
                    y.store_first(at, n - j);
                }
            }
            j += V::LANES;
        }
    }
}

/// `R` rows and `N` registers of columns, all of them there if `WHOLE`; what is `ahead` bytes further on is prefetched.
#[inline(always)]
unsafe fn tile<V: Vector, E: Element, const R: usize, const N: usize, const WHOLE: bool>(
    place: SweepOperands,
    ahead: usize,
) {
    let SweepOperands { n, c, ldc, lda, .. } = place;
    // SAFETY: the caller's, see `sweep`.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        if place.load {
            for (r, row) in acc.iter_mut().enumerate() {
                for (i, y) in row.iter_mut().enumerate() {
                    let at = c.add(r * ldc + i * V::LANES);
                    *y = if WHOLE {
                        V::load(at)
                    } else {
                        V::load_first(at, n)
                    };
                }
            }
        }
        // Every third row has a pointer: the others are within its addressing modes.
        let mut bases: [*const f32; 3] =
            std::array::from_fn(|group| place.a.wrapping_add(3 * group * lda));
        let mut b = place.b;
        for _ in 0..place.depth {
            let w: [V; N] = std::array::from_fn(|i| {
                let at = b.add(i * V::LANES * E::SIZE);
                if WHOLE {
                    E::load(at)
                } else {
                    E::load_first(at, n)
                }
            });
            if place.prefetch {
                for at in (0..N * V::LANES * E::SIZE).step_by(64) {
                    V::prefetch(b.wrapping_add(ahead + at));
                }
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let x = V::splat(*bases[r / 3].add(r % 3 * lda));
                for (y, w) in row.iter_mut().zip(w) {
                    *y = x.multiply_add(w, *y);
                }
            }
            for base in &mut bases {
                *base = base.wrapping_add(1);
            }
            b = b.wrapping_add(place.ldb);
        }
        for (r, row) in acc.into_iter().enumerate() {
            for (i, y) in row.into_iter().enumerate() {
                let at = c.add(r * ldc + i * V::LANES);
                if WHOLE {
                    y.store(at);
                } else {
                    y.store_first(at, n);
                }
            }
        }
    }
}
