//! What a net predicts at every position of a known image.

use super::logits::to_host;
use super::model::{AutoregressiveModel, Input, Prompted};
use crate::{Error, Result};

/// ln p of every id of the codebook at every position.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// Row-major, `[positions, codes]`.
    log_probs: Vec<f32>,
    codes: usize,
}

impl Predictions {
    /// From logits: `order` has the position of each row, whose first `codes` columns count.
    fn of(logits: &[f32], order: &[u32], codes: usize) -> Result<Self> {
        let vocabulary = logits.len() / order.len().max(1);
        let mut log_probs = vec![0.0; order.len() * codes];
        for (&position, row) in order.iter().zip(logits.chunks(vocabulary.max(1))) {
            let row = &row[..codes];
            let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
            let base = largest + sum.ln();
            if !base.is_finite() {
                return Err(Error::NonFinite {
                    what: "logits",
                    detail: format!("the largest at position {position} is {largest}"),
                });
            }
            let place = position as usize * codes;
            for (log_prob, &logit) in log_probs[place..place + codes].iter_mut().zip(row) {
                *log_prob = (f64::from(logit) - base) as f32;
            }
        }
        Ok(Predictions { log_probs, codes })
    }

    /// How many positions.
    pub fn positions(&self) -> usize {
        self.log_probs.len() / self.codes.max(1)
    }

    /// ln p of each id at a position.
    pub fn at(&self, position: usize) -> &[f32] {
        &self.log_probs[position * self.codes..(position + 1) * self.codes]
    }

    /// −Σ p ln p at a position, in nats.
    pub fn entropy(&self, position: usize) -> f64 {
        let terms = self.at(position).iter().map(|&log_prob| {
            let log_prob = f64::from(log_prob);
            -log_prob.exp() * log_prob
        });
        // An id that can't be has probability 0 and ln p of minus infinity.
        terms.filter(|term| !term.is_nan()).sum::<f64>().max(0.0)
    }

    /// By how many nats an id is likelier here than in `others`, at a position. The least probability that counts is e^-30,
    /// so that an impossible id is no infinite gain.
    pub fn gain(&self, others: &Predictions, position: usize, id: u32) -> f64 {
        let of =
            |predictions: &Predictions| f64::from(predictions.at(position)[id as usize]).max(-30.0);
        of(self) - of(others)
    }

    /// How far the predictions at a position are from `others`', in nats: Jensen-Shannon divergence, from 0 (equal) to
    /// ln 2 (nothing in common). Lin 1991, "Divergence measures based on the Shannon entropy".
    pub fn divergence(&self, others: &Predictions, position: usize) -> f64 {
        let pairs = self.at(position).iter().zip(others.at(position));
        let terms = pairs.map(|(&a, &b)| {
            let (p, q) = (f64::from(a).exp(), f64::from(b).exp());
            let mean = (p + q) / 2.0;
            let part = |p: f64| if p > 0.0 { p * (p / mean).ln() } else { 0.0 };
            (part(p) + part(q)) / 2.0
        });
        terms.sum::<f64>().max(0.0)
    }

    /// The likeliest ids at a position, the likeliest first; of equal ones the lower id.
    pub fn likeliest(&self, position: usize, n: usize) -> Vec<u32> {
        let row = self.at(position);
        let mut ids: Vec<u32> = (0..row.len() as u32).collect();
        let by = |&a: &u32, &b: &u32| {
            let (x, y) = (row[a as usize], row[b as usize]);
            y.total_cmp(&x).then(a.cmp(&b))
        };
        if n < ids.len() {
            ids.select_nth_unstable_by(n, by);
            ids.truncate(n);
        }
        ids.sort_by(by);
        ids
    }
}

/// What is known of an image where one of its ids is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageContext<'a> {
    /// The ids that come before it in this order of all positions: any for nets of
    /// [`AutoregressiveModel::parallel_passes`], raster order for others.
    Before(&'a [u32]),
    /// Nothing: for nets of [`AutoregressiveModel::parallel_passes`] alone.
    Nothing,
}

/// What a net predicts at every position of an image under a prompt.
///
/// # Errors
/// Ids that are no image of the net's, and [`ImageContext::Nothing`] where it knows raster order only.
pub fn predictions<M: AutoregressiveModel>(
    model: &M,
    prompt: &M::Prompt,
    image_ids: &[u32],
    context: ImageContext<'_>,
) -> Result<Predictions> {
    let sizes = model.sizes();
    check(image_ids, sizes.positions, sizes.codebook_size)?;
    let order = match context {
        ImageContext::Before(order) => order,
        ImageContext::Nothing => return blank(model, prompt),
    };
    let logits = to_host(model.image_logits_in(prompt, image_ids, order)?)?;
    Predictions::of(&logits, order, sizes.codebook_size)
}

fn blank<M: AutoregressiveModel>(model: &M, prompt: &M::Prompt) -> Result<Predictions> {
    let parallel = model.parallel_passes().ok_or_else(|| {
        let reason = "expected ids before each: the model knows raster order only";
        Error::invalid("context", reason)
    })?;
    let sizes = model.sizes();
    let mut state = model.prefill(&[Prompted { prompt, rows: 1 }])?;
    parallel.append(&[Vec::new()], &mut state)?;
    let order: Vec<u32> = (0..sizes.positions as u32).collect();
    let input = |&target: &u32| Input {
        token: None,
        target,
    };
    let inputs: Vec<Input> = order.iter().map(input).collect();
    let logits = to_host(parallel.query(&[inputs], &mut state)?)?;
    Predictions::of(&logits, &order, sizes.codebook_size)
}

fn check(image_ids: &[u32], positions: usize, codes: usize) -> Result<()> {
    if image_ids.len() != positions {
        let reason = format!("expected {positions} ids, got {}", image_ids.len());
        return Err(Error::invalid("image ids", reason));
    }
    match image_ids.iter().find(|&&id| id as usize >= codes) {
        Some(id) => Err(Error::invalid(
            "image ids",
            format!("expected ids below {codes}, got {id}"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two positions of three codes, given in the order 1, 0, with a column that is no code.
    fn two() -> Predictions {
        let logits = [0.0, 0.0, -1e30, 9.0, 2f32.ln(), 0.0, 0.0, 9.0];
        Predictions::of(&logits, &[1, 0], 3).unwrap()
    }

    #[test]
    fn probabilities_are_of_the_codebook_alone_and_in_place() {
        let two = two();
        assert_eq!(two.positions(), 2);
        let p =
            |position: usize| -> Vec<f32> { two.at(position).iter().map(|x| x.exp()).collect() };
        assert!((p(0)[0] - 0.5).abs() < 1e-6 && (p(0)[2] - 0.25).abs() < 1e-6);
        assert!((p(1)[0] - 0.5).abs() < 1e-6 && p(1)[2] == 0.0);
        assert!((two.entropy(1) - 2f64.ln()).abs() < 1e-6);
        assert_eq!(two.likeliest(0, 2), [0, 1]);
        assert_eq!(two.likeliest(0, 9), [0, 1, 2]);
    }

    #[test]
    fn divergence_is_zero_of_equals_and_ln_2_of_disjoint() {
        let of = |logits: &[f32]| Predictions::of(logits, &[0], logits.len()).unwrap();
        let (left, right) = (of(&[0.0, -1e30]), of(&[-1e30, 0.0]));
        assert_eq!(left.divergence(&left, 0), 0.0);
        assert!((left.divergence(&right, 0) - 2f64.ln()).abs() < 1e-12);
        assert!((right.divergence(&left, 0) - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        assert!(Predictions::of(&[f32::NAN, 0.0], &[0], 2).is_err());
        assert!(check(&[1, 2], 3, 4).is_err() && check(&[4], 1, 4).is_err());
        assert!(check(&[3], 1, 4).is_ok());
    }
}
