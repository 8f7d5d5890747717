//! Words from a picture: a canvas whose ids are known and whose caption is asked for. And words from their beginning,
//! without a picture.
//!
//! Beam search as usual (Graves 2012, arXiv:1211.3711, without length penalty), or drawing from a seed. Padding and the
//! start are never told; likelihoods are the model's own all the same.
//!
//! What is found is ranked by ln p(caption | picture) + ln p(picture | caption): the model tells both, and each is wrong
//! where the other need not be. The second is the noisy channel's (Brown et al. 1993).

use burn::tensor::Tensor;
use serde::Serialize;

use crate::canvas::{Canvas, Caption};
use crate::checkpoint::Model;
use crate::generate::pair_log_likelihoods;
use crate::models::dalle::{Part, image_part, raster};
use crate::nn::KvCache;
use crate::nn::block::Sight;
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::text::{BOS, EOS, PAD};
use crate::{Error, Result};

/// How captions are found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The likeliest ones, as far as a beam of this many sees.
    Beam {
        /// Captions kept at each step; at least as many as are asked for.
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

/// A caption that the model told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToldCaption {
    /// The words.
    pub text: String,
    /// ln p(caption | picture), its end included, in nats; where captions are drawn without the picture and ranked by
    /// it, among those that were drawn.
    pub log_likelihood: f64,
    /// ln p(picture | caption), in nats, by models that tell both.
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
) -> Result<Vec<ToldCaption>> {
    let config = &model.config.dalle;
    canvas.check(config)?;
    if canvas.caption != Caption::Asked {
        return Err(Error::invalid(
            "caption",
            "is known, expected one that is asked for",
        ));
    }
    let Some(image_ids) = canvas.whole() else {
        let reason =
            "expected all ids to be known: a picture and its words can't both be asked for";
        return Err(Error::invalid("image ids", reason));
    };
    if n == 0 || n > MAX_CAPTIONS {
        let reason = format!("expected 1 to {MAX_CAPTIONS} captions, got {n}");
        return Err(Error::invalid("n", reason));
    }
    let telling = Telling::begin(model, image_ids.clone());
    let told = match search {
        Search::Beam { width } => {
            if *width < n || *width > MAX_CAPTIONS {
                let reason =
                    format!("expected {n} (the captions asked for) to {MAX_CAPTIONS}, got {width}");
                return Err(Error::invalid("beam", reason));
            }
            telling.beam(*width, *width)?
        }
        Search::Sampling { options, seed } => telling.sample(n, options, *seed)?,
    };
    let mut captions = ranked(model, told, &image_ids)?;
    captions.truncate(n);
    Ok(captions)
}

/// With how well the picture goes with each, the best first.
fn ranked(model: &Model, told: Vec<Told>, image_ids: &[u32]) -> Result<Vec<ToldCaption>> {
    let length = model.config.dalle.text_length;
    let filled: Vec<Vec<u32>> = told
        .iter()
        .map(|told| {
            let mut ids = told.text_ids.clone();
            ids.resize(length, PAD);
            ids
        })
        .collect();
    let pictures = vec![image_ids.to_vec(); told.len()];
    let of_picture = pair_log_likelihoods(&model.dalle, &filled, &pictures)?;
    let mut captions = Vec::with_capacity(told.len());
    for (told, of_picture) in told.into_iter().zip(of_picture) {
        captions.push(ToldCaption {
            picture_log_likelihood: Some(of_picture),
            ..told.caption(model, 1)?
        });
    }
    let score =
        |told: &ToldCaption| told.log_likelihood + told.picture_log_likelihood.unwrap_or(0.0);
    captions.sort_by(|a, b| score(b).total_cmp(&score(a)));
    Ok(captions)
}

/// What a caption may go on with, drawn; number i has the seed `seed + i`. Guidance is not used.
#[derive(Clone, Debug)]
pub struct ContinueRequest {
    /// Its first words; none ask for whole captions.
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

/// Captions with one beginning, in the order of their seeds; their likelihood is that of what was told.
pub fn continuations(model: &Model, request: &ContinueRequest) -> Result<Vec<ToldCaption>> {
    request.seeds()?;
    let limit = model.config.dalle.text_length;
    let mut told = vec![BOS];
    // An empty text has no ids of its own.
    if !request.beginning.trim().is_empty() {
        told.extend(model.text.encode(&request.beginning)?);
    }
    if told.len() >= limit {
        return Err(Error::CaptionTooLong {
            tokens: told.len() + 1,
            limit,
            caption: crate::text::shortened(&request.beginning),
        });
    }
    let known = told.len();
    let telling = Telling::go_on(model, told);
    let mut told = telling.sample(request.n, &request.sampling, request.seed)?;
    told.sort_by_key(|told| told.seed.map(|seed| seed.wrapping_sub(request.seed)));
    told.into_iter()
        .map(|told| told.caption(model, known))
        .collect()
}

/// A caption so far, from its start on.
#[derive(Clone, Debug)]
struct Told {
    text_ids: Vec<u32>,
    log_likelihood: f64,
    seed: Option<u64>,
}

impl Told {
    /// Without counting the first `known` ids, which were not asked for.
    fn caption(self, model: &Model, known: usize) -> Result<ToldCaption> {
        Ok(ToldCaption {
            text: model.text.decode(&self.text_ids)?,
            log_likelihood: self.log_likelihood,
            picture_log_likelihood: None,
            tokens: self.text_ids.len() - known,
            seed: self.seed,
        })
    }
}

/// A picture in the caches, with the logits of the caption's next id for each row.
struct Telling<'a> {
    model: &'a Model,
    /// The start, and what is known behind it.
    known: Vec<u32>,
    caches: Vec<KvCache>,
    states: Tensor<3>,
}

impl<'a> Telling<'a> {
    fn begin(model: &'a Model, image_ids: Vec<u32>) -> Self {
        let config = &model.config.dalle;
        let order = raster(config.image_length());
        let image = image_part(&[image_ids], &[order], config.codebook_size, true);
        let start = Part::Text {
            ids: vec![BOS],
            start: 0,
        };
        let mut caches = model.dalle.caches();
        let states = model
            .dalle
            .forward(&[image, start], 1, Some(&mut caches), Sight::Causal);
        Telling::after(model, vec![BOS], caches, states)
    }

    /// Without a picture, behind `known`.
    fn go_on(model: &'a Model, known: Vec<u32>) -> Self {
        let text = Part::Text {
            ids: known.clone(),
            start: 0,
        };
        let mut caches = model.dalle.caches();
        let states = model
            .dalle
            .forward(&[text], 1, Some(&mut caches), Sight::Causal);
        Telling::after(model, known, caches, states)
    }

    fn after(model: &'a Model, known: Vec<u32>, caches: Vec<KvCache>, states: Tensor<3>) -> Self {
        let [_, seq, _] = states.dims();
        Telling {
            model,
            known,
            caches,
            states: states.narrow(1, seq - 1, 1),
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

    /// Goes on with `rows` of the batch, each with its next id, which stands at `place`.
    fn tell(&mut self, rows: &[usize], ids: Vec<u32>, place: usize) {
        for cache in &mut self.caches {
            cache.select_rows(rows);
        }
        let text = Part::Text { ids, start: place };
        self.states =
            self.model
                .dalle
                .forward(&[text], rows.len(), Some(&mut self.caches), Sight::Causal);
    }

    fn beam(mut self, n: usize, width: usize) -> Result<Vec<Told>> {
        let limit = self.model.config.dalle.text_length;
        let mut beams = vec![Told {
            text_ids: vec![BOS],
            log_likelihood: 0.0,
            seed: None,
        }];
        let mut finished: Vec<Told> = Vec::new();
        for place in 1..limit {
            // (score, row, id), the best first; equals by row and id, so that the result is always the same.
            let mut next = Vec::new();
            for (row, logits) in self.logits()?.iter().enumerate() {
                // One pass over the row for its sum; `log_prob` of each id would take one each.
                let base = log_prob(logits, 0) - f64::from(logits[0]);
                for (id, &logit) in logits.iter().enumerate() {
                    let id = id as u32;
                    // The last place is the end's.
                    if id != PAD && id != BOS && (place + 1 < limit || id == EOS) {
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
                let mut told = beams[row].clone();
                told.text_ids.push(id);
                told.log_likelihood = score;
                if id == EOS {
                    finished.push(told);
                } else {
                    rows.push(row);
                    going.push(told);
                }
            }
            finished.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
            finished.truncate(n);
            // A likelihood only falls: what is behind the last finished one stays behind.
            let worst = finished.get(n - 1).map(|told| told.log_likelihood);
            let best = going.first().map(|told| told.log_likelihood);
            if going.is_empty() || worst.is_some_and(|worst| best.is_some_and(|best| best < worst))
            {
                break;
            }
            let ids = going
                .iter()
                .filter_map(|told| told.text_ids.last().copied());
            self.tell(&rows, ids.collect(), place);
            beams = going;
        }
        Ok(finished)
    }

    fn sample(mut self, n: usize, options: &SamplingOptions, seed: u64) -> Result<Vec<Told>> {
        let limit = self.model.config.dalle.text_length;
        let options = SamplingOptions {
            guidance_scale: 1.0,
            ..options.clone()
        };
        options.validate()?;
        let mut going: Vec<Told> = (0..n as u64)
            .map(|i| Told {
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
            for (mut told, &row) in going.into_iter().zip(&rows) {
                let mut allowed = logits[row].clone();
                for banned in [PAD, BOS] {
                    // The sampler refuses what is not finite; e^-1e30 is 0 all the same.
                    allowed[banned as usize] = -1e30;
                }
                let id = if place + 1 == limit {
                    EOS
                } else {
                    let seed = told.seed.unwrap_or_default();
                    Sampler::new(&options, seed)
                        .sample(&allowed, None, place as u64)?
                        .id
                };
                told.text_ids.push(id);
                told.log_likelihood += log_prob(&logits[row], id as usize);
                if id == EOS {
                    finished.push(told);
                } else {
                    next_rows.push(row);
                    next.push(told);
                }
            }
            if next.is_empty() {
                break;
            }
            let ids = next.iter().filter_map(|told| told.text_ids.last().copied());
            self.tell(&next_rows, ids.collect(), place);
            rows = (0..next.len()).collect();
            going = next;
        }
        Ok(finished)
    }
}
