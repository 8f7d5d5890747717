//! What is computed in one pass: known ids, pixels, CLIP's pictures, a training step.

use burn::tensor::{Tensor, TensorData};

use super::sizes::{
    TRAINING_ROWS, clip_config, linear_sizes, own_config, pixels_config, random, training_config,
};
use super::{Bench, BenchPart, Of};
use crate::Result;
use crate::checkpoint::WeightFormat;
use crate::engine::{AutoregressiveModel, Input, ParallelPasses, Prompted};
use crate::models::Dalle;
use crate::models::dalle::{DalleBatch, LossWeights, raster};
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::nn::precision::{ComputePrecision, convolutions_in_bf16, in_bf16};
use crate::train::config::RunConfig;
use crate::train::optimizer::{NamedGradients, Optimizer};

impl Bench<'_> {
    /// A caption and all ids of an image, read into the caches in one pass, as before a hole is filled.
    pub(super) fn prefill(&mut self, format: WeightFormat) -> Result<()> {
        let config = own_config();
        let model: Dalle = random(config.init(&mut Init::empty(&self.device)), format);
        let (text, positions) = (config.text_length, config.image_length());
        let length = text + positions;
        let weights: usize = linear_sizes(&model, |name| !name.contains("head"))
            .iter()
            .map(|[inputs, outputs]| inputs * outputs)
            .sum();
        let attention = 2 * length * length * config.width * config.n_layers;
        let prompt: Vec<u32> = (3..3 + text as u32).collect();
        let inputs: Vec<Input> = (0..positions as u32)
            .map(|target| Input {
                token: target.checked_sub(1).map(|before| (before, before)),
                target,
            })
            .collect();
        for batch in [1, 8] {
            let rows = vec![inputs.clone(); batch];
            let seconds = self.timed(|| {
                let prompted = Prompted {
                    prompt: &prompt,
                    rows: batch,
                };
                let mut state = model.prefill(&[prompted])?;
                ParallelPasses::append(&model, &rows, &mut state)
            })?;
            let of = Of {
                what: BenchPart::Prefill,
                model: "Dalle 12 x 768, 320 ids",
                precision: format,
                batch,
                unit: "pass",
                count: 1.0,
                bytes: None,
                operations: Some((batch * (2 * weights * length + attention)) as f64),
            };
            self.record(of, seconds)?;
        }
        Ok(())
    }

    pub(super) fn pixels(&mut self, format: WeightFormat) -> Result<()> {
        let config = pixels_config();
        let grid = config.grid();
        let tokenizer = ImageTokenizerConfig::TamingVqgan(config);
        let empty = tokenizer.init(&mut Init::empty(&self.device));
        let model: ImageTokenizer = random(empty, WeightFormat::F32);
        let model = match format {
            WeightFormat::Bf16 => convolutions_in_bf16(model),
            _ => model,
        };
        let operations = ImageTokenizer::decoding_operations(&model) as f64;
        let ids: Vec<Vec<u32>> = vec![(0..(grid * grid) as u32).collect()];
        let seconds = self.timed(|| model.decode(&ids).map(drop))?;
        let of = Of {
            what: BenchPart::Pixels,
            model: "VQGAN f16 to 256 px",
            precision: format,
            batch: 1,
            unit: "picture",
            count: 1.0,
            bytes: None,
            operations: Some(operations),
        };
        self.record(of, seconds)
    }

    pub(super) fn clip(&mut self, format: WeightFormat) -> Result<()> {
        let config = clip_config();
        let model = random(config.init(&mut Init::empty(&self.device)), format);
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
                what: BenchPart::Clip,
                model: "CLIP ViT-B/32",
                precision: format,
                batch,
                unit: "picture",
                count: batch as f64,
                bytes: None,
                operations: Some((batch * (2 * weights * places + attention)) as f64),
            };
            self.record(of, seconds)?;
        }
        Ok(())
    }

    pub(super) fn training(&mut self, precision: ComputePrecision) -> Result<()> {
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
            let losses = match precision {
                ComputePrecision::F32 => known.losses(&batch, &LossWeights::default()),
                ComputePrecision::Bf16 => in_bf16(&known).losses(&batch, &LossWeights::default()),
            };
            let gradients = NamedGradients::collect(&known, &losses.total.backward());
            let moved = optimizer.step(known, gradients, 1e-4, 1.0, step);
            model = Some(moved);
            step += 1;
            Ok(())
        })?;
        // Forward once, backward twice.
        let forward = 2 * (weights * length + config.width * heads) + attention;
        let of = Of {
            what: BenchPart::Training,
            model: "Dalle 6 x 384, 320 tokens",
            precision: match precision {
                ComputePrecision::F32 => WeightFormat::F32,
                ComputePrecision::Bf16 => WeightFormat::Bf16,
            },
            batch: TRAINING_ROWS,
            unit: "step",
            count: 1.0,
            bytes: None,
            operations: Some((3 * TRAINING_ROWS * forward) as f64),
        };
        self.record(of, seconds)
    }
}
