//! The register tiles: `MR` rows of `A` times `NR` columns of `B`, one multiply-add chain per element.

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Portable, Vector};

/// A register tile for one instruction set.
pub(super) trait Tile: Vector {
    /// Rows.
    const MR: usize;
    /// Columns.
    const NR: usize;

    /// Computes the first `m` rows and `n` columns of a tile of C from packed panels,
    /// `a[p · MR + i]` and `b[p · NR + j]` for `p` in `0..k`; with `ROWS` from an `A` in place,
    /// `a[i · lda + p]`. With `load` the chains begin at C's content, else at zero.
    ///
    /// # Safety
    /// The processor has the instruction set; the panels hold `k` full steps, or A `m`×`k` elements;
    /// C's `m`×`n` elements with row stride `ldc` may be written.
    unsafe fn run<const ROWS: bool>(
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        c: *mut f32,
        ldc: usize,
        m: usize,
        n: usize,
        load: bool,
    );
}

/// The arguments of [`Tile::run`], for `R` rows of a tile of `MR`×`N` registers.
struct Product<const R: usize, const MR: usize, const N: usize, const ROWS: bool> {
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    n: usize,
    load: bool,
}

impl<const R: usize, const MR: usize, const N: usize, const ROWS: bool> Kernel
    for Product<R, MR, N, ROWS>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { lda, c, ldc, n, .. } = self;
        // SAFETY: the caller's, see `Tile::run`. Pointers to lanes that are not there stay unused.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; R];
            let whole = n == N * V::LANES;
            if self.load {
                for (i, row) in acc.iter_mut().enumerate() {
                    for (j, x) in row.iter_mut().enumerate() {
                        let at = c.wrapping_add(i * ldc + j * V::LANES);
                        *x = if whole {
                            V::load(at)
                        } else {
                            V::load_first(at, n.saturating_sub(j * V::LANES))
                        };
                    }
                }
            }
            // Every third row has a pointer: the others are within its addressing modes.
            let mut bases: [*const f32; 4] =
                std::array::from_fn(|group| self.a.wrapping_add(3 * group * lda));
            let mut b = self.b;
            for _ in 0..self.k {
                let w: [V; N] = std::array::from_fn(|j| V::load(b.add(j * V::LANES)));
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = if ROWS {
                        bases[i / 3].add(i % 3 * lda)
                    } else {
                        bases[0].add(i)
                    };
                    let x = V::splat(*x);
                    for (y, w) in row.iter_mut().zip(w) {
                        *y = x.multiply_add(w, *y);
                    }
                }
                if ROWS {
                    for base in &mut bases {
                        *base = base.wrapping_add(1);
                    }
                } else {
                    bases[0] = bases[0].wrapping_add(MR);
                }
                b = b.add(N * V::LANES);
            }
            for (i, row) in acc.into_iter().enumerate() {
                for (j, x) in row.into_iter().enumerate() {
                    let at = c.wrapping_add(i * ldc + j * V::LANES);
                    if whole {
                        x.store(at);
                    } else {
                        x.store_first(at, n.saturating_sub(j * V::LANES));
                    }
                }
            }
        }
    }
}

/// Gives a register its tile of this many rows and registers a row; rows are listed for the edges.
macro_rules! tile {
    ($vector:ty, $mr:literal x $registers:literal, $($rows:literal)*) => {
        impl Tile for $vector {
            const MR: usize = $mr;
            const NR: usize = $registers * <$vector as Vector>::LANES;

            #[inline]
            unsafe fn run<const ROWS: bool>(
                k: usize,
                a: *const f32,
                lda: usize,
                b: *const f32,
                c: *mut f32,
                ldc: usize,
                m: usize,
                n: usize,
                load: bool,
            ) {
                match m {
                    $($rows => {
                        let product = Product::<$rows, $mr, $registers, ROWS> {
                            k, a, lda, b, c, ldc, n, load,
                        };
                        // SAFETY: the caller's.
                        unsafe { Self::enter(product) }
                    })*
                    _ => unreachable!("a tile has no {m} rows"),
                }
            }
        }
    };
}

tile!(Portable, 4 x 1, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
tile!(Avx2, 6 x 2, 1 2 3 4 5 6);
#[cfg(target_arch = "x86_64")]
tile!(Avx512, 12 x 2, 1 2 3 4 5 6 7 8 9 10 11 12);
#[cfg(target_arch = "aarch64")]
tile!(Neon, 8 x 3, 1 2 3 4 5 6 7 8);
