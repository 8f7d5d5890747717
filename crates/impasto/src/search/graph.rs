//! Which rows are near each other: a graph along which the nearest rows are found without looking at all.
//!
//! Vamana (Subramanya et al. 2019, "DiskANN", algorithms 1 to 3): every row points to some `ROOM` others, chosen so
//! that each step of a greedy walk comes nearer by a factor. Rows are added in batches: each looks for its neighbours in
//! the graph without the batch (Dobson et al. 2023, "ParlayANN", section 3.1). Rows that are removed stay as signposts
//! until there are many; then their neighbours take over their neighbours (Singh et al. 2021, "FreshDiskANN", algorithm
//! 4). Nothing depends on the number of threads.
//!
//! Deviation: a walk does not begin in the middle of all rows but at the nearest of some that lie evenly among them, as on
//! a higher layer of HNSW (Malkov and Yashunin 2016): pictures lie in clusters between which few links lead, and words lie
//! apart from all pictures.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::exact::best;
use super::manifest::Head;
use super::vectors::{Vectors, damaged, dot};
use super::{NOBODY, Stored};
use crate::{Result, files};

/// Most neighbours of a row.
const ROOM: usize = 48;
/// Neighbours that are left of too many: room for the next ones, so that not each of them is a new choice.
const KEPT: usize = 32;
/// Candidates of the walk when a row is added.
const BUILD_BEAM: usize = 96;
/// Candidates of the walk in a search, at least.
const SEARCH_BEAM: usize = 128;
/// A neighbour is left out if another one is nearer to it by this factor than the row is: below 1 / 1, so that
/// there are long ways, too.
const STRETCH: f32 = 1.2;
/// Rows among which a walk looks for its start.
const POSTS: usize = 2048;
/// With how many of them it begins.
const STARTS: usize = 16;
/// Most rows that are added at once.
const BATCH: usize = 256;

/// The neighbours of each row.
#[derive(Clone, Debug)]
pub struct Graph {
    /// `[rows][ROOM]`, [`NOBODY`] after the last.
    neighbours: Stored<u32>,
}

/// What a walk found.
struct Walk {
    /// The nearest ones with their distances, the nearest first.
    beam: Vec<(f32, u32)>,
    /// All whose neighbours were looked at.
    passed: Vec<(f32, u32)>,
}

/// A bit for each row.
struct Seen(Vec<u64>);

impl Seen {
    /// Whether the row is new.
    fn insert(&mut self, row: u32) -> bool {
        let (word, bit) = (&mut self.0[row as usize / 64], 1 << (row % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// Smaller for nearer rows.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    1.0 - dot(a, b)
}

impl Graph {
    /// A graph of no rows.
    pub(super) fn new() -> Self {
        Graph {
            neighbours: Stored::Copied(Vec::new()),
        }
    }

    /// The file that the manifest names.
    pub(super) fn open(folder: &Path, head: &Head) -> Result<Self> {
        let rows = head.rows;
        let path = path(folder, head.version);
        let bytes = files::map(&path)?;
        let expected = rows.saturating_mul(ROOM * size_of::<u32>());
        if bytes.len() != expected {
            let reason = format!(
                "{} has {} bytes, expected {expected} for {rows} rows",
                path.display(),
                bytes.len()
            );
            return Err(damaged(folder, reason));
        }
        Ok(Graph {
            neighbours: Stored::of(bytes),
        })
    }

    /// Writes it, and returns what the manifest is to say.
    pub(super) fn write(&self, folder: &Path, version: u64) -> Result<Head> {
        files::write_atomic(
            path(folder, version),
            bytemuck::cast_slice(&self.neighbours),
        )?;
        Ok(Head {
            version,
            rows: self.len(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.neighbours.len() / ROOM
    }

    /// Those of a row. A damaged file may name rows that are not there.
    fn of(&self, row: u32) -> impl Iterator<Item = u32> {
        let rows = self.len();
        let start = row as usize * ROOM;
        self.neighbours[start..start + ROOM]
            .iter()
            .copied()
            .take_while(|&neighbour| neighbour != NOBODY)
            .filter(move |&neighbour| (neighbour as usize) < rows)
    }

    fn set(&mut self, row: u32, chosen: &[u32]) {
        let start = row as usize * ROOM;
        let place = &mut self.neighbours.to_mut()[start..start + ROOM];
        place.fill(NOBODY);
        place[..chosen.len()].copy_from_slice(chosen);
    }

    /// Walks towards `query` with this many candidates (algorithm 1).
    fn walk(&self, vectors: &Vectors, query: &[f32], beam_width: usize) -> Walk {
        let at = |row: u32| distance(vectors.row(row as usize), query);
        let mut seen = Seen(vec![0; self.len().div_ceil(64)]);
        let posts = (0..self.len() as u32).step_by(self.len().div_ceil(POSTS).max(1));
        let mut beam: Vec<(f32, u32)> = posts.map(|row| (at(row), row)).collect();
        beam.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        beam.truncate(STARTS);
        // With whether its neighbours were looked at.
        let mut beam: Vec<(f32, u32, bool)> = beam
            .into_iter()
            .filter(|&(_, row)| seen.insert(row))
            .map(|(far, row)| (far, row, false))
            .collect();
        let mut passed = Vec::new();
        while let Some(next) = beam.iter().position(|&(_, _, done)| !done) {
            beam[next].2 = true;
            let (near, row, _) = beam[next];
            passed.push((near, row));
            for neighbour in self.of(row) {
                if !seen.insert(neighbour) {
                    continue;
                }
                let far = at(neighbour);
                let place = beam.partition_point(|&(known, other, _)| {
                    known.total_cmp(&far).then(other.cmp(&neighbour)).is_lt()
                });
                if place < beam_width {
                    beam.truncate(beam_width - 1);
                    beam.insert(place, (far, neighbour, false));
                }
            }
        }
        Walk {
            beam: beam.into_iter().map(|(far, row, _)| (far, row)).collect(),
            passed,
        }
    }

    /// The `count` rows near `query` among those that are `alive`, with their cosines, the nearest first.
    pub(super) fn search(
        &self,
        vectors: &Vectors,
        query: &[f32],
        count: usize,
        alive: &(dyn Fn(usize) -> bool + Sync),
    ) -> Vec<(f32, usize)> {
        if self.len() == 0 {
            return Vec::new();
        }
        let walk = self.walk(vectors, query, SEARCH_BEAM.max(2 * count));
        let found = walk
            .beam
            .into_iter()
            .chain(walk.passed)
            .map(|(far, row)| (1.0 - far, row as usize))
            .filter(|&(_, row)| alive(row));
        let mut found: Vec<(f32, usize)> = found.collect();
        found.sort_unstable_by_key(|&(_, row)| row);
        found.dedup_by_key(|&mut (_, row)| row);
        best(found, count)
    }

    /// Adds the rows that the graph does not have yet (algorithm 3, in batches), until `progress` stops it.
    pub(super) fn extend(
        &mut self,
        vectors: &Vectors,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) {
        while self.len() < vectors.len() {
            let (first, batch) = (self.len(), BATCH.min(self.len() / 32 + 1));
            let end = vectors.len().min(first + batch);
            let rows = first as u32..end as u32;
            let chosen: Vec<Vec<u32>> = rows
                .clone()
                .into_par_iter()
                .map(|row| {
                    if first == 0 {
                        return Vec::new();
                    }
                    let walk = self.walk(vectors, vectors.row(row as usize), BUILD_BEAM);
                    let candidates = walk.passed.into_iter().chain(walk.beam).collect();
                    choose(vectors, candidates, KEPT)
                })
                .collect();
            let room = self.neighbours.to_mut();
            room.resize(end * ROOM, NOBODY);
            let mut back: Vec<(u32, u32)> = Vec::new();
            for (row, chosen) in rows.zip(&chosen) {
                self.set(row, chosen);
                back.extend(chosen.iter().map(|&neighbour| (neighbour, row)));
            }
            self.link(vectors, back);
            if progress(self.len()).is_break() {
                return;
            }
        }
    }

    /// Adds neighbours `(of, row)`; where there is no room left, they are chosen anew.
    fn link(&mut self, vectors: &Vectors, mut pairs: Vec<(u32, u32)>) {
        pairs.sort_unstable();
        let linked: Vec<(u32, Vec<u32>)> = pairs
            .chunk_by(|a, b| a.0 == b.0)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|pairs| {
                let row = pairs[0].0;
                let mut all: Vec<u32> = self.of(row).collect();
                for &(_, neighbour) in pairs {
                    if !all.contains(&neighbour) {
                        all.push(neighbour);
                    }
                }
                if all.len() > ROOM {
                    all = self.choose_of(vectors, row, all);
                }
                (row, all)
            })
            .collect();
        for (row, all) in linked {
            self.set(row, &all);
        }
    }

    fn choose_of(&self, vectors: &Vectors, row: u32, candidates: Vec<u32>) -> Vec<u32> {
        let here = vectors.row(row as usize);
        let candidates = candidates
            .into_iter()
            .filter(|&candidate| candidate != row)
            .map(|candidate| (distance(vectors.row(candidate as usize), here), candidate))
            .collect();
        choose(vectors, candidates, KEPT)
    }

    /// Takes the rows that are not `alive` out of all walks: who pointed to one points to those that it pointed to.
    pub(super) fn bypass(&mut self, vectors: &Vectors, alive: &(dyn Fn(usize) -> bool + Sync)) {
        let rows = 0..self.len() as u32;
        let changed: Vec<(u32, Vec<u32>)> = rows
            .into_par_iter()
            .filter(|&row| alive(row as usize))
            .filter_map(|row| {
                let (kept, gone): (Vec<u32>, Vec<u32>) = self
                    .of(row)
                    .partition(|&neighbour| alive(neighbour as usize));
                if gone.is_empty() {
                    return None;
                }
                let heirs = gone.iter().flat_map(|&neighbour| self.of(neighbour));
                let mut all: Vec<u32> = kept;
                all.extend(heirs.filter(|&heir| heir != row && alive(heir as usize)));
                all.sort_unstable();
                all.dedup();
                if all.len() > ROOM {
                    all = self.choose_of(vectors, row, all);
                }
                Some((row, all))
            })
            .collect();
        for (row, all) in changed {
            self.set(row, &all);
        }
    }

    /// The graph of the rows that have a new number, in ascending order; none of them points to another one.
    pub(super) fn renumbered(&self, numbers: &[u32]) -> Self {
        let new = |row: u32| numbers.get(row as usize).copied().unwrap_or(NOBODY);
        let mut neighbours = Vec::new();
        for row in (0..self.len() as u32).filter(|&row| new(row) != NOBODY) {
            let start = neighbours.len();
            let kept = self.of(row).map(new).filter(|&row| row != NOBODY);
            neighbours.extend(kept);
            neighbours.resize(start + ROOM, NOBODY);
        }
        Graph {
            neighbours: Stored::Copied(neighbours),
        }
    }
}

/// Of candidates with their distances, those to point to: first those that no nearer chosen one is nearer to than the
/// row is, which lead away in all directions, then, while there is room, those that none is nearer to by a factor
/// (algorithm 2, with the stretch raised in steps as the authors' program does).
fn choose(vectors: &Vectors, mut candidates: Vec<(f32, u32)>, most: usize) -> Vec<u32> {
    candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    candidates.dedup_by_key(|&mut (_, row)| row);
    let mut chosen: Vec<u32> = Vec::with_capacity(most);
    for stretch in [1.0, STRETCH] {
        for &(far, row) in &candidates {
            let here = vectors.row(row as usize);
            let stands_for = |&other: &u32| {
                other == row || stretch * distance(vectors.row(other as usize), here) <= far
            };
            if chosen.len() < most && !chosen.iter().any(stands_for) {
                chosen.push(row);
            }
        }
    }
    chosen
}

/// The file's place.
pub(super) fn path(folder: &Path, version: u64) -> PathBuf {
    folder.join(format!("graph-{version}.u32"))
}
