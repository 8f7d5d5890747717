//! The products against `f64` and against products of floats, the layout against its description, and the
//! errors of quantising against their bounds.

use super::integers::{Arrangement, with_integers};
use super::*;
use crate::gemm::gemm_with_isa;
use crate::gemm::tests::numbers;
use crate::isa::isas;

const FORMATS: [Format; 2] = [Format::Int8, Format::Int4];

/// Shapes `(rows, inputs, outputs)` around the edges of blocks, panels and kernels.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 64, 16),
    (2, 65, 17),
    (3, 63, 15),
    (4, 31, 130),
    (5, 130, 33),
    (7, 200, 47),
    (8, 128, 64),
    (9, 96, 65),
    (13, 257, 100),
    (16, 300, 31),
    (17, 70, 50),
    (40, 300, 77),
    (1, 700, 1500),
];

/// Normally distributed enough: sums of four.
fn normal(len: usize, seed: u64) -> Vec<f32> {
    numbers(4 * len, seed)
        .chunks(4)
        .map(|x| x.iter().sum())
        .collect()
}

fn quantised(format: Format, inputs: usize, outputs: usize, seed: u64) -> Vec<u8> {
    let w = normal(inputs * outputs, seed);
    quantise(Matrix::new(&w, inputs, outputs), format).unwrap()
}

#[test]
fn a_weight_stands_where_the_layout_says() {
    let (inputs, outputs) = (130, 37);
    let w = normal(inputs * outputs, 1);
    for format in FORMATS {
        let bytes = quantise(Matrix::new(&w, inputs, outputs), format).unwrap();
        let block_bytes = 64 + 64 * if format == Format::Int8 { 16 } else { 8 };
        assert_eq!(bytes.len(), 3 * 3 * block_bytes);
        assert_eq!(format.bytes(inputs, outputs), Some(bytes.len()));
        let weights = Weights::new(format, inputs, outputs, &bytes).dequantise();
        for input in 0..inputs {
            for output in 0..outputs {
                let (j, i) = (output % 16, input % 64);
                let block = &bytes[(output / 16 * 3 + input / 64) * block_bytes..];
                let scale = &block[i / 32 * 32 + 2 * j..][..2];
                let scale = f32::from_bits(u32::from_le_bytes([0, 0, scale[0], scale[1]]));
                let q = match format {
                    Format::Int8 => block[64 + i / 4 * 64 + 4 * j + i % 4] as i32 - 128,
                    Format::Int4 => {
                        let byte = block[64 + i / 8 * 64 + 4 * j + i % 4];
                        (if i % 8 < 4 { byte & 15 } else { byte >> 4 }) as i32 - 8
                    }
                };
                assert_eq!(weights[input * outputs + output], q as f32 * scale);
            }
        }
    }
}

#[test]
fn product_of_floats_equals_that_of_the_dequantised_weights_bit_for_bit() {
    for isa in isas() {
        for format in FORMATS {
            for shape in SHAPES {
                check_floats(isa, format, shape, 1);
            }
        }
    }
}

fn check_floats(
    isa: Isa,
    format: Format,
    (rows, inputs, outputs): (usize, usize, usize),
    seed: u64,
) {
    let bytes = quantised(format, inputs, outputs, seed);
    // Everything unaligned and with gaps.
    let mut moved = vec![0; 1];
    moved.extend(&bytes);
    let w = Weights::new(format, inputs, outputs, &moved[1..]);
    let x = numbers(2 * rows * inputs + 1, 3);
    let start = numbers(rows * (outputs + 3) + 1, 4);
    for x in [
        Matrix::new(&x[1..], rows, inputs),
        Matrix::with_strides(&x, rows, inputs, 2 * inputs, 2),
    ] {
        for output in [Output::Overwrite, Output::Accumulate] {
            let run = |work: &dyn Fn(MatrixMut)| {
                let mut y = start.clone();
                work(MatrixMut::with_stride(
                    &mut y[1..],
                    rows,
                    outputs,
                    outputs + 3,
                ));
                y
            };
            let floats = w.dequantise();
            let expected = run(&|y| {
                let w = Matrix::new(&floats, inputs, outputs);
                gemm_with_isa(isa, x, w, y, output);
            });
            let result = run(&|y| {
                product_with_isa(isa, x, &w, y, output, Activations::Float);
            });
            // What lies between the rows, too.
            assert_eq!(
                result, expected,
                "{isa:?} {format:?} {rows}x{inputs}x{outputs}"
            );
        }
    }
}

#[test]
fn product_of_integers_equals_the_plain_one() {
    for isa in isas() {
        for format in FORMATS {
            for shape in SHAPES {
                check_integers(isa, format, shape, 1);
            }
        }
    }
}

fn check_integers(
    isa: Isa,
    format: Format,
    (rows, inputs, outputs): (usize, usize, usize),
    seed: u64,
) {
    let bytes = quantised(format, inputs, outputs, seed);
    let w = Weights::new(format, inputs, outputs, &bytes);
    let x = normal(rows * inputs, 3);
    let x = Matrix::new(&x, rows, inputs);
    let start = numbers(rows * outputs, 4);
    let mut y = start.clone();
    let result = MatrixMut::new(&mut y, rows, outputs);
    product_with_isa(isa, x, &w, result, Output::Accumulate, Activations::Int8);
    let floats = w.dequantise();
    with_integers(x, w.padded_inputs(), 0, Arrangement::Rows, |integers| {
        for row in 0..rows {
            for output in 0..outputs {
                let mut exact = start[row * outputs + output] as f64;
                let mut size = exact.abs();
                for input in 0..inputs {
                    let word = integers.words[row * integers.stride + input / 4];
                    let q = word.to_le_bytes()[input % 4] as i8;
                    let scale = integers.scales[(row * integers.inputs + input) / GROUP];
                    let term = q as f64 * scale as f64 * floats[input * outputs + output] as f64;
                    exact += term;
                    size += term.abs();
                }
                let got = y[row * outputs + output] as f64;
                // Roundings of `q · scale` to floats in the reference, of a product and a sum per
                // group.
                assert!(
                    (got - exact).abs() <= 3e-7 * size,
                    "{isa:?} {format:?} {rows}x{inputs}x{outputs}: {got} {exact}"
                );
            }
        }
    });
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch_and_any_number_of_threads() {
    let (m, inputs, outputs) = (41, 700, 900);
    let x = normal(m * inputs, 1);
    for isa in isas() {
        for format in FORMATS {
            let bytes = quantised(format, inputs, outputs, 2);
            let w = Weights::new(format, inputs, outputs, &bytes);
            for activations in [Activations::Float, Activations::Int8] {
                let run = |rows: usize, first: usize| {
                    let mut y = vec![0.0; rows * outputs];
                    let x = Matrix::new(&x[first * inputs..], rows, inputs);
                    let result = MatrixMut::new(&mut y, rows, outputs);
                    // The best one as it is chosen, with tiles from some rows on.
                    if isa == crate::isa() {
                        product(x, &w, result, Output::Overwrite, activations);
                    } else {
                        product_with_isa(isa, x, &w, result, Output::Overwrite, activations);
                    }
                    y
                };
                let whole = run(m, 0);
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    pool.install(|| {
                        assert_eq!(run(m, 0), whole);
                        for rows in [1, 2, 3, 4, 5, 8, 11, 16, 17] {
                            assert_eq!(run(rows, 5), whole[5 * outputs..(5 + rows) * outputs]);
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn vector_paths_agree_bit_for_bit() {
    let (rows, inputs, outputs) = (11, 300, 90);
    let x = normal(rows * inputs, 1);
    for format in FORMATS {
        let bytes = quantised(format, inputs, outputs, 2);
        let w = Weights::new(format, inputs, outputs, &bytes);
        for activations in [Activations::Float, Activations::Int8] {
            let mut results = isas()
                .into_iter()
                .filter(|&isa| isa != Isa::Portable)
                .map(|isa| {
                    let mut y = vec![0.0; rows * outputs];
                    let result = MatrixMut::new(&mut y, rows, outputs);
                    let x = Matrix::new(&x, rows, inputs);
                    product_with_isa(isa, x, &w, result, Output::Overwrite, activations);
                    y
                });
            if let Some(first) = results.next() {
                results.for_each(|other| assert_eq!(other, first));
            }
        }
    }
}

/// Integers are summed exactly and scaled alike.
fn check_tiles(format: Format, (rows, inputs, outputs): (usize, usize, usize), seed: u64) {
    if !has_tiles() {
        return;
    }
    let bytes = quantised(format, inputs, outputs, seed);
    let mut moved = vec![0; 1];
    moved.extend(&bytes);
    let w = Weights::new(format, inputs, outputs, &moved[1..]);
    let mut x = normal(rows * inputs, 3);
    if rows * inputs > 40 {
        x[rows * inputs / 2] = f32::NAN;
    }
    let x = Matrix::new(&x, rows, inputs);
    let start = numbers(rows * (outputs + 3), 4);
    for output in [Output::Overwrite, Output::Accumulate] {
        let run = |work: &dyn Fn(MatrixMut)| {
            let mut y = start.clone();
            work(MatrixMut::with_stride(&mut y, rows, outputs, outputs + 3));
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let expected = run(&|y| product_with_isa(isa(), x, &w, y, output, Activations::Int8));
        let found = run(&|y| product_with_tiles(x, &w, y, output));
        // NaNs may differ in their payload.
        for (found, expected) in found.into_iter().zip(expected) {
            let both_nan = f32::from_bits(found).is_nan() && f32::from_bits(expected).is_nan();
            assert!(
                found == expected || both_nan,
                "{format:?} {rows}x{inputs}x{outputs}"
            );
        }
    }
}

#[test]
fn tiles_agree_with_vectors_bit_for_bit() {
    for format in FORMATS {
        for shape in SHAPES.into_iter().chain([(33, 1100, 70), (100, 64, 17)]) {
            check_tiles(format, shape, 1);
        }
    }
}

#[test]
fn nan_and_infinities_come_through() {
    let (rows, inputs, outputs) = (5, 100, 40);
    for isa in isas() {
        for format in FORMATS {
            let bytes = quantised(format, inputs, outputs, 2);
            let w = Weights::new(format, inputs, outputs, &bytes);
            let floats = w.dequantise();
            let mut x = numbers(rows * inputs, 1);
            x[inputs + 70] = f32::INFINITY;
            x[3 * inputs + 5] = f32::NAN;
            let run = |activations| {
                let mut y = vec![0.0; rows * outputs];
                let result = MatrixMut::new(&mut y, rows, outputs);
                let x = Matrix::new(&x, rows, inputs);
                product_with_isa(isa, x, &w, result, Output::Overwrite, activations);
                y
            };
            for (i, y) in run(Activations::Float).iter().enumerate() {
                match i / outputs {
                    1 => {
                        let w = floats[70 * outputs + i % outputs];
                        if w == 0.0 {
                            assert!(y.is_nan());
                        } else {
                            assert_eq!(*y, f32::INFINITY.copysign(w));
                        }
                    }
                    3 => assert!(y.is_nan()),
                    _ => assert!(y.is_finite()),
                }
            }
            for (i, y) in run(Activations::Int8).iter().enumerate() {
                assert_eq!(y.is_nan(), matches!(i / outputs, 1 | 3));
            }
        }
    }
}

#[test]
fn quantised_weights_are_within_their_bounds() {
    let (inputs, outputs) = (128, 64);
    let mut w = normal(inputs * outputs, 1);
    for input in 0..inputs {
        for output in 0..outputs {
            // An outlier in each group, or all the same, tiny, large, or zero.
            let w = &mut w[input * outputs + output];
            match output % 8 {
                1 if input % GROUP == output / 8 => *w *= 50.0,
                2 => *w = 0.3,
                3 => *w *= 1e-35,
                4 => *w *= 1e35,
                5 => *w = 0.0,
                _ => {}
            }
        }
    }
    for format in FORMATS {
        let bytes = quantise(Matrix::new(&w, inputs, outputs), format).unwrap();
        let q = Weights::new(format, inputs, outputs, &bytes).dequantise();
        for output in 0..outputs {
            for first in (0..inputs).step_by(GROUP) {
                let at = |i: usize| (first + i) * outputs + output;
                let largest = (0..GROUP).map(|i| w[at(i)].abs()).fold(0.0, f32::max) as f64;
                let errors: Vec<f64> = (0..GROUP)
                    .map(|i| (w[at(i)] as f64 - q[at(i)] as f64).abs())
                    .collect();
                match format {
                    Format::Int8 => {
                        assert!(errors.iter().all(|&error| error <= largest / 252.0));
                    }
                    Format::Int4 => {
                        let square: f64 = errors.iter().map(|x| x * x).sum();
                        assert!((square / GROUP as f64).sqrt() <= largest / 13.9);
                    }
                }
            }
        }
    }
    // What it comes to for normally distributed weights and activations.
    let w = normal(inputs * outputs, 5);
    let x = normal(100 * inputs, 6);
    let x = Matrix::new(&x, 100, inputs);
    let exact = crate::linear::forward(x, Matrix::new(&w, inputs, outputs), None);
    for (format, activations, bound) in [
        (Format::Int8, Activations::Float, 0.006),
        (Format::Int8, Activations::Int8, 0.0085),
        (Format::Int4, Activations::Float, 0.09),
        (Format::Int4, Activations::Int8, 0.09),
    ] {
        let bytes = quantise(Matrix::new(&w, inputs, outputs), format).unwrap();
        let w = Weights::new(format, inputs, outputs, &bytes);
        let y = forward(x, &w, None, activations);
        let (mut error, mut square) = (0.0, 0.0);
        for (y, exact) in y.iter().zip(&exact) {
            error += (*y as f64 - *exact as f64).powi(2);
            square += (*exact as f64).powi(2);
        }
        let relative = (error / square).sqrt();
        assert!(relative < bound, "{format:?} {activations:?}: {relative}");
        // The bound is no idle one.
        assert!(
            relative > bound / 2.0,
            "{format:?} {activations:?}: {relative}"
        );
    }
}

#[test]
fn bias_is_added() {
    let (rows, inputs, outputs) = (3, 64, 20);
    let (x, bias) = (numbers(rows * inputs, 1), numbers(outputs, 2));
    let bytes = quantised(Format::Int8, inputs, outputs, 3);
    let w = Weights::new(Format::Int8, inputs, outputs, &bytes);
    let x = Matrix::new(&x, rows, inputs);
    let with = forward(x, &w, Some(&bias), Activations::Float);
    let without = forward(x, &w, None, Activations::Float);
    for (i, (a, b)) in with.iter().zip(&without).enumerate() {
        // Only the order of the sum differs, of numbers around ten.
        assert!((a - b - bias[i % outputs]).abs() < 2e-5);
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut w = numbers(60, 1);
    w[3 * 6 + 4] = f32::NAN;
    w[7 * 6 + 4] = f32::INFINITY;
    for format in FORMATS {
        let error = quantise(Matrix::new(&w, 10, 6), format).unwrap_err();
        assert_eq!(
            error,
            NotFinite {
                input: 3,
                output: 4
            }
        );
        assert!(error.to_string().contains("input 3, output 4"));
    }
}

#[test]
fn any_bytes_are_weights() {
    let (inputs, outputs) = (70, 20);
    for format in FORMATS {
        let len = format.bytes(inputs, outputs).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7919 % 256) as u8).collect();
        let w = Weights::new(format, inputs, outputs, &bytes);
        let x = numbers(3 * inputs, 1);
        for activations in [Activations::Float, Activations::Int8] {
            let y = forward(Matrix::new(&x, 3, inputs), &w, None, activations);
            assert_eq!(y.len(), 3 * outputs);
        }
    }
    assert_eq!(Format::Int8.bytes(usize::MAX, 1 << 20), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_right_for_any_shape(
        shape in (1..25_usize, 1..200_usize, 1..100_usize),
        seed: u64,
    ) {
        for isa in isas() {
            for format in FORMATS {
                check_floats(isa, format, shape, seed);
                check_integers(isa, format, shape, seed);
            }
        }
        for format in FORMATS {
            check_tiles(format, shape, seed);
        }
    }
}
