//! Captions as ids of T5's SentencePiece vocabulary (`tokenizer.json` of transformers, or `spiece.model` alone), cleaned
//! before as the captions of LlamaGen's training were.

mod cleaning;

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

pub use self::cleaning::clean;
use super::clip::MAX_CHUNKS;
use super::sentencepiece::{self, SPACE};
use crate::error::Reason;
use crate::{Error, Result, files, panics};

const FILE: &str = "tokenizer.json";
const END: &str = "</s>";
const PADDING: &str = "<pad>";

/// The names that SentencePiece's model has beside a T5.
const MODELS: [&str; 2] = ["spiece.model", "tokenizer.model"];
/// What says how many sentinels a tokenizer has.
const CONFIG: &str = "tokenizer_config.json";
/// How many, unless it does.
const SENTINELS: usize = 100;

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct T5Tokenizer {
    tokenizer: Tokenizer,
    end: u32,
    padding: u32,
}

impl T5Tokenizer {
    /// From a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid(FILE, reason);
        let tokenizer = super::parse_tokenizer(bytes)
            .map_err(|e| bad(Reason::because("not a tokenizer", e)))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| bad(format!("lacks the token {token}").into()))
        };
        Ok(T5Tokenizer {
            end: id(END)?,
            padding: id(PADDING)?,
            tokenizer,
        })
    }

    /// From SentencePiece's model (`spiece.model`), with this many sentinels (`<extra_id_0>` …) after its pieces.
    pub fn from_sentencepiece(bytes: &[u8], sentinels: usize) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid(MODELS[0], reason);
        let document = sentencepiece::to_json(bytes, sentinels).map_err(bad)?;
        let json = serde_json::to_vec(&document).map_err(|e| bad(Reason::of(e)))?;
        Self::from_bytes(&json).map_err(|e| bad(Reason::of(e)))
    }

    /// That of a folder, for a model that knows ids below `vocab_size`: `tokenizer.json`, else `spiece.model`.
    pub fn load(folder: &Path, vocab_size: usize) -> Result<Self> {
        let found = [FILE].iter().chain(&MODELS).map(|name| folder.join(name));
        let path = found
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Missing {
                what: "the text tokenizer (tokenizer.json or spiece.model)",
                path: folder.to_owned(),
                hint: "google/flan-t5-xl has both".into(),
            })?;
        let bad = |reason: Reason| Error::bad_file(&path, reason);
        let bytes = files::read(&path)?;
        let text = match path.ends_with(FILE) {
            true => Self::from_bytes(&bytes),
            false => {
                let pieces = Self::from_sentencepiece(&bytes, 0);
                let pieces = pieces.map_err(|e| bad(Reason::of(e)))?;
                let room = vocab_size.saturating_sub(pieces.tokenizer.get_vocab_size(true));
                match sentinels(folder)?.unwrap_or(SENTINELS.min(room)) {
                    0 => Ok(pieces),
                    sentinels => Self::from_sentencepiece(&bytes, sentinels),
                }
            }
        };
        let text = text.map_err(|e| bad(Reason::of(e)))?;
        let mut tokens = text.tokenizer.get_vocab(true).into_iter();
        match tokens.find(|&(_, id)| id as usize >= vocab_size) {
            None => Ok(text),
            Some((token, id)) => Err(bad(format!(
                "\"{}\" has id {id}, the model knows ids below {vocab_size}",
                token.escape_debug()
            )
            .into())),
        }
    }

    /// Writes `tokenizer.json` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = self
            .tokenizer
            .to_string(false)
            .map_err(|e| Error::invalid("text tokenizer", Reason::of(e)))?;
        files::write_atomic(dir.join(FILE), json.as_bytes())
    }

    /// What pads captions; no caption has it.
    pub fn padding(&self) -> u32 {
        self.padding
    }

    /// The ids of a caption, the end at their end; at most `limit`.
    ///
    /// # Errors
    /// [`Error::CaptionTooLong`], unless it may be truncated; and where cleaning leaves nothing.
    pub fn encode_caption(&self, caption: &str, limit: usize, truncate: bool) -> Result<Vec<u32>> {
        let mut ids = self.ids(caption)?;
        if ids.len() >= limit {
            if !truncate {
                return Err(Error::CaptionTooLong {
                    tokens: ids.len() + 1,
                    limit,
                    caption: super::shortened(caption),
                });
            }
            ids.truncate(limit.saturating_sub(1));
        }
        ids.push(self.end);
        Ok(ids)
    }

    /// The ids of a caption of any length: chunks of at most `limit` ids, cut before words where that is possible, the end
    /// at the end of each.
    ///
    /// # Errors
    /// As [`Self::encode_caption`] where it has more than [`MAX_CHUNKS`] chunks.
    pub fn encode_chunks(&self, caption: &str, limit: usize) -> Result<Vec<Vec<u32>>> {
        let ids = self.ids(caption)?;
        let room = limit.saturating_sub(1).max(1);
        let begins_word = |&id: &u32| {
            let token = self.tokenizer.id_to_token(id);
            token.is_some_and(|token| token.starts_with(SPACE))
        };
        let mut chunks = Vec::new();
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let end = match rest.len() <= room {
                true => rest.len(),
                // A longer word is cut anywhere.
                false => match rest[..=room].iter().rposition(begins_word) {
                    None | Some(0) => room,
                    Some(word) => word,
                },
            };
            let (chunk, after) = rest.split_at(end);
            chunks.push([chunk, &[self.end]].concat());
            rest = after;
        }
        match chunks.len() {
            0 => Ok(vec![vec![self.end]]),
            1..=MAX_CHUNKS => Ok(chunks),
            _ => Err(Error::CaptionTooLong {
                // A chunk that ends with a word before its last place has no room for more.
                tokens: chunks.len() * limit,
                limit: MAX_CHUNKS * limit,
                caption: super::shortened(caption),
            }),
        }
    }

    /// The ids of a caption without its end.
    fn ids(&self, caption: &str) -> Result<Vec<u32>> {
        let cleaned = clean(caption)?;
        if cleaned.is_empty() {
            return Err(Error::invalid(
                "caption",
                format!(
                    "nothing of \"{}\" is left after cleaning: this text encoder reads no Chinese characters, addresses or tags; expected words of English",
                    super::shortened(caption)
                ),
            ));
        }
        // The library panics where a vocabulary contradicts itself.
        let encoding = panics::catch(|| self.tokenizer.encode(cleaned, false))
            .map_err(|e| Error::invalid(FILE, Reason::of(e)))?
            .map_err(|e| Error::invalid("caption", Reason::of(e)))?;
        let mut ids: Vec<u32> = encoding.get_ids().to_vec();
        // Padding would be taken for no caption.
        ids.retain(|&id| id != self.padding);
        Ok(ids)
    }
}

/// How many sentinels the config of a folder's tokenizer says there are; none where it says nothing.
fn sentinels(folder: &Path) -> Result<Option<usize>> {
    #[derive(Deserialize)]
    struct Config {
        extra_ids: Option<usize>,
    }
    const MOST: usize = 1 << 16;
    let path = folder.join(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let bad = |reason: Reason| Error::bad_file(&path, reason);
    let config: Config = serde_json::from_slice(&files::read(&path)?)
        .map_err(|e| bad(Reason::because("not the config of a tokenizer", e)))?;
    match config.extra_ids {
        Some(count) if count > MOST => Err(bad(format!(
            "extra_ids is {count}, expected at most {MOST}"
        )
        .into())),
        count => Ok(count),
    }
}

#[cfg(test)]
pub(crate) mod tests;
