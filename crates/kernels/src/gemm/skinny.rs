//! Products with few rows of `A`: every element of `B` is read once, in place, by sweeps over several
//! of its rows at a time, and the few rows of C stay in the cache.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::{Into, Matrix, MatrixMut};
use crate::isa::Isa;
use crate::shared::{SharedPtr, with_scratch};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Portable, Vector};

/// Rows of `A` up to which sweeping beats packing `B`.
pub(crate) const MAX_ROWS: usize = 16;

/// Columns a sweep covers: with four rows of C, 16 KiB of the L1 cache.
const COLUMNS: usize = 1024;

/// Rows of `B` in one sweep: as many streams as the prefetcher follows.
const STEP: usize = 8;

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
        unsafe { V::load(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_first<V: Vector>(at: *const u8, n: usize) -> V {
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
    into: Into,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(
        k == b.rows && m == c.rows && n == c.cols,
        "shapes were checked"
    );
    if k == 0 {
        return c.clear(into);
    }
    // A in rows without gaps.
    with_scratch(m * k, |rows| {
        for (i, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
            a.copy_row(i, row);
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
                        let place = Place {
                            n,
                            a: rows.as_ptr().add(i * k + p0),
                            lda: k,
                            b: b.at(p0, j0),
                            ldb: b.stride * E::SIZE,
                            c: out.get().add(i * ldc + j0),
                            ldc,
                            load,
                        };
                        let steps = STEP.min(k - p0);
                        i += match left {
                            1 => sweep::<E, 1>(isa, steps, place),
                            2 | 3 => sweep::<E, 2>(isa, steps, place),
                            _ => sweep::<E, 4>(isa, steps, place),
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

/// Where a sweep reads and writes; `ldb` in bytes. With `load` the chains begin at C's content.
#[derive(Clone, Copy)]
struct Place {
    n: usize,
    a: *const f32,
    lda: usize,
    b: *const u8,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    load: bool,
}

/// Sweeps over `steps` rows of `B`; returns `R`.
///
/// # Safety
/// The processor has the instruction set; `R` rows of A and C, `steps` of B, `n` columns.
#[inline]
unsafe fn sweep<E: Element, const R: usize>(isa: Isa, steps: usize, place: Place) -> usize {
    let all = Sweeps::<E, R> {
        steps,
        place,
        element: PhantomData,
    };
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::enter(all),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::enter(all),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::enter(all),
            _ => Portable::enter(all),
        }
    }
    R
}

struct Sweeps<E, const R: usize> {
    steps: usize,
    place: Place,
    element: PhantomData<E>,
}

impl<E: Element, const R: usize> Kernel for Sweeps<E, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { steps, place, .. } = self;
        // SAFETY: the caller's.
        unsafe {
            if steps == STEP && R < 4 {
                return once::<V, E, R, STEP>(place);
            }
            let at = |p: usize| Place {
                a: place.a.add(p),
                b: place.b.add(p * place.ldb),
                load: place.load || p > 0,
                ..place
            };
            let mut p = 0;
            while p + 4 <= steps {
                once::<V, E, R, 4>(at(p));
                p += 4;
            }
            while p < steps {
                once::<V, E, R, 1>(at(p));
                p += 1;
            }
        }
    }
}

/// `c[r][j] += Σ_p a[r][p] · b[p][j]` for `R` rows, `p` ascending over `P` rows of B.
#[inline(always)]
unsafe fn once<V: Vector, E: Element, const R: usize, const P: usize>(place: Place) {
    let Place {
        n,
        a,
        lda,
        b,
        ldb,
        c,
        ldc,
        load,
    } = place;
    // SAFETY: the caller's, see `sweep`.
    unsafe {
        let x: [[V; P]; R] =
            std::array::from_fn(|r| std::array::from_fn(|p| V::splat(*a.add(r * lda + p))));
        let mut j = 0;
        while j + V::LANES <= n {
            let mut acc: [V; R] = std::array::from_fn(|r| {
                if load {
                    V::load(c.add(r * ldc + j))
                } else {
                    V::splat(0.0)
                }
            });
            for p in 0..P {
                let w = E::load::<V>(b.add(p * ldb + j * E::SIZE));
                for r in 0..R {
                    acc[r] = x[r][p].multiply_add(w, acc[r]);
                }
            }
            for (r, y) in acc.into_iter().enumerate() {
                y.store(c.add(r * ldc + j));
            }
            j += V::LANES;
        }
        if j < n {
            for r in 0..R {
                let at = c.add(r * ldc + j);
                let mut y = if load {
                    V::load_first(at, n - j)
                } else {
                    V::splat(0.0)
                };
                for p in 0..P {
                    let w = E::load_first::<V>(b.add(p * ldb + j * E::SIZE), n - j);
                    y = x[r][p].multiply_add(w, y);
                }
                y.store_first(at, n - j);
            }
        }
    }
}
