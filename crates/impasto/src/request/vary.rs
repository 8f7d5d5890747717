//! Variations of a picture.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GeneratedImage, Request, SamplingOverrides, upscale};
use crate::canvas::Conditioning;
use crate::edit::{self, Choice, VaryRequest};
use crate::image::Image;
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, Observer};
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::upscale::Upscaler;
use crate::{Error, Result};

/// A request for variations of a picture: a share of its ids is sampled anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vary {
    /// What the picture shows; without a prompt the ids that stay decide alone.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The share of the ids that is sampled anew: 0 gives what the image tokenizer makes of the picture, 1 a fresh one.
    pub strength: f64,
    /// Which ids.
    #[serde(default)]
    pub choice: Choice,
    /// Variations. Number i has the seed `seed + i`.
    #[serde(default = "one")]
    pub n: usize,
    /// Seed of the first one.
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
    /// Fillings of each variation, of which the likeliest is taken; 1, or [`edit::TRIES`] for models of raster order
    /// only, which find by it what goes with the ids that stay.
    #[serde(default)]
    pub tries: Option<usize>,
    /// What is done with a prompt that is too long: refused, cut, or read in chunks.
    #[serde(default)]
    pub long: LongCaption,
    /// How many times as large finished images become; needs an `upscaler`.
    #[serde(default)]
    pub upscale: Option<usize>,
    /// The picture; its middle square is taken.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
    /// The network that enlarges finished images.
    #[serde(skip)]
    pub upscaler: Option<Arc<Upscaler>>,
}

fn one() -> usize {
    1
}

/// What came of a [`Vary`].
#[derive(Clone, Debug)]
pub struct VaryOutcome {
    /// The variations, by their seeds.
    pub images: Vec<GeneratedImage>,
    /// The sampling options that were used.
    pub sampling: SamplingOptions,
    /// The order that was used.
    pub order: Order,
    /// How known ids conditioned the model.
    pub conditioning: Conditioning,
    /// Ids of each that were sampled anew.
    pub sampled: usize,
}

impl Vary {
    /// One variation of a picture with the model's own settings.
    pub fn new(image: Image, strength: f64, seed: u64) -> Self {
        Vary {
            prompt: None,
            strength,
            choice: Choice::default(),
            n: 1,
            seed,
            sampling: SamplingOverrides::default(),
            negative_prompt: None,
            order: None,
            tries: None,
            long: LongCaption::default(),
            upscale: None,
            image: Some(Arc::new(image)),
            upscaler: None,
        }
    }
}

impl Request<Model> for Vary {
    type Outcome = VaryOutcome;

    fn validate(&self) -> Result<()> {
        if self.image.is_none() {
            return Err(Error::invalid("image", "expected one, got none"));
        }
        if !(0.0..=1.0).contains(&self.strength) {
            return Err(Error::invalid(
                "strength",
                format!("expected 0 to 1, got {}", self.strength),
            ));
        }
        upscale::check(self.upscale, self.upscaler.as_deref())?;
        self.sampling.validate()
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<VaryOutcome> {
        let Some(image) = &self.image else {
            return Err(Error::invalid("image", "expected one, got none"));
        };
        let generator = model.generator()?;
        let conditioning = generator.conditioning();
        let usual = match conditioning {
            Conditioning::Prefix => 1,
            Conditioning::TeacherForced => edit::TRIES,
        };
        let request = VaryRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            strength: self.strength,
            choice: self.choice,
            n: self.n,
            seed: self.seed,
            sampling: self.sampling.over(generator.sampling()),
            order: self.order.unwrap_or(generator.order()),
            conditioning,
            tries: self.tries.unwrap_or(usual),
            long: self.long,
        };
        let picture = image.fit_square(model.picture_size())?;
        let enlarging = (self.upscale, self.upscaler.as_deref());
        let mut failure = Ok(());
        let mut enlarged = Vec::new();
        let drawn = edit::vary(
            model,
            &picture,
            &request,
            &mut |event: &Event<'_>| match event {
                Event::Image(image) => {
                    let mut image = GeneratedImage::clone(image);
                    if let Err(error) = upscale::enlarge(&mut image, enlarging, observer) {
                        failure = Err(error);
                        return ControlFlow::Break(());
                    }
                    let flow = observer.event(&Event::Image(&image));
                    enlarged.push(image);
                    flow
                }
                event => observer.event(event),
            },
        );
        failure?;
        drawn?;
        Ok(VaryOutcome {
            images: enlarged,
            sampling: request.sampling,
            order: request.order,
            conditioning,
            sampled: (self.strength * model.grid().pow(2) as f64).round() as usize,
        })
    }
}
