//! Training the transformer on captions and encoded pictures.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Device;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::ahead::Ahead;
use super::config::check_count;
pub use super::dalle_config::{DalleTrainingConfig, Sizes};
use super::encoded::{self, Encoded, Encoding, Padded};
use super::engine::{self, Evaluation, Observer, Pass, Task};
use super::image_tokenizer::training_device;
use super::initial_model::InitialModel;
use super::source::{ImageSource, epoch_index, held_out, open};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::weights::Precision;
use crate::engine::{SampleSpec, sample_guided};
use crate::families::{NativeConfig, NativeModel, NativeOptions, SaveAs};
use crate::image::{Format, Image};
use crate::models::dalle::{DalleBatch, Order, around_hole, raster, shuffled};
use crate::models::{Dalle, DalleConfig, ImageTokenizer};
use crate::nn::{ComputePrecision, precision};
use crate::observer::NoObserver;
use crate::text::{PAD, TextTokenizer};
use crate::{Error, Result, files};

/// Trains (or goes on) and writes the whole model into `dir/model`.
pub fn run(
    config: &DalleTrainingConfig,
    dir: &Path,
    device: &Device,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    config.run.validate()?;
    config.sampling.validate()?;
    check_count("validation", config.validation)?;
    let shares = [
        config.raster_share,
        config.hole_share,
        config.caption_dropout,
        config.captioning_share,
    ];
    if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
        return Err(Error::invalid(
            "training config",
            "raster_share, hole_share, caption_dropout and captioning_share must lie between 0 and 1",
        ));
    }
    let train_device = training_device(device, &config.run);
    let InitialModel {
        text,
        image,
        image_weights,
        dalle,
    } = InitialModel::of(config, device, &train_device)?;
    let dalle_config = dalle.config().clone();
    let _lock = super::folder::open(dir)?;
    let source = open(
        &config.data,
        Some(image.config().picture_size()),
        dir,
        observer,
    )?;
    super::folder::begin(dir, config, source.as_ref(), resume, observer)?;
    let encoding = Encoding {
        text: &Padded {
            text: &text,
            length: dalle_config.text_length,
        },
        image: &image,
        device,
    };
    let validation = held_out(source.as_ref(), config.validation, &config.run, observer)?;
    let validation = encoding.samples(&validation)?;
    let training = match (config.encoded_pictures, source.count()) {
        (None, None) => Pairs::Streamed(Box::new(Stream {
            source,
            image: match config.run.precision.on(device, true)? {
                ComputePrecision::F32 => image.clone(),
                // Beside a training in bf16 the device encodes in bf16, too: another id of two that are as near.
                ComputePrecision::Bf16 => precision::in_bf16(&image),
            },
            device: device.clone(),
        })),
        _ => {
            let count = encoded::count(config.encoded_pictures, source.as_ref())?;
            let fingerprint =
                encoded::fingerprint(&config.data, &image_weights, source.as_ref(), count)?;
            let tokens = dir.join("tokens.bin");
            let source = source.as_ref();
            Pairs::Kept(encoding.training(source, count, &tokens, &fingerprint, observer)?)
        }
    };
    let model_config = NativeConfig {
        name: config.name.clone(),
        licence: config.licence.clone(),
        image_tokenizer: image.config(),
        sizes: dalle_config,
        sampling: config.sampling.clone(),
        options: NativeOptions {
            any_order: config.raster_share < 1.0,
            captions_images: config.captioned() > 0,
        },
        precision: WeightFormat::F32,
    };
    let batches = Batches {
        config: config.clone(),
        dalle: model_config.sizes.clone(),
        text: text.clone(),
        pairs: training,
        planned: Mutex::default(),
    };
    let batches = Ahead::new(BATCHES_AHEAD, move |pass| batches.batch(pass));
    let mut task = DalleTask {
        config: config.clone(),
        model_config,
        device: device.clone(),
        text,
        image,
        batches: batches.on(device),
        validation,
    };
    let trained = engine::train(&mut task, dalle, &config.run, dir, resume, observer)?.valid();
    task.save(trained, dir)
}

struct DalleTask {
    config: DalleTrainingConfig,
    model_config: NativeConfig,
    device: Device,
    text: TextTokenizer,
    image: ImageTokenizer,
    batches: Ahead<DalleBatch>,
    validation: Encoded,
}

/// Passes whose pairs are sorted by the length of their captions, so that a pass has little padding.
const ALIKE: u64 = 8;

/// Batches that are ready before they are needed.
const BATCHES_AHEAD: usize = 4;

/// The pairs that are trained on.
enum Pairs {
    /// Encoded before the training.
    Kept(Encoded),
    /// Made and encoded beside it.
    Streamed(Box<Stream>),
}

/// Pairs that are made and encoded beside the training.
struct Stream {
    source: Box<dyn ImageSource>,
    image: ImageTokenizer,
    device: Device,
}

impl Stream {
    /// The image ids of pairs, in their order.
    fn image_ids(&self, rows: &[Row]) -> Result<Vec<Vec<u32>>> {
        let pictures = rows.par_iter().map(|(number, _)| {
            let mut samples = self.source.train_batch(*number, 1)?;
            samples
                .pop()
                .map(|sample| sample.picture)
                .ok_or_else(|| Error::invalid("training", format!("picture {number} is missing")))
        });
        let pictures: Vec<Image> = pictures.collect::<Result<_>>()?;
        self.image.encode(&pictures, &self.device)
    }
}

/// A pair of a pass: its number among the training pairs, and the caption that was chosen.
type Row = (u64, Vec<u32>);

/// The first of [`ALIKE`] passes, and the pairs of each of them.
type Plan = (u64, Vec<Vec<Row>>);

/// Plans kept in memory: two threads make the passes alternately, and one of them may still need the plan before.
const PLANS: usize = 2;

/// What makes batches; everything random of a pass comes from (seed, pass).
struct Batches {
    config: DalleTrainingConfig,
    dalle: DalleConfig,
    text: TextTokenizer,
    pairs: Pairs,
    planned: Mutex<Vec<Plan>>,
}

impl Batches {
    /// The pairs of a pass, of captions about as long. [`ALIKE`] passes have the pairs that as many passes in order would
    /// have.
    fn pairs_alike(&self, pass: u64) -> Result<Vec<Row>> {
        let first = pass / ALIKE * ALIKE;
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = |plan: &Plan| plan.1[(pass - first) as usize].clone();
        if let Some(plan) = planned.iter().find(|plan| plan.0 == first) {
            return Ok(pairs(plan));
        }
        let plan = (first, self.plan(first)?);
        let of_pass = pairs(&plan);
        if planned.len() == PLANS {
            planned.remove(0);
        }
        planned.push(plan);
        Ok(of_pass)
    }

    /// The pairs of [`ALIKE`] passes from `first` on.
    fn plan(&self, first: u64) -> Result<Vec<Vec<Row>>> {
        let size = self.config.run.batch_size as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.run.seed);
        // The streams of passes are small numbers.
        rng.set_stream(u64::MAX - first);
        let numbers = first * size..(first + ALIKE) * size;
        let mut choose = |count: usize| rng.random_range(0..count);
        let mut pairs: Vec<Row> = match &self.pairs {
            Pairs::Kept(encoded) => numbers
                .map(|number| {
                    let captions = &encoded.text_ids[self.sample(encoded, number)];
                    (number, captions[choose(captions.len())].clone())
                })
                .collect(),
            Pairs::Streamed(stream) => {
                let count = (ALIKE * size) as usize;
                let captions = stream.source.train_captions(first * size, count)?;
                let chosen: Vec<String> = captions
                    .into_iter()
                    .map(|mut captions| captions.swap_remove(choose(captions.len())))
                    .collect();
                let length = self.dalle.text_length;
                let ids = chosen
                    .par_iter()
                    .map(|caption| self.text.encode_caption(caption, length, true));
                let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
                numbers.zip(ids).collect()
            }
        };
        pairs.sort_by_key(|(_, ids)| length(ids));
        let mut passes: Vec<Vec<Row>> = pairs.chunks(size as usize).map(<[Row]>::to_vec).collect();
        passes.shuffle(&mut rng);
        Ok(passes)
    }

    /// Which of the encoded pairs pair `number` of a training is.
    fn sample(&self, encoded: &Encoded, number: u64) -> usize {
        epoch_index(self.config.run.seed, encoded.image_ids.len() as u64, number)
    }

    /// For each row of a pass: its captions, as ids where they are kept so, and its image ids.
    fn rows(&self, pass: u64) -> Result<Vec<(Captions<'_>, Vec<u32>)>> {
        let size = self.config.run.batch_size as u64;
        if !self.dalle.padded_text {
            let rows = self.pairs_alike(pass)?;
            let image_ids = match &self.pairs {
                Pairs::Kept(encoded) => {
                    let of = |row: &Row| encoded.image_ids[self.sample(encoded, row.0)].clone();
                    rows.iter().map(of).collect()
                }
                Pairs::Streamed(stream) => stream.image_ids(&rows)?,
            };
            let captions = rows.into_iter().map(|(_, ids)| Captions::Chosen(ids));
            return Ok(captions.zip(image_ids).collect());
        }
        match &self.pairs {
            Pairs::Kept(encoded) => Ok((pass * size..(pass + 1) * size)
                .map(|number| {
                    let sample = self.sample(encoded, number);
                    let captions = Captions::Encoded(&encoded.text_ids[sample]);
                    (captions, encoded.image_ids[sample].clone())
                })
                .collect()),
            Pairs::Streamed(stream) => {
                let samples = stream.source.train_batch(pass * size, size as usize)?;
                let (pictures, captions): (Vec<Image>, Vec<Vec<String>>) = samples
                    .into_iter()
                    .map(|sample| (sample.picture, sample.captions))
                    .unzip();
                let ids = stream.image.encode(&pictures, &stream.device)?;
                Ok(captions.into_iter().map(Captions::Text).zip(ids).collect())
            }
        }
    }

    fn batch(&self, pass: u64) -> Result<DalleBatch> {
        let size = self.config.run.batch_size;
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.run.seed);
        rng.set_stream(pass + 1);
        let (positions, length) = (self.dalle.image_length(), self.dalle.text_length);
        let mut batch = DalleBatch {
            text_ids: Vec::with_capacity(size),
            image_ids: Vec::with_capacity(size),
            orders: Vec::with_capacity(size),
            captioned: self.config.captioned(),
        };
        for (row, (captions, image_ids)) in self.rows(pass)?.into_iter().enumerate() {
            let choice = rng.random_range(0..captions.len());
            let dropped = rng.random_bool(self.config.caption_dropout) && row >= batch.captioned;
            batch.text_ids.push(match captions {
                _ if dropped => self.text.null_caption(length),
                Captions::Encoded(ids) => ids[choice].clone(),
                Captions::Chosen(ids) => ids,
                Captions::Text(texts) => self.text.encode_caption(&texts[choice], length, true)?,
            });
            batch.image_ids.push(image_ids);
            let in_raster = rng.random_bool(self.config.raster_share);
            // No random number is taken for what is switched off: older runs continue as they were.
            let hole_share = self.config.hole_share;
            batch.orders.push(if in_raster {
                raster(positions)
            } else if hole_share > 0.0 && rng.random_bool(hole_share) {
                around_hole(self.dalle.grid, &mut rng)
            } else {
                shuffled(positions, &mut rng)
            });
        }
        Ok(batch)
    }
}

/// Ids before the padding.
fn length(ids: &[u32]) -> usize {
    ids.iter().position(|&id| id == PAD).unwrap_or(ids.len())
}

/// A picture's captions.
enum Captions<'a> {
    Encoded(&'a [Vec<u32>]),
    Chosen(Vec<u32>),
    Text(Vec<String>),
}

impl Captions<'_> {
    fn len(&self) -> usize {
        match self {
            Captions::Encoded(ids) => ids.len(),
            Captions::Chosen(_) => 1,
            Captions::Text(texts) => texts.len(),
        }
    }
}

impl DalleTask {
    /// Writes the whole model, ready to draw, into the run's directory.
    fn save(&self, dalle: Dalle, dir: &Path) -> Result<PathBuf> {
        let model = NativeModel {
            config: self.model_config.clone(),
            text: self.text.clone(),
            image: self.image.clone(),
            net: dalle,
            device: self.device.clone(),
        };
        let path = dir.join("model");
        model.save(&path, SaveAs::Floats(Precision::F16))?;
        Ok(path)
    }
}

impl Task for DalleTask {
    type Model = Dalle;

    fn pass(&mut self, model: &Dalle, pass: u64, _step: u64) -> Result<Pass> {
        let losses = model.losses(&self.batches.get(pass)?, &self.config.losses);
        let mut metrics = vec![("text_nats", losses.text), ("image_nats", losses.image)];
        metrics.extend(losses.caption.map(|loss| ("caption_nats", loss)));
        metrics.extend(losses.contrastive.map(|loss| ("contrastive", loss)));
        Ok(Pass {
            loss: losses.total,
            metrics,
        })
    }

    fn has_mixed_precision(&self) -> bool {
        true
    }

    fn pass_operations(&self) -> Option<f64> {
        // Without padding a pass is as long as its captions are.
        if !self.model_config.sizes.padded_text {
            return None;
        }
        let rows = self.config.run.batch_size + self.config.captioned();
        Some(rows as f64 * self.model_config.sizes.training_operations())
    }

    fn describe_pass(&self, pass: u64) -> String {
        let size = self.config.run.batch_size as u64;
        format!("samples {} to {}", pass * size, (pass + 1) * size - 1)
    }

    fn evaluate(&mut self, model: &Dalle, step: u64, dir: &Path) -> Result<Evaluation> {
        let model = model.valid();
        // The run continues, but its model can be used from here on, whatever becomes of what follows.
        self.save(model.clone(), dir)?;
        let positions = self.model_config.sizes.image_length();
        let (mut text, mut image, mut batches) = (0.0, 0.0, 0.0f64);
        let rows = self.validation.image_ids.len();
        let caption = |row: usize| &self.validation.text_ids[row][0];
        let mut order: Vec<usize> = (0..rows).collect();
        if !self.model_config.sizes.padded_text {
            order.sort_by_key(|&row| length(caption(row)));
        }
        for rows in order.chunks(32) {
            let image_ids = |&row: &usize| self.validation.image_ids[row].clone();
            let batch = DalleBatch {
                text_ids: rows.iter().map(|&row| caption(row).clone()).collect(),
                image_ids: rows.iter().map(image_ids).collect(),
                orders: vec![raster(positions); rows.len()],
                captioned: 0,
            };
            let losses = model.losses(&batch, &self.config.losses);
            let weight = rows.len() as f64;
            text += weight * f64::from(losses.text.into_scalar::<f32>());
            image += weight * f64::from(losses.image.into_scalar::<f32>());
            batches += weight;
        }
        let mut evaluation = Evaluation::default();
        if batches > 0.0 {
            evaluation.values = vec![
                ("validation_text_nats".into(), text / batches),
                ("validation_image_nats".into(), image / batches),
            ];
        }
        let shown = rows.min(8);
        let drawings: Vec<SampleSpec> = (0..shown)
            .map(|row| SampleSpec {
                text_ids: match self.model_config.sizes.padded_text {
                    true => caption(row).clone(),
                    false => caption(row)[..length(caption(row))].to_vec(),
                },
                seed: row as u64,
            })
            .collect();
        if shown > 0 {
            let null = |caption: &[u32]| self.text.null_caption(caption.len());
            let drawn = sample_guided(
                &model,
                &drawings,
                &null,
                &self.config.sampling,
                Order::Raster,
                &mut NoObserver,
            )?;
            let ids: Vec<Vec<u32>> = drawn.into_iter().map(|drawn| drawn.image_ids).collect();
            let grid = Image::grid(&self.image.decode(&ids)?, 4, 2)?;
            let samples = dir.join("samples");
            std::fs::create_dir_all(&samples).map_err(Error::io("create", &samples))?;
            files::write_atomic(
                samples.join(format!("step-{step:08}.png")),
                &grid.encode(Format::Png, 100)?,
            )?;
            let captions = self.validation.captions[..shown].join("\n") + "\n";
            files::write_atomic(samples.join("captions.txt"), captions.as_bytes())?;
        }
        Ok(evaluation)
    }
}
