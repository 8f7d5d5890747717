//! Products in bfloat16 against those in `f32`, and against `f64`.

use super::*;
use crate::gemm::gemm_with_isa;
use crate::gemm::tests::numbers;
use crate::isa::isas;

fn widen(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks(2)
        .map(|x| f32::from_bits(u32::from_le_bytes([0, 0, x[0], x[1]])))
        .collect()
}

#[test]
fn rounding_takes_the_nearest() {
    let mut x = numbers(1000, 1);
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40]);
    // Ties, to even.
    x.extend([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
    let rounded = widen(&round(&x));
    for (x, y) in x.iter().zip(&rounded) {
        let next = |step: i32| f32::from_bits((y.to_bits() as i32 + (step << 16)) as u32);
        if y.is_finite() && next(1).is_finite() && *y != 0.0 {
            for other in [next(1), next(-1)] {
                let (x, y, other) = (*x as f64, *y as f64, other as f64);
                assert!((x - y).abs() <= (x - other).abs(), "{x} {y} {other}");
            }
        }
    }
    assert_eq!(rounded[1000..1004], x[1000..1004]);
    assert!(rounded[1001].is_sign_negative());
    assert_eq!(rounded[1004], f32::INFINITY);
    assert_eq!(rounded[1006..], [1.0, 1.0 + 4.0 / 256.0]);
    assert!(widen(&round(&[f32::from_bits(0x7F80_0001)]))[0].is_nan());
}

#[test]
fn product_equals_that_of_widened_weights_bit_for_bit() {
    for isa in isas() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 9, 70),
            (2, 24, 1060),
            (4, 17, 600),
            (7, 31, 100),
            (2, 65, 17),
            (3, 8, 31),
            (5, 130, 33),
            (8, 100, 1500),
            (16, 300, 31),
            (17, 70, 50),
            (40, 300, 77),
            (3, 0, 5),
        ] {
            let mut bytes = vec![0; 1];
            bytes.extend(round(&numbers(inputs * outputs, 1)));
            let floats = widen(&bytes[1..]);
            let w = Weights::new(inputs, outputs, &bytes[1..]);
            let x = numbers(rows * inputs, 2);
            let x = Matrix::new(&x, rows, inputs);
            for output in [Output::Overwrite, Output::Accumulate] {
                let start = numbers(rows * outputs, 3);
                let (mut y, mut expected) = (start.clone(), start);
                let result = MatrixMut::new(&mut y, rows, outputs);
                product_with_isa(isa, x, &w, result, output);
                let result = MatrixMut::new(&mut expected, rows, outputs);
                gemm_with_isa(
                    isa,
                    x,
                    Matrix::new(&floats, inputs, outputs),
                    result,
                    output,
                );
                assert_eq!(y, expected, "{isa:?} {rows}x{inputs}x{outputs}");
            }
        }
    }
}

#[test]
fn nan_and_infinities_follow_the_rules() {
    for isa in isas() {
        let w = round(&[1.0, f32::INFINITY, f32::NAN, 0.0]);
        let mut y = [0.0; 4];
        let result = MatrixMut::new(&mut y, 2, 2);
        let x = Matrix::new(&[1.0, 0.0, f32::INFINITY, 1.0], 2, 2);
        product_with_isa(isa, x, &Weights::new(2, 2, &w), result, Output::Overwrite);
        assert!(y[0].is_nan() && y[2].is_nan());
        assert_eq!((y[1], y[3]), (f32::INFINITY, f32::INFINITY));
    }
}

/// The numbers that a unit multiplies.
fn rounded(x: &[f32]) -> Vec<f32> {
    widen(&round(x))
}

fn packed(w: &Weights) -> Vec<u8> {
    let mut panels = vec![1; Panels::bytes(w.inputs, w.outputs).unwrap()];
    Panels::pack(w, &mut panels);
    panels
}

/// The units whose products of this number of rows this processor can compute.
fn units(rows: usize) -> impl Iterator<Item = Unit> {
    let all = [Unit::Amx, Unit::Avx512Bf16];
    all.into_iter().filter(move |unit| unit.multiplies(rows))
}

/// Shapes `(rows, inputs, outputs)` around the edges of tiles, pairs of tiles, passes and tasks.
const SHAPES: [(usize, usize, usize); 20] = [
    (1, 1, 1),
    (1, 2, 17),
    (2, 31, 16),
    (3, 32, 33),
    (4, 33, 31),
    (5, 65, 32),
    (7, 64, 70),
    (8, 95, 48),
    (15, 97, 64),
    (16, 100, 100),
    (17, 511, 15),
    (31, 513, 47),
    (32, 70, 65),
    (33, 1030, 130),
    (40, 300, 77),
    (64, 96, 96),
    (65, 1100, 31),
    (530, 40, 50),
    (1030, 513, 33),
    (3, 0, 5),
];

/// Checks products of a unit, of all kinds of second factors, and of all layouts.
fn check_unit(unit: Unit, (rows, inputs, outputs): (usize, usize, usize), seed: u64) {
    let weights = numbers(inputs * outputs, seed);
    let bytes = round(&weights);
    let w = Weights::new(inputs, outputs, &bytes);
    let floats = widen(&bytes);
    let panels = packed(&w);
    let transposed: Vec<f32> = (0..inputs * outputs)
        .map(|i| weights[i % inputs * outputs + i / inputs])
        .collect();
    let transposed_bytes = round(&transposed);
    let x = numbers(2 * rows * inputs, seed + 1);
    let start = numbers(rows * (outputs + 3), seed + 2);
    for a in [
        Matrix::new(&x, rows, inputs),
        Matrix::new(&x, inputs, rows).transposed(),
        Matrix::with_strides(&x, rows, inputs, 2 * inputs, 2),
    ] {
        let mut exact = vec![[0.0; 2]; rows * outputs];
        for i in 0..rows {
            let line: Vec<f32> = (0..inputs).map(|p| a.at(i, p)).collect();
            for (p, x) in rounded(&line).into_iter().enumerate() {
                for j in 0..outputs {
                    let term = x as f64 * floats[p * outputs + j] as f64;
                    let [sum, size] = &mut exact[i * outputs + j];
                    *sum += term;
                    *size += term.abs();
                }
            }
        }
        for output in [Output::Overwrite, Output::Accumulate] {
            let run = |work: &dyn Fn(MatrixMut)| {
                let mut y = start.clone();
                work(MatrixMut::with_stride(&mut y, rows, outputs, outputs + 3));
                y
            };
            let first = run(&|y| {
                multiply_with_unit(unit, a, &Panels::new(inputs, outputs, &panels), y, output);
            });
            for i in 0..rows {
                for j in 0..outputs + 3 {
                    let (y, start) = (first[i * (outputs + 3) + j], start[i * (outputs + 3) + j]);
                    if j >= outputs {
                        assert_eq!(y, start, "what lies between the rows");
                        continue;
                    }
                    let [mut sum, mut size] = exact[i * outputs + j];
                    if output == Output::Accumulate {
                        sum += start as f64;
                        size += start.abs() as f64;
                    }
                    // A rounding for each sum of a chain, as far as they add up in the mean square.
                    let tolerance = 6e-8 * size * (2.0 + (inputs as f64).sqrt());
                    assert!(
                        (y as f64 - sum).abs() <= tolerance,
                        "{unit:?} {rows}x{inputs}x{outputs}: {y} {sum}"
                    );
                }
            }
            let others = [
                Factor::Floats(Matrix::new(&weights, inputs, outputs)),
                Factor::Floats(Matrix::new(&transposed, outputs, inputs).transposed()),
                Factor::Weights(w),
                Factor::Transposed(Weights::new(outputs, inputs, &transposed_bytes)),
            ];
            for other in others {
                let y = run(&|y| gemm_with_unit(unit, a, other, y, output));
                assert_eq!(y, first, "{unit:?} {rows}x{inputs}x{outputs}");
            }
            // However the product is cut.
            #[cfg(target_arch = "x86_64")]
            if inputs > 0 {
                use products::Operand;
                use tiles::{Source, Tiles};
                let x = Operand::Source(Source::rows(&a));
                let loose = Matrix::new(&weights, inputs, outputs);
                for w in [
                    Operand::Source(Source::columns(&loose)),
                    Operand::Tiles(Tiles::new(&panels, outputs, inputs)),
                ] {
                    for (l2, parallel) in [(1 << 10, false), (1 << 10, true), (1 << 16, true)] {
                        // SAFETY: the unit is available, and the shapes match.
                        let y = run(&|y| unsafe {
                            products::multiply_within(l2, unit, parallel, x, w, y, output);
                        });
                        assert_eq!(y, first, "{unit:?} {rows}x{inputs}x{outputs}, {l2}");
                    }
                }
            }
        }
    }
}

#[test]
fn units_multiply_rounded_numbers_exactly_and_sum_them_in_f32() {
    for shape in SHAPES {
        for unit in units(shape.0) {
            check_unit(unit, shape, 1);
        }
    }
}

#[test]
fn with_a_unit_a_row_alone_equals_the_row_in_a_batch_and_any_number_of_threads() {
    let (m, inputs, outputs) = (77, 1100, 300);
    let x = numbers(m * inputs, 1);
    let bytes = round(&numbers(inputs * outputs, 2));
    let panels = packed(&Weights::new(inputs, outputs, &bytes));
    let w = Panels::new(inputs, outputs, &panels);
    for unit in Unit::all() {
        let run = |rows: usize, first: usize| {
            let mut y = vec![0.0; rows * outputs];
            let x = Matrix::new(&x[first * inputs..], rows, inputs);
            let result = MatrixMut::new(&mut y, rows, outputs);
            multiply_with_unit(unit, x, &w, result, Output::Overwrite);
            y
        };
        let whole = run(m, 0);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                assert_eq!(run(m, 0), whole);
                for rows in [1, 2, 3, 5, 8, 15, 16, 17, 32, 33, 66] {
                    assert_eq!(run(rows, 5), whole[5 * outputs..(5 + rows) * outputs]);
                }
            });
        }
    }
}

/// What the tile unit makes of a number that it reads or computes.
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0_f32.copysign(x)
    } else {
        x
    }
}

/// The order that the processor's manual states, so that other instructions can give the same bits: those for few rows do.
#[test]
fn the_tile_unit_sums_as_documented() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (1, 75, 20),
        (1, 200, 130),
        (2, 32, 64),
        (2, 70, 70),
        (2, 300, 200),
        (3, 75, 20),
        (3, 130, 33),
        (4, 31, 50),
        (4, 400, 129),
        (5, 75, 20),
        (40, 75, 20),
    ] {
        if !Unit::Amx.multiplies(rows) {
            continue;
        }
        let mut x = numbers(rows * inputs, 1);
        let mut w = numbers(inputs * outputs, 2);
        // Factors that count as zero, a product that does, and sums that do in the end.
        x[inputs / 2] = 1e-39;
        w[outputs * (inputs - 1)] = 1e-39;
        x[inputs / 3] = 1e-25;
        w[outputs * (inputs / 3)] = 1e-25;
        for row in w.chunks_mut(outputs) {
            row[outputs / 2] = f32::MIN_POSITIVE;
        }
        let bytes = round(&w);
        let (x_rounded, floats) = (rounded(&x), widen(&bytes));
        let panels = packed(&Weights::new(inputs, outputs, &bytes));
        for output in [Output::Overwrite, Output::Accumulate] {
            let mut y = numbers(rows * outputs, 3);
            y[outputs / 2] = 0.0;
            let start = y.clone();
            multiply_with_unit(
                Unit::Amx,
                Matrix::new(&x, rows, inputs),
                &Panels::new(inputs, outputs, &panels),
                MatrixMut::new(&mut y, rows, outputs),
                output,
            );
            for i in 0..rows {
                for j in 0..outputs {
                    let mut sum = match output {
                        Output::Overwrite => 0.0,
                        Output::Accumulate => start[i * outputs + j],
                    };
                    for first in (0..inputs).step_by(32) {
                        let mut chains = [0.0f32; 2];
                        for p in first..(first + 32).min(inputs) {
                            let (x, w) = (x_rounded[i * inputs + p], floats[p * outputs + j]);
                            chains[p % 2] = flushed(flushed(x).mul_add(flushed(w), chains[p % 2]));
                        }
                        sum = flushed(sum + flushed(chains[0] + chains[1]));
                    }
                    let found = y[i * outputs + j];
                    assert_eq!(found, sum, "{rows}x{inputs}x{outputs}: {i}, {j}");
                }
            }
        }
    }
    // Elsewhere subnormals are kept.
    assert_eq!(std::hint::black_box(1e-30_f32) * 1e-10, 1e-40);
}

#[test]
fn units_let_nan_and_infinities_through() {
    let (rows, inputs, outputs) = (35, 40, 37);
    for unit in Unit::all() {
        let mut x = numbers(rows * inputs, 1);
        let mut w = numbers(inputs * outputs, 2);
        x[2 * inputs + 7] = f32::INFINITY;
        x[33 * inputs + 39] = f32::NAN;
        // Its upper half alone would be an infinity.
        x[20 * inputs + 3] = f32::from_bits(0x7F80_0001);
        w[5 * outputs + 36] = f32::NEG_INFINITY;
        // Rounds to an infinity.
        w[6 * outputs + 35] = f32::MAX;
        w[9 * outputs + 34] = f32::NAN;
        let bytes = round(&w);
        let panels = packed(&Weights::new(inputs, outputs, &bytes));
        let a = Matrix::new(&x, rows, inputs);
        let mut results = [vec![0.0; rows * outputs], vec![0.0; rows * outputs]];
        let [first, second] = &mut results;
        let y = MatrixMut::new(first, rows, outputs);
        multiply_with_unit(
            unit,
            a,
            &Panels::new(inputs, outputs, &panels),
            y,
            Output::Overwrite,
        );
        let y = MatrixMut::new(second, rows, outputs);
        let b = Factor::Floats(Matrix::new(&w, inputs, outputs));
        gemm_with_unit(unit, a, b, y, Output::Overwrite);
        for y in results {
            for (i, row) in y.chunks(outputs).enumerate() {
                for (j, y) in row.iter().enumerate() {
                    match (i, j) {
                        (20 | 33, _) | (_, 34) => assert!(y.is_nan()),
                        (2, 35 | 36) => assert!(!y.is_finite()),
                        (2, _) => {
                            assert_eq!(*y, f32::INFINITY.copysign(w[7 * outputs + j]));
                        }
                        (_, 35) => {
                            assert_eq!(*y, f32::INFINITY.copysign(x[i * inputs + 6]));
                        }
                        (_, 36) => {
                            assert_eq!(*y, f32::NEG_INFINITY.copysign(-x[i * inputs + 5]));
                        }
                        _ => assert!(y.is_finite()),
                    }
                }
            }
        }
    }
}

#[test]
fn panels_are_where_the_layout_says_and_unpack_to_the_same_bytes() {
    if unit().is_none() {
        return;
    }
    for (inputs, outputs) in [(1, 1), (2, 16), (33, 17), (70, 50), (0, 5), (5, 0)] {
        let bytes = round(&numbers(inputs * outputs, 1));
        let w = Weights::new(inputs, outputs, &bytes);
        let panels = packed(&w);
        assert_eq!(panels.len() % 1024, 0);
        let inputs_padded = inputs.next_multiple_of(32);
        let mut sum = 0u64;
        for input in 0..inputs {
            for output in 0..outputs {
                let at = output / 16 * inputs_padded * 32 + input / 2 * 64 + output % 16 * 4;
                let at = at + input % 2 * 2;
                assert_eq!(
                    panels[at..at + 2],
                    bytes[2 * (input * outputs + output)..][..2]
                );
                sum += panels[at] as u64 + panels[at + 1] as u64;
            }
        }
        let all: u64 = panels.iter().map(|&x| x as u64).sum();
        assert_eq!(all, sum, "zeros elsewhere");
        assert_eq!(Panels::new(inputs, outputs, &panels).unpack(), bytes);
    }
    assert_eq!(Panels::bytes(usize::MAX, 1 << 20), None);
}

#[test]
fn with_a_unit_the_bias_comes_first() {
    let (rows, inputs, outputs) = (37, 50, 70);
    let (x, w, bias) = (
        numbers(rows * inputs, 1),
        numbers(inputs * outputs, 2),
        numbers(outputs, 3),
    );
    let Some(unit) = unit() else { return };
    let x = Matrix::new(&x, rows, inputs);
    let bytes = round(&w);
    let panels = packed(&Weights::new(inputs, outputs, &bytes));
    let panels = Panels::new(inputs, outputs, &panels);
    let mut expected: Vec<f32> = (0..rows).flat_map(|_| bias.iter().copied()).collect();
    let y = MatrixMut::new(&mut expected, rows, outputs);
    multiply_with_unit(unit, x, &panels, y, Output::Accumulate);
    assert_eq!(forward_panels(x, &panels, Some(&bias)), expected);
    let b = Factor::Floats(Matrix::new(&w, inputs, outputs));
    assert_eq!(gemm(x, b, Some(&bias)), expected);
    assert_ne!(forward_panels(x, &panels, None), expected);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    #[test]
    fn units_are_right_for_any_shape(
        shape in (1..70_usize, 1..200_usize, 1..100_usize),
        seed in 0..u64::MAX - 2,
    ) {
        for unit in units(shape.0) {
            check_unit(unit, shape, seed);
        }
    }
}

#[test]
fn rounding_both_factors_moves_results_by_a_quarter_of_a_per_cent() {
    let (rows, inputs, outputs) = (64, 512, 64);
    let (x, w) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2));
    let exact = |x: &[f32], w: &[f32]| {
        let (x, w) = (
            Matrix::new(x, rows, inputs),
            Matrix::new(w, inputs, outputs),
        );
        crate::linear::forward(x, w, None)
    };
    let (before, after) = (exact(&x, &w), exact(&rounded(&x), &rounded(&w)));
    let (mut error, mut square) = (0.0, 0.0);
    for (before, after) in before.iter().zip(&after) {
        error += (*before as f64 - *after as f64).powi(2);
        square += (*before as f64).powi(2);
    }
    let relative = (error / square).sqrt();
    // Each factor by 2⁻⁹ at most, about 0.17 % in the mean square.
    assert!((0.0015..0.0028).contains(&relative), "{relative}");
}
