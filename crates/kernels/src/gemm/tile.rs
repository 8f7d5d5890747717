//! The register tiles: `MR` rows of `A` times `NR` columns of `B`, one multiply-add chain per element.
// Indices name the lane, the row and the step: iterators would hide which is which.
#![allow(clippy::needless_range_loop)]

/// A register tile for one instruction set.
pub(super) trait Tile {
    /// Rows.
    const MR: usize;
    /// Columns.
    const NR: usize;

    /// Computes the first `m` rows and `n` columns of a tile of C from packed panels,
    /// `a[p · MR + i]` and `b[p · NR + j]` for `p` in `0..k`. With `load` the chains begin at C's
    /// content, else at zero.
    ///
    /// # Safety
    /// The processor has the instruction set; the panels hold `k` full steps; C's `m`×`n` elements
    /// with row stride `ldc` may be written.
    #[allow(clippy::too_many_arguments)]
    unsafe fn run(
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        ldc: usize,
        m: usize,
        n: usize,
        load: bool,
    );

    /// [`Tile::run`] with `A` in place, its rows contiguous: `a[i · lda + p]`.
    ///
    /// # Safety
    /// As for [`Tile::run`], with `m`×`k` elements of A.
    #[allow(clippy::too_many_arguments)]
    unsafe fn run_rows(
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

    /// `c[r][j] += Σ_p a[r][p] · b[p][j]` for `R` rows and `n` columns, `p` ascending over `P` rows of
    /// B with row stride `ldb`, read in one sweep. `a[r · lda + p]`.
    ///
    /// # Safety
    /// As for [`Tile::run`], with `R`×`P` elements of A and `P`×`n` of B.
    #[allow(clippy::too_many_arguments)]
    unsafe fn sweep<const R: usize, const P: usize>(
        n: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        load: bool,
    );
}

/// Plain Rust.
pub(super) struct Portable;

/// A multiply-add: fused where the target has it, else with a rounded product (emulating the fused
/// one costs some hundred instructions).
#[inline(always)]
pub(crate) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

impl Tile for Portable {
    const MR: usize = 4;
    const NR: usize = 8;

    unsafe fn run(
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        ldc: usize,
        m: usize,
        n: usize,
        load: bool,
    ) {
        let mut acc = [[0.0f32; Self::NR]; Self::MR];
        unsafe {
            if load {
                for (i, row) in acc.iter_mut().enumerate().take(m) {
                    for (j, x) in row.iter_mut().enumerate().take(n) {
                        *x = *c.add(i * ldc + j);
                    }
                }
            }
            for p in 0..k {
                let a = &*a.add(p * Self::MR).cast::<[f32; 4]>();
                let b = &*b.add(p * Self::NR).cast::<[f32; 8]>();
                for (row, &a) in acc.iter_mut().zip(a) {
                    for (x, &b) in row.iter_mut().zip(b) {
                        *x = multiply_add(a, b, *x);
                    }
                }
            }
            for (i, row) in acc.iter().enumerate().take(m) {
                for (j, &x) in row.iter().enumerate().take(n) {
                    *c.add(i * ldc + j) = x;
                }
            }
        }
    }

    unsafe fn run_rows(
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
        for i in 0..m {
            let mut acc = [0.0f32; Self::NR];
            unsafe {
                let at = c.add(i * ldc);
                if load {
                    for (j, x) in acc.iter_mut().enumerate().take(n) {
                        *x = *at.add(j);
                    }
                }
                for p in 0..k {
                    let a = *a.add(i * lda + p);
                    let b = &*b.add(p * Self::NR).cast::<[f32; 8]>();
                    for (x, &b) in acc.iter_mut().zip(b) {
                        *x = multiply_add(a, b, *x);
                    }
                }
                for (j, &x) in acc.iter().enumerate().take(n) {
                    *at.add(j) = x;
                }
            }
        }
    }

    unsafe fn sweep<const R: usize, const P: usize>(
        n: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        load: bool,
    ) {
        for r in 0..R {
            for j in 0..n {
                unsafe {
                    let at = c.add(r * ldc + j);
                    let mut x = if load { *at } else { 0.0 };
                    for p in 0..P {
                        x = multiply_add(*a.add(r * lda + p), *b.add(p * ldb + j), x);
                    }
                    *at = x;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Tile;
    use std::arch::x86_64::*;

    /// 6×16: twelve accumulators of eight floats.
    pub struct Avx2;

    /// Lanes `0..n` of eight.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn mask8(n: usize) -> __m256i {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), lanes)
    }

    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn avx2<const R: usize, const ROWS: bool>(
        k: usize,
        a: *const f32,
        lda: usize,
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
        n: usize,
        load: bool,
    ) {
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            let masks = [mask8(n), mask8(n.saturating_sub(8))];
            let whole = n == 16;
            if load {
                for (i, row) in acc.iter_mut().enumerate() {
                    let at = c.add(i * ldc);
                    if whole {
                        *row = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
                    } else {
                        row[0] = _mm256_maskload_ps(at, masks[0]);
                        row[1] = _mm256_maskload_ps(at.wrapping_add(8), masks[1]);
                    }
                }
            }
            // Every third row has a pointer: the others are within its addressing modes.
            let mut bases: [*const f32; 2] = std::array::from_fn(|g| a.wrapping_add(3 * g * lda));
            for _ in 0..k {
                let b0 = _mm256_loadu_ps(b);
                let b1 = _mm256_loadu_ps(b.add(8));
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = if ROWS {
                        bases[i / 3].add(i % 3 * lda)
                    } else {
                        bases[0].add(i)
                    };
                    let x = _mm256_set1_ps(*x);
                    row[0] = _mm256_fmadd_ps(x, b0, row[0]);
                    row[1] = _mm256_fmadd_ps(x, b1, row[1]);
                }
                if ROWS {
                    for base in &mut bases {
                        *base = base.wrapping_add(1);
                    }
                } else {
                    bases[0] = bases[0].wrapping_add(Avx2::MR);
                }
                b = b.add(Avx2::NR);
            }
            for (i, row) in acc.iter().enumerate() {
                let at = c.add(i * ldc);
                if whole {
                    _mm256_storeu_ps(at, row[0]);
                    _mm256_storeu_ps(at.add(8), row[1]);
                } else {
                    _mm256_maskstore_ps(at, masks[0], row[0]);
                    _mm256_maskstore_ps(at.wrapping_add(8), masks[1], row[1]);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn sweep_avx2<const R: usize, const P: usize>(
        n: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        load: bool,
    ) {
        unsafe {
            let x: [[__m256; P]; R] = std::array::from_fn(|r| {
                std::array::from_fn(|p| _mm256_broadcast_ss(&*a.add(r * lda + p)))
            });
            let mut j = 0;
            while j + 8 <= n {
                let mut acc = [_mm256_setzero_ps(); R];
                if load {
                    for (r, y) in acc.iter_mut().enumerate() {
                        *y = _mm256_loadu_ps(c.add(r * ldc + j));
                    }
                }
                for p in 0..P {
                    let w = _mm256_loadu_ps(b.add(p * ldb + j));
                    for r in 0..R {
                        acc[r] = _mm256_fmadd_ps(x[r][p], w, acc[r]);
                    }
                }
                for (r, y) in acc.iter().enumerate() {
                    _mm256_storeu_ps(c.add(r * ldc + j), *y);
                }
                j += 8;
            }
            if j < n {
                let mask = mask8(n - j);
                for r in 0..R {
                    let at = c.add(r * ldc + j);
                    let mut y = if load {
                        _mm256_maskload_ps(at, mask)
                    } else {
                        _mm256_setzero_ps()
                    };
                    for p in 0..P {
                        let w = _mm256_maskload_ps(b.add(p * ldb + j), mask);
                        y = _mm256_fmadd_ps(x[r][p], w, y);
                    }
                    _mm256_maskstore_ps(at, mask, y);
                }
            }
        }
    }

    impl Tile for Avx2 {
        const MR: usize = 6;
        const NR: usize = 16;

        #[inline]
        unsafe fn run(
            k: usize,
            a: *const f32,
            b: *const f32,
            c: *mut f32,
            ldc: usize,
            m: usize,
            n: usize,
            load: bool,
        ) {
            unsafe {
                match m {
                    6 => avx2::<6, false>(k, a, 0, b, c, ldc, n, load),
                    5 => avx2::<5, false>(k, a, 0, b, c, ldc, n, load),
                    4 => avx2::<4, false>(k, a, 0, b, c, ldc, n, load),
                    3 => avx2::<3, false>(k, a, 0, b, c, ldc, n, load),
                    2 => avx2::<2, false>(k, a, 0, b, c, ldc, n, load),
                    _ => avx2::<1, false>(k, a, 0, b, c, ldc, n, load),
                }
            }
        }

        #[inline]
        unsafe fn run_rows(
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
            unsafe {
                match m {
                    6 => avx2::<6, true>(k, a, lda, b, c, ldc, n, load),
                    5 => avx2::<5, true>(k, a, lda, b, c, ldc, n, load),
                    4 => avx2::<4, true>(k, a, lda, b, c, ldc, n, load),
                    3 => avx2::<3, true>(k, a, lda, b, c, ldc, n, load),
                    2 => avx2::<2, true>(k, a, lda, b, c, ldc, n, load),
                    _ => avx2::<1, true>(k, a, lda, b, c, ldc, n, load),
                }
            }
        }

        #[inline]
        unsafe fn sweep<const R: usize, const P: usize>(
            n: usize,
            a: *const f32,
            lda: usize,
            b: *const f32,
            ldb: usize,
            c: *mut f32,
            ldc: usize,
            load: bool,
        ) {
            unsafe { sweep_avx2::<R, P>(n, a, lda, b, ldb, c, ldc, load) }
        }
    }

    /// 12×32: twenty-four accumulators of sixteen floats.
    pub struct Avx512;

    #[target_feature(enable = "avx512f")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn avx512<const R: usize, const ROWS: bool>(
        k: usize,
        a: *const f32,
        lda: usize,
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
        n: usize,
        load: bool,
    ) {
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); 2]; R];
            let masks = [mask16(n), mask16(n.saturating_sub(16))];
            if load {
                for (i, row) in acc.iter_mut().enumerate() {
                    let at = c.add(i * ldc);
                    row[0] = _mm512_maskz_loadu_ps(masks[0], at);
                    row[1] = _mm512_maskz_loadu_ps(masks[1], at.wrapping_add(16));
                }
            }
            // Every third row has a pointer: the others are within its addressing modes.
            let mut bases: [*const f32; 4] = std::array::from_fn(|g| a.wrapping_add(3 * g * lda));
            for _ in 0..k {
                let b0 = _mm512_loadu_ps(b);
                let b1 = _mm512_loadu_ps(b.add(16));
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = if ROWS {
                        bases[i / 3].add(i % 3 * lda)
                    } else {
                        bases[0].add(i)
                    };
                    let x = _mm512_set1_ps(*x);
                    row[0] = _mm512_fmadd_ps(x, b0, row[0]);
                    row[1] = _mm512_fmadd_ps(x, b1, row[1]);
                }
                if ROWS {
                    for base in &mut bases {
                        *base = base.wrapping_add(1);
                    }
                } else {
                    bases[0] = bases[0].wrapping_add(Avx512::MR);
                }
                b = b.add(Avx512::NR);
            }
            for (i, row) in acc.iter().enumerate() {
                let at = c.add(i * ldc);
                _mm512_mask_storeu_ps(at, masks[0], row[0]);
                _mm512_mask_storeu_ps(at.wrapping_add(16), masks[1], row[1]);
            }
        }
    }

    /// Lanes `0..n` of sixteen.
    #[inline]
    fn mask16(n: usize) -> __mmask16 {
        if n >= 16 { !0 } else { (1u16 << n) - 1 }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn sweep_avx512<const R: usize, const P: usize>(
        n: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        load: bool,
    ) {
        unsafe {
            let x: [[__m512; P]; R] = std::array::from_fn(|r| {
                std::array::from_fn(|p| _mm512_set1_ps(*a.add(r * lda + p)))
            });
            let mut j = 0;
            while j < n {
                let mask = mask16(n - j);
                let mut acc = [_mm512_setzero_ps(); R];
                if load {
                    for (r, y) in acc.iter_mut().enumerate() {
                        *y = _mm512_maskz_loadu_ps(mask, c.add(r * ldc + j));
                    }
                }
                for p in 0..P {
                    let w = _mm512_maskz_loadu_ps(mask, b.add(p * ldb + j));
                    for r in 0..R {
                        acc[r] = _mm512_fmadd_ps(x[r][p], w, acc[r]);
                    }
                }
                for (r, y) in acc.iter().enumerate() {
                    _mm512_mask_storeu_ps(c.add(r * ldc + j), mask, *y);
                }
                j += 16;
            }
        }
    }

    impl Tile for Avx512 {
        const MR: usize = 12;
        const NR: usize = 32;

        #[inline]
        unsafe fn run(
            k: usize,
            a: *const f32,
            b: *const f32,
            c: *mut f32,
            ldc: usize,
            m: usize,
            n: usize,
            load: bool,
        ) {
            unsafe {
                match m {
                    12 => avx512::<12, false>(k, a, 0, b, c, ldc, n, load),
                    11 => avx512::<11, false>(k, a, 0, b, c, ldc, n, load),
                    10 => avx512::<10, false>(k, a, 0, b, c, ldc, n, load),
                    9 => avx512::<9, false>(k, a, 0, b, c, ldc, n, load),
                    8 => avx512::<8, false>(k, a, 0, b, c, ldc, n, load),
                    7 => avx512::<7, false>(k, a, 0, b, c, ldc, n, load),
                    6 => avx512::<6, false>(k, a, 0, b, c, ldc, n, load),
                    5 => avx512::<5, false>(k, a, 0, b, c, ldc, n, load),
                    4 => avx512::<4, false>(k, a, 0, b, c, ldc, n, load),
                    3 => avx512::<3, false>(k, a, 0, b, c, ldc, n, load),
                    2 => avx512::<2, false>(k, a, 0, b, c, ldc, n, load),
                    _ => avx512::<1, false>(k, a, 0, b, c, ldc, n, load),
                }
            }
        }

        #[inline]
        unsafe fn run_rows(
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
            unsafe {
                match m {
                    12 => avx512::<12, true>(k, a, lda, b, c, ldc, n, load),
                    11 => avx512::<11, true>(k, a, lda, b, c, ldc, n, load),
                    10 => avx512::<10, true>(k, a, lda, b, c, ldc, n, load),
                    9 => avx512::<9, true>(k, a, lda, b, c, ldc, n, load),
                    8 => avx512::<8, true>(k, a, lda, b, c, ldc, n, load),
                    7 => avx512::<7, true>(k, a, lda, b, c, ldc, n, load),
                    6 => avx512::<6, true>(k, a, lda, b, c, ldc, n, load),
                    5 => avx512::<5, true>(k, a, lda, b, c, ldc, n, load),
                    4 => avx512::<4, true>(k, a, lda, b, c, ldc, n, load),
                    3 => avx512::<3, true>(k, a, lda, b, c, ldc, n, load),
                    2 => avx512::<2, true>(k, a, lda, b, c, ldc, n, load),
                    _ => avx512::<1, true>(k, a, lda, b, c, ldc, n, load),
                }
            }
        }

        #[inline]
        unsafe fn sweep<const R: usize, const P: usize>(
            n: usize,
            a: *const f32,
            lda: usize,
            b: *const f32,
            ldb: usize,
            c: *mut f32,
            ldc: usize,
            load: bool,
        ) {
            unsafe { sweep_avx512::<R, P>(n, a, lda, b, ldb, c, ldc, load) }
        }
    }
}
