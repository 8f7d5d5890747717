//! What this machine can do at most, measured: the yardsticks that speeds are fractions of. On all threads of the
//! current rayon pool.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::isa::{Isa, isa};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Portable, Vector};

/// Bytes that are read: several last-level caches.
const BUFFER: usize = 256 << 20;

/// Runs of multiply-adds, of which the quickest counts.
const RUNS: usize = 32;

/// Bytes a second that memory is read with, in each of `passes` passes after one that does not count.
pub fn bandwidths(passes: usize) -> Vec<f64> {
    let buffer: Vec<u64> = (0..BUFFER as u64 / 8).collect();
    let each = buffer.len().div_ceil(4 * rayon::current_num_threads());
    let mut rates = rates(passes + 1, || {
        buffer
            .par_chunks(each)
            .map(|chunk| {
                let (lines, _) = chunk.as_chunks::<32>();
                let mut sums = [0u64; 32];
                for line in lines {
                    for (sum, x) in sums.iter_mut().zip(line) {
                        *sum ^= x;
                    }
                }
                sums.iter().fold(0, |sum, x| sum ^ x)
            })
            .reduce(|| 0, |a, b| a ^ b)
    });
    rates.remove(0);
    rates.iter().map(|rate| rate * BUFFER as f64).collect()
}

/// Multiply-adds of `f32` in registers, two operations each, a second.
pub fn operations() -> f64 {
    const STEPS: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    let lanes = match isa() {
        Isa::Avx512 => 16,
        Isa::Avx2 | Isa::Portable => 8,
        Isa::Neon => 4,
    };
    let rates = rates(RUNS, || {
        (0..threads)
            .into_par_iter()
            .with_max_len(1)
            .map(|_| chains(black_box(STEPS)))
            .sum::<f32>()
    });
    let best = rates.into_iter().fold(0.0, f64::max);
    best * (2 * threads * STEPS * CHAINS * lanes) as f64
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
    let kernel = Chains { steps };
    // SAFETY: `isa` has looked.
    unsafe {
        match isa() {
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
