//! The text tokenizer of ruDALL-E (`rudalle/tokenizer.py`): YouTokenToMe's byte pairs between a begin and an end, of
//! captions in small letters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::youtokentome::YouTokenToMe;
use crate::error::Reason;
use crate::models::rudalle::{BEGIN, END};
use crate::{Error, Result, files};

/// What the published file is called.
const FILE: &str = "bpe.model";

/// The longest file that is read.
const LONGEST: u64 = 64 << 20;

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct RuDalleTokenizer {
    model: Arc<YouTokenToMe>,
    /// The file's.
    bytes: Arc<[u8]>,
}

impl RuDalleTokenizer {
    /// `bpe.model`, or the only file whose name ends with `.model`.
    pub fn file_in(folder: &Path) -> Option<PathBuf> {
        let usual = folder.join(FILE);
        if usual.is_file() {
            return Some(usual);
        }
        super::youtokentome::only_model(folder)
    }

    /// The one in a folder, for a model that knows `text_vocab_size` ids.
    pub fn load(folder: &Path, text_vocab_size: usize) -> Result<Self> {
        let path = Self::file_in(folder).ok_or_else(|| Error::Missing {
            what: "the text tokenizer (bpe.model)",
            path: folder.to_owned(),
            hint: "put the bpe.model of ruDALL-E beside the weights".into(),
        })?;
        let bad = |reason: Reason| Error::bad_file(&path, reason);
        let length = std::fs::metadata(&path)
            .map_err(Error::io("read", &path))?
            .len();
        if length > LONGEST {
            return Err(bad(format!(
                "has {length} bytes, expected a text tokenizer"
            )
            .into()));
        }
        let bytes = files::read(&path)?;
        let model = YouTokenToMe::parse(&bytes).map_err(|e| bad(Reason::of(e)))?;
        if model.vocab_size() > text_vocab_size {
            return Err(bad(format!(
                "has {} ids, the model {text_vocab_size}",
                model.vocab_size()
            )
            .into()));
        }
        // What the reference takes them to be, whatever the file says.
        for (name, id) in [("<PAD>", 0), ("<BOS>", BEGIN), ("<EOS>", END)] {
            let found = model.mark(name);
            if found != Some(id) {
                return Err(bad(format!(
                    "has {name} at id {}, expected {id}",
                    found.map_or("none".to_owned(), |id| id.to_string())
                )
                .into()));
            }
        }
        Ok(RuDalleTokenizer {
            model: Arc::new(model),
            bytes: bytes.into(),
        })
    }

    /// Writes `bpe.model` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::write_atomic(dir.join(FILE), &self.bytes)
    }

    /// Begin, the caption's ids, end; `limit` at most. A longer caption is refused, or with `truncate` cut as the reference
    /// does, its end with it. Likewise one of which no character is known: the reference reads it as unknown words.
    pub fn encode_caption(&self, caption: &str, limit: usize, truncate: bool) -> Result<Vec<u32>> {
        // What Python calls white space and Unicode does not.
        let is_space = |c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f');
        let small = caption.to_lowercase();
        let small = small.trim_matches(is_space);
        if !truncate && !small.is_empty() && !self.model.knows_any(small) {
            return Err(Error::invalid(
                "caption",
                format!(
                    "the model knows no character of \"{}\"; expected words of the language that it was trained on, Russian for the published ones",
                    super::shortened(caption)
                ),
            ));
        }
        let mut ids = vec![BEGIN];
        ids.extend(self.model.encode(small));
        ids.push(END);
        if ids.len() > limit {
            if !truncate {
                return Err(Error::CaptionTooLong {
                    tokens: ids.len(),
                    limit,
                    caption: super::shortened(caption.trim()),
                });
            }
            ids.truncate(limit);
        }
        Ok(ids)
    }
}
