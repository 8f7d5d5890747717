//! What a model is and what it takes to run it, without loading it.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;

use super::any;
use super::dalle_mini::{self, is_dalle_mini};
use super::dalle_pytorch::{self, is_dalle_pytorch};
use super::image_tokenizer::{self, is_image_tokenizer};
use crate::Result;
use crate::checkpoint::dalle_mini::DalleMiniConfig;
use crate::checkpoint::dalle_pytorch::DallePytorchModelConfig;
use crate::checkpoint::image_tokenizer::ImageTokenizerModelConfig;
use crate::checkpoint::{ModelConfig, ModelSource, WeightFormat};
use crate::models::parameters::shapes;
use crate::models::{DalleBartConfig, DalleConfig, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;

/// What a model is and what it takes to run it.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Parameters of the transformer.
    pub dalle_parameters: usize,
    /// Parameters of the image tokenizer.
    pub image_tokenizer_parameters: usize,
    /// In what the weight file has the transformer's linear layers.
    pub precision: WeightFormat,
    /// Bytes of the weight files.
    pub weight_bytes: u64,
    /// Estimated peak memory of drawing one picture with guidance.
    pub peak_memory_bytes: u64,
    /// The whole config.
    pub config: AnyConfig,
}

/// The config of a model of any family.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum AnyConfig {
    /// Our own.
    Own(ModelConfig),
    /// DALL·E mini and mega.
    DalleMini(DalleMiniConfig),
    /// DALLE-pytorch's.
    DallePytorch(DallePytorchModelConfig),
    /// An image tokenizer alone.
    ImageTokenizer(ImageTokenizerModelConfig),
}

impl AnyConfig {
    /// The image tokenizer.
    pub fn image_tokenizer(&self) -> &ImageTokenizerConfig {
        match self {
            AnyConfig::Own(config) => &config.image_tokenizer,
            AnyConfig::DalleMini(config) => &config.image_tokenizer,
            AnyConfig::DallePytorch(config) => &config.image_tokenizer,
            AnyConfig::ImageTokenizer(config) => &config.image_tokenizer,
        }
    }

    /// In what the weight file has the transformer's linear layers.
    pub fn precision(&self) -> WeightFormat {
        match self {
            AnyConfig::Own(config) => config.precision,
            AnyConfig::DalleMini(config) => config.precision,
            AnyConfig::DallePytorch(config) => config.precision,
            AnyConfig::ImageTokenizer(_) => WeightFormat::F32,
        }
    }

    /// The defaults of `generate`.
    pub fn sampling(&self) -> Option<&SamplingOptions> {
        match self {
            AnyConfig::Own(config) => Some(&config.sampling),
            AnyConfig::DalleMini(config) => Some(&config.sampling),
            AnyConfig::DallePytorch(config) => Some(&config.sampling),
            AnyConfig::ImageTokenizer(_) => None,
        }
    }

    /// The transformer, where there is one: its layers, width and heads; its text ids and the longest caption.
    pub fn transformer(&self) -> Option<(String, String)> {
        let text = |ids, length| format!("{ids} ids, captions of at most {length} tokens");
        Some(match self {
            AnyConfig::ImageTokenizer(_) => return None,
            AnyConfig::DallePytorch(DallePytorchModelConfig { dalle_pytorch, .. }) => (
                format!(
                    "{} layers x {}, {} heads",
                    dalle_pytorch.n_layers, dalle_pytorch.width, dalle_pytorch.n_heads
                ),
                text(dalle_pytorch.text_vocab_size, dalle_pytorch.text_length),
            ),
            AnyConfig::Own(ModelConfig { dalle, .. }) => (
                format!(
                    "{} layers x {}, {} heads",
                    dalle.n_layers, dalle.width, dalle.n_heads
                ),
                text(dalle.text_vocab_size, dalle.text_length),
            ),
            AnyConfig::DalleMini(DalleMiniConfig { dalle_bart, .. }) => (
                format!(
                    "{} + {} layers x {}, {} and {} heads (reads and writes)",
                    dalle_bart.encoder.n_layers,
                    dalle_bart.decoder.n_layers,
                    dalle_bart.width,
                    dalle_bart.encoder.n_heads,
                    dalle_bart.decoder.n_heads
                ),
                text(dalle_bart.text_vocab_size, dalle_bart.text_length),
            ),
        })
    }
}

/// What a model is, without loading its weights.
pub fn info(source: &ModelSource) -> Result<ModelInfo> {
    if is_dalle_mini(source) {
        let (config, weight_bytes) = dalle_mini::describe(source)?;
        let mut init = Init::empty(&Device::flex());
        let sizes = Sizes {
            transformer: count(&config.dalle_bart.init(&mut init)),
            caches: bart_caches(&config.dalle_bart),
        };
        let image = config.image_tokenizer.clone();
        let (name, licence) = (config.name.clone(), config.licence.clone());
        let config = AnyConfig::DalleMini(config);
        return Ok(sizes.info([name, licence], &image, weight_bytes, config));
    }
    if is_image_tokenizer(source) {
        let (config, weight_bytes) = image_tokenizer::describe(source)?;
        let sizes = Sizes {
            transformer: 0,
            caches: 0,
        };
        let image = config.image_tokenizer.clone();
        let (name, licence) = (config.name.clone(), config.licence.clone());
        let config = AnyConfig::ImageTokenizer(config);
        return Ok(sizes.info([name, licence], &image, weight_bytes, config));
    }
    if is_dalle_pytorch(source) {
        let (config, weight_bytes) = dalle_pytorch::describe(source)?;
        let dalle = &config.dalle_pytorch;
        let positions = dalle.prefix_length() + dalle.image_length();
        let keys = dalle.n_layers * dalle.n_heads * dalle.head_width;
        let sizes = Sizes {
            transformer: count(&dalle.init(&mut Init::empty(&Device::flex()))),
            caches: (4 * 2 * 2 * keys * positions) as u64,
        };
        let image = config.image_tokenizer.clone();
        let names = [config.name.clone(), config.licence.clone()];
        return Ok(sizes.info(names, &image, weight_bytes, AnyConfig::DallePytorch(config)));
    }
    any::check(source)?;
    let config = source.config()?;
    let weight_bytes = source.weight_bytes()?;
    let sizes = Sizes {
        transformer: count(&config.dalle.init(&mut Init::empty(&Device::flex()))),
        caches: own_caches(&config.dalle),
    };
    let image = config.image_tokenizer.clone();
    let (name, licence) = (config.name.clone(), config.licence.clone());
    Ok(sizes.info(
        [name, licence],
        &image,
        weight_bytes,
        AnyConfig::Own(config),
    ))
}

/// What the estimate is made of.
struct Sizes {
    /// Parameters of the transformer.
    transformer: usize,
    /// Bytes of keys and values of a guided batch of one.
    caches: u64,
}

impl Sizes {
    fn info(
        self,
        [name, licence]: [String; 2],
        image: &ImageTokenizerConfig,
        weight_bytes: u64,
        config: AnyConfig,
    ) -> ModelInfo {
        let image_parameters = count(&image.init(&mut Init::empty(&Device::flex())));
        // Weights in f32 beside the file they come from; the caches; the widest activations of the decoder;
        // the program.
        let precision = config.precision();
        let weights = match precision {
            WeightFormat::F32 => 4 * (self.transformer + image_parameters) as u64,
            // Packed weights are used in the file's memory; what is not packed is little.
            _ => 4 * (self.transformer / 8 + image_parameters) as u64,
        };
        let size = image.picture_size() as u64;
        let widest = match image {
            // A level's channels at the picture's full size, some of them at once.
            ImageTokenizerConfig::TamingVqgan(config) => 6 * config.base_width as u64,
            _ => 64,
        };
        let activations = 4 * widest * size * size;
        ModelInfo {
            name,
            licence,
            dalle_parameters: self.transformer,
            image_tokenizer_parameters: image_parameters,
            precision,
            weight_bytes,
            peak_memory_bytes: weights + weight_bytes + self.caches + activations + (64 << 20),
            config,
        }
    }
}

fn own_caches(dalle: &DalleConfig) -> u64 {
    (4 * 2 * 2 * dalle.n_layers * dalle.sequence_length() * dalle.width) as u64
}

/// The caption's keys and values and the picture's.
fn bart_caches(dalle: &DalleBartConfig) -> u64 {
    let positions = dalle.text_length + dalle.image_length();
    (4 * 2 * 2 * dalle.decoder.n_layers * positions * dalle.width) as u64
}

fn count<M: Module>(module: &M) -> usize {
    let shapes: BTreeMap<String, Vec<usize>> = shapes(module);
    let sizes = shapes.values().map(|shape| shape.iter().product::<usize>());
    sizes.sum()
}
