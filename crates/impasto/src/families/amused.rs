//! aMUSEd: [`Amused`](models::Amused), which reads captions padded to 77 ids by CLIP's text tower, and draws all ids of a
//! picture in a dozen passes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Family, FamilyConfig, FamilyLoss, ModelFiles, NetSizes, PublishedForm, Transformer, padded,
};
use crate::canvas::Conditioning;
use crate::checkpoint::WeightFormat;
use crate::import::amused as published;
use crate::models::dalle::Order;
use crate::models::{self, AmusedConfig};
use crate::nn::Init;
use crate::text::clip::{ClipTokenizer, LongCaption};
use crate::{Error, Result};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Amused;

/// What only this family's configs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmusedOptions {
    /// The text id that captions are padded with; the attention to the caption sees it.
    pub pad_id: u32,
}

/// `AmusedPipeline`'s `num_inference_steps`.
const STEPS: usize = 12;

impl NetSizes for AmusedConfig {
    type Net = models::Amused;

    fn validate(&self) -> Result<()> {
        AmusedConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        AmusedConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::Amused {
        AmusedConfig::init(self, init)
    }

    fn grid(&self) -> usize {
        self.grid
    }

    fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    fn text_length(&self) -> usize {
        self.text.length
    }

    fn width(&self) -> usize {
        self.width
    }

    /// There are none but the caption's; the logits of all ids take more.
    fn cache_bytes(&self, _format: WeightFormat) -> u64 {
        let caption = self.text.length * (2 * self.n_layers * self.width);
        let blocks = self.text.length * (8 * self.n_blocks * self.block_width);
        // On the device, and on the host.
        let logits = 2 * self.image_length() * self.codebook_size;
        4 * (caption + blocks + logits) as u64
    }

    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("text.")
    }

    fn tokens_each_pass(&self) -> usize {
        self.image_length() / if self.halved { 4 } else { 1 }
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!(
                "{} layers x {}, {} heads, between 2 x {} blocks x {}; text: {} layers x {}, {} heads",
                self.n_layers,
                self.width,
                self.n_heads,
                self.n_blocks,
                self.block_width,
                self.text.tower.n_layers,
                self.text.tower.width,
                self.text.tower.n_heads
            ),
            text_vocab_size: self.text.vocab_size,
            text_length: self.text.length,
        }
    }
}

impl Family for Amused {
    const NAME: &'static str = "amused";
    const TITLE: &'static str = "aMUSEd";
    const SIZES: &'static str = "amused";
    const WEIGHTS: &'static str = "amused.safetensors";
    /// As the reference: every pass sees what is around the hole.
    const TRIES: usize = 1;

    type Sizes = AmusedConfig;
    type Options = AmusedOptions;
    type Net = models::Amused;
    type Text = ClipTokenizer;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<ClipTokenizer> {
        padded::load(files.folder(), &config.sizes.text, config.options.pad_id)
    }

    fn save_text(text: &ClipTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn reads_chunks(_text: &ClipTokenizer) -> bool {
        true
    }

    fn encode(
        text: &ClipTokenizer,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        let (length, pad_id) = (config.sizes.text.length, config.options.pad_id);
        padded::encode(text, caption, length, pad_id, long)
    }

    fn unconditional(
        text: &ClipTokenizer,
        config: &FamilyConfig<Self>,
        _caption: &[u32],
    ) -> Vec<u32> {
        padded::empty(text, config.sizes.text.length, config.options.pad_id)
    }

    fn conditioning(_options: &AmusedOptions) -> Conditioning {
        Conditioning::Prefix
    }

    fn order(_options: &AmusedOptions) -> Order {
        Order::Confidence { steps: STEPS }
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    /// # Errors
    /// Always: its training masks ids at random, and losses are given no random numbers.
    fn loss(
        _net: &models::Amused,
        _captions: &[Vec<u32>],
        _image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        Err(Error::invalid(
            "model",
            "aMUSEd is trained on masked ids, and can't be fine-tuned here; expected a model of impasto, Janus, DALL·E mini or DALLE-pytorch",
        ))
    }
}
