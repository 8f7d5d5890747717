//! Variations: a seeded share of a picture's ids is drawn anew.

use std::ops::ControlFlow;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Words;
use crate::canvas::{Canvas, Caption, Telling};
use crate::checkpoint::Model;
use crate::generate::{Filling, fill};
use crate::image::Picture;
use crate::models::dalle::{Order, Part, image_part, shuffled};
use crate::nn::block::Sight;
use crate::pipeline::Drawn;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// Which ids are drawn anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Any.
    #[default]
    Random,
    /// Rather those that the model would be least sure of: an id's odds grow with its entropy.
    Entropy,
}

/// What to vary, and how far.
#[derive(Clone, Debug)]
pub struct VaryRequest {
    /// What the picture shows; without words the ids that stay decide alone.
    pub prompt: Option<String>,
    /// The share of the ids that is drawn anew: 0 gives what the image tokenizer makes of the picture, 1 a fresh
    /// picture.
    pub strength: f64,
    /// Which ids.
    pub choice: Choice,
    /// Variations; number i has the seed `seed + i`.
    pub n: usize,
    /// Seed of the first one.
    pub seed: u64,
    /// Guidance, temperature, cuts.
    pub sampling: SamplingOptions,
    /// In which order, and how many at a time, ids are drawn.
    pub order: Order,
    /// How known ids are told.
    pub telling: Telling,
    /// Cut a prompt that is too long instead of refusing it.
    pub truncate: bool,
}

/// Variations drawn in one batch.
const BATCH: usize = 16;
/// Orders over which an id's entropy is averaged.
const ORDERS: usize = 4;

/// Draws variations of a picture of the model's size, in the order of their seeds. `progress` gets the ids done
/// and to do, and may stop the work.
pub fn vary(
    model: &Model,
    picture: &Picture,
    request: &VaryRequest,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Drawn>> {
    if !(0.0..=1.0).contains(&request.strength) {
        return Err(Error::invalid(
            "strength",
            format!("expected 0 to 1, got {}", request.strength),
        ));
    }
    if request.n == 0 {
        return Err(Error::invalid("n", "expected 1 or more variations, got 0"));
    }
    let words = Words::of(
        model,
        request.prompt.as_deref(),
        &request.sampling,
        request.truncate,
    )?;
    let ids = model
        .image
        .encode(std::slice::from_ref(picture), &model.device)?
        .swap_remove(0);
    let positions = ids.len();
    let count = (request.strength * positions as f64).round() as usize;
    let odds = match request.choice {
        Choice::Random => vec![1.0; positions],
        Choice::Entropy => entropies(model, &ids, &words, request.seed)?,
    };
    let mut drawn = Vec::with_capacity(request.n);
    for first in (0..request.n).step_by(BATCH) {
        let rows = BATCH.min(request.n - first);
        let fillings: Vec<Filling> = (first..first + rows)
            .map(|i| {
                let seed = request.seed.wrapping_add(i as u64);
                let caption = Caption::Known(words.text_ids.clone());
                Filling {
                    canvas: Canvas::of(&ids, caption).asking(chosen(&odds, count, seed)),
                    seed,
                }
            })
            .collect();
        let filled = fill(
            &model.dalle,
            &fillings,
            &words.null_caption,
            &words.sampling,
            request.order,
            request.telling,
            &mut |done, _| progress(first * positions + done * rows, request.n * positions),
        )?;
        let image_ids: Vec<Vec<u32>> = filled.iter().map(|ids| ids.image_ids.clone()).collect();
        let pictures = model.image.decode(&image_ids)?;
        for ((picture, ids), filling) in pictures.into_iter().zip(filled).zip(fillings) {
            drawn.push(Drawn {
                picture,
                seed: filling.seed,
                image_ids: ids.image_ids,
                log_likelihood: ids.log_likelihood,
            });
        }
    }
    Ok(drawn)
}

/// `count` positions, drawn without replacement with these odds: the largest of ln odds plus Gumbel noise
/// (Efraimidis and Spirakis 2006; Kool et al. 2019, arXiv:1903.06059).
fn chosen(odds: &[f64], count: usize, seed: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Ids have streams from 0 on, orders the last.
    random.set_stream(u64::MAX - 1);
    let mut keys: Vec<(f64, u32)> = odds
        .iter()
        .enumerate()
        .map(|(position, odds)| {
            let uniform: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
            (odds.ln() - (-uniform.ln()).ln(), position as u32)
        })
        .collect();
    keys.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    keys[..count]
        .iter()
        .map(|&(_, position)| position)
        .collect()
}

/// How unsure the model is of each id, in nats: its entropy given the caption and the ids before it, over a few
/// random orders. Never quite 0, so that all ids can be drawn.
fn entropies(model: &Model, ids: &[u32], words: &Words, seed: u64) -> Result<Vec<f64>> {
    let config = &model.config.dalle;
    let positions = ids.len();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::MAX - 2);
    let orders: Vec<Vec<u32>> = (0..ORDERS)
        .map(|_| shuffled(positions, &mut random))
        .collect();
    let text = Part::Text {
        ids: words.text_ids.repeat(ORDERS),
        start: 0,
    };
    let image = image_part(
        &vec![ids.to_vec(); ORDERS],
        &orders,
        config.codebook_size,
        false,
    );
    let states = model
        .dalle
        .forward(&[text, image], ORDERS, None, Sight::Causal)
        .narrow(1, config.text_length, positions);
    let logits: Vec<f32> = model
        .dalle
        .image_logits(states)
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
    let mut entropies = vec![1e-6; positions];
    for (order, logits) in orders
        .iter()
        .zip(logits.chunks(positions * config.codebook_size))
    {
        for (&position, logits) in order.iter().zip(logits.chunks(config.codebook_size)) {
            entropies[position as usize] += entropy(logits)? / ORDERS as f64;
        }
    }
    Ok(entropies)
}

/// −Σ p ln p of a row of logits.
fn entropy(logits: &[f32]) -> Result<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let shifted = logits.iter().map(|&logit| f64::from(logit) - largest);
    let sum: f64 = shifted.clone().map(f64::exp).sum();
    let mean: f64 = shifted.map(|logit| logit * logit.exp()).sum::<f64>() / sum;
    let entropy = sum.ln() - mean;
    if entropy.is_finite() {
        Ok(entropy)
    } else {
        Err(Error::NonFinite {
            what: "logits",
            detail: format!("their entropy is {entropy}"),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entropies_of_known_distributions() {
        assert!((entropy(&[2.0; 8]).unwrap() - 8f64.ln()).abs() < 1e-12);
        assert!(entropy(&[100.0, 0.0, 0.0]).unwrap() < 1e-12);
        let halves = entropy(&[0.0, 0.0, -1e30]).unwrap();
        assert!((halves - 2f64.ln()).abs() < 1e-12);
        assert!(entropy(&[f32::NAN, 0.0]).is_err());
    }

    /// Each of 2,000 seeds takes 4 of 16 positions; a position with four times the odds comes about four times
    /// as often first (of 5,000 draws; 5 standard deviations are allowed).
    #[test]
    fn choices_follow_the_odds_and_never_repeat() {
        let mut odds = vec![1.0; 16];
        odds[3] = 4.0;
        let mut firsts = 0;
        for seed in 0..5000 {
            let mut positions = chosen(&odds, 4, seed);
            firsts += usize::from(positions[0] == 3);
            positions.sort_unstable();
            positions.dedup();
            assert_eq!(positions.len(), 4);
        }
        let share = firsts as f64 / 5000.0;
        let expected: f64 = 4.0 / 19.0;
        let deviation = (expected * (1.0 - expected) / 5000.0).sqrt();
        assert!((share - expected).abs() < 5.0 * deviation, "{share}");
        assert_eq!(chosen(&odds, 16, 1).len(), 16);
        assert!(chosen(&odds, 0, 1).is_empty());
    }
}
