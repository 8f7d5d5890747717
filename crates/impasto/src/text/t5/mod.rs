//! Captions as ids of T5's SentencePiece vocabulary (`tokenizer.json` of transformers), cleaned before as the captions of
//! LlamaGen's training were.

mod cleaning;

use std::path::Path;

use tokenizers::Tokenizer;

pub use self::cleaning::clean;
use crate::error::Reason;
use crate::{Error, Result, files, panics};

const FILE: &str = "tokenizer.json";
const END: &str = "</s>";
const PADDING: &str = "<pad>";

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

    /// That of a folder, for a model that knows ids below `vocab_size`.
    pub fn load(folder: &Path, vocab_size: usize) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(Error::Missing {
                what: "the text tokenizer (tokenizer.json)",
                path: folder.to_owned(),
                hint: "google/flan-t5-xl has it; spiece.model alone is not read".into(),
            });
        }
        let bad = |reason: Reason| Error::bad_file(&path, reason);
        let text = Self::from_bytes(&files::read(&path)?).map_err(|e| bad(Reason::of(e)))?;
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
}
