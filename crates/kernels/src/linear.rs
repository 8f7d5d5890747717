//! The linear layer, `y = x·W + b`, and its gradients.

use crate::gemm::{Matrix, MatrixMut, Output, gemm};
use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::vectorised;

/// `x·w + bias`, row-major; each element's chain begins with its bias.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(x: Matrix, w: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, outputs) = (x.rows(), w.cols());
    let mut y = fresh(rows * outputs);
    let output = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), outputs, "bias against outputs");
            let shared = SharedPtr::new(y.as_mut_ptr());
            for_rows(rows, outputs, |first, rows| {
                // SAFETY: each task has rows of its own.
                let part = unsafe { rows_mut(shared, first, rows, outputs) };
                part.chunks_exact_mut(outputs.max(1))
                    .for_each(|row| row.copy_from_slice(bias));
            });
            Output::Accumulate
        }
        None => Output::Overwrite,
    };
    gemm(x, w, MatrixMut::new(&mut y, rows, outputs), output);
    y
}

/// The gradient of the input, `dy·Wᵀ`.
pub fn backward_input(dy: Matrix, w: Matrix) -> Vec<f32> {
    forward(dy, w.transposed(), None)
}

/// The gradient of the weight, `xᵀ·dy`.
pub fn backward_weight(x: Matrix, dy: Matrix) -> Vec<f32> {
    forward(x.transposed(), dy, None)
}

/// Columns that a task of [`backward_bias`] sums.
const COLUMNS: usize = 64;

/// The gradient of the bias: the sum of the rows of a row-major `dy`, from the first to the last.
pub fn backward_bias(dy: &[f32], outputs: usize) -> Vec<f32> {
    let mut sums = vec![0.0; outputs];
    let shared = SharedPtr::new(sums.as_mut_ptr());
    let rows = dy.len() / outputs.max(1);
    for_rows(outputs.div_ceil(COLUMNS), rows * COLUMNS, |first, tasks| {
        let from = first * COLUMNS;
        let columns = (tasks * COLUMNS).min(outputs - from);
        // SAFETY: each task has columns of its own.
        let sums = unsafe { rows_mut(shared, from, columns, 1) };
        add_rows(sums, dy, from, outputs);
    });
    sums
}

vectorised! {
    fn add_rows(sums: &mut [f32], rows: &[f32], from: usize, width: usize) {
        for row in rows.chunks_exact(width) {
            for (sum, x) in sums.iter_mut().zip(&row[from..]) {
                *sum += x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn bias_is_added_and_its_gradient_sums_the_rows() {
        let (rows, inputs, outputs) = (300, 5, 133);
        let (x, w, bias) = (
            numbers(rows * inputs, 1),
            numbers(inputs * outputs, 2),
            numbers(outputs, 3),
        );
        let (mx, mw) = (
            Matrix::new(&x, rows, inputs),
            Matrix::new(&w, inputs, outputs),
        );
        let (with, without) = (forward(mx, mw, Some(&bias)), forward(mx, mw, None));
        for (i, (a, b)) in with.iter().zip(&without).enumerate() {
            // Only the order of five products and the bias differs.
            assert!((a - b - bias[i % outputs]).abs() < 2e-6);
        }
        let gradient = backward_bias(&with, outputs);
        for (j, x) in gradient.iter().enumerate() {
            let exact: f64 = (0..rows).map(|i| with[i * outputs + j] as f64).sum();
            // 300 additions of numbers below 6.
            assert!((*x as f64 - exact).abs() < 2e-4);
        }
    }
}
