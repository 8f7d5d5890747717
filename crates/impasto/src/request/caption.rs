//! Captions of a picture.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Request, SamplingOverrides};
use crate::families::{GeneratedCaption, Language, Search};
use crate::image::Image;
use crate::model::Model;
use crate::observer::Observer;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// A request for captions of a picture: the likeliest are searched, or captions are sampled and ranked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    /// Captions, the best first; there may be fewer.
    #[serde(default = "one")]
    pub n: usize,
    /// Captions that a beam search keeps at each step; the model's own number (8, 1 for Janus), or `n` if that is more.
    #[serde(default)]
    pub beam: Option<usize>,
    /// Sample captions instead of searching for the likeliest.
    #[serde(default)]
    pub sample: bool,
    /// Sample this many and keep the `n` best; `n`, or 16 for models whose captions come before images.
    #[serde(default)]
    pub best_of: Option<usize>,
    /// Seed of the first sampled one.
    #[serde(default)]
    pub seed: u64,
    /// Temperature and cuts of sampled ones, in the place of the model's own. Guidance is not used.
    #[serde(default)]
    pub sampling: SamplingOverrides,
    /// The language of the captions, of those that the model was trained on; whichever it finds likelier, if not given.
    #[serde(default)]
    pub language: Option<Language>,
    /// The picture; its middle square is taken, or all of it by models that see pixels.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

fn one() -> usize {
    1
}

/// Captions that are sampled where the image only ranks them.
const RANKED: usize = 16;

/// What came of a [`Caption`].
#[derive(Clone, Debug)]
pub struct CaptionOutcome {
    /// The captions, the best first.
    pub captions: Vec<GeneratedCaption>,
    /// How they were found.
    pub search: Search,
    /// How many were found or sampled, of which these are the best.
    pub among: usize,
}

impl Default for Caption {
    fn default() -> Self {
        Caption {
            n: 1,
            beam: None,
            sample: false,
            best_of: None,
            seed: 0,
            sampling: SamplingOverrides::default(),
            language: None,
            image: None,
        }
    }
}

impl Caption {
    /// The likeliest caption of a picture.
    pub fn new(image: Image) -> Self {
        Caption {
            image: Some(Arc::new(image)),
            ..Caption::default()
        }
    }

    /// How a model looks for captions, and among how many the best are chosen.
    pub fn search(&self, model: &Model) -> Result<(Search, usize)> {
        let captioner = model.captioner()?;
        let ranks = captioner.ranks_captions();
        let samples = self.sample || self.best_of.is_some() || ranks && self.beam.is_none();
        if !samples {
            let width = self.beam.unwrap_or(self.n.max(captioner.beam()));
            return Ok((Search::Beam { width }, self.n));
        }
        let options = SamplingOptions {
            guidance_scale: 1.0,
            ..self.sampling.over(&captioner.text_sampling())
        };
        let usual = if ranks { self.n.max(RANKED) } else { self.n };
        let search = Search::Sampling {
            options,
            seed: self.seed,
        };
        Ok((search, self.best_of.unwrap_or(usual)))
    }
}

impl Request<Model> for Caption {
    type Outcome = CaptionOutcome;

    fn validate(&self) -> Result<()> {
        if let Some(best_of) = self.best_of.filter(|&best_of| best_of < self.n) {
            let reason = format!(
                "expected {} (the captions kept) or more, got {best_of}",
                self.n
            );
            return Err(Error::invalid("best of", reason));
        }
        self.sampling.validate()
    }

    /// Reports captions while they grow as [`Event::Text`](crate::observer::Event::Text).
    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<CaptionOutcome> {
        let Some(image) = &self.image else {
            return Err(Error::invalid("image", "expected one, got none"));
        };
        let (search, among) = self.search(model)?;
        let captioner = model.captioner()?;
        let mut captions = captioner.captions(image, among, &search, self.language, observer)?;
        captions.truncate(self.n);
        Ok(CaptionOutcome {
            captions,
            search,
            among,
        })
    }
}
