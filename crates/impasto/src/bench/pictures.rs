//! Whole pictures on any device, from a caption's ids to pixels: DALL·E mini and Janus-Pro-1B with random weights that
//! are made on the device.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Distribution, Tensor};

use super::sizes::{bart_config, pixels_config, random};
use super::{BenchPart, Figure, median};
use crate::checkpoint::WeightFormat;
use crate::engine::{AutoregressiveModel, Batch, SampleSpec, fill_in, request_of};
use crate::models::dalle::Order;
use crate::models::janus::VisionConfig;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::models::{DalleBartConfig, ImageTokenizer, ImageTokenizerConfig, JanusConfig};
use crate::nn::Init;
use crate::nn::ops::{is_cpu, packed};
use crate::observer::NoObserver;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// Which model draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Painter {
    /// DALL·E mini: 16 × 16 ids, 256 pixels a side.
    DalleMini,
    /// Janus-Pro-1B: 24 × 24 ids, 384 pixels a side.
    Janus,
}

/// How whole pictures are measured.
#[derive(Clone, Debug)]
pub struct PictureOptions {
    /// Which models, each in all formats.
    pub painters: Vec<Painter>,
    /// In what weights are held; on GPUs f32 and bf16.
    pub formats: Vec<WeightFormat>,
    /// Numbers of pictures that are drawn together.
    pub batches: Vec<usize>,
    /// Runs, after one that does not count.
    pub runs: usize,
    /// As many layers, but narrow ones: on a GPU the time is then what a token costs the host.
    pub narrow: bool,
}

/// Measures on `device`: for each model, format and number of pictures the time of drawing their ids ("ids of N") and of
/// all from the caption to pixels ("picture"). `progress` gets each figure when it is known.
///
/// # Errors
/// If a format is none that the device computes in.
pub fn pictures(
    options: &PictureOptions,
    device: &Device,
    progress: &mut dyn FnMut(&Figure) -> ControlFlow<()>,
) -> Result<Vec<Figure>> {
    if options.runs == 0 || options.batches.contains(&0) {
        return Err(Error::invalid(
            "bench",
            "expected 1 run or more of 1 picture or more",
        ));
    }
    let refused = |format: &&WeightFormat| match format {
        WeightFormat::F32 => false,
        WeightFormat::Bf16 => !is_cpu(device) && !packed::computes_in_bf16(device),
        _ => !is_cpu(device),
    };
    if let Some(format) = options.formats.iter().find(refused) {
        return Err(Error::invalid(
            "precision",
            format!("{format} is widened to f32 on this device, expected f32"),
        ));
    }
    let mut figures = Vec::new();
    for &painter in &options.painters {
        for &format in &options.formats {
            let measured = &mut |figure: Figure| {
                let flow = progress(&figure);
                figures.push(figure);
                match flow {
                    ControlFlow::Break(()) => Err(Error::Stopped),
                    ControlFlow::Continue(()) => Ok(()),
                }
            };
            match painter {
                Painter::DalleMini => {
                    let config = mini(options.narrow);
                    let net = weights(config.init(&mut Init::empty(device)), format, device);
                    // As the goldens' captions are: some words, and nothing.
                    let subject = Subject {
                        name: "DALL·E mini, guided",
                        caption: (3..20).collect(),
                        unconditional: vec![0, 2],
                        image: pixels(pixels_config(), options.narrow),
                        guidance: 3.0,
                    };
                    subject.measure(&net, format, options, measured)?;
                }
                Painter::Janus => {
                    let config = janus(options.narrow);
                    let net = weights(config.init(&mut Init::empty(device)), format, device);
                    let subject = Subject {
                        name: "Janus-Pro-1B, guided",
                        caption: (100..124).collect(),
                        unconditional: (200..224).collect(),
                        image: pixels(janus_pixels(), options.narrow),
                        guidance: 5.0,
                    };
                    subject.measure(&net, format, options, measured)?;
                }
            }
        }
    }
    Ok(figures)
}

/// What is drawn.
struct Subject {
    name: &'static str,
    caption: Vec<u32>,
    unconditional: Vec<u32>,
    image: TamingVqganConfig,
    guidance: f32,
}

impl Subject {
    fn measure<M: AutoregressiveModel>(
        &self,
        net: &M,
        format: WeightFormat,
        options: &PictureOptions,
        measured: &mut dyn FnMut(Figure) -> Result<()>,
    ) -> Result<()> {
        let device = net.device();
        let tokenizer = ImageTokenizerConfig::TamingVqgan(self.image.clone());
        let image = tokenizer.init(&mut Init::empty(&device));
        let image: ImageTokenizer = weights(image, WeightFormat::F32, &device);
        let sampling = SamplingOptions {
            guidance_scale: self.guidance,
            ..SamplingOptions::default()
        };
        for &batch in &options.batches {
            let specs = (0..batch as u64).map(|seed| SampleSpec {
                text_ids: self.caption.clone(),
                seed,
            });
            let specs: Vec<SampleSpec> = specs.collect();
            let unconditional = |_: &[u32]| self.unconditional.clone();
            let (mut drawing, mut all) = (Vec::new(), Vec::new());
            for run in 0..=options.runs {
                let begin = Instant::now();
                let request = request_of(net, &specs, &unconditional, &sampling, Order::Raster)?;
                // Random weights draft nothing that is right.
                let drawn = fill_in(Batch::new(net).without_drafts(), &request, &mut NoObserver)?;
                let ids_known = begin.elapsed().as_secs_f64();
                let ids: Vec<Vec<u32>> = drawn.into_iter().map(|one| one.image_ids).collect();
                image.decode(&ids)?;
                if run > 0 {
                    drawing.push(ids_known);
                    all.push(begin.elapsed().as_secs_f64());
                }
            }
            for (unit, times) in [("picture's ids", drawing), ("picture", all)] {
                let seconds = median(times);
                measured(Figure {
                    what: BenchPart::Pictures,
                    model: self.name.to_owned(),
                    precision: format,
                    batch,
                    unit,
                    seconds,
                    per_second: batch as f64 / seconds,
                    bound: None,
                    fraction: None,
                })?;
            }
        }
        Ok(())
    }
}

/// A module with random weights in `format`, made on the device where that is quicker.
fn weights<M: Module>(module: M, format: WeightFormat, device: &Device) -> M {
    if is_cpu(device) {
        return random(module, format);
    }
    let dtype = match format {
        WeightFormat::Bf16 if packed::computes_in_bf16(device) => DType::BF16,
        _ => DType::F32,
    };
    module.map(&mut Random {
        dtype,
        path: Vec::new(),
    })
}

struct Random {
    dtype: DType,
    path: Vec<String>,
}

impl ModuleMapper for Random {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_weight = self.path.last().is_some_and(|name| name == "weight");
        let dtype = self.dtype;
        param.map(|old| {
            let (shape, device) = (old.dims(), old.device());
            let place = (&device, dtype);
            match D {
                // As in `random`.
                1 if is_weight => Tensor::ones(shape, place),
                1 => Tensor::zeros(shape, place),
                _ => Tensor::random(shape, Distribution::Uniform(-0.035, 0.035), place),
            }
        })
    }
}

/// Width of narrow layers' heads.
const NARROW_HEAD: usize = 8;

fn mini(narrow: bool) -> DalleBartConfig {
    let mut config = bart_config();
    if narrow {
        config.width = NARROW_HEAD * config.decoder.n_heads;
        for stack in [&mut config.encoder, &mut config.decoder] {
            stack.hidden = config.width;
        }
    }
    config
}

/// The sizes of Janus-Pro-1B.
fn janus(narrow: bool) -> JanusConfig {
    let mut config = JanusConfig {
        text_vocab_size: 102_400,
        text_length: 1024,
        max_positions: 16_384,
        end_id: 1,
        width: 2048,
        hidden: 5632,
        n_layers: 24,
        n_heads: 16,
        norm_epsilon: 1e-6,
        rope_base: 10_000.0,
        codebook_size: 16_384,
        code_width: 8,
        grid: 24,
        image_aligner_depth: 2,
        // What sees pictures has no part in drawing.
        vision: VisionConfig {
            image_size: 384,
            patch_size: 16,
            width: 64,
            n_layers: 1,
            n_heads: 1,
            hidden: 64,
            norm_epsilon: 1e-6,
            aligner_depth: 2,
        },
    };
    if narrow {
        config.width = NARROW_HEAD * config.n_heads;
        config.hidden = config.width;
    }
    config
}

/// The sizes of LlamaGen's VQ-16, Janus' image tokenizer.
fn janus_pixels() -> TamingVqganConfig {
    TamingVqganConfig {
        picture_size: 384,
        multipliers: vec![1, 1, 2, 2, 4],
        attention_sizes: vec![24],
        code_width: 8,
        normalised_codes: true,
        pixel_range: crate::models::taming_vqgan::PixelRange::Signed,
        ..pixels_config()
    }
}

fn pixels(config: TamingVqganConfig, narrow: bool) -> TamingVqganConfig {
    match narrow {
        true => TamingVqganConfig {
            base_width: 32,
            ..config
        },
        false => config,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_sizes_are_possible() {
        for narrow in [false, true] {
            mini(narrow).validate().unwrap();
            janus(narrow).validate().unwrap();
            pixels(pixels_config(), narrow).validate().unwrap();
            let image = pixels(janus_pixels(), narrow);
            image.validate().unwrap();
            assert_eq!(image.grid(), janus(narrow).grid);
        }
        // Two billion numbers, of which the vision encoder's 0.3 are left out here.
        let millions = janus(false).parameters() / 1_000_000;
        assert!((1500..1900).contains(&millions), "{millions}");
    }

    #[test]
    fn formats_that_a_device_does_not_have_are_refused() {
        let options = PictureOptions {
            painters: vec![Painter::DalleMini],
            formats: vec![WeightFormat::F32],
            batches: vec![0],
            runs: 1,
            narrow: true,
        };
        let error = pictures(
            &options,
            &Device::flex(),
            &mut |_| ControlFlow::Continue(()),
        );
        assert!(error.unwrap_err().to_string().contains("1 picture or more"));
    }
}
