//! Which pictures are memorized: those that the model reproduces, and finds far likelier than any picture that it was
//! not trained on.

use serde::Serialize;

/// From which share of equal ids on a picture is reproduced.
pub(super) const REPRODUCED: f64 = 0.9;
/// Pictures that may be called memorized by chance, on average over audits.
const FALSE_ALARMS: f64 = 0.05;
/// The share of the held-out pictures that the tail is fitted to.
const TAIL: f64 = 0.1;
/// Draws without a caption for each training pair, among which a memorized picture comes out exactly once or more on
/// average: the budget of an attacker (Hayes et al. 2024, arXiv:2410.19482: probabilistic extraction). Pictures that were
/// seen a few times are likelier than held-out ones, too, but do not come out.
const DRAWS: f64 = 100.0;

/// Above which likelihood a picture is memorized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// ln p of a picture given no caption, in nats, from which on it is too high for a picture that was not trained on.
    pub nats: f64,
    /// The highest one of a held-out picture.
    pub highest_held_out: f64,
    /// ln p of a picture that comes out once in 100 draws without a caption for each training pair.
    pub extractable: f64,
}

impl Threshold {
    /// From the log-likelihoods of held-out pictures (negative ones), so that of `tested` pictures of the same kind
    /// 0.05 are above it on average. The information −ln p has a lower bound, so its logarithm is what tails off: the
    /// lowest tenth of the held-out pictures is fitted by an exponential distribution, as for the peaks over a threshold
    /// of extreme-value theory (Pickands 1975). Never below the highest held-out picture, nor below what comes out of 100
    /// draws for each of the `pairs` that were trained on. None of fewer than 20.
    pub fn of(held_out: &[f64], tested: usize, pairs: usize) -> Option<Self> {
        let mut information: Vec<f64> = held_out.iter().map(|&nats| ln(-nats)).collect();
        if information.len() < 20 {
            return None;
        }
        information.sort_by(f64::total_cmp);
        let tail = ((information.len() as f64 * TAIL) as usize).max(2);
        let start = information[tail];
        let mean = information[..tail]
            .iter()
            .map(|value| start - value)
            .sum::<f64>()
            / tail as f64;
        let rarity = (TAIL * tested.max(1) as f64 / FALSE_ALARMS).ln().max(0.0);
        let nats = -(start - mean * rarity).exp();
        let highest_held_out = -information[0].exp();
        let extractable = -(DRAWS * pairs.max(1) as f64).ln();
        Some(Threshold {
            nats: nats.max(highest_held_out).max(extractable),
            highest_held_out,
            extractable,
        })
    }

    /// Whether a picture is memorized: its log-likelihood, and the larger share of its ids that the model drew or
    /// completed as they are.
    pub fn is_memorized(&self, nats: f64, reproduced: f64) -> bool {
        nats > self.nats && reproduced >= REPRODUCED
    }
}

/// The logarithm of an amount of information, which may be 0 for a picture that is certain.
fn ln(nats: f64) -> f64 {
    nats.max(1e-9).ln()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    fn sample(count: usize, seed: u64) -> Vec<f64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| {
                let sum: f64 = (0..8).map(|_| rng.random_range(2.0..14.0)).sum();
                -sum
            })
            .collect()
    }

    /// Of a thousand audits of 400 pictures that are all alike, about 50 may alarm once.
    #[test]
    fn false_alarms_are_as_rare_as_they_should_be() {
        let mut alarms = 0;
        for audit in 0..300 {
            let threshold = Threshold::of(&sample(400, 2 * audit), 400, usize::MAX).unwrap();
            let others = sample(400, 2 * audit + 1);
            alarms += others
                .iter()
                .filter(|&&nats| threshold.is_memorized(nats, 1.0))
                .count();
        }
        assert!(alarms <= 30, "{alarms} false alarms in 300 audits");
    }

    #[test]
    fn only_what_is_likely_and_comes_out_is_memorized() {
        let threshold = Threshold::of(&sample(400, 9), 400, 400).unwrap();
        assert!(threshold.nats >= threshold.highest_held_out);
        // Seen often enough to be likelier than others, but not to come out.
        assert!(threshold.nats >= threshold.extractable && !threshold.is_memorized(-12.0, 1.0));
        assert!(threshold.is_memorized(-3.0, 0.95));
        assert!(!threshold.is_memorized(-3.0, 0.5) && !threshold.is_memorized(-40.0, 1.0));
        assert_eq!(Threshold::of(&[-1.0; 19], 5, 5), None);
        // Certain pictures are no numbers that are not finite.
        assert!(Threshold::of(&[0.0; 40], 5, 5).unwrap().nats <= 0.0);
    }
}
