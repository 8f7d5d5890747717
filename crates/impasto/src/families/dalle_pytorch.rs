//! DALLE-pytorch: [`DallePytorch`](models::DallePytorch), one sequence of caption and image, with any of four text
//! tokenizers.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::native::weighted;
use super::{
    Captioner, Family, FamilyConfig, FamilyLoss, FamilyModel, ModelFiles, NetSizes, PublishedForm,
    TextFamily, Transformer,
};
use crate::Result;
use crate::checkpoint::WeightFormat;
use crate::engine::SampledText;
use crate::import::dalle_pytorch as published;
use crate::models::{self, DallePytorchConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::text::dalle_pytorch::DallePytorchTokenizer;

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct DallePytorch;

/// The options of families without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

impl NetSizes for DallePytorchConfig {
    type Net = models::DallePytorch;

    fn validate(&self) -> Result<()> {
        DallePytorchConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        DallePytorchConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::DallePytorch {
        DallePytorchConfig::init(self, init)
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

    fn cache_bytes(&self, _format: WeightFormat) -> u64 {
        let positions = self.prefix_length() + self.image_length();
        (4 * 2 * self.n_layers * self.n_heads * self.head_width * positions) as u64
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

impl Family for DallePytorch {
    const NAME: &'static str = "dalle_pytorch";
    const TITLE: &'static str = "DALLE-pytorch";
    const SIZES: &'static str = "dalle_pytorch";
    const WEIGHTS: &'static str = "dalle_pytorch.safetensors";
    /// `loss_img_weight` of `dalle_pytorch.py`.
    const IMAGE_LOSS_WEIGHT: Option<f64> = Some(7.0);

    type Sizes = DallePytorchConfig;
    type Options = NoOptions;
    type Net = models::DallePytorch;
    type Text = DallePytorchTokenizer;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<DallePytorchTokenizer> {
        DallePytorchTokenizer::load(files.folder(), config.sizes.text_vocab_size)
    }

    fn save_text(text: &DallePytorchTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn encode(
        text: &DallePytorchTokenizer,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        text.encode_caption(caption, config.sizes.text_length, long.truncates())
    }

    /// The reference's: padding alone.
    fn unconditional(
        _text: &DallePytorchTokenizer,
        _config: &FamilyConfig<Self>,
        _caption: &[u32],
    ) -> Vec<u32> {
        Vec::new()
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    fn captioner(model: &FamilyModel<Self>) -> Option<&dyn Captioner> {
        Some(model)
    }

    fn for_training(net: models::DallePytorch) -> models::DallePytorch {
        net.for_training()
    }

    /// The mean of −ln p of words, and `image_weight` times that of the image ids, over 1 + `image_weight`
    /// (`dalle_pytorch.py`, `DALLE.forward`).
    fn loss(
        net: &models::DallePytorch,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        image_weight: f64,
    ) -> Result<FamilyLoss> {
        let (text, image) = net.nll(captions, image_ids)?;
        Ok(weighted(text.mean(), image.mean(), image_weight))
    }
}

impl TextFamily for DallePytorch {
    const AFTER_IMAGE: bool = false;
    const MULTILINGUAL: bool = false;

    fn prefix_ids(
        text: &DallePytorchTokenizer,
        config: &FamilyConfig<Self>,
        prefix: &str,
    ) -> Result<Vec<u32>> {
        match prefix.trim() {
            "" => Ok(Vec::new()),
            prefix => text.encode_caption(prefix, config.sizes.text_length, false),
        }
    }

    fn caption_ids(_config: &FamilyConfig<Self>, generated: &SampledText) -> Vec<u32> {
        generated.text_ids.clone()
    }

    fn decode(text: &DallePytorchTokenizer, ids: &[u32]) -> Result<String> {
        text.decode(ids)
    }

    /// The original's: `filter_thres` 0.5 keeps half of the joint vocabulary.
    fn text_sampling(config: &FamilyConfig<Self>) -> SamplingOptions {
        let sizes = &config.sizes;
        let kept = (sizes.text_rows() + sizes.codebook_size) / 2;
        SamplingOptions {
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: (kept < sizes.text_rows()).then_some(kept.max(1)),
            top_p: None,
        }
    }
}
