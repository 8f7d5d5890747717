//! What a model is and what it takes to run it, without loading it.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;

use super::checkpoint::{config_path, weight_bytes};
use super::files::ModelKind;
use super::{Family, FamilyConfig, FamilyVisitor, ModelFiles, NetSizes, visit};
use crate::checkpoint::{WeightFormat, image_tokenizer};
use crate::models::ImageTokenizerConfig;
use crate::models::parameters::shapes;
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

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
    /// The transformer; none for an image tokenizer alone.
    #[serde(skip)]
    pub transformer: Option<Transformer>,
    /// The image tokenizer.
    #[serde(skip)]
    pub image_tokenizer: ImageTokenizerConfig,
    /// The default sampling options, of models with a transformer.
    #[serde(skip)]
    pub sampling: Option<SamplingOptions>,
    /// The whole config.
    pub config: Value,
}

/// What is worth knowing of a transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// Layers, width and heads, in words.
    pub layers: String,
    /// Text ids.
    pub text_vocab_size: usize,
    /// The longest caption in text ids.
    pub text_length: usize,
}

/// What a model is, without loading its weights where they need not be.
pub fn info(files: &ModelFiles) -> Result<ModelInfo> {
    struct Info<'a>(&'a ModelFiles);
    impl FamilyVisitor for Info<'_> {
        type Output = Result<ModelInfo>;

        fn visit<F: Family>(self) -> Result<ModelInfo> {
            of_family::<F>(self.0)
        }
    }
    match files.kind {
        ModelKind::Family(name) => visit(name, Info(files))
            .ok_or_else(|| Error::bad_file(config_path(files), "is of an unknown family"))?,
        ModelKind::ImageTokenizer => {
            let (config, weight_bytes) = image_tokenizer::describe(files)?;
            let image = config.image_tokenizer.clone();
            let sizes = Sizes {
                transformer: 0,
                caches: 0,
                precision: WeightFormat::F32,
            };
            let (image_tokenizer_parameters, peak_memory_bytes) = sizes.of(&image, weight_bytes);
            Ok(ModelInfo {
                name: config.name.clone(),
                licence: config.licence.clone(),
                dalle_parameters: 0,
                image_tokenizer_parameters,
                precision: WeightFormat::F32,
                weight_bytes,
                peak_memory_bytes,
                transformer: None,
                image_tokenizer: image,
                sampling: None,
                config: json(&config)?,
            })
        }
    }
}

fn of_family<F: Family>(files: &ModelFiles) -> Result<ModelInfo> {
    let (config, weight_bytes) = match (files.published(), F::published()) {
        (Some(published), Some(form)) => form.describe(published)?,
        _ => (FamilyConfig::<F>::of(files)?, weight_bytes::<F>(files)?),
    };
    let net = config.sizes.init(&mut Init::empty(&Device::flex()));
    let sizes = Sizes {
        transformer: count(&net),
        // With guidance.
        caches: 2 * config.sizes.cache_bytes(),
        precision: config.precision,
    };
    let image = config.image_tokenizer.clone();
    let (image_tokenizer_parameters, peak_memory_bytes) = sizes.of(&image, weight_bytes);
    Ok(ModelInfo {
        name: config.name.clone(),
        licence: config.licence.clone(),
        dalle_parameters: sizes.transformer,
        image_tokenizer_parameters,
        precision: config.precision,
        weight_bytes,
        peak_memory_bytes,
        transformer: Some(config.sizes.describe()),
        image_tokenizer: image,
        sampling: Some(config.sampling.clone()),
        config: json(&config)?,
    })
}

/// A config as `config.json` has it.
pub(crate) fn json<C: Serialize>(config: &C) -> Result<Value> {
    let text = serde_json::to_vec(config).and_then(|text| serde_json::from_slice(&text));
    text.map_err(|e| Error::invalid("config", e.to_string()))
}

/// What the estimate is made of.
struct Sizes {
    /// Parameters of the transformer.
    transformer: usize,
    /// Bytes of keys and values of a guided batch of one.
    caches: u64,
    /// In what its file has the weights.
    precision: WeightFormat,
}

impl Sizes {
    /// The image tokenizer's parameters, and the estimated peak in bytes.
    fn of(&self, image: &ImageTokenizerConfig, weight_bytes: u64) -> (usize, u64) {
        let image_parameters = count(&image.init(&mut Init::empty(&Device::flex())));
        // Weights in f32 beside the file they come from; the caches; the widest activations of the decoder;
        // the program.
        let weights = match self.precision {
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
        let peak = weights + weight_bytes + self.caches + activations + (64 << 20);
        (image_parameters, peak)
    }
}

fn count<M: Module>(module: &M) -> usize {
    let shapes: BTreeMap<String, Vec<usize>> = shapes(module);
    let sizes = shapes.values().map(|shape| shape.iter().product::<usize>());
    sizes.sum()
}
