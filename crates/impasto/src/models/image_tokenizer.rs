//! Pixels ↔ image ids, by whichever autoencoder the checkpoint holds.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::discrete_vae::{DiscreteVae, DiscreteVaeConfig};
use super::dvae::{Dvae, DvaeConfig};
use super::parameters::shapes;
use super::taming_vqgan::{TamingVqgan, TamingVqganConfig};
use super::vqgan::{Vqgan, VqganConfig};
use crate::error::Reason;
use crate::image::Image;
use crate::nn::{Init, ops};
use crate::{Error, Result};

/// Which autoencoder, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all = "snake_case")]
pub enum ImageTokenizerConfig {
    /// [`super::vqgan`].
    Vqgan(VqganConfig),
    /// [`super::dvae`].
    Dvae(DvaeConfig),
    /// [`super::taming_vqgan`].
    TamingVqgan(TamingVqganConfig),
    /// [`super::discrete_vae`].
    DiscreteVae(DiscreteVaeConfig),
}

impl ImageTokenizerConfig {
    /// Side of the pictures in pixels.
    pub fn picture_size(&self) -> usize {
        match self {
            ImageTokenizerConfig::Vqgan(config) => config.picture_size,
            ImageTokenizerConfig::Dvae(config) => config.picture_size,
            ImageTokenizerConfig::TamingVqgan(config) => config.picture_size,
            ImageTokenizerConfig::DiscreteVae(config) => config.picture_size,
        }
    }

    /// Ids along a side.
    pub fn grid(&self) -> usize {
        match self {
            ImageTokenizerConfig::Vqgan(config) => config.grid(),
            ImageTokenizerConfig::Dvae(config) => config.grid(),
            ImageTokenizerConfig::TamingVqgan(config) => config.grid(),
            ImageTokenizerConfig::DiscreteVae(config) => config.grid(),
        }
    }

    /// Codes.
    pub fn codebook_size(&self) -> usize {
        match self {
            ImageTokenizerConfig::Vqgan(config) => config.codebook_size,
            ImageTokenizerConfig::Dvae(config) => config.codebook_size,
            ImageTokenizerConfig::TamingVqgan(config) => config.codebook_size,
            ImageTokenizerConfig::DiscreteVae(config) => config.codebook_size,
        }
    }

    /// The published name of the architecture.
    pub fn name(&self) -> &'static str {
        match self {
            ImageTokenizerConfig::Vqgan(_) => "vqgan",
            ImageTokenizerConfig::Dvae(_) => "dvae",
            ImageTokenizerConfig::TamingVqgan(_) => "taming_vqgan",
            ImageTokenizerConfig::DiscreteVae(_) => "discrete_vae",
        }
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        match self {
            ImageTokenizerConfig::Vqgan(config) => config.validate(),
            ImageTokenizerConfig::Dvae(config) => config.validate(),
            ImageTokenizerConfig::TamingVqgan(config) => config.validate(),
            ImageTokenizerConfig::DiscreteVae(config) => config.validate(),
        }
    }

    /// How many numbers the model has, some small ones left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        match self {
            ImageTokenizerConfig::Vqgan(config) => config.parameters(),
            ImageTokenizerConfig::Dvae(config) => config.parameters(),
            ImageTokenizerConfig::TamingVqgan(config) => config.parameters(),
            ImageTokenizerConfig::DiscreteVae(config) => config.parameters(),
        }
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> ImageTokenizer {
        match self {
            ImageTokenizerConfig::Vqgan(config) => ImageTokenizer::Vqgan(config.init(init)),
            ImageTokenizerConfig::Dvae(config) => ImageTokenizer::Dvae(config.init(init)),
            ImageTokenizerConfig::TamingVqgan(config) => {
                ImageTokenizer::TamingVqgan(config.init(init))
            }
            ImageTokenizerConfig::DiscreteVae(config) => {
                ImageTokenizer::DiscreteVae(config.init(init))
            }
        }
    }
}

/// An autoencoder with a codebook.
// One value a program: its size on the stack is of no consequence, and `Module` is not derived for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum ImageTokenizer {
    /// [`super::vqgan`].
    Vqgan(Vqgan),
    /// [`super::dvae`].
    Dvae(Dvae),
    /// [`super::taming_vqgan`].
    TamingVqgan(TamingVqgan),
    /// [`super::discrete_vae`].
    DiscreteVae(DiscreteVae),
}

/// Pictures through the tokenizer at a time: bounds memory; results do not depend on it.
const BATCH: usize = 16;
/// Likewise on a GPU, which is idle with fewer.
const GPU_BATCH: usize = 256;
/// Taming's on a GPU: about 1 GiB at 256 pixels a side.
const TAMING_GPU_BATCH: usize = 8;

impl ImageTokenizer {
    /// Operations of decoding a picture, two for each multiply-add of its convolutions; counted for
    /// [`super::taming_vqgan`] alone, 0 for the others. Attention, which is little, is left out.
    pub fn decoding_operations(&self) -> u64 {
        let ImageTokenizer::TamingVqgan(model) = self else {
            return 0;
        };
        let (size, grid) = (model.config().picture_size, model.config().grid());
        shapes(self)
            .iter()
            .filter(|(name, shape)| name.contains("decoder.") && shape.len() == 4)
            .map(|(name, shape)| {
                // Each convolution at the size of its level.
                let level = name.split("up.").nth(1).and_then(|rest| {
                    let level: usize = rest.split('.').next()?.parse().ok()?;
                    level.checked_sub(usize::from(rest.contains("upsample")))
                });
                let side = match level {
                    Some(level) => size >> level,
                    None if name.contains("conv_out") => size,
                    None => grid,
                };
                2 * (shape.iter().product::<usize>() * side * side) as u64
            })
            .sum()
    }

    /// Which autoencoder, and its sizes.
    pub fn config(&self) -> ImageTokenizerConfig {
        match self {
            ImageTokenizer::Vqgan(model) => ImageTokenizerConfig::Vqgan(model.config().clone()),
            ImageTokenizer::Dvae(model) => ImageTokenizerConfig::Dvae(model.config().clone()),
            ImageTokenizer::TamingVqgan(model) => {
                ImageTokenizerConfig::TamingVqgan(model.config().clone())
            }
            ImageTokenizer::DiscreteVae(model) => {
                ImageTokenizerConfig::DiscreteVae(model.config().clone())
            }
        }
    }

    /// The device of the weights.
    fn device(&self) -> Device {
        self.devices().into_iter().next().unwrap_or_default()
    }

    /// `[batch, 3, size, size]` in −1..1 → row-major ids.
    pub fn encode_pixels(&self, pixels: Tensor<4>) -> Result<Vec<Vec<u32>>> {
        let [batch, ..] = pixels.dims();
        let ids = match self {
            ImageTokenizer::Vqgan(model) => model.encode(pixels),
            ImageTokenizer::Dvae(model) => model.encode(pixels),
            ImageTokenizer::TamingVqgan(model) => model.encode(pixels)?,
            ImageTokenizer::DiscreteVae(model) => model.encode(pixels),
        };
        let ids: Vec<i64> = ids
            .into_data()
            .convert::<i64>()
            .try_into_vec()
            .map_err(|e| Error::invalid("image ids", Reason::of(e)))?;
        Ok(ids
            .chunks(ids.len() / batch)
            .map(|row| row.iter().map(|&id| id as u32).collect())
            .collect())
    }

    /// Row-major ids → `[batch, 3, size, size]`, about −1..1.
    pub fn decode_pixels(&self, ids: &[Vec<u32>]) -> Tensor<4> {
        match self {
            ImageTokenizer::Vqgan(model) => model.decode(ids),
            ImageTokenizer::Dvae(model) => model.decode(ids),
            ImageTokenizer::TamingVqgan(model) => model.decode(ids),
            ImageTokenizer::DiscreteVae(model) => model.decode(ids),
        }
    }

    /// Pictures that are worked on at once. Taming's are large and its levels wide: 128 channels at the
    /// picture's full size.
    fn batch(&self, device: &Device) -> usize {
        match self {
            ImageTokenizer::TamingVqgan(_) if ops::is_cpu(device) => 1,
            ImageTokenizer::TamingVqgan(_) => TAMING_GPU_BATCH,
            _ if ops::is_cpu(device) => BATCH,
            _ => GPU_BATCH,
        }
    }

    /// The ids of pictures of the model's size.
    pub fn encode(&self, pictures: &[Image], device: &Device) -> Result<Vec<Vec<u32>>> {
        let size = self.config().picture_size();
        let mut ids = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(self.batch(device)) {
            ids.extend(self.encode_pixels(pixels(pictures, size, device)?)?);
        }
        Ok(ids)
    }

    /// How much each picture's pixels speak for each code at each position, as logits: `[grid² · codes]`, row
    /// after row. A dVAE's encoder says it itself; a VQGAN's is how near the code is to the encoder's vector.
    pub fn evidence(&self, pictures: &[Image], device: &Device) -> Result<Vec<Vec<f32>>> {
        let config = self.config();
        let (positions, codes) = (config.grid() * config.grid(), config.codebook_size());
        let mut evidence = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(BATCH) {
            let pixels = pixels(pictures, config.picture_size(), device)?;
            let logits = match self {
                ImageTokenizer::TamingVqgan(model) => model.evidence(pixels)?,
                ImageTokenizer::Vqgan(model) => {
                    let vectors = model.encode_vectors(pixels);
                    model.nearness(vectors).mul_scalar(VQGAN_SHARPNESS)
                }
                ImageTokenizer::Dvae(model) => model
                    .encode_logits(pixels)
                    .permute([0, 2, 3, 1])
                    .reshape([pictures.len() * positions, codes]),
                ImageTokenizer::DiscreteVae(model) => model
                    .encode_logits(pixels)
                    .permute([0, 2, 3, 1])
                    .reshape([pictures.len() * positions, codes]),
            };
            let logits: Vec<f32> = logits
                .into_data()
                .convert::<f32>()
                .try_into_vec()
                .map_err(|e| Error::invalid("evidence", Reason::of(e)))?;
            evidence.extend(logits.chunks(positions * codes).map(<[f32]>::to_vec));
        }
        Ok(evidence)
    }

    /// One picture of row-major ids on a grid of any `rows` and `columns`; checks their number and range.
    pub fn decode_grid(&self, ids: &[u32], [rows, columns]: [usize; 2]) -> Result<Image> {
        let config = self.config();
        if ids.is_empty() || ids.len() != rows * columns {
            return Err(Error::invalid(
                "image ids",
                format!("expected {rows}x{columns} ids, got {}", ids.len()),
            ));
        }
        check_ids(ids, config.codebook_size())?;
        let ids = [ids.to_vec()];
        let pixels = match self {
            ImageTokenizer::Vqgan(model) => model.decode_grid(&ids, [rows, columns]),
            ImageTokenizer::Dvae(model) => model.decode_grid(&ids, [rows, columns]),
            ImageTokenizer::TamingVqgan(model) => model.decode_grid(&ids, [rows, columns]),
            ImageTokenizer::DiscreteVae(model) => model.decode_grid(&ids, [rows, columns]),
        };
        let [_, _, height, width] = pixels.dims();
        Image::from_chw(&values(pixels)?, width, height)
    }

    /// The pictures of ids; checks their number and range.
    pub fn decode(&self, ids: &[Vec<u32>]) -> Result<Vec<Image>> {
        let config = self.config();
        let (positions, codes) = (config.grid() * config.grid(), config.codebook_size());
        for row in ids {
            if row.len() != positions {
                return Err(Error::invalid(
                    "image ids",
                    format!("expected {positions} ids, got {}", row.len()),
                ));
            }
            check_ids(row, codes)?;
        }
        let size = config.picture_size();
        let mut pictures = Vec::with_capacity(ids.len());
        for rows in ids.chunks(self.batch(&self.device())) {
            for picture in values(self.decode_pixels(rows))?.chunks(3 * size * size) {
                pictures.push(Image::from_chw(picture, size, size)?);
            }
        }
        Ok(pictures)
    }
}

fn check_ids(ids: &[u32], codes: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= codes) {
        None => Ok(()),
        Some(id) => Err(Error::invalid(
            "image ids",
            format!("id {id} is not below the codebook's {codes}"),
        )),
    }
}

fn values(pixels: Tensor<4>) -> Result<Vec<f32>> {
    pixels
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("pixels", Reason::of(e)))
}

/// What a cosine of 1 more between a VQGAN's vector and a code is worth, in nats.
const VQGAN_SHARPNESS: f32 = 32.0;

/// Pictures as a tensor in −1..1: `[batch, 3, size, size]`.
pub fn pixels(pictures: &[Image], size: usize, device: &Device) -> Result<Tensor<4>> {
    if ops::is_cpu(device) || !device.supports_dtype(DType::U8) {
        return Ok(Tensor::from_data(pixel_data(pictures, size)?, device));
    }
    check_size(pictures, size)?;
    // A byte a value is carried to the device, not four.
    let bytes: Vec<&[u8]> = pictures.iter().map(|picture| &picture.rgb[..]).collect();
    let bytes = TensorData::new(bytes.concat(), [pictures.len(), size, size, 3]);
    let bytes = Tensor::<4, Int>::from_data(bytes, (device, DType::U8));
    let channels_first = bytes.float().permute([0, 3, 1, 2]);
    Ok(channels_first.div_scalar(127.5).sub_scalar(1.0))
}

/// The data of [`pixels`], in the host's memory.
pub fn pixel_data(pictures: &[Image], size: usize) -> Result<TensorData> {
    check_size(pictures, size)?;
    let rows: Vec<Vec<f32>> = pictures.par_iter().map(Image::to_chw).collect();
    Ok(TensorData::new(
        rows.concat(),
        [pictures.len(), 3, size, size],
    ))
}

fn check_size(pictures: &[Image], size: usize) -> Result<()> {
    for picture in pictures {
        if picture.width != size || picture.height != size {
            return Err(Error::invalid(
                "picture",
                format!(
                    "expected {size}x{size} pixels, got {}x{}",
                    picture.width, picture.height
                ),
            ));
        }
    }
    Ok(())
}

/// How much of the codebook a set of pictures uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeUsage {
    /// Share of the codes that occur.
    pub share: f64,
    /// exp(−Σ p ln p).
    pub perplexity: f64,
}

impl CodeUsage {
    /// Of row-major ids.
    pub fn of(ids: &[Vec<u32>], codebook_size: usize) -> Self {
        let mut counts = vec![0u64; codebook_size];
        for &id in ids.iter().flatten() {
            counts[id as usize] += 1;
        }
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let used = counts.iter().filter(|&&count| count > 0).count();
        let entropy: f64 = counts
            .iter()
            .filter(|&&count| count > 0)
            .map(|&count| {
                let p = count as f64 / total;
                -p * p.ln()
            })
            .sum();
        CodeUsage {
            share: used as f64 / codebook_size as f64,
            perplexity: entropy.exp(),
        }
    }
}
