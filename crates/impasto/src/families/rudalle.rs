//! ruDALL-E: [`RuDalle`](models::RuDalle), one sequence of caption and image, with YouTokenToMe's text tokenizer.

use std::path::Path;

use super::native::weighted;
use super::{
    Family, FamilyConfig, FamilyLoss, ModelFiles, NetSizes, NoOptions, PublishedForm, Transformer,
};
use crate::Result;
use crate::checkpoint::WeightFormat;
use crate::import::rudalle as published;
use crate::models::rudalle::{BEGIN, END};
use crate::models::{self, RuDalleConfig};
use crate::nn::Init;
use crate::text::clip::LongCaption;
use crate::text::rudalle::RuDalleTokenizer;

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct RuDalle;

impl NetSizes for RuDalleConfig {
    type Net = models::RuDalle;

    fn validate(&self) -> Result<()> {
        RuDalleConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        RuDalleConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::RuDalle {
        RuDalleConfig::init(self, init)
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
        (4 * 2 * self.n_layers * self.width * positions) as u64
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

impl Family for RuDalle {
    const NAME: &'static str = "rudalle";
    const TITLE: &'static str = "ruDALL-E";
    const SIZES: &'static str = "rudalle";
    const WEIGHTS: &'static str = "rudalle.safetensors";
    /// `loss_img_weight` of `rudalle/dalle/model.py`.
    const IMAGE_LOSS_WEIGHT: Option<f64> = Some(7.0);

    type Sizes = RuDalleConfig;
    type Options = NoOptions;
    type Net = models::RuDalle;
    type Text = RuDalleTokenizer;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<RuDalleTokenizer> {
        RuDalleTokenizer::load(files.folder(), config.sizes.text_vocab_size)
    }

    fn save_text(text: &RuDalleTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn encode(
        text: &RuDalleTokenizer,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        text.encode_caption(caption, config.sizes.text_length, long.truncates())
    }

    /// The empty caption. (The reference has no guidance, and its training no captions left out.)
    fn unconditional(
        _text: &RuDalleTokenizer,
        _config: &FamilyConfig<Self>,
        _caption: &[u32],
    ) -> Vec<u32> {
        vec![BEGIN, END]
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    /// The mean of −ln p of words, and `image_weight` times that of the image ids, over 1 + `image_weight`
    /// (`rudalle/dalle/model.py`, `DalleModel.forward`), without its dropouts.
    fn loss(
        net: &models::RuDalle,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        image_weight: f64,
    ) -> Result<FamilyLoss> {
        let (text, image) = net.training_nll(captions, image_ids)?;
        Ok(weighted(text.mean(), image.mean(), image_weight))
    }
}
