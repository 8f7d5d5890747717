//! Adding to an index, and removing from it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::graph::{self, Graph};
use super::manifest::{Clip, FOLDER, Indexed, Manifest, NAME, Stamp};
use super::vectors::{self, Vectors};
use super::{EXACT, LeftOut, Listing, NOBODY};
use crate::error::Hint;
use crate::files::{self, FolderLock};
use crate::image::Image;
use crate::observer::{Event as Observed, IndexEvent as Event, NoObserver, Observer};
use crate::rank::{Ranker, numbers};
use crate::{Error, Result};

/// Pictures that are read and embedded at once.
const BATCH: usize = 64;
/// After so long what is done is written down.
const STEP: Duration = Duration::from_secs(20);
/// Rows without a picture that are tolerated by default.
const SLACK: usize = 1024;

/// An index that is written; nobody else writes it meanwhile.
#[derive(Debug)]
pub struct Writer<'a> {
    folder: PathBuf,
    root: PathBuf,
    ranker: &'a Ranker,
    manifest: Manifest,
    vectors: Vectors,
    owners: Vec<u32>,
    graph: Option<Graph>,
    /// Each picture's place in the manifest.
    places: HashMap<PathBuf, usize>,
    /// Pictures from which on there is a graph.
    exact: usize,
    /// Rows without a picture that are always borne.
    slack: usize,
    /// Removed since the graph was last freed of them.
    removed: usize,
    changed: bool,
    _lock: FolderLock,
}

/// What became of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New pictures.
    pub added: usize,
    /// Pictures that were embedded again, as their files changed.
    pub changed: usize,
    /// Pictures that are no longer there.
    pub removed: usize,
    /// Pictures whose files are as they were.
    pub unchanged: usize,
    /// Files that are no pictures that can be read, and folders that can't be.
    pub skipped: usize,
}

impl<'a> Writer<'a> {
    /// Opens or makes the index in `folder` of the pictures below `root`.
    ///
    /// # Errors
    /// If another writer has it open, if its pictures were embedded by another CLIP or lie elsewhere, if it is damaged.
    pub fn open(folder: &Path, root: &Path, ranker: &'a Ranker) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let lock = files::lock(folder)?.ok_or_else(|| {
            let reason = "is being written by another process; wait until it is done";
            Error::bad_file(folder, reason)
        })?;
        files::clear_stale(folder);
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
        let root = absolute(root)?;
        if root.to_str().is_none() {
            let reason = "its name is not UTF-8, which an index can't hold; rename it";
            return Err(Error::bad_file(&root, reason));
        }
        let manifest = if folder.join(NAME).exists() {
            let manifest = Manifest::open(folder)?;
            manifest.clip.check_both(ranker, folder)?;
            let known = absolute(&manifest.root(folder))?;
            if known != root {
                let reason = format!(
                    "is the index of {}, not of {}",
                    known.display(),
                    root.display()
                );
                return Err(Error::bad_file(folder, reason).with_hint(Hint::OtherIndex));
            }
            manifest
        } else {
            // Beside its pictures it may move with them.
            let beside = absolute(folder)? == root.join(FOLDER);
            Manifest::new(Clip::of(ranker)?, (!beside).then(|| root.clone()))
        };
        let graph = manifest
            .graph
            .as_ref()
            .map(|head| Graph::open(folder, head))
            .transpose()?;
        clear_unnamed(folder, &manifest);
        let places = manifest.pictures.iter().enumerate();
        Ok(Writer {
            folder: folder.to_path_buf(),
            root,
            ranker,
            vectors: manifest.vectors(folder)?,
            owners: manifest.owners(),
            graph,
            places: places
                .map(|(place, picture)| (picture.path.clone(), place))
                .collect(),
            removed: manifest.rows - manifest.pictures.len(),
            manifest,
            exact: EXACT,
            slack: SLACK,
            changed: false,
            _lock: lock,
        })
    }

    /// From how many pictures on there is a graph; [`EXACT`] by default.
    #[must_use]
    pub fn graph_above(mut self, pictures: usize) -> Self {
        self.exact = pictures;
        self
    }

    /// This many rows of removed pictures are left in the files before these are written anew.
    #[must_use]
    pub fn slack(mut self, rows: usize) -> Self {
        self.slack = rows;
        self
    }

    /// How a picture is called in the index.
    fn key(&self, path: &Path) -> Result<PathBuf> {
        let absolute = std::path::absolute(path).map_err(Error::io("find", path))?;
        Ok(match absolute.strip_prefix(&self.root) {
            Ok(below) => below.to_path_buf(),
            Err(_) => absolute,
        })
    }

    /// Makes the index that of exactly these pictures: new and changed ones are embedded, others are taken out of it.
    /// Pictures in folders that can't be read stay as they are.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `observer` says so, after what is done was written down.
    pub fn update(&mut self, listing: &Listing, observer: &mut dyn Observer) -> Result<Changes> {
        let pictures = &listing.pictures;
        let mut wanted = Vec::with_capacity(pictures.len());
        for path in pictures {
            wanted.push(self.key(path)?);
        }
        let mut unknown = Vec::with_capacity(listing.folders.len());
        for folder in &listing.folders {
            unknown.push(self.key(folder)?);
        }
        for LeftOut { path, reason } in &listing.left_out {
            let error = Error::bad_file(path, &reason[..]);
            let _ = observer.event(&Observed::Index(Event::Skipped(path, &error)));
        }
        let wanted: std::collections::HashSet<PathBuf> = wanted.into_iter().collect();
        let gone: Vec<PathBuf> = self
            .places
            .keys()
            .filter(|path| !wanted.contains(*path))
            .filter(|path| !unknown.iter().any(|folder| path.starts_with(folder)))
            // Those from elsewhere were added one by one.
            .filter(|path| path.is_relative() || !path.exists())
            .cloned()
            .collect();
        let removed = gone.iter().filter(|path| self.forget(path)).count();
        let changes = self.add(pictures, observer)?;
        Ok(Changes {
            removed,
            skipped: changes.skipped + listing.left_out.len(),
            ..changes
        })
    }

    /// Embeds the new and the changed ones of these pictures.
    ///
    /// # Errors
    /// See [`Self::update`].
    pub fn add(&mut self, pictures: &[PathBuf], observer: &mut dyn Observer) -> Result<Changes> {
        let mut changes = Changes::default();
        let mut waiting = Vec::new();
        for path in pictures {
            let key = self.key(path)?;
            let stamp = match Stamp::of(path) {
                Ok(stamp) if key.to_str().is_some() => stamp,
                other => {
                    let reason = "its name is not UTF-8, which an index can't hold; rename it";
                    let error = other.err().unwrap_or_else(|| Error::bad_file(path, reason));
                    changes.skipped += 1;
                    let _ = observer.event(&Observed::Index(Event::Skipped(path, &error)));
                    continue;
                }
            };
            let known = self
                .places
                .get(&key)
                .map(|&place| &self.manifest.pictures[place]);
            if known.is_some_and(|known| known.stamp == stamp) {
                changes.unchanged += 1;
            } else {
                waiting.push((path, key, stamp));
            }
        }
        let mut last = Instant::now();
        for (number, batch) in waiting.chunks(BATCH).enumerate() {
            let read: Vec<Result<Image>> = batch
                .par_iter()
                .map(|(path, _, _)| Image::open(path))
                .collect();
            let mut opened = Vec::with_capacity(batch.len());
            let mut found = Vec::with_capacity(batch.len());
            for ((path, key, stamp), picture) in batch.iter().zip(read) {
                match picture {
                    Ok(picture) => {
                        opened.push(picture);
                        found.push((key, *stamp));
                    }
                    Err(error) => {
                        changes.skipped += 1;
                        // A file that can't be read any more is no longer what the index knows.
                        self.forget(key);
                        let _ = observer.event(&Observed::Index(Event::Skipped(path, &error)));
                    }
                }
            }
            if !opened.is_empty() {
                let rows = numbers(self.ranker.model.embed_pictures(&opened)?)?;
                let rows = rows.chunks_exact(self.manifest.clip.width);
                for ((key, stamp), row) in found.into_iter().zip(rows) {
                    if self.forget(key) {
                        changes.changed += 1;
                    } else {
                        changes.added += 1;
                    }
                    self.remember(key, stamp, row)?;
                }
            }
            let done = (number * BATCH + batch.len()).min(waiting.len());
            let flow = observer.event(&Observed::Index(Event::Embedded(done, waiting.len())));
            if flow.is_break() || last.elapsed() >= STEP {
                self.write(observer)?;
                last = Instant::now();
            }
            if flow.is_break() {
                return Err(Error::Stopped);
            }
        }
        self.write(observer)?;
        Ok(changes)
    }

    /// Takes pictures out of the index; the files are left alone. Returns how many were in it.
    pub fn remove(&mut self, pictures: &[PathBuf]) -> Result<usize> {
        let mut removed = 0;
        for path in pictures {
            let key = self.key(path)?;
            removed += usize::from(self.forget(&key));
        }
        self.write(&mut NoObserver)?;
        Ok(removed)
    }

    fn remember(&mut self, key: &Path, stamp: Stamp, row: &[f32]) -> Result<()> {
        if row.iter().any(|x| !x.is_finite()) {
            return Err(Error::NonFinite {
                what: "embedding",
                detail: format!("of {}", key.display()),
            });
        }
        let row = self.vectors.push(row);
        let number = u32::try_from(row).ok().filter(|&row| row != NOBODY);
        let row = number.ok_or_else(|| Error::invalid("index", "is full: it has 2³² rows"))?;
        let place = self.manifest.pictures.len();
        self.owners.push(place as u32);
        self.places.insert(key.to_path_buf(), place);
        self.manifest.pictures.push(Indexed {
            path: key.to_path_buf(),
            row,
            stamp,
        });
        self.changed = true;
        Ok(())
    }

    /// Whether the picture was known.
    fn forget(&mut self, key: &Path) -> bool {
        let Some(place) = self.places.remove(key) else {
            return false;
        };
        let gone = self.manifest.pictures.swap_remove(place);
        self.owners[gone.row as usize] = NOBODY;
        if let Some(moved) = self.manifest.pictures.get(place) {
            self.owners[moved.row as usize] = place as u32;
            self.places.insert(moved.path.clone(), place);
        }
        self.removed += 1;
        self.changed = true;
        true
    }

    /// Writes down what was done; the error of a stop comes after that.
    fn write(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let fresh = !self.folder.join(NAME).exists();
        if !self.changed && !fresh {
            return Ok(());
        }
        let before = (self.manifest.generation, self.manifest.graph);
        let alive = self.manifest.pictures.len();
        if self.vectors.len() - alive > alive.max(self.slack) {
            self.compact();
        }
        self.vectors.write(&self.folder, self.manifest.generation)?;
        self.manifest.rows = self.vectors.len();
        let mut flow = ControlFlow::Continue(());
        if self.graph.is_some() || alive > self.exact {
            flow = self.link(observer)?;
        }
        self.manifest.write(&self.folder)?;
        self.changed = false;
        let (generation, head) = before;
        if generation != self.manifest.generation {
            let _ = std::fs::remove_file(vectors::path(&self.folder, generation));
        }
        if let Some(head) = head.filter(|head| Some(*head) != self.manifest.graph) {
            let _ = std::fs::remove_file(graph::path(&self.folder, head.version));
        }
        match flow {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn link(&mut self, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        let mut graph = self.graph.take().unwrap_or_else(Graph::new);
        let (first, rows) = (graph.len(), self.vectors.len());
        let mut flow = ControlFlow::Continue(());
        graph.extend(&self.vectors, &mut |done| {
            let linked = Event::Linked(done - first, rows - first);
            flow = observer.event(&Observed::Index(linked));
            flow
        });
        // Signposts cost a search their time.
        if flow.is_continue() && self.removed > rows / 8 {
            let owners = &self.owners;
            graph.bypass(&self.vectors, &|row| owners[row] != NOBODY);
            self.removed = 0;
        }
        let version = self.manifest.graph.map_or(0, |head| head.version + 1);
        self.manifest.graph = Some(graph.write(&self.folder, version)?);
        self.graph = Some(graph);
        Ok(flow)
    }

    /// Leaves out the rows of removed pictures, in a new file.
    fn compact(&mut self) {
        if let Some(graph) = &mut self.graph {
            let owners = &self.owners;
            graph.extend(&self.vectors, &mut |_| ControlFlow::Continue(()));
            graph.bypass(&self.vectors, &|row| owners[row] != NOBODY);
        }
        let mut kept = Vectors::new(self.manifest.clip.width);
        let mut numbers = vec![NOBODY; self.owners.len()];
        let mut owners = Vec::with_capacity(self.manifest.pictures.len());
        for (row, &owner) in self.owners.iter().enumerate() {
            if owner != NOBODY {
                let number = kept.push(self.vectors.row(row)) as u32;
                numbers[row] = number;
                owners.push(owner);
                self.manifest.pictures[owner as usize].row = number;
            }
        }
        self.graph = self.graph.as_ref().map(|graph| graph.renumbered(&numbers));
        (self.vectors, self.owners) = (kept, owners);
        self.manifest.generation += 1;
        self.removed = 0;
    }
}

/// Removes rows and graphs that the manifest does not name: a writer that was killed between writing the manifest and
/// removing what it replaced left them, or one that was killed before it wrote the manifest.
fn clear_unnamed(folder: &Path, manifest: &Manifest) {
    let rows = vectors::path(folder, manifest.generation);
    let graph = manifest.graph.map(|head| graph::path(folder, head.version));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_part = |start: &str, end: &str| {
            name.strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end))
                .is_some_and(|number| number.parse::<u64>().is_ok())
        };
        let is_ours = is_part("rows-", ".f32") || is_part("graph-", ".u32");
        if is_ours && path != rows && Some(&path) != graph.as_ref() {
            let _ = std::fs::remove_file(path);
        }
    }
}
