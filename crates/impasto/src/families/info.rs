//! What a model is and what it takes to run it, without loading it.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;

use super::checkpoint::{config_path, weight_bytes};
use super::expected::DrawingWork;
use super::files::ModelKind;
use super::{Family, FamilyConfig, FamilyVisitor, ModelFiles, NetSizes, visit};
use crate::checkpoint::{IMAGE_TOKENIZER, ModelSource, WeightFormat, image_tokenizer};
use crate::error::Reason;
use crate::files::FileAccess;
use crate::memory::{self, SamplingMemory};
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
    /// The formats of the numbers in the weight files, and the bytes of each, the largest first; none for published
    /// models, whose files are of many kinds.
    pub formats: Vec<(&'static str, u64)>,
    /// Estimated peak memory of drawing one picture.
    pub peak_memory_bytes: u64,
    /// The same of 16 pictures, which are drawn together.
    pub peak_memory_bytes_of_16: u64,
    /// The same of any larger number: they are drawn 16 at a time.
    pub peak_memory_bytes_of_many: u64,
    /// What drawing a picture takes; none for an image tokenizer alone.
    pub drawing: Option<DrawingWork>,
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
            let image_tokenizer_parameters = count(&image.init(&mut empty()));
            let stored = match files.is_published_form() {
                true => Stored::published(image_tokenizer_parameters),
                false => Stored::of(&files.source, &[IMAGE_TOKENIZER])?,
            };
            let drawing = stored.drawing(&image);
            Ok(ModelInfo {
                name: config.name.clone(),
                licence: config.licence.clone(),
                dalle_parameters: 0,
                image_tokenizer_parameters,
                precision: WeightFormat::F32,
                weight_bytes,
                peak_memory_bytes: drawing.peak(1),
                peak_memory_bytes_of_16: drawing.peak(memory::BATCH),
                peak_memory_bytes_of_many: drawing.peak(memory::BATCH + 1),
                formats: stored.formats,
                drawing: None,
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
    let image = config.image_tokenizer.clone();
    let (image_net, net) = (image.init(&mut empty()), config.sizes.init(&mut empty()));
    let (image_tokenizer_parameters, dalle_parameters) = (count(&image_net), count(&net));
    // What a published model has in lower precision is in memory as it is stored.
    let (converted, linear) = match config.precision.is_f32() {
        true => (dalle_parameters + image_tokenizer_parameters, 0),
        false => (image_tokenizer_parameters, dalle_parameters as u64),
    };
    let (stored, linear) = match files.is_published_form() {
        true => (Stored::published(converted), linear),
        false => (
            Stored::of(&files.source, &[F::WEIGHTS, IMAGE_TOKENIZER])?,
            0,
        ),
    };
    let drawing = SamplingMemory {
        linear,
        format: config.precision,
        cache: config.sizes.cache_bytes(config.precision) / 4,
        caption: (config.sizes.text_length() * config.sizes.width()) as u64,
        guided: config.sampling.needs_unconditional(),
        ..stored.drawing(&image)
    };
    Ok(ModelInfo {
        name: config.name.clone(),
        licence: config.licence.clone(),
        dalle_parameters,
        image_tokenizer_parameters,
        precision: config.precision,
        weight_bytes,
        peak_memory_bytes: drawing.peak(1),
        peak_memory_bytes_of_16: drawing.peak(memory::BATCH),
        peak_memory_bytes_of_many: drawing.peak(memory::BATCH + 1),
        formats: stored.formats,
        drawing: Some(DrawingWork::of::<F>(&config, &net, &image_net)),
        transformer: Some(config.sizes.describe()),
        image_tokenizer: image,
        sampling: Some(config.sampling.clone()),
        config: json(&config)?,
    })
}

/// A config as `config.json` has it.
pub(crate) fn json<C: Serialize>(config: &C) -> Result<Value> {
    let text = serde_json::to_vec(config).and_then(|text| serde_json::from_slice(&text));
    text.map_err(|e| Error::invalid("config", Reason::of(e)))
}

/// What a model's files hold, in the formats that they have it in.
struct Stored {
    /// Bytes of each format, the largest first.
    formats: Vec<(&'static str, u64)>,
    /// Numbers that are converted to 32 bits when they are read.
    converted: u64,
    /// Bytes that are used in the place where they are: of a mapped file, or of the program.
    in_place: u64,
}

impl Stored {
    /// Of a folder in our format.
    fn of(source: &ModelSource, names: &[&'static str]) -> Result<Self> {
        let mut formats: Vec<(&'static str, u64)> = Vec::new();
        let mut stored = Stored {
            formats: Vec::new(),
            converted: 0,
            in_place: 0,
        };
        for &name in names {
            let bytes = source.weights(name, FileAccess::Map)?;
            for (format, size) in memory::stored_formats(&source.path(name), &bytes)? {
                match formats.iter_mut().find(|(known, _)| *known == format) {
                    Some((_, total)) => *total += size,
                    None => formats.push((format, size)),
                }
            }
        }
        for &(format, size) in &formats {
            if format == "f16" {
                stored.converted += size / 2;
                if source.folder().is_none() {
                    stored.in_place += size;
                }
            } else {
                stored.in_place += size;
            }
        }
        formats.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
        stored.formats = formats;
        Ok(stored)
    }

    /// Of a published model, all of whose numbers are converted.
    fn published(numbers: usize) -> Self {
        Stored {
            formats: Vec::new(),
            converted: numbers as u64,
            in_place: 0,
        }
    }

    /// The estimated peak of drawing, by the number of pictures.
    fn drawing(&self, image: &ImageTokenizerConfig) -> SamplingMemory {
        let pixels = (image.picture_size() as u64).pow(2);
        let channels = match image {
            ImageTokenizerConfig::TamingVqgan(config) => config.base_width as u64,
            _ => 64,
        };
        SamplingMemory {
            linear: 0,
            plain: self.converted,
            format: WeightFormat::F32,
            in_place: self.in_place,
            cache: 0,
            caption: 0,
            guided: false,
            widest: channels * pixels,
            pixels,
        }
    }
}

fn empty() -> Init {
    Init::empty(&Device::flex())
}

fn count<M: Module>(module: &M) -> usize {
    let shapes: BTreeMap<String, Vec<usize>> = shapes(module);
    let sizes = shapes.values().map(|shape| shape.iter().product::<usize>());
    sizes.sum()
}
