//! LlamaGen: [`LlamaGen`](models::LlamaGen), which draws after a class, or after a caption that a T5 encoder reads.

use std::path::Path;

use super::{
    Family, FamilyConfig, FamilyLoss, ModelFiles, NetSizes, NoOptions, PublishedForm, Transformer,
};
use crate::checkpoint::WeightFormat;
use crate::import::llamagen as published;
use crate::models::llamagen::{LlamaGenCondition, LlamaGenPrompt, NEXT_CHUNK, NO_CAPTION};
use crate::models::{self, LlamaGenConfig};
use crate::nn::Init;
use crate::text::clip::LongCaption;
use crate::text::t5::T5Tokenizer;
use crate::{Error, Result};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct LlamaGen;

/// Prompts → ids.
// One value a model: its size is of no consequence.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum LlamaGenText {
    /// The number of a class.
    Class,
    /// A caption.
    Caption(Box<T5Tokenizer>),
}

impl NetSizes for LlamaGenConfig {
    type Net = models::LlamaGen;

    fn validate(&self) -> Result<()> {
        LlamaGenConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        LlamaGenConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::LlamaGen {
        LlamaGenConfig::init(self, init)
    }

    fn grid(&self) -> usize {
        self.grid
    }

    fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    fn text_length(&self) -> usize {
        LlamaGenConfig::text_length(self)
    }

    fn width(&self) -> usize {
        self.width
    }

    fn cache_bytes(&self, format: WeightFormat) -> u64 {
        let positions = LlamaGenConfig::text_length(self) + self.image_length();
        (format.cache_width() * 2 * self.n_layers * positions * self.width) as u64
    }

    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("caption.")
    }

    fn describe(&self) -> Transformer {
        let own = format!(
            "{} layers x {}, {} heads",
            self.n_layers, self.width, self.n_heads
        );
        let (layers, text_vocab_size) = match &self.condition {
            LlamaGenCondition::Classes { n_classes } => (own, *n_classes),
            LlamaGenCondition::Caption { text, .. } => (
                format!(
                    "{own}; text: {} layers x {}, {} heads",
                    text.n_layers, text.width, text.n_heads
                ),
                text.vocab_size,
            ),
        };
        Transformer {
            layers,
            text_vocab_size,
            text_length: LlamaGenConfig::text_length(self),
        }
    }
}

impl Family for LlamaGen {
    const NAME: &'static str = "llamagen";
    const TITLE: &'static str = "LlamaGen";
    const SIZES: &'static str = "llamagen";
    const WEIGHTS: &'static str = "llamagen.safetensors";

    type Sizes = LlamaGenConfig;
    type Options = NoOptions;
    type Net = models::LlamaGen;
    type Text = LlamaGenText;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<LlamaGenText> {
        Ok(match &config.sizes.condition {
            LlamaGenCondition::Classes { .. } => LlamaGenText::Class,
            LlamaGenCondition::Caption { text, .. } => LlamaGenText::Caption(Box::new(
                T5Tokenizer::load(files.folder(), text.vocab_size)?,
            )),
        })
    }

    fn save_text(text: &LlamaGenText, dir: &Path) -> Result<()> {
        match text {
            LlamaGenText::Class => Ok(()),
            LlamaGenText::Caption(text) => text.save(dir),
        }
    }

    fn reads_chunks(text: &LlamaGenText) -> bool {
        matches!(text, LlamaGenText::Caption(_))
    }

    /// # Errors
    /// Also where a model of classes gets words.
    fn encode(
        text: &LlamaGenText,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        match (text, &config.sizes.condition) {
            // Each chunk is a caption of its own to the text encoder, its end included; their states stand one after the
            // other.
            (LlamaGenText::Caption(text), _) if long == LongCaption::Chunks => {
                let chunks = text.encode_chunks(caption, config.sizes.text_length())?;
                Ok(chunks.join(&NEXT_CHUNK))
            }
            (LlamaGenText::Caption(text), _) => {
                text.encode_caption(caption, config.sizes.text_length(), long.truncates())
            }
            (LlamaGenText::Class, LlamaGenCondition::Classes { n_classes }) => {
                let class = caption.trim().parse::<u32>().ok();
                match class.filter(|&class| (class as usize) < *n_classes) {
                    Some(class) => Ok(vec![class]),
                    None => Err(Error::invalid(
                        "caption",
                        format!(
                            "this model draws classes, not captions: expected the number of one, 0 to {}, got \"{}\"",
                            n_classes - 1,
                            crate::text::shortened(caption)
                        ),
                    )),
                }
            }
            (LlamaGenText::Class, LlamaGenCondition::Caption { .. }) => {
                Err(Error::invalid("model", "has no text tokenizer"))
            }
        }
    }

    /// As long as the caption: the reference masks the rest. Beside a caption in chunks all of the learned places.
    fn unconditional(
        _text: &LlamaGenText,
        config: &FamilyConfig<Self>,
        caption: &[u32],
    ) -> Vec<u32> {
        match config.sizes.condition {
            LlamaGenCondition::Classes { n_classes } => vec![n_classes as u32],
            LlamaGenCondition::Caption { length, .. } => {
                let places = match caption.len() {
                    0 => length,
                    places => places.min(length),
                };
                vec![NO_CAPTION; places]
            }
        }
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    fn for_training(net: models::LlamaGen) -> models::LlamaGen {
        net.for_training()
    }

    /// The mean of −ln p of all ids of images after their prompts (`autoregressive/train/train_t2i.py`), without its
    /// dropouts.
    fn loss(
        net: &models::LlamaGen,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        let prompts = captions
            .iter()
            .map(|ids| crate::engine::AutoregressiveModel::read(net, ids));
        let prompts: Vec<LlamaGenPrompt> = prompts.collect::<Result<_>>()?;
        let prompts: Vec<(&LlamaGenPrompt, usize)> =
            prompts.iter().map(|prompt| (prompt, 1)).collect();
        let loss = net.image_nll(&prompts, image_ids)?.mean();
        Ok(FamilyLoss {
            metrics: vec![("image_nats", loss.clone())],
            loss,
        })
    }
}
