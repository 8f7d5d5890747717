//! The tokenizers of DALLE-pytorch (`tokenizer.py`): CLIP's byte pairs, any `tokenizers` file, the Chinese BERT's word
//! pieces, and YouTokenToMe's byte pairs. Its checkpoints do not say which one they were trained with: the files beside
//! them do.

use std::path::{Path, PathBuf};

use tokenizers::decoders::wordpiece::WordPiece as Pieces;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::clip::{Cleaning, ClipTokenizer};
use super::youtokentome::{MODEL, YouTokenToMe, only_model};
use crate::error::Reason;
use crate::{Error, Result, files};

/// Files that are looked for, the first one that is there.
const JSON: [&str; 2] = ["tokenizer.json", "bpe.json"];
const WORDS: &str = "vocab.txt";
const MERGES: [&str; 2] = ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"];

/// The longest file that is read.
const LONGEST: u64 = 64 << 20;

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct DallePytorchTokenizer {
    kind: Kind,
    /// The file that it was read from.
    file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Kind {
    Clip(Box<ClipTokenizer>),
    Whole(Box<Tokenizer>),
    YouTokenToMe(Box<YouTokenToMe>),
}

impl DallePytorchTokenizer {
    /// The file that [`DallePytorchTokenizer::load`] takes of a folder.
    pub fn file_in(folder: &Path) -> Option<PathBuf> {
        let names = JSON.iter().chain([&WORDS]).chain(&MERGES);
        let mut paths = names.map(|name| folder.join(name));
        paths
            .find(|path| path.is_file())
            .or_else(|| only_model(folder))
    }

    /// The one in a folder, for a model that knows `text_vocab_size` ids; where there is none and their number is that
    /// of DALLE-pytorch's default, CLIP's.
    pub fn load(folder: &Path, text_vocab_size: usize) -> Result<Self> {
        let Some(path) = Self::file_in(folder) else {
            if let Some(clip) = ClipTokenizer::published(text_vocab_size, Cleaning::OpenAi)? {
                return Ok(DallePytorchTokenizer {
                    kind: Kind::Clip(Box::new(clip)),
                    file: None,
                });
            }
            return Err(Error::Missing {
                what: "the text tokenizer (tokenizer.json, vocab.txt, bpe_simple_vocab_16e6.txt.gz, or one .model of YouTokenToMe)",
                path: folder.to_owned(),
                hint: "put the one that the model was trained with beside it; models with CLIP's 49,408 ids need none".into(),
            });
        };
        let bytes = read(&path)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let tokenizer = match name.unwrap_or_default() {
            WORDS => Self::from_words(&bytes),
            name if JSON.contains(&name) => Self::from_json(&bytes),
            _ if path.extension().is_some_and(|end| end == MODEL) => Self::from_model(&bytes),
            _ => Self::from_merges(&bytes, text_vocab_size),
        };
        let mut tokenizer = tokenizer.map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
        if tokenizer.vocab_size() > text_vocab_size {
            return Err(Error::bad_file(
                folder,
                format!(
                    "the text tokenizer has {} ids, the model {text_vocab_size}",
                    tokenizer.vocab_size()
                ),
            ));
        }
        tokenizer.file = Some(path);
        Ok(tokenizer)
    }

    /// Copies the file that it was read from into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        if let Some(file) = &self.file {
            let name = file.file_name().unwrap_or_default();
            files::write_atomic(dir.join(name), &files::read(file)?)?;
        }
        Ok(())
    }

    /// CLIP's, from its list of merges.
    pub fn from_merges(list: &[u8], text_vocab_size: usize) -> Result<Self> {
        let clip = ClipTokenizer::from_merges(list, text_vocab_size, Cleaning::OpenAi)?;
        Ok(DallePytorchTokenizer {
            kind: Kind::Clip(Box::new(clip)),
            file: None,
        })
    }

    /// A `tokenizers` file; what it puts around a text is left out, as by the original.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("text tokenizer", reason);
        let mut tokenizer = super::parse_tokenizer(bytes)
            .map_err(|e| bad(Reason::because("not a tokenizer", e)))?;
        tokenizer.with_post_processor(Some(ByteLevel::default().trim_offsets(true)));
        tokenizer
            .with_truncation(None)
            .map_err(|e| bad(Reason::of(e)))?
            .with_padding(None);
        Ok(DallePytorchTokenizer {
            kind: Kind::Whole(Box::new(tokenizer)),
            file: None,
        })
    }

    /// BERT's, from its words and pieces, one a line; the case of letters counts.
    pub fn from_words(list: &[u8]) -> Result<Self> {
        let bad = |reason: Reason| Error::invalid("text tokenizer", reason);
        let list = std::str::from_utf8(list).map_err(|_| bad("is not UTF-8".into()))?;
        let words = list.lines().map(|line| line.trim_end().to_owned());
        let vocabulary: std::collections::HashMap<String, u32> = words.zip(0..).collect();
        if !vocabulary.contains_key("[UNK]") {
            return Err(bad("has no line [UNK], expected BERT's vocabulary".into()));
        }
        let marks = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"];
        let marks = marks.map(|mark| (mark, vocabulary.contains_key(mark)));
        let vocabulary: Vocab = vocabulary.into_iter().collect();
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token("[UNK]".to_owned())
            .continuing_subword_prefix("##".to_owned())
            .max_input_chars_per_word(100)
            .build()
            .map_err(|e| bad(Reason::of(e)))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, false)));
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_decoder(Some(Pieces::default()));
        let marks = marks.into_iter().filter(|&(_, known)| known);
        let marks: Vec<AddedToken> = marks
            .map(|(mark, _)| AddedToken::from(mark, true))
            .collect();
        tokenizer.add_special_tokens(&marks);
        Ok(DallePytorchTokenizer {
            kind: Kind::Whole(Box::new(tokenizer)),
            file: None,
        })
    }

    /// YouTokenToMe's, from its model.
    pub fn from_model(bytes: &[u8]) -> Result<Self> {
        let model = YouTokenToMe::parse(bytes)?;
        Ok(DallePytorchTokenizer {
            kind: Kind::YouTokenToMe(Box::new(model)),
            file: None,
        })
    }

    /// How many ids there are.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Clip(clip) => clip.vocab_size(),
            Kind::Whole(tokenizer) => tokenizer.get_vocab_size(true),
            Kind::YouTokenToMe(model) => model.vocab_size(),
        }
    }

    /// The text of ids; what fills captions up and marks their ends is left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let known = |&&id: &&u32| id != 0 && (id as usize) < self.vocab_size();
        let ids: Vec<u32> = ids.iter().filter(known).copied().collect();
        match &self.kind {
            Kind::Clip(clip) => Ok(clip.decode(&ids)),
            Kind::Whole(tokenizer) => tokenizer
                .decode(&ids, true)
                .map_err(|e| Error::invalid("text ids", Reason::of(e))),
            Kind::YouTokenToMe(model) => Ok(model.decode(&ids)),
        }
    }

    /// The ids of a caption, `limit` at most; a longer one is refused, or cut.
    pub fn encode_caption(&self, caption: &str, limit: usize, truncate: bool) -> Result<Vec<u32>> {
        let mut ids = match &self.kind {
            Kind::Clip(clip) => clip.encode(caption)?,
            Kind::Whole(tokenizer) => tokenizer
                .encode(caption, true)
                .map_err(|e| Error::invalid("caption", Reason::of(e)))?
                .get_ids()
                .to_vec(),
            Kind::YouTokenToMe(model) => model.encode(caption),
        };
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

fn read(path: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path)
        .map_err(Error::io("read", path))?
        .len();
    if length > LONGEST {
        return Err(Error::bad_file(
            path,
            format!("has {length} bytes, expected a text tokenizer"),
        ));
    }
    files::read(path)
}
