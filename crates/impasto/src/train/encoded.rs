//! Captions and pictures as ids, encoded once and kept in a file.

use std::path::Path;

use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::engine::{Event, Observer, ReportEvents};
use super::source::{ImageSource, SourceConfig};
use crate::data::Sample;
use crate::data::tokens::TokenCache;
use crate::error::Reason;
use crate::families::{Family, FamilyModel, NetSizes};
use crate::image::Image;
use crate::models::ImageTokenizer;
use crate::text::TextTokenizer;
use crate::text::clip::LongCaption;
use crate::{Error, Result, files};

/// Pairs with their ids; a picture may have several captions.
pub(super) struct Encoded {
    /// `[pictures][captions][text_length]`.
    pub text_ids: Vec<Vec<Vec<u32>>>,
    /// `[pictures][grid²]`.
    pub image_ids: Vec<Vec<u32>>,
    /// The first caption of each.
    pub captions: Vec<String>,
}

/// Pictures rendered or read, encoded and dropped again at a time.
const CHUNK: u64 = 512;
/// Start and end of a caption.
const FRAME: usize = 2;

/// How captions become ids.
pub(super) trait Captions {
    /// A caption's ids, cut where it is too long.
    fn ids(&self, caption: &str) -> Result<Vec<u32>>;
    /// Whether it is too long.
    fn is_cut(&self, caption: &str) -> Result<bool>;
    /// The most ids.
    fn limit(&self) -> usize;
}

/// Our own: filled up to a length.
pub(super) struct Padded<'a> {
    pub text: &'a TextTokenizer,
    /// Text tokens, padding included.
    pub length: usize,
}

impl Captions for Padded<'_> {
    fn ids(&self, caption: &str) -> Result<Vec<u32>> {
        self.text.encode_caption(caption, self.length, true)
    }

    fn is_cut(&self, caption: &str) -> Result<bool> {
        Ok(self.text.encode(caption)?.len() + FRAME > self.length)
    }

    fn limit(&self) -> usize {
        self.length
    }
}

impl<F: Family> Captions for FamilyModel<F> {
    fn ids(&self, caption: &str) -> Result<Vec<u32>> {
        self.encode_caption(caption, LongCaption::Truncate)
    }

    fn is_cut(&self, caption: &str) -> Result<bool> {
        match self.encode_caption(caption, LongCaption::Refuse) {
            Ok(_) => Ok(false),
            Err(Error::CaptionTooLong { .. }) => Ok(true),
            // What is refused for other reasons may be read all the same here.
            Err(_) => self.ids(caption).map(|_| false),
        }
    }

    fn limit(&self) -> usize {
        self.config.sizes.text_length()
    }
}

/// How pairs become ids.
pub(super) struct Encoding<'a> {
    pub text: &'a dyn Captions,
    pub image: &'a ImageTokenizer,
    pub device: &'a Device,
}

impl Encoding<'_> {
    /// Pairs that are in memory.
    pub fn samples(&self, samples: &[Sample]) -> Result<Encoded> {
        let pictures: Vec<Image> = samples
            .iter()
            .map(|sample| sample.picture.clone())
            .collect();
        let image_ids = self.image.encode(&pictures, self.device)?;
        let mut text_ids = Vec::with_capacity(samples.len());
        for sample in samples {
            text_ids.push(self.captions(&sample.captions)?);
        }
        let captions = samples
            .iter()
            .map(|sample| sample.captions.first().cloned().unwrap_or_default())
            .collect();
        Ok(Encoded {
            text_ids,
            image_ids,
            captions,
        })
    }

    fn captions(&self, captions: &[String]) -> Result<Vec<Vec<u32>>> {
        captions
            .iter()
            .map(|caption| self.text.ids(caption))
            .collect()
    }

    /// The first `count` pairs of `source`, from the file at `path` if it was written for the same
    /// `fingerprint`; else that file is written.
    pub fn training(
        &self,
        source: &dyn ImageSource,
        count: u64,
        path: &Path,
        fingerprint: &str,
        observer: &mut dyn Observer,
    ) -> Result<Encoded> {
        let known = path.exists().then(|| TokenCache::open(path, fingerprint));
        let tokens = match known {
            Some(Ok(tokens)) => tokens,
            other => {
                if let Some(Err(error)) = other {
                    observer.report(Event::Warning(format!("{error}; encoding again")));
                }
                let tokens = self.tokens(source, count, observer)?;
                tokens.write(path, fingerprint)?;
                tokens
            }
        };
        let mut encoded = Encoded {
            text_ids: Vec::with_capacity(tokens.len()),
            image_ids: Vec::with_capacity(tokens.len()),
            captions: Vec::with_capacity(tokens.len()),
        };
        let (mut captions, mut cut) = (0u64, 0u64);
        for index in 0..tokens.len() {
            let texts = tokens.captions(index);
            for caption in texts {
                captions += 1;
                cut += u64::from(self.text.is_cut(caption)?);
            }
            encoded.text_ids.push(self.captions(texts)?);
            let ids = tokens.image_ids(index).iter().map(|&id| u32::from(id));
            encoded.image_ids.push(ids.collect());
            encoded.captions.push(texts[0].clone());
        }
        if cut > 0 {
            let length = self.text.limit();
            observer.report(Event::Warning(format!(
                "{cut} of {captions} captions are longer than text_length = {length} and are cut"
            )));
        }
        Ok(encoded)
    }

    /// Reads and encodes the pictures.
    fn tokens(
        &self,
        source: &dyn ImageSource,
        count: u64,
        observer: &mut dyn Observer,
    ) -> Result<TokenCache> {
        let mut tokens = TokenCache::new(self.image.config().grid().pow(2))?;
        let mut done = 0;
        while done < count {
            let samples = source.train_batch(done, CHUNK.min(count - done) as usize)?;
            let (pictures, captions): (Vec<Image>, Vec<Vec<String>>) = samples
                .into_iter()
                .map(|sample| (sample.picture, sample.captions))
                .unzip();
            let encoded = self.image.encode(&pictures, self.device)?;
            for (ids, captions) in encoded.iter().zip(captions) {
                tokens.push(ids, captions)?;
            }
            done += pictures.len() as u64;
            observer.report(Event::Preparing(format!(
                "encoded {done} of {count} pictures"
            )));
            if observer.stop() {
                return Err(Error::Stopped);
            }
        }
        Ok(tokens)
    }
}

/// What the ids depend on: the image tokenizer's weights, the data, their number.
pub(super) fn fingerprint(
    data: &SourceConfig,
    image_weights: &[u8],
    source: &dyn ImageSource,
    count: u64,
) -> Result<String> {
    let data = serde_json::to_vec(data).map_err(|e| Error::invalid("data", Reason::of(e)))?;
    let digest = Sha256::new()
        .chain_update(image_weights)
        .chain_update(data)
        .chain_update(source.fingerprint())
        .chain_update(count.to_le_bytes())
        .finalize();
    Ok(files::hex(&digest))
}

/// How many pictures are encoded: as many as are `wanted` and there.
pub(super) fn count(wanted: Option<u64>, source: &dyn ImageSource) -> Result<u64> {
    let bad = |reason: &str| Err(Error::invalid("training config", reason));
    match (wanted, source.count()) {
        (Some(0), _) => bad("encoded_pictures is 0, expected 1 or more"),
        (Some(count), Some(len)) => Ok(count.min(len)),
        (Some(count), None) => Ok(count),
        (None, Some(len)) => Ok(len),
        (None, None) => bad("encoded_pictures must be given: the data has no end"),
    }
}
