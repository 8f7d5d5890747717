//! Against the definition in `f64`, and against itself in batches and on threads.

use super::*;
use crate::gemm::tests::numbers;
use crate::isa::{Isa, isas};

/// Output, and gradients of input, weight and bias, by the definition in `f64`.
fn reference(x: &[f32], w: &[f32], bias: &[f32], dy: &[f32], c: &Conv2d) -> [Vec<f64>; 4] {
    let ([oh, ow], [kh, kw]) = (c.output(), c.kernel);
    let mut y = vec![0.0; c.batch * c.outputs * oh * ow];
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    let mut db = vec![0.0; c.outputs];
    for n in 0..c.batch {
        for o in 0..c.outputs {
            for oy in 0..oh {
                for ox in 0..ow {
                    let at = ((n * c.outputs + o) * oh + oy) * ow + ox;
                    y[at] += bias[o] as f64;
                    db[o] += dy[at] as f64;
                    for i in 0..c.inputs {
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let iy = (oy * c.stride + ky).wrapping_sub(c.padding);
                                let ix = (ox * c.stride + kx).wrapping_sub(c.padding);
                                if iy >= c.height || ix >= c.width {
                                    continue;
                                }
                                let ax = ((n * c.inputs + i) * c.height + iy) * c.width + ix;
                                let aw = ((o * c.inputs + i) * kh + ky) * kw + kx;
                                y[at] += x[ax] as f64 * w[aw] as f64;
                                dx[ax] += dy[at] as f64 * w[aw] as f64;
                                dw[aw] += dy[at] as f64 * x[ax] as f64;
                            }
                        }
                    }
                }
            }
        }
    }
    [y, dx, dw, db]
}

fn close(what: &str, x: &[f32], exact: &[f64], conv: &Conv2d) {
    assert_eq!(x.len(), exact.len());
    for (x, exact) in x.iter().zip(exact) {
        // Chains of up to some thousand products of numbers below one.
        let tolerance = 5e-5 + 5e-6 * exact.abs();
        assert!(
            (*x as f64 - exact).abs() < tolerance,
            "{what} of {conv:?}: {x} {exact}"
        );
    }
}

#[test]
fn output_and_gradients_equal_the_plain_ones() {
    for (batch, inputs, outputs, height, width, kernel, stride, padding) in [
        (1, 1, 1, 1, 1, [1, 1], 1, 0),
        (2, 3, 5, 7, 9, [3, 3], 1, 1),
        (2, 20, 33, 16, 16, [3, 3], 1, 1),
        (1, 17, 13, 33, 40, [3, 3], 1, 1),
        (3, 40, 35, 8, 8, [1, 1], 1, 0),
        (2, 5, 7, 12, 14, [4, 4], 2, 1),
        (2, 5, 7, 11, 13, [3, 3], 2, 1),
        (1, 4, 6, 9, 9, [5, 3], 1, 2),
        (1, 4, 6, 9, 9, [3, 3], 3, 0),
        (2, 6, 8, 10, 10, [2, 2], 2, 0),
        // Wide enough for the tile unit to read patches in place; the last one has more weights than a cache.
        (1, 33, 18, 9, 12, [5, 3], 1, 2),
        (2, 64, 48, 13, 32, [3, 3], 1, 1),
        (1, 130, 70, 6, 50, [1, 1], 1, 0),
        (1, 20, 20, 24, 25, [3, 3], 2, 1),
        (1, 300, 180, 3, 12, [3, 3], 1, 1),
    ] {
        let conv = Conv2d {
            batch,
            inputs,
            outputs,
            height,
            width,
            kernel,
            stride,
            padding,
        };
        let [oh, ow] = conv.output();
        let x = numbers(batch * inputs * height * width, 1);
        let w = numbers(outputs * inputs * kernel[0] * kernel[1], 2);
        let bias = numbers(outputs, 3);
        let dy = numbers(batch * outputs * oh * ow, 4);
        let [y, dx, dw, db] = reference(&x, &w, &bias, &dy, &conv);
        close("output", &forward(&x, &w, Some(&bias), &conv), &y, &conv);
        close(
            "input's gradient",
            &backward_input(&dy, &w, &conv),
            &dx,
            &conv,
        );
        close(
            "weight's gradient",
            &backward_weight(&x, &dy, &conv),
            &dw,
            &conv,
        );
        close("bias's gradient", &backward_bias(&dy, &conv), &db, &conv);
        // Products of rounded numbers are exact.
        let [x, w, dy] = [&x, &w, &dy].map(|x| rounded(x));
        let [y, dx, dw, _] = reference(&x, &w, &bias, &dy, &conv);
        for unit in Unit::all() {
            let found = forward_bf16(unit, &x, &w, Some(&bias), &conv);
            close("output", &found, &y, &conv);
            let found = backward_input_bf16(unit, &dy, &w, &conv);
            close("input's gradient", &found, &dx, &conv);
            let found = backward_weight_bf16(unit, &x, &dy, &conv);
            close("weight's gradient", &found, &dw, &conv);
        }
    }
}

fn rounded(x: &[f32]) -> Vec<f32> {
    let bytes = bf16::round(x);
    bf16::widen(&bf16::Weights::new(1, x.len(), &bytes))
}

#[test]
fn in_bf16_a_picture_alone_equals_the_picture_in_a_batch_on_any_threads() {
    let conv = Conv2d {
        batch: 3,
        inputs: 40,
        outputs: 33,
        height: 25,
        width: 26,
        kernel: [3, 3],
        stride: 1,
        padding: 1,
    };
    let size = conv.inputs * conv.height * conv.width;
    let (x, w) = (numbers(3 * size, 1), numbers(conv.outputs * conv.taps(), 2));
    for unit in Unit::all() {
        let all = forward_bf16(unit, &x, &w, None, &conv);
        let dw = backward_weight_bf16(unit, &x, &all, &conv);
        // Other bits than without rounding.
        assert_ne!(all, forward(&x, &w, None, &conv));
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let alone = Conv2d { batch: 1, ..conv };
                let y = forward_bf16(unit, &x[size..2 * size], &w, None, &alone);
                assert_eq!(y, all[y.len()..2 * y.len()]);
                assert_eq!(backward_weight_bf16(unit, &x, &all, &conv), dw);
            });
        }
    }
}

#[test]
fn a_picture_alone_equals_the_picture_in_a_batch_on_any_threads() {
    for (inputs, outputs) in [(30, 20), (40, 33)] {
        check_batch(inputs, outputs);
    }
}

fn check_batch(inputs: usize, outputs: usize) {
    let conv = Conv2d {
        batch: 3,
        inputs,
        outputs,
        height: 25,
        width: 26,
        kernel: [3, 3],
        stride: 1,
        padding: 1,
    };
    let size = conv.inputs * conv.height * conv.width;
    let (x, w) = (numbers(3 * size, 1), numbers(conv.outputs * conv.taps(), 2));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let y = forward(&x, &w, None, &conv);
            let dw = backward_weight(&x, &y, &conv);
            (backward_input(&y, &w, &conv), dw, y)
        })
    };
    let all = run(1);
    assert_eq!(run(2), all);
    let one = forward(&x[size..2 * size], &w, None, &Conv2d { batch: 1, ..conv });
    assert_eq!(one, all.2[one.len()..2 * one.len()]);
}

/// The errors' root mean square, as a fraction of the output's, of the direct and of Winograd's way.
fn errors(conv: &Conv2d) -> [f64; 2] {
    let x = numbers(conv.batch * conv.inputs * conv.height * conv.width, 1);
    let w = numbers(conv.outputs * conv.taps(), 2);
    let bias = numbers(conv.outputs, 3);
    let dy = vec![0.0; conv.batch * conv.outputs * conv.pixels()];
    let [exact, ..] = reference(&x, &w, &bias, &dy, conv);
    let size = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
    let x = Framed::padded(&x, [conv.height, conv.width], conv.padding);
    let framed = Conv2d {
        height: conv.height + 2 * conv.padding,
        width: conv.width + 2 * conv.padding,
        padding: 0,
        ..*conv
    };
    [convolve_directly, winograd::convolve].map(|way| {
        let y = way(&x, &w, Some(&bias), &framed);
        assert_eq!(y.len(), exact.len());
        let square: f64 = y
            .iter()
            .zip(&exact)
            .map(|(y, exact)| (*y as f64 - exact).powi(2))
            .sum();
        (square / exact.len() as f64).sqrt() / size
    })
}

#[test]
fn winograds_way_is_half_as_exact_as_the_direct_one() {
    for (batch, inputs, outputs, height, width, padding) in [
        (1, 1, 1, 3, 3, 0),
        (2, 3, 5, 7, 9, 1),
        (1, 17, 13, 33, 40, 1),
        (2, 64, 40, 16, 16, 1),
        (1, 256, 20, 19, 21, 1),
        (3, 5, 70, 4, 1, 2),
        (1, 40, 40, 90, 90, 1),
    ] {
        let conv = Conv2d {
            batch,
            inputs,
            outputs,
            height,
            width,
            kernel: [3, 3],
            stride: 1,
            padding,
        };
        let [direct, winograd] = errors(&conv);
        // Roundings of 2⁻²⁴ along chains of up to 2304 products, and those of the transforms.
        assert!(direct < 1.2e-6, "{conv:?}: {direct}");
        assert!(winograd < 2.5e-6, "{conv:?}: {winograd}");
        if inputs >= 32 {
            assert!(winograd < 3.0 * direct, "{conv:?}: {winograd} {direct}");
        }
    }
}

#[test]
fn winograds_way_is_the_same_on_all_registers() {
    for (batch, inputs, outputs, height, width, padding) in [
        (2, 3, 5, 37, 90, 1),
        (1, 20, 17, 12, 11, 2),
        (3, 2, 2, 9, 3, 0),
    ] {
        let (x, w) = (
            numbers(batch * inputs * height * width, 1),
            numbers(outputs * inputs * 9, 2),
        );
        let bias = numbers(outputs, 3);
        let conv = Conv2d {
            batch,
            inputs,
            outputs,
            height: height + 2 * padding,
            width: width + 2 * padding,
            kernel: [3, 3],
            stride: 1,
            padding: 0,
        };
        let x = Framed::padded(&x, [height, width], padding);
        let best = winograd::convolve(&x, &w, Some(&bias), &conv);
        for isa in isas() {
            // SAFETY: `isas` lists what this processor has.
            let y = unsafe { winograd::convolve_with(isa, &x, &w, Some(&bias), &conv) };
            if isa == Isa::Portable {
                // Multiply-adds that may be rounded twice.
                let best: Vec<f64> = best.iter().map(|&y| y.into()).collect();
                close("output", &y, &best, &conv);
            } else {
                assert_eq!(y, best, "{isa:?}");
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    #[test]
    fn both_ways_are_right_for_any_sizes(
        (batch, inputs, outputs) in (1..4_usize, 1..40_usize, 1..40_usize),
        (height, width) in (1..30_usize, 1..30_usize),
        padding in 1..3_usize,
    ) {
        let conv = Conv2d {
            batch,
            inputs,
            outputs,
            height,
            width,
            kernel: [3, 3],
            stride: 1,
            padding,
        };
        let [direct, winograd] = errors(&conv);
        // See above; a few outputs may all be small by chance.
        assert!(direct < 5e-6 && winograd < 1e-5, "{conv:?}: {direct} {winograd}");
    }
}
