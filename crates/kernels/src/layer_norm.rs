//! Layer normalisation (Ba et al. 2016), `(x − mean) / √(var + eps) · weight + bias` of each row, forward only.

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::{sum_of, vectorised};

/// Rows of the weight's width.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rows of the weight's width"
    );
    assert_eq!(bias.len(), width, "bias against weight");
    let mut y = fresh(x.len());
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(x.len() / width, width, |first, rows| {
        // SAFETY: each task has rows of its own.
        let y = unsafe { rows_mut(shared, first, rows, width) };
        forward_rows(y, &x[first * width..][..rows * width], weight, bias, eps);
    });
    y
}

vectorised! {
    fn forward_rows(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let _ = FUSED;
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = sum_of(x, |x| x) / width as f32;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn agrees_with_doubles() {
        for (rows, width) in [(1, 1), (3, 7), (5, 768), (40, 1024)] {
            let x: Vec<f32> = numbers(rows * width, 1)
                .iter()
                .map(|x| 3.0 * x + 2.0)
                .collect();
            let (weight, bias) = (numbers(width, 2), numbers(width, 3));
            let y = forward(&x, &weight, &bias, 1e-5);
            for (row, y) in x.chunks(width).zip(y.chunks(width)) {
                let count = width as f64;
                let mean = row.iter().map(|&x| x as f64).sum::<f64>() / count;
                let variance = row.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / count;
                for ((&x, &y), (&w, &b)) in row.iter().zip(y).zip(weight.iter().zip(&bias)) {
                    let exact = (x as f64 - mean) / (variance + 1e-5).sqrt() * w as f64 + b as f64;
                    // Sums of some hundred numbers below 6, over deviations of about 2.
                    assert!(
                        (y as f64 - exact).abs() < 2e-5 * (1.0 + exact.abs()),
                        "{y} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_alone_and_among_others() {
        let (x, weight, bias) = (numbers(90 * 768, 1), numbers(768, 2), numbers(768, 3));
        let all = forward(&x, &weight, &bias, 1e-5);
        let alone = forward(&x[89 * 768..], &weight, &bias, 1e-5);
        assert_eq!(alone, all[89 * 768..]);
    }
}
