//! Users' pictures with captions: a folder, a JSONL or CSV list, or WebDataset tars.
//!
//! Opening looks at every pair once: pictures that can't be read and pictures without a caption are listed
//! in a [`ScanReport`], never silently dropped.

mod folder;
mod list;
mod tars;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Sample;
use crate::image::Picture;
use crate::{Error, Result};

/// Where the pairs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PairSource {
    /// A folder, with those inside it: `name.png|jpg|jpeg|webp` beside `name.txt`, one caption a line.
    Folder(PathBuf),
    /// One JSON object a line: `{"image": "path", "caption": "text"}`, or `"captions": ["…", "…"]`; paths
    /// count from the file's folder.
    Jsonl(PathBuf),
    /// A table with the columns `image` and `caption`; paths count from the file's folder.
    Csv(PathBuf),
    /// WebDataset tars: `key.png|jpg|jpeg|webp` with `key.txt`, or `key.json` with `caption` or `captions`.
    Tars(Vec<PathBuf>),
}

/// Where a picture's bytes are.
#[derive(Clone, Debug)]
enum Location {
    File(PathBuf),
    /// A stretch of a tar.
    Tar {
        path: PathBuf,
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
    unreadable: Vec<Unreadable>,
}

/// A picture or line that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its name.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// What was found in a source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScanReport {
    /// Pairs that can be used.
    pub usable: usize,
    /// Pictures without a caption.
    pub without_caption: Vec<String>,
    /// Pictures and lines that can't be read.
    pub unreadable: Vec<Unreadable>,
}

impl ScanReport {
    /// Whether everything can be used.
    pub fn is_clean(&self) -> bool {
        self.without_caption.is_empty() && self.unreadable.is_empty()
    }
}

/// Pairs whose pictures have all been looked at.
#[derive(Debug)]
pub struct Pairs {
    pairs: Vec<Pair>,
}

impl PairSource {
    /// Opens the source and looks at every picture. Pairs come in the order of their keys.
    pub fn open(&self) -> Result<(Pairs, ScanReport)> {
        let found = match self {
            PairSource::Folder(path) => folder::read(path)?,
            PairSource::Jsonl(path) => list::read_jsonl(path)?,
            PairSource::Csv(path) => list::read_csv(path)?,
            PairSource::Tars(paths) => tars::read(paths)?,
        };
        let Found {
            mut pairs,
            mut without_caption,
            mut unreadable,
        } = found;
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let looked: Vec<(Pair, Option<Error>)> = pairs
            .into_par_iter()
            .map(|pair| {
                let error = pair.picture().err();
                (pair, error)
            })
            .collect();
        let mut usable = Vec::with_capacity(looked.len());
        for (pair, error) in looked {
            match error {
                None => usable.push(pair),
                Some(error) => unreadable.push(Unreadable {
                    key: pair.key,
                    reason: error.to_string(),
                }),
            }
        }
        without_caption.sort();
        unreadable.sort_by(|a, b| a.key.cmp(&b.key));
        let report = ScanReport {
            usable: usable.len(),
            without_caption,
            unreadable,
        };
        Ok((Pairs { pairs: usable }, report))
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

    /// Reads a pair, its picture cut and scaled to a square of `size` pixels.
    pub fn sample(&self, index: usize, size: usize) -> Result<Sample> {
        let pair = &self.pairs[index];
        Ok(Sample {
            key: pair.key.clone(),
            picture: pair.picture()?.fit_square(size)?,
            captions: pair.captions.clone(),
        })
    }

    /// Indices for training and for validation: about `share` of the pairs, by a hash of their keys, so
    /// that a pair stays on its side when others come and go. One pair at least stays in training.
    pub fn split(&self, share: f64) -> (Vec<usize>, Vec<usize>) {
        let held_out = |pair: &Pair| {
            let digest = Sha256::digest(pair.key.as_bytes());
            let number = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
            f64::from(number) / f64::from(u32::MAX) < share
        };
        let (validation, training): (Vec<usize>, Vec<usize>) =
            (0..self.pairs.len()).partition(|&index| held_out(&self.pairs[index]));
        if training.is_empty() {
            (validation, Vec::new())
        } else {
            (training, validation)
        }
    }
}

impl Pair {
    fn picture(&self) -> Result<Picture> {
        match &self.location {
            Location::File(path) => Picture::open(path),
            Location::Tar {
                path,
                offset,
                length,
            } => Picture::decode(
                &tars::read_at(path, *offset, *length)?,
                path.join(&self.key),
            ),
        }
    }
}

/// Whether a file name ends like a picture's.
fn is_picture(extension: &str) -> bool {
    matches!(
        extension.to_ascii_lowercase().as_str(),
        "png" | "jpg" | "jpeg" | "webp"
    )
}

/// The captions of a text: its lines that are not empty.
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
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
