//! Drawing with DALLE-pytorch's models: the caption is read once for all of its pictures.
//!
//! Guidance is the original's `cond_scale`: a second pass of each picture over the caption of nothing but filling,
//! and the mix of logits that [`Sampler`] makes. Its `filter_thres` keeps a share of the joint vocabulary, which is
//! a `top_k` here; see [`crate::pipeline::dalle_pytorch`].
//!
//! Words are told one by one (`generate_texts`), until what fills captions up begins.

use burn::tensor::Tensor;

use super::raster::{self, Progress, Sizes, Teller};
use super::{DrawnIds, Filling};
use crate::models::dalle_pytorch::{DallePytorch, Known};
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
    let fillings = raster::begun(beginning, model.config().image_length(), seeds)?;
    fill(model, caption, &fillings, 1, options, progress)
}

/// Draws what canvases of one caption ask for; the captions that they tell are not looked at. Each `tries` of them one
/// behind the other are the same and look ahead together.
pub fn fill(
    model: &DallePytorch,
    caption: &[u32],
    fillings: &[Filling],
    tries: usize,
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
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
        Ok(Pictures {
            model,
            known,
            captions: Tensor::cat(parts, 0),
        })
    };
    raster::fill(sizes, fillings, options, begin, progress)
}

/// Pictures behind their captions.
struct Pictures<'a> {
    model: &'a DallePytorch,
    known: Known,
    /// The captions' last states, which ask for the first ids.
    captions: Tensor<3>,
}

impl Teller for Pictures<'_> {
    fn tell(&mut self, newest: Vec<Vec<u32>>, asked: usize) -> Result<Tensor<3>> {
        let states = match newest.first().map_or(0, Vec::len) {
            0 => self.captions.clone(),
            _ => self.model.go_on(&newest, &mut self.known)?,
        };
        let [_, told, _] = states.dims();
        let asking = states.narrow(1, told - asked, asked);
        Ok(self.model.image_logits(asking))
    }

    fn select_rows(&mut self, rows: &[usize]) {
        self.known.select_rows(rows);
    }
}

/// A text told.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldText {
    /// Its ids, from the beginning that was given on.
    pub text_ids: Vec<u32>,
    /// ln p of what was told, in nats.
    pub log_likelihood: f64,
    /// Ids counted; that of the end, if it was told, is one.
    pub tokens: usize,
    /// Its seed.
    pub seed: u64,
}

/// Goes on with the beginning of a caption, once for each seed. Guidance is not used.
pub fn tell(
    model: &DallePytorch,
    beginning: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
) -> Result<Vec<ToldText>> {
    let options = SamplingOptions {
        guidance_scale: 1.0,
        ..options.clone()
    };
    options.validate()?;
    let config = model.config();
    if beginning.len() > config.text_length {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected {} ids at most, got {}",
                config.text_length,
                beginning.len()
            ),
        ));
    }
    let start = [&[0], beginning].concat();
    let mut known = model.begin();
    let mut states = model.go_on_words(&[start], &mut known)?;
    states = states.narrow(1, beginning.len(), 1);
    let mut going: Vec<ToldText> = seeds
        .iter()
        .map(|&seed| ToldText {
            text_ids: beginning.to_vec(),
            log_likelihood: 0.0,
            tokens: 0,
            seed,
        })
        .collect();
    // Before the first word all share one row.
    let mut rows = vec![0; seeds.len()];
    let mut finished = Vec::new();
    for place in beginning.len()..config.text_length {
        let logits: Vec<f32> = model
            .text_logits(states)
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        let (mut next, mut next_rows) = (Vec::new(), Vec::new());
        for (mut told, row) in going.into_iter().zip(rows) {
            let of_row = &logits[row * config.text_rows()..][..config.text_rows()];
            let mut allowed = of_row.to_vec();
            // The start is never told. (The sampler refuses what is not finite; e^-1e30 is 0 all the same.)
            allowed[0] = -1e30;
            let sampler = Sampler::new(&options, told.seed);
            let id = sampler.sample(&allowed, None, place as u64)?.id;
            told.log_likelihood += log_prob(of_row, id as usize);
            told.tokens += 1;
            if id as usize >= config.text_vocab_size {
                finished.push(told);
            } else {
                told.text_ids.push(id);
                next_rows.push(row);
                next.push(told);
            }
        }
        going = next;
        if going.is_empty() || place + 1 == config.text_length {
            break;
        }
        known.select_rows(&next_rows);
        let newest = going.iter().filter_map(|told| told.text_ids.last());
        let newest: Vec<Vec<u32>> = newest.map(|&id| vec![id]).collect();
        states = model.go_on_words(&newest, &mut known)?;
        rows = (0..going.len()).collect();
    }
    finished.extend(going);
    finished.sort_by_key(|told| seeds.iter().position(|&seed| seed == told.seed));
    Ok(finished)
}
