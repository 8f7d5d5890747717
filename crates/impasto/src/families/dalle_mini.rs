//! DALL·E mini and mega: [`DalleBart`], which reads a caption with BART's tokenizer after a normaliser.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Family, FamilyConfig, FamilyLoss, ModelFiles, NetSizes, PublishedForm, Transformer};
use crate::checkpoint::WeightFormat;
use crate::error::Reason;
use crate::import::dalle_mini as published;
use crate::models::dalle_bart::CaptionRows;
use crate::models::{DalleBart, DalleBartConfig};
use crate::nn::Init;
use crate::text::bart::BartTokenizer;
use crate::text::clip::LongCaption;
use crate::text::normalizer::{TextNormalizer, WordFrequencies};
use crate::{Error, Result, files};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct DalleMini;

/// What only this family's configs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DalleMiniOptions {
    /// Whether captions are normalised as in the training.
    pub normalize_text: bool,
}

/// The words that hashtags are split into, the most frequent first.
pub(crate) const WORD_FREQUENCIES: &str = "enwiki-words-frequency.txt";
const TOKENIZER: &str = "tokenizer.json";

/// Captions → text ids.
#[derive(Clone, Debug)]
pub struct DalleMiniText {
    /// BART's.
    pub tokenizer: BartTokenizer,
    /// What captions go through before.
    pub normalizer: Option<TextNormalizer>,
    /// The file of [`WORD_FREQUENCIES`], if there is one.
    words: Option<PathBuf>,
}

impl DalleMiniText {
    /// With the words in a folder, if it has any.
    pub fn new(tokenizer: BartTokenizer, normalize: bool, folder: &Path) -> Result<Self> {
        let path = folder.join(WORD_FREQUENCIES);
        let words = match files::read(&path) {
            Ok(bytes) => Some(
                WordFrequencies::parse(&bytes)
                    .map_err(|e| Error::bad_file(&path, Reason::of(e)))?,
            ),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(DalleMiniText {
            tokenizer,
            words: words.is_some().then_some(path),
            normalizer: normalize.then(|| TextNormalizer::new(words)),
        })
    }
}

impl NetSizes for DalleBartConfig {
    type Net = DalleBart;

    fn validate(&self) -> Result<()> {
        DalleBartConfig::validate(self)
    }

    fn parameters(&self) -> u64 {
        DalleBartConfig::parameters(self)
    }

    fn init(&self, init: &mut Init) -> DalleBart {
        DalleBartConfig::init(self, init)
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

    /// The caption's keys and values and the image's.
    fn cache_bytes(&self, format: WeightFormat) -> u64 {
        let position = 2 * self.decoder.n_layers * self.width;
        let of_image = format.cache_width() * position * self.image_length();
        (4 * position * self.text_length + of_image) as u64
    }

    fn is_read_each_pass(&self, name: &str) -> bool {
        !name.starts_with("encoder.")
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!(
                "{} + {} layers x {}, {} and {} heads (encoder and decoder)",
                self.encoder.n_layers,
                self.decoder.n_layers,
                self.width,
                self.encoder.n_heads,
                self.decoder.n_heads
            ),
            text_vocab_size: self.text_vocab_size,
            text_length: self.text_length,
        }
    }
}

impl Family for DalleMini {
    const NAME: &'static str = "dalle_mini";
    const TITLE: &'static str = "DALL·E mini";
    const SIZES: &'static str = "dalle_bart";
    const WEIGHTS: &'static str = "dalle_bart.safetensors";

    type Sizes = DalleBartConfig;
    type Options = DalleMiniOptions;
    type Net = DalleBart;
    type Text = DalleMiniText;

    fn load_text(files: &ModelFiles, config: &FamilyConfig<Self>) -> Result<DalleMiniText> {
        let source = &files.source;
        let tokenizer = BartTokenizer::from_bytes(&source.read(TOKENIZER)?)
            .and_then(|text| text.check(config.sizes.text_vocab_size).map(|()| text))
            .map_err(|e| Error::bad_file(source.path(TOKENIZER), Reason::of(e)))?;
        DalleMiniText::new(tokenizer, config.options.normalize_text, files.folder())
    }

    fn save_text(text: &DalleMiniText, dir: &Path) -> Result<()> {
        text.tokenizer.save(dir)?;
        if let Some(words) = &text.words {
            files::write_atomic(dir.join(WORD_FREQUENCIES), &files::read(words)?)?;
        }
        Ok(())
    }

    fn encode(
        text: &DalleMiniText,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        let normalised = match &text.normalizer {
            Some(normalizer) => normalizer.normalize(caption),
            None => caption.to_owned(),
        };
        let length = config.sizes.text_length;
        text.tokenizer
            .encode_caption(&normalised, length, long.truncates())
    }

    fn unconditional(
        text: &DalleMiniText,
        _config: &FamilyConfig<Self>,
        _caption: &[u32],
    ) -> Vec<u32> {
        text.tokenizer.null_caption()
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&published::Form)
    }

    /// The mean of −ln p of all ids of images after their captions (dalle-mini, `tools/train/train.py`).
    fn loss(
        net: &DalleBart,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        let captions: Vec<&[u32]> = captions.iter().map(Vec::as_slice).collect();
        let read = net.encode_all(&captions)?;
        let caption_rows: Vec<CaptionRows<'_>> = read
            .iter()
            .map(|caption| CaptionRows { caption, rows: 1 })
            .collect();
        let loss = net.image_nll(image_ids, &caption_rows)?.mean();
        Ok(FamilyLoss {
            metrics: vec![("image_nats", loss.clone())],
            loss,
        })
    }
}
