//! A folder of pictures that is searched by words and by pictures.
//!
//! An index is a folder with three kinds of files: `index.json` says which CLIP embedded the pictures, and which
//! picture has which row; `rows-N.f32` has the embeddings, of length one; `graph-N.u32`, there from this many pictures on,
//! says which rows are near each other (`graph.rs`). Rows are only ever appended after those that `index.json` knows,
//! everything else is replaced whole, `index.json` last: whoever opens an index while it is written, or after a writer was
//! killed, finds it as it was at the last step that was finished.
//!
//! Up to [`EXACT`] pictures every row is compared with the query; from then on the graph leads to the nearest ones.

mod exact;
mod graph;
mod listing;
mod manifest;
mod vectors;
mod writer;

use std::path::{Path, PathBuf};

use serde::Serialize;

use bytes::Bytes;

use crate::rank::{Ranker, numbers};
use crate::text::clip::LongCaption;
use crate::{Error, Result};
use graph::Graph;
use manifest::Manifest;
use vectors::Vectors;

pub use listing::{LeftOut, Listing, pictures_below};
pub use manifest::{Clip, FOLDER};
pub use writer::{Changes, Writer};

/// Pictures up to which a search compares the query with each of them.
pub const EXACT: usize = 100_000;

/// An index, opened for searching.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    manifest: Manifest,
    vectors: Vectors,
    /// The picture of each row; rows without one were removed.
    owners: Vec<u32>,
    graph: Option<Graph>,
}

/// A row without a picture.
const NOBODY: u32 = u32::MAX;

/// A picture that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Where it is: below the folder that was indexed, or absolute.
    #[serde(serialize_with = "crate::files::lossy")]
    pub path: PathBuf,
    /// The cosine with the query, −1 to 1.
    pub score: f32,
}

impl Index {
    /// Opens the index in `folder`.
    ///
    /// # Errors
    /// Where there is none, and where its files are damaged or don't fit each other.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut tries = 3;
        loop {
            let found = Self::open_once(folder);
            tries -= 1;
            // A writer may have replaced what the manifest named between our reading this and opening that.
            match &found {
                Err(Error::Io { source, path, .. })
                    if tries > 0
                        && source.kind() == std::io::ErrorKind::NotFound
                        && !path.ends_with(manifest::NAME) => {}
                _ => return found,
            }
        }
    }

    fn open_once(folder: &Path) -> Result<Self> {
        let manifest = Manifest::open(folder)?;
        let vectors = manifest.vectors(folder)?;
        let graph = match &manifest.graph {
            Some(head) => Some(Graph::open(folder, head)?),
            None => None,
        };
        Ok(Index {
            folder: folder.to_path_buf(),
            owners: manifest.owners(),
            manifest,
            vectors,
            graph,
        })
    }

    /// How many pictures are in it.
    pub fn len(&self) -> usize {
        self.manifest.pictures.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.manifest.pictures.is_empty()
    }

    /// The CLIP that embedded them.
    pub fn clip(&self) -> &Clip {
        &self.manifest.clip
    }

    /// Whether a search goes along a graph.
    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// The folder whose pictures it has.
    pub fn root(&self) -> PathBuf {
        self.manifest.root(&self.folder)
    }

    /// Whether queries of this CLIP mean the same as the embeddings in the index.
    pub fn check(&self, ranker: &Ranker) -> Result<()> {
        self.manifest.clip.check(ranker, &self.folder)
    }

    /// The `count` pictures nearest to an embedding of length one, the nearest first; equal ones as they were added.
    pub fn search(&self, query: &[f32], count: usize) -> Result<Vec<Hit>> {
        let width = self.manifest.clip.width;
        if query.len() != width {
            let reason = format!("has {} numbers, expected {width}", query.len());
            return Err(Error::invalid("query", reason));
        }
        let alive = |row: usize| self.owners.get(row).is_some_and(|&owner| owner != NOBODY);
        let rows = self.vectors.len();
        let (mut nearest, linked) = match &self.graph {
            Some(graph) => {
                let found = graph.search(&self.vectors, query, count, &alive);
                (found, graph.len())
            }
            None => (Vec::new(), 0),
        };
        let rest = exact::search(&self.vectors, linked..rows, query, count, &alive);
        nearest.extend(rest);
        let nearest = exact::best(nearest, count);
        nearest
            .into_iter()
            .map(|(score, row)| {
                if !score.is_finite() {
                    return Err(vectors::damaged(&self.folder, "a row is not a number"));
                }
                let picture = &self.manifest.pictures[self.owners[row] as usize];
                Ok(Hit {
                    path: self.root().join(&picture.path),
                    score,
                })
            })
            .collect()
    }

    /// [`Self::search`] by words.
    pub fn search_text(
        &self,
        ranker: &Ranker,
        words: &str,
        long: LongCaption,
        count: usize,
    ) -> Result<Vec<Hit>> {
        let query = numbers(ranker.model.embed_texts(&[words.to_owned()], long)?)?;
        self.search(&query, count)
    }

    /// [`Self::search`] by a picture.
    pub fn search_picture(
        &self,
        ranker: &Ranker,
        picture: &crate::image::Image,
        count: usize,
    ) -> Result<Vec<Hit>> {
        let query = numbers(ranker.model.embed_pictures(std::slice::from_ref(picture))?)?;
        self.search(&query, count)
    }
}

/// Little-endian numbers of four bytes in a file's bytes, in place where they lie as the processor wants them.
#[derive(Clone, Debug)]
enum Stored<T> {
    InPlace(Bytes),
    Copied(Vec<T>),
}

impl<T: bytemuck::Pod> Stored<T> {
    fn of(bytes: Bytes) -> Self {
        match bytemuck::try_cast_slice::<u8, T>(&bytes) {
            Ok(_) => Stored::InPlace(bytes),
            Err(_) => Stored::Copied(bytemuck::pod_collect_to_vec(&bytes)),
        }
    }

    fn to_mut(&mut self) -> &mut Vec<T> {
        if let Stored::InPlace(bytes) = self {
            *self = Stored::Copied(bytemuck::pod_collect_to_vec(bytes));
        }
        match self {
            Stored::Copied(numbers) => numbers,
            Stored::InPlace(_) => unreachable!("copied above"),
        }
    }
}

impl<T: bytemuck::Pod> std::ops::Deref for Stored<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            // Checked when it was made.
            Stored::InPlace(bytes) => bytemuck::cast_slice(bytes),
            Stored::Copied(numbers) => numbers,
        }
    }
}

#[cfg(test)]
mod tests;
