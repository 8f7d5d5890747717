//! Convolutions, normalisations and attention at the shapes of our models, in processor time (so that a
//! busy machine tells the same) of all threads: `RAYON_NUM_THREADS=1 cargo run --release --example bench_ops`
use std::time::Instant;

use impasto_kernels::attention::{self, Heads, Shape};
use impasto_kernels::conv2d::{self, Conv2d};
use impasto_kernels::group_norm::{self, GroupNorm};
use impasto_kernels::{rms_norm, swiglu};

fn numbers(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// Seconds of processor time of this process.
fn processor_seconds() -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    let mut time = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the struct is that of 64-bit Linux, where 2 is CLOCK_PROCESS_CPUTIME_ID.
    unsafe { clock_gettime(2, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 * 1e-9
}

fn time(name: &str, flops: f64, mut work: impl FnMut()) {
    let begin = Instant::now();
    let (mut best, mut runs) = (f64::MAX, 0);
    while runs < 3 || begin.elapsed().as_secs_f64() < 0.3 {
        let start = processor_seconds();
        work();
        best = best.min(processor_seconds() - start);
        runs += 1;
    }
    println!(
        "{name:<52} {:>9.3} ms {:>8.1} G/s",
        best * 1e3,
        flops / best / 1e9
    );
}

fn main() {
    impasto_kernels::memory::keep_freed();
    for (batch, inputs, outputs, side, kernel, stride) in [
        (32, 64, 64, 16, 3, 1),
        (32, 128, 128, 8, 3, 1),
        (32, 48, 64, 16, 3, 1),
        (32, 256, 128, 8, 1, 1),
        (32, 64, 128, 16, 4, 2),
        (1, 128, 128, 256, 3, 1),
        (1, 256, 256, 64, 3, 1),
        (1, 512, 512, 32, 3, 1),
        (1, 512, 512, 16, 3, 1),
    ] {
        let padding = if kernel == 1 { 0 } else { 1 };
        let conv = Conv2d {
            batch,
            inputs,
            height: side,
            width: side,
            outputs,
            kernel: [kernel, kernel],
            stride,
            padding,
        };
        let [oh, ow] = conv.output();
        let x = numbers(batch * inputs * side * side);
        let w = numbers(outputs * inputs * kernel * kernel);
        let b = numbers(outputs);
        let dy = numbers(batch * outputs * oh * ow);
        let flops = 2.0 * (dy.len() * inputs * kernel * kernel) as f64;
        let name = format!("conv {batch}x{inputs}->{outputs} {side}² k{kernel} s{stride}");
        time(&format!("{name} forward"), flops, || {
            drop(conv2d::forward(&x, &w, Some(&b), &conv))
        });
        time(&format!("{name} input"), flops, || {
            drop(conv2d::backward_input(&dy, &w, &conv))
        });
        time(&format!("{name} weight"), flops, || {
            drop(conv2d::backward_weight(&x, &dy, &conv))
        });
        time(&format!("{name} bias"), dy.len() as f64, || {
            drop(conv2d::backward_bias(&dy, &conv))
        });
    }
    let (x, w, b) = (numbers(32 * 64 * 256), numbers(64), numbers(64));
    let norm = GroupNorm {
        groups: 8,
        pixels: 256,
        eps: 1e-6,
        silu: true,
    };
    let len = x.len() as f64;
    time("group norm + silu 32x64x16² forward", len, || {
        drop(group_norm::forward(&x, &w, &b, &norm))
    });
    time("group norm + silu 32x64x16² backward", len, || {
        drop(group_norm::backward(&x, &x, &w, &b, &norm));
    });
    let (x, w) = (numbers(9216 * 192), numbers(192));
    let len = x.len() as f64;
    time("rms norm 9216x192 forward", len, || {
        drop(rms_norm::forward(&x, &w, 1e-6))
    });
    time("rms norm 9216x192 backward", len, || {
        drop(rms_norm::backward(&x, &x, &w, 1e-6))
    });
    let w = numbers(64);
    time("rms norm 27648x64 forward", len, || {
        drop(rms_norm::forward(&x, &w, 1e-6))
    });
    time("rms norm 27648x64 backward", len, || {
        drop(rms_norm::backward(&x, &x, &w, 1e-6))
    });
    let (x, dy) = (numbers(9216 * 1024), numbers(9216 * 512));
    let len = dy.len() as f64;
    time("swiglu 9216x1024 forward", len, || {
        drop(swiglu::forward(&x, 512))
    });
    time("swiglu 9216x1024 backward", len, || {
        drop(swiglu::backward(&dy, &x, 512))
    });
    for (batch, heads, queries, keys, dim) in [(32, 3, 288, 288, 64), (1, 12, 1, 256, 64)] {
        let shape = Shape {
            batch,
            heads,
            queries,
            keys,
            dim,
            causal: true,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let view = |data, length: usize| Heads {
            data,
            batch_stride: length * heads * dim,
            head_stride: dim,
            row_stride: heads * dim,
            dim_stride: 1,
        };
        let (x, k) = (
            numbers(batch * queries * heads * dim),
            numbers(batch * keys * heads * dim),
        );
        let (q, k) = (view(&x, queries), view(&k, keys));
        // Half of the products are hidden.
        let flops = 2.0 * (batch * heads * queries * keys * dim) as f64;
        let name = format!("attention {batch}x{heads} {queries}/{keys}x{dim}");
        let (out, norms) = attention::forward(q, k, k, shape);
        time(&format!("{name} forward"), flops, || {
            drop(attention::forward(q, k, k, shape))
        });
        time(&format!("{name} backward"), 2.5 * flops, || {
            drop(attention::backward(q, (q, k, k), (&out, &norms), shape));
        });
    }
}
