//! Cross-entropy of rows of logits against ids, `log Σ eˡ − l[target]`, and its gradient,
//! `softmax − onehot`, in one pass each.

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::{exp, maximum, sum_of, vectorised};

/// Each row's loss, and its `log Σ eˡ`, which [`backward`] wants.
///
/// # Panics
/// If a target is not below `vocab`.
pub fn forward(logits: &[f32], targets: &[usize], vocab: usize) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(
        logits.len(),
        targets.len() * vocab,
        "logits against targets"
    );
    assert!(
        targets.iter().all(|&target| target < vocab),
        "target ids below {vocab}"
    );
    let rows = targets.len();
    let mut normalisers = fresh(rows);
    let shared = SharedPtr::new(normalisers.as_mut_ptr());
    for_rows(rows, vocab, |first, rows| {
        // SAFETY: each task has rows of its own.
        let out = unsafe { rows_mut(shared, first, rows, 1) };
        normalise_rows(out, &logits[first * vocab..][..rows * vocab], vocab);
    });
    let losses = normalisers
        .iter()
        .zip(targets)
        .enumerate()
        .map(|(row, (normaliser, target))| normaliser - logits[row * vocab + target])
        .collect();
    (losses, normalisers)
}

vectorised! {
    fn normalise_rows(out: &mut [f32], logits: &[f32], vocab: usize) {
        for (out, row) in out.iter_mut().zip(logits.chunks_exact(vocab)) {
            let largest = maximum(row);
            // All −∞: nothing to subtract.
            let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            *out = sum_of(row, |x| exp::<FUSED>(x - shift)).ln() + shift;
        }
    }
}

/// The gradient of the logits; `gradients` are those of the rows' losses.
pub fn backward(
    gradients: &[f32],
    logits: &[f32],
    normalisers: &[f32],
    targets: &[usize],
    vocab: usize,
) -> Vec<f32> {
    assert_eq!(
        logits.len(),
        targets.len() * vocab,
        "logits against targets"
    );
    assert!(gradients.len() == targets.len() && normalisers.len() == targets.len());
    let mut out = fresh(logits.len());
    let shared = SharedPtr::new(out.as_mut_ptr());
    for_rows(targets.len(), vocab, |first, rows| {
        // SAFETY: each task has rows of its own.
        let out = unsafe { rows_mut(shared, first, rows, vocab) };
        for (i, out) in out.chunks_exact_mut(vocab).enumerate() {
            let row = first + i;
            let gradient = gradients[row];
            softmax_times(
                out,
                &logits[row * vocab..][..vocab],
                normalisers[row],
                gradient,
            );
            out[targets[row]] -= gradient;
        }
    });
    out
}

vectorised! {
    fn softmax_times(out: &mut [f32], logits: &[f32], normaliser: f32, factor: f32) {
        if factor == 0.0 {
            // A row that does not count, such as padding.
            out.fill(0.0);
            return;
        }
        for (out, logit) in out.iter_mut().zip(logits) {
            *out = exp::<FUSED>(logit - normaliser) * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn loss_and_gradient_equal_the_plain_ones() {
        for (rows, vocab) in [(1, 1), (3, 5), (40, 1031)] {
            let logits: Vec<f32> = numbers(rows * vocab, 1).iter().map(|x| 20.0 * x).collect();
            let targets: Vec<usize> = (0..rows).map(|i| i * 7 % vocab).collect();
            let gradients: Vec<f32> = (0..rows).map(|i| (i % 3) as f32).collect();
            let (losses, normalisers) = forward(&logits, &targets, vocab);
            let d = backward(&gradients, &logits, &normalisers, &targets, vocab);
            for r in 0..rows {
                let row = &logits[r * vocab..][..vocab];
                let total: f64 = row.iter().map(|&l| (l as f64).exp()).sum();
                let loss = total.ln() - row[targets[r]] as f64;
                // Rounding of numbers up to 40.
                assert!((losses[r] as f64 - loss).abs() < 1e-5);
                for i in 0..vocab {
                    let hot = if i == targets[r] { 1.0 } else { 0.0 };
                    let exact = ((row[i] as f64).exp() / total - hot) * gradients[r] as f64;
                    // The normaliser's rounding, 2e-6, is relative in the exponential.
                    assert!((d[r * vocab + i] as f64 - exact).abs() < 1e-5);
                }
            }
        }
    }
}
