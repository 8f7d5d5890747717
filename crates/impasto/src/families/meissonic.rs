//! Meissonic and Monetico: [`Meissonic`](models::Meissonic), which reads captions padded to 77 ids by CLIP's text tower,
//! and draws all ids of a picture in 48 passes; Di\[M\]O, the same net, in one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Family, FamilyConfig, FamilyLoss, ModelFiles, NetSizes, PublishedForm, Transformer, padded,
};
use crate::canvas::Conditioning;
use crate::checkpoint::WeightFormat;
use crate::import::meissonic as published;
use crate::models::dalle::Order;
use crate::models::{self, MeissonicConfig};
use crate::nn::Init;
use crate::text::clip::{ClipTokenizer, LongCaption};
use crate::{Error, Result};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Meissonic;

/// What only this family's configs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeissonicOptions {
    /// The text id that captions are padded with; the net sees it.
    pub pad_id: u32,
    /// Passes of a drawing, unless a request says otherwise.
    pub steps: usize,
}

impl NetSizes for MeissonicConfig {
    type Net = models::Meissonic;

    fn validate(&self) -> Result<()> {
        MeissonicConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        MeissonicConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> models::Meissonic {
        MeissonicConfig::init(self, init)
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
        MeissonicConfig::width(self)
    }

    /// There are none; the logits of all ids take more than the caption, and the units of a layer's MLP.
    fn cache_bytes(&self, _format: WeightFormat) -> u64 {
        // On the device, and on the host.
        let logits = 2 * self.image_length() * self.codebook_size;
        let tokens = self.image_length() / if self.halved { 4 } else { 1 } + self.text.length;
        4 * (logits + 10 * tokens * MeissonicConfig::width(self)) as u64
    }

    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("text.")
    }

    fn tokens_each_pass(&self) -> usize {
        self.image_length() / if self.halved { 4 } else { 1 } + self.text.length
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!(
                "{} double and {} single layers x {}, {} heads; text: {} layers x {}, {} heads",
                self.n_double_layers,
                self.n_single_layers,
                MeissonicConfig::width(self),
                self.n_heads,
                self.text.tower.n_layers,
                self.text.tower.width,
                self.text.tower.n_heads
            ),
            text_vocab_size: self.text.vocab_size,
            text_length: self.text.length,
        }
    }
}

impl Family for Meissonic {
    const NAME: &'static str = "meissonic";
    const TITLE: &'static str = "Meissonic";
    const SIZES: &'static str = "meissonic";
    const WEIGHTS: &'static str = "meissonic.safetensors";
    /// As the reference: every pass sees what is around the hole.
    const TRIES: usize = 1;

    type Sizes = MeissonicConfig;
    type Options = MeissonicOptions;
    type Net = models::Meissonic;
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

    fn conditioning(_options: &MeissonicOptions) -> Conditioning {
        Conditioning::Prefix
    }

    fn order(options: &MeissonicOptions) -> Order {
        Order::Confidence {
            steps: options.steps,
        }
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    /// # Errors
    /// Always: its training masks ids at random, and losses are given no random numbers.
    fn loss(
        _net: &models::Meissonic,
        _captions: &[Vec<u32>],
        _image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        Err(Error::invalid(
            "model",
            "Meissonic is trained on masked ids, and can't be fine-tuned here; expected a model of impasto, Janus, DALL·E mini or DALLE-pytorch",
        ))
    }
}
