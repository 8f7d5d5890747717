//! Captions as ids: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; bytes as in
//! GPT-2), trained on the captions, so that any text in any language has ids and comes back unchanged.

pub mod bart;
pub mod clip;
pub mod dalle_pytorch;
pub mod janus;
pub mod normalizer;
mod precompiled;
pub mod rudalle;
pub mod sentencepiece;
pub mod t5;
pub mod youtokentome;

use std::path::Path;

use base64::Engine;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer, TokenizerBuilder,
};

use crate::error::Reason;
use crate::{Error, Result, files};

/// Fills a caption up to the model's length.
pub const PAD: u32 = 0;
/// Begins a caption.
pub const BOS: u32 = 1;
/// Ends a caption.
pub const EOS: u32 = 2;

/// The largest `tokenizer.json` that is read: several times the largest published ones of the models that are read.
const MAX_TOKENIZER_BYTES: usize = 16 << 20;

/// The shortest caption: its start, one id, its end.
const MIN_LIMIT: usize = 3;

const SPECIAL: [&str; 3] = ["<pad>", "<bos>", "<eos>"];

/// Caption ↔ ids.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
}

impl TextTokenizer {
    /// Refuses a vocabulary that can't hold the bytes, or is beyond all use.
    pub fn check_vocab_size(vocab_size: usize) -> Result<()> {
        if (259..=1 << 20).contains(&vocab_size) {
            return Ok(());
        }
        Err(Error::invalid(
            "vocab_size",
            format!("expected 259 to 2^20, got {vocab_size}"),
        ))
    }

    /// Learns `vocab_size` ids (256 bytes and 3 special ones among them) from captions.
    pub fn train(captions: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Self> {
        Self::check_vocab_size(vocab_size)?;
        let bad = |e: tokenizers::Error| Error::invalid("text tokenizer", Reason::of(e));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let bytes = ByteLevel::default().add_prefix_space(false);
        let mut tokenizer = TokenizerBuilder::<
            BPE,
            NormalizerWrapper,
            ByteLevel,
            PostProcessorWrapper,
            ByteLevel,
        >::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(None)
        .with_decoder(Some(bytes))
        .build()
        .map_err(bad)?;
        tokenizer.train(&mut trainer, captions).map_err(bad)?;
        let json = tokenizer.to_string(false).map_err(bad)?;
        TextTokenizer::from_bytes(json.as_bytes())
    }

    /// Reads a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("tokenizer.json", reason);
        let tokenizer =
            parse_tokenizer(bytes).map_err(|e| bad(Reason::because("not a tokenizer", e)))?;
        for (id, token) in SPECIAL.iter().enumerate() {
            let found = tokenizer.token_to_id(token);
            if found != Some(id as u32) {
                return Err(bad(
                    format!("{token} has id {found:?}, expected {id}").into()
                ));
            }
        }
        // With every byte in the vocabulary there is no text without ids.
        if let Some(byte) = ByteLevel::alphabet()
            .into_iter()
            .find(|c| tokenizer.token_to_id(&c.to_string()).is_none())
        {
            return Err(bad(format!(
                "not a byte-level tokenizer: byte symbol \"{byte}\" has no id"
            )
            .into()));
        }
        Ok(TextTokenizer { tokenizer })
    }

    /// Reads `tokenizer.json` in `dir`.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = files::read(&path)?;
        TextTokenizer::from_bytes(&bytes).map_err(|e| Error::bad_file(path, Reason::of(e)))
    }

    /// Writes `tokenizer.json` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = self
            .tokenizer
            .to_string(true)
            .map_err(|e| Error::invalid("text tokenizer", Reason::of(e)))?;
        files::write_atomic(dir.join("tokenizer.json"), json.as_bytes())
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The ids of a text, without special ones. A text that spells a special token is split so that it does
    /// not become one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for piece in pieces(text) {
            let encoding = self
                .tokenizer
                .encode_fast(piece, false)
                .map_err(|e| Error::invalid("text", Reason::of(e)))?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    /// How many bytes of a text each of its ids stands for, in the order of [`TextTokenizer::encode`]: a symbol of the
    /// byte alphabet is a byte.
    pub fn byte_lengths(&self, text: &str) -> Result<Vec<usize>> {
        let symbols = |id: u32| {
            let token = self.tokenizer.id_to_token(id);
            token.map_or(0, |token| token.chars().count())
        };
        Ok(self.encode(text)?.into_iter().map(symbols).collect())
    }

    /// Start, ids, end, and padding to exactly `limit` ids. A longer caption is refused, or cut before
    /// its end where `truncate` says so.
    pub fn encode_caption(&self, caption: &str, limit: usize, truncate: bool) -> Result<Vec<u32>> {
        if caption.trim().is_empty() {
            return Err(Error::invalid("prompt", "is empty, expected a caption"));
        }
        if limit < MIN_LIMIT {
            return Err(Error::invalid(
                "text length",
                format!("expected {MIN_LIMIT} or more, got {limit}"),
            ));
        }
        let mut ids = vec![BOS];
        ids.extend(self.encode(caption)?);
        if ids.len() + 1 > limit {
            if !truncate {
                return Err(Error::CaptionTooLong {
                    tokens: ids.len() + 1,
                    limit,
                    caption: shortened(caption),
                });
            }
            ids.truncate(limit - 1);
        }
        ids.push(EOS);
        ids.resize(limit, PAD);
        Ok(ids)
    }

    /// The ids of no caption.
    pub fn null_caption(&self, limit: usize) -> Vec<u32> {
        let mut ids = vec![BOS, EOS];
        ids.resize(limit, PAD);
        ids
    }

    /// The text of ids, special ones left out. Ids that break off within a character (a model may write
    /// such) show as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let vocab_size = self.vocab_size();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::invalid(
                "text ids",
                format!("expected ids below {vocab_size}, got {id}"),
            ));
        }
        self.tokenizer
            .decode(ids, true)
            .map_err(|e| Error::invalid("text ids", Reason::of(e)))
    }
}

/// The text cut inside every special token that it spells.
fn pieces(text: &str) -> Vec<&str> {
    let mut cuts: Vec<usize> = SPECIAL
        .iter()
        .flat_map(|token| text.match_indices(token))
        .map(|(at, _)| at + 1)
        .collect();
    cuts.sort_unstable();
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    let mut start = 0;
    for cut in cuts {
        pieces.push(&text[start..cut]);
        start = cut;
    }
    pieces.push(&text[start..]);
    pieces
}

pub(crate) fn shortened(caption: &str) -> String {
    if caption.chars().count() <= 60 {
        return caption.to_owned();
    }
    caption.chars().take(57).chain("...".chars()).collect()
}

/// Parses a `tokenizers` file. That library panics at some that are damaged, which are refused before it sees them.
fn parse_tokenizer(bytes: &[u8]) -> std::result::Result<Tokenizer, Reason> {
    /// Whether the library can read a normaliser without reaching beyond its end.
    fn check(value: &serde_json::Value) -> std::result::Result<(), Reason> {
        match value {
            serde_json::Value::Object(fields) => {
                if fields.get("type").is_some_and(|kind| kind == "Precompiled") {
                    let map = fields.get("precompiled_charsmap");
                    let map = map.and_then(|map| map.as_str()).unwrap_or_default();
                    let map = base64::engine::general_purpose::STANDARD.decode(map);
                    precompiled::check(&map.map_err(Reason::of)?)?;
                }
                fields.values().try_for_each(check)
            }
            serde_json::Value::Array(items) => items.iter().try_for_each(check),
            _ => Ok(()),
        }
    }
    /// Only what is looked at: a document of all would take ten times the file's memory.
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        normalizer: serde_json::Value,
        // Read so that text that is none, such as half a surrogate pair, is an error: the library's own readers of these
        // parts panic on it.
        #[serde(default, rename = "pre_tokenizer")]
        _pre_tokenizer: serde_json::Value,
        #[serde(default, rename = "post_processor")]
        _post_processor: serde_json::Value,
        #[serde(default, rename = "decoder")]
        _decoder: serde_json::Value,
    }
    if bytes.len() > MAX_TOKENIZER_BYTES {
        return Err(format!(
            "has {} bytes, expected at most {MAX_TOKENIZER_BYTES}",
            bytes.len()
        )
        .into());
    }
    let document: Document = serde_json::from_slice(bytes).map_err(Reason::of)?;
    check(&document.normalizer)?;
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(Reason::of)?;
    // Lengths are the model's, which it says itself: a padding to a length of the file's could be of any.
    tokenizer
        .with_truncation(None)
        .map_err(Reason::of)?
        .with_padding(None);
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn tokenizer() -> TextTokenizer {
        let captions = [
            "a red turtle",
            "two red turtles on a yellow background",
            "夜空下的红色乌龟",
        ];
        TextTokenizer::train(
            captions
                .iter()
                .map(|caption| (*caption).to_owned())
                .cycle()
                .take(60),
            300,
        )
        .unwrap()
    }

    #[test]
    fn captions_are_framed_and_padded() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_caption("a red turtle", 16, false).unwrap();
        assert_eq!(ids.len(), 16);
        assert_eq!(ids[0], BOS);
        let end = ids.iter().position(|&id| id == EOS).unwrap();
        assert!(ids[end + 1..].iter().all(|&id| id == PAD));
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a red turtle");
    }

    #[test]
    fn a_long_caption_is_refused_with_both_lengths_or_cut() {
        let tokenizer = tokenizer();
        let long = "zebra ".repeat(20);
        let error = tokenizer
            .encode_caption(&long, 8, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("but the model reads 8"), "{error}");
        let cut = tokenizer.encode_caption(&long, 8, true).unwrap();
        assert_eq!((cut.len(), cut[7]), (8, EOS));
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        assert!(tokenizer().encode_caption(" \n", 8, false).is_err());
    }

    #[test]
    fn a_text_that_spells_a_special_token_is_only_text() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("<eos> a <pad><bos>").unwrap();
        assert!(ids.iter().all(|&id| id > EOS), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "<eos> a <pad><bos>");
    }

    #[test]
    fn a_limit_without_room_is_refused() {
        for limit in 0..MIN_LIMIT {
            assert!(tokenizer().encode_caption("a", limit, true).is_err());
        }
        assert_eq!(
            tokenizer()
                .encode_caption("a", MIN_LIMIT, false)
                .unwrap()
                .len(),
            MIN_LIMIT
        );
    }

    /// Captions that look like a prompt's error at first sight: control characters, a long run of
    /// spaces (the splitting pattern backtracks on it), half an emoji family.
    #[test]
    fn awkward_texts_come_back() {
        let tokenizer = tokenizer();
        for text in [
            "\0\u{1}\r\n\t",
            "\u{200d}👩\u{200d}",
            "e\u{301} é",
            &format!("a{}b", " ".repeat(100_000)),
        ] {
            assert!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap() == text);
        }
    }

    #[test]
    fn byte_lengths_add_up_to_the_text() {
        let tokenizer = tokenizer();
        for text in ["two red turtles", "夜空下的 🐢 é<eos>", " ", ""] {
            let lengths = tokenizer.byte_lengths(text).unwrap();
            assert_eq!(lengths.len(), tokenizer.encode(text).unwrap().len());
            assert_eq!(lengths.iter().sum::<usize>(), text.len(), "{text}");
        }
    }

    #[test]
    fn ids_that_no_text_has_are_refused() {
        let tokenizer = tokenizer();
        let beyond = tokenizer.vocab_size() as u32;
        assert!(tokenizer.decode(&[beyond - 1]).is_ok());
        assert!(tokenizer.decode(&[beyond]).is_err());
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_and_a_damaged_one_is_refused() {
        let tokenizer = tokenizer();
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let loaded = TextTokenizer::load(dir.path()).unwrap();
        let text = "two red turtles 夜空下的 <eos>";
        assert_eq!(
            loaded.encode(text).unwrap(),
            tokenizer.encode(text).unwrap()
        );
        let path = dir.path().join("tokenizer.json");
        let json = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            json[..json.len() / 2].to_owned(),
            json.replace("\"<eos>\"", "\"<end>\""),
            json.replace("\"Ġ\"", "\"ĠĠĠĠ\""),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = TextTokenizer::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json"), "{error}");
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_is_refused() {
        assert!(TextTokenizer::train(std::iter::empty(), 258).is_err());
        assert_eq!(
            TextTokenizer::train(std::iter::empty(), 259)
                .unwrap()
                .vocab_size(),
            259
        );
    }

    #[test]
    fn training_twice_gives_the_same_tokenizer() {
        let json = |tokenizer: TextTokenizer| tokenizer.tokenizer.to_string(false).unwrap();
        assert_eq!(json(tokenizer()), json(tokenizer()));
    }

    /// A padding of the file's own could be of any length.
    #[test]
    fn lengths_that_a_file_states_are_not_its_to_say() {
        let json = tokenizer().tokenizer.to_string(false).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&json).unwrap();
        document["padding"] = serde_json::json!({
            "strategy": {"Fixed": 1u64 << 40}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"
        });
        let padded = TextTokenizer::from_bytes(document.to_string().as_bytes()).unwrap();
        let text = "a red turtle";
        assert_eq!(
            padded.encode(text).unwrap(),
            tokenizer().encode(text).unwrap()
        );
        let long = vec![b' '; MAX_TOKENIZER_BYTES + 1];
        assert!(TextTokenizer::from_bytes(&long).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            thread_local!(static TOKENIZER: TextTokenizer = tokenizer());
            TOKENIZER.with(|tokenizer| {
                assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
            });
        }
    }
}
