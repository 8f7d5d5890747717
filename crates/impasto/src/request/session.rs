//! Requests for images that join and leave a running batch, as in a server.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::{Generate, GenerateOutcome, GeneratedImage, Request, Timings, upscale};
use crate::Result;
use crate::engine::Ticket;
use crate::families::{Generator, Infill, RunningBatch};
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::NoObserver;
use crate::sampling::SamplingOptions;

/// Requests that one model decodes together. They join at any step and leave at any step, and each gets the images
/// that [`Model::run`] makes of it alone, bit for bit. All its images are in memory at once: who has many splits the
/// request.
///
/// ```
/// use impasto::{Generate, Model, OpenOptions, Session, device, observer::NoObserver};
///
/// # let (device, _) = device::select("cpu")?;
/// # let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
/// let (cat, hat) = (Generate::new("a red cat", 1), Generate::new("a hat", 2));
/// let mut session = Session::new(&model)?;
/// let first = session.join(&cat)?;
/// for _ in 0..5 {
///     session.step()?;
/// }
/// let second = session.join(&hat)?;
/// while session.step()? {}
/// let cats = session.take(first)?.expect("all steps are done");
/// assert_eq!(cats.images[0].picture, model.run(&cat, &mut NoObserver)?.images[0].picture);
/// # assert!(session.take(second)?.is_some() && session.is_empty());
/// # Ok::<(), impasto::Error>(())
/// ```
pub struct Session<'m> {
    model: &'m Model,
    generator: &'m dyn Generator,
    batch: Box<dyn RunningBatch + 'm>,
    requests: BTreeMap<Ticket, Joined>,
}

struct Joined {
    request: Generate,
    seeds: Vec<u64>,
    sampling: SamplingOptions,
    order: Order,
    start: Instant,
    timings: Timings,
}

impl<'m> Session<'m> {
    /// One without requests.
    ///
    /// # Errors
    /// Where the model is an image tokenizer alone.
    pub fn new(model: &'m Model) -> Result<Self> {
        let generator = model.generator()?;
        Ok(Session {
            model,
            generator,
            batch: generator.batch(),
            requests: BTreeMap::new(),
        })
    }

    /// Adds a request, whose images start with the next step.
    ///
    /// # Errors
    /// What [`Model::run`] refuses. Other requests continue.
    pub fn join(&mut self, request: &Generate) -> Result<Ticket> {
        request.validate()?;
        request.check_choice(self.model)?;
        let mut timings = Timings {
            load: self.model.load_time().as_secs_f64(),
            ..Timings::default()
        };
        let start = Instant::now();
        let canvas = request.canvas(self.model.grid().pow(2))?;
        let options = request.fill_options(self.generator);
        let seeds: Vec<u64> = (0..request.sampled())
            .map(|i| request.seed.wrapping_add(i as u64))
            .collect();
        let infills: Vec<Infill> = seeds
            .iter()
            .map(|&seed| Infill {
                canvas: canvas.clone(),
                seed,
            })
            .collect();
        let text = request.text();
        text.check(&options.sampling)?;
        let ticket = self.batch.join(text, &infills, &options)?;
        timings.text = start.elapsed().as_secs_f64();
        let joined = Joined {
            request: request.clone(),
            seeds,
            sampling: options.sampling,
            order: options.order,
            start: Instant::now(),
            timings,
        };
        self.requests.insert(ticket, joined);
        Ok(ticket)
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// One step of every request. Returns whether there is more to do.
    ///
    /// # Errors
    /// Where the model computes numbers that are not finite. No request can then continue: [`Session::leave`] them.
    pub fn step(&mut self) -> Result<bool> {
        self.batch.step()
    }

    /// Image ids so far and in all, over all images of a request.
    pub fn progress(&self, ticket: Ticket) -> (usize, usize) {
        self.batch.progress(ticket)
    }

    /// The image ids so far of a request's images.
    pub fn image_ids(&self, ticket: Ticket) -> Vec<&[Option<u32>]> {
        self.batch.image_ids(ticket)
    }

    /// Requests that only have to be taken.
    pub fn finished(&self) -> Vec<Ticket> {
        self.batch.finished()
    }

    /// Removes a request, done or not.
    pub fn leave(&mut self, ticket: Ticket) {
        self.requests.remove(&ticket);
        self.batch.take(ticket);
    }

    /// Removes a request and returns its outcome; none where it was not finished.
    pub fn take(&mut self, ticket: Ticket) -> Result<Option<GenerateOutcome>> {
        let sampled = self.batch.take(ticket);
        let (Some(joined), Some(sampled)) = (self.requests.remove(&ticket), sampled) else {
            return Ok(None);
        };
        let mut timings = joined.timings;
        timings.decode = joined.start.elapsed().as_secs_f64();
        let start = Instant::now();
        let image_ids: Vec<Vec<u32>> = sampled.iter().map(|one| one.image_ids.clone()).collect();
        let pictures = self.model.image_tokenizer().decode(&image_ids)?;
        timings.pixels = start.elapsed().as_secs_f64();
        let images = pictures.into_iter().zip(sampled).zip(joined.seeds);
        let images = images.map(|((picture, sampled), seed)| GeneratedImage {
            picture,
            seed,
            image_ids: sampled.image_ids,
            log_likelihood: sampled.log_likelihood,
            caption_nats: None,
            clip_score: None,
        });
        let mut images: Vec<GeneratedImage> = images.collect();
        if joined.request.best_of.is_some() {
            joined.request.ask_model(self.model, &mut images)?;
            images = joined.request.kept(images)?;
        }
        let upscaler = joined.request.upscaler.as_deref();
        for image in &mut images {
            upscale::enlarge(image, (joined.request.upscale, upscaler), &mut NoObserver)?;
        }
        Ok(Some(GenerateOutcome {
            images,
            sampling: joined.sampling,
            order: joined.order,
            timings,
        }))
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model.name())
            .field("requests", &self.requests.len())
            .finish()
    }
}
