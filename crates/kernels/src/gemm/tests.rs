//! Against a plain product in `f64`, and bit for bit against itself where invariance is promised.

use super::*;
use crate::isa::isas;

/// Numbers in −1..1 from a linear congruential generator.
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

fn reference(a: Matrix, b: Matrix, start: &[f32]) -> Vec<f64> {
    let mut c = vec![0.0; a.rows * b.cols];
    for i in 0..a.rows {
        for j in 0..b.cols {
            let mut sum = start.get(i * b.cols + j).copied().unwrap_or(0.0) as f64;
            for p in 0..a.cols {
                sum += a.data[i * a.row_stride + p * a.col_stride] as f64
                    * b.data[p * b.row_stride + j * b.col_stride] as f64;
            }
            c[i * b.cols + j] = sum;
        }
    }
    c
}

/// Shapes around the edges of tiles and blocks.
const SHAPES: [(usize, usize, usize); 19] = [
    (1, 1, 1),
    (1, 70, 33),
    (2, 16, 8),
    (3, 31, 300),
    (5, 1, 7),
    (6, 16, 256),
    (7, 17, 257),
    (8, 129, 65),
    (9, 100, 20),
    (12, 32, 512),
    (13, 33, 513),
    (97, 65, 129),
    (240, 64, 31),
    (241, 37, 700),
    (500, 3, 64),
    (64, 1500, 1031),
    (33, 4200, 300),
    (50, 200, 1024),
    (25, 70, 4500),
];

#[test]
fn product_equals_the_plain_one_for_every_layout() {
    for isa in isas() {
        for (index, &(m, n, k)) in SHAPES.iter().enumerate() {
            let a = numbers(m * k * 2, index as u64);
            let b = numbers(k * n * 2, 99 + index as u64);
            let layouts_a = [
                Matrix::new(&a, m, k),
                Matrix::new(&a, k, m).transposed(),
                Matrix::with_strides(&a, m, k, 2 * k, 2),
            ];
            let layouts_b = [
                Matrix::new(&b, k, n),
                Matrix::new(&b, n, k).transposed(),
                Matrix::with_strides(&b, k, n, 2 * n, 1),
            ];
            for ma in layouts_a {
                for mb in layouts_b {
                    let start = numbers(m * n, 7);
                    for output in [Output::Overwrite, Output::Accumulate] {
                        let mut c = if output == Output::Accumulate {
                            start.clone()
                        } else {
                            vec![f32::NAN; m * n]
                        };
                        let from = if output == Output::Accumulate {
                            &start[..]
                        } else {
                            &[]
                        };
                        gemm_with_isa(isa, ma, mb, MatrixMut::new(&mut c, m, n), output);
                        // A chain of k roundings of numbers below k/3 or so; √k is what they add up to.
                        let tolerance =
                            4e-7 * (k as f64 + 1.0).sqrt() * (k as f64 / 9.0 + 1.0).sqrt();
                        for (x, y) in c.iter().zip(reference(ma, mb, from)) {
                            assert!(
                                (*x as f64 - y).abs() <= tolerance,
                                "{isa:?} {m}x{n}x{k}: {x} {y}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch_and_any_number_of_threads() {
    let (m, n, k) = (61, 150, 700);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for vector in isas() {
        for mb in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).transposed()] {
            let product = |rows: usize, first: usize| {
                let mut c = vec![0.0; rows * n];
                let a = Matrix::new(&a[first * k..], rows, k);
                gemm_with_isa(
                    vector,
                    a,
                    mb,
                    MatrixMut::new(&mut c, rows, n),
                    Output::Overwrite,
                );
                c
            };
            let whole = product(m, 0);
            for threads in 1..=3 {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    assert_eq!(product(m, 0), whole, "{threads} threads");
                    for rows in [1, 2, 3, 4, 7, 8, 9, 13] {
                        assert_eq!(
                            product(rows, 5),
                            whole[5 * n..(5 + rows) * n],
                            "{rows} rows"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn vector_paths_agree_bit_for_bit() {
    if isa() != Isa::Avx512 {
        return;
    }
    for (m, n, k) in [(1, 70, 33), (13, 33, 513), (97, 65, 129), (241, 37, 700)] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let mut results = [Isa::Avx2, Isa::Avx512].map(|isa| {
            let mut c = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            gemm_with_isa(isa, a, b, MatrixMut::new(&mut c, m, n), Output::Overwrite);
            c
        });
        let last = results[1].split_off(0);
        assert_eq!(results[0], last);
    }
}

/// Small caches cut each sum into many blocks, and have rows copied that are pages apart.
#[test]
fn caches_do_not_change_the_result() {
    for isa in isas() {
        for (m, n, k) in [(61, 150, 700), (40, 70, 1024), (30, 200, 5000)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let rows = [Matrix::new(&a, m, k), Matrix::new(&a, k, m).transposed()];
            for (a, output) in rows
                .into_iter()
                .zip([Output::Overwrite, Output::Accumulate])
            {
                let product = |caches: Caches, parallel: bool| {
                    let mut c = match output {
                        Output::Overwrite => vec![f32::NAN; m * n],
                        Output::Accumulate => numbers(m * n, 3),
                    };
                    let to = MatrixMut::new(&mut c, m, n);
                    let b = Matrix::new(&b, k, n);
                    by_blocks_within(caches, isa, parallel, a, &b, to, output);
                    c
                };
                let whole = product(
                    Caches {
                        l1: 1 << 16,
                        l2: 1 << 24,
                    },
                    false,
                );
                for (l1, l2) in [(1 << 13, 1 << 13), (1 << 15, 1 << 18), (48 << 10, 1 << 20)] {
                    for parallel in [false, true] {
                        let found = product(Caches { l1, l2 }, parallel);
                        assert_eq!(found, whole, "{isa:?} {m}x{n}x{k}, {l1} and {l2}");
                    }
                }
            }
        }
    }
}

#[test]
fn only_the_result_is_written() {
    let (m, n, k, stride) = (13, 21, 40, 30);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for isa in isas() {
        for rows in [2, m] {
            let mut c = vec![7.0; m * stride];
            gemm_with_isa(
                isa,
                Matrix::new(&a, rows, k),
                Matrix::new(&b, k, n),
                MatrixMut::with_stride(&mut c, rows, n, stride),
                Output::Overwrite,
            );
            for (i, row) in c.chunks(stride).enumerate() {
                let from = if i < rows { n } else { 0 };
                assert!(row[from..].iter().all(|&x| x == 7.0));
            }
        }
    }
}
