//! impasto's own family: [`Dalle`], a byte-level text tokenizer, any order.

use std::path::Path;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Attentive, Captioner, Family, FamilyConfig, FamilyLoss, FamilyModel, ModelFiles, NetSizes,
    TextFamily, Transformer,
};
use crate::canvas::Conditioning;
use crate::checkpoint::WeightFormat;
use crate::engine::{AutoregressiveModel, Prompted, SampledText};
use crate::error::Reason;
use crate::models::{Dalle, DalleConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::text::{BOS, EOS, PAD, TextTokenizer};
use crate::{Error, Result};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Native;

/// The config of a model of this family.
pub type NativeConfig = FamilyConfig<Native>;
/// A model of this family.
pub type NativeModel = FamilyModel<Native>;

/// What only this family's configs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeOptions {
    /// Whether the model was trained on random orders of the image ids. One that knows raster order only is edited by
    /// teacher forcing.
    #[serde(default = "yes")]
    pub any_order: bool,
    /// Whether the model was trained to predict captions after images.
    #[serde(default = "yes")]
    pub captions_images: bool,
}

/// Models from before the fields were all trained on mixed orders, and on captions after images.
fn yes() -> bool {
    true
}

const TOKENIZER: &str = "tokenizer.json";

/// Ids of a short caption.
const SHORT: usize = 8;

impl NetSizes for DalleConfig {
    type Net = Dalle;

    fn validate(&self) -> Result<()> {
        DalleConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        DalleConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> Dalle {
        DalleConfig::init(self, init)
    }

    fn grid(&self) -> usize {
        self.grid
    }

    fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    fn text_length(&self) -> usize {
        self.text_length
    }

    fn width(&self) -> usize {
        self.width
    }

    fn cache_bytes(&self, format: WeightFormat) -> u64 {
        (format.cache_width() * 2 * self.n_layers * self.sequence_length() * self.width) as u64
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!(
                "{} layers x {}, {} heads",
                self.n_layers, self.width, self.n_heads
            ),
            text_vocab_size: self.text_vocab_size,
            text_length: self.text_length,
        }
    }
}

impl Family for Native {
    const NAME: &'static str = "dalle";
    const TITLE: &'static str = "impasto";
    const TAGGED: bool = false;
    const SIZES: &'static str = "dalle";
    const WEIGHTS: &'static str = "dalle.safetensors";
    /// The DALL·E paper's (arXiv:2102.12092, section 2.2).
    const IMAGE_LOSS_WEIGHT: Option<f64> = Some(7.0);

    type Sizes = DalleConfig;
    type Options = NativeOptions;
    type Net = Dalle;
    type Text = TextTokenizer;

    fn load_text(files: &ModelFiles, config: &NativeConfig) -> Result<TextTokenizer> {
        let source = &files.source;
        let bad = |reason: Reason| Error::bad_file(source.path(TOKENIZER), reason);
        let text = TextTokenizer::from_bytes(&source.read(TOKENIZER)?)
            .map_err(|error| bad(Reason::of(error)))?;
        let (found, expected) = (text.vocab_size(), config.sizes.text_vocab_size);
        if found != expected {
            return Err(bad(format!(
                "has {found} ids, config.json expects {expected}"
            )
            .into()));
        }
        Ok(text)
    }

    fn save_text(text: &TextTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn encode(
        text: &TextTokenizer,
        config: &NativeConfig,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        let mut ids = text.encode_caption(caption, config.sizes.text_length, long.truncates())?;
        if !config.sizes.padded_text {
            ids.retain(|&id| id != PAD);
        }
        Ok(ids)
    }

    fn unconditional(text: &TextTokenizer, config: &NativeConfig, caption: &[u32]) -> Vec<u32> {
        text.null_caption(match config.sizes.padded_text {
            true => config.sizes.text_length,
            // So it is trained, in batches of captions that are about as long.
            false => caption.len().max(SHORT.min(config.sizes.text_length)),
        })
    }

    fn conditioning(options: &NativeOptions) -> Conditioning {
        match options.any_order {
            true => Conditioning::Prefix,
            false => Conditioning::TeacherForced,
        }
    }

    fn captioner(model: &NativeModel) -> Option<&dyn Captioner> {
        Some(model)
    }

    fn attentive(model: &NativeModel) -> Option<&dyn Attentive> {
        Some(model)
    }

    fn loss(
        net: &Dalle,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        image_weight: f64,
    ) -> Result<FamilyLoss> {
        let prompts: Vec<Prompted<'_, Vec<u32>>> = captions
            .iter()
            .map(|prompt| Prompted { prompt, rows: 1 })
            .collect();
        let nll = net.token_nll(&prompts, image_ids, true)?;
        let image = nll.image.mean();
        let Some(text) = nll.text else {
            return Err(Error::invalid("text", "expected a loss of texts"));
        };
        // The mean of those that are no padding, whose loss is 0.
        let text = text.sum().div_scalar(nll.text_tokens.max(1) as f64);
        Ok(weighted(text, image, image_weight))
    }
}

/// (text + weight · image) / (1 + weight), as DALL·E was trained.
pub(super) fn weighted(text: Tensor<1>, image: Tensor<1>, weight: f64) -> FamilyLoss {
    let loss = text.clone() + image.clone().mul_scalar(weight);
    FamilyLoss {
        loss: loss.div_scalar(1.0 + weight),
        metrics: vec![("text_nats", text), ("image_nats", image)],
    }
}

impl TextFamily for Native {
    const AFTER_IMAGE: bool = true;
    const MULTILINGUAL: bool = true;

    fn captions_images(config: &NativeConfig) -> bool {
        config.options.captions_images
    }

    fn prefix_ids(text: &TextTokenizer, config: &NativeConfig, prefix: &str) -> Result<Vec<u32>> {
        // An empty text has no ids of its own.
        let ids = match prefix.trim().is_empty() {
            true => Vec::new(),
            false => text.encode(prefix)?,
        };
        // The start and one id more.
        let limit = config.sizes.text_length;
        if ids.len() + 1 >= limit {
            return Err(Error::CaptionTooLong {
                tokens: ids.len() + 2,
                limit,
                caption: crate::text::shortened(prefix),
            });
        }
        Ok(ids)
    }

    fn caption_ids(config: &NativeConfig, generated: &SampledText) -> Vec<u32> {
        let mut ids = vec![BOS];
        ids.extend(&generated.text_ids);
        if generated.ended {
            ids.push(EOS);
        }
        if config.sizes.padded_text {
            ids.resize(config.sizes.text_length, PAD);
        }
        ids
    }

    fn caption_nll(
        net: &Dalle,
        caption: &[u32],
        image_ids: &[Vec<u32>],
    ) -> Option<(Tensor<1>, usize)> {
        let rows = image_ids.len().max(1);
        let (nll, counted) = net.caption_nll(image_ids, &vec![caption; rows]);
        let counted = counted.into_iter().filter(|&counts| counts).count();
        Some((nll, counted / rows))
    }

    fn decode(text: &TextTokenizer, ids: &[u32]) -> Result<String> {
        text.decode(ids)
    }

    fn text_sampling(_config: &NativeConfig) -> SamplingOptions {
        SamplingOptions {
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: None,
            top_p: None,
        }
    }
}
