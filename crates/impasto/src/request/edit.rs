//! Parts of a picture drawn anew.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Request, SamplingOverrides, upscale};
use crate::canvas::Conditioning;
use crate::edit::{self, Area, EditRequest, Edited, Mask, Region};
use crate::image::Original;
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::Observer;
use crate::provenance::{Settings, version};
use crate::rank::{self, Ranker};
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::upscale::Upscaler;
use crate::{Error, Result};

/// A request to draw parts of a picture anew: holes, damage, what lies beyond its sides, all below some rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// What the whole picture shows; without a prompt the surroundings alone decide.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What is drawn.
    #[serde(default)]
    pub region: Region,
    /// Candidates. Number i has the seed `seed + i`.
    #[serde(default = "one")]
    pub n: usize,
    /// Seed of the first candidate.
    pub seed: u64,
    /// Guidance, temperature, cuts, in the place of the model's own.
    #[serde(default)]
    pub sampling: SamplingOverrides,
    /// What guidance leads away from, in the place of the model's caption of nothing in particular.
    #[serde(default)]
    pub negative_prompt: Option<String>,
    /// In which order, and how many at a time, ids are sampled; the model's own if not given.
    #[serde(default)]
    pub order: Option<Order>,
    /// Fillings of each window for each candidate, of which the best is taken; [`edit::TRIES`], or what the model is
    /// usually edited with, if not given.
    #[serde(default)]
    pub tries: Option<usize>,
    /// Side of the windows in pixels of the picture; by the hole's thickness if not given.
    #[serde(default)]
    pub window: Option<usize>,
    /// What is done with a prompt that is too long: refused, cut, or read in chunks.
    #[serde(default)]
    pub long: LongCaption,
    /// How many times as large finished images become; needs an `upscaler`.
    #[serde(default)]
    pub upscale: Option<usize>,
    /// The picture, of any size.
    #[serde(skip)]
    pub image: Option<Arc<Original>>,
    /// A CLIP that ranks tries and candidates, too, where there is a prompt.
    #[serde(skip)]
    pub ranker: Option<Arc<Ranker>>,
    /// The network that enlarges finished images.
    #[serde(skip)]
    pub upscaler: Option<Arc<Upscaler>>,
}

fn one() -> usize {
    1
}

/// What came of an [`Edit`].
#[derive(Clone, Debug)]
pub struct EditOutcome {
    /// The picture, extended where it was outpainted.
    pub original: Original,
    /// What was drawn.
    pub mask: Mask,
    /// The colour of damage that was found.
    pub damage: Option<[u8; 3]>,
    /// The candidates, the best first.
    pub candidates: Vec<EditCandidate>,
    /// The windows that were shown to the model, in pixels of the picture.
    pub windows: Vec<Area>,
    /// The sampling options that were used.
    pub sampling: SamplingOptions,
    /// The order that was used.
    pub order: Order,
    /// How known ids conditioned the model.
    pub conditioning: Conditioning,
}

/// A candidate.
#[derive(Clone, Debug)]
pub struct EditCandidate {
    /// What was drawn.
    pub edited: Edited,
    /// Cosine of picture and prompt, where a CLIP ranked.
    pub clip_score: Option<f32>,
}

impl EditOutcome {
    /// The picture with a candidate in its hole; all other pixels are as they were.
    pub fn image(&self, candidate: &EditCandidate) -> Original {
        let mut picture = self.original.clone();
        candidate.edited.apply(&mut picture, &self.mask);
        picture
    }
}

impl Edit {
    /// One candidate of a region of a picture, with the model's own settings.
    pub fn new(image: Original, region: Region, seed: u64) -> Self {
        Edit {
            prompt: None,
            region,
            n: 1,
            seed,
            sampling: SamplingOverrides::default(),
            negative_prompt: None,
            order: None,
            tries: None,
            window: None,
            long: LongCaption::default(),
            upscale: None,
            image: Some(Arc::new(image)),
            ranker: None,
            upscaler: None,
        }
    }

    /// The picture with a candidate of an outcome of this request in its hole, enlarged where that was requested.
    ///
    /// # Errors
    /// [`Error::Stopped`] where `observer` stops it.
    pub fn finished(
        &self,
        outcome: &EditOutcome,
        candidate: &EditCandidate,
        observer: &mut dyn Observer,
    ) -> Result<Original> {
        let picture = outcome.image(candidate);
        upscale::enlarged(picture, (self.upscale, self.upscaler.as_deref()), observer)
    }
}

impl EditOutcome {
    /// How a candidate was drawn, for the file of its picture; what comes after the drawing is left open.
    pub fn settings(
        &self,
        request: &Edit,
        candidate: &EditCandidate,
        (model, licence): (&str, Option<&str>),
        picture: &Original,
    ) -> Settings {
        Settings {
            prompt: request.prompt.clone().unwrap_or_default(),
            negative_prompt: request.negative_prompt.clone(),
            seed: candidate.edited.seed,
            sampling: self.sampling.clone(),
            order: self.order,
            steps: candidate.edited.tokens,
            model: model.to_owned(),
            width: picture.width(),
            height: picture.height(),
            clip_score: candidate.clip_score,
            upscale: None,
            safety: None,
            licence: licence.map(str::to_owned),
            version: version(),
        }
    }
}

impl Request<Model> for Edit {
    type Outcome = EditOutcome;

    fn validate(&self) -> Result<()> {
        if self.image.is_none() {
            return Err(Error::invalid("image", "expected one, got none"));
        }
        upscale::check(self.upscale, self.upscaler.as_deref())?;
        self.sampling.validate()
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<EditOutcome> {
        let Some(image) = &self.image else {
            return Err(Error::invalid("image", "expected one, got none"));
        };
        let generator = model.generator()?;
        let found = self.region.of(Original::clone(image), model.grid())?;
        let ranker = self.ranker.as_deref();
        let request = EditRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            n: self.n,
            seed: self.seed,
            sampling: self.sampling.over(generator.sampling()),
            order: self.order.unwrap_or(generator.order()),
            conditioning: generator.conditioning(),
            tries: self.tries.unwrap_or(generator.tries()),
            ranker,
            window: self.window.or(found.window),
            long: self.long,
        };
        let edits = edit::edit(model, &found.original, &found.mask, &request, observer)?;
        let mut outcome = EditOutcome {
            original: found.original,
            mask: found.mask,
            damage: found.damage,
            windows: edits.windows,
            sampling: request.sampling,
            order: request.order,
            conditioning: request.conditioning,
            candidates: Vec::new(),
        };
        let candidates = edits.candidates.into_iter().map(|edited| EditCandidate {
            edited,
            clip_score: None,
        });
        outcome.candidates = candidates.collect();
        if let (Some(ranker), Some(prompt)) = (ranker, &self.prompt) {
            outcome.rank(ranker, prompt)?;
        }
        Ok(outcome)
    }
}

impl EditOutcome {
    /// Orders the candidates by the sum of their ranks by score and by what the CLIP says.
    fn rank(&mut self, ranker: &Ranker, prompt: &str) -> Result<()> {
        let prompt = [prompt.to_owned()];
        let mut cosines: Vec<f32> = Vec::with_capacity(self.candidates.len());
        for candidate in &self.candidates {
            // One by one: a photograph of each would take much memory.
            let picture = self.image(candidate);
            let picture = picture.region(0, 0, picture.width(), picture.height());
            let scores = ranker.score(&prompt, &[picture], LongCaption::Truncate)?;
            cosines.push(scores.cosine(0, 0));
        }
        let scores = self
            .candidates
            .iter()
            .map(|candidate| candidate.edited.score());
        let scores: Vec<f64> = scores.collect();
        let best = rank::rank_sum(&[scores, cosines.iter().copied().map(f64::from).collect()]);
        let candidates = best.into_iter().map(|index| EditCandidate {
            clip_score: Some(cosines[index]),
            ..self.candidates[index].clone()
        });
        self.candidates = candidates.collect();
        Ok(())
    }
}
