//! Training a CLIP on pictures and captions (Radford et al. 2021, arXiv:2103.00020, section 2.3).
//!
//! Every caption of a batch is distinguished from every other, so that a batch is better large. It may be larger
//! than what fits into memory at once: the `gradient_accumulation` forward passes of a step share one loss.
//! All of them are embedded first, without keeping what a backward pass needs; the loss's gradients of the
//! embeddings are kept instead, and each pass carries its share of them back through the towers (GradCache:
//! Gao et al. 2021, arXiv:2101.06983). The gradients are those of one large batch.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::ahead::Ahead;
use super::config::{RunConfig, check_count, check_trainable};
use super::drawn::{self, SyntheticPairs};
use super::engine::{self, Evaluation, Observer, Pass, Task};
use super::image_tokenizer::training_device;
use super::initial_model::load_image_tokenizer;
use super::source::{ImageSource, SourceConfig, held_out, open};
use crate::checkpoint::weights::Precision;
use crate::checkpoint::{
    CaptionTokenizer, ClipModel, ClipModelConfig, ModelSource, TextTokenizerKind,
};
use crate::data::Sample;
use crate::eval::retrieval::{Direction, RANKS, Recall};
use crate::image::Image;
use crate::models::clip::{
    Activation, ContrastiveLoss, EndOfText, Normalisation, TowerConfig, unit,
};
use crate::models::{Clip, ClipConfig, ImageTokenizer};
use crate::nn::{Init, ops};
use crate::rank::numbers;
use crate::text::TextTokenizer;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// The config file of `impasto train clip`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTrainingConfig {
    /// The finished model's name.
    pub name: String,
    /// SPDX expression of the finished weights' licence.
    pub licence: String,
    /// A CLIP, by its name or folder, that is trained on: its text tokenizer and weights are what the training
    /// begins with. The next two are then left out.
    #[serde(default)]
    pub from: Option<String>,
    /// Output directory of `train text-tokenizer`.
    #[serde(default)]
    pub text_tokenizer: Option<PathBuf>,
    /// Sizes of the model.
    #[serde(default)]
    pub model: Option<Sizes>,
    /// The pairs.
    pub data: SourceConfig,
    /// The run. The passes of a step share one loss: a batch has `batch_size · gradient_accumulation` pairs.
    #[serde(default)]
    pub run: RunConfig,
    /// The loss.
    #[serde(default)]
    pub loss: ContrastiveLoss,
    /// Pictures shown as an image tokenizer gives them back, for a CLIP that ranks what comes out of one.
    #[serde(default)]
    pub reconstructed: Option<Reconstructed>,
    /// Pictures drawn by a model, for a CLIP that chooses among what it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<drawn::GeneratedPicturesConfig>,
    /// Held-out pairs among which each is looked for at each checkpoint.
    #[serde(default = "default_validation")]
    pub validation: usize,
}

/// Some of the pictures, encoded and decoded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconstructed {
    /// Output directory of `train image-tokenizer`, or a model's folder.
    pub by: PathBuf,
    /// Which share of the training pictures.
    pub share: f64,
}

/// Sizes that don't follow from the tokenizer and the loss.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// The tower of pictures.
    pub image: TowerConfig,
    /// Text tokens, both ends included.
    pub text_length: usize,
    /// The tower of captions.
    pub text: TowerConfig,
    /// Width of the common space.
    pub projection_width: usize,
    /// The nonlinearity.
    #[serde(default)]
    pub activation: Activation,
}

fn default_validation() -> usize {
    100
}

/// The end of a caption in our own text tokenizers.
const END: u32 = 2;

/// Trains (or goes on) and writes the whole model into `dir/model`.
pub fn run(
    config: &ClipTrainingConfig,
    dir: &Path,
    device: &Device,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    config.run.validate()?;
    check_count("validation", config.validation)?;
    if config.run.batch_size * config.run.gradient_accumulation < 2 {
        return Err(Error::invalid(
            "training config",
            "batch_size times gradient_accumulation is 1, expected 2 or more: a pair is distinguished from others",
        ));
    }
    let train_device = training_device(device, &config.run);
    let (text, clip) = beginning(config, &train_device)?;
    let clip_config = clip.config().clone();
    let reconstructed = match &config.reconstructed {
        Some(Reconstructed { share, .. }) if !(0.0..=1.0).contains(share) => {
            let reason = format!("reconstructed.share is {share}, expected 0 to 1");
            return Err(Error::invalid("training config", reason));
        }
        Some(Reconstructed { by, share }) => {
            let (image, _) = load_image_tokenizer(by, device)?;
            let (made, read) = (image.config().picture_size(), clip_config.image_size);
            if made != read {
                let reason = format!(
                    "{} makes pictures of {made} px, the CLIP reads {read} px",
                    by.display()
                );
                return Err(Error::invalid("reconstructed", reason));
            }
            Some((image, *share))
        }
        None => None,
    };
    let _lock = super::folder::open(dir)?;
    let source = open(&config.data, Some(clip_config.image_size), dir, observer)?;
    let of = (clip_config.image_size, config.run.seed);
    let drawn = config.drawn.as_ref();
    let mut drawn = drawn
        .map(|drawn| SyntheticPairs::new(drawn, source.as_ref(), of, device))
        .transpose()?;
    super::folder::begin(dir, config, source.as_ref(), resume, observer)?;
    if let Some(drawn) = &mut drawn {
        drawn.draw_all(source.as_ref(), &dir.join("drawn.tokens"), observer)?;
    }
    let validation = held_out(source.as_ref(), config.validation, &config.run, observer)?;
    let batches = Batches {
        run: config.run.clone(),
        text_length: clip_config.text_length,
        text: text.clone(),
        source,
        reconstructed,
        drawn,
        device: device.clone(),
    };
    let batches = Ahead::new(BATCHES_AHEAD, move |pass| batches.batch(pass));
    let mut task = ClipTask {
        run: config.run.clone(),
        loss: config.loss,
        model_config: ClipModelConfig {
            name: config.name.clone(),
            licence: config.licence.clone(),
            text_tokenizer: TextTokenizerKind::ByteLevel,
            clip: clip_config,
        },
        text,
        batches: batches.on(device),
        validation,
        shared: None,
        is_on_cpu: ops::is_cpu(device),
    };
    let trained = engine::train(&mut task, clip, &config.run, dir, resume, observer)?.valid();
    task.save(trained, dir)
}

/// The text tokenizer and the weights: new ones, or those of the CLIP that is trained on.
fn beginning(config: &ClipTrainingConfig, device: &Device) -> Result<(TextTokenizer, Clip)> {
    let bad = |reason: &str| Error::invalid("training config", reason);
    match (&config.from, &config.text_tokenizer, &config.model) {
        (Some(from), None, None) => {
            let model = ClipModel::load(&ModelSource::parse(from)?, device)?;
            match model.text {
                CaptionTokenizer::ByteLevel(text) => Ok((text, model.clip)),
                CaptionTokenizer::Clip(_) => Err(bad(&format!(
                    "{from} is a published CLIP; only those that this program trained are trained on"
                ))),
            }
        }
        (Some(from), _, _) => Err(bad(&format!(
            "text_tokenizer and model follow from the CLIP {from} that is trained on; leave them out"
        ))),
        (None, Some(text), Some(sizes)) => {
            let text = TextTokenizer::load(text)?;
            let clip_config = ClipConfig {
                image_size: sizes.image_size,
                patch_size: sizes.patch_size,
                image: sizes.image,
                text_vocab_size: text.vocab_size(),
                text_length: sizes.text_length,
                text: sizes.text,
                projection_width: sizes.projection_width,
                activation: sizes.activation,
                end_of_text: EndOfText::FirstOf(END),
                logit_bias: config.loss == ContrastiveLoss::Sigmoid,
                normalisation: Normalisation::default(),
            };
            clip_config.validate()?;
            check_trainable("model", clip_config.parameters())?;
            let clip = clip_config.init(&mut Init::new(config.run.seed, device));
            Ok((text, clip))
        }
        (None, _, _) => Err(bad(
            "expected text_tokenizer and model, or `from`, a CLIP to train on",
        )),
    }
}

/// Pairs of one pass.
struct Batch {
    pictures: Vec<Image>,
    /// `[pairs][text_length]`.
    text_ids: Vec<Vec<u32>>,
}

/// What the passes of a step have in common.
struct Shared {
    /// Of each pass, taken when it is its turn.
    batches: Vec<Option<Batch>>,
    /// The loss of all pairs.
    loss: f32,
    /// Its gradients of the embeddings, `[pairs, projection_width]`.
    image: Tensor<2>,
    text: Tensor<2>,
    /// Its gradients of [`Clip::logit_parameters`].
    logits: Vec<Tensor<1>>,
}

struct ClipTask {
    run: RunConfig,
    loss: ContrastiveLoss,
    model_config: ClipModelConfig,
    text: TextTokenizer,
    batches: Ahead<Batch>,
    validation: Vec<Sample>,
    shared: Option<Shared>,
    is_on_cpu: bool,
}

/// Batches that are ready before they are needed.
const BATCHES_AHEAD: usize = 4;

/// What makes batches.
struct Batches {
    run: RunConfig,
    text_length: usize,
    text: TextTokenizer,
    source: Box<dyn ImageSource>,
    /// With the share of the pictures that go through it.
    reconstructed: Option<(ImageTokenizer, f64)>,
    drawn: Option<SyntheticPairs>,
    device: Device,
}

impl Batches {
    /// Which of a picture's captions is used comes from (seed, the sample's number), so that it does not
    /// depend on the size of a pass.
    fn batch(&self, pass: u64) -> Result<Batch> {
        let size = self.run.batch_size;
        let mut rng = ChaCha8Rng::seed_from_u64(self.run.seed);
        let first = pass * size as u64;
        let samples = self.source.train_batch(first, size)?;
        let length = self.text_length;
        let mut batch = Batch {
            pictures: Vec::with_capacity(size),
            text_ids: Vec::with_capacity(size),
        };
        // Rows of the batch, those of drawn pictures with the pictures' numbers.
        let (mut through, mut drawn_rows, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        for (number, sample) in (first..).zip(samples) {
            rng.set_stream(number + 1);
            rng.set_word_pos(0);
            let instead = self
                .drawn
                .as_ref()
                .and_then(|drawn| Some((drawn, drawn.instead_of(number)?)));
            let captions = match instead {
                Some((drawn, index)) => drawn.captions(index),
                None => &sample.captions,
            };
            let caption = &captions[rng.random_range(0..captions.len())];
            let ids = self.text.encode_caption(caption, length, true)?;
            batch.text_ids.push(ids);
            if let Some((_, index)) = instead {
                drawn_rows.push(batch.pictures.len());
                drawn.push(index);
            } else if let Some((_, share)) = self.reconstructed
                && rng.random_bool(share)
            {
                through.push(batch.pictures.len());
            }
            batch.pictures.push(sample.picture);
        }
        if let Some(all) = &self.drawn {
            for (row, picture) in drawn_rows.into_iter().zip(all.pictures(&drawn)?) {
                batch.pictures[row] = picture;
            }
        }
        if let Some((image, _)) = &self.reconstructed {
            let pictures: Vec<Image> = through
                .iter()
                .map(|&row| batch.pictures[row].clone())
                .collect();
            let decoded = image.decode(&image.encode(&pictures, &self.device)?)?;
            for (row, picture) in through.into_iter().zip(decoded) {
                batch.pictures[row] = picture;
            }
        }
        Ok(batch)
    }
}

impl ClipTask {
    /// Writes the model, ready for use, into the run's directory.
    fn save(&self, clip: Clip, dir: &Path) -> Result<PathBuf> {
        let model = ClipModel {
            config: self.model_config.clone(),
            text: CaptionTokenizer::ByteLevel(self.text.clone()),
            clip,
        };
        let path = dir.join("model");
        model.save(&path, Precision::F16)?;
        Ok(path)
    }

    fn embed(model: &Clip, batch: &Batch) -> Result<(Tensor<2>, Tensor<2>)> {
        let pixels = model.pixels(&batch.pictures)?;
        Ok((
            model.encode_image(pixels),
            model.encode_text(&batch.text_ids)?,
        ))
    }

    /// Embeds all pairs of a step and takes the loss's gradients.
    fn share(&mut self, model: &Clip, first_pass: u64) -> Result<Shared> {
        let plain = model.valid();
        let passes = self.run.gradient_accumulation as u64;
        let (mut images, mut texts, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for pass in first_pass..first_pass + passes {
            let batch = self.batches.get(pass)?;
            let (image, text) = Self::embed(&plain, &batch)?;
            images.push(image);
            texts.push(text);
            batches.push(Some(batch));
        }
        let leaf = |parts| Tensor::from_inner(Tensor::cat(parts, 0)).require_grad();
        let (image, text): (Tensor<2>, Tensor<2>) = (leaf(images), leaf(texts));
        let loss = model.contrastive_loss(image.clone(), text.clone(), self.loss);
        let gradients = loss.backward();
        let missing = || Error::invalid("contrastive loss", "has no gradient");
        Ok(Shared {
            batches,
            loss: loss.into_scalar::<f32>(),
            image: image.grad(&gradients).ok_or_else(missing)?,
            text: text.grad(&gradients).ok_or_else(missing)?,
            logits: model
                .logit_parameters()
                .into_iter()
                .map(|parameter| parameter.grad(&gradients).ok_or_else(missing))
                .collect::<Result<_>>()?,
        })
    }

    /// A loss of one pass whose mean over the step's passes has the value and the gradients of the shared one.
    fn shared_pass(&mut self, model: &Clip, pass: u64) -> Result<Pass> {
        let passes = self.run.gradient_accumulation;
        let index = (pass % passes as u64) as usize;
        if index == 0 {
            self.shared = Some(self.share(model, pass)?);
        }
        let turn = self
            .shared
            .as_mut()
            .and_then(|shared| Some((shared.batches[index].take()?, shared)));
        let Some((batch, shared)) = turn else {
            return Err(Error::invalid(
                "pass",
                format!("{pass} came before the first one of its step"),
            ));
        };
        let (image, text) = Self::embed(model, &batch)?;
        let (start, rows) = (index * batch.pictures.len(), batch.pictures.len());
        let of = |x: Tensor<2>, gradient: &Tensor<2>| {
            let gradient = Tensor::from_inner(gradient.clone().narrow(0, start, rows));
            (x * gradient).sum()
        };
        let towers = (of(image, &shared.image) + of(text, &shared.text)).mul_scalar(passes as f32);
        let surrogate = model
            .logit_parameters()
            .into_iter()
            .zip(&shared.logits)
            .fold(towers, |sum, (parameter, gradient)| {
                sum + parameter * Tensor::from_inner(gradient.clone())
            });
        let loss = surrogate.clone() - surrogate.detach() + shared.loss;
        Ok(self.with_metrics(model, loss))
    }

    fn with_metrics(&self, model: &Clip, loss: Tensor<1>) -> Pass {
        Pass {
            loss,
            metrics: vec![("logit_scale", model.logit_scale())],
        }
    }
}

impl Task for ClipTask {
    type Model = Clip;

    fn pass(&mut self, model: &Clip, pass: u64, _step: u64) -> Result<Pass> {
        if self.run.gradient_accumulation > 1 {
            return self.shared_pass(model, pass);
        }
        let (image, text) = Self::embed(model, &self.batches.get(pass)?)?;
        let loss = model.contrastive_loss(image, text, self.loss);
        Ok(self.with_metrics(model, loss))
    }

    /// On the CPU, whose products in bf16 read and write f32: elsewhere the towers would mix types.
    fn has_mixed_precision(&self) -> bool {
        self.is_on_cpu
    }

    fn describe_pass(&self, pass: u64) -> String {
        let size = self.run.batch_size as u64;
        format!("samples {} to {}", pass * size, (pass + 1) * size - 1)
    }

    fn after_step(&mut self, model: Clip, _step: u64) -> Result<Clip> {
        Ok(model.with_clamped_scale())
    }

    fn evaluate(&mut self, model: &Clip, _step: u64, dir: &Path) -> Result<Evaluation> {
        self.save(model.valid(), dir)?;
        let mut evaluation = Evaluation::default();
        if self.validation.is_empty() {
            return Ok(evaluation);
        }
        let model = ClipModel {
            config: self.model_config.clone(),
            text: CaptionTokenizer::ByteLevel(self.text.clone()),
            clip: model.valid(),
        };
        let pictures: Vec<Image> = self
            .validation
            .iter()
            .map(|sample| sample.picture.clone())
            .collect();
        let captions: Vec<String> = self
            .validation
            .iter()
            .map(|sample| sample.captions.first().cloned().unwrap_or_default())
            .collect();
        let image = model.embed_pictures(&pictures)?;
        let text = model.embed_texts(&captions, LongCaption::Truncate)?;
        let loss = model
            .clip
            .contrastive_loss(image.clone(), text.clone(), self.loss)
            .into_scalar::<f32>();
        evaluation
            .values
            .push(("validation_loss".into(), loss.into()));
        let cosines = numbers(unit(image).matmul(unit(text).transpose()))?;
        let (to_image, to_text) = (
            Recall::of(&cosines, Direction::TextToImage),
            Recall::of(&cosines, Direction::ImageToText),
        );
        for (name, recall) in [("text_to_image", to_image), ("image_to_text", to_text)] {
            for (k, share) in RANKS.into_iter().zip(recall.at) {
                let name = format!("validation_{name}_r{k}");
                evaluation.values.push((name, share));
            }
        }
        Ok(evaluation)
    }
}
