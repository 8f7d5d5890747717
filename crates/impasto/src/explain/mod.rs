//! Why a picture looks as it does: which patches each word of the prompt shaped, how unsure the model was of each patch,
//! and which codes it nearly took.
//!
//! A word's map is what changes in the model's predictions when the word is left out of the prompt ([`Method`]). That needs
//! nothing of a model but its predictions, so it works for every family; docs/trust.md has the measurements by which the
//! default was chosen.

mod atlas;
mod clip;
mod heat;
mod page;
mod words;

use std::ops::{ControlFlow, Range};

use serde::{Deserialize, Serialize};

pub use atlas::{Atlas, atlas};
pub(crate) use clip::meeting;
pub use clip::{ClipExplanation, ClipWord, clip_relevance, load_clip, resized_map};
pub use heat::heat_map;
pub use page::page;
pub use words::{without, words};

use crate::engine::{ImageContext, Predictions};
use crate::families::{AttentionRule, Condition, Conditioned, PromptText};
use crate::model::Model;
use crate::models::dalle::{raster, shuffled};
use crate::random::RandomStream;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// How the map of a word is computed. In the first four, the word is left out of the prompt, and the predictions at each
/// patch of the same picture are compared with those under the whole prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// ln p(patch | prompt) − ln p(patch | prompt without the word), in nats, given the patches before it in raster order.
    Likelihood,
    /// Likewise, averaged over four random orders of the patches: for models that know any order.
    LikelihoodOrders,
    /// The Jensen-Shannon divergence of what the model predicts with and without the word, in nats, in raster order.
    Divergence,
    /// Likewise, averaged over four random orders.
    DivergenceOrders,
    /// The attention of the prediction to the word, the mean over layers and heads.
    Attention,
    /// Attention rollout; see [`AttentionRule::Rollout`].
    Rollout,
    /// Attention by the gradient of the picture's likelihood; see [`AttentionRule::Gradient`].
    Gradient,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 7] = [
        Method::Likelihood,
        Method::LikelihoodOrders,
        Method::Divergence,
        Method::DivergenceOrders,
        Method::Attention,
        Method::Rollout,
        Method::Gradient,
    ];

    /// The best one that a model can do, by measurement.
    pub fn best_of(model: &Model) -> Self {
        match model.is_any_order() {
            true => Method::DivergenceOrders,
            false => Method::Divergence,
        }
    }

    /// Its name, as `serde` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Likelihood => "likelihood",
            Method::LikelihoodOrders => "likelihood-orders",
            Method::Divergence => "divergence",
            Method::DivergenceOrders => "divergence-orders",
            Method::Attention => "attention",
            Method::Rollout => "rollout",
            Method::Gradient => "gradient",
        }
    }

    fn rule(self) -> Option<AttentionRule> {
        match self {
            Method::Attention => Some(AttentionRule::Mean),
            Method::Rollout => Some(AttentionRule::Rollout),
            Method::Gradient => Some(AttentionRule::Gradient),
            _ => None,
        }
    }

    /// Whether it averages over random orders.
    fn has_orders(self) -> bool {
        matches!(self, Method::LikelihoodOrders | Method::DivergenceOrders)
    }

    /// Returns an error that says why a model can't do it.
    pub fn check(self, model: &Model) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("method", reason));
        if self.rule().is_some() && model.attentive().is_none() {
            return bad(format!(
                "{} reads the attention of impasto's own models only, expected likelihood or divergence for {}",
                self.name(),
                model.name()
            ));
        }
        if self.has_orders() && !model.is_any_order() {
            return bad(format!(
                "{} needs a model that knows any order, expected likelihood or divergence for {}",
                self.name(),
                model.name()
            ));
        }
        Ok(())
    }
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Method::ALL.into_iter().find(|method| method.name() == text);
        found.ok_or_else(|| {
            let names = Method::ALL.map(Method::name).join(", ");
            Error::invalid("method", format!("expected one of {names}, got \"{text}\""))
        })
    }
}

/// A word of the prompt and the patches that it shaped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WordMap {
    /// The word.
    pub word: String,
    /// Its bytes in the prompt.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
    /// Of each patch, row-major: how much the word counts there, by the method.
    pub map: Vec<f64>,
}

impl WordMap {
    /// The patch with the largest value; of equal ones the first.
    pub fn strongest(&self) -> usize {
        strongest(&self.map)
    }
}

/// The place of the largest value; of equal ones the first.
pub fn strongest(map: &[f64]) -> usize {
    let better = |best: usize, (place, value): (usize, &f64)| match *value > map[best] {
        true => place,
        false => best,
    };
    map.iter().enumerate().fold(0, better)
}

/// A code and how likely it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// The id in the codebook.
    pub id: u32,
    /// Its probability.
    pub probability: f64,
}

/// What the model predicted at a patch: given the prompt and the patches before it in raster order, without guidance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Patch {
    /// The id in the picture.
    pub id: u32,
    /// Its probability.
    pub probability: f64,
    /// How unsure the model was, in nats.
    pub entropy: f64,
    /// The likeliest other ids, the likeliest first.
    pub alternatives: Vec<Alternative>,
}

/// Why a picture looks as it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The model's name.
    pub model: String,
    /// The prompt.
    pub prompt: String,
    /// How the maps of words were computed.
    pub method: Method,
    /// Patches along a side.
    pub grid: usize,
    /// ln p(picture | prompt) in nats, in raster order.
    pub log_likelihood: f64,
    /// The prompt's words.
    pub words: Vec<WordMap>,
    /// The picture's patches, row-major.
    pub patches: Vec<Patch>,
    /// What a CLIP says of the same picture and prompt, where one was asked ([`clip_relevance`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipExplanation>,
}

/// Alternatives of each patch.
pub const ALTERNATIVES: usize = 4;

/// Random orders over which maps are averaged.
const ORDERS: usize = 4;

/// The longest prompt that is explained: each word costs a pass over the picture.
const MAX_WORDS: usize = 256;

/// Explains an image of these ids. `watch` gets the words done and to do, and may stop.
///
/// # Errors
/// A prompt that the model can't read, or without a word, ids that are no image of it, a method that it can't do, and
/// [`Error::Stopped`].
pub fn explain(
    model: &Model,
    prompt: &str,
    image_ids: &[u32],
    method: Method,
    long: LongCaption,
    watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Explanation> {
    method.check(model)?;
    let spans = words(prompt);
    if spans.is_empty() || spans.len() > MAX_WORDS {
        let reason = format!("expected 1 to {MAX_WORDS} words, got {}", spans.len());
        return Err(Error::invalid("prompt", reason));
    }
    let read = read(model, Some(prompt), long)?;
    let order = raster(image_ids.len());
    let before = ImageContext::Before(&order);
    let predicted = read.predictions(Condition::Prompt, image_ids, before)?;
    let patches = patches(&predicted, image_ids);
    let log_likelihood = patches.iter().map(|patch| patch.probability.ln()).sum();
    let maps = maps(model, prompt, &spans, image_ids, method, long, watch)?;
    let words = spans.into_iter().zip(maps).map(|(span, map)| WordMap {
        word: prompt[span.clone()].to_owned(),
        start: span.start,
        end: span.end,
        map,
    });
    Ok(Explanation {
        model: model.name().to_owned(),
        prompt: prompt.to_owned(),
        method,
        grid: model.grid(),
        log_likelihood,
        words: words.collect(),
        patches,
        clip: None,
    })
}

fn read<'a>(
    model: &'a Model,
    prompt: Option<&str>,
    long: LongCaption,
) -> Result<Box<dyn Conditioned + 'a>> {
    model.generator()?.read(PromptText {
        prompt,
        negative: None,
        long,
    })
}

/// The maps of parts of a prompt: of words, or of phrases.
///
/// # Shapes
/// - returns: `[spans][positions]`
pub fn maps(
    model: &Model,
    prompt: &str,
    spans: &[Range<usize>],
    image_ids: &[u32],
    method: Method,
    long: LongCaption,
    watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<f64>>> {
    method.check(model)?;
    if let (Some(rule), Some(attentive)) = (method.rule(), model.attentive()) {
        return attentive.attention_maps(prompt, spans, image_ids, rule);
    }
    let positions = image_ids.len();
    let orders: Vec<Vec<u32>> = match method.has_orders() {
        false => vec![raster(positions)],
        true => {
            // The same for every picture, so that a picture is explained alike each time.
            let mut random = RandomStream::EntropyOrders.of(0);
            (0..ORDERS)
                .map(|_| shuffled(positions, &mut random))
                .collect()
        }
    };
    let predict = |text: &str| -> Result<Vec<Predictions>> {
        // Without its only word a prompt is none.
        let prompt = (!text.trim().is_empty()).then_some(text);
        let read = read(model, prompt, long)?;
        let under = |order: &Vec<u32>| {
            read.predictions(Condition::Prompt, image_ids, ImageContext::Before(order))
        };
        orders.iter().map(under).collect()
    };
    let whole = predict(prompt)?;
    let mut maps = Vec::with_capacity(spans.len());
    for span in spans {
        if watch(maps.len(), spans.len()).is_break() {
            return Err(Error::Stopped);
        }
        let others = predict(&without(prompt, span))?;
        let at = |position: usize| -> f64 {
            let pairs = whole.iter().zip(&others);
            let of = pairs.map(|(with, without)| match method {
                Method::Divergence | Method::DivergenceOrders => with.divergence(without, position),
                _ => with.gain(without, position, image_ids[position]),
            });
            of.sum::<f64>() / orders.len() as f64
        };
        maps.push((0..positions).map(at).collect());
    }
    Ok(maps)
}

fn patches(predicted: &Predictions, image_ids: &[u32]) -> Vec<Patch> {
    let patch = |(position, &id): (usize, &u32)| {
        let probability = |id: u32| f64::from(predicted.at(position)[id as usize]).exp();
        let likeliest = predicted.likeliest(position, ALTERNATIVES + 1);
        let others = likeliest.into_iter().filter(|&other| other != id);
        let alternatives = others.take(ALTERNATIVES).map(|id| Alternative {
            id,
            probability: probability(id),
        });
        Patch {
            id,
            probability: probability(id),
            entropy: predicted.entropy(position),
            alternatives: alternatives.collect(),
        }
    };
    image_ids.iter().enumerate().map(patch).collect()
}
