//! Root-mean-square normalisation of rows, `y = x / √(mean(x²) + eps) · weight` (Zhang & Sennrich
//! 2019), and its gradients.

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::{dot, dot3, multiply_add, vectorised};

/// The normalised rows; `weight`'s length is the width.
pub fn forward(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rows of the weight's width"
    );
    let mut y = fresh(x.len());
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(x.len() / width, width, |first, rows| {
        // SAFETY: each task has rows of its own.
        let y = unsafe { rows_mut(shared, first, rows, width) };
        forward_rows(y, &x[first * width..][..rows * width], weight, eps);
    });
    y
}

vectorised! {
    fn forward_rows(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = 1.0 / (dot::<FUSED>(x, x) / width as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

/// Rows whose weight gradients are summed before the partial sums are.
const ROWS: usize = 64;

/// The gradients of the input and of the weight.
pub fn backward(dy: &[f32], x: &[f32], weight: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rows of the weight's width"
    );
    assert_eq!(dy.len(), x.len(), "gradient against input");
    let rows = x.len() / width;
    let blocks = rows.div_ceil(ROWS);
    let (mut dx, mut partial) = (fresh(x.len()), vec![0.0; blocks * width]);
    let (dx_shared, partial_shared) = (
        SharedPtr::new(dx.as_mut_ptr()),
        SharedPtr::new(partial.as_mut_ptr()),
    );
    for_rows(blocks, ROWS * width, |first, blocks| {
        for block in first..first + blocks {
            let (begin, rows) = (block * ROWS, ROWS.min(rows - block * ROWS));
            // SAFETY: each task has blocks of its own.
            let (dx, partial) = unsafe {
                (
                    rows_mut(dx_shared, begin, rows, width),
                    rows_mut(partial_shared, block, 1, width),
                )
            };
            let part = begin * width..(begin + rows) * width;
            backward_rows(dx, partial, &dy[part.clone()], &x[part], weight, eps);
        }
    });
    let mut dw = vec![0.0; width];
    for partial in partial.chunks_exact(width) {
        for (sum, x) in dw.iter_mut().zip(partial) {
            *sum += x;
        }
    }
    (dx, dw)
}

vectorised! {
    fn backward_rows(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
        for ((dx, dy), x) in rows {
            let scale = 1.0 / (dot::<FUSED>(x, x) / width as f32 + eps).sqrt();
            let along = dot3::<FUSED>(dy, weight, x);
            let pull = along * scale * scale * scale / width as f32;
            let columns = dx.iter_mut().zip(dw.iter_mut()).zip(dy).zip(x).zip(weight);
            for ((((dx, dw), dy), x), w) in columns {
                *dx = multiply_add::<FUSED>(dy * w, scale, -(x * pull));
                *dw = multiply_add::<FUSED>(dy * x, scale, *dw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn rows_equal_the_plain_ones() {
        for (rows, width) in [(1, 1), (3, 7), (130, 33), (700, 192)] {
            let (x, weight) = (numbers(rows * width, 1), numbers(width, 2));
            let y = forward(&x, &weight, 1e-6);
            for (y, x) in y.chunks(width).zip(x.chunks(width)) {
                let mean = x.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / width as f64;
                for i in 0..width {
                    let exact = x[i] as f64 / (mean + 1e-6).sqrt() * weight[i] as f64;
                    // A handful of roundings of numbers of some units.
                    assert!((y[i] as f64 - exact).abs() < 2e-6);
                }
            }
        }
    }

    #[test]
    fn gradients_equal_the_plain_ones() {
        for (rows, width) in [(1, 2), (3, 7), (130, 33), (300, 192)] {
            let (x, dy, weight) = (
                numbers(rows * width, 1),
                numbers(rows * width, 2),
                numbers(width, 3),
            );
            let (dx, dw) = backward(&dy, &x, &weight, 1e-6);
            let mut exact_dw = vec![0.0f64; width];
            for r in 0..rows {
                let at = |i: usize| x[r * width + i] as f64;
                let g = |i: usize| dy[r * width + i] as f64;
                let mean = (0..width).map(|i| at(i) * at(i)).sum::<f64>() / width as f64 + 1e-6;
                let along: f64 = (0..width).map(|i| g(i) * weight[i] as f64 * at(i)).sum();
                for i in 0..width {
                    let exact = g(i) * weight[i] as f64 / mean.sqrt()
                        - at(i) * along / (width as f64 * mean.powf(1.5));
                    exact_dw[i] += g(i) * at(i) / mean.sqrt();
                    assert!((dx[r * width + i] as f64 - exact).abs() < 1e-5 * (1.0 + exact.abs()));
                }
            }
            for (x, exact) in dw.iter().zip(exact_dw) {
                // Hundreds of additions of numbers of about one.
                assert!((*x as f64 - exact).abs() < 1e-4);
            }
        }
    }
}
