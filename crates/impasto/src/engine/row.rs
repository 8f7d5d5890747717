//! One image while it is filled: its ids, what they weigh, and how the next ones are chosen from logits. Rows do not
//! depend on each other.

use std::sync::Arc;

use rayon::prelude::*;

use super::confidence::{ConfidencePass, gumbel, most_confident};
use super::model::Input;
use crate::canvas::Canvas;
use crate::sampling::{Sampler, log_prob};
use crate::{Error, Result};

/// An image being filled.
#[derive(Debug)]
pub(super) struct Row<P> {
    /// In its request.
    pub number: usize,
    pub prompt: Arc<P>,
    pub unconditional: Arc<P>,
    pub canvas: Arc<Canvas>,
    /// Known or sampled so far.
    pub image_ids: Vec<Option<u32>>,
    /// The order of all positions; the known ones in front come first in it.
    pub order: Vec<u32>,
    pub sampler: Sampler,
    pub seed: u64,
    pub log_likelihood: f64,
    /// ln p of known ids after sampled ones, since the last resampling.
    pub log_weight: f64,
}

/// An id for a masked position, and ln p of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub id: u32,
    log_prob: f64,
}

impl<P> Row<P> {
    /// The input that predicts the position at `index` of the row's order.
    pub fn input(&self, index: usize) -> Input {
        let token = index.checked_sub(1).map(|last| {
            let position = self.order[last];
            // What comes before is known or sampled.
            (
                position,
                self.image_ids[position as usize].unwrap_or_default(),
            )
        });
        Input {
            token,
            target: self.order[index],
        }
    }

    /// Samples the id at a masked position.
    ///
    /// # Shapes
    /// - `conditional`, `unconditional`: `[vocabulary]`, of which the first `codes` are image ids
    pub fn sample(
        &mut self,
        conditional: &[f32],
        unconditional: Option<&[f32]>,
        codes: usize,
        position: usize,
    ) -> Result<()> {
        let drawn = self.draw(conditional, unconditional, codes, position)?;
        self.keep(drawn, position);
        Ok(())
    }

    /// What [`Self::sample`] samples.
    pub fn draw(
        &self,
        conditional: &[f32],
        unconditional: Option<&[f32]>,
        codes: usize,
        position: usize,
    ) -> Result<Drawn> {
        let bias = self.canvas.logit_biases.get(&(position as u32));
        let id = self.sampler.draw(
            &conditional[..codes],
            unconditional.map(|logits| &logits[..codes]),
            bias.map(Vec::as_slice),
            position as u64,
        )?;
        Ok(Drawn {
            id: id as u32,
            // Of the whole vocabulary, as in training.
            log_prob: log_prob(conditional, id),
        })
    }

    /// Fills a masked position.
    pub fn keep(&mut self, drawn: Drawn, position: usize) {
        self.image_ids[position] = Some(drawn.id);
        self.log_likelihood += drawn.log_prob;
    }

    /// Adds how likely the known id at a position is to the weight, with guidance as ids are sampled with: the
    /// unconditional logits and the scale.
    pub fn weigh(
        &mut self,
        conditional: &[f32],
        unconditional: Option<(&[f32], f64)>,
        position: usize,
    ) -> Result<()> {
        let id = self.image_ids[position].unwrap_or_default() as usize;
        let mut nats = log_prob(conditional, id);
        if let Some((logits, scale)) = unconditional {
            let alone = log_prob(logits, id);
            nats = alone + (nats - alone) * scale;
        }
        if !nats.is_finite() {
            return Err(Error::NonFinite {
                what: "logits",
                detail: format!("ln p of id {id} at position {position} is {nats}"),
            });
        }
        self.log_weight += nats;
        Ok(())
    }

    /// Samples all ids that are masked from `next` on, keeps the most confident ones and puts their positions next in the
    /// order. `at` gives the logits of each, conditional and unconditional.
    pub fn keep_confident<'a>(
        &mut self,
        at: impl Fn(usize) -> (&'a [f32], Option<&'a [f32]>) + Sync,
        codes: usize,
        next: usize,
        pass: ConfidencePass,
    ) -> Result<()>
    where
        P: Send + Sync,
    {
        let masked = &self.order[next..];
        let candidates: Vec<(u32, f64)> = masked
            .par_iter()
            .enumerate()
            .map(|(index, &position)| {
                let (conditional, unconditional) = at(index);
                let bias = self.canvas.logit_biases.get(&position).map(Vec::as_slice);
                let candidate = self.sampler.candidate(
                    &conditional[..codes],
                    unconditional.map(|logits| &logits[..codes]),
                    bias,
                    u64::from(position),
                    pass.number as u64,
                )?;
                let noise = pass.noise * candidate.temperature;
                let chance = if noise > 0.0 {
                    noise * gumbel(candidate.uniform)
                } else {
                    0.0
                };
                Ok((candidate.id, candidate.log_prob + chance))
            })
            .collect::<Result<_>>()?;
        let confidences: Vec<f64> = candidates
            .iter()
            .map(|&(_, confidence)| confidence)
            .collect();
        let kept = most_confident(&confidences, pass.kept);
        for &index in &kept {
            let (position, id) = (masked[index] as usize, candidates[index].0);
            self.image_ids[position] = Some(id);
            // Of the whole vocabulary, as in training.
            self.log_likelihood += log_prob(at(index).0, id as usize);
        }
        let mut is_kept = vec![false; masked.len()];
        kept.iter().for_each(|&index| is_kept[index] = true);
        let others = (0..masked.len()).filter(|&index| !is_kept[index]);
        let order: Vec<u32> = kept
            .iter()
            .copied()
            .chain(others)
            .map(|index| masked[index])
            .collect();
        self.order[next..].copy_from_slice(&order);
        Ok(())
    }
}
