//! The token cache: pictures encoded once by an image tokenizer, with their captions, in one file.
//!
//! Layout, all numbers little-endian: the 8 bytes `IMPASTOT`; the header's length as `u64`; the header as
//! JSON (`Header`); the image ids as `u16`, picture after picture; the captions as a JSON array of one
//! array of strings a picture. The header's SHA-256 covers all that follows it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Reason;
use crate::{Error, Result, files};

const MAGIC: &[u8; 8] = b"IMPASTOT";
const VERSION: u32 = 1;
/// More than any header of ours.
const MAX_HEADER_BYTES: u64 = 1 << 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    /// What the ids were made by and from.
    fingerprint: String,
    pictures: u64,
    ids_per_picture: u64,
    caption_bytes: u64,
    sha256: String,
}

/// Image ids and captions of many pictures. Ids take two bytes each: a million pictures of 256 ids are half
/// a gigabyte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCache {
    ids_per_picture: usize,
    image_ids: Vec<u16>,
    captions: Vec<Vec<String>>,
}

impl TokenCache {
    /// An empty one for pictures of `ids_per_picture` ids.
    pub fn new(ids_per_picture: usize) -> Result<Self> {
        if ids_per_picture == 0 {
            let reason = "expected 1 or more ids a picture, got 0";
            return Err(Error::invalid("token cache", reason));
        }
        Ok(TokenCache {
            ids_per_picture,
            image_ids: Vec::new(),
            captions: Vec::new(),
        })
    }

    /// Adds a picture.
    pub fn push(&mut self, image_ids: &[u32], captions: Vec<String>) -> Result<()> {
        let bad = |reason: Reason| Error::invalid("image ids", reason);
        if image_ids.len() != self.ids_per_picture {
            let expected = self.ids_per_picture;
            return Err(bad(format!(
                "expected {expected} a picture, got {}",
                image_ids.len()
            )
            .into()));
        }
        if captions.is_empty() {
            return Err(Error::invalid(
                "captions",
                "expected 1 or more a picture, got 0",
            ));
        }
        if let Some(id) = image_ids.iter().find(|&&id| id > u32::from(u16::MAX)) {
            return Err(bad(
                format!("expected ids up to {}, got {id}", u16::MAX).into()
            ));
        }
        self.image_ids.extend(image_ids.iter().map(|&id| id as u16));
        self.captions.push(captions);
        Ok(())
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }

    /// A picture's ids.
    pub fn image_ids(&self, index: usize) -> &[u16] {
        let start = index * self.ids_per_picture;
        &self.image_ids[start..start + self.ids_per_picture]
    }

    /// A picture's captions, one or more.
    pub fn captions(&self, index: usize) -> &[String] {
        &self.captions[index]
    }

    /// Writes the file whole or not at all. `fingerprint` stands for the tokenizer and the data.
    pub fn write(&self, path: &Path, fingerprint: &str) -> Result<()> {
        let json = |e: serde_json::Error| Error::invalid("token cache", Reason::of(e));
        let captions = serde_json::to_vec(&self.captions).map_err(json)?;
        let mut payload: Vec<u8> = self
            .image_ids
            .iter()
            .flat_map(|id| id.to_le_bytes())
            .collect();
        payload.extend_from_slice(&captions);
        let header = serde_json::to_vec(&Header {
            version: VERSION,
            fingerprint: fingerprint.to_owned(),
            pictures: self.len() as u64,
            ids_per_picture: self.ids_per_picture as u64,
            caption_bytes: captions.len() as u64,
            sha256: hexadecimal(&payload),
        })
        .map_err(json)?;
        let length = (header.len() as u64).to_le_bytes();
        files::write_atomic(
            path,
            &[MAGIC.as_slice(), &length, &header, &payload].concat(),
        )
    }

    /// Reads a file that [`TokenCache::write`] made with the same fingerprint.
    pub fn open(path: &Path, fingerprint: &str) -> Result<Self> {
        let bytes = files::read(path)?;
        let bad = |reason: Reason| Error::bad_file(path, reason);
        let (header, payload) = split_header(&bytes)
            .ok_or_else(|| bad("not a token cache, or not a whole one".into()))?;
        let header: Header = serde_json::from_slice(header)
            .map_err(|e| bad(Reason::because("not a token cache: its header", e)))?;
        if header.version != VERSION {
            let reason = format!("is of version {}, expected {VERSION}", header.version);
            return Err(bad(reason.into()));
        }
        if header.fingerprint != fingerprint {
            return Err(bad(format!(
                "was made by another image tokenizer or from other data: its fingerprint is {}, expected \
                 {fingerprint}",
                header.fingerprint
            ).into()));
        }
        let id_bytes = header
            .pictures
            .checked_mul(header.ids_per_picture)
            .and_then(|ids| ids.checked_mul(2));
        let expected = id_bytes.and_then(|bytes| bytes.checked_add(header.caption_bytes));
        if expected != Some(payload.len() as u64) || header.ids_per_picture == 0 {
            return Err(bad("its size is not what its header says".into()));
        }
        if header.sha256 != hexadecimal(payload) {
            return Err(bad(
                "is damaged: its content has another SHA-256 than its header says".into(),
            ));
        }
        // Fits: it is no more than the length of a slice.
        let (ids, captions) = payload.split_at(payload.len() - header.caption_bytes as usize);
        let captions: Vec<Vec<String>> = serde_json::from_slice(captions)
            .map_err(|e| bad(Reason::because("its captions can't be read", e)))?;
        if captions.len() as u64 != header.pictures || captions.iter().any(Vec::is_empty) {
            return Err(bad(
                "its captions are not one or more for each picture".into()
            ));
        }
        Ok(TokenCache {
            ids_per_picture: header.ids_per_picture as usize,
            image_ids: ids
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
            captions,
        })
    }
}

/// Header and what follows it.
fn split_header(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (magic, bytes) = bytes.split_first_chunk::<8>()?;
    let (length, bytes) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    if magic != MAGIC || length > MAX_HEADER_BYTES {
        return None;
    }
    bytes.split_at_checked(length as usize)
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    files::hex(&digest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    fn cache() -> TokenCache {
        let mut cache = TokenCache::new(4).unwrap();
        cache
            .push(&[0, 1, 2, 65_535], vec!["红色".into(), "red".into()])
            .unwrap();
        cache.push(&[9, 8, 7, 6], vec!["a\nb".into()]).unwrap();
        cache
    }

    #[test]
    fn a_cache_comes_back_whole() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tokens.bin");
        cache().write(&path, "abc").unwrap();
        let read = TokenCache::open(&path, "abc").unwrap();
        assert_eq!(read, cache());
        assert_eq!(
            (read.len(), read.image_ids(1)),
            (2, [9u16, 8, 7, 6].as_slice())
        );
        assert_eq!(read.captions(0), ["红色", "red"]);
    }

    #[test]
    fn another_tokenizer_is_an_error_that_says_so() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tokens.bin");
        cache().write(&path, "abc").unwrap();
        let error = TokenCache::open(&path, "xyz").unwrap_err().to_string();
        for part in ["tokens.bin", "another image tokenizer", "abc", "xyz"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(TokenCache::new(0).is_err());
        let mut changed = cache();
        assert!(changed.push(&[1, 2, 3], vec!["c".into()]).is_err());
        assert!(changed.push(&[1, 2, 3, 65_536], vec!["c".into()]).is_err());
        assert!(changed.push(&[1, 2, 3, 4], Vec::new()).is_err());
        assert_eq!(changed, cache());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// No changed or missing byte goes unnoticed.
        #[test]
        fn a_damaged_cache_is_an_error(at in any::<prop::sample::Index>(), change in 1u8.., cut in any::<bool>()) {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("tokens.bin");
            cache().write(&path, "abc").unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= change }
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(TokenCache::open(&path, "abc").is_err());
        }
    }
}
