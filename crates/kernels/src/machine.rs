//! What this machine can do at most, measured: the yardsticks that speeds are fractions of. On all threads of the
//! current rayon pool.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::isa::{Isa, isa};
use crate::simd::{Kernel, Vector, with};
use crate::team;

/// Runs of multiply-adds, of which the quickest counts.
const RUNS: usize = 32;

/// Bytes a second that as many bytes are read with in each of `passes` passes after one that does not count. What a
/// cache holds of them is read from there, as a program that reads so much again and again does.
pub fn bandwidths(passes: usize, bytes: usize) -> Vec<f64> {
    let buffer = vec![1.0; bytes / 4];
    let mut rates = rates(passes + 1, || read(&buffer));
    rates.remove(0);
    let bytes = (buffer.len() * 4) as f64;
    rates.iter().map(|rate| rate * bytes).collect()
}

/// Reads modest numbers once, as fast as the threads can: by the widest registers, from some places at a time in each
/// thread, and asking for what comes next.
pub fn read(numbers: &[f32]) {
    let each = numbers.len().div_ceil(4 * rayon::current_num_threads());
    let parts: Vec<&[f32]> = numbers.chunks(each.max(1)).collect();
    team::for_each(parts.len(), |part| {
        // SAFETY: it reads a slice.
        black_box(unsafe { with(isa(), Reading(parts[part])) });
    });
}

/// Sums numbers.
struct Reading<'a>(&'a [f32]);

/// Places in memory that a thread reads from by turns.
const STREAMS: usize = 4;

/// Floats of a cache line.
const LINE: usize = 16;

impl Kernel for Reading<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        let Self(numbers) = self;
        let lines = numbers.len() / LINE / STREAMS;
        let mut lanes = [0.0f32; LINE];
        // SAFETY: the caller's; each stream has that many lines; no register has more lanes than a line has floats.
        let sum = unsafe {
            let one = V::splat(1.0);
            let mut sums = [V::splat(0.0); STREAMS];
            for line in 0..lines {
                for (stream, sum) in sums.iter_mut().enumerate() {
                    let at = numbers.as_ptr().add((stream * lines + line) * LINE);
                    V::prefetch(at.wrapping_add(32 * LINE).cast());
                    for lane in (0..LINE).step_by(V::LANES) {
                        *sum = one.multiply_add(V::load(at.add(lane)), *sum);
                    }
                }
            }
            let mut total = V::splat(0.0);
            for sum in sums {
                total = one.multiply_add(sum, total);
            }
            total.store(lanes.as_mut_ptr());
            lanes
        };
        let rest = &numbers[lines * LINE * STREAMS..];
        sum.iter().chain(rest).sum()
    }
}

/// Multiply-adds of `f32` in registers, two operations each, a second.
pub fn operations() -> f64 {
    const STEPS: usize = 1 << 20;
    let lanes = match isa() {
        Isa::Avx512 => 16,
        Isa::Avx2 | Isa::Portable => 8,
        Isa::Neon => 4,
    };
    most(STEPS * CHAINS * lanes, || {
        black_box(chains(black_box(STEPS)));
    })
}

/// The same of bfloat16s, where the processor multiplies them.
pub fn bf16_operations() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        match crate::bf16::unit()? {
            // SAFETY: the unit is there.
            crate::bf16::Unit::Amx => Some(most(TILES * 16 * 16 * 32, || unsafe {
                crate::amx::with_tiles(crate::amx::Shapes { depth_bytes: 64 }, || {
                    tiles::<false>();
                });
            })),
            crate::bf16::Unit::Avx512Bf16 => Some(most(PAIRS * CHAINS * 32, || {
                // SAFETY: the instructions are there.
                black_box(unsafe { pairs(black_box(PAIRS)) });
            })),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}

/// The same of bytes that sum in 32 bits, where the processor has instructions for them.
pub fn int8_operations() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        if crate::amx::has_int8() {
            // SAFETY: the unit is there.
            return Some(most(TILES * 16 * 16 * 64, || unsafe {
                crate::amx::with_tiles(crate::amx::Shapes { depth_bytes: 64 }, || {
                    tiles::<true>();
                });
            }));
        }
        if crate::isa::has_vnni() {
            return Some(most(PAIRS * CHAINS * 64, || {
                // SAFETY: the instructions are there.
                black_box(unsafe { quads(black_box(PAIRS)) });
            }));
        }
    }
    None
}

/// Operations a second, two for each of this many multiply-adds of `work` on each thread, of the quickest run.
fn most(multiply_adds: usize, work: impl Fn() + Sync) -> f64 {
    let threads = rayon::current_num_threads();
    let rates = rates(RUNS, || {
        (0..threads)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|_| work());
    });
    let best = rates.into_iter().fold(0.0, f64::max);
    best * (2 * threads * multiply_adds) as f64
}

/// Products of tiles in a run.
#[cfg(target_arch = "x86_64")]
const TILES: usize = 1 << 18;

/// Steps of the chains of vectors of bfloat16s and bytes.
#[cfg(target_arch = "x86_64")]
const PAIRS: usize = 1 << 20;

/// Products of tiles of zeros, which take as long as any.
///
/// # Safety
/// Tiles are configured, and the processor multiplies such ones.
#[cfg(target_arch = "x86_64")]
unsafe fn tiles<const INT8: bool>() {
    macro_rules! products {
        ($instruction:literal) => {
            std::arch::asm!(
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                concat!($instruction, " tmm1, tmm4, tmm7"),
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                "dec {n}",
                "jnz 2b",
                n = inout(reg) TILES / 4 => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem)
            )
        };
    }
    // SAFETY: the caller's; no memory is touched.
    unsafe {
        if INT8 {
            products!("tdpbsud");
        } else {
            products!("tdpbf16ps");
        }
    }
}

/// Chains of products of pairs of bfloat16s.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let one = _mm512_set1_epi32(0x3F80_3F80);
    // SAFETY: both are 64 bytes of any bits.
    let one = unsafe { std::mem::transmute::<__m512i, __m512bh>(black_box(one)) };
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, one, one);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

/// Chains of products of four bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn quads(steps: usize) -> i32 {
    use std::arch::x86_64::*;
    let one = black_box(_mm512_set1_epi32(0x0101_0101));
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, one, one);
        }
    }
    let total = sums.into_iter().map(|sum| _mm512_reduce_add_epi32(sum));
    total.fold(0, i32::wrapping_add)
}

/// Runs a second, of each of some.
fn rates<T>(runs: usize, mut work: impl FnMut() -> T) -> Vec<f64> {
    (0..runs)
        .map(|_| {
            let begin = Instant::now();
            black_box(work());
            1.0 / begin.elapsed().as_secs_f64()
        })
        .collect()
}

/// Chains of multiply-adds that don't wait for each other: more than any processor has under way.
const CHAINS: usize = 12;

struct Chains {
    steps: usize,
}

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> f32 {
        let mut first = [0.0f32; 16];
        // SAFETY: the caller's; no register has more than 16 lanes.
        unsafe {
            let (a, b) = (V::splat(black_box(0.5)), V::splat(black_box(0.25)));
            let mut sums = [V::splat(1.0); CHAINS];
            for _ in 0..self.steps {
                for sum in &mut sums {
                    *sum = sum.multiply_add(a, b);
                }
            }
            let mut total = V::splat(0.0);
            for sum in sums {
                total = total.multiply_add(a, sum);
            }
            total.store(first.as_mut_ptr());
        }
        first[0]
    }
}

fn chains(steps: usize) -> f32 {
    // SAFETY: it touches no memory.
    unsafe { with(isa(), Chains { steps }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read() {
        for length in [0, 1, 15, 16, 63, 64, 65, 200, 1000] {
            let numbers: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let expected: f32 = numbers.iter().sum();
            // SAFETY: it reads a slice.
            let sum = unsafe { with(isa(), Reading(&numbers)) };
            assert_eq!(sum, expected, "{length}");
        }
    }

    #[test]
    fn what_is_taken_for_bfloat16_is_quicker_than_f32() {
        if let Some(halves) = bf16_operations() {
            let floats = operations();
            assert!(halves > floats, "{halves:e} against {floats:e} a second");
        }
    }
}
