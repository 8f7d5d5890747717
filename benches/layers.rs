//! Convolutions, normalisations, activations and attention at the sizes of our models:
//! `cargo bench --manifest-path benches/Cargo.toml --bench layers [FILTER]`.
//!
//! Elements a second are multiply-adds for convolution (as its definition counts them) and attention (without the
//! half that is hidden), numbers for everything else.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use impasto_kernels::attention::{self, Heads, Shape};
use impasto_kernels::conv2d::{self, Conv2d};
use impasto_kernels::group_norm::{self, GroupNorm};
use impasto_kernels::{rms_norm, swiglu};

fn numbers(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// Those of an image tokenizer in training, and of a decoder to 256×256.
fn convolution(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convolution");
    for (batch, inputs, outputs, side, kernel, stride) in [
        (32, 64, 64, 16, 3, 1),
        (32, 256, 128, 8, 1, 1),
        (32, 64, 128, 16, 4, 2),
        (1, 128, 128, 256, 3, 1),
        (1, 512, 512, 32, 3, 1),
    ] {
        let conv = Conv2d {
            batch,
            inputs,
            height: side,
            width: side,
            outputs,
            kernel: [kernel, kernel],
            stride,
            padding: usize::from(kernel != 1),
        };
        let [height, width] = conv.output();
        let x = numbers(batch * inputs * side * side);
        let w = numbers(outputs * inputs * kernel * kernel);
        let b = numbers(outputs);
        let dy = numbers(batch * outputs * height * width);
        group.throughput(Throughput::Elements(
            (dy.len() * inputs * kernel * kernel) as u64,
        ));
        let name = format!("{batch}x{inputs}-{outputs} {side}px k{kernel} s{stride}");
        group.bench_function(format!("{name} forward"), |bench| {
            bench.iter(|| conv2d::forward(&x, &w, Some(&b), &conv));
        });
        group.bench_function(format!("{name} gradient of inputs"), |bench| {
            bench.iter(|| conv2d::backward_input(&dy, &w, &conv));
        });
        group.bench_function(format!("{name} gradient of weights"), |bench| {
            bench.iter(|| conv2d::backward_weight(&x, &dy, &conv));
        });
    }
    group.finish();
}

fn normalisation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalisation");
    let (x, w, b) = (numbers(32 * 64 * 256), numbers(64), numbers(64));
    let norm = GroupNorm {
        groups: 8,
        pixels: 256,
        eps: 1e-6,
        silu: true,
    };
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("group norm, silu 32x64x256 forward", |bench| {
        bench.iter(|| group_norm::forward(&x, &w, &b, &norm));
    });
    group.bench_function("group norm, silu 32x64x256 backward", |bench| {
        bench.iter(|| group_norm::backward(&x, &x, &w, &b, &norm));
    });
    let (x, w) = (numbers(9216 * 192), numbers(192));
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("rms norm 9216x192 forward", |bench| {
        bench.iter(|| rms_norm::forward(&x, &w, 1e-6));
    });
    group.bench_function("rms norm 9216x192 backward", |bench| {
        bench.iter(|| rms_norm::backward(&x, &x, &w, 1e-6));
    });
    let (x, dy) = (numbers(9216 * 1024), numbers(9216 * 512));
    group.throughput(Throughput::Elements(dy.len() as u64));
    group.bench_function("swiglu 9216x512 forward", |bench| {
        bench.iter(|| swiglu::forward(&x, 512));
    });
    group.bench_function("swiglu 9216x512 backward", |bench| {
        bench.iter(|| swiglu::backward(&dy, &x, 512));
    });
    group.finish();
}

/// That of a training batch, and that of one token over what was drawn.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (batch, heads, queries, keys, dim) in [(32, 3, 288, 288, 64), (2, 12, 1, 256, 64)] {
        let shape = Shape {
            batch,
            heads,
            queries,
            keys,
            dim,
            causal: true,
            scale: 1.0 / (dim as f32).sqrt(),
            unit: None,
        };
        let view = |data, length: usize| Heads {
            data,
            batch_stride: length * heads * dim,
            head_stride: dim,
            row_stride: heads * dim,
            dim_stride: 1,
        };
        let x = numbers(batch * queries * heads * dim);
        let k = numbers(batch * keys * heads * dim);
        let (q, k) = (view(&x, queries), view(&k, keys));
        let shared = if queries == 1 { 1 } else { 2 };
        let count = 2 * batch * heads * queries * keys * dim / shared;
        group.throughput(Throughput::Elements(count as u64));
        let name = format!("{batch}x{heads} {queries} of {keys} x {dim}");
        let (out, norms) = attention::forward(q, k, k, shape);
        group.bench_function(format!("{name} forward"), |bench| {
            bench.iter(|| attention::forward(q, k, k, shape));
        });
        group.bench_function(format!("{name} backward"), |bench| {
            bench.iter(|| attention::backward(q, (q, k, k), (&out, &norms), shape));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = convolution, normalisation, attention
}
criterion_main!(benches);
