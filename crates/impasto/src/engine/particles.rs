//! A particle filter over tries at one canvas (Gordon, Salmond and Smith 1993): nets in raster order do not see the
//! known ids after a hole while they fill it, so tries under which these ids are unlikely are replaced by copies of
//! others.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Of tries with these log weights, the ones that go on, where fewer than half of them count (Kong, Liu and Wong
/// 1994); none where all go on.
pub(super) fn resampled(log_weights: &[f64], random: &mut ChaCha8Rng) -> Option<Vec<usize>> {
    let shares = shares(log_weights);
    let counting = 1.0 / shares.iter().map(|share| share * share).sum::<f64>();
    (counting < log_weights.len() as f64 / 2.0).then(|| systematic(&shares, random.random()))
}

/// Weights as shares of one, from their logarithms.
fn shares(logarithms: &[f64]) -> Vec<f64> {
    let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = logarithms
        .iter()
        .map(|logarithm| (logarithm - largest).exp());
    let weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// As many indices as there are shares, each about as often as its share says: systematic resampling (Carpenter,
/// Clifford and Fearnhead 1999), from one number below 1.
fn systematic(shares: &[f64], uniform: f64) -> Vec<usize> {
    let count = shares.len();
    let (mut index, mut reached) = (0, shares[0]);
    let ticks = (0..count).map(|tick| (tick as f64 + uniform) / count as f64);
    ticks
        .map(|tick| {
            while tick >= reached && index + 1 < count {
                index += 1;
                reached += shares[index];
            }
            index
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resampling_keeps_shares() {
        assert_eq!(systematic(&[0.25; 4], 0.5), [0, 1, 2, 3]);
        assert_eq!(systematic(&[0.0, 0.5, 0.0, 0.5], 0.3), [1, 1, 3, 3]);
        assert_eq!(systematic(&[1.0, 0.0], 0.999), [0, 0]);
        assert_eq!(systematic(&[0.0, 1.0], 0.0), [1, 1]);
        let shares = shares(&[-1000.0, -1000.0 + 3f64.ln()]);
        assert!((shares[1] - 0.75).abs() < 1e-12);
    }
}
