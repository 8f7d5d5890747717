//! The vector registers of each instruction set behind one interface, so that a kernel is written once.
//!
//! A kernel is a [`Kernel`]: a struct with its arguments and a body that is generic over the register.
//! [`Vector::enter`] runs the body inside a function compiled for the register's instruction set; all
//! methods here are inlined into it. Every method does the same to the last bit on every instruction set,
//! but for [`Vector::multiply_add`], which the portable one does not fuse.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks)] // see "Safety of all methods" of `Vector`
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks)] // see "Safety of all methods" of `Vector`
mod avx512;
#[cfg(target_arch = "aarch64")]
#[allow(clippy::undocumented_unsafe_blocks)] // see "Safety of all methods" of `Vector`
mod neon;
#[allow(clippy::undocumented_unsafe_blocks)] // see "Safety of all methods" of `Vector`
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, has_byte_products};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

use crate::isa::Isa;

/// A kernel's arguments and body.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// The body. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has `V`'s instruction set; else what the kernel asks for.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Runs a kernel on the registers of an instruction set.
///
/// # Safety
/// The processor has it; else what the kernel asks for.
pub(crate) unsafe fn with<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::enter(kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::enter(kernel),
            _ => Portable::enter(kernel),
        }
    }
}

/// A register of floats. "Words" are as many 32-bit integers; a word's bytes are in ascending order.
///
/// # Safety of all methods
/// The processor has the instruction set, and the memory behind a pointer, which needs no alignment, may
/// be read or written: [`Self::LANES`] elements, or the first `n` of them.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Vector: Copy {
    /// Words.
    type Words: Copy;

    /// Floats in a register.
    const LANES: usize;

    /// How much too large [`Self::dot_bytes`] takes its first factors.
    const BYTE_OFFSET: i32 = 0;

    /// Runs a kernel compiled for this instruction set.
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output;

    /// [`Self::enter`] for kernels that call [`Self::dot_bytes`] or [`Self::dot_nibbles`].
    #[inline(always)]
    unsafe fn enter_with_byte_products<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { Self::enter(kernel) }
    }

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self;

    /// Reads all lanes.
    unsafe fn load(at: *const f32) -> Self;

    /// Reads the first `n` lanes (all of them from [`Self::LANES`] on), zeros the others.
    unsafe fn load_first(at: *const f32, n: usize) -> Self;

    /// Writes all lanes.
    unsafe fn store(self, at: *mut f32);

    /// Writes the first `n` lanes (all of them from [`Self::LANES`] on).
    unsafe fn store_first(self, at: *mut f32, n: usize);

    /// Reads bfloat16s, little endian.
    unsafe fn load_bf16(at: *const u8) -> Self;

    /// Reads the first `n` bfloat16s (all of them from [`Self::LANES`] on), zeros the others.
    #[inline(always)]
    unsafe fn load_bf16_first(at: *const u8, n: usize) -> Self {
        let mut line = [0u8; 32];
        let n = n.min(Self::LANES);
        // SAFETY: the caller's, and no register has more than 16 lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(at, line.as_mut_ptr(), 2 * n);
            Self::load_bf16(line.as_ptr())
        }
    }

    /// Reads four times [`Self::LANES`] elements: those at 0, 4, 8 and so on, those at 1, 5, 9, …
    unsafe fn load_fourths(at: *const f32) -> [Self; 4];

    /// Writes what [`Self::load_fourths`] reads.
    unsafe fn store_fourths(fourths: [Self; 4], at: *mut f32);

    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;

    /// `self − other`.
    unsafe fn minus(self, other: Self) -> Self;

    /// `self · other`.
    unsafe fn times(self, other: Self) -> Self;

    /// `self · a + b`.
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self;

    /// Reads words, little endian.
    unsafe fn load_words(at: *const u8) -> Self::Words;

    /// `x` in every lane.
    unsafe fn splat_words(x: i32) -> Self::Words;

    /// Prefetches the cache line at an address, which may be any.
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        let _ = at;
    }

    /// The same for a second-level cache.
    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        let _ = at;
    }

    /// The words as floats, rounded.
    unsafe fn floats(words: Self::Words) -> Self;

    /// The bits of each word that `xor` has, turned.
    unsafe fn xor(words: Self::Words, xor: i32) -> Self::Words;

    /// The signed number that stands below the highest `left` bits and above the lowest `right − left`
    /// ones, as a float.
    unsafe fn field(words: Self::Words, left: u32, right: u32) -> Self;

    /// The lower four bits of each byte.
    unsafe fn low_nibbles(words: Self::Words) -> Self::Words;

    /// The upper four bits of each byte.
    unsafe fn high_nibbles(words: Self::Words) -> Self::Words;

    /// `sum + Σ (w − 128 + BYTE_OFFSET) · x` over the four bytes of each word: `w` unsigned; `x` signed, not
    /// −128.
    unsafe fn dot_bytes(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words;

    /// `sum + Σ w · x` over the four bytes of each word: `w` in `0..16`, `x` signed.
    unsafe fn dot_nibbles(sum: Self::Words, w: Self::Words, x: i32) -> Self::Words;
}
