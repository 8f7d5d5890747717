//! The gate `silu(a) · b` of a row that holds `a` and `b` side by side (Shazeer 2020), and its
//! gradient.

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::{multiply_add, sigmoid, vectorised};

/// Rows of `2 · hidden` to rows of `hidden`.
pub fn forward(x: &[f32], hidden: usize) -> Vec<f32> {
    assert!(
        hidden > 0 && x.len().is_multiple_of(2 * hidden),
        "rows of two halves"
    );
    let rows = x.len() / (2 * hidden);
    let mut y = fresh(rows * hidden);
    let shared = SharedPtr::new(y.as_mut_ptr());
    // An exponential is worth some multiplications.
    for_rows(rows, 4 * hidden, |first, rows| {
        // SAFETY: each task has rows of its own.
        let y = unsafe { rows_mut(shared, first, rows, hidden) };
        forward_rows(y, &x[first * 2 * hidden..][..rows * 2 * hidden], hidden);
    });
    y
}

vectorised! {
    fn forward_rows(y: &mut [f32], x: &[f32], hidden: usize) {
        for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(2 * hidden)) {
            let (a, b) = x.split_at(hidden);
            for ((y, &a), b) in y.iter_mut().zip(a).zip(b) {
                *y = a * sigmoid::<FUSED>(a) * b;
            }
        }
    }
}

/// The gradient of the input, from that of the output and the input.
pub fn backward(dy: &[f32], x: &[f32], hidden: usize) -> Vec<f32> {
    assert!(
        hidden > 0 && x.len() == 2 * dy.len(),
        "gradient against input"
    );
    let mut dx = fresh(x.len());
    let shared = SharedPtr::new(dx.as_mut_ptr());
    for_rows(dy.len() / hidden, 4 * hidden, |first, rows| {
        // SAFETY: each task has rows of its own.
        let dx = unsafe { rows_mut(shared, first, rows, 2 * hidden) };
        let (dy, x) = (&dy[first * hidden..], &x[first * 2 * hidden..]);
        backward_rows(dx, &dy[..rows * hidden], &x[..rows * 2 * hidden], hidden);
    });
    dx
}

vectorised! {
    fn backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], hidden: usize) {
        let rows = dx.chunks_exact_mut(2 * hidden).zip(dy.chunks_exact(hidden));
        for ((dx, dy), x) in rows.zip(x.chunks_exact(2 * hidden)) {
            let (da, db) = dx.split_at_mut(hidden);
            let (a, b) = x.split_at(hidden);
            for ((((da, db), &dy), &a), &b) in da.iter_mut().zip(db).zip(dy).zip(a).zip(b) {
                let s = sigmoid::<FUSED>(a);
                *da = dy * b * s * multiply_add::<FUSED>(a, 1.0 - s, 1.0);
                *db = dy * a * s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn gate_and_gradient_equal_the_plain_ones() {
        for (rows, hidden) in [(1, 1), (5, 7), (300, 130)] {
            let x: Vec<f32> = numbers(rows * 2 * hidden, 1)
                .iter()
                .map(|x| 9.0 * x)
                .collect();
            let dy = numbers(rows * hidden, 2);
            let (y, dx) = (forward(&x, hidden), backward(&dy, &x, hidden));
            for r in 0..rows {
                for i in 0..hidden {
                    let a = x[r * 2 * hidden + i] as f64;
                    let b = x[r * 2 * hidden + hidden + i] as f64;
                    let g = dy[r * hidden + i] as f64;
                    let s = 1.0 / (1.0 + (-a).exp());
                    // Numbers up to 81, some roundings of 6e-8 each.
                    assert!((y[r * hidden + i] as f64 - a * s * b).abs() < 3e-5);
                    let da = g * b * s * (1.0 + a * (1.0 - s));
                    assert!((dx[r * 2 * hidden + i] as f64 - da).abs() < 3e-5);
                    assert!((dx[r * 2 * hidden + hidden + i] as f64 - g * a * s).abs() < 3e-5);
                }
            }
        }
    }
}
