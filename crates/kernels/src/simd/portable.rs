//! Registers in plain Rust.

use super::{Kernel, Vector};

/// Eight floats, in whatever registers the compiler finds.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

/// A multiply-add: fused where the target has it, else with a rounded product (emulating the fused
/// one costs some hundred instructions).
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// The dot product of four signed bytes each, added to `sum`.
#[inline(always)]
fn dot(sum: i32, w: [i32; 4], x: i32) -> i32 {
    let x = x.to_le_bytes();
    (0..4).fold(sum, |sum, i| sum + w[i] * x[i] as i8 as i32)
}

impl Vector for Portable {
    type Words = [i32; 8];

    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        Self(unsafe { at.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(at: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; 8];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = unsafe { at.add(i).read_unaligned() };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        unsafe { at.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, n: usize) {
        for (i, &lane) in self.0.iter().enumerate().take(n) {
            unsafe { at.add(i).write_unaligned(lane) };
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        let halves = unsafe { at.cast::<[[u8; 2]; 8]>().read_unaligned() };
        Self(halves.map(|x| f32::from_bits((u16::from_le_bytes(x) as u32) << 16)))
    }

    #[inline(always)]
    unsafe fn load_fourths(at: *const f32) -> [Self; 4] {
        let lines = unsafe { at.cast::<[[f32; 4]; 8]>().read_unaligned() };
        std::array::from_fn(|j| Self(lines.map(|line| line[j])))
    }

    #[inline(always)]
    unsafe fn store_fourths(fourths: [Self; 4], at: *mut f32) {
        let lines: [[f32; 4]; 8] =
            std::array::from_fn(|lane| std::array::from_fn(|j| fourths[j].0[lane]));
        unsafe { at.cast::<[[f32; 4]; 8]>().write_unaligned(lines) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| {
            multiply_add(self.0[i], a.0[i], b.0[i])
        }))
    }

    #[inline(always)]
    unsafe fn load_words(at: *const u8) -> Self::Words {
        unsafe { at.cast::<[[u8; 4]; 8]>().read_unaligned() }.map(i32::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn splat_words(x: i32) -> Self::Words {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn floats(words: Self::Words) -> Self {
        Self(words.map(|x| x as f32))
    }

    #[inline(always)]
    unsafe fn xor(words: Self::Words, xor: i32) -> Self::Words {
        words.map(|x| x ^ xor)
    }

    #[inline(always)]
    unsafe fn field(words: Self::Words, left: u32, right: u32) -> Self {
        Self(words.map(|x| (x << left >> right) as f32))
    }

    #[inline(always)]
    unsafe fn low_nibbles(words: Self::Words) -> Self::Words {
        words.map(|x| x & 0x0F0F_0F0F)
    }

    #[inline(always)]
    unsafe fn high_nibbles(words: Self::Words) -> Self::Words {
        words.map(|x| x >> 4 & 0x0F0F_0F0F)
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        std::array::from_fn(|i| dot(sum[i], w[i].to_le_bytes().map(|w| w as i32 - 128), x))
    }

    #[inline(always)]
    unsafe fn dot_nibbles(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words {
        std::array::from_fn(|i| dot(sum[i], w[i].to_le_bytes().map(i32::from), x))
    }
}
