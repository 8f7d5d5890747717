//! Captioning: from a canvas whose image ids are known and whose caption is masked, or from the first words of a
//! caption, without an image.
//!
//! Beam search as usual (Graves 2012, arXiv:1211.3711, without length penalty), or sampling from a seed. Padding and
//! the start are never generated; likelihoods are still those of the unrestricted model.
//!
//! What is found is ranked by ln p(caption | picture) + ln p(picture | caption): the model predicts both, and their
//! errors differ. The second is the noisy channel's (Brown et al. 1993).

mod language;

use burn::tensor::Tensor;
use serde::Serialize;

pub use language::Language;

use crate::canvas::{Canvas, Caption};
use crate::checkpoint::Model;
use crate::generate::pair_log_likelihoods;
use crate::models::dalle::{Part, image_part, raster};
use crate::nn::KvCache;
use crate::nn::block::AttentionMask;
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::text::{BOS, EOS, PAD};
use crate::{Error, Result};

/// How captions are found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The likeliest ones, as far as a beam of this many sees.
    Beam {
        /// Captions kept at each step; at least the number of captions requested.
        width: usize,
    },
    /// Drawn; caption number i has the seed `seed + i`. Guidance is not used.
    Sampling {
        /// Temperature and cuts.
        options: SamplingOptions,
        /// Seed of the first one.
        seed: u64,
    },
}

/// A generated caption.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratedCaption {
    /// The words.
    pub text: String,
    /// ln p(caption | picture), its end included, in nats; where captions are drawn without the picture and ranked by
    /// it, among those that were drawn.
    pub log_likelihood: f64,
    /// ln p(picture | caption), in nats, by models that predict both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture_log_likelihood: Option<f64>,
    /// Tokens counted, the end among them.
    pub tokens: usize,
    /// What it was drawn with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// More than anybody reads.
const MAX_CAPTIONS: usize = 256;

/// `n` captions of a canvas with a whole picture, the best first. A beam may find fewer.
pub fn captions(
    model: &Model,
    canvas: &Canvas,
    n: usize,
    search: &Search,
) -> Result<Vec<GeneratedCaption>> {
    captions_in(model, canvas, n, search, None)
}

/// [`captions`] in a language, of those that the model was trained on.
pub fn captions_in(
    model: &Model,
    canvas: &Canvas,
    n: usize,
    search: &Search,
    language: Option<Language>,
) -> Result<Vec<GeneratedCaption>> {
    let config = &model.config.dalle;
    canvas.check(config)?;
    if canvas.caption != Caption::Asked {
        return Err(Error::invalid("caption", "is known, expected a masked one"));
    }
    let Some(image_ids) = canvas.whole() else {
        let reason = "expected all ids to be known: a picture and its caption can't both be masked";
        return Err(Error::invalid("image ids", reason));
    };
    if n == 0 || n > MAX_CAPTIONS {
        let reason = format!("expected 1 to {MAX_CAPTIONS} captions, got {n}");
        return Err(Error::invalid("n", reason));
    }
    let mut decoder = CaptionDecoder::with_image(model, image_ids.clone());
    let allowed = language.map(|language| language.allowed(&model.text));
    decoder.allowed = allowed.transpose()?;
    let candidates = match search {
        Search::Beam { width } => {
            if *width < n || *width > MAX_CAPTIONS {
                let reason =
                    format!("expected {n} (the captions requested) to {MAX_CAPTIONS}, got {width}");
                return Err(Error::invalid("beam", reason));
            }
            decoder.beam(*width, *width)?
        }
        Search::Sampling { options, seed } => decoder.sample(n, options, *seed)?,
    };
    let mut captions = ranked(model, candidates, &image_ids)?;
    captions.truncate(n);
    Ok(captions)
}

/// Adds ln p(picture | caption) to each and sorts, the best first.
fn ranked(
    model: &Model,
    candidates: Vec<Candidate>,
    image_ids: &[u32],
) -> Result<Vec<GeneratedCaption>> {
    let length = model.config.dalle.text_length;
    let filled: Vec<Vec<u32>> = candidates
        .iter()
        .map(|candidate| {
            let mut ids = candidate.text_ids.clone();
            ids.resize(length, PAD);
            ids
        })
        .collect();
    let pictures = vec![image_ids.to_vec(); candidates.len()];
    let of_picture = pair_log_likelihoods(&model.dalle, &filled, &pictures)?;
    let mut captions = Vec::with_capacity(candidates.len());
    for (candidate, of_picture) in candidates.into_iter().zip(of_picture) {
        captions.push(GeneratedCaption {
            picture_log_likelihood: Some(of_picture),
            ..candidate.caption(model, 1)?
        });
    }
    let score = |candidate: &GeneratedCaption| {
        candidate.log_likelihood + candidate.picture_log_likelihood.unwrap_or(0.0)
    };
    captions.sort_by(|a, b| score(b).total_cmp(&score(a)));
    Ok(captions)
}

/// A request to continue a caption by sampling; number i has the seed `seed + i`. Guidance is not used.
#[derive(Clone, Debug)]
pub struct ContinueRequest {
    /// Its first words; empty for whole captions.
    pub beginning: String,
    /// Captions.
    pub n: usize,
    /// Seed of the first one.
    pub seed: u64,
    /// Temperature and cuts.
    pub sampling: SamplingOptions,
}

impl ContinueRequest {
    /// The seeds, once their number is known to be possible.
    pub(crate) fn seeds(&self) -> Result<Vec<u64>> {
        if self.n == 0 || self.n > MAX_CAPTIONS {
            let reason = format!("expected 1 to {MAX_CAPTIONS} captions, got {}", self.n);
            return Err(Error::invalid("n", reason));
        }
        let seeds = 0..self.n as u64;
        Ok(seeds.map(|i| self.seed.wrapping_add(i)).collect())
    }
}

/// Captions with a common prefix, in the order of their seeds; their likelihood is that of the generated ids.
pub fn continuations(model: &Model, request: &ContinueRequest) -> Result<Vec<GeneratedCaption>> {
    request.seeds()?;
    let limit = model.config.dalle.text_length;
    let mut prefix = vec![BOS];
    // An empty text has no ids of its own.
    if !request.beginning.trim().is_empty() {
        prefix.extend(model.text.encode(&request.beginning)?);
    }
    if prefix.len() >= limit {
        return Err(Error::CaptionTooLong {
            tokens: prefix.len() + 1,
            limit,
            caption: crate::text::shortened(&request.beginning),
        });
    }
    let known = prefix.len();
    let decoder = CaptionDecoder::text_only(model, prefix);
    let mut candidates = decoder.sample(request.n, &request.sampling, request.seed)?;
    candidates.sort_by_key(|candidate| candidate.seed.map(|seed| seed.wrapping_sub(request.seed)));
    candidates
        .into_iter()
        .map(|candidate| candidate.caption(model, known))
        .collect()
}

/// A partial caption, its start included.
#[derive(Clone, Debug)]
struct Candidate {
    text_ids: Vec<u32>,
    log_likelihood: f64,
    seed: Option<u64>,
}

impl Candidate {
    /// Without counting the first `known` ids, which were given.
    fn caption(self, model: &Model, known: usize) -> Result<GeneratedCaption> {
        Ok(GeneratedCaption {
            text: model.text.decode(&self.text_ids)?,
            log_likelihood: self.log_likelihood,
            picture_log_likelihood: None,
            tokens: self.text_ids.len() - known,
            seed: self.seed,
        })
    }
}

/// A transformer whose caches hold the image and the captions so far, with each row's last state.
struct CaptionDecoder<'a> {
    model: &'a Model,
    /// The start and the prefix after it.
    known: Vec<u32>,
    caches: Vec<KvCache>,
    states: Tensor<3>,
    /// Ids that may be generated; all of them where nothing is given.
    allowed: Option<Vec<bool>>,
}

impl<'a> CaptionDecoder<'a> {
    /// Whether an id may be part of a caption.
    fn allows(&self, id: u32) -> bool {
        let allowed = self.allowed.as_ref();
        id != PAD && id != BOS && allowed.is_none_or(|allowed| allowed[id as usize])
    }

    fn with_image(model: &'a Model, image_ids: Vec<u32>) -> Self {
        let config = &model.config.dalle;
        let order = raster(config.image_length());
        let image = image_part(&[image_ids], &[order], config.codebook_size, true);
        let start = Part::Text {
            ids: vec![BOS],
            start: 0,
        };
        let mut caches = model.dalle.caches();
        let states =
            model
                .dalle
                .forward(&[image, start], 1, Some(&mut caches), AttentionMask::Causal);
        CaptionDecoder::from_states(model, vec![BOS], caches, states)
    }

    /// Without an image, after `known`.
    fn text_only(model: &'a Model, known: Vec<u32>) -> Self {
        let text = Part::Text {
            ids: known.clone(),
            start: 0,
        };
        let mut caches = model.dalle.caches();
        let states = model
            .dalle
            .forward(&[text], 1, Some(&mut caches), AttentionMask::Causal);
        CaptionDecoder::from_states(model, known, caches, states)
    }

    fn from_states(
        model: &'a Model,
        known: Vec<u32>,
        caches: Vec<KvCache>,
        states: Tensor<3>,
    ) -> Self {
        let [_, seq, _] = states.dims();
        CaptionDecoder {
            model,
            known,
            caches,
            states: states.narrow(1, seq - 1, 1),
            allowed: None,
        }
    }

    /// The logits of each row's next id.
    fn logits(&self) -> Result<Vec<Vec<f32>>> {
        let vocab = self.model.config.dalle.text_vocab_size;
        let logits: Vec<f32> = self
            .model
            .dalle
            .text_logits(self.states.clone())
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(Error::NonFinite {
                what: "logits",
                detail: format!("the logit of text id {} is {}", at % vocab, logits[at]),
            });
        }
        Ok(logits.chunks(vocab).map(<[f32]>::to_vec).collect())
    }

    /// Continues `rows` of the batch, each with its next id, which is at position `place`.
    fn step(&mut self, rows: &[usize], ids: Vec<u32>, place: usize) {
        for cache in &mut self.caches {
            cache.select_rows(rows);
        }
        let text = Part::Text { ids, start: place };
        self.states = self.model.dalle.forward(
            &[text],
            rows.len(),
            Some(&mut self.caches),
            AttentionMask::Causal,
        );
    }

    fn beam(mut self, n: usize, width: usize) -> Result<Vec<Candidate>> {
        let limit = self.model.config.dalle.text_length;
        let mut beams = vec![Candidate {
            text_ids: vec![BOS],
            log_likelihood: 0.0,
            seed: None,
        }];
        let mut finished: Vec<Candidate> = Vec::new();
        for place in 1..limit {
            // (score, row, id), the best first; equals by row and id, so that the result is always the same.
            let mut next = Vec::new();
            for (row, logits) in self.logits()?.iter().enumerate() {
                // One pass over the row for its sum; `log_prob` of each id would take one each.
                let base = log_prob(logits, 0) - f64::from(logits[0]);
                for (id, &logit) in logits.iter().enumerate() {
                    let id = id as u32;
                    // The last place is the end's.
                    if self.allows(id) && (place + 1 < limit || id == EOS) {
                        let score = beams[row].log_likelihood + f64::from(logit) + base;
                        next.push((score, row, id));
                    }
                }
            }
            next.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let (mut rows, mut going) = (Vec::new(), Vec::new());
            for (score, row, id) in next {
                if going.len() == width {
                    break;
                }
                let mut candidate = beams[row].clone();
                candidate.text_ids.push(id);
                candidate.log_likelihood = score;
                if id == EOS {
                    finished.push(candidate);
                } else {
                    rows.push(row);
                    going.push(candidate);
                }
            }
            finished.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
            finished.truncate(n);
            // A likelihood only falls: what is below the last finished one stays below.
            let worst = finished
                .get(n - 1)
                .map(|candidate| candidate.log_likelihood);
            let best = going.first().map(|candidate| candidate.log_likelihood);
            if going.is_empty() || worst.is_some_and(|worst| best.is_some_and(|best| best < worst))
            {
                break;
            }
            let ids = going
                .iter()
                .filter_map(|candidate| candidate.text_ids.last().copied());
            self.step(&rows, ids.collect(), place);
            beams = going;
        }
        Ok(finished)
    }

    fn sample(mut self, n: usize, options: &SamplingOptions, seed: u64) -> Result<Vec<Candidate>> {
        let limit = self.model.config.dalle.text_length;
        let options = SamplingOptions {
            guidance_scale: 1.0,
            ..options.clone()
        };
        options.validate()?;
        let mut going: Vec<Candidate> = (0..n as u64)
            .map(|i| Candidate {
                text_ids: self.known.clone(),
                log_likelihood: 0.0,
                seed: Some(seed.wrapping_add(i)),
            })
            .collect();
        // Before the first id all share one row.
        let mut rows = vec![0; n];
        let mut finished = Vec::new();
        for place in self.known.len()..limit {
            let logits = self.logits()?;
            let mut next = Vec::new();
            let mut next_rows = Vec::new();
            for (mut candidate, &row) in going.into_iter().zip(&rows) {
                let mut allowed = logits[row].clone();
                for (id, logit) in (0..).zip(&mut allowed) {
                    if !self.allows(id) {
                        // The sampler refuses what is not finite; e^-1e30 is 0 all the same.
                        *logit = -1e30;
                    }
                }
                let id = if place + 1 == limit {
                    EOS
                } else {
                    let seed = candidate.seed.unwrap_or_default();
                    Sampler::new(&options, seed)
                        .sample(&allowed, None, place as u64)?
                        .id
                };
                candidate.text_ids.push(id);
                candidate.log_likelihood += log_prob(&logits[row], id as usize);
                if id == EOS {
                    finished.push(candidate);
                } else {
                    next_rows.push(row);
                    next.push(candidate);
                }
            }
            if next.is_empty() {
                break;
            }
            let ids = next
                .iter()
                .filter_map(|candidate| candidate.text_ids.last().copied());
            self.step(&next_rows, ids.collect(), place);
            rows = (0..next.len()).collect();
            going = next;
        }
        Ok(finished)
    }
}
