//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// Eight floats.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// Lanes `0..n`.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), lanes)
    }
}

/// Both halves as matrices of 4×4, transposed.
#[inline(always)]
unsafe fn transposed([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    unsafe {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (next_low, next_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(low, next_low),
            _mm256_shuffle_ps::<0b11_10_11_10>(low, next_low),
            _mm256_shuffle_ps::<0b01_00_01_00>(high, next_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(high, next_high),
        ]
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's.
    unsafe { kernel.run::<Avx2>() }
}

// SAFETY of all: the caller's, see the trait.
impl Vector for Avx2 {
    type Words = __m256i;

    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        unsafe { enter(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(at) })
    }

    #[inline(always)]
    unsafe fn load_first(at: *const f32, n: usize) -> Self {
        Self(unsafe { _mm256_maskload_ps(at, mask(n)) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        unsafe { _mm256_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, n: usize) {
        unsafe { _mm256_maskstore_ps(at, mask(n), self.0) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn load_fourths(at: *const f32) -> [Self; 4] {
        unsafe {
            let x: [__m256; 4] = std::array::from_fn(|i| _mm256_loadu_ps(at.add(8 * i)));
            // Four elements each: the first and the fifth, the second and the sixth, …
            let fours = [
                _mm256_permute2f128_ps::<0x20>(x[0], x[2]),
                _mm256_permute2f128_ps::<0x31>(x[0], x[2]),
                _mm256_permute2f128_ps::<0x20>(x[1], x[3]),
                _mm256_permute2f128_ps::<0x31>(x[1], x[3]),
            ];
            transposed(fours).map(Self)
        }
    }

    #[inline(always)]
    unsafe fn store_fourths(fourths: [Self; 4], at: *mut f32) {
        unsafe {
            let [a, b, c, d] = transposed(fourths.map(|x| x.0));
            for (i, line) in [
                _mm256_permute2f128_ps::<0x20>(a, b),
                _mm256_permute2f128_ps::<0x20>(c, d),
                _mm256_permute2f128_ps::<0x31>(a, b),
                _mm256_permute2f128_ps::<0x31>(c, d),
            ]
            .into_iter()
            .enumerate()
            {
                _mm256_storeu_ps(at.add(8 * i), line);
            }
        }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8) -> Self::Words {
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_words(x: i32) -> Self::Words {
        unsafe { _mm256_set1_epi32(x) }
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
        Self(unsafe { _mm256_cvtepi32_ps(words) })
    }

    #[inline(always)]
    unsafe fn xor(words: Self::Words, xor: i32) -> Self::Words {
        unsafe { _mm256_xor_si256(words, _mm256_set1_epi32(xor)) }
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, left: u32, right: u32) -> Self {
        unsafe {
            let left = _mm256_sll_epi32(words, _mm_cvtsi32_si128(left as i32));
            let field = _mm256_sra_epi32(left, _mm_cvtsi32_si128(right as i32));
            Self(_mm256_cvtepi32_ps(field))
        }
    }

    #[inline(always)]
    unsafe fn low_nibbles(words: Self::Words) -> Self::Words {
        unsafe { _mm256_and_si256(words, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(words: Self::Words) -> Self::Words {
        unsafe { Self::low_nibbles(_mm256_srli_epi32::<4>(words)) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe {
            // Magnitudes of w (at most 128) times x with w's sign: pairs are at most 2·128·127, so the
            // saturating addition of pairs never saturates.
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x), w);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), x);
            let words = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_add_epi32(sum, words)
        }
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe {
            let pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(x));
            let words = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_add_epi32(sum, words)
        }
    }
}
