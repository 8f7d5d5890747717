//! Texts, one id at a time, before or after an image: sampled from seeds, or the likeliest by beam search (Graves 2012,
//! arXiv:1211.3711, without length penalty).
//!
//! Ids that mean nothing in a text are never generated; likelihoods are still those of the unrestricted net.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use super::logits::to_host;
use super::model::{DecodeState, TextModel, TextSizes};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// A text that was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledText {
    /// Its ids, the given first ones included, without start and end.
    pub text_ids: Vec<u32>,
    /// Whether its end was generated; if not, it is as long as texts can be.
    pub ended: bool,
    /// ln p of the generated ids, in nats.
    pub log_likelihood: f64,
    /// Generated ids, the end included.
    pub tokens: usize,
    /// Its seed, if it was sampled.
    pub seed: Option<u64>,
}

/// Which ids may be generated; all that mean something in a text, if not given.
pub type Allowed<'a> = Option<&'a [bool]>;

/// Gets texts while they grow, and may stop the work, which then ends with [`Error::Stopped`].
pub type Watch<'a> = &'a mut dyn FnMut(&SampledText) -> ControlFlow<()>;

/// A [`Watch`] of nobody.
pub fn unwatched(_: &SampledText) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn may_be(id: u32, sizes: &TextSizes, allowed: Allowed<'_>) -> bool {
    let listed = allowed.is_none_or(|allowed| allowed[id as usize]);
    !sizes.never.contains(&id) && (listed || sizes.ends.contains(&id))
}

impl SampledText {
    fn new(prefix: &[u32], seed: Option<u64>) -> Self {
        SampledText {
            text_ids: prefix.to_vec(),
            ended: false,
            log_likelihood: 0.0,
            tokens: 0,
            seed,
        }
    }

    /// The text with one more id.
    fn add(&mut self, id: u32, sizes: &TextSizes) {
        self.tokens += 1;
        self.ended = sizes.ends.contains(&id);
        if !self.ended {
            self.text_ids.push(id);
        }
    }
}

/// Continues a text, after what is seen where anything is, once for each seed; guidance is not used. In the order of the
/// seeds. `watch` gets each text after each of its ids.
pub fn sample_texts<M: TextModel>(
    model: &M,
    seen: Option<&M::Seen>,
    prefix: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    allowed: Allowed<'_>,
    watch: Watch<'_>,
) -> Result<Vec<SampledText>> {
    let options = SamplingOptions {
        guidance_scale: 1.0,
        ..options.clone()
    };
    options.validate()?;
    let sizes = model.text_sizes();
    check_prefix(prefix, &sizes)?;
    let (mut state, logits) = model.begin_text(seen, prefix)?;
    let mut logits = rows_of(logits)?;
    // Before the first id all share one row.
    let mut going: Vec<(usize, SampledText)> = seeds
        .iter()
        .map(|&seed| (0, SampledText::new(prefix, Some(seed))))
        .collect();
    let mut finished = Vec::with_capacity(seeds.len());
    for place in prefix.len()..sizes.length {
        let last = place + 1 == sizes.length;
        let mut next = Vec::with_capacity(going.len());
        for (row, mut text) in going {
            let mut possible = logits[row].clone();
            for (id, logit) in (0..).zip(&mut possible) {
                if !may_be(id, &sizes, allowed) {
                    // The sampler refuses what is not finite; e^-1e30 is 0 all the same.
                    *logit = -1e30;
                }
            }
            let id = if last && sizes.ends_at_length {
                sizes.ends.start
            } else {
                let sampler = Sampler::new(&options, text.seed.unwrap_or_default());
                let stream = place as u64 + sizes.first_stream;
                sampler.sample(&possible, None, stream)?.id
            };
            text.log_likelihood += log_prob(&logits[row], id as usize);
            text.add(id, &sizes);
            if watch(&text).is_break() {
                return Err(Error::Stopped);
            }
            match text.ended {
                true => finished.push(text),
                false => next.push((row, text)),
            }
        }
        if next.is_empty() || last {
            finished.extend(next.into_iter().map(|(_, text)| text));
            break;
        }
        logits = step(model, &next, place, &mut state)?;
        going = next
            .into_iter()
            .enumerate()
            .map(|(row, (_, text))| (row, text))
            .collect();
    }
    finished.sort_by_key(|text| seeds.iter().position(|&seed| Some(seed) == text.seed));
    Ok(finished)
}

/// The likeliest texts after what is seen, as far as a beam of `width` sees; the likeliest first. There may be fewer than
/// `n`. `watch` gets the likeliest text after each id.
pub fn beam_search<M: TextModel>(
    model: &M,
    seen: Option<&M::Seen>,
    n: usize,
    width: usize,
    allowed: Allowed<'_>,
    watch: Watch<'_>,
) -> Result<Vec<SampledText>> {
    let sizes = model.text_sizes();
    let (mut state, logits) = model.begin_text(seen, &[])?;
    let mut logits = rows_of(logits)?;
    let mut beams = vec![SampledText::new(&[], None)];
    let mut finished: Vec<SampledText> = Vec::new();
    for place in 0..sizes.length {
        let last = place + 1 == sizes.length;
        // (score, row, id), the best first; equals by row and id, so that the result is always the same.
        let mut candidates = Vec::new();
        for (row, logits) in logits.iter().enumerate() {
            // One pass over the row for its sum; `log_prob` of each id would take one each.
            let base = log_prob(logits, 0) - f64::from(logits[0]);
            for (id, &logit) in (0u32..).zip(logits) {
                let ends = sizes.ends.contains(&id);
                if may_be(id, &sizes, allowed) && (!last || ends || !sizes.ends_at_length) {
                    let score = beams[row].log_likelihood + f64::from(logit) + base;
                    candidates.push((score, row, id));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut next: Vec<(usize, SampledText)> = Vec::with_capacity(width);
        for (score, row, id) in candidates {
            if next.len() == width {
                break;
            }
            let mut text = beams[row].clone();
            text.log_likelihood = score;
            text.add(id, &sizes);
            match text.ended {
                true => finished.push(text),
                false => next.push((row, text)),
            }
        }
        if last {
            finished.extend(next.drain(..).map(|(_, text)| text));
        }
        finished.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
        finished.truncate(n);
        // A likelihood only falls: what is below the last finished one stays below.
        let worst = finished.get(n - 1).map(|text| text.log_likelihood);
        let best = next.first().map(|(_, text)| text.log_likelihood);
        if [finished.first(), next.first().map(|(_, text)| text)]
            .into_iter()
            .flatten()
            .max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood))
            .is_some_and(|likeliest| watch(likeliest).is_break())
        {
            return Err(Error::Stopped);
        }
        if next.is_empty() || worst.is_some_and(|worst| best.is_some_and(|best| best < worst)) {
            break;
        }
        logits = step(model, &next, place, &mut state)?;
        beams = next.into_iter().map(|(_, text)| text).collect();
    }
    Ok(finished)
}

/// Runs the newest id of each text, whose row in the state is the first of each pair.
fn step<M: TextModel>(
    model: &M,
    texts: &[(usize, SampledText)],
    place: usize,
    state: &mut M::State,
) -> Result<Vec<Vec<f32>>> {
    let rows: Vec<usize> = texts.iter().map(|&(row, _)| row).collect();
    state.select_rows(&rows);
    let newest = texts.iter().filter_map(|(_, text)| text.text_ids.last());
    let newest: Vec<u32> = newest.copied().collect();
    rows_of(model.step_text(&newest, place, state)?)
}

fn check_prefix(prefix: &[u32], sizes: &TextSizes) -> Result<()> {
    match prefix.len() < sizes.length {
        true => Ok(()),
        false => Err(Error::invalid(
            "prefix",
            format!(
                "expected fewer than {} ids, got {}",
                sizes.length,
                prefix.len()
            ),
        )),
    }
}

/// The logits of each row's next id.
fn rows_of(logits: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, vocabulary] = logits.dims();
    let logits = to_host(logits)?;
    if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
        return Err(Error::NonFinite {
            what: "logits",
            detail: format!("the logit of text id {} is {}", at % vocabulary, logits[at]),
        });
    }
    Ok(logits.chunks(vocabulary).map(<[f32]>::to_vec).collect())
}
