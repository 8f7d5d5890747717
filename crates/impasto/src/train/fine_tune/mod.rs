//! Fine-tuning a model of any family: all of its weights, or low-rank adapters of some of them ([`crate::nn::lora`])
//! while the rest stays as it is, in the precision that it is held in.
//!
//! Each family is trained by its own loss ([`Family::loss`]). Captions are dropped for guidance as each family samples
//! without them.
//!
//! Deviations: layers and embeddings that DALLE-pytorch shares are weights of their own here, as everywhere in this
//! program, so each of them learns for itself; its dropout within layers is left out.

mod task;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor};
use serde::{Deserialize, Serialize};

use self::task::{FullFineTune, LoraFineTune, Session};
use super::config::{OptimizerKind, RunConfig, check_count};
use super::encoded::{self, Encoding};
use super::engine::{self, Observer};
use super::image_tokenizer::training_device;
use super::source::{SourceConfig, held_out, open_scaled};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::adapter::{self, AdapterConfig, Architecture, fingerprint};
use crate::error::Hint;
use crate::families::NetSizes;
use crate::families::{Family, FamilyModel, FamilyVisitor, ModelFiles, ModelKind, visit};
use crate::models::{ImageTokenizer, parameters};
use crate::nn::{Adapt, Adapter, Init, LoraConfig};
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// The config file of `impasto train dalle` where the model that is trained on is a published one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuneConfig {
    /// The finished model's name.
    pub name: String,
    /// SPDX expression of the finished weights' licence; that of the model where none is given.
    #[serde(default)]
    pub licence: Option<String>,
    /// The model, by its name or folder.
    #[serde(default)]
    pub from: Option<String>,
    /// The pairs.
    pub data: SourceConfig,
    /// Pictures encoded ahead of the training; each step draws from these. None: all of a finite data
    /// set, required for an endless one.
    #[serde(default)]
    pub encoded_pictures: Option<u64>,
    /// The run.
    #[serde(default)]
    pub run: RunConfig,
    /// Train additions of low rank; else all weights.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// In what the weights that stay as they are are held, with `lora`; as they are stored where nothing is given.
    #[serde(default)]
    pub precision: Option<WeightFormat>,
    /// Share of the captions dropped, for guidance.
    #[serde(default = "default_caption_dropout")]
    pub caption_dropout: f64,
    /// How many times more the picture's loss counts than the caption's; for DALLE-pytorch alone, whose own 7 is the
    /// default.
    #[serde(default)]
    pub image_loss_weight: Option<f64>,
    /// What the finished model's `generate` uses by default, and the samples drawn on the way; the model's own where
    /// nothing is given.
    #[serde(default)]
    pub sampling: Option<SamplingOptions>,
    /// Held-out pairs measured at each checkpoint.
    #[serde(default = "default_validation")]
    pub validation: usize,
    /// Of these, pictures drawn at each checkpoint.
    #[serde(default = "default_samples")]
    pub samples: usize,
}

fn default_caption_dropout() -> f64 {
    0.1
}

fn default_validation() -> usize {
    32
}

fn default_samples() -> usize {
    4
}

impl FineTuneConfig {
    fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("training config", reason));
        self.run.validate()?;
        check_count("validation", self.validation)?;
        if self.run.optimizer == OptimizerKind::Muon {
            return bad("optimizer is muon, which knows our own blocks; expected adamw".into());
        }
        if let Some(sampling) = &self.sampling {
            sampling.validate()?;
        }
        if let Some(lora) = &self.lora {
            lora.validate()?;
        }
        if !(0.0..=1.0).contains(&self.caption_dropout) {
            return bad(format!(
                "caption_dropout is {}, expected 0 to 1",
                self.caption_dropout
            ));
        }
        if let Some(weight) = self.image_loss_weight
            && !(weight > 0.0 && weight.is_finite())
        {
            return bad(format!(
                "image_loss_weight is {weight}, expected a positive number"
            ));
        }
        match (self.precision, &self.lora) {
            (Some(format), None) if !format.is_f32() => bad(format!(
                "precision is {format}, which weights can't be trained in: expected f32, or \"lora\", whose weights stay as they are"
            )),
            _ => Ok(()),
        }
    }
}

/// Fine-tunes a model (or resumes that) and writes the whole model into `dir/model`, or with `lora` the adapter into
/// `dir/adapter`.
pub fn run(
    config: &FineTuneConfig,
    model: &ModelFiles,
    dir: &Path,
    device: &Device,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    struct Start<'a> {
        config: &'a FineTuneConfig,
        model: &'a ModelFiles,
        place: Run<'a>,
        observer: &'a mut dyn Observer,
    }
    impl FamilyVisitor for Start<'_> {
        type Output = Result<PathBuf>;

        fn visit<F: Family>(self) -> Result<PathBuf> {
            let Start {
                config,
                model,
                place,
                observer,
            } = self;
            if config.image_loss_weight.is_some() && F::IMAGE_LOSS_WEIGHT.is_none() {
                return Err(Error::invalid(
                    "training config",
                    format!(
                        "image_loss_weight is for families with a loss of texts; {} has a loss of pictures alone",
                        F::TITLE
                    ),
                ));
            }
            let wanted = match config.lora {
                Some(_) => config.precision,
                None => Some(WeightFormat::F32),
            };
            let model = FamilyModel::<F>::load(model, place.device, wanted)?;
            train(config, model, place, observer)
        }
    }
    config.validate()?;
    let place = Run {
        dir,
        device,
        resume,
    };
    let start = Start {
        config,
        model,
        place,
        observer,
    };
    let trained = match model.kind {
        ModelKind::Family(name) => visit(name, start),
        ModelKind::ImageTokenizer => None,
    };
    trained.unwrap_or_else(|| {
        Err(Error::invalid(
            "from",
            "is a model without a transformer, which can't be fine-tuned; expected one that draws",
        ))
    })
}

/// The folder in a run's own where the additions are written.
const ADAPTER: &str = "adapter";

/// Where a run takes place.
struct Run<'a> {
    dir: &'a Path,
    device: &'a Device,
    resume: bool,
}

fn train<F: Family>(
    config: &FineTuneConfig,
    mut model: FamilyModel<F>,
    run: Run<'_>,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    let Run {
        dir,
        device,
        resume,
    } = run;
    if let ImageTokenizer::TamingVqgan(vqgan) = &model.image
        && !vqgan.reads_pictures()
    {
        return Err(
            Error::invalid("from", "came without an encoder, so no picture can be read")
                .with_hint(Hint::WithImageTokenizer),
        );
    }
    let train_device = training_device(device, &config.run);
    // What can be refused is, before pictures are encoded.
    let adapter = match &config.lora {
        None => None,
        Some(lora) => {
            let mut init = Init::new(config.run.seed, &train_device);
            let adapter = Adapter::new(lora, &model.net.linears(), &mut init)?;
            let base = &model.config;
            let about = AdapterConfig {
                architecture: Architecture::Lora,
                name: config.name.clone(),
                licence: config.licence.clone().unwrap_or(base.licence.clone()),
                base: base.name.clone(),
                base_fingerprint: fingerprint(&model.net),
                lora: lora.clone(),
                sampling: config.sampling.clone(),
            };
            check_base(&dir.join(ADAPTER), resume, &about)?;
            Some((adapter, about))
        }
    };
    let _lock = super::folder::open(dir)?;
    let size = model.image.config().picture_size();
    let source = open_scaled(&config.data, size, dir, observer)?;
    super::folder::begin(dir, config, source.as_ref(), resume, observer)?;
    let count = encoded::count(config.encoded_pictures, source.as_ref())?;
    let image_weights = digest(&model.image);
    let fingerprint_of_data =
        encoded::fingerprint(&config.data, &image_weights, source.as_ref(), count)?;
    let encoding = Encoding {
        text: &model,
        image: &model.image,
        device,
    };
    let tokens = dir.join("tokens.bin");
    let fingerprint_of_data = fingerprint_of_data.as_str();
    let training = encoding.training(
        source.as_ref(),
        count,
        &tokens,
        fingerprint_of_data,
        observer,
    )?;
    let held_out = held_out(source.as_ref(), config.validation, &config.run, observer)?;
    let validation = encoding.samples(&held_out)?;
    // Where the model was, an empty net stands.
    let empty = model.config.sizes.init(&mut Init::empty(device));
    let net = std::mem::replace(&mut model.net, empty);
    let session = Session {
        config: config.clone(),
        model,
        training,
        validation,
    };
    let run = &config.run;
    let Some((adapter, about)) = adapter else {
        let net = for_training(F::for_training(net), run);
        let mut task = FullFineTune(session);
        let trained = engine::train(&mut task, net, run, dir, resume, observer)?;
        return task.save(&trained.valid(), dir);
    };
    let mut task = LoraFineTune {
        session,
        base: net,
        about,
    };
    let trained = engine::train(&mut task, adapter, run, dir, resume, observer)?;
    task.save(&trained.valid(), dir)
}

/// Refuses to go on from an adapter of another model.
fn check_base(dir: &Path, resume: bool, about: &AdapterConfig) -> Result<()> {
    if !resume || !dir.join("config.json").is_file() {
        return Ok(());
    }
    let begun = adapter::config(dir)?;
    if begun.base_fingerprint == about.base_fingerprint {
        return Ok(());
    }
    Err(Error::invalid(
        "from",
        format!(
            "is not the model that the training in this folder began with, which was {}",
            begun.base
        ),
    )
    .with_hint(Hint::OtherOutput))
}

/// Stands for an image tokenizer's weights.
fn digest<M: Module>(module: &M) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    for (name, data) in parameters::export(module) {
        digest.update(name);
        digest.update(data.as_bytes());
    }
    digest.finalize().to_vec()
}

/// All weights on the device that keeps gradients.
fn for_training<M: Module>(model: M, run: &RunConfig) -> M {
    let model = model.train();
    match run.gradient_checkpointing {
        true => model.map(&mut Checkpointing),
        false => model,
    }
}

struct Checkpointing;

impl ModuleMapper for Checkpointing {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let requires = tensor.is_require_grad();
            tensor
                .with_gradient_checkpointing_strategy(GradientCheckpointingStrategy::Balanced)
                .set_require_grad(requires)
        })
    }
}
