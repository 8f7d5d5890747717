//! Users' pictures with captions: a folder, a JSONL or CSV list, or WebDataset tars.
//!
//! Opening looks at every pair once: pictures that can't be read, pictures without a caption, captions
//! without a picture, repeated pairs and all other files are listed in a [`ScanReport`], never silently dropped.

mod exclusions;
mod folder;
mod list;
mod tars;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use exclusions::Exclusions;
pub use tars::is_tar;

use super::Sample;
use crate::Result;
use crate::image::{self, Image};

/// The largest caption file that is read.
const MAX_CAPTION_BYTES: u64 = 1 << 20;

/// Where the pairs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PairSource {
    /// A folder, with those inside it: pictures (`name.png` and the like) beside `name.txt`, one caption a line. Endings
    /// may be in capitals, here and in tars.
    Folder(PathBuf),
    /// One JSON object a line: `{"image": "path", "caption": "text"}`, or `file_name` and `text` as `datasets` has
    /// them; a list of captions under any of their names. Paths count from the file's folder.
    Jsonl(PathBuf),
    /// A table with the columns `image` and `caption` (or `file_name` and `text`); paths count from the file's folder.
    Csv(PathBuf),
    /// WebDataset tars, packed with gzip or not: pictures (`key.png` and the like) with `key.txt`, or `key.json` with
    /// captions as in a list.
    /// The key ends at the first dot, or at the last one where what follows the first is no known ending.
    /// A folder stands for the tars in it, and `*` in a file's name for anything.
    Tars(Vec<PathBuf>),
}

/// Where a picture's bytes are.
#[derive(Clone, Debug)]
enum Location {
    File(PathBuf),
    /// A stretch of a tar.
    Tar {
        source: Arc<tars::Source>,
        offset: u64,
        length: u64,
    },
}

/// One pair, its picture not read yet.
#[derive(Clone, Debug)]
struct Pair {
    key: String,
    location: Location,
    captions: Vec<String>,
}

/// What a reader found.
#[derive(Default)]
struct Found {
    pairs: Vec<Pair>,
    without_caption: Vec<String>,
    without_picture: Vec<String>,
    unreadable: Vec<Unreadable>,
    other: Vec<Unreadable>,
}

/// A picture or line that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unreadable {
    /// Its name.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// A pair that says nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// Its name.
    pub key: String,
    /// The pair with the same picture and the same captions that is used.
    pub same_as: String,
}

/// What was found in a source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScanReport {
    /// Pairs that can be used.
    pub usable: usize,
    /// Pictures without a caption.
    pub without_caption: Vec<String>,
    /// Captions without a picture.
    pub without_picture: Vec<String>,
    /// Pictures and lines that can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Pairs of which a copy is used.
    pub repeated: Vec<Repeated>,
    /// Files that are neither pictures nor captions by their names: nothing is missed that was meant to be used.
    pub other: Vec<Unreadable>,
    /// Pairs that a list of exclusions names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// Entries of that list that name no pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclusions_without_pair: Vec<String>,
}

impl ScanReport {
    /// Whether every picture and every caption can be used.
    pub fn is_clean(&self) -> bool {
        self.without_caption.is_empty()
            && self.without_picture.is_empty()
            && self.unreadable.is_empty()
            && self.repeated.is_empty()
    }

    /// Whether every file that is there is part of a pair.
    pub fn lists_nothing(&self) -> bool {
        self.is_clean()
            && self.other.is_empty()
            && self.excluded.is_empty()
            && self.exclusions_without_pair.is_empty()
    }

    /// One line: how many pairs are used, and how many of which kind are not.
    pub fn summary(&self) -> String {
        let mut line = format!(
            "{} usable pairs; left out: {} pictures without a caption, {} captions without a picture, \
             {} unreadable, {} repeated",
            self.usable,
            self.without_caption.len(),
            self.without_picture.len(),
            self.unreadable.len(),
            self.repeated.len()
        );
        if !self.other.is_empty() {
            line += &format!(", {} other files", self.other.len());
        }
        line
    }
}

/// Pairs whose pictures have all been looked at, in the order of their keys.
#[derive(Debug)]
pub struct Pairs {
    pairs: Vec<Pair>,
    /// SHA-256 of each picture's bytes.
    digests: Vec<[u8; 32]>,
}

impl PairSource {
    /// Reads names and captions; pairs come in the order of their keys.
    fn read(&self) -> Result<Found> {
        let mut found = match self {
            PairSource::Folder(path) => folder::read(path)?,
            PairSource::Jsonl(path) => list::read_jsonl(path)?,
            PairSource::Csv(path) => list::read_csv(path)?,
            PairSource::Tars(paths) => tars::read(paths)?,
        };
        found.pairs.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// All pairs without a look at their pictures, which may not even be there, and the lines that can't be read.
    pub fn captions(&self) -> Result<(CaptionList, Vec<Unreadable>)> {
        let found = self.read()?;
        Ok((CaptionList { pairs: found.pairs }, found.unreadable))
    }

    /// Opens the source and looks at every picture. Pairs come in the order of their keys.
    pub fn open(&self) -> Result<(Pairs, ScanReport)> {
        self.open_without(None)
    }

    /// [`Self::open`] without the pairs that a list names.
    pub fn open_without(&self, exclusions: Option<&Exclusions>) -> Result<(Pairs, ScanReport)> {
        let found = self.read()?;
        let looked: Vec<(Pair, Result<[u8; 32]>)> = found
            .pairs
            .into_par_iter()
            .map(|pair| {
                let digest = pair.digest();
                (pair, digest)
            })
            .collect();
        let mut report = ScanReport {
            usable: 0,
            without_caption: found.without_caption,
            without_picture: found.without_picture,
            unreadable: found.unreadable,
            repeated: Vec::new(),
            other: found.other,
            ..ScanReport::default()
        };
        let mut matcher = exclusions.map(Exclusions::matcher);
        let (mut pairs, mut digests) = (Vec::new(), Vec::new());
        let mut known: HashMap<([u8; 32], Vec<String>), String> = HashMap::new();
        for (pair, digest) in looked {
            let Pair { key, captions, .. } = pair.clone();
            match digest {
                Err(error) => {
                    let reason = error.to_string();
                    report.unreadable.push(Unreadable { key, reason });
                }
                Ok(digest)
                    if matcher
                        .as_mut()
                        .is_some_and(|matcher| matcher.names(&pair, &digest)) =>
                {
                    report.excluded.push(key);
                }
                Ok(digest) => match known.get(&(digest, captions.clone())) {
                    Some(same) => {
                        let same_as = same.clone();
                        report.repeated.push(Repeated { key, same_as });
                    }
                    None => {
                        known.insert((digest, captions), key);
                        pairs.push(pair);
                        digests.push(digest);
                    }
                },
            }
        }
        report.usable = pairs.len();
        report.exclusions_without_pair =
            matcher.map_or(Vec::new(), exclusions::Matcher::without_pair);
        report.without_caption.sort();
        report.without_picture.sort();
        report.unreadable.sort();
        report.other.sort();
        Ok((Pairs { pairs, digests }, report))
    }
}

impl Pairs {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// A pair's name within its source.
    pub fn key(&self, index: usize) -> &str {
        &self.pairs[index].key
    }

    /// SHA-256 of the bytes of a pair's picture.
    pub fn digest(&self, index: usize) -> &[u8; 32] {
        &self.digests[index]
    }

    /// The captions of a pair; its picture is not read.
    pub fn captions(&self, index: usize) -> &[String] {
        &self.pairs[index].captions
    }

    /// Reads a pair, its picture cut and scaled to a square of `size` pixels.
    pub fn sample(&self, index: usize, size: usize) -> Result<Sample> {
        let pair = &self.pairs[index];
        Ok(Sample {
            key: pair.key.clone(),
            picture: pair.picture()?.fit_square(size)?,
            captions: pair.captions.clone(),
        })
    }

    /// Hexadecimal SHA-256 of all pictures, captions and keys: other content, other fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (pair, digest) in self.pairs.iter().zip(&self.digests) {
            hash.update(digest);
            for text in std::iter::once(&pair.key).chain(&pair.captions) {
                // The length keeps "ab", "c" apart from "a", "bc".
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            hash.update(u64::MAX.to_le_bytes());
        }
        crate::files::hex(&hash.finalize())
    }

    /// Indices for training and for validation: about `share` of the pairs, by a hash of their pictures. So
    /// a pair stays on its side when others come and go, and copies of one picture (under several captions,
    /// say) are never on both sides. One pair at least stays in training.
    pub fn split(&self, share: f64) -> (Vec<usize>, Vec<usize>) {
        let held_out = |digest: &[u8; 32]| {
            let number = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
            f64::from(number) / f64::from(u32::MAX) < share
        };
        let (validation, training): (Vec<usize>, Vec<usize>) =
            (0..self.pairs.len()).partition(|&index| held_out(&self.digests[index]));
        if training.is_empty() {
            (validation, Vec::new())
        } else {
            (training, validation)
        }
    }
}

impl Pair {
    fn bytes(&self) -> Result<Vec<u8>> {
        match &self.location {
            Location::File(path) => image::read_bounded(path),
            Location::Tar {
                source,
                offset,
                length,
            } => source.read_at(*offset, *length),
        }
    }

    /// The picture's name in errors.
    fn name(&self) -> PathBuf {
        match &self.location {
            Location::File(path) => path.clone(),
            Location::Tar { source, .. } => source.path().join(&self.key),
        }
    }

    fn picture(&self) -> Result<Image> {
        Image::decode(&self.bytes()?, self.name())
    }

    /// Decodes the picture for its errors, and hashes its bytes.
    fn digest(&self) -> Result<[u8; 32]> {
        let bytes = self.bytes()?;
        Image::decode(&bytes, self.name())?;
        Ok(Sha256::digest(&bytes).into())
    }
}

/// Pairs whose pictures have not been looked at.
#[derive(Debug)]
pub struct CaptionList {
    pairs: Vec<Pair>,
}

impl CaptionList {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// A pair's name within its source.
    pub fn key(&self, index: usize) -> &str {
        &self.pairs[index].key
    }

    /// A pair's captions.
    pub fn captions(&self, index: usize) -> &[String] {
        &self.pairs[index].captions
    }

    /// The bytes of a pair's picture.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        self.pairs[index].bytes()
    }

    /// The picture's file, where it is one of its own.
    pub fn path(&self, index: usize) -> Option<&Path> {
        match &self.pairs[index].location {
            Location::File(path) => Some(path),
            Location::Tar { .. } => None,
        }
    }

    /// The picture's name in errors.
    pub fn name(&self, index: usize) -> PathBuf {
        self.pairs[index].name()
    }
}

/// What a file is by the ending of its name, in upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One that can be read.
    Image,
    /// One that can't be.
    ForeignPicture,
    /// Captions, line by line.
    Text,
    /// Captions, where the source has them in JSON.
    Json,
    /// Anything else.
    Other,
}

impl Kind {
    /// By an ending without its dot.
    pub(crate) fn of(extension: &str) -> Self {
        match extension.to_ascii_lowercase().as_str() {
            "png" | "apng" | "jpg" | "jpeg" | "jpe" | "jfif" | "webp" | "gif" | "bmp" | "dib"
            | "tif" | "tiff" => Kind::Image,
            "avif" | "heic" | "heif" | "jxl" | "jp2" | "ico" | "tga" | "ppm" | "pgm" | "qoi"
            | "psd" | "svg" | "dng" | "exr" | "hdr" | "cr2" | "nef" | "arw" => Kind::ForeignPicture,
            "txt" => Kind::Text,
            "json" => Kind::Json,
            _ => Kind::Other,
        }
    }
}

/// The captions of a text: its lines that are not empty.
fn lines(text: &str) -> Vec<String> {
    without_mark(text)
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The text after the byte order mark that Windows programs put in front.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The key of a path: relative to `root`, with slashes.
fn key(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

#[cfg(test)]
mod tests;
