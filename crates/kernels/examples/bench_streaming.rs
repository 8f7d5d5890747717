//! Products of few rows against the machine's streaming bandwidth: how fast the weights go by, as a
//! fraction of how fast the same threads read memory in the same moments (so that other work on the
//! machine slows both): `cargo run --release --example bench_streaming`, with `-- layers` for the first part alone.
//!
//! Weights are taken in turn from a ring of copies that no cache holds, as the layers of a model are.
//! Every figure is the best of many alternating runs.
use std::time::Instant;

use impasto_kernels::bf16::{self, Panels, Unit};
use impasto_kernels::gemm::{Matrix, MatrixMut, Output, gemm};
use impasto_kernels::machine;
use impasto_kernels::quantised::{self, Activations, Format};

/// Bytes of copies of a weight: several last-level caches, of which the largest servers' have hundreds of MiB.
const RING: usize = 1 << 30;

fn seconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

/// Times `product(copy)` against reading as many bytes, for half a second.
fn measure(name: &str, bytes: usize, buffer: &[f32], mut product: impl FnMut(usize)) {
    let copies = (RING / bytes).max(1);
    let (mut best, mut stream) = (f64::MAX, f64::MAX);
    let begin = Instant::now();
    let mut turn = 0;
    while turn < 10 || begin.elapsed().as_secs_f64() < 0.5 {
        best = best.min(seconds(|| product(turn % copies)));
        let part = bytes / 4;
        let from = turn % (buffer.len() / part) * part;
        stream = stream.min(seconds(|| machine::read(&buffer[from..][..part])));
        turn += 1;
    }
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!(
        "{name:<34} {:>7.1} GB/s of {:>5.1} {:>6.0} %",
        rate(best),
        rate(stream),
        100.0 * stream / best
    );
}

/// Inputs and outputs of the products of a layer of Janus-Pro-1B.
const LAYER: [(usize, usize); 4] = [(2048, 6144), (2048, 2048), (2048, 11264), (5632, 2048)];

/// What weights of a layer are held as, and how many bytes they take.
#[derive(Clone, Copy, Debug)]
enum Held {
    F32,
    Bf16,
    /// In panels for AMX: few rows are multiplied by vectors, on processors without it, too.
    Panels,
    Quantised(Format),
}

impl Held {
    fn bytes(self, k: usize, n: usize) -> usize {
        match self {
            Held::F32 => 4 * k * n,
            Held::Bf16 => 2 * k * n,
            Held::Panels => Panels::bytes(k, n).expect("fits"),
            Held::Quantised(format) => format.bytes(k, n).expect("fits"),
        }
    }

    /// The product with the weights that begin with byte `from`.
    fn multiply(
        self,
        x: Matrix,
        n: usize,
        y: MatrixMut,
        bytes: &[u8],
        floats: &[f32],
        from: usize,
    ) {
        let k = x.cols();
        let w = &bytes[from..][..self.bytes(k, n)];
        match self {
            Held::F32 => {
                let w = Matrix::new(&floats[from / 4..][..k * n], k, n);
                gemm(x, w, y, Output::Overwrite);
            }
            Held::Bf16 => bf16::product(x, &bf16::Weights::new(k, n, w), y, Output::Overwrite),
            Held::Panels => {
                let w = Panels::new(k, n, w);
                bf16::multiply_with_unit(Unit::Amx, x, &w, y, Output::Overwrite);
            }
            Held::Quantised(format) => {
                let w = quantised::Weights::new(format, k, n, w);
                quantised::product(x, &w, y, Output::Overwrite, Activations::Int8);
            }
        }
    }
}

/// Layer after layer, as a token goes through them.
fn layers(bytes: &[u8], floats: &[f32]) {
    let formats = [Format::Int8, Format::Int4].map(Held::Quantised);
    for held in [Held::F32, Held::Bf16, Held::Panels]
        .into_iter()
        .chain(formats)
    {
        let size: usize = LAYER.iter().map(|&(k, n)| held.bytes(k, n)).sum();
        for rows in [1, 2, 4, 8, 16, 32] {
            if matches!(held, Held::Panels) && !Unit::Amx.multiplies(rows) {
                continue;
            }
            let x: Vec<f32> = (0..rows * 5632).map(|i| (i % 13) as f32 - 6.0).collect();
            let mut y = vec![0.0; rows * 11264];
            let name = format!("{held:?} {rows} x layer of 2048");
            measure(&name, size, floats, |copy| {
                let mut from = copy * size;
                for (k, n) in LAYER {
                    let x = Matrix::new(&x[..rows * k], rows, k);
                    let y = MatrixMut::new(&mut y[..rows * n], rows, n);
                    held.multiply(x, n, y, bytes, floats, from);
                    from += held.bytes(k, n);
                }
            });
        }
    }
}

fn main() {
    impasto_kernels::memory::keep_freed();
    // Bytes that are modest numbers in every format: bfloat16s of 0.5, also as scales.
    let bytes: Vec<u8> = [0x00, 0x3F].repeat(RING / 2);
    let floats: Vec<f32> = (0..RING / 4).map(|i| (i % 251) as f32 - 125.0).collect();
    println!(
        "{:<34} {:>12} {:>8} {:>8}",
        "rows x inputs x outputs", "weights", "memory", "fraction"
    );
    layers(&bytes, &floats);
    if std::env::args().any(|argument| argument == "layers") {
        return;
    }
    for (k, n) in [(768, 768), (768, 3072), (1024, 2730), (1024, 50_000)] {
        for rows in [1, 2, 8, 16] {
            let x: Vec<f32> = (0..rows * k).map(|i| (i % 13) as f32 - 6.0).collect();
            let x = Matrix::new(&x, rows, k);
            let mut y = vec![0.0; rows * n];
            let shape = format!("{rows:>2} x {k} x {n}");
            measure(&format!("f32 {shape}"), 4 * k * n, &floats, |copy| {
                let w = Matrix::new(&floats[copy * k * n..], k, n);
                let y = MatrixMut::new(&mut y, rows, n);
                gemm(x, w, y, Output::Overwrite);
            });
            let size = 2 * k * n;
            measure(&format!("bf16 {shape}"), size, &floats, |copy| {
                let w = bf16::Weights::new(k, n, &bytes[copy * size..][..size]);
                let y = MatrixMut::new(&mut y, rows, n);
                bf16::product(x, &w, y, Output::Overwrite);
            });
            for format in [Format::Int8, Format::Int4] {
                let size = format.bytes(k, n).expect("fits");
                for activations in [Activations::Float, Activations::Int8] {
                    let name = format!("{format:?}, {activations:?} {shape}");
                    measure(&name, size, &floats, |copy| {
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
