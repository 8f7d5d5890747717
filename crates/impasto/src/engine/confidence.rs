//! The order of [`Order::Confidence`](crate::models::dalle::Order): every pass samples all masked ids and keeps the most
//! confident ones (MaskGIT, Chang et al. 2022, arXiv:2202.04200, section 3.2, with noise in the choice as in its published
//! code). Schedules and noise are those of `AmusedScheduler` (diffusers, `schedulers/scheduling_amused.py`).

use serde::{Deserialize, Serialize};

/// How the share of masked ids falls over the passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskSchedule {
    /// cos(π/2 · r) after the share r of the passes: few ids while little is known.
    #[default]
    Cosine,
    /// 1 − r.
    Linear,
}

impl MaskSchedule {
    /// In f32, as the reference computes it: the number of ids is cut off below it.
    fn masked(self, ratio: f32) -> f32 {
        match self {
            MaskSchedule::Cosine => (ratio * std::f32::consts::PI / 2.0).cos(),
            MaskSchedule::Linear => 1.0 - ratio,
        }
    }

    /// How many passes come after the one of `steps` that starts with this share of masked ids.
    pub(crate) fn passes_left(self, share: f64, steps: usize) -> usize {
        let share = share.clamp(0.0, 1.0);
        let before = match self {
            MaskSchedule::Cosine => share.acos() / std::f64::consts::FRAC_PI_2,
            MaskSchedule::Linear => 1.0 - share,
        };
        let last = steps.saturating_sub(1);
        last.saturating_sub((before * steps as f64).round() as usize)
    }
}

/// How strongly chance decides which ids the first pass keeps; it falls linearly to 0 in the last one.
const NOISE: f64 = 2.0;

/// A pass over all masked ids of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ConfidencePass {
    /// Its number among the passes of the schedule, which its random numbers depend on.
    pub number: usize,
    /// How many passes of the schedule come after it.
    pub left: usize,
    /// How many ids it keeps.
    pub kept: usize,
    /// What Gumbel noise is multiplied by before it is added to ln p.
    pub noise: f64,
}

/// The passes that fill `masked` of `positions` ids in `steps` passes; those that would keep nothing are left out.
pub(crate) fn confidence_passes(
    schedule: MaskSchedule,
    masked: usize,
    positions: usize,
    steps: usize,
) -> Vec<ConfidencePass> {
    let start = masked as f32 / positions as f32;
    let mut left = masked;
    let mut passes = Vec::with_capacity(steps.min(masked));
    for number in 0..steps {
        let goal = match number + 1 == steps {
            true => 0,
            false => {
                let ratio = (number + 1) as f32 / steps as f32;
                let share = start * schedule.masked(ratio);
                let goal = (positions as f32 * share).floor() as usize;
                goal.min(left.saturating_sub(1)).max(1).min(left)
            }
        };
        let last = steps.saturating_sub(1).max(1);
        if goal < left {
            passes.push(ConfidencePass {
                number,
                left: steps - 1 - number,
                kept: left - goal,
                noise: NOISE * (1.0 - number as f64 / last as f64),
            });
        }
        left = goal;
    }
    passes
}

/// Gumbel noise of a uniform number.
pub(super) fn gumbel(uniform: f64) -> f64 {
    const LEAST: f64 = 1e-20;
    -(-uniform.max(LEAST).ln()).max(LEAST).ln()
}

/// The places of the `count` largest of these confidences, in their order; the first of equals.
pub(super) fn most_confident(confidences: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..confidences.len()).collect();
    places.sort_by(|&a, &b| confidences[b].total_cmp(&confidences[a]).then(a.cmp(&b)));
    places.truncate(count);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ids_are_kept_in_the_end_whatever_the_steps() {
        for schedule in [MaskSchedule::Cosine, MaskSchedule::Linear] {
            for (masked, positions) in [(1, 1), (1, 64), (7, 16), (256, 256), (600, 1024)] {
                for steps in [1, 2, 3, 12, 100] {
                    let passes = confidence_passes(schedule, masked, positions, steps);
                    assert_eq!(passes.iter().map(|pass| pass.kept).sum::<usize>(), masked);
                    assert!(passes.iter().all(|pass| pass.kept > 0));
                    assert!(passes.len() <= steps.min(masked));
                    assert_eq!(passes.last().map(|pass| pass.number), Some(steps - 1));
                }
            }
        }
    }

    #[test]
    fn passes_are_counted_by_what_is_masked() {
        for schedule in [MaskSchedule::Cosine, MaskSchedule::Linear] {
            for steps in [1, 2, 12, 48] {
                for number in 0..steps {
                    let share = f64::from(schedule.masked(number as f32 / steps as f32));
                    let left = schedule.passes_left(share, steps);
                    assert_eq!(left, steps - 1 - number, "{schedule:?} {steps}");
                }
                assert_eq!(schedule.passes_left(0.0, steps), 0);
            }
        }
    }

    #[test]
    fn noise_falls_to_nothing() {
        let passes = confidence_passes(MaskSchedule::Cosine, 256, 256, 5);
        let noise: Vec<f64> = passes.iter().map(|pass| pass.noise).collect();
        assert_eq!(noise, [2.0, 1.5, 1.0, 0.5, 0.0]);
        // One pass keeps all: what noise it has doesn't matter.
        assert_eq!(confidence_passes(MaskSchedule::Linear, 9, 16, 1).len(), 1);
    }

    #[test]
    fn the_most_confident_are_kept_in_their_order() {
        assert_eq!(most_confident(&[-3.0, -1.0, -2.0, -1.0], 2), [1, 3]);
        assert_eq!(most_confident(&[-1.0, -1.0, -1.0], 2), [0, 1]);
        assert_eq!(most_confident(&[-1.0], 0), [0usize; 0]);
        // Uniform noise of 0 and of almost 1 is finite.
        assert!(gumbel(0.0).is_finite() && gumbel(1.0 - 1e-17).is_finite());
        assert!((gumbel((-1f64).exp())).abs() < 1e-12);
    }
}
