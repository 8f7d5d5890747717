//! BART's tokenizer as DALL·E mini has it: byte-level byte-pair encoding with a vocabulary of its own
//! (`DalleBartTokenizer` of dalle-mini is `transformers`' `BartTokenizerFast`).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::Reason;
use crate::{Error, Result, files};

const START: &str = "<s>";
const END: &str = "</s>";
const UNKNOWN: &str = "<unk>";

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct BartTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
}

impl BartTokenizer {
    /// From `vocab.json` and `merges.txt`.
    pub fn from_vocabulary(vocabulary: &[u8], merges: &[u8]) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("text tokenizer", reason);
        let vocabulary: HashMap<String, u32> = serde_json::from_slice(vocabulary).map_err(|e| {
            bad(Reason::because(
                "vocab.json is no table of tokens and ids",
                e,
            ))
        })?;
        let ids: HashSet<u32> = vocabulary.values().copied().collect();
        if ids.len() != vocabulary.len() {
            return Err(bad("vocab.json gives an id to two tokens".into()));
        }
        let merges = std::str::from_utf8(merges)
            .map_err(|_| bad("merges.txt is not UTF-8".into()))?
            .lines()
            .enumerate()
            .filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")))
            .map(|(i, line)| match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => {
                    Ok((left.to_owned(), right.to_owned()))
                }
                _ => Err(bad(format!(
                    "line {} of merges.txt is not two parts with a space between",
                    i + 1
                )
                .into())),
            })
            .collect::<Result<Vec<_>>>()?;
        let has_unknown = vocabulary.contains_key(UNKNOWN);
        let vocabulary: Vocab = vocabulary.into_iter().collect();
        let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges);
        if has_unknown {
            builder = builder.unk_token(UNKNOWN.to_owned());
        }
        let model = builder.build().map_err(|e| bad(Reason::of(e)))?;
        let mut tokenizer = Tokenizer::new(model);
        let bytes = ByteLevel::default().add_prefix_space(false);
        tokenizer.with_pre_tokenizer(Some(bytes));
        tokenizer.with_decoder(Some(bytes));
        BartTokenizer::new(tokenizer)
    }

    /// From a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let tokenizer = super::parse_tokenizer(bytes)
            .map_err(|e| Error::invalid("tokenizer.json", Reason::because("not a tokenizer", e)))?;
        BartTokenizer::new(tokenizer)
    }

    fn new(mut tokenizer: Tokenizer) -> Result<Self> {
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| Error::invalid("text tokenizer", format!("lacks the token {token}")))
        };
        let (start, end) = (id(START)?, id(END)?);
        if let Some(byte) = ByteLevel::alphabet()
            .into_iter()
            .find(|c| tokenizer.token_to_id(&c.to_string()).is_none())
        {
            let reason = format!("not byte-level: byte symbol \"{byte}\" has no id");
            return Err(Error::invalid("text tokenizer", reason));
        }
        // Start, end and length are set here.
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::invalid("text tokenizer", Reason::of(e)))?
            .with_padding(None);
        Ok(BartTokenizer {
            tokenizer,
            start,
            end,
        })
    }

    /// Refuses a model that does not know all ids.
    pub fn check(&self, text_vocab_size: usize) -> Result<()> {
        let ids = self.tokenizer.get_vocab(true);
        // Published vocabularies have a token or two after the embedding's end that no text becomes.
        let beyond = |id: u32| id as usize >= text_vocab_size;
        let special = |token: &str| token.starts_with('<') && token.ends_with('>');
        match ids
            .into_iter()
            .find(|(token, id)| beyond(*id) && !special(token))
        {
            None => Ok(()),
            Some((token, id)) => Err(Error::invalid(
                "text tokenizer",
                format!(
                    "\"{}\" has id {id}, the model knows ids below {}",
                    token.escape_debug(),
                    text_vocab_size
                ),
            )),
        }
    }

    /// Writes `tokenizer.json` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = self
            .tokenizer
            .to_string(false)
            .map_err(|e| Error::invalid("text tokenizer", Reason::of(e)))?;
        files::write_atomic(dir.join("tokenizer.json"), json.as_bytes())
    }

    /// `<s>`, the caption's ids, `</s>`, at most `limit`; a longer one is refused, or cut before `</s>`.
    pub fn encode_caption(&self, caption: &str, limit: usize, truncate: bool) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode(caption, false)
            .map_err(|e| Error::invalid("caption", Reason::of(e)))?;
        let mut ids = vec![self.start];
        ids.extend(encoding.get_ids());
        if ids.len() + 1 > limit {
            if !truncate {
                return Err(Error::CaptionTooLong {
                    tokens: ids.len() + 1,
                    limit,
                    caption: super::shortened(caption.trim()),
                });
            }
            ids.truncate(limit.saturating_sub(1));
        }
        ids.push(self.end);
        Ok(ids)
    }

    /// What stands in for no caption: start and end.
    pub fn null_caption(&self) -> Vec<u32> {
        vec![self.start, self.end]
    }
}
