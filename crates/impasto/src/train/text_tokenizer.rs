//! Training the text tokenizer on a source's captions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::engine::{Event, Observer, ReportEvents};
use super::source::{SourceConfig, open};
use crate::error::Reason;
use crate::text::TextTokenizer;
use crate::{Error, Result, files};

/// The config file of `impasto train text-tokenizer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTokenizerTrainingConfig {
    /// Ids, the 256 bytes and 3 special ones among them.
    pub vocab_size: usize,
    /// The captions.
    pub data: SourceConfig,
    /// Samples whose captions are read; none: all of a finite source, 20,000 of an endless one.
    #[serde(default)]
    pub samples: Option<u64>,
}

/// Trains and writes `tokenizer.json` into `dir`.
pub fn run(
    config: &TextTokenizerTrainingConfig,
    dir: &Path,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    const CHUNK: u64 = 512;
    TextTokenizer::check_vocab_size(config.vocab_size)?;
    let _lock = super::folder::open(dir)?;
    let source = open(&config.data, None, dir, observer)?;
    let all = source.count();
    let count = match (config.samples, all) {
        (Some(samples), Some(len)) => samples.min(len),
        (Some(samples), None) => samples,
        (None, Some(len)) => len,
        (None, None) => 20_000,
    };
    let mut captions = Vec::new();
    let mut start = 0;
    while start < count {
        let batch = source.train_captions(start, CHUNK.min(count - start) as usize)?;
        start += batch.len() as u64;
        captions.extend(batch.into_iter().flatten());
        observer.report(Event::Preparing(format!(
            "read the captions of {start} of {count} pictures"
        )));
        if observer.stop() {
            return Err(Error::Stopped);
        }
    }
    let tokenizer = TextTokenizer::train(captions.into_iter(), config.vocab_size)?;
    tokenizer.save(dir)?;
    let resolved =
        serde_json::to_vec_pretty(config).map_err(|e| Error::invalid("config", Reason::of(e)))?;
    files::write_atomic(dir.join("config.json"), &resolved)?;
    Ok(dir.join("tokenizer.json"))
}
