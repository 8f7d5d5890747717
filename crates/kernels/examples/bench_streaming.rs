//! Products of few rows against the machine's streaming bandwidth: how fast the weights go by, as a
//! fraction of how fast the same threads read memory in the same moments (so that other work on the
//! machine slows both): `cargo run --release --example bench_streaming`
//!
//! Weights are taken in turn from a ring of copies that no cache holds, as the layers of a model are.
//! Every figure is the best of many alternating runs.
use std::time::Instant;

use impasto_kernels::bf16;
use impasto_kernels::gemm::{Matrix, MatrixMut, Output, gemm};
use impasto_kernels::quantised::{self, Activations, Format};
use rayon::prelude::*;

/// Bytes of copies of a weight: several last-level caches.
const RING: usize = 256 << 20;

/// Reads a buffer on all threads.
fn read(buffer: &[u64]) -> u64 {
    let each = buffer.len().div_ceil(4 * rayon::current_num_threads());
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
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

/// Times `product(copy)` against reading as many bytes, for half a second.
fn measure(name: &str, bytes: usize, buffer: &[u64], mut product: impl FnMut(usize)) {
    let copies = (RING / bytes).max(1);
    let (mut best, mut stream) = (f64::MAX, f64::MAX);
    let begin = Instant::now();
    let (mut turn, mut sum) = (0, 0);
    while turn < 10 || begin.elapsed().as_secs_f64() < 0.5 {
        best = best.min(seconds(|| product(turn % copies)));
        let part = bytes / 8;
        let from = turn % (buffer.len() / part) * part;
        stream = stream.min(seconds(|| sum ^= read(&buffer[from..][..part])));
        turn += 1;
    }
    std::hint::black_box(sum);
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!(
        "{name:<34} {:>7.1} GB/s of {:>5.1} {:>6.0} %",
        rate(best),
        rate(stream),
        100.0 * stream / best
    );
}

fn main() {
    impasto_kernels::memory::keep_freed();
    let buffer: Vec<u64> = (0..RING as u64 / 8).collect();
    // Bytes that are modest numbers in every format: bfloat16s of 0.5, also as scales.
    let bytes: Vec<u8> = [0x00, 0x3F].repeat(RING / 2);
    let floats: Vec<f32> = (0..RING / 4).map(|i| (i % 251) as f32 - 125.0).collect();
    println!(
        "{:<34} {:>12} {:>8} {:>8}",
        "rows x inputs x outputs", "weights", "memory", "fraction"
    );
    for (k, n) in [(768, 768), (768, 3072), (1024, 2730), (1024, 50_000)] {
        for rows in [1, 2, 8, 16] {
            let x: Vec<f32> = (0..rows * k).map(|i| (i % 13) as f32 - 6.0).collect();
            let x = Matrix::new(&x, rows, k);
            let mut y = vec![0.0; rows * n];
            let shape = format!("{rows:>2} x {k} x {n}");
            measure(&format!("f32 {shape}"), 4 * k * n, &buffer, |copy| {
                let w = Matrix::new(&floats[copy * k * n..], k, n);
                let y = MatrixMut::new(&mut y, rows, n);
                gemm(x, w, y, Output::Overwrite);
            });
            let size = 2 * k * n;
            measure(&format!("bf16 {shape}"), size, &buffer, |copy| {
                let w = bf16::Weights::new(k, n, &bytes[copy * size..][..size]);
                let y = MatrixMut::new(&mut y, rows, n);
                bf16::product(x, &w, y, Output::Overwrite);
            });
            for format in [Format::Int8, Format::Int4] {
                let size = format.bytes(k, n).expect("fits");
                for activations in [Activations::Float, Activations::Int8] {
                    let name = format!("{format:?}, {activations:?} {shape}");
                    measure(&name, size, &buffer, |copy| {
                        let part = &bytes[copy * size..][..size];
                        let w = quantised::Weights::new(format, k, n, part);
                        let y = MatrixMut::new(&mut y, rows, n);
                        quantised::product(x, &w, y, Output::Overwrite, activations);
                    });
                }
            }
        }
    }
}
