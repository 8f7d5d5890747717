//! How fast this machine draws, decodes pixels, encodes pictures and trains, with random weights in published
//! sizes, and which share of what the machine can do at most that is.
//!
//! Decoding is bound by how fast weights are read, so its share is of the measured bandwidth; everything else by
//! multiply-adds, so its share is of the measured peak of `f32`. Operations are counted as the plain algorithm
//! has them: convolutions by Winograd's way do with fewer, and may seem to exceed the peak.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::checkpoint::WeightFormat;
use crate::checkpoint::weights::held;
use crate::generate::{Drawing, dalle_mini, draw};
use crate::models::clip::{Activation, EndOfText, Normalisation, TowerConfig};
use crate::models::dalle::{DalleBatch, LossWeights, Order, raster};
use crate::models::dalle_bart::StackConfig;
use crate::models::parameters::{load_each, shapes};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::models::{
    ClipConfig, DalleBartConfig, DalleConfig, ImageTokenizer, ImageTokenizerConfig,
};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::train::config::RunConfig;
use crate::train::optimizer::{NamedGradients, Optimizer};
use crate::{Error, Result};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Drawing ids, token by token.
    Decode,
    /// Ids to pixels.
    Pixels,
    /// Pictures to CLIP's space.
    Clip,
    /// A step of training.
    Training,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Decode, Self::Pixels, Self::Clip, Self::Training];
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// What.
    pub what: Vec<What>,
    /// Decoding: in what weights are held.
    pub formats: Vec<WeightFormat>,
    /// Decoding: tokens of each run, the first of which is the prefill's.
    pub tokens: usize,
    /// Everything else: runs, after one that does not count.
    pub runs: usize,
}

/// One measured speed.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of which part.
    pub what: What,
    /// The model's sizes in words.
    pub model: String,
    /// In what its weights are.
    pub precision: WeightFormat,
    /// Pictures at a time.
    pub batch: usize,
    /// What the time is of.
    pub unit: &'static str,
    /// Its median, in seconds.
    pub seconds: f64,
    /// Tokens, pictures or steps a second, of all pictures together.
    pub per_second: f64,
    /// What the machine could do at most: "bandwidth" or "operations".
    pub bound: Option<&'static str>,
    /// The share of that.
    pub fraction: Option<f64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of the library.
    pub version: &'static str,
    /// Threads of the pool.
    pub threads: usize,
    /// What the kernels run on.
    pub instructions: String,
    /// Bytes a second.
    pub bandwidth: f64,
    /// `f32` operations a second.
    pub operations: f64,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Peak memory of the process, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
}

/// Measures on the CPU. `progress` gets each figure when it is known.
pub fn run(
    options: &Options,
    progress: &mut dyn FnMut(&Figure) -> ControlFlow<()>,
) -> Result<Report> {
    if options.tokens < 4 || options.runs == 0 {
        return Err(Error::invalid(
            "bench",
            "expected 4 tokens or more and 1 run or more",
        ));
    }
    let mut bench = Bench {
        device: Device::flex(),
        options,
        bandwidth: impasto_kernels::machine::bandwidth(),
        operations: impasto_kernels::machine::operations(),
        figures: Vec::new(),
        progress,
    };
    for what in &options.what {
        match what {
            What::Decode => {
                for &format in &options.formats {
                    bench.own_decode(format)?;
                    bench.bart_decode(format)?;
                }
            }
            What::Pixels => bench.pixels()?,
            What::Clip => bench.clip()?,
            What::Training => bench.training()?,
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        threads: rayon::current_num_threads(),
        instructions: format!("{:?}", impasto_kernels::isa()),
        bandwidth: bench.bandwidth,
        operations: bench.operations,
        figures: bench.figures,
        peak_memory_bytes: peak_memory(),
    })
}

/// `VmHWM` of Linux.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The sizes of a 12-layer transformer of ours over 16×16 pictures.
fn own_config() -> DalleConfig {
    DalleConfig {
        text_vocab_size: 8192,
        text_length: 64,
        codebook_size: 8192,
        grid: 16,
        width: 768,
        n_layers: 12,
        n_heads: 12,
        hidden: 2048,
        contrastive_width: None,
    }
}

/// The sizes of DALL·E mini.
fn bart_config() -> DalleBartConfig {
    let stack = StackConfig {
        n_layers: 12,
        n_heads: 16,
        hidden: 2730,
    };
    DalleBartConfig {
        text_vocab_size: 50_264,
        text_length: 64,
        image_vocab_size: 16_384,
        codebook_size: 16_384,
        start_id: 16_384,
        grid: 16,
        width: 1024,
        encoder: stack.clone(),
        decoder: stack,
        scaled_norms: false,
    }
}

/// The sizes of DALL·E mini's VQGAN.
fn pixels_config() -> TamingVqganConfig {
    TamingVqganConfig {
        picture_size: 256,
        base_width: 128,
        multipliers: vec![1, 1, 2, 2, 4],
        n_res_blocks: 2,
        attention_sizes: vec![16],
        latent_width: 256,
        codebook_size: 16_384,
        code_width: 256,
        gumbel: false,
        pixel_range: PixelRange::Unit,
        encoder: false,
    }
}

/// The sizes of CLIP ViT-B/32; its text tower is as small as can be.
fn clip_config() -> ClipConfig {
    let tower = |width: usize, n_layers| TowerConfig {
        width,
        n_layers,
        n_heads: width / 64,
        hidden: 4 * width,
    };
    ClipConfig {
        image_size: 224,
        patch_size: 32,
        image: tower(768, 12),
        text_vocab_size: 512,
        text_length: 77,
        text: tower(64, 1),
        projection_width: 512,
        activation: Activation::QuickGelu,
        end_of_text: EndOfText::HighestId,
        logit_bias: false,
        normalisation: Normalisation::default(),
    }
}

/// The sizes of a small training: 6 layers, sequences of 320.
fn training_config() -> DalleConfig {
    DalleConfig {
        text_vocab_size: 4096,
        text_length: 63,
        codebook_size: 1024,
        grid: 16,
        width: 384,
        n_layers: 6,
        n_heads: 6,
        hidden: 1024,
        contrastive_width: None,
    }
}

/// Pairs of a training batch.
const TRAINING_ROWS: usize = 8;

/// A module with random weights, those of linear layers held in `format`. Much quicker than fresh ones.
fn random<M: Module>(module: M, format: WeightFormat) -> M {
    let mut state = 1u32;
    let (module, _) = load_each(module, |place| {
        let count = place.shape.iter().product();
        let values = match place.shape {
            // Scales of norms are ones, biases zeros: no number shrinks away on its way.
            [_] if place.name.ends_with("weight") => vec![1.0; count],
            [_] => vec![0.0; count],
            _ => (0..count)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.035
                })
                .collect(),
        };
        Some(held(values, place.shape.to_vec(), place, format))
    });
    module
}

/// Numbers of the weights of linear layers whose names `counts`.
fn linear_sizes<M: Module>(module: &M, counts: impl Fn(&str) -> bool) -> Vec<[usize; 2]> {
    shapes(module)
        .into_iter()
        .filter(|(name, _)| {
            name.ends_with("weight") && !name.contains("embed") && !name.contains("position")
        })
        .filter(|(name, _)| counts(name))
        .filter_map(|(_, shape)| shape.try_into().ok())
        .collect()
}

struct Bench<'a> {
    device: Device,
    options: &'a Options,
    bandwidth: f64,
    operations: f64,
    figures: Vec<Figure>,
    progress: &'a mut dyn FnMut(&Figure) -> ControlFlow<()>,
}

/// What a figure is of.
struct Of<'a> {
    what: What,
    model: &'a str,
    precision: WeightFormat,
    batch: usize,
    unit: &'static str,
    /// How many units the time is of.
    count: f64,
    /// Bytes that are read at least.
    bytes: Option<f64>,
    /// Operations.
    operations: Option<f64>,
}

impl Bench<'_> {
    fn tell(&mut self, of: Of<'_>, seconds: f64) -> Result<()> {
        let (bound, fraction) = match (of.bytes, of.operations) {
            (Some(bytes), _) => (Some("bandwidth"), Some(bytes / seconds / self.bandwidth)),
            (None, Some(count)) => (Some("operations"), Some(count / seconds / self.operations)),
            (None, None) => (None, None),
        };
        let figure = Figure {
            what: of.what,
            model: of.model.to_owned(),
            precision: of.precision,
            batch: of.batch,
            unit: of.unit,
            seconds,
            per_second: of.count / seconds,
            bound,
            fraction,
        };
        let flow = (self.progress)(&figure);
        self.figures.push(figure);
        match flow {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// The figures of a run of drawing that stamps the time of each token.
    fn decoded(
        &mut self,
        (model, format, pictures): (&str, WeightFormat, usize),
        bytes: f64,
        begin: Instant,
        stamps: &[Instant],
    ) -> Result<()> {
        let of = |unit, count, bytes| Of {
            what: What::Decode,
            model,
            precision: format,
            batch: pictures,
            unit,
            count,
            bytes,
            operations: None,
        };
        if let [first, ..] = stamps {
            let seconds = first.duration_since(begin).as_secs_f64();
            self.tell(of("first token", pictures as f64, None), seconds)?;
        }
        let times = stamps
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]).as_secs_f64());
        let seconds = median(times.collect());
        self.tell(of("token", pictures as f64, Some(bytes)), seconds)
    }

    fn own_decode(&mut self, format: WeightFormat) -> Result<()> {
        let config = own_config();
        let model = random(config.init(&mut Init::empty(&self.device)), format);
        let bytes = streamed(
            &linear_sizes(&model, |name| name != "text_head.weight"),
            format,
        );
        for (pictures, guidance) in [(1, 1.0), (1, 3.0), (8, 3.0)] {
            let name = format!(
                "Dalle 12 x 768{}",
                if guidance == 1.0 { "" } else { ", guided" }
            );
            let drawings: Vec<Drawing> = (0..pictures)
                .map(|seed| Drawing {
                    text_ids: (3..3 + config.text_length as u32).collect(),
                    seed: seed as u64,
                })
                .collect();
            let null = vec![3; config.text_length];
            let mut stamps = Vec::new();
            let begin = Instant::now();
            let drawn = draw(
                &model,
                &drawings,
                &null,
                &sampling(guidance),
                Order::Raster,
                &mut |_, _| stamp(&mut stamps, self.options.tokens),
            );
            stopped(drawn)?;
            self.decoded((&name, format, pictures), bytes, begin, &stamps)?;
        }
        Ok(())
    }

    fn bart_decode(&mut self, format: WeightFormat) -> Result<()> {
        let config = bart_config();
        let model = random(config.init(&mut Init::empty(&self.device)), format);
        let sizes = linear_sizes(&model, |name| {
            !name.starts_with("encoder") && !name.contains("key_value")
        });
        let bytes = streamed(&sizes, format);
        let text_ids: Vec<u32> = (3..20).collect();
        for pictures in [1, 8] {
            let mut stamps = Vec::new();
            let begin = Instant::now();
            let caption = model.read(&text_ids)?;
            let null = model.read(&[0, 2])?;
            let seeds: Vec<u64> = (0..pictures as u64).collect();
            let drawn = dalle_mini::draw(
                &model,
                &caption,
                &null,
                &[],
                &seeds,
                &sampling(3.0),
                &mut |_, _, _| stamp(&mut stamps, self.options.tokens),
            );
            stopped(drawn)?;
            let name = "DALL·E mini, guided";
            self.decoded((name, format, pictures), bytes, begin, &stamps)?;
        }
        Ok(())
    }

    /// The median time of some runs, after one that does not count.
    fn timed(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        let mut times = Vec::with_capacity(self.options.runs);
        for _ in 0..self.options.runs {
            let begin = Instant::now();
            work()?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(median(times))
    }

    fn pixels(&mut self) -> Result<()> {
        let config = pixels_config();
        let (size, grid) = (config.picture_size, config.grid());
        let tokenizer = ImageTokenizerConfig::TamingVqgan(config);
        let empty = tokenizer.init(&mut Init::empty(&self.device));
        let model: ImageTokenizer = random(empty, WeightFormat::F32);
        // Each convolution at the size of its level; attention, which is little, is left out.
        let operations: f64 = shapes(&model)
            .iter()
            .filter(|(name, shape)| name.contains("decoder.") && shape.len() == 4)
            .map(|(name, shape)| {
                let level = name.split("up.").nth(1).and_then(|rest| {
                    let level: usize = rest.split('.').next()?.parse().ok()?;
                    let finer = usize::from(rest.contains("upsample"));
                    Some(level - finer)
                });
                let side = match level {
                    Some(level) => size >> level,
                    None if name.contains("conv_out") => size,
                    None => grid,
                };
                (2 * shape.iter().product::<usize>() * side * side) as f64
            })
            .sum();
        let ids: Vec<Vec<u32>> = vec![(0..(grid * grid) as u32).collect()];
        let seconds = self.timed(|| model.decode(&ids).map(drop))?;
        let of = Of {
            what: What::Pixels,
            model: "VQGAN f16 to 256 px",
            precision: WeightFormat::F32,
            batch: 1,
            unit: "picture",
            count: 1.0,
            bytes: None,
            operations: Some(operations),
        };
        self.tell(of, seconds)
    }

    fn clip(&mut self) -> Result<()> {
        let config = clip_config();
        let model = random(
            config.init(&mut Init::empty(&self.device)),
            WeightFormat::F32,
        );
        let places = config.patches() + 1;
        let weights: usize = linear_sizes(&model, |name| name.starts_with("image."))
            .iter()
            .map(|[inputs, outputs]| inputs * outputs)
            .sum();
        let attention = 4 * places * places * config.image.width * config.image.n_layers;
        for batch in [1, 8] {
            let size = config.image_size;
            let pixels = vec![0.5f32; batch * 3 * size * size];
            let data = TensorData::new(pixels, [batch, 3, size, size]);
            let pixels: Tensor<4> = Tensor::from_data(data, &self.device);
            let seconds = self.timed(|| {
                // Read out, as lazy devices compute no earlier.
                let _ = model.encode_image(pixels.clone()).into_data();
                Ok(())
            })?;
            let of = Of {
                what: What::Clip,
                model: "CLIP ViT-B/32",
                precision: WeightFormat::F32,
                batch,
                unit: "picture",
                count: batch as f64,
                bytes: None,
                operations: Some((batch * (2 * weights * places + attention)) as f64),
            };
            self.tell(of, seconds)?;
        }
        Ok(())
    }

    fn training(&mut self) -> Result<()> {
        let config = training_config();
        let device = self.device.clone().autodiff();
        let mut model = Some(config.init(&mut Init::new(1, &device)));
        let weights: usize = model
            .iter()
            .flat_map(|model| linear_sizes(model, |name| !name.contains("head")))
            .map(|[inputs, outputs]| inputs * outputs)
            .sum();
        let (length, positions) = (config.sequence_length(), config.image_length());
        let heads = config.text_vocab_size * config.text_length + config.codebook_size * positions;
        let attention = 2 * length * length * config.width * config.n_layers;
        let batch = DalleBatch {
            text_ids: vec![(3..3 + config.text_length as u32).collect(); TRAINING_ROWS],
            image_ids: vec![(0..positions as u32).collect(); TRAINING_ROWS],
            orders: vec![raster(positions); TRAINING_ROWS],
            captioned: 0,
        };
        let run = RunConfig {
            ema_decay: 0.0,
            ..RunConfig::default()
        };
        let mut optimizer = Optimizer::new(&run);
        let mut step = 0;
        let seconds = self.timed(|| {
            let Some(known) = model.take() else {
                return Ok(());
            };
            let losses = known.losses(&batch, &LossWeights::default());
            let gradients = NamedGradients::collect(&known, &losses.total.backward());
            let moved = optimizer.step(known, gradients, 1e-4, 1.0, step);
            model = Some(moved);
            step += 1;
            Ok(())
        })?;
        // Forward once, backward twice.
        let forward = 2 * (weights * length + config.width * heads) + attention;
        let of = Of {
            what: What::Training,
            model: "Dalle 6 x 384, 320 tokens",
            precision: WeightFormat::F32,
            batch: TRAINING_ROWS,
            unit: "step",
            count: 1.0,
            bytes: None,
            operations: Some((3 * TRAINING_ROWS * forward) as f64),
        };
        self.tell(of, seconds)
    }
}

fn sampling(guidance_scale: f32) -> SamplingOptions {
    SamplingOptions {
        guidance_scale,
        temperature: 1.0,
        top_k: None,
        top_p: None,
    }
}

/// Bytes of weights that a token reads.
fn streamed(sizes: &[[usize; 2]], format: WeightFormat) -> f64 {
    sizes
        .iter()
        .filter_map(|&shape| format.bytes(shape))
        .map(|bytes| bytes as f64)
        .sum()
}

fn stamp(stamps: &mut Vec<Instant>, tokens: usize) -> ControlFlow<()> {
    stamps.push(Instant::now());
    if stamps.len() < tokens {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

/// Being stopped is how a run of some tokens ends.
fn stopped<T>(drawn: Result<T>) -> Result<()> {
    match drawn {
        Ok(_) | Err(Error::Stopped) => Ok(()),
        Err(error) => Err(error),
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_sizes_are_possible() {
        own_config().validate().unwrap();
        bart_config().validate().unwrap();
        pixels_config().validate().unwrap();
        clip_config().validate().unwrap();
        training_config().validate().unwrap();
        assert_eq!(training_config().sequence_length(), 320);
    }

    #[test]
    fn a_token_reads_the_decoders_weights() {
        let config = bart_config();
        let model = config.init(&mut Init::empty(&Device::flex()));
        let sizes = linear_sizes(&model, |name| {
            !name.starts_with("encoder") && !name.contains("key_value")
        });
        // By hand: 12 layers of 3 + 1 + 1 + 1 squares and three of the perceptron, and the head.
        let (width, hidden) = (1024, 2730);
        let layer = 6 * width * width + 3 * width * hidden;
        let expected = 12 * layer + width * 16_385;
        let found: usize = sizes.iter().map(|[i, o]| i * o).sum();
        assert_eq!(found, expected);
        assert_eq!(streamed(&sizes, WeightFormat::F32), 4.0 * expected as f64);
    }

    #[test]
    fn the_middle_time_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
