//! `index.json`: which CLIP, which pictures, which rows.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::NOBODY;
use super::vectors::{Vectors, damaged};
use crate::error::Reason;
use crate::image::Image;
use crate::rank::{Ranker, numbers};
use crate::text::clip::LongCaption;
use crate::{Error, Result, files};

/// The folder that an index is in, below the folder of its pictures.
pub const FOLDER: &str = ".impasto-index";
/// The manifest's name.
pub(super) const NAME: &str = "index.json";
/// What the manifest's `format` says.
const FORMAT: &str = "impasto-index-1";

/// What the manifest says of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// Which file.
    pub(super) version: u64,
    /// Rows that it has; later ones are compared one by one.
    pub(super) rows: usize,
}

/// The whole of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    /// The folder of pictures, where it is not the one that the index is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    pub(super) clip: Clip,
    /// Which files the rows and the graph are in.
    pub(super) generation: u64,
    /// Rows that are written, those of removed pictures included.
    pub(super) rows: usize,
    pub(super) graph: Option<Head>,
    pub(super) pictures: Vec<Indexed>,
}

/// A picture in the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Indexed {
    /// Below the folder of pictures, or absolute.
    pub(super) path: PathBuf,
    pub(super) row: u32,
    #[serde(flatten)]
    pub(super) stamp: Stamp,
}

/// By what a picture that was changed is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let fail = || Error::io("read", path);
        let metadata = std::fs::metadata(path).map_err(fail())?;
        let modified = metadata.modified().map_err(fail())?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Stamp {
            size: metadata.len(),
            modified: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

/// By what a CLIP is known: what it makes of known words and of a known picture. Another file with the same weights is
/// the same CLIP, another precision or device is, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Its name.
    pub name: String,
    /// Numbers of an embedding.
    pub width: usize,
    words: Vec<f32>,
    picture: Vec<f32>,
}

/// The least cosine of what two precisions of the same weights make of the same thing; other weights are far below.
const SAME: f32 = 0.999;

impl Clip {
    /// Asks the model.
    pub(super) fn of(ranker: &Ranker) -> Result<Self> {
        let words = Self::words(ranker)?;
        Ok(Clip {
            name: ranker.model.name().to_owned(),
            width: words.len(),
            words,
            picture: numbers(ranker.model.embed_pictures(&[gradient()?])?)?,
        })
    }

    fn words(ranker: &Ranker) -> Result<Vec<f32>> {
        let words = ["two red cats on a blue background".to_owned()];
        numbers(ranker.model.embed_texts(&words, LongCaption::Truncate)?)
    }

    fn refuse(&self, ranker: &Ranker, width: usize, folder: &Path) -> Error {
        Error::bad_file(
            folder,
            format!(
                "the pictures were embedded by the CLIP {} ({} numbers), not by {} ({}); search with that one, or build the index again in another place",
                self.name,
                self.width,
                ranker.model.name(),
                width
            ),
        )
    }

    /// Whether words mean the same to `ranker`.
    pub(super) fn check(&self, ranker: &Ranker, folder: &Path) -> Result<()> {
        let words = Self::words(ranker)?;
        if words.len() != self.width || super::vectors::dot(&words, &self.words) < SAME {
            return Err(self.refuse(ranker, words.len(), folder));
        }
        Ok(())
    }

    /// Whether pictures do, too.
    pub(super) fn check_both(&self, ranker: &Ranker, folder: &Path) -> Result<()> {
        self.check(ranker, folder)?;
        let picture = numbers(ranker.model.embed_pictures(&[gradient()?])?)?;
        if super::vectors::dot(&picture, &self.picture) < SAME {
            return Err(self.refuse(ranker, picture.len(), folder));
        }
        Ok(())
    }
}

/// A picture that is the same everywhere.
fn gradient() -> Result<Image> {
    const SIDE: usize = 64;
    let pixels = (0..SIDE * SIDE)
        .flat_map(|at| {
            let (x, y) = ((at % SIDE) as u8, (at / SIDE) as u8);
            [4 * x, 4 * y, 255 - 2 * x - 2 * y]
        })
        .collect();
    Image::new(SIDE, SIDE, pixels)
}

impl Manifest {
    pub(super) fn new(clip: Clip, root: Option<PathBuf>) -> Self {
        Manifest {
            format: FORMAT.into(),
            root,
            clip,
            generation: 0,
            rows: 0,
            graph: None,
            pictures: Vec::new(),
        }
    }

    /// Reads and checks it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let bytes = files::read(&path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::Missing {
                    what: "an index of pictures",
                    path: folder.to_path_buf(),
                    hint: "make one with `impasto index build DIR`".into(),
                }
            }
            error => error,
        })?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| damaged(folder, Reason::because(NAME, e)))?;
        manifest
            .validate()
            .map_err(|reason| damaged(folder, reason))?;
        Ok(manifest)
    }

    /// The rows that it knows.
    pub(super) fn vectors(&self, folder: &Path) -> Result<Vectors> {
        Vectors::open(folder, self.generation, self.clip.width, self.rows)
    }

    fn validate(&self) -> Result<(), Reason> {
        let Clip {
            width,
            words,
            picture,
            ..
        } = &self.clip;
        if self.format != FORMAT {
            return Err(
                format!("{NAME} has the format {:?}, expected {FORMAT}", self.format).into(),
            );
        }
        if *width == 0 || words.len() != *width || picture.len() != *width {
            return Err(format!("{NAME} has no known CLIP").into());
        }
        // A writer leaves less behind; a damaged number must not ask for memory.
        if self.rows > 4 * self.pictures.len() + (1 << 16) {
            return Err(format!(
                "{NAME} has {} rows for {} pictures",
                self.rows,
                self.pictures.len()
            )
            .into());
        }
        if self.graph.is_some_and(|head| head.rows > self.rows) {
            return Err(format!("{NAME} has a graph of more rows than there are").into());
        }
        let mut used = vec![false; self.rows];
        for picture in &self.pictures {
            match used.get_mut(picture.row as usize) {
                Some(used) if !*used => *used = true,
                _ => {
                    return Err(format!(
                        "{NAME} gives {} the row {}, which is another's or not there",
                        picture.path.display(),
                        picture.row
                    )
                    .into());
                }
            }
        }
        Ok(())
    }

    /// The picture of each row.
    pub(super) fn owners(&self) -> Vec<u32> {
        let mut owners = vec![NOBODY; self.rows];
        for (number, picture) in (0..).zip(&self.pictures) {
            owners[picture.row as usize] = number;
        }
        owners
    }

    /// The folder of pictures.
    pub(super) fn root(&self, folder: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.clone(),
            None => files::folder_of(folder).to_path_buf(),
        }
    }

    /// Writes it: what it names has to be there by now.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::invalid("index", Reason::of(e)))?;
        files::write_atomic(folder.join(NAME), &bytes)?;
        files::sync_folder(folder);
        Ok(())
    }
}
