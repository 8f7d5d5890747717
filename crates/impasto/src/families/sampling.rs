//! What a model of any family can do, without its type: images from prompts, infilling, likelihoods.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::Value;

use super::{Answerer, Attentive, Captioner, Family, FamilyModel, PictureEncoder};
use crate::canvas::{Canvas, Conditioning};
use crate::engine::{
    self, AutoregressiveModel, FillOptions, FillRequest, ImageContext, InfillRow, Likelihood,
    Predictions, SampleSpec, SampledTokens, Ticket,
};
use crate::models::ImageTokenizer;
use crate::models::dalle::Order;
use crate::observer::Observer;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A model of any kind. What it can do besides turning pictures into ids and back are traits of their own.
pub trait AnyModel: Debug + Send + Sync {
    /// The model's name.
    fn name(&self) -> &str;

    /// What people call its family.
    fn family(&self) -> &'static str;

    /// Its `config.json`.
    fn config(&self) -> Result<Value>;

    /// Where the weights are.
    fn device(&self) -> &Device;

    /// Pixels ↔ image ids.
    fn image_tokenizer(&self) -> &ImageTokenizer;

    /// The model as one that generates images.
    fn generator(&self) -> Option<&dyn Generator> {
        None
    }

    /// The model as one that writes captions.
    fn captioner(&self) -> Option<&dyn Captioner> {
        None
    }

    /// The model as one that answers questions.
    fn answerer(&self) -> Option<&dyn Answerer> {
        None
    }

    /// The model as one that embeds pictures.
    fn picture_encoder(&self) -> Option<&dyn PictureEncoder> {
        None
    }

    /// The model as one whose attention can be looked at.
    fn attentive(&self) -> Option<&dyn Attentive> {
        None
    }
}

/// What is drawn, in words.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptText<'a> {
    /// The prompt; without one, nothing in particular.
    pub prompt: Option<&'a str>,
    /// What guidance leads away from; without it, the family's caption of nothing in particular.
    pub negative: Option<&'a str>,
    /// What is done with texts that are too long.
    pub long: LongCaption,
}

impl PromptText<'_> {
    /// Returns an error where a negative prompt would have no effect.
    pub fn check(&self, sampling: &SamplingOptions) -> Result<()> {
        match self.negative.is_some() && !sampling.needs_unconditional() {
            true => Err(Error::invalid(
                "negative prompt",
                "has no effect with guidance 1, expected another guidance",
            )),
            false => Ok(()),
        }
    }
}

/// A model that generates images.
pub trait Generator: Sync {
    /// The default sampling options for images.
    fn sampling(&self) -> &SamplingOptions;

    /// How known ids condition it.
    fn conditioning(&self) -> Conditioning;

    /// The default order of image ids.
    fn order(&self) -> Order;

    /// How often each window of an edit is filled by default, for the best to be taken.
    fn tries(&self) -> usize;

    /// Returns an error that says why the model can't read a prompt.
    fn check_prompt(&self, prompt: &str, long: LongCaption) -> Result<()>;

    /// Reads what is drawn.
    fn read<'a>(&'a self, text: PromptText<'_>) -> Result<Box<dyn Conditioned + 'a>>;

    /// Samples an image of each prompt with the seed beside it, all in one batch.
    fn sample(
        &self,
        prompts: &[(&str, u64)],
        long: LongCaption,
        sampling: &SamplingOptions,
        order: Order,
        observer: &mut dyn Observer,
    ) -> Result<Vec<SampledTokens>>;

    /// ln p of a caption, where the model generates any, and of an image given it.
    fn likelihood(&self, caption: &str, image_ids: &[u32], long: LongCaption)
    -> Result<Likelihood>;

    /// A running batch without requests.
    fn batch(&self) -> Box<dyn RunningBatch + '_>;
}

/// Requests that one model decodes together; see [`engine::Batch`], of which this is one for any family.
pub trait RunningBatch: Send {
    /// Adds canvases of one prompt. They start with the next step.
    ///
    /// # Errors
    /// What [`Generator::read`] and [`engine::Batch::join`] refuse.
    fn join(
        &mut self,
        text: PromptText<'_>,
        canvases: &[Infill],
        options: &FillOptions,
    ) -> Result<Ticket>;

    /// One step of every request. Returns whether there is more to do.
    fn step(&mut self) -> Result<bool>;

    /// Positions filled so far and in all, over all rows of a request.
    fn progress(&self, ticket: Ticket) -> (usize, usize);

    /// The image ids of a request's rows so far; none where they are not sampled yet.
    fn image_ids(&self, ticket: Ticket) -> Vec<&[Option<u32>]>;

    /// Requests whose images are all done.
    fn finished(&self) -> Vec<Ticket>;

    /// Removes a request, done or not, and returns its images if all are done.
    fn take(&mut self, ticket: Ticket) -> Option<Vec<SampledTokens>>;
}

/// A canvas to fill.
#[derive(Clone, Debug)]
pub struct Infill {
    /// What is known of the image.
    pub canvas: Arc<Canvas>,
    /// The seed of the masked ids.
    pub seed: u64,
}

/// Which prompt an image is judged under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The one that was read.
    Prompt,
    /// None, as for guidance.
    Unconditional,
}

/// A model that has read a prompt.
pub trait Conditioned {
    /// Fills the masked ids of the canvases, each as it would be alone.
    fn fill(
        &self,
        canvases: &[Infill],
        options: &FillOptions,
        observer: &mut dyn Observer,
    ) -> Result<Vec<SampledTokens>>;

    /// ln p of whole images in raster order, in nats.
    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>>;

    /// How unsure the model is of each id of an image; see [`engine::entropies`].
    fn entropies(&self, image_ids: &[u32], seed: u64) -> Result<Vec<f64>>;

    /// What the model predicts at every position of an image; see [`engine::predictions()`].
    fn predictions(
        &self,
        condition: Condition,
        image_ids: &[u32],
        context: ImageContext<'_>,
    ) -> Result<Predictions>;
}

impl<F: Family> AnyModel for FamilyModel<F> {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn family(&self) -> &'static str {
        F::TITLE
    }

    fn config(&self) -> Result<Value> {
        super::info::json(&self.config)
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn image_tokenizer(&self) -> &ImageTokenizer {
        &self.image
    }

    fn generator(&self) -> Option<&dyn Generator> {
        Some(self)
    }

    fn captioner(&self) -> Option<&dyn Captioner> {
        F::captioner(self)
    }

    fn answerer(&self) -> Option<&dyn Answerer> {
        F::answerer(self)
    }

    fn picture_encoder(&self) -> Option<&dyn PictureEncoder> {
        F::PICTURE_ENCODER.map(|encoder| encoder(self))
    }

    fn attentive(&self) -> Option<&dyn Attentive> {
        F::attentive(self)
    }
}

impl<F: Family> Generator for FamilyModel<F> {
    fn sampling(&self) -> &SamplingOptions {
        &self.config.sampling
    }

    fn conditioning(&self) -> Conditioning {
        F::conditioning(&self.config.options)
    }

    fn order(&self) -> Order {
        F::order(&self.config.options)
    }

    fn tries(&self) -> usize {
        F::TRIES
    }

    fn check_prompt(&self, prompt: &str, long: LongCaption) -> Result<()> {
        self.encode_caption(prompt, long).map(drop)
    }

    fn read<'a>(&'a self, text: PromptText<'_>) -> Result<Box<dyn Conditioned + 'a>> {
        // What can be refused is, before anything is computed.
        let ids = PromptIds::of(self, text)?;
        let unconditional = Arc::new(self.net.read(&ids.unconditional)?);
        let prompt = match ids.prompt == ids.unconditional {
            true => unconditional.clone(),
            false => Arc::new(self.net.read(&ids.prompt)?),
        };
        Ok(Box::new(Prompt {
            model: self,
            prompt,
            unconditional,
        }))
    }

    fn sample(
        &self,
        prompts: &[(&str, u64)],
        long: LongCaption,
        sampling: &SamplingOptions,
        order: Order,
        observer: &mut dyn Observer,
    ) -> Result<Vec<SampledTokens>> {
        let specs = prompts.iter().map(|&(prompt, seed)| {
            Ok(SampleSpec {
                text_ids: self.encode_caption(prompt, long)?,
                seed,
            })
        });
        let specs: Vec<SampleSpec> = specs.collect::<Result<_>>()?;
        let unconditional = |caption: &[u32]| self.unconditional(caption);
        let net = &self.net;
        engine::sample_guided(net, &specs, &unconditional, sampling, order, observer)
    }

    fn likelihood(
        &self,
        caption: &str,
        image_ids: &[u32],
        long: LongCaption,
    ) -> Result<Likelihood> {
        let prompt = self.net.read(&self.encode_caption(caption, long)?)?;
        engine::likelihood(&self.net, &prompt, image_ids)
    }

    fn batch(&self) -> Box<dyn RunningBatch + '_> {
        Box::new(FamilyBatch {
            model: self,
            batch: engine::Batch::new(&self.net),
            unconditional: None,
        })
    }
}

/// The text ids of what is drawn, and of what guidance leads away from.
struct PromptIds {
    prompt: Vec<u32>,
    unconditional: Vec<u32>,
}

impl PromptIds {
    fn of<F: Family>(model: &FamilyModel<F>, text: PromptText<'_>) -> Result<Self> {
        let encode = |words| model.encode_caption(words, text.long);
        let prompt = text.prompt.map(encode).transpose()?;
        let negative = text.negative.map(encode).transpose()?;
        let beside = prompt.as_deref().unwrap_or_default();
        let unconditional = negative.unwrap_or_else(|| model.unconditional(beside));
        Ok(PromptIds {
            prompt: prompt.unwrap_or_else(|| model.unconditional(&[])),
            unconditional,
        })
    }
}

/// What a family's net reads a caption as.
type PromptOf<F> = <<F as Family>::Net as AutoregressiveModel>::Prompt;

struct FamilyBatch<'a, F: Family> {
    model: &'a FamilyModel<F>,
    batch: engine::Batch<'a, F::Net>,
    /// The last ids of no caption, with what the net computed of them: requests mostly have the same ones.
    unconditional: Option<(Vec<u32>, Arc<PromptOf<F>>)>,
}

impl<F: Family> RunningBatch for FamilyBatch<'_, F> {
    fn join(
        &mut self,
        text: PromptText<'_>,
        canvases: &[Infill],
        options: &FillOptions,
    ) -> Result<Ticket> {
        let net = &self.model.net;
        let ids = PromptIds::of(self.model, text)?;
        let prompt = Arc::new(net.read(&ids.prompt)?);
        let ids = ids.unconditional;
        let unconditional = match self.unconditional.take() {
            Some((same, unconditional)) if same == ids => unconditional,
            _ => Arc::new(net.read(&ids)?),
        };
        self.unconditional = Some((ids, unconditional.clone()));
        let rows = canvases.iter().map(|infill| InfillRow {
            prompt: prompt.clone(),
            unconditional: unconditional.clone(),
            canvas: infill.canvas.clone(),
            seed: infill.seed,
        });
        self.batch.join(&FillRequest {
            rows: rows.collect(),
            options: options.clone(),
        })
    }

    fn step(&mut self) -> Result<bool> {
        self.batch.step()
    }

    fn progress(&self, ticket: Ticket) -> (usize, usize) {
        self.batch.progress(ticket)
    }

    fn image_ids(&self, ticket: Ticket) -> Vec<&[Option<u32>]> {
        self.batch.image_ids(ticket)
    }

    fn finished(&self) -> Vec<Ticket> {
        self.batch.finished()
    }

    fn take(&mut self, ticket: Ticket) -> Option<Vec<SampledTokens>> {
        self.batch.take(ticket)
    }
}

struct Prompt<'a, F: Family> {
    model: &'a FamilyModel<F>,
    prompt: Arc<PromptOf<F>>,
    unconditional: Arc<PromptOf<F>>,
}

impl<F: Family> Prompt<'_, F> {
    fn under(&self, condition: Condition) -> &PromptOf<F> {
        match condition {
            Condition::Prompt => &self.prompt,
            Condition::Unconditional => &self.unconditional,
        }
    }
}

impl<F: Family> Conditioned for Prompt<'_, F> {
    fn fill(
        &self,
        canvases: &[Infill],
        options: &FillOptions,
        observer: &mut dyn Observer,
    ) -> Result<Vec<SampledTokens>> {
        if self.model.net.parallel_passes().is_none() && options.order != Order::Raster {
            let (family, order) = (F::TITLE, options.order);
            let reason = format!("{family} draws in raster order, got {order}");
            return Err(Error::invalid("order", reason));
        }
        let rows = canvases.iter().map(|infill| InfillRow {
            prompt: self.prompt.clone(),
            unconditional: self.unconditional.clone(),
            canvas: infill.canvas.clone(),
            seed: infill.seed,
        });
        let request = FillRequest {
            rows: rows.collect(),
            options: options.clone(),
        };
        engine::fill(&self.model.net, &request, observer)
    }

    fn log_likelihoods(&self, condition: Condition, image_ids: &[Vec<u32>]) -> Result<Vec<f64>> {
        let prompts = vec![self.under(condition); image_ids.len()];
        engine::image_log_likelihoods(&self.model.net, &prompts, image_ids)
    }

    fn entropies(&self, image_ids: &[u32], seed: u64) -> Result<Vec<f64>> {
        let net = &self.model.net;
        let any_order = self.model.conditioning() == Conditioning::Prefix;
        engine::entropies(net, &self.prompt, image_ids, any_order, seed)
    }

    fn predictions(
        &self,
        condition: Condition,
        image_ids: &[u32],
        context: ImageContext<'_>,
    ) -> Result<Predictions> {
        engine::predictions(&self.model.net, self.under(condition), image_ids, context)
    }
}
