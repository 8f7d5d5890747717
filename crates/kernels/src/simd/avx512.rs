//! AVX-512F; products of bytes need AVX-512 VNNI as well, see [`has_byte_products`].

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// Whether this processor has what [`Avx512`]'s `dot_bytes` and `dot_nibbles` take. A kernel that calls
/// them runs on [`super::Avx2`] otherwise.
pub(crate) fn has_byte_products() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Lanes `0..n`.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1u16 << n) - 1 }
}

#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx512>() }
}

#[target_feature(enable = "avx512f,avx512vnni,avx2,fma")]
unsafe fn enter_with_byte_products<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx512>() }
}

// SAFETY of all: the caller's, see the trait.
impl Vector for Avx512 {
    type Words = __m512i;

    const LANES: usize = 16;
    // The instruction multiplies unsigned with signed bytes.
    const BYTE_OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        unsafe { enter(kernel) }
    }

    // Needs `has_byte_products`.
    #[inline(always)]
    unsafe fn enter_with_byte_products<K: Kernel>(kernel: K) -> K::Output {
        unsafe { enter_with_byte_products(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(at) })
    }

    #[inline(always)]
    unsafe fn load_first(at: *const f32, n: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(mask(n), at) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(at, mask(n), self.0) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn load_fourths(at: *const f32) -> [Self; 4] {
        unsafe {
            let x: [__m512; 4] = std::array::from_fn(|i| _mm512_loadu_ps(at.add(16 * i)));
            let halves = |first: i32| {
                let (f, s) = (first, first + 1);
                let places = _mm512_setr_epi32(
                    f,
                    f + 4,
                    f + 8,
                    f + 12,
                    f + 16,
                    f + 20,
                    f + 24,
                    f + 28,
                    s,
                    s + 4,
                    s + 8,
                    s + 12,
                    s + 16,
                    s + 20,
                    s + 24,
                    s + 28,
                );
                let low = _mm512_permutex2var_ps(x[0], places, x[1]);
                let high = _mm512_permutex2var_ps(x[2], places, x[3]);
                [
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(low, high),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(low, high),
                ]
            };
            let ([a, b], [c, d]) = (halves(0), halves(2));
            [a, b, c, d].map(Self)
        }
    }

    #[inline(always)]
    unsafe fn store_fourths([a, b, c, d]: [Self; 4], at: *mut f32) {
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            let pairs = |x: Self, y: Self| {
                [low, high].map(|places| _mm512_castps_pd(_mm512_permutex2var_ps(x.0, places, y.0)))
            };
            let (first, last) = (pairs(a, b), pairs(c, d));
            let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
            let high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
            for half in 0..2 {
                for (i, places) in [low, high].into_iter().enumerate() {
                    let line = _mm512_permutex2var_pd(first[half], places, last[half]);
                    _mm512_storeu_ps(at.add(32 * half + 16 * i), _mm512_castpd_ps(line));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8) -> Self::Words {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_words(x: i32) -> Self::Words {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn floats(words: Self::Words) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(words) })
    }

    #[inline(always)]
    unsafe fn xor(words: Self::Words, xor: i32) -> Self::Words {
        unsafe { _mm512_xor_si512(words, _mm512_set1_epi32(xor)) }
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, left: u32, right: u32) -> Self {
        unsafe {
            let left = _mm512_sll_epi32(words, _mm_cvtsi32_si128(left as i32));
            let field = _mm512_sra_epi32(left, _mm_cvtsi32_si128(right as i32));
            Self(_mm512_cvtepi32_ps(field))
        }
    }

    #[inline(always)]
    unsafe fn low_nibbles(words: Self::Words) -> Self::Words {
        unsafe { _mm512_and_si512(words, _mm512_set1_epi32(0x0F0F_0F0F)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(words: Self::Words) -> Self::Words {
        unsafe { Self::low_nibbles(_mm512_srli_epi32::<4>(words)) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe { _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe { _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)) }
    }
}
