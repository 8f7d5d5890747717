//! Drawing with DALLE-pytorch's models: the caption is read once for all of its pictures.
//!
//! Guidance is the original's `cond_scale`: a second pass of each picture over a caption of padding only,
//! and the mix of logits that [`Sampler`] makes. Its `filter_thres` keeps a share of the joint vocabulary, which is
//! a `top_k` here; see [`crate::pipeline::dalle_pytorch`].
//!
//! Text is generated one id at a time (`generate_texts`), until the first padding id.

use burn::tensor::Tensor;

use super::raster::{self, Progress, Sizes, StepModel};
use super::{InfillSpec, SampledTokens};
use crate::models::dalle_pytorch::{DallePytorch, DecodeState};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Draws a picture of one caption for each seed, all in one batch, each continuing `prefix_ids`.
pub fn draw(
    model: &DallePytorch,
    caption: &[u32],
    prefix_ids: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<SampledTokens>> {
    let fillings = raster::with_prefix(prefix_ids, model.config().image_length(), seeds)?;
    fill(model, caption, &fillings, 1, options, progress)
}

/// Fills the masked ids of canvases that share `caption`; their own captions are ignored. Each `tries` consecutive
/// canvases are equal and are resampled together.
pub fn fill(
    model: &DallePytorch,
    caption: &[u32],
    fillings: &[InfillSpec],
    tries: usize,
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<SampledTokens>> {
    let config = model.config();
    let sizes = Sizes {
        positions: config.image_length(),
        codes: config.codebook_size,
        tries,
    };
    let mut captions = vec![caption.to_vec()];
    if options.needs_unconditional() {
        captions.push(Vec::new());
    }
    let begin = |rows| {
        let (prefix, mut state) = model.prefill(&captions)?;
        // The pictures once for each caption that they follow.
        let of: Vec<usize> = (0..captions.len())
            .flat_map(|caption| std::iter::repeat_n(caption, rows))
            .collect();
        state.select_rows(&of);
        let last = prefix.narrow(1, config.text_length, 1);
        let parts = of
            .iter()
            .map(|&caption| last.clone().narrow(0, caption, 1))
            .collect();
        Ok(Pictures {
            model,
            state,
            captions: Tensor::cat(parts, 0),
        })
    };
    raster::fill(sizes, fillings, options, begin, progress)
}

/// A batch of images after their captions.
struct Pictures<'a> {
    model: &'a DallePytorch,
    state: DecodeState,
    /// The captions' last states, which predict the first ids.
    captions: Tensor<3>,
}

impl StepModel for Pictures<'_> {
    fn step(&mut self, new_ids: Vec<Vec<u32>>, n_logits: usize) -> Result<Tensor<3>> {
        let states = match new_ids.first().map_or(0, Vec::len) {
            0 => self.captions.clone(),
            _ => self.model.step(&new_ids, &mut self.state)?,
        };
        let [_, length, _] = states.dims();
        let last = states.narrow(1, length - n_logits, n_logits);
        Ok(self.model.image_logits(last))
    }

    fn select_rows(&mut self, rows: &[usize]) {
        self.state.select_rows(rows);
    }
}

/// A generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedText {
    /// Its ids, the given prefix included.
    pub text_ids: Vec<u32>,
    /// ln p of the generated ids, in nats.
    pub log_likelihood: f64,
    /// Number of generated ids, the end included if it was generated.
    pub tokens: usize,
    /// Its seed.
    pub seed: u64,
}

/// Continues a caption from `prefix_ids`, once for each seed. Guidance is not used.
pub fn continue_text(
    model: &DallePytorch,
    prefix_ids: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
) -> Result<Vec<GeneratedText>> {
    let options = SamplingOptions {
        guidance_scale: 1.0,
        ..options.clone()
    };
    options.validate()?;
    let config = model.config();
    if prefix_ids.len() > config.text_length {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected {} ids at most, got {}",
                config.text_length,
                prefix_ids.len()
            ),
        ));
    }
    let start = [&[0], prefix_ids].concat();
    let mut state = model.empty_state();
    let mut states = model.step_text(&[start], &mut state)?;
    states = states.narrow(1, prefix_ids.len(), 1);
    let mut going: Vec<GeneratedText> = seeds
        .iter()
        .map(|&seed| GeneratedText {
            text_ids: prefix_ids.to_vec(),
            log_likelihood: 0.0,
            tokens: 0,
            seed,
        })
        .collect();
    // Before the first word all share one row.
    let mut rows = vec![0; seeds.len()];
    let mut finished = Vec::new();
    for place in prefix_ids.len()..config.text_length {
        let logits: Vec<f32> = model
            .text_logits(states)
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        let (mut next, mut next_rows) = (Vec::new(), Vec::new());
        for (mut text, row) in going.into_iter().zip(rows) {
            let of_row = &logits[row * config.text_rows()..][..config.text_rows()];
            let mut allowed = of_row.to_vec();
            // The start is never generated. (The sampler refuses what is not finite; e^-1e30 is 0 all the same.)
            allowed[0] = -1e30;
            let sampler = Sampler::new(&options, text.seed);
            let id = sampler.sample(&allowed, None, place as u64)?.id;
            text.log_likelihood += log_prob(of_row, id as usize);
            text.tokens += 1;
            if id as usize >= config.text_vocab_size {
                finished.push(text);
            } else {
                text.text_ids.push(id);
                next_rows.push(row);
                next.push(text);
            }
        }
        going = next;
        if going.is_empty() || place + 1 == config.text_length {
            break;
        }
        state.select_rows(&next_rows);
        let newest = going.iter().filter_map(|text| text.text_ids.last());
        let newest: Vec<Vec<u32>> = newest.map(|&id| vec![id]).collect();
        states = model.step_text(&newest, &mut state)?;
        rows = (0..going.len()).collect();
    }
    finished.extend(going);
    finished.sort_by_key(|text| seeds.iter().position(|&seed| seed == text.seed));
    Ok(finished)
}
