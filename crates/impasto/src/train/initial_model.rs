//! What the transformer's training begins with: both tokenizers and the weights, new or of a model that is
//! trained on.

use burn::tensor::Device;
use bytes::Bytes;

use super::config::check_trainable;
use super::dalle_config::{DalleTrainingConfig, Sizes};
use super::image_tokenizer;
use crate::checkpoint::WeightFormat;
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
                let path = image.join(IMAGE_TOKENIZER);
                let text = TextTokenizer::load(text)?;
                let image = image_tokenizer::load(image, device)?;
                let config_of = sizes.config(&text, &image);
                config_of.validate()?;
                check_trainable("model", config_of.parameters())?;
                Ok(InitialModel {
                    image_weights: files::read(&path)?.into(),
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
        let image_weights = source.read(IMAGE_TOKENIZER)?;
        let image = config.image_tokenizer.init(&mut Init::empty(device));
        let mut sizes = config.sizes.clone();
        sizes.padded_text = padded_text.unwrap_or(sizes.padded_text);
        let dalle = sizes.init(&mut Init::empty(train_device));
        let weights = source.weights(Native::WEIGHTS, files.access)?;
        Ok(InitialModel {
            image: load_into(image, &source.path(IMAGE_TOKENIZER), &image_weights)?,
            dalle: load(dalle, &source.path(Native::WEIGHTS), &weights, formats)?,
            text,
            image_weights,
        })
    }
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
