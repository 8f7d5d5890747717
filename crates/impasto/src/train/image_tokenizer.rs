//! Training the image tokenizer: pixels in, pixels out, through a codebook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData, module as ops};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::ahead::Ahead;
use super::config::{RunConfig, check_count, check_trainable};
use super::engine::{self, Evaluation, Observer, Pass, Task, check_flat, flat_sizes};
use super::optimizer::{NamedGradients, Optimizer, rewrap};
use super::source::{SourceConfig, held_out, open};
use crate::checkpoint::check_numbers;
use crate::checkpoint::weights::{self, Precision};
use crate::error::Reason;
use crate::image::metrics::{psnr, ssim};
use crate::image::{Format, Image};
use crate::models::discriminator::Discriminator;
use crate::models::dvae::{self, Dvae};
use crate::models::image_tokenizer::{CodeUsage, pixel_data};
use crate::models::parameters::{self, Parameters};
use crate::models::vqgan::Vqgan;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::{Error, Result, files};

/// The config file of `impasto train image-tokenizer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTokenizerTrainingConfig {
    /// The autoencoder.
    pub model: ImageTokenizerConfig,
    /// Output directory of a finished training of the same autoencoder, whose weights this one starts from.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// The pictures.
    pub data: SourceConfig,
    /// The run.
    #[serde(default)]
    pub run: RunConfig,
    /// The VQGAN's losses.
    #[serde(default)]
    pub vqgan: VqganLoss,
    /// The dVAE's losses.
    #[serde(default)]
    pub dvae: DvaeLoss,
    /// Held-out pictures measured at each checkpoint.
    #[serde(default = "default_validation")]
    pub validation: usize,
}

fn default_validation() -> usize {
    256
}

/// What the VQGAN is trained on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqganLoss {
    /// Squared error at full, half and quarter size.
    pub pixel: f64,
    /// Absolute error at full size.
    pub absolute: f64,
    /// Absolute error of the differences between neighbours.
    pub gradient: f64,
    /// Pull of the encoder towards its codes (β of arXiv:1711.00937).
    pub commitment: f64,
    /// Decay of the codes' moving averages.
    pub codebook_decay: f64,
    /// A code whose average use falls below this many times a step is restarted.
    pub restart_below: f32,
    /// The PatchGAN; none leaves it out.
    pub adversarial: Option<Adversarial>,
}

impl Default for VqganLoss {
    fn default() -> Self {
        VqganLoss {
            pixel: 1.0,
            absolute: 0.2,
            gradient: 0.2,
            commitment: 0.25,
            codebook_decay: 0.98,
            restart_below: 0.05,
            adversarial: None,
        }
    }
}

/// The PatchGAN's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adversarial {
    /// Its weight in the decoder's loss.
    pub weight: f64,
    /// The step at which it begins.
    pub start_step: u64,
    /// Channels after its first convolution.
    pub width: usize,
    /// Its halvings.
    pub n_layers: usize,
    /// Its learning rate.
    pub learning_rate: f64,
}

impl Adversarial {
    fn validate(&self) -> Result<()> {
        let bad = |reason: Reason| Err(Error::invalid("vqgan.adversarial", reason));
        // Its normalisations have four groups.
        if self.width == 0 || self.width > 1 << 12 || !self.width.is_multiple_of(4) {
            return bad(format!(
                "width is {}, expected a multiple of 4 up to 4096",
                self.width
            )
            .into());
        }
        if !(1..=16).contains(&self.n_layers) {
            return bad(format!("n_layers is {}, expected 1 to 16", self.n_layers).into());
        }
        Ok(())
    }
}

/// The dVAE's schedules (arXiv:2102.12092, appendix A.2, scaled to the length of the run).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DvaeLoss {
    /// Gumbel-softmax temperature at the start.
    pub temperature: f64,
    /// And at the end of its cosine.
    pub final_temperature: f64,
    /// Share of the run over which it falls (the paper: 150,000 of 3,000,000 steps).
    pub temperature_share: f64,
    /// Weight of the KL term per position at the end of its rise, relative to the nats per pixel value.
    pub kl_weight: f64,
    /// Share of the run over which it rises.
    pub kl_share: f64,
}

impl Default for DvaeLoss {
    fn default() -> Self {
        // The paper's β = 6.6 divides the KL by the number of pixel values (192 a position at 256 px).
        DvaeLoss {
            temperature: 1.0,
            final_temperature: 1.0 / 16.0,
            temperature_share: 0.5,
            kl_weight: 6.6 / 192.0,
            kl_share: 0.1,
        }
    }
}

fn untrained() -> Error {
    Error::invalid(
        "model.architecture",
        "taming_vqgan and discrete_vae are imported, not trained here; expected vqgan or dvae",
    )
}

/// The file that says what the weights beside it are.
pub(super) const CONFIG: &str = "image_tokenizer.json";

/// Trains (or goes on) and writes `image_tokenizer.safetensors` and `image_tokenizer.json` into `dir`.
pub fn run(
    config: &ImageTokenizerTrainingConfig,
    dir: &Path,
    device: &Device,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    config.model.validate()?;
    if let ImageTokenizerConfig::TamingVqgan(_) | ImageTokenizerConfig::DiscreteVae(_) =
        config.model
    {
        return Err(untrained());
    }
    config.run.validate()?;
    check_trainable("model", config.model.parameters())?;
    if let Some(adversarial) = &config.vqgan.adversarial {
        adversarial.validate()?;
    }
    check_count("validation", config.validation)?;
    let _lock = super::folder::open(dir)?;
    let source = open(
        &config.data,
        Some(config.model.picture_size()),
        dir,
        observer,
    )?;
    super::folder::begin(dir, config, source.as_ref(), resume, observer)?;
    let train_device = training_device(device, &config.run);
    let model = match &config.from {
        None => {
            let mut init = Init::new(config.run.seed, &train_device);
            config.model.init(&mut init)
        }
        Some(from) => {
            let model = load(from, &train_device)?;
            if model.config() != config.model {
                let reason = format!("{} holds another autoencoder", from.display());
                return Err(Error::invalid("from", reason));
            }
            model
        }
    };
    let validation: Vec<Image> =
        held_out(source.as_ref(), config.validation, &config.run, observer)?
            .into_iter()
            .map(|sample| sample.picture)
            .collect();
    let (size, batch) = (config.model.picture_size(), config.run.batch_size);
    let pictures = Ahead::new(BATCHES_AHEAD, move |pass| {
        let samples = source.train_batch(pass * batch as u64, batch)?;
        let pictures: Vec<Image> = samples.into_iter().map(|sample| sample.picture).collect();
        pixel_data(&pictures, size)
    });
    let mut task = TokenizerTask {
        config: config.clone(),
        pictures,
        validation,
        device: device.clone(),
        train_device: train_device.clone(),
        averages: None,
        seen: None,
        adversary: config
            .vqgan
            .adversarial
            .as_ref()
            .map(|adversarial| Adversary {
                model: Discriminator::new(
                    &mut Init::new(config.run.seed ^ 0xd15c, &train_device),
                    adversarial.width,
                    adversarial.n_layers,
                ),
                optimizer: Optimizer::new(&RunConfig {
                    ema_decay: 0.0,
                    beta1: 0.5,
                    beta2: 0.9,
                    ..config.run.clone()
                }),
                steps: 0,
            }),
    };
    let trained = engine::train(&mut task, model, &config.run, dir, resume, observer)?;
    let path = dir.join("image_tokenizer.safetensors");
    weights::write(&path, &parameters::export(&trained), Precision::F32)?;
    let json = serde_json::to_vec_pretty(&config.model)
        .map_err(|e| Error::invalid("config", Reason::of(e)))?;
    files::write_atomic(dir.join(CONFIG), &json)?;
    Ok(path)
}

/// Loads what [`run`] wrote.
pub fn load(dir: &Path, device: &Device) -> Result<ImageTokenizer> {
    let path = dir.join(CONFIG);
    let text = files::read(&path)?;
    let config: ImageTokenizerConfig = serde_json::from_slice(&text).map_err(|e| {
        Error::bad_file(&path, Reason::because("not an image tokenizer's config", e))
    })?;
    config
        .validate()
        .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    let (described, path) = (path, dir.join("image_tokenizer.safetensors"));
    let bytes = files::read(&path)?;
    check_numbers(&described, config.parameters(), bytes.len() as u64)?;
    weights::load_into(config.init(&mut Init::empty(device)), &path, &bytes)
}

/// `device` with gradients, and with checkpointing where the run requests it.
pub fn training_device(device: &Device, run: &RunConfig) -> Device {
    let device = device.clone().autodiff();
    if run.gradient_checkpointing {
        device.gradient_checkpointing()
    } else {
        device
    }
}

/// Moving averages of how often each code is used and of the vectors that chose it.
struct CodeAverages {
    counts: Vec<f32>,
    /// `[codebook_size][code_width]`.
    sums: Vec<f32>,
}

/// Batches that are ready before they are needed.
const BATCHES_AHEAD: usize = 3;

struct Adversary {
    model: Discriminator,
    optimizer: Optimizer,
    steps: u64,
}

struct TokenizerTask {
    config: ImageTokenizerTrainingConfig,
    /// The pixels of each pass.
    pictures: Ahead<TensorData>,
    validation: Vec<Image>,
    device: Device,
    train_device: Device,
    averages: Option<CodeAverages>,
    /// Vectors and codes of the last pass, for the codebook.
    seen: Option<(Tensor<2>, Tensor<1, Int>)>,
    adversary: Option<Adversary>,
}

impl TokenizerTask {
    fn vqgan_pass(&mut self, model: &Vqgan, step: u64, batch: Tensor<4>) -> Result<Pass> {
        let loss = self.config.vqgan.clone();
        let Reconstruction {
            mut total,
            pixel,
            commitment,
            drawn,
            vectors,
            ids,
        } = reconstruction(model, &loss, batch.clone());
        self.seen = Some((vectors.inner(), ids));
        let mut metrics = vec![("pixel", pixel), ("commitment", commitment)];
        if let (Some(adversarial), Some(adversary)) = (&loss.adversarial, &mut self.adversary)
            && step >= adversarial.start_step
        {
            let adversary_loss = adversary.model.hinge_loss(batch, drawn.clone().detach());
            let gradients = adversary_loss.backward();
            let gradients = NamedGradients::collect(&adversary.model, &gradients);
            let current = adversary.model.clone();
            adversary.model = adversary.optimizer.step(
                current,
                gradients,
                adversarial.learning_rate,
                1.0,
                adversary.steps,
            );
            adversary.steps += 1;
            let fooling = adversary.model.generator_loss(drawn);
            total = total + fooling.clone().mul_scalar(adversarial.weight);
            metrics.push(("discriminator", adversary_loss.inner()));
            metrics.push(("fooling", fooling));
        }
        Ok(Pass {
            loss: total,
            metrics,
        })
    }

    fn dvae_pass(&self, model: &Dvae, pass: u64, step: u64, batch: Tensor<4>) -> Result<Pass> {
        let schedule = &self.config.dvae;
        let done = step as f64 / self.config.run.steps as f64;
        let cosine = |share: f64| {
            0.5 * (1.0 - (std::f64::consts::PI * (done / share.max(1e-9)).min(1.0)).cos())
        };
        let temperature = schedule.temperature
            + (schedule.final_temperature - schedule.temperature)
                * cosine(schedule.temperature_share);
        let kl_weight = schedule.kl_weight * cosine(schedule.kl_share);
        let logits = model.encode_logits(batch.clone());
        let shape = logits.dims();
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.run.seed);
        rng.set_stream(pass + 1);
        let uniform: Vec<f32> = (0..shape.iter().product())
            .map(|_| rng.random_range(1e-6f32..1.0 - 1e-6))
            .collect();
        let uniform = Tensor::from_data(TensorData::new(uniform, shape), &self.train_device);
        let soft = dvae::gumbel_softmax(logits.clone(), uniform, temperature);
        let nats = dvae::logit_laplace_nats(model.decode_soft(soft), batch);
        let kl = dvae::kl_to_uniform(logits);
        let loss = nats.clone() + kl.clone().mul_scalar(kl_weight);
        let temperature = Tensor::full([1], temperature, &self.device);
        Ok(Pass {
            loss,
            metrics: vec![
                ("pixel_nats", nats),
                ("kl", kl),
                ("temperature", temperature),
            ],
        })
    }

    /// Moves the codes to the averages of the vectors that chose them; restarts those out of use.
    fn move_codes(&mut self, model: Vqgan, step: u64) -> Result<Vqgan> {
        let Some((vectors, ids)) = self.seen.take() else {
            return Ok(model);
        };
        let width = model.config().code_width;
        let codes = model.config().codebook_size;
        let host = |e| Error::invalid("codes", Reason::of(e));
        let vectors: Vec<f32> = vectors.into_data().try_into_vec().map_err(host)?;
        let ids: Vec<i64> = ids
            .into_data()
            .convert::<i64>()
            .try_into_vec()
            .map_err(host)?;
        let averages = match &mut self.averages {
            Some(averages) => averages,
            none => {
                let current: Vec<f32> = model
                    .codebook
                    .val()
                    .inner()
                    .into_data()
                    .try_into_vec()
                    .map_err(host)?;
                none.insert(CodeAverages {
                    counts: vec![1.0; codes],
                    sums: unit(&current, width),
                })
            }
        };
        let decay = self.config.vqgan.codebook_decay as f32;
        let mut counts = vec![0f32; codes];
        let mut sums = vec![0f32; codes * width];
        for (vector, &id) in vectors.chunks_exact(width).zip(&ids) {
            let id = id as usize;
            counts[id] += 1.0;
            for (sum, value) in sums[id * width..].iter_mut().zip(vector) {
                *sum += value;
            }
        }
        for (average, count) in averages.counts.iter_mut().zip(&counts) {
            *average = *average * decay + count * (1.0 - decay);
        }
        for (average, sum) in averages.sums.iter_mut().zip(&sums) {
            *average = *average * decay + sum * (1.0 - decay);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.run.seed ^ 0xc0de);
        rng.set_stream(step);
        for code in 0..codes {
            if averages.counts[code] < self.config.vqgan.restart_below {
                let pick = rng.random_range(0..ids.len());
                averages.counts[code] = 1.0;
                averages.sums[code * width..(code + 1) * width]
                    .copy_from_slice(&vectors[pick * width..(pick + 1) * width]);
            }
        }
        let table = TensorData::new(unit(&averages.sums, width), [codes, width]);
        let table = Tensor::<2>::from_data(table, &self.device);
        let mut model = model;
        model.codebook = model.codebook.map(|old: Tensor<2>| rewrap(old, table));
        Ok(model)
    }
}

impl Task for TokenizerTask {
    type Model = ImageTokenizer;

    fn has_mixed_precision(&self) -> bool {
        matches!(self.config.model, ImageTokenizerConfig::Vqgan(_))
    }

    fn pass(&mut self, model: &ImageTokenizer, pass: u64, step: u64) -> Result<Pass> {
        let batch = Tensor::from_data(self.pictures.get(pass)?, &self.train_device);
        match model {
            ImageTokenizer::Vqgan(model) => self.vqgan_pass(model, step, batch),
            ImageTokenizer::Dvae(model) => self.dvae_pass(model, pass, step, batch),
            ImageTokenizer::TamingVqgan(_) | ImageTokenizer::DiscreteVae(_) => Err(untrained()),
        }
    }

    fn describe_pass(&self, pass: u64) -> String {
        let size = self.config.run.batch_size as u64;
        format!("samples {} to {}", pass * size, (pass + 1) * size - 1)
    }

    fn after_step(&mut self, model: ImageTokenizer, step: u64) -> Result<ImageTokenizer> {
        match model {
            ImageTokenizer::Vqgan(model) => {
                Ok(ImageTokenizer::Vqgan(self.move_codes(model, step)?))
            }
            model => Ok(model),
        }
    }

    fn state(&self) -> BTreeMap<String, Parameters> {
        let mut files = BTreeMap::new();
        if let Some(averages) = &self.averages {
            let codes = averages.counts.len();
            let mut tensors = Parameters::new();
            tensors.insert(
                "counts".into(),
                TensorData::new(averages.counts.clone(), [codes]),
            );
            tensors.insert(
                "sums".into(),
                TensorData::new(averages.sums.clone(), [codes, averages.sums.len() / codes]),
            );
            files.insert("codes".into(), tensors);
        }
        if let Some(adversary) = &self.adversary {
            files.insert("discriminator".into(), parameters::export(&adversary.model));
            let mut moments = Parameters::new();
            moments.insert(
                "steps".into(),
                TensorData::new(vec![adversary.steps as f32], [1]),
            );
            for (name, known) in &adversary.optimizer.moments {
                moments.insert(format!("first.{name}"), known.first.to_data());
                if let Some(second) = &known.second {
                    moments.insert(format!("second.{name}"), second.to_data());
                }
            }
            files.insert("discriminator_moments".into(), moments);
        }
        files
    }

    fn restore(&mut self, mut state: BTreeMap<String, Parameters>) -> Result<()> {
        let host = |e| Error::invalid("checkpoint", Reason::of(e));
        if let Some(mut codes) = state.remove("codes") {
            let mut take = |name: &str| -> Result<Vec<f32>> {
                let data = codes.remove(name);
                data.ok_or_else(|| Error::invalid("checkpoint", format!("has no {name} of codes")))?
                    .try_into_vec()
                    .map_err(host)
            };
            let (counts, sums) = (take("counts")?, take("sums")?);
            if let ImageTokenizerConfig::Vqgan(config) = &self.config.model
                && (counts.len() != config.codebook_size
                    || sums.len() != config.codebook_size * config.code_width)
            {
                return Err(Error::invalid(
                    "checkpoint",
                    "the averages of its codes do not fit the config's codebook",
                ));
            }
            self.averages = Some(CodeAverages { counts, sums });
        }
        if let (Some(adversary), Some(weights)) =
            (&mut self.adversary, state.remove("discriminator"))
        {
            let (model, report) = parameters::load(adversary.model.clone(), weights);
            if !report.is_complete() {
                return Err(Error::invalid("checkpoint", report.summary()));
            }
            adversary.model = model;
            let mut moments = state.remove("discriminator_moments").unwrap_or_default();
            if let Some(steps) = moments.remove("steps") {
                adversary.steps = steps
                    .try_into_vec::<f32>()
                    .map_err(host)?
                    .first()
                    .map_or(0, |&steps| steps as u64);
            }
            let sizes = flat_sizes(&adversary.model);
            for (name, data) in &moments {
                let parameter = name.split_once('.').map_or("", |(_, parameter)| parameter);
                check_flat(parameter, data, &sizes)?;
            }
            let names: Vec<String> = moments
                .keys()
                .filter_map(|name| name.strip_prefix("first.").map(str::to_owned))
                .collect();
            for name in names {
                let mut take = |kind: &str| {
                    let data = moments.remove(&format!("{kind}.{name}"));
                    data.map(|data| Tensor::<1>::from_data(data, &self.device))
                };
                if let (Some(first), second) = (take("first"), take("second")) {
                    adversary
                        .optimizer
                        .moments
                        .insert(name, super::optimizer::Moments { first, second });
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, model: &ImageTokenizer, step: u64, dir: &Path) -> Result<Evaluation> {
        use burn::module::Module;
        if self.validation.is_empty() {
            return Ok(Evaluation::default());
        }
        let model = model.valid();
        let ids = model.encode(&self.validation, &self.device)?;
        let drawn = model.decode(&ids)?;
        let mut evaluation = Evaluation::default();
        let count = drawn.len().max(1) as f64;
        let pairs = || drawn.iter().zip(&self.validation);
        let mean_psnr = pairs().map(|(a, b)| psnr(a, b)).sum::<f64>() / count;
        let mean_ssim = pairs().map(|(a, b)| ssim(a, b)).sum::<f64>() / count;
        let usage = CodeUsage::of(&ids, self.config.model.codebook_size());
        evaluation.values = vec![
            ("validation_psnr".into(), mean_psnr),
            ("validation_ssim".into(), mean_ssim),
            ("validation_code_usage".into(), usage.share),
            ("validation_code_perplexity".into(), usage.perplexity),
        ];
        if step >= self.config.run.warmup_steps && usage.share < 0.1 {
            evaluation.warnings.push(format!(
                "the codebook has collapsed: {:.1} % of its codes are used at step {step}; lower the learning rate or restart codes sooner",
                100.0 * usage.share
            ));
        }
        let mut shown = Vec::new();
        for (drawn, picture) in drawn.iter().zip(&self.validation).take(8) {
            shown.push(picture.clone());
            shown.push(drawn.clone());
        }
        let samples = dir.join("samples");
        std::fs::create_dir_all(&samples).map_err(Error::io("create", &samples))?;
        let grid = Image::grid(&shown, 4, 2)?;
        files::write_atomic(
            samples.join(format!("step-{step:08}.png")),
            &grid.encode(Format::Png, 100)?,
        )?;
        Ok(evaluation)
    }
}

/// What a VQGAN makes of a batch, and its losses.
pub(crate) struct Reconstruction {
    /// The weighted sum of all losses but the PatchGAN's, `[1]`.
    pub total: Tensor<1>,
    /// [`VqganLoss::pixel`]'s, unweighted, `[1]`.
    pub pixel: Tensor<1>,
    /// [`VqganLoss::commitment`]'s, unweighted, `[1]`.
    pub commitment: Tensor<1>,
    /// `[batch, 3, size, size]`.
    pub drawn: Tensor<4>,
    /// What was snapped to codes, `[batch · grid², code_width]`.
    pub vectors: Tensor<2>,
    /// The codes, `[batch · grid²]`.
    pub ids: Tensor<1, Int>,
}

/// A batch through the codebook and back.
///
/// # Shapes
/// - `batch`: `[batch, 3, size, size]` in −1..1
pub(crate) fn reconstruction(model: &Vqgan, loss: &VqganLoss, batch: Tensor<4>) -> Reconstruction {
    let vectors = model.encode_vectors(batch.clone());
    let ids = model.nearest(vectors.clone().detach());
    let codes = model.codes(ids.clone()).detach();
    let commitment = (vectors.clone() - codes.clone()).square().sum_dim(1).mean();
    // Straight through: the decoder sees codes, their gradient goes to the encoder.
    let through = vectors.clone() + (codes - vectors.clone()).detach();
    let drawn = model.decode_vectors(through);
    let error = drawn.clone() - batch;
    let pixel = multi_scale_square(error.clone());
    let absolute = error.clone().abs().mean();
    let gradient = neighbour_differences(error);
    let total = pixel.clone().mul_scalar(loss.pixel)
        + absolute.mul_scalar(loss.absolute)
        + gradient.mul_scalar(loss.gradient)
        + commitment.clone().mul_scalar(loss.commitment);
    Reconstruction {
        total,
        pixel,
        commitment,
        drawn,
        vectors,
        ids,
    }
}

/// Mean squares of the error at full, half and quarter size.
fn multi_scale_square(error: Tensor<4>) -> Tensor<1> {
    let mut total = error.clone().square().mean();
    let mut error = error;
    for _ in 0..2 {
        let [_, _, height, width] = error.dims();
        if height < 2 || width < 2 {
            break;
        }
        error = ops::avg_pool2d(
            error,
            burn::tensor::ops::AvgPoolOptions::new([2, 2]).with_stride([2, 2]),
        );
        total = total + error.clone().square().mean();
    }
    total
}

/// Mean absolute difference of neighbouring errors: keeps edges.
fn neighbour_differences(error: Tensor<4>) -> Tensor<1> {
    let [_, _, height, width] = error.dims();
    let down = error.clone().narrow(2, 1, height - 1) - error.clone().narrow(2, 0, height - 1);
    let right = error.clone().narrow(3, 1, width - 1) - error.narrow(3, 0, width - 1);
    down.abs().mean() + right.abs().mean()
}

fn unit(rows: &[f32], width: usize) -> Vec<f32> {
    let mut rows = rows.to_vec();
    for row in rows.chunks_exact_mut(width) {
        let norm = (row.iter().map(|value| value * value).sum::<f32>() + 1e-12).sqrt();
        row.iter_mut().for_each(|value| *value /= norm);
    }
    rows
}
