//! What a net makes of whole images: likelihoods and entropies.

use burn::tensor::Tensor;
use serde::Serialize;

use super::logits::to_host;
use super::model::{AutoregressiveModel, Prompted};
use crate::models::dalle::{raster, shuffled};
use crate::random::RandomStream;
use crate::{Error, Result};

/// The likelihood of a pair under a net.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Likelihood {
    /// ln p(text), in nats; 0 for nets that do not model the text.
    pub text_log_likelihood: f64,
    /// ln p(image | text), in raster order, in nats.
    pub image_log_likelihood: f64,
    /// Text tokens counted, the end among them.
    pub text_tokens: usize,
    /// Image tokens counted.
    pub image_tokens: usize,
}

/// ln p of a caption, where the net models it, and of an image given it.
pub fn likelihood<M: AutoregressiveModel>(
    model: &M,
    prompt: &M::Prompt,
    image_ids: &[u32],
) -> Result<Likelihood> {
    let prompt = Prompted { prompt, rows: 1 };
    let nll = model.token_nll(&[prompt], &[image_ids.to_vec()], true)?;
    let text = nll.text.map(|text| sums(text, 1)).transpose()?;
    Ok(Likelihood {
        text_log_likelihood: text.map_or(0.0, |sums| sums[0]),
        image_log_likelihood: sums(nll.image, 1)?[0],
        text_tokens: nll.text_tokens,
        image_tokens: image_ids.len(),
    })
}

/// ln p of images given a prompt each, in raster order, in nats.
pub fn image_log_likelihoods<M: AutoregressiveModel>(
    model: &M,
    prompts: &[&M::Prompt],
    images: &[Vec<u32>],
) -> Result<Vec<f64>> {
    if prompts.len() != images.len() {
        return Err(Error::invalid(
            "image ids",
            format!("expected {} images, got {}", prompts.len(), images.len()),
        ));
    }
    let mut likelihoods = Vec::with_capacity(images.len());
    let rows = model.nll_rows().max(1);
    for (images, prompts) in images.chunks(rows).zip(prompts.chunks(rows)) {
        let mut groups: Vec<Prompted<'_, M::Prompt>> = Vec::new();
        for &prompt in prompts {
            match groups.last_mut() {
                Some(group) if std::ptr::eq(group.prompt, prompt) => group.rows += 1,
                _ => groups.push(Prompted { prompt, rows: 1 }),
            }
        }
        let nll = model.token_nll(&groups, images, false)?;
        likelihoods.extend(sums(nll.image, images.len())?);
    }
    Ok(likelihoods)
}

/// The log-likelihoods of this many rows from −ln p of all their ids.
pub(crate) fn sums(nll: Tensor<1>, rows: usize) -> Result<Vec<f64>> {
    let nll = to_host(nll)?;
    let of_row = |nll: &[f32]| {
        let sum: f64 = nll.iter().map(|&nats| f64::from(nats)).sum();
        if sum.is_finite() {
            return Ok(-sum);
        }
        Err(Error::NonFinite {
            what: "likelihood",
            detail: format!("{sum}"),
        })
    };
    nll.chunks(nll.len() / rows).map(of_row).collect()
}

/// Orders over which an id's entropy is averaged, where a net knows more than one.
const ORDERS: usize = 4;
/// What is added to entropies.
const LEAST: f64 = 1e-6;

/// How unsure a net is of each id of an image, in nats: its entropy given the prompt and the ids before it, averaged
/// over a few random orders if it knows `any_order`. Never quite 0, so that all ids can be chosen by it.
pub fn entropies<M: AutoregressiveModel>(
    model: &M,
    prompt: &M::Prompt,
    image_ids: &[u32],
    any_order: bool,
    seed: u64,
) -> Result<Vec<f64>> {
    let positions = image_ids.len();
    let orders: Vec<Vec<u32>> = match any_order {
        true => {
            let mut random = RandomStream::EntropyOrders.of(seed);
            let orders = (0..ORDERS).map(|_| shuffled(positions, &mut random));
            orders.collect()
        }
        false => vec![raster(positions)],
    };
    let codes = model.sizes().codebook_size;
    let mut entropies = vec![0.0; positions];
    for order in &orders {
        let logits = model.image_logits_in(prompt, image_ids, order)?;
        let [_, vocabulary] = logits.dims();
        let logits = to_host(logits)?;
        for (&position, row) in order.iter().zip(logits.chunks(vocabulary)) {
            let entropy = entropy(&row[..codes])? + LEAST;
            entropies[position as usize] += entropy / orders.len() as f64;
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
}
