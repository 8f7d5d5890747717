//! What the transformer's training begins with: both tokenizers and the weights, new or of a model that is
//! trained on.

use std::path::Path;

use burn::tensor::Device;
use bytes::Bytes;

use super::config::check_trainable;
use super::dalle_config::{DalleTrainingConfig, Sizes};
use super::image_tokenizer;
use crate::checkpoint::WeightFormat;
use crate::checkpoint::config_file::CONFIG;
use crate::checkpoint::weights::{WeightPrecision, load, load_into};
use crate::checkpoint::{IMAGE_TOKENIZER, ModelSource};
use crate::families::{Family, ModelFiles, Native, NativeConfig};
use crate::models::{Dalle, DalleConfig, ImageTokenizer};
use crate::nn::Init;
use crate::text::TextTokenizer;
use crate::{Error, Result, files};

pub(super) struct InitialModel {
    pub text: TextTokenizer,
    pub image: ImageTokenizer,
    /// The image tokenizer's file.
    pub image_weights: Bytes,
    /// On the device that trains.
    pub dalle: Dalle,
}

impl InitialModel {
    pub fn of(
        config: &DalleTrainingConfig,
        device: &Device,
        train_device: &Device,
    ) -> Result<Self> {
        let bad = |reason: &str| Error::invalid("training config", reason);
        let given = (
            &config.text_tokenizer,
            &config.image_tokenizer,
            &config.model,
        );
        match (&config.from, given) {
            (Some(from), (None, None, None)) => {
                InitialModel::from_model(from, config.padded_text, device, train_device)
            }
            (Some(from), _) => Err(bad(&format!(
                "text_tokenizer, image_tokenizer and model follow from the model {from} that is trained on; \
                 leave them out"
            ))),
            (None, (Some(text), Some(image), Some(sizes))) => {
                let text = TextTokenizer::load(text)?;
                let (image, image_weights) = load_image_tokenizer(image, device)?;
                let config_of = sizes.config(&text, &image);
                config_of.validate()?;
                check_trainable("model", config_of.parameters())?;
                Ok(InitialModel {
                    image_weights,
                    dalle: config_of.init(&mut Init::new(config.run.seed, train_device)),
                    text,
                    image,
                })
            }
            (None, _) => Err(bad(
                "expected text_tokenizer, image_tokenizer and model, or `from`, a model to train on",
            )),
        }
    }

    fn from_model(
        from: &str,
        padded_text: Option<bool>,
        device: &Device,
        train_device: &Device,
    ) -> Result<Self> {
        let files = ModelFiles::find(&ModelSource::parse(from)?)?;
        let config = NativeConfig::of(&files)?;
        let (source, text) = (&files.source, Native::load_text(&files, &config)?);
        let formats = WeightPrecision::new(config.precision, Some(WeightFormat::F32))?;
        let (image, image_weights) = image_tokenizer_of(&files, &config, device)?;
        let mut sizes = config.sizes.clone();
        sizes.padded_text = padded_text.unwrap_or(sizes.padded_text);
        let dalle = sizes.init(&mut Init::empty(train_device));
        let weights = source.weights(Native::WEIGHTS, files.access)?;
        Ok(InitialModel {
            image,
            dalle: load(dalle, &source.path(Native::WEIGHTS), &weights, formats)?,
            text,
            image_weights,
        })
    }
}

/// What `train image-tokenizer` wrote into a folder, or the image tokenizer of a model of ours.
pub(super) fn load_image_tokenizer(
    folder: &Path,
    device: &Device,
) -> Result<(ImageTokenizer, Bytes)> {
    if folder.join(CONFIG).exists() && !folder.join(image_tokenizer::CONFIG).exists() {
        let files = ModelFiles::find(&ModelSource::Dir(folder.to_path_buf()))?;
        return image_tokenizer_of(&files, &NativeConfig::of(&files)?, device);
    }
    let image = image_tokenizer::load(folder, device)?;
    Ok((image, files::read(folder.join(IMAGE_TOKENIZER))?.into()))
}

fn image_tokenizer_of(
    files: &ModelFiles,
    config: &NativeConfig,
    device: &Device,
) -> Result<(ImageTokenizer, Bytes)> {
    let weights = files.source.read(IMAGE_TOKENIZER)?;
    let image = config.image_tokenizer.init(&mut Init::empty(device));
    let image = load_into(image, &files.source.path(IMAGE_TOKENIZER), &weights)?;
    Ok((image, weights))
}

impl Sizes {
    fn config(&self, text: &TextTokenizer, image: &ImageTokenizer) -> DalleConfig {
        DalleConfig {
            text_vocab_size: text.vocab_size(),
            text_length: self.text_length,
            padded_text: self.padded_text,
            codebook_size: image.config().codebook_size(),
            grid: image.config().grid(),
            width: self.width,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            hidden: self.hidden,
            contrastive_width: self.contrastive_width,
        }
    }
}
