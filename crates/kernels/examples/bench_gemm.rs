//! Matrix products in processor time of all threads, to be held against a core's multiply-add peak:
//! `RAYON_NUM_THREADS=1 cargo run --release --example bench_gemm`
use std::time::Instant;

use impasto_kernels::gemm::{Into, Matrix, MatrixMut, gemm_with_isa};
use impasto_kernels::{Isa, isa};

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

fn main() {
    let isas: &[Isa] = match isa() {
        Isa::Avx512 => &[Isa::Avx512, Isa::Avx2],
        Isa::Avx2 => &[Isa::Avx2],
        Isa::Neon => &[Isa::Neon],
        Isa::Portable => &[Isa::Portable],
    };
    println!(
        "{:>22} {:>9} {:>8} {:>10} {:>10}",
        "m x n x k", "layout", "isa", "ms", "GFLOP/s"
    );
    for &(m, n, k, layout) in &[
        (6144, 192, 768, "nn"),
        (6144, 768, 192, "nn"),
        (6144, 768, 192, "nt"),
        (6144, 192, 768, "nt"),
        (192, 768, 6144, "tn"),
        (768, 192, 6144, "tn"),
        (192, 192, 6144, "tn"),
        (2048, 2048, 2048, "nn"),
        (192, 192, 32, "nt"),
        (1, 3072, 768, "nn"),
        (2, 3072, 768, "nn"),
        (8, 3072, 768, "nn"),
        (16, 3072, 768, "nn"),
    ] {
        let a: Vec<f32> = (0..m * k).map(|i| (i % 13) as f32 - 6.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 11) as f32 - 5.0).collect();
        let mut c = vec![0.0; m * n];
        for &isa in isas {
            let ma = match layout.as_bytes()[0] {
                b'n' => Matrix::new(&a, m, k),
                _ => Matrix::new(&a, k, m).transposed(),
            };
            let mb = match layout.as_bytes()[1] {
                b'n' => Matrix::new(&b, k, n),
                _ => Matrix::new(&b, n, k).transposed(),
            };
            let mut best = f64::MAX;
            let begin = Instant::now();
            let mut runs = 0;
            while runs < 3 || begin.elapsed().as_secs_f64() < 0.5 {
                let start = processor_seconds();
                gemm_with_isa(isa, ma, mb, MatrixMut::new(&mut c, m, n), Into::Overwrite);
                best = best.min(processor_seconds() - start);
                runs += 1;
            }
            let flops = 2.0 * (m * n * k) as f64;
            println!(
                "{:>22} {layout:>9} {:>8} {:>10.3} {:>10.1}",
                format!("{m} x {n} x {k}"),
                format!("{isa:?}"),
                best * 1e3,
                flops / best / 1e9
            );
        }
    }
}
