//! Products of many and of few rows on every path of this processor, in turn, so that other work on the machine slows
//! all alike: `cargo run --release -p impasto-kernels --example bench_units [ROWSxINPUTSxOUTPUTS]..`
//!
//! Weights are taken in turn from copies that no small cache holds. Figures are medians, and in brackets the best
//! runs, in billions of operations a second (two for each multiply-add).
use std::time::Instant;

use impasto_kernels::bf16::{self, Factor, Panels, Unit};
use impasto_kernels::gemm::{Matrix, MatrixMut, Output, gemm};
use impasto_kernels::isa;
use impasto_kernels::quantised::{self, Activations, Format};

/// Bytes of copies of a weight, at least.
const RING: usize = 64 << 20;

type Path<'a> = (String, Box<dyn FnMut(usize) + 'a>);

fn main() {
    impasto_kernels::memory::keep_freed();
    let mut shapes: Vec<[usize; 3]> = std::env::args()
        .skip(1)
        .filter_map(|shape| {
            let sizes: Vec<usize> = shape.split('x').filter_map(|x| x.parse().ok()).collect();
            sizes.try_into().ok()
        })
        .collect();
    if shapes.is_empty() {
        shapes = vec![
            [1, 768, 3072],
            [2, 1024, 2730],
            [8, 768, 3072],
            [16, 1024, 2730],
            [50, 768, 3072],
            [400, 768, 768],
            [400, 768, 3072],
            [400, 3072, 768],
            [2560, 384, 1536],
            [2048, 2048, 2048],
        ];
    }
    for [m, k, n] in shapes {
        let copies = (RING / (k * n)).clamp(1, 64);
        let x: Vec<f32> = (0..m * k).map(|i| (i % 13) as f32 - 6.0).collect();
        let x = Matrix::new(&x, m, k);
        let floats: Vec<Vec<f32>> = (0..copies)
            .map(|_| (0..k * n).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect())
            .collect();
        let rows: Vec<Vec<u8>> = floats.iter().map(|w| bf16::round(w)).collect();
        let y = || vec![0.0f32; m * n];
        let panels: Vec<Vec<u8>> = rows
            .iter()
            .filter(|_| !Unit::all().is_empty())
            .map(|rows| {
                let mut panels = vec![0; Panels::bytes(k, n).expect("fits")];
                Panels::pack(&bf16::Weights::new(k, n, rows), &mut panels);
                panels
            })
            .collect();
        let (panels, floats, rows) = (&panels, &floats, &rows);
        let mut paths: Vec<Path> = Vec::new();
        let mut result = y();
        paths.push((
            format!("f32 {:?}", isa()),
            Box::new(move |copy| {
                let y = MatrixMut::new(&mut result, m, n);
                gemm(x, Matrix::new(&floats[copy], k, n), y, Output::Overwrite);
            }),
        ));
        let mut result = y();
        paths.push((
            "bf16 widened".to_owned(),
            Box::new(move |copy| {
                let y = MatrixMut::new(&mut result, m, n);
                let w = bf16::Weights::new(k, n, &rows[copy]);
                bf16::product(x, &w, y, Output::Overwrite);
            }),
        ));
        for unit in Unit::all() {
            let mut result = y();
            paths.push((
                format!("bf16 {unit:?}"),
                Box::new(move |copy| {
                    let y = MatrixMut::new(&mut result, m, n);
                    let w = Panels::new(k, n, &panels[copy]);
                    bf16::multiply_with_unit(unit, x, &w, y, Output::Overwrite);
                }),
            ));
            let mut result = y();
            paths.push((
                format!("bf16 {unit:?}, packing"),
                Box::new(move |copy| {
                    let y = MatrixMut::new(&mut result, m, n);
                    let w = Factor::Floats(Matrix::new(&floats[copy], k, n));
                    bf16::gemm_with_unit(unit, x, w, y, Output::Overwrite);
                }),
            ));
        }
        for format in [Format::Int8, Format::Int4] {
            let weights: Vec<Vec<u8>> = (0..copies)
                .map(|_| {
                    let length = format.bytes(k, n).expect("fits");
                    [0x00, 0x3F].repeat(length / 2)
                })
                .collect();
            let vectors = weights.clone();
            let mut result = y();
            paths.push((
                format!("{format:?} {:?}", isa()),
                Box::new(move |copy| {
                    let y = MatrixMut::new(&mut result, m, n);
                    let w = quantised::Weights::new(format, k, n, &vectors[copy]);
                    let output = Output::Overwrite;
                    quantised::product_with_isa(isa(), x, &w, y, output, Activations::Int8);
                }),
            ));
            if quantised::has_tiles() {
                let mut result = y();
                paths.push((
                    format!("{format:?} tiles"),
                    Box::new(move |copy| {
                        let y = MatrixMut::new(&mut result, m, n);
                        let w = quantised::Weights::new(format, k, n, &weights[copy]);
                        quantised::product_with_tiles(x, &w, y, Output::Overwrite);
                    }),
                ));
            }
        }
        let mut times = vec![Vec::new(); paths.len()];
        let begin = Instant::now();
        let mut turn = 0;
        while turn < 5 || begin.elapsed().as_secs_f64() < 2.0 {
            for ((_, path), times) in paths.iter_mut().zip(&mut times) {
                let begin = Instant::now();
                path(turn % copies);
                times.push(begin.elapsed().as_secs_f64());
            }
            turn += 1;
        }
        println!("{m} x {k} x {n}, {turn} runs");
        let mut base = 0.0;
        for ((name, _), mut times) in paths.into_iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            if base == 0.0 {
                base = median;
            }
            println!(
                "  {name:<26} {:>9.1} us {:>7.0} GFLOP/s [{:>5.0}] {:>6.2} x",
                1e6 * median,
                (2 * m * k * n) as f64 / median / 1e9,
                (2 * m * k * n) as f64 / times[0] / 1e9,
                base / median
            );
        }
    }
}
