//! A CLIP with its text tokenizer: `config.json`, `tokenizer.json`, `clip.safetensors`. Where one is named, a
//! published folder or file will do as well ([`crate::import::clip`]).

use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{ModelSource, config_file, weights};
use crate::error::Reason;
use crate::explain::meeting;
use crate::image::Image;
use crate::import::clip::{self as import, PublishedClip};
use crate::models::clip::unit;
use crate::models::parameters::export;
use crate::models::{Clip, ClipConfig};
use crate::nn::Init;
use crate::text::clip::{Cleaning, ClipTokenizer, LongCaption};
use crate::text::{self, TextTokenizer};
use crate::{Error, Result};

/// `config.json` of a CLIP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipModelConfig {
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Which text tokenizer it has.
    #[serde(default)]
    pub text_tokenizer: TextTokenizerKind,
    /// The sizes.
    pub clip: ClipConfig,
}

/// A kind of text tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextTokenizerKind {
    /// Ours, for any language.
    #[default]
    ByteLevel,
    /// CLIP's, with captions cleaned this way.
    Clip(Cleaning),
}

/// Caption → ids of a CLIP.
#[derive(Clone, Debug)]
pub enum CaptionTokenizer {
    /// Ours.
    ByteLevel(TextTokenizer),
    /// The published one.
    Clip(ClipTokenizer),
}

impl CaptionTokenizer {
    /// Its kind.
    pub fn kind(&self) -> TextTokenizerKind {
        match self {
            CaptionTokenizer::ByteLevel(_) => TextTokenizerKind::ByteLevel,
            CaptionTokenizer::Clip(tokenizer) => TextTokenizerKind::Clip(tokenizer.cleaning()),
        }
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        match self {
            CaptionTokenizer::ByteLevel(tokenizer) => tokenizer.vocab_size(),
            CaptionTokenizer::Clip(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// A caption's ids with start and end, at most `limit`; several rows where it is taken in pieces.
    pub fn encode_caption(
        &self,
        caption: &str,
        limit: usize,
        long: LongCaption,
    ) -> Result<Vec<Vec<u32>>> {
        let tokenizer = match self {
            CaptionTokenizer::Clip(tokenizer) => {
                return tokenizer.encode_caption(caption, limit, long);
            }
            CaptionTokenizer::ByteLevel(tokenizer) => tokenizer,
        };
        let ids = match long {
            LongCaption::Chunks | LongCaption::Fit => tokenizer.encode(caption)?,
            _ => Vec::new(),
        };
        // The start and the end of each piece.
        let room = limit.saturating_sub(2);
        if room > 0 && ids.len() > room {
            let framed = |piece: &[u32]| [&[text::BOS], piece, &[text::EOS]].concat();
            return Ok(ids.chunks(room).map(framed).collect());
        }
        Ok(vec![tokenizer.encode_caption(
            caption,
            limit,
            long.truncates(),
        )?])
    }

    /// For each of the words (byte ranges of the caption, in their order) its ids, numbered as in
    /// [`Self::encode_caption`] without the start.
    pub fn ids_of(&self, caption: &str, words: &[Range<usize>]) -> Result<Vec<Range<usize>>> {
        match self {
            CaptionTokenizer::Clip(tokenizer) => tokenizer.ids_of(caption, words),
            CaptionTokenizer::ByteLevel(tokenizer) => {
                let mut end = 0;
                let bytes = tokenizer.byte_lengths(caption)?.into_iter().map(|length| {
                    end += length;
                    end - length..end
                });
                let bytes: Vec<Range<usize>> = bytes.collect();
                Ok(words.iter().map(|word| meeting(&bytes, word)).collect())
            }
        }
    }

    fn from_json(json: &[u8], kind: TextTokenizerKind) -> Result<Self> {
        Ok(match kind {
            TextTokenizerKind::ByteLevel => {
                CaptionTokenizer::ByteLevel(TextTokenizer::from_bytes(json)?)
            }
            TextTokenizerKind::Clip(cleaning) => {
                CaptionTokenizer::Clip(ClipTokenizer::from_json(json, cleaning)?)
            }
        })
    }

    fn save(&self, dir: &Path) -> Result<()> {
        match self {
            CaptionTokenizer::ByteLevel(tokenizer) => tokenizer.save(dir),
            CaptionTokenizer::Clip(tokenizer) => tokenizer.save(dir),
        }
    }
}

const TOKENIZER: &str = "tokenizer.json";
const CLIP: &str = "clip.safetensors";

/// Pictures or captions in one pass.
const ROWS: usize = 64;

/// A CLIP ready to run.
#[derive(Debug)]
pub struct ClipModel {
    /// The config.
    pub config: ClipModelConfig,
    /// Caption → text ids.
    pub text: CaptionTokenizer,
    /// The towers.
    pub clip: Clip,
}

impl From<PublishedClip> for ClipModel {
    /// Published weights seldom say their licence.
    fn from(published: PublishedClip) -> Self {
        let text = CaptionTokenizer::Clip(published.text);
        ClipModel {
            config: ClipModelConfig {
                name: published.name,
                licence: "unknown".into(),
                text_tokenizer: text.kind(),
                clip: published.clip.config().clone(),
            },
            text,
            clip: published.clip,
        }
    }
}

impl ClipModel {
    /// Loads all of a CLIP onto `device`: one of ours, or a published folder or file.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        if let Some(path) = source.folder()
            && !path.join(CLIP).is_file()
            && (path.is_file() || import::is_published(path))
        {
            return Ok(import::load(path, &import::Options::default(), device)?.into());
        }
        let config = source.parsed_config("a CLIP config", |config: &ClipModelConfig| {
            config.clip.validate()
        })?;
        source.check_room(config.clip.parameters(), &[CLIP])?;
        let text = CaptionTokenizer::from_json(&source.read(TOKENIZER)?, config.text_tokenizer)
            .map_err(|e| Error::bad_file(source.path(TOKENIZER), Reason::of(e)))?;
        // Published embeddings may have rows after the last id that no text becomes.
        if text.vocab_size() > config.clip.text_vocab_size {
            return Err(Error::bad_file(
                source.path(TOKENIZER),
                format!(
                    "has {} ids, config.json expects {}",
                    text.vocab_size(),
                    config.clip.text_vocab_size
                ),
            ));
        }
        let clip = config.clip.init(&mut Init::empty(device));
        let clip = source.load(clip, CLIP, Default::default())?;
        Ok(ClipModel { config, text, clip })
    }

    /// Writes a checkpoint directory; each file is written whole or not at all, the config last.
    pub fn save(&self, dir: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        weights::write(&dir.join(CLIP), &export(&self.clip), precision)?;
        self.text.save(dir)?;
        config_file::save(dir, &self.config)
    }

    /// Embeddings of captions, of length one. Where a long caption is taken in pieces, it is the direction of
    /// the mean of the pieces' embeddings.
    ///
    /// # Shapes
    /// - returns: `[captions, projection_width]`
    ///
    /// # Errors
    /// On an empty caption, and on one that is too long where `long` refuses it.
    pub fn embed_texts(&self, captions: &[String], long: LongCaption) -> Result<Tensor<2>> {
        let limit = self.config.clip.text_length;
        let mut rows = Vec::with_capacity(captions.len());
        let mut counts = Vec::with_capacity(captions.len());
        for caption in captions {
            let pieces = self.text.encode_caption(caption, limit, long)?;
            counts.push(pieces.len());
            rows.extend(pieces);
        }
        let parts: Vec<Tensor<2>> = rows
            .chunks(ROWS)
            .map(|ids| Ok(unit(self.clip.encode_text(ids)?)))
            .collect::<Result<_>>()?;
        let embedded = joined(parts, "captions")?;
        if counts.iter().all(|&count| count == 1) {
            return Ok(embedded);
        }
        let mut start = 0;
        let averages = counts.into_iter().map(|count| {
            let pieces = embedded.clone().narrow(0, start, count);
            start += count;
            match count {
                1 => pieces,
                _ => unit(pieces.mean_dim(0)),
            }
        });
        Ok(Tensor::cat(averages.collect(), 0))
    }

    /// Embeddings of pictures, of length one.
    ///
    /// # Shapes
    /// - returns: `[pictures, projection_width]`
    pub fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        let parts: Vec<Tensor<2>> = pictures
            .chunks(ROWS)
            .map(|pictures| Ok(unit(self.clip.encode_image(self.clip.pixels(pictures)?))))
            .collect::<Result<_>>()?;
        joined(parts, "pictures")
    }
}

fn joined(parts: Vec<Tensor<2>>, what: &'static str) -> Result<Tensor<2>> {
    if parts.is_empty() {
        return Err(Error::invalid(what, "expected 1 or more, got 0"));
    }
    Ok(Tensor::cat(parts, 0))
}
