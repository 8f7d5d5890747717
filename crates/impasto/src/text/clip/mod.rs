//! CLIP's text tokenizer: lower-cased byte-pair encoding in which the end of a word is a symbol of its own.
//!
//! Source: openai/CLIP `clip/simple_tokenizer.py`. Read from the published files: `vocab.json` with
//! `merges.txt`, `tokenizer.json`, and OpenAI's `bpe_simple_vocab_16e6.txt`, packed or not. Two deviations:
//! a caption that spells a special token is only text, and captions are not padded: what stands after
//! their end does not count.

pub(crate) mod cleaning;
mod gzip;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub use cleaning::Cleaning;
pub(crate) use gzip::MAGIC as GZIP;

use crate::error::Reason;
use crate::explain::meeting;
use crate::{Error, Result, files};

/// Ends a word's last symbol.
const WORD_END: &str = "</w>";

/// What a caption is split into before pairs are merged.
const PIECES: &str = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The names that the two special tokens have had.
const STARTS: [&str; 2] = ["<|startoftext|>", "<start_of_text>"];
const ENDS: [&str; 2] = ["<|endoftext|>", "<end_of_text>"];

/// OpenAI's list of merges as they published it (MIT, see the licence beside it), and the number of ids of every model
/// that uses it.
const OPENAI_MERGES: &[u8] = include_bytes!("bpe_simple_vocab_16e6.txt.gz");
const OPENAI_VOCAB_SIZE: usize = 49_408;

/// The largest vocabulary file that is read.
const MAX_FILE_BYTES: usize = 64 << 20;

/// What to do with a caption that has more tokens than the model reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongCaption {
    /// An error with both numbers.
    #[default]
    Refuse,
    /// Cut before its end, as the references do.
    Truncate,
    /// Cut into chunks at the ends of words, each with its start and end: embeddings are averaged; models that draw read
    /// the states of one chunk after the other.
    Chunks,
    /// In chunks where they can be read and are not too many, else cut.
    Fit,
}

/// The most chunks that models draw from: more text than any caption has.
pub const MAX_CHUNKS: usize = 16;

impl LongCaption {
    /// Whether it is cut before its end where there is one row for it.
    pub fn truncates(self) -> bool {
        matches!(self, LongCaption::Truncate | LongCaption::Fit)
    }
}

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    cleaning: Cleaning,
    start: u32,
    end: u32,
    /// Ids, the special ones included.
    size: usize,
}

impl ClipTokenizer {
    /// From OpenAI's list of merges (`bpe_simple_vocab_16e6.txt`, packed by gzip or not): the model's
    /// vocabulary size says how many of them count.
    pub fn from_merges(list: &[u8], vocab_size: usize, cleaning: Cleaning) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("merges", reason);
        let unpacked;
        let list = if list.starts_with(gzip::MAGIC) {
            unpacked = gzip::unpack(list, MAX_FILE_BYTES).map_err(bad)?;
            &unpacked
        } else {
            list
        };
        let list = std::str::from_utf8(list).map_err(|e| bad(Reason::because("not text", e)))?;
        let mut symbols: Vec<String> = alphabet();
        let ends: Vec<String> = symbols.iter().map(|s| format!("{s}{WORD_END}")).collect();
        symbols.extend(ends);
        let expected = vocab_size.checked_sub(symbols.len() + 2).ok_or_else(|| {
            bad(format!(
                "belong to a vocabulary of {vocab_size}, expected {} or more",
                symbols.len() + 2
            )
            .into())
        })?;
        let mut merges = Vec::new();
        for line in list.lines().skip(1).take(expected) {
            let Some((left, right)) = line.split_once(' ') else {
                return Err(bad(format!(
                    "line {} is no pair of symbols",
                    merges.len() + 2
                )
                .into()));
            };
            symbols.push(format!("{left}{right}"));
            merges.push((left.to_owned(), right.to_owned()));
        }
        if merges.len() != expected {
            return Err(bad(format!(
                "are {}, expected {expected} for a vocabulary of {vocab_size}",
                merges.len()
            )
            .into()));
        }
        symbols.extend([STARTS[0].to_owned(), ENDS[0].to_owned()]);
        let vocabulary: HashMap<String, u32> = symbols.into_iter().zip(0..).collect();
        ClipTokenizer::new(vocabulary, merges, cleaning)
    }

    /// OpenAI's, for a model whose files hold no vocabulary; none where its number of ids says that it has another.
    ///
    /// # Errors
    /// None that a file is the reason of: the merges are part of the program.
    pub fn published(vocab_size: usize, cleaning: Cleaning) -> Result<Option<Self>> {
        let is_openai = vocab_size == OPENAI_VOCAB_SIZE;
        is_openai
            .then(|| ClipTokenizer::from_merges(OPENAI_MERGES, vocab_size, cleaning))
            .transpose()
    }

    /// From `vocab.json` and `merges.txt`.
    pub fn from_vocabulary(vocabulary: &[u8], merges: &[u8], cleaning: Cleaning) -> Result<Self> {
        let vocabulary: HashMap<String, u32> = serde_json::from_slice(vocabulary).map_err(|e| {
            Error::invalid(
                "vocab.json",
                Reason::because("no map from symbols to ids", e),
            )
        })?;
        let bad = |reason: Reason| Error::invalid("merges.txt", reason);
        let merges =
            std::str::from_utf8(merges).map_err(|e| bad(Reason::because("not text", e)))?;
        let lines = merges.lines().enumerate();
        let merges = lines
            .filter(|(i, line)| !line.is_empty() && (*i > 0 || !line.starts_with("#version")))
            .map(|(i, line)| {
                pair(line)
                    .ok_or_else(|| bad(format!("line {} is no pair of symbols", i + 1).into()))
            })
            .collect::<Result<Vec<_>>>()?;
        ClipTokenizer::new(vocabulary, merges, cleaning)
    }

    /// From `tokenizer.json`, of which only vocabulary and merges are used.
    pub fn from_json(bytes: &[u8], cleaning: Cleaning) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            model: Model,
            #[serde(default)]
            added_tokens: Vec<Added>,
        }
        #[derive(Deserialize)]
        struct Model {
            vocab: HashMap<String, u32>,
            merges: Vec<Merge>,
            end_of_word_suffix: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Line(String),
            Pair(String, String),
        }
        #[derive(Deserialize)]
        struct Added {
            id: u32,
            content: String,
        }
        let bad = |reason: Reason| Error::invalid("tokenizer.json", reason);
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|e| bad(Reason::because("no byte-pair tokenizer", e)))?;
        if document.model.end_of_word_suffix.as_deref() != Some(WORD_END) {
            return Err(bad(format!(
                "its words end with {:?}, expected {WORD_END:?}, as CLIP's do",
                document.model.end_of_word_suffix.unwrap_or_default()
            )
            .into()));
        }
        let merges = document
            .model
            .merges
            .into_iter()
            .map(|merge| match merge {
                Merge::Pair(left, right) => Ok((left, right)),
                Merge::Line(line) => {
                    pair(&line).ok_or_else(|| bad(format!("{line:?} is no pair of symbols").into()))
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let mut vocabulary = document.model.vocab;
        let added = document.added_tokens.into_iter();
        vocabulary.extend(added.map(|token| (token.content, token.id)));
        ClipTokenizer::new(vocabulary, merges, cleaning)
    }

    /// From the files of a folder: `tokenizer.json`, else `vocab.json` and `merges.txt`, else OpenAI's list; without
    /// any, [`ClipTokenizer::published`].
    pub fn load(folder: &Path, vocab_size: usize, cleaning: Cleaning) -> Result<Self> {
        let read = |name: &str| files::read(folder.join(name));
        let named = |name: &str, loaded: Result<Self>| {
            let path = folder.join(name);
            loaded.map_err(|e| Error::bad_file(path, e.to_string()))
        };
        let is_there = |name: &str| folder.join(name).is_file();
        let json = "tokenizer.json";
        if is_there(json) {
            return named(json, ClipTokenizer::from_json(&read(json)?, cleaning));
        }
        if is_there("vocab.json") && is_there("merges.txt") {
            let (vocabulary, merges) = (read("vocab.json")?, read("merges.txt")?);
            let loaded = ClipTokenizer::from_vocabulary(&vocabulary, &merges, cleaning);
            return named("vocab.json", loaded);
        }
        for name in ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"] {
            if is_there(name) {
                let list = read(name)?;
                return named(
                    name,
                    ClipTokenizer::from_merges(&list, vocab_size, cleaning),
                );
            }
        }
        if let Some(published) = ClipTokenizer::published(vocab_size, cleaning)? {
            return Ok(published);
        }
        Err(Error::Missing {
            what: "text tokenizer",
            path: folder.join(json),
            hint: "put tokenizer.json, or vocab.json and merges.txt, or bpe_simple_vocab_16e6.txt.gz there; \
                   CLIPs whose ids are OpenAI's 49,408 need none"
                .into(),
        })
    }

    fn new(
        vocabulary: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        cleaning: Cleaning,
    ) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("vocabulary", reason);
        let special = |names: [&str; 2]| {
            let mut ids = names.iter().filter_map(|name| vocabulary.get(*name));
            ids.next()
                .copied()
                .ok_or_else(|| bad(format!("lacks the token {}", names[0]).into()))
        };
        let (start, end) = (special(STARTS)?, special(ENDS)?);
        // With all of these there is no text without ids.
        for symbol in alphabet() {
            for symbol in [format!("{symbol}{WORD_END}"), symbol] {
                if !vocabulary.contains_key(&symbol) {
                    return Err(bad(format!("lacks the symbol {symbol:?}").into()));
                }
            }
        }
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let document = document(&vocabulary, &merges, None);
        let tokenizer = serde_json::from_value(document)
            .map_err(|e| bad(Reason::because("and merges do not fit", e)))?;
        Ok(ClipTokenizer {
            tokenizer,
            cleaning,
            start,
            end,
            size,
        })
    }

    /// Writes `tokenizer.json` into `folder`, in the form that `transformers` reads.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let bad = |e: serde_json::Error| Error::invalid("text tokenizer", e.to_string());
        let whole = serde_json::to_value(&self.tokenizer).map_err(bad)?;
        let vocabulary: HashMap<String, u32> =
            serde_json::from_value(whole["model"]["vocab"].clone()).map_err(bad)?;
        let merges: Vec<(String, String)> =
            serde_json::from_value(whole["model"]["merges"].clone()).map_err(bad)?;
        let document = document(&vocabulary, &merges, Some((self.start, self.end)));
        let json = serde_json::to_vec(&document).map_err(bad)?;
        files::write_atomic(folder.join("tokenizer.json"), &json)
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The id that begins a caption.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The id that ends a caption.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The id of a symbol, as the vocabulary spells it.
    pub fn id_of(&self, symbol: &str) -> Option<u32> {
        self.tokenizer.token_to_id(symbol)
    }

    /// How captions are cleaned.
    pub fn cleaning(&self) -> Cleaning {
        self.cleaning
    }

    /// The ids of a text, without start and end.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(self.cleaning.clean(text), false)
            .map_err(|e| Error::invalid("text", e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// For each of the words (byte ranges of the text, in their order) its ids, numbered as in [`Self::encode`]: none for a
    /// word that cleaning changes together with what is around it.
    pub fn ids_of(&self, text: &str, words: &[Range<usize>]) -> Result<Vec<Range<usize>>> {
        let cleaned = self.cleaning.clean(text);
        let encoding = self
            .tokenizer
            .encode(&cleaned[..], false)
            .map_err(|e| Error::invalid("text", e.to_string()))?;
        let bytes: Vec<Range<usize>> = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| start..end)
            .collect();
        let mut from = 0;
        let ids = words.iter().map(|word| {
            let own = self.cleaning.clean(&text[word.clone()]);
            let Some(start) = cleaned[from..].find(&own).filter(|_| !own.is_empty()) else {
                return 0..0;
            };
            let start = from + start;
            from = start + own.len();
            meeting(&bytes, &(start..from))
        });
        Ok(ids.collect())
    }

    /// The text of ids, lower-cased as it was read, a space between words.
    pub fn decode(&self, ids: &[u32]) -> String {
        let printable: Vec<char> = alphabet()
            .iter()
            .flat_map(|symbol| symbol.chars())
            .collect();
        let own = |byte: &u8| printable.contains(&char::from(*byte));
        let others: Vec<u8> = (0..=u8::MAX).filter(|byte| !own(byte)).collect();
        let byte = |symbol: char| match u32::from(symbol).checked_sub(0x100) {
            None => Some(u32::from(symbol) as u8),
            Some(place) => others.get(place as usize).copied(),
        };
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|&&id| id != self.start && id != self.end) {
            let symbol = self.tokenizer.id_to_token(id).unwrap_or_default();
            let (symbol, end) = match symbol.strip_suffix(WORD_END) {
                Some(symbol) => (symbol, Some(b' ')),
                None => (&symbol[..], None),
            };
            bytes.extend(symbol.chars().filter_map(byte).chain(end));
        }
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// Start, ids and end, of at most `limit` ids: one row, or with [`LongCaption::Chunks`] and
    /// [`LongCaption::Fit`] as many as it takes.
    pub fn encode_caption(
        &self,
        caption: &str,
        limit: usize,
        long: LongCaption,
    ) -> Result<Vec<Vec<u32>>> {
        let room = limit
            .checked_sub(2)
            .filter(|&room| room > 0)
            .ok_or_else(|| {
                Error::invalid("text length", format!("expected 3 or more, got {limit}"))
            })?;
        let ids = self.encode(caption)?;
        let pieces = match long {
            _ if ids.len() <= room => vec![&ids[..]],
            LongCaption::Refuse => {
                return Err(Error::CaptionTooLong {
                    tokens: ids.len() + 2,
                    limit,
                    caption: super::shortened(caption),
                });
            }
            LongCaption::Truncate => vec![&ids[..room]],
            LongCaption::Chunks | LongCaption::Fit => self.pieces(&ids, room),
        };
        let framed = |piece: &[u32]| [&[self.start], piece, &[self.end]].concat();
        Ok(pieces.into_iter().map(framed).collect())
    }

    /// Cut after words into pieces of at most `room` ids; a longer word is cut anywhere.
    fn pieces<'a>(&self, mut ids: &'a [u32], room: usize) -> Vec<&'a [u32]> {
        let ends_word = |&id: &u32| {
            let token = self.tokenizer.id_to_token(id);
            token.is_some_and(|token| token.ends_with(WORD_END))
        };
        let mut pieces = Vec::new();
        while ids.len() > room {
            let words = ids[..room].iter().rposition(ends_word);
            let (piece, rest) = ids.split_at(words.map_or(room, |last| last + 1));
            pieces.push(piece);
            ids = rest;
        }
        pieces.push(ids);
        pieces
    }
}

/// The symbols of the 256 bytes, in the order of their ids: the printable ones first.
fn alphabet() -> Vec<String> {
    let mut symbols: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    // Those that stand for themselves are below U+0100, the others were put from there on in their order.
    symbols.sort_unstable();
    symbols.into_iter().map(String::from).collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.trim_end_matches('\r').split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' '))
        .then(|| (left.to_owned(), right.to_owned()))
}

/// A `tokenizer.json`. With the two special ids it is whole, as `transformers` writes it; without it only
/// splits and merges, the rest being done here.
fn document(
    vocabulary: &HashMap<String, u32>,
    merges: &[(String, String)],
    special: Option<(u32, u32)>,
) -> serde_json::Value {
    let mut document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": WORD_END, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": merges,
        },
    });
    if let Some((start, end)) = special {
        let name = |id: u32, names: [&'static str; 2]| {
            let known = names
                .into_iter()
                .find(|name| vocabulary.get(*name) == Some(&id));
            known.unwrap_or(names[0])
        };
        let (start_name, end_name) = (name(start, STARTS), name(end, ENDS));
        let added = |id: u32, name: &str| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        };
        document["added_tokens"] = json!([added(start, start_name), added(end, end_name)]);
        document["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]});
        document["post_processor"] = json!({"type": "RobertaProcessing", "sep": [end_name, end],
            "cls": [start_name, start], "trim_offsets": false, "add_prefix_space": false});
        document["model"]["unk_token"] = json!(end_name);
    }
    document
}
