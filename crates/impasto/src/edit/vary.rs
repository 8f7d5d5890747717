//! Variations: a seeded share of a picture's ids is drawn anew.

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{Words, own_seed};
use crate::canvas::{Canvas, Conditioning};
use crate::engine::{FillOptions, SampledTokens};
use crate::families::{Infill, PromptText};
use crate::image::Image;
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::GeneratedImage;
use crate::observer::{Event, Observer};
use crate::random::RandomStream;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
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
    /// What guidance leads away from, in the place of the model's caption of nothing in particular.
    pub negative_prompt: Option<String>,
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
    /// How known ids condition the model.
    pub conditioning: Conditioning,
    /// Fillings of each variation, of which the likeliest is taken; 1 or more. Models of one order find by it what
    /// goes with the ids that stay.
    pub tries: usize,
    /// What is done with a prompt that is too long.
    pub long: LongCaption,
}

/// Variations drawn in one batch.
const BATCH: usize = 16;

/// Draws variations of a picture of the model's size, in the order of their seeds. `observer` gets the ids done and to
/// do.
pub fn vary(
    model: &Model,
    picture: &Image,
    request: &VaryRequest,
    observer: &mut dyn Observer,
) -> Result<Vec<GeneratedImage>> {
    if !(0.0..=1.0).contains(&request.strength) {
        return Err(Error::invalid(
            "strength",
            format!("expected 0 to 1, got {}", request.strength),
        ));
    }
    if request.n == 0 {
        return Err(Error::invalid("n", "expected 1 or more variations, got 0"));
    }
    if request.tries == 0 || request.tries > BATCH {
        let reason = format!("expected 1 to {BATCH}, got {}", request.tries);
        return Err(Error::invalid("tries", reason));
    }
    let text = PromptText {
        prompt: request.prompt.as_deref(),
        negative: request.negative_prompt.as_deref(),
        long: request.long,
    };
    let words = Words::of(model, text, &request.sampling)?;
    let image = model.image_tokenizer();
    let ids = image
        .encode(std::slice::from_ref(picture), model.device())?
        .swap_remove(0);
    let positions = ids.len();
    let count = (request.strength * positions as f64).round() as usize;
    let odds = match request.choice {
        Choice::Random => vec![1.0; positions],
        Choice::Entropy => words.read.entropies(&ids, request.seed)?,
    };
    // A fresh picture has nothing to go with.
    let tries = if count < positions { request.tries } else { 1 };
    let options = FillOptions {
        sampling: words.sampling.clone(),
        order: request.order,
        conditioning: request.conditioning,
        tries,
    };
    let mut drawn = Vec::with_capacity(request.n);
    let batch = BATCH / tries;
    for first in (0..request.n).step_by(batch) {
        let rows = batch.min(request.n - first);
        let seeds = (first..first + rows).map(|i| request.seed.wrapping_add(i as u64));
        let mut fillings = Vec::with_capacity(rows * tries);
        for seed in seeds.clone() {
            let chosen = chosen(&odds, count, seed);
            let canvas = Arc::new(Canvas::of(&ids).masked(chosen));
            for attempt in 0..tries {
                fillings.push(Infill {
                    canvas: canvas.clone(),
                    seed: own_seed(seed, attempt),
                });
            }
        }
        let mut filled =
            words
                .read
                .fill(&fillings, &options, &mut |event: &Event<'_>| match event {
                    Event::Tokens {
                        done, image_ids, ..
                    } => observer.event(&Event::Tokens {
                        done: first * positions + done / tries,
                        total: request.n * positions,
                        image_ids,
                    }),
                    _ => ControlFlow::Continue(()),
                })?;
        if tries > 1 {
            filled = likeliest(&words, filled, tries)?;
        }
        let image_ids: Vec<Vec<u32>> = filled.iter().map(|ids| ids.image_ids.clone()).collect();
        let pictures = image.decode(&image_ids)?;
        for ((picture, ids), seed) in pictures.into_iter().zip(filled).zip(seeds) {
            let image = GeneratedImage {
                picture,
                seed,
                image_ids: ids.image_ids,
                log_likelihood: ids.log_likelihood,
                caption_nats: None,
                clip_score: None,
            };
            if observer.event(&Event::Image(&image)).is_break() {
                return Err(Error::Stopped);
            }
            drawn.push(image);
        }
    }
    Ok(drawn)
}

/// Of each picture's tries that with the highest likelihood of all ids, with guidance; the first of equals.
fn likeliest(
    words: &Words,
    filled: Vec<SampledTokens>,
    tries: usize,
) -> Result<Vec<SampledTokens>> {
    let ids: Vec<Vec<u32>> = filled.iter().map(|ids| ids.image_ids.clone()).collect();
    let likelihoods = words.likelihoods(&ids)?.into_iter();
    let scores = likelihoods.map(|likelihood| likelihood.score);
    let scored: Vec<(SampledTokens, f64)> = filled.into_iter().zip(scores).collect();
    let best = scored.chunks(tries).filter_map(|tries| {
        let best = tries.iter().reduce(|best, next| match next.1 > best.1 {
            true => next,
            false => best,
        });
        best.map(|(drawn, _)| drawn.clone())
    });
    Ok(best.collect())
}

/// `count` positions, drawn without replacement with these odds: the largest of ln odds plus Gumbel noise
/// (Efraimidis and Spirakis 2006; Kool et al. 2019, arXiv:1903.06059).
fn chosen(odds: &[f64], count: usize, seed: u64) -> Vec<u32> {
    let mut random = RandomStream::VariedPositions.of(seed);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
