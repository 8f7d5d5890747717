//! Some fixed kernels for counting their instructions, which unlike times do not depend on what else runs:
//! `.ci/instructions` does. Without arguments it lists their names; with one it runs that kernel twice, the second
//! time in `counted_kernel`.

use impasto_kernels::adamw::{self, AdamW};
use impasto_kernels::attention::{self, Heads, Shape};
use impasto_kernels::conv2d::{self, Conv2d};
use impasto_kernels::gemm::{Matrix, MatrixMut, Output, gemm};
use impasto_kernels::quantised::{self, Activations, Format};
use impasto_kernels::{
    bf16, cross_entropy, gelu, group_norm, layer_norm, linear, rms_norm, swiglu,
};

type Kernel = (&'static str, fn() -> Box<dyn FnMut()>);

const KERNELS: [Kernel; 16] = [
    ("gemm 2x768x768", || product(2, 768, 768)),
    ("gemm 96x256x384", || product(96, 256, 384)),
    ("gemm 51x1024x130", || product(51, 1024, 130)),
    ("linear gradients 96x256x256", linear_gradients),
    ("bf16 2x768x768", bf16_product),
    ("int8 2x768x768", || quantised_product(Format::Int8, 2)),
    ("int8 16x768x768", || quantised_product(Format::Int8, 16)),
    ("int4 2x768x768", || quantised_product(Format::Int4, 2)),
    ("attention 2x96x64", attention_forward),
    ("attention gradients 2x96x64", attention_gradients),
    ("conv 32x32x32x32, 3x3", || convolution(32, 32, 3, 1)),
    ("conv 64x64x16x16, 1x1", || convolution(64, 16, 1, 1)),
    ("conv 32x32x32x32, 3x3 by 2", || convolution(32, 32, 3, 2)),
    ("normalisations 256x384", normalisations),
    ("activations 128x768", activations),
    ("cross-entropy and AdamW", loss_and_step),
];

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect()
}

fn product(m: usize, k: usize, n: usize) -> Box<dyn FnMut()> {
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * n));
    Box::new(move || {
        let c = MatrixMut::new(&mut c, m, n);
        gemm(
            Matrix::new(&a, m, k),
            Matrix::new(&b, k, n),
            c,
            Output::Overwrite,
        );
    })
}

fn linear_gradients() -> Box<dyn FnMut()> {
    let (x, dy, w) = (numbers(96 * 256), numbers(96 * 256), numbers(256 * 256));
    Box::new(move || {
        let (x, dy) = (Matrix::new(&x, 96, 256), Matrix::new(&dy, 96, 256));
        drop(linear::backward_input(dy, Matrix::new(&w, 256, 256)));
        drop(linear::backward_weight(x, dy));
    })
}

fn bf16_product() -> Box<dyn FnMut()> {
    let (x, w) = (numbers(2 * 768), bf16::round(&numbers(768 * 768)));
    Box::new(move || {
        let w = bf16::Weights::new(768, 768, &w);
        drop(bf16::forward(Matrix::new(&x, 2, 768), &w, None));
    })
}

fn quantised_product(format: Format, rows: usize) -> Box<dyn FnMut()> {
    let (x, w) = (numbers(rows * 768), numbers(768 * 768));
    let w = quantised::quantise(Matrix::new(&w, 768, 768), format).expect("finite numbers");
    Box::new(move || {
        let w = quantised::Weights::new(format, 768, 768, &w);
        let x = Matrix::new(&x, rows, 768);
        drop(quantised::forward(x, &w, None, Activations::Int8));
    })
}

const ATTENTION: Shape = Shape {
    batch: 1,
    heads: 2,
    queries: 96,
    keys: 96,
    dim: 64,
    causal: true,
    scale: 0.125,
    unit: None,
};

fn heads(data: &[f32]) -> Heads<'_> {
    Heads {
        data,
        batch_stride: 96 * 128,
        head_stride: 64,
        row_stride: 128,
        dim_stride: 1,
    }
}

fn attention_forward() -> Box<dyn FnMut()> {
    let x = numbers(96 * 128);
    Box::new(move || {
        drop(attention::forward(
            heads(&x),
            heads(&x),
            heads(&x),
            ATTENTION,
        ))
    })
}

fn attention_gradients() -> Box<dyn FnMut()> {
    let x = numbers(96 * 128);
    let (out, normalisers) = attention::forward(heads(&x), heads(&x), heads(&x), ATTENTION);
    Box::new(move || {
        let qkv = (heads(&x), heads(&x), heads(&x));
        drop(attention::backward(
            heads(&x),
            qkv,
            (&out, &normalisers),
            ATTENTION,
        ));
    })
}

fn convolution(channels: usize, side: usize, kernel: usize, stride: usize) -> Box<dyn FnMut()> {
    let conv = Conv2d {
        batch: 1,
        inputs: channels,
        height: side,
        width: side,
        outputs: channels,
        kernel: [kernel, kernel],
        stride,
        padding: kernel / 2,
    };
    let x = numbers(channels * side * side);
    let w = numbers(channels * channels * kernel * kernel);
    Box::new(move || drop(conv2d::forward(&x, &w, None, &conv)))
}

fn normalisations() -> Box<dyn FnMut()> {
    let (x, weight) = (numbers(256 * 384), numbers(384));
    let norm = group_norm::GroupNorm {
        groups: 32,
        pixels: 256,
        eps: 1e-6,
        silu: true,
    };
    Box::new(move || {
        drop(layer_norm::forward(&x, &weight, &weight, 1e-5));
        drop(rms_norm::forward(&x, &weight, 1e-5));
        drop(rms_norm::backward(&x, &x, &weight, 1e-5));
        drop(group_norm::forward(&x, &weight, &weight, &norm));
    })
}

fn activations() -> Box<dyn FnMut()> {
    let (x, dy) = (numbers(128 * 768), numbers(128 * 384));
    Box::new(move || {
        drop(gelu::forward(&x));
        drop(gelu::quick(&x));
        drop(swiglu::forward(&x, 384));
        drop(swiglu::backward(&dy, &x, 384));
    })
}

fn loss_and_step() -> Box<dyn FnMut()> {
    let (logits, ids) = (numbers(128 * 1024), vec![7; 128]);
    let mut param = numbers(128 * 1024);
    let (mut first, mut second) = (vec![0.0; 128 * 1024], vec![0.0; 128 * 1024]);
    let adam = AdamW {
        learning_rate: 1e-3,
        gradient_scale: 1.0,
        beta1: 0.9,
        beta2: 0.999,
        correction1: 0.1,
        correction2: 0.001,
        eps: 1e-8,
        decay: 0.99,
    };
    Box::new(move || {
        let (losses, normalisers) = cross_entropy::forward(&logits, &ids, 1024);
        let d = cross_entropy::backward(&losses, &logits, &normalisers, &ids, 1024);
        adamw::step(&mut param, &d, &mut first, &mut second, &adam);
    })
}

#[inline(never)]
fn counted_kernel(kernel: &mut dyn FnMut()) {
    kernel();
}

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        KERNELS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let (_, make) = KERNELS
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no kernel is named {name}"));
    let mut kernel = make();
    // What is found out and allocated once is not counted.
    kernel();
    counted_kernel(&mut *kernel);
}
