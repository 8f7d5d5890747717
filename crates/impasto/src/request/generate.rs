//! Images from a prompt.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Request, SamplingOverrides, upscale};
use crate::canvas::{Canvas, Conditioning};
use crate::engine::FillOptions;
use crate::families::{Generator, Infill, PromptText};
use crate::image::Image;
use crate::judges::{self, Judgement};
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, GeneratedImage, Observer};
use crate::rank::Ranker;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::upscale::Upscaler;
use crate::{Error, Result};

/// A request for images of a prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// What the images show.
    pub prompt: String,
    /// Images. Number i has the seed `seed + i`.
    #[serde(default = "one")]
    pub n: usize,
    /// Sample this many and keep the `n` best of the prompt, as the model itself says where it captions
    /// ([`crate::judges`]), and `ranker`, if there is one; `n`, if not given.
    #[serde(default)]
    pub best_of: Option<usize>,
    /// Seed of the first image.
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
    /// What is done with a prompt that is too long: refused, cut, or read in chunks.
    #[serde(default)]
    pub long: LongCaption,
    /// Row-major ids that every image starts with.
    #[serde(default)]
    pub prefix_ids: Vec<u32>,
    /// How many times as large finished images become; needs an `upscaler`.
    #[serde(default)]
    pub upscale: Option<usize>,
    /// The CLIP that has a say among `best_of`, and that chooses alone where the model does not caption.
    #[serde(skip)]
    pub ranker: Option<Arc<Ranker>>,
    /// The network that enlarges finished images.
    #[serde(skip)]
    pub upscaler: Option<Arc<Upscaler>>,
}

fn one() -> usize {
    1
}

/// How long each part of a request took, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Timings {
    /// Reading the model.
    pub load: f64,
    /// Encoding the caption.
    pub text: f64,
    /// Sampling the ids.
    pub decode: f64,
    /// Ids to pixels.
    pub pixels: f64,
}

/// What came of a [`Generate`].
#[derive(Clone, Debug)]
pub struct GenerateOutcome {
    /// The images by their seeds; where some of them were chosen, the best first.
    pub images: Vec<GeneratedImage>,
    /// The sampling options that were used.
    pub sampling: SamplingOptions,
    /// The order that was used.
    pub order: Order,
    /// How long it took.
    pub timings: Timings,
}

/// Images sampled in one batch.
const BATCH: usize = 16;

impl Generate {
    /// One image of a prompt with the model's own settings.
    pub fn new(prompt: impl Into<String>, seed: u64) -> Self {
        Generate {
            prompt: prompt.into(),
            n: 1,
            best_of: None,
            seed,
            sampling: SamplingOverrides::default(),
            negative_prompt: None,
            order: None,
            long: LongCaption::default(),
            prefix_ids: Vec::new(),
            upscale: None,
            ranker: None,
            upscaler: None,
        }
    }

    /// Returns an error that says why the model, or the CLIP, can't read the prompt, or that nobody can choose.
    pub fn check_prompt(&self, model: &Model) -> Result<()> {
        let generator = model.generator()?;
        self.check_choice(model)?;
        generator.check_prompt(&self.prompt, self.long)?;
        if let Some(negative) = &self.negative_prompt {
            generator.check_prompt(negative, self.long)?;
        }
        match &self.ranker {
            Some(ranker) => ranker.check_caption(&self.prompt, self.long),
            None => Ok(()),
        }
    }

    /// Returns an error where the best images are wanted and nobody says which they are.
    pub(super) fn check_choice(&self, model: &Model) -> Result<()> {
        if self.best_of.is_none() || self.ranker.is_some() || judges::model_judges(model) {
            return Ok(());
        }
        let reason = format!(
            "{} does not say how well a caption describes a picture: expected a CLIP that chooses",
            model.name()
        );
        Err(Error::invalid("best of", reason))
    }

    /// How many images are sampled.
    pub fn sampled(&self) -> usize {
        self.best_of.unwrap_or(self.n)
    }
}

impl Request<Model> for Generate {
    type Outcome = GenerateOutcome;

    fn validate(&self) -> Result<()> {
        if self.n == 0 {
            return Err(Error::invalid("n", "expected 1 or more pictures, got 0"));
        }
        if let Some(best_of) = self.best_of.filter(|&best_of| best_of < self.n) {
            let reason = format!(
                "expected {} (the images kept) or more, got {best_of}",
                self.n
            );
            return Err(Error::invalid("best of", reason));
        }
        upscale::check(self.upscale, self.upscaler.as_deref())?;
        self.sampling.validate()
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<GenerateOutcome> {
        let generator = model.generator()?;
        self.check_choice(model)?;
        let mut timings = Timings {
            load: model.load_time().as_secs_f64(),
            ..Timings::default()
        };
        let mut clock = Clock(Instant::now());
        let positions = model.grid().pow(2);
        let canvas = self.canvas(positions)?;
        let options = self.fill_options(generator);
        let text = self.text();
        text.check(&options.sampling)?;
        let read = generator.read(text)?;
        timings.text = clock.lap();
        let n = self.sampled();
        let mut images = Vec::with_capacity(n);
        for first in (0..n).step_by(BATCH) {
            let infills: Vec<Infill> = (first..n.min(first + BATCH))
                .map(|i| Infill {
                    canvas: canvas.clone(),
                    seed: self.seed.wrapping_add(i as u64),
                })
                .collect();
            let sampled = read.fill(&infills, &options, &mut |event: &Event<'_>| match event {
                Event::Tokens {
                    done, image_ids, ..
                } => observer.event(&Event::Tokens {
                    done: first * positions + done,
                    total: n * positions,
                    image_ids,
                }),
                _ => ControlFlow::Continue(()),
            })?;
            timings.decode += clock.lap();
            let image_ids: Vec<Vec<u32>> = sampled
                .iter()
                .map(|image| image.image_ids.clone())
                .collect();
            let pictures = model.image_tokenizer().decode(&image_ids)?;
            timings.pixels += clock.lap();
            for ((picture, image), infill) in pictures.into_iter().zip(sampled).zip(infills) {
                let image = GeneratedImage {
                    picture,
                    seed: infill.seed,
                    image_ids: image.image_ids,
                    log_likelihood: image.log_likelihood,
                    caption_nats: None,
                    clip_score: None,
                };
                images.push(match self.best_of {
                    None => self.finish(image, observer)?,
                    Some(_) => image,
                });
            }
        }
        if self.best_of.is_some() {
            self.ask_model(model, &mut images)?;
            let kept = self.kept(images)?.into_iter();
            let finished = kept.map(|image| self.finish(image, observer));
            images = finished.collect::<Result<_>>()?;
        }
        timings.pixels += clock.lap();
        Ok(GenerateOutcome {
            images,
            sampling: options.sampling,
            order: options.order,
            timings,
        })
    }
}

impl Generate {
    /// An image enlarged, where that was requested, and reported.
    fn finish(
        &self,
        mut image: GeneratedImage,
        observer: &mut dyn Observer,
    ) -> Result<GeneratedImage> {
        upscale::enlarge(
            &mut image,
            (self.upscale, self.upscaler.as_deref()),
            observer,
        )?;
        match observer.event(&Event::Image(&image)) {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(image),
        }
    }

    /// What is known of each image beforehand.
    pub(super) fn canvas(&self, positions: usize) -> Result<Arc<Canvas>> {
        Ok(Arc::new(match self.prefix_ids.is_empty() {
            true => Canvas::blank(positions),
            false => Canvas::with_prefix(&self.prefix_ids, positions)?,
        }))
    }

    /// What is drawn, in words.
    pub(super) fn text(&self) -> PromptText<'_> {
        PromptText {
            prompt: Some(&self.prompt),
            negative: self.negative_prompt.as_deref(),
            long: self.long,
        }
    }

    /// How a model fills them.
    pub(super) fn fill_options(&self, generator: &dyn Generator) -> FillOptions {
        let order = self.order.unwrap_or(generator.order());
        FillOptions {
            sampling: self.sampling.over(generator.sampling()),
            order,
            // A prefix in raster order is one in any order, too.
            conditioning: match order {
                Order::Raster => generator.conditioning(),
                Order::Parallel { .. } | Order::Confidence { .. } => Conditioning::Prefix,
            },
            tries: 1,
        }
    }

    /// Of sampled images those that are kept: all of them, or the `n` best of the prompt, the best first. The model has
    /// a say where it was [asked](Self::ask_model).
    pub fn kept(&self, images: Vec<GeneratedImage>) -> Result<Vec<GeneratedImage>> {
        if self.best_of.is_none() {
            return Ok(images);
        }
        let of_model = images.iter().map(|image| {
            let positions = image.image_ids.len();
            let nats = image.caption_nats?;
            Some(judges::agreement(nats, image.log_likelihood, positions))
        });
        let pictures = || {
            let pictures = images.iter().map(|image| image.picture.clone());
            pictures.collect::<Vec<Image>>()
        };
        let cosines = |ranker| judges::cosines(ranker, &self.prompt, self.long, &pictures());
        let judgement = Judgement {
            model: of_model.collect(),
            cosines: self.ranker.as_deref().map(cosines).transpose()?,
        };
        let all: Vec<usize> = (0..images.len()).collect();
        let kept = judgement.order(&all).into_iter().take(self.n);
        let kept = kept.map(|at| GeneratedImage {
            clip_score: judgement.cosines.as_ref().map(|cosines| cosines[at]),
            ..images[at].clone()
        });
        Ok(kept.collect())
    }

    /// Asks a model that captions how well the prompt describes each of some images.
    pub fn ask_model(&self, model: &Model, images: &mut [GeneratedImage]) -> Result<()> {
        let pictures: Vec<Image> = images.iter().map(|image| image.picture.clone()).collect();
        let nats = judges::caption_nats(model, &self.prompt, self.long, &pictures)?;
        for (image, nats) in images.iter_mut().zip(nats.into_iter().flatten()) {
            image.caption_nats = Some(nats);
        }
        Ok(())
    }
}

struct Clock(Instant);

impl Clock {
    /// Seconds since the last one.
    fn lap(&mut self) -> f64 {
        std::mem::replace(&mut self.0, Instant::now())
            .elapsed()
            .as_secs_f64()
    }
}
