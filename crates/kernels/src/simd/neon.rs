//! NEON, which every 64-bit ARM has.

use std::arch::aarch64::*;

use super::{Kernel, Vector};

/// Four floats.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

/// `sum + Σ w · x` over the four signed bytes of each word; neither is −128 together with the other.
#[inline(always)]
unsafe fn dot(sum: int32x4_t, w: int8x16_t, x: i32) -> int32x4_t {
    unsafe {
        let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
        // Pairs are at most 2·128·127, which sixteen bits hold.
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_high_s8(w, x);
        vpadalq_s16(sum, vpaddq_s16(low, high))
    }
}

// SAFETY of all: the caller's, see the trait.
impl Vector for Neon {
    type Words = int32x4_t;

    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        Self(unsafe { vld1q_f32(at) })
    }

    #[inline(always)]
    unsafe fn load_first(at: *const f32, n: usize) -> Self {
        unsafe {
            if n >= 4 {
                return Self::load(at);
            }
            let mut line = [0.0; 4];
            std::ptr::copy_nonoverlapping(at, line.as_mut_ptr(), n);
            Self::load(line.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        unsafe { vst1q_f32(at, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, n: usize) {
        unsafe {
            if n >= 4 {
                return self.store(at);
            }
            let mut line = [0.0; 4];
            self.store(line.as_mut_ptr());
            std::ptr::copy_nonoverlapping(line.as_ptr(), at, n);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        unsafe {
            let halves = vreinterpret_u16_u8(vld1_u8(at));
            Self(vreinterpretq_f32_u32(vshll_n_u16::<16>(halves)))
        }
    }

    #[inline(always)]
    unsafe fn load_fourths(at: *const f32) -> [Self; 4] {
        let float32x4x4_t(a, b, c, d) = unsafe { vld4q_f32(at) };
        [a, b, c, d].map(Self)
    }

    #[inline(always)]
    unsafe fn store_fourths([a, b, c, d]: [Self; 4], at: *mut f32) {
        unsafe { vst4q_f32(at, float32x4x4_t(a.0, b.0, c.0, d.0)) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        Self(unsafe { vfmaq_f32(b.0, self.0, a.0) })
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8) -> Self::Words {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(at)) }
    }

    #[inline(always)]
    unsafe fn splat_words(x: i32) -> Self::Words {
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    unsafe fn floats(words: Self::Words) -> Self {
        Self(unsafe { vcvtq_f32_s32(words) })
    }

    #[inline(always)]
    unsafe fn xor(words: Self::Words, xor: i32) -> Self::Words {
        unsafe { veorq_s32(words, vdupq_n_s32(xor)) }
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, left: u32, right: u32) -> Self {
        unsafe {
            // Shifts to the right are shifts to the left by a negative count.
            let left = vshlq_s32(words, vdupq_n_s32(left as i32));
            Self(vcvtq_f32_s32(vshlq_s32(left, vdupq_n_s32(-(right as i32)))))
        }
    }

    #[inline(always)]
    unsafe fn low_nibbles(words: Self::Words) -> Self::Words {
        unsafe { vandq_s32(words, vdupq_n_s32(0x0F0F_0F0F)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(words: Self::Words) -> Self::Words {
        unsafe { vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(words))) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe {
            let w = veorq_s8(vreinterpretq_s8_s32(w), vdupq_n_s8(-128));
            dot(sum, w, x)
        }
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        unsafe { dot(sum, vreinterpretq_s8_s32(w), x) }
    }
}
