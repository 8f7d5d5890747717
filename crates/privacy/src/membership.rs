//! How well a score separates members of a training set from others: AUC, and the true positive rate at a low false
//! positive rate (Carlini et al. 2022, arXiv:2112.03570, section 4), with bootstrap intervals.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How a score separates members from others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Separation {
    /// Members.
    pub members: usize,
    /// Others.
    pub others: usize,
    /// The probability that a member has a higher score than another one, ties counted half.
    pub auc: Estimate,
    /// The share of the members above a threshold that at most 1 % of the others reach.
    pub tpr_at_1_percent_fpr: Estimate,
}

/// Bootstrap rounds.
const ROUNDS: usize = 1000;
/// The false positive rate of [`Separation::tpr_at_1_percent_fpr`].
const FALSE_RATE: f64 = 0.01;

impl Separation {
    /// Of the scores of members and others, which are finite; none where one of them is empty. Members and others are
    /// resampled with replacement, each on its own, and the 2.5th and 97.5th percentiles are the interval.
    pub fn of(members: &[f64], others: &[f64], seed: u64) -> Option<Self> {
        if members.is_empty() || others.is_empty() {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut resampled = |scores: &[f64]| -> Vec<f64> {
            (0..scores.len())
                .map(|_| scores[rng.random_range(0..scores.len() as u64) as usize])
                .collect()
        };
        let (mut aucs, mut rates) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
        for _ in 0..ROUNDS {
            let (members, others) = (resampled(members), resampled(others));
            aucs.push(auc(&members, &others));
            rates.push(true_positive_rate(&members, &others, FALSE_RATE));
        }
        Some(Separation {
            members: members.len(),
            others: others.len(),
            auc: estimate(auc(members, others), aucs),
            tpr_at_1_percent_fpr: estimate(true_positive_rate(members, others, FALSE_RATE), rates),
        })
    }
}

/// The membership test that gives away most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StrongestTest {
    /// The score's name.
    pub score: &'static str,
    /// Whether the score is *lower* for members, as the difference of likelihoods is where a model has learnt its pictures
    /// without their captions, too.
    pub lower: bool,
    /// The area under the curve of the test in its direction, above 0.5.
    pub auc: Estimate,
}

/// The strongest of several tests, in the direction in which it separates them; of equal ones the first. None where every interval
/// holds 0.5.
pub fn strongest(tests: &[(&'static str, Separation)]) -> Option<StrongestTest> {
    let separating = tests.iter().filter_map(|&(score, Separation { auc, .. })| {
        let lower = auc.high < 0.5;
        let auc = match lower {
            false => auc,
            true => Estimate {
                value: 1.0 - auc.value,
                low: 1.0 - auc.high,
                high: 1.0 - auc.low,
            },
        };
        (auc.low > 0.5).then_some(StrongestTest { score, lower, auc })
    });
    separating.reduce(|best, test| match test.auc.value > best.auc.value {
        true => test,
        false => best,
    })
}

fn estimate(value: f64, mut rounds: Vec<f64>) -> Estimate {
    rounds.sort_by(f64::total_cmp);
    let at = |share: f64| rounds[((rounds.len() - 1) as f64 * share).round() as usize];
    Estimate {
        value,
        low: at(0.025),
        high: at(0.975),
    }
}

/// The probability that a member's score is higher than another one's, ties counted half (Mann and Whitney's U over the
/// number of pairs). 0.5 where one of them is empty.
pub fn auc(members: &[f64], others: &[f64]) -> f64 {
    if members.is_empty() || others.is_empty() {
        return 0.5;
    }
    let mut sorted = others.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wins: f64 = members
        .iter()
        .map(|score| {
            let below = sorted.partition_point(|other| other < score);
            let up_to = sorted.partition_point(|other| other <= score);
            (below + up_to) as f64 / 2.0
        })
        .sum();
    wins / (members.len() * others.len()) as f64
}

/// The share of the members above the lowest threshold that at most `false_rate` of the others reach.
pub fn true_positive_rate(members: &[f64], others: &[f64], false_rate: f64) -> f64 {
    if members.is_empty() || others.is_empty() {
        return 0.0;
    }
    let mut sorted = others.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let allowed = (others.len() as f64 * false_rate).floor() as usize;
    // The first one that must not be reached.
    let threshold = sorted.get(allowed).copied().unwrap_or(f64::NEG_INFINITY);
    let above = members.iter().filter(|&&score| score > threshold).count();
    above as f64 / members.len() as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn areas_of_small_sets_are_those_by_hand() {
        assert_eq!(auc(&[2.0, 3.0], &[0.0, 1.0]), 1.0);
        assert_eq!(auc(&[0.0], &[1.0]), 0.0);
        assert_eq!(auc(&[1.0, 1.0], &[1.0]), 0.5);
        // Of six pairs, four are won and one is a tie.
        assert_eq!(
            auc(&[1.0, 2.0, 3.0], &[1.0, 2.5]),
            (1.0 + 0.5 + 2.0) / 6.0 - 0.0
        );
        assert_eq!(auc(&[], &[1.0]), 0.5);
    }

    #[test]
    fn false_positives_are_kept_below_the_rate() {
        let others: Vec<f64> = (0..200).map(f64::from).collect();
        // Two of 200 may be reached: the threshold is the third highest, 197.
        assert_eq!(
            true_positive_rate(&[197.0, 197.5, 300.0, 0.0], &others, 0.01),
            0.5
        );
        // Fewer than a hundred: none may be.
        assert_eq!(true_positive_rate(&[9.0, 10.0], &[9.0, 1.0], 0.01), 0.5);
    }

    #[test]
    fn the_interval_surrounds_the_value_and_narrows() {
        let scores = |n: usize, shift: f64| -> Vec<f64> {
            (0..n).map(|i| (i as f64 * 0.618).fract() + shift).collect()
        };
        let wide = Separation::of(&scores(50, 0.2), &scores(50, 0.0), 1).unwrap();
        let narrow = Separation::of(&scores(2000, 0.2), &scores(2000, 0.0), 1).unwrap();
        for found in [wide, narrow] {
            assert!(found.auc.low <= found.auc.value && found.auc.value <= found.auc.high);
        }
        assert!(wide.auc.high - wide.auc.low > 2.0 * (narrow.auc.high - narrow.auc.low));
        // 1 − 0.8²/2 for two uniform distributions 0.2 apart.
        assert!((narrow.auc.value - 0.68).abs() < 0.01, "{narrow:?}");
        assert_eq!(Separation::of(&[], &[1.0], 1), None);
    }

    /// A score may be lower for what was learnt by heart: that gives it away no less.
    #[test]
    fn the_strongest_test_is_the_one_that_gives_away_most_in_either_direction() {
        let of = |values: [(f64, f64); 3]| {
            let named = ["conditional", "unconditional", "difference"];
            let tests = named.into_iter().zip(values).map(|(name, (value, width))| {
                let (low, high) = (value - width, (value + width).min(1.0));
                let auc = Estimate { value, low, high };
                let separation = Separation {
                    members: 9,
                    others: 9,
                    auc,
                    tpr_at_1_percent_fpr: auc,
                };
                (name, separation)
            });
            strongest(&tests.collect::<Vec<_>>())
        };
        assert_eq!(of([(0.52, 0.03), (0.49, 0.02), (0.5, 0.1)]), None);
        let found = of([(0.6, 0.05), (0.55, 0.01), (0.07, 0.02)]).unwrap();
        assert_eq!((found.score, found.lower), ("difference", true));
        assert!((found.auc.value - 0.93).abs() < 1e-9 && found.auc.low < found.auc.high);
        let found = of([(1.0, 0.0), (1.0, 0.0), (0.07, 0.02)]).unwrap();
        assert_eq!((found.score, found.lower), ("conditional", false));
    }
}
