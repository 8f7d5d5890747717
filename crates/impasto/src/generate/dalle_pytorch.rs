//! Drawing with DALLE-pytorch's models: the caption is read once for all of its pictures.
//!
//! Guidance is the original's `cond_scale`: a second pass of each picture over the caption of nothing but filling,
//! and the mix of logits that [`Sampler`] makes. Its `filter_thres` keeps a share of the joint vocabulary, which is
//! a `top_k` here; see [`crate::pipeline::dalle_pytorch`].

use super::DrawnIds;
use super::dalle_mini::Progress;
use crate::models::dalle_pytorch::DallePytorch;
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Draws a picture of one caption for each seed, all in one batch, each going on from `beginning`.
pub fn draw(
    model: &DallePytorch,
    caption: &[u32],
    beginning: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    options.validate()?;
    let config = model.config();
    let (positions, codes) = (config.image_length(), config.codebook_size);
    let rows = seeds.len();
    if rows == 0 {
        return Ok(Vec::new());
    }
    if beginning.len() >= positions {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected fewer than {positions} ids, got {}",
                beginning.len()
            ),
        ));
    }
    let mut captions = vec![caption.to_vec()];
    if options.needs_unconditional() {
        captions.push(Vec::new());
    }
    let (prefix, mut known) = model.read(&captions)?;
    // The pictures once for each caption that they follow.
    let of: Vec<usize> = (0..captions.len())
        .flat_map(|caption| std::iter::repeat_n(caption, rows))
        .collect();
    known.select_rows(&of);
    let last = prefix.narrow(1, config.text_length, 1);
    let parts = of
        .iter()
        .map(|&caption| last.clone().narrow(0, caption, 1))
        .collect();
    let mut states = burn::tensor::Tensor::cat(parts, 0);
    if !beginning.is_empty() {
        let inputs = vec![beginning.to_vec(); of.len()];
        let told = model.go_on(&inputs, &mut known)?;
        states = told.narrow(1, beginning.len() - 1, 1);
    }
    let samplers: Vec<Sampler> = seeds
        .iter()
        .map(|&seed| Sampler::new(options, seed))
        .collect();
    let mut image_ids: Vec<Vec<u32>> = vec![beginning.to_vec(); rows];
    let mut log_likelihoods = vec![0.0; rows];
    for position in beginning.len()..positions {
        let logits: Vec<f32> = model
            .image_logits(states.clone())
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        for (row, sampler) in samplers.iter().enumerate() {
            let of = |row: usize| &logits[row * codes..][..codes];
            let unconditional = (captions.len() == 2).then(|| of(rows + row));
            let drawn = sampler.sample(of(row), unconditional, position as u64)?;
            image_ids[row].push(drawn.id);
            log_likelihoods[row] += log_prob(of(row), drawn.id as usize);
        }
        if progress(position + 1, positions, &image_ids).is_break() {
            return Err(Error::Stopped);
        }
        if position + 1 < positions {
            let newest: Vec<Vec<u32>> = (0..of.len())
                .map(|row| image_ids[row % rows].last().copied().into_iter().collect())
                .collect();
            states = model.go_on(&newest, &mut known)?;
        }
    }
    let drawn = image_ids.into_iter().zip(log_likelihoods);
    Ok(drawn
        .map(|(image_ids, log_likelihood)| DrawnIds {
            image_ids,
            log_likelihood,
        })
        .collect())
}
