//! A model of any family as a folder: `config.json`, the net's weights, the image tokenizer's weights, and the text
//! tokenizer's files. Loaded and saved by the same code for every family.

use std::path::Path;

use burn::tensor::Device;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Family, ModelFiles, NetSizes};
use crate::checkpoint::config_file::{self, CONFIG};
use crate::checkpoint::weights::{self, Precision};
use crate::checkpoint::{IMAGE_TOKENIZER, WeightFormat, saving};
use crate::import::ImportReport;
use crate::models::parameters::export;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// What a model is: `config.json`.
#[derive(Clone, Debug)]
pub struct FamilyConfig<F: Family> {
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The image tokenizer.
    pub image_tokenizer: ImageTokenizerConfig,
    /// The net.
    pub sizes: F::Sizes,
    /// The default sampling options.
    pub sampling: SamplingOptions,
    /// What only this family has.
    pub options: F::Options,
    /// In what the net's file has the weights of linear layers.
    pub precision: WeightFormat,
}

const ARCHITECTURE: &str = "architecture";

impl<F: Family> Serialize for FamilyConfig<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if F::TAGGED {
            map.serialize_entry(ARCHITECTURE, F::NAME)?;
        }
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("licence", &self.licence)?;
        map.serialize_entry("image_tokenizer", &self.image_tokenizer)?;
        map.serialize_entry(F::SIZES, &self.sizes)?;
        map.serialize_entry("sampling", &self.sampling)?;
        let options = serde_json::to_value(&self.options).map_err(serde::ser::Error::custom)?;
        for (name, value) in options.as_object().into_iter().flatten() {
            map.serialize_entry(name, value)?;
        }
        if !self.precision.is_f32() {
            map.serialize_entry("precision", &self.precision)?;
        }
        map.end()
    }
}

impl<'de, F: Family> Deserialize<'de> for FamilyConfig<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let tag = fields.remove(ARCHITECTURE);
        if tag.as_ref().is_some_and(|tag| tag != F::NAME) || F::TAGGED && tag.is_none() {
            return Err(D::Error::custom(format!(
                "architecture is {}, expected {}",
                tag.unwrap_or_default(),
                F::NAME
            )));
        }
        fn field<T: serde::de::DeserializeOwned, E: serde::de::Error>(
            fields: &mut Map<String, Value>,
            name: &'static str,
        ) -> Result<T, E> {
            let value = fields.remove(name).ok_or_else(|| E::missing_field(name))?;
            serde_json::from_value(value).map_err(|e| E::custom(format!("{name}: {e}")))
        }
        let precision = match fields.contains_key("precision") {
            true => field(&mut fields, "precision")?,
            false => WeightFormat::F32,
        };
        Ok(FamilyConfig {
            name: field(&mut fields, "name")?,
            licence: field(&mut fields, "licence")?,
            image_tokenizer: field(&mut fields, "image_tokenizer")?,
            sizes: field(&mut fields, F::SIZES)?,
            sampling: field(&mut fields, "sampling")?,
            precision,
            // What is left is the family's, which refuses what it doesn't know.
            options: serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?,
        })
    }
}

impl<F: Family> FamilyConfig<F> {
    /// That of a model, without its weights. A config of more numbers than the weight files can hold is refused.
    pub fn of(files: &ModelFiles) -> Result<Self> {
        let what = format!("the config of a model of the family {}", F::TITLE);
        let config: Self = files.parse_config(&what, FamilyConfig::validate)?;
        let source = &files.source;
        source.check_room(config.sizes.parameters(), &[F::WEIGHTS])?;
        source.check_room(config.image_tokenizer.parameters(), &[IMAGE_TOKENIZER])?;
        Ok(config)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        self.image_tokenizer.validate()?;
        self.sizes.validate()?;
        self.sampling.validate()?;
        let (grid, codes) = (self.sizes.grid(), self.sizes.codebook_size());
        config_file::check_codes(&self.image_tokenizer, grid, codes)
    }
}

/// What became of the tensors of one network of a published model.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkReport {
    /// "transformer", "image tokenizer", "clip".
    pub what: &'static str,
    /// Its tensors.
    pub tensors: ImportReport,
}

impl NetworkReport {
    /// Those of a model of a transformer and an image tokenizer.
    pub fn of(transformer: ImportReport, image_tokenizer: ImportReport) -> Vec<Self> {
        vec![
            NetworkReport {
                what: "transformer",
                tensors: transformer,
            },
            NetworkReport {
                what: "image tokenizer",
                tensors: image_tokenizer,
            },
        ]
    }
}

/// How the weights of a saved model are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAs {
    /// As they are in memory: packed ones packed, others in 16 bits where that loses nothing, else in 32.
    Held,
    /// Like [`SaveAs::Held`], but the net's numbers rounded to 16 bits.
    Rounded,
    /// All as floats of this width.
    Floats(Precision),
}

/// A model, ready to run.
#[derive(Debug)]
pub struct FamilyModel<F: Family> {
    /// What it is.
    pub config: FamilyConfig<F>,
    /// Captions → text ids.
    pub text: F::Text,
    /// Pixels ↔ image ids.
    pub image: ImageTokenizer,
    /// The transformer.
    pub net: F::Net,
    /// Where the weights are.
    pub device: Device,
}

impl<F: Family> FamilyModel<F> {
    /// Loads all of a model onto `device`, in our format or as it was published. The net's weights are held as
    /// `wanted`; without, as they are stored.
    pub fn load(files: &ModelFiles, device: &Device, wanted: Option<WeightFormat>) -> Result<Self> {
        if let (Some(published), Some(form)) = (files.published(), F::published()) {
            let format = wanted.map_or_else(|| form.precision(published), Ok)?;
            return Ok(form.load(published, device, format)?.model);
        }
        let mut config = FamilyConfig::<F>::of(files)?;
        let formats = weights::WeightPrecision::new(config.precision, wanted)?;
        config.precision = formats.in_memory();
        let text = F::load_text(files, &config)?;
        // The fresh weights are all replaced; the seed is of no consequence.
        let mut init = Init::empty(device);
        let (source, access) = (&files.source, files.access);
        let net = config.sizes.init(&mut init);
        let net = source.load(net, F::WEIGHTS, (formats, access))?;
        let image = config.image_tokenizer.init(&mut init);
        let image = source.load(
            image,
            IMAGE_TOKENIZER,
            (weights::WeightPrecision::default(), access),
        )?;
        Ok(FamilyModel {
            config,
            text,
            image,
            net,
            device: device.clone(),
        })
    }

    /// Writes a checkpoint folder; each file is written whole or not at all, the config last.
    pub fn save(&self, dir: &Path, save_as: SaveAs) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let (net, image) = (dir.join(F::WEIGHTS), dir.join(IMAGE_TOKENIZER));
        let mut precision = self.config.precision;
        match save_as {
            SaveAs::Held => {
                saving::write(&net, &self.net)?;
                saving::write(&image, &self.image)?;
            }
            SaveAs::Rounded => {
                saving::write_rounded(&net, &self.net)?;
                saving::write(&image, &self.image)?;
            }
            SaveAs::Floats(floats) => {
                weights::write(&net, &export(&self.net), floats)?;
                weights::write(&image, &export(&self.image), floats)?;
                precision = WeightFormat::F32;
            }
        }
        F::save_text(&self.text, dir)?;
        let config = FamilyConfig {
            precision,
            ..self.config.clone()
        };
        config_file::save(dir, &config)
    }

    /// The text ids of a caption, as the net reads them.
    ///
    /// # Errors
    /// [`Error::CaptionTooLong`] where it may not be cut, and where only chunks would do and the family reads none.
    pub fn encode_caption(&self, caption: &str, long: LongCaption) -> Result<Vec<u32>> {
        let encode = |long| F::encode(&self.text, &self.config, caption, long);
        match (long, F::reads_chunks(&self.text)) {
            (LongCaption::Fit, true) => match encode(LongCaption::Chunks) {
                Err(Error::CaptionTooLong { .. }) => encode(LongCaption::Truncate),
                read => read,
            },
            (LongCaption::Chunks, false) => {
                let reason = format!(
                    "{} is a {} model without a CLIP or T5 text encoder, by which alone captions can be read in chunks",
                    self.config.name,
                    F::TITLE
                );
                Err(Error::invalid("chunks", reason))
            }
            (long, _) => encode(long),
        }
    }

    /// The text ids of no caption, for guidance beside one of these ids; without ids, of no caption at all.
    pub fn unconditional(&self, caption: &[u32]) -> Vec<u32> {
        F::unconditional(&self.text, &self.config, caption)
    }
}

/// Bytes of the weight files of a folder in our format.
pub(super) fn weight_bytes<F: Family>(files: &ModelFiles) -> Result<u64> {
    files.source.file_bytes(&[F::WEIGHTS, IMAGE_TOKENIZER])
}

/// The path of a model's config, for errors.
pub(super) fn config_path(files: &ModelFiles) -> std::path::PathBuf {
    files.source.path(CONFIG)
}

/// Refuses a folder that has something in it.
pub(super) fn check_new(dir: &Path) -> Result<()> {
    if dir.exists() && !crate::files::is_empty(dir)? {
        return Err(Error::invalid(
            "output",
            format!(
                "{} is there already, expected a new or an empty folder",
                dir.display()
            ),
        ));
    }
    Ok(())
}
