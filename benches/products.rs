//! Matrix products of training and of drawing: `cargo bench --manifest-path benches/Cargo.toml --bench products [FILTER]`.
//!
//! Elements a second are multiply-adds. Weights of few rows come from the same memory each time; what they take
//! from memory that no cache holds is asked by the example `bench_streaming`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use impasto_kernels::bf16;
use impasto_kernels::gemm::{Output, Matrix, MatrixMut, gemm};
use impasto_kernels::quantised::{self, Activations, Format};

fn numbers(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// The products of a layer of width 192 over a batch, forward and backward, and a square one.
fn large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("large");
    for (m, n, k, layout) in [
        (6144, 192, 768, "nn"),
        (6144, 768, 192, "nn"),
        (6144, 768, 192, "nt"),
        (192, 768, 6144, "tn"),
        (2048, 2048, 2048, "nn"),
    ] {
        let (a, b) = (numbers(m * k), numbers(k * n));
        let mut c = vec![0.0; m * n];
        let left = match layout.as_bytes()[0] {
            b'n' => Matrix::new(&a, m, k),
            _ => Matrix::new(&a, k, m).transposed(),
        };
        let right = match layout.as_bytes()[1] {
            b'n' => Matrix::new(&b, k, n),
            _ => Matrix::new(&b, n, k).transposed(),
        };
        group.throughput(Throughput::Elements((m * n * k) as u64));
        let id = BenchmarkId::new(layout, format!("{m}x{n}x{k}"));
        group.bench_function(id, |bench| {
            bench.iter(|| gemm(left, right, MatrixMut::new(&mut c, m, n), Output::Overwrite));
        });
        black_box(&c);
    }
    group.finish();
}

/// The products of a token, in every format that weights are held in.
fn few_rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("few rows");
    let (k, n) = (768, 3072);
    let floats = numbers(k * n);
    // Bytes that are modest numbers in every format: bfloat16s of 0.5, also as scales.
    let bytes: Vec<u8> = [0x00, 0x3F].repeat(k * n);
    for rows in [1, 2, 8, 16] {
        let x = numbers(rows * k);
        let x = Matrix::new(&x, rows, k);
        let mut y = vec![0.0; rows * n];
        let size = format!("{rows}x{n}x{k}");
        group.throughput(Throughput::Elements((rows * n * k) as u64));
        group.bench_function(BenchmarkId::new("f32", &size), |bench| {
            let weights = Matrix::new(&floats, k, n);
            bench.iter(|| gemm(x, weights, MatrixMut::new(&mut y, rows, n), Output::Overwrite));
        });
        group.bench_function(BenchmarkId::new("bf16", &size), |bench| {
            let weights = bf16::Weights::new(k, n, &bytes[..2 * k * n]);
            bench.iter(|| {
                bf16::product(
                    x,
                    &weights,
                    MatrixMut::new(&mut y, rows, n),
                    Output::Overwrite,
                );
            });
        });
        for format in [Format::Int8, Format::Int4] {
            let part = &bytes[..format.bytes(k, n).expect("fits")];
            let weights = quantised::Weights::new(format, k, n, part);
            for activations in [Activations::Float, Activations::Int8] {
                let name = format!("{format:?} by {activations:?}").to_lowercase();
                group.bench_function(BenchmarkId::new(name, &size), |bench| {
                    bench.iter(|| {
                        let y = MatrixMut::new(&mut y, rows, n);
                        quantised::product(x, &weights, y, Output::Overwrite, activations);
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = large, few_rows
}
criterion_main!(benches);
