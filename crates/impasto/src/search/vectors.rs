//! Embeddings, row by row: those of the file, and those that are not written yet.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Stored;
use crate::error::Reason;
use crate::{Error, Result, files};

/// Unwritten rows from which on they are taken from the file again once they are written.
const REMAP: usize = 1 << 15;

/// What is said of every kind of damage.
pub(super) fn damaged(folder: &Path, reason: impl Into<Reason>) -> Error {
    let reason = Reason::because("the index is damaged", reason.into());
    Error::bad_file(folder, reason).with_hint("remove this folder and build the index again".into())
}

/// Rows of `width` numbers each.
#[derive(Debug)]
pub(super) struct Vectors {
    width: usize,
    stored: Stored<f32>,
    /// Behind those of the file; some of them may be in the file by now.
    fresh: Vec<f32>,
    /// Rows of the file.
    written: usize,
}

impl Vectors {
    pub(super) fn new(width: usize) -> Self {
        Vectors {
            width,
            stored: Stored::Copied(Vec::new()),
            fresh: Vec::new(),
            written: 0,
        }
    }

    /// The first `rows` of a generation.
    pub(super) fn open(folder: &Path, generation: u64, width: usize, rows: usize) -> Result<Self> {
        let mut vectors = Self::new(width);
        if rows > 0 {
            vectors.map(&path(folder, generation), rows, folder)?;
        }
        Ok(vectors)
    }

    fn map(&mut self, path: &Path, rows: usize, folder: &Path) -> Result<()> {
        let bytes = files::map(path)?;
        let expected = rows
            .checked_mul(self.width)
            .and_then(|numbers| numbers.checked_mul(size_of::<f32>()));
        // What is after the last known row was left by a writer that was killed.
        let known = match (bytes, expected) {
            (bytes, Some(length)) if length <= bytes.len() => bytes.slice(..length),
            (bytes, _) => {
                let reason = format!(
                    "{} has {} bytes, too few for {rows} rows of {} numbers",
                    path.display(),
                    bytes.len(),
                    self.width
                );
                return Err(damaged(folder, reason));
            }
        };
        self.stored = Stored::of(known);
        self.fresh.clear();
        self.written = rows;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        (self.stored.len() + self.fresh.len()) / self.width
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        let start = row * self.width;
        match start.checked_sub(self.stored.len()) {
            None => &self.stored[start..start + self.width],
            Some(start) => &self.fresh[start..start + self.width],
        }
    }

    /// Appends a row, and returns its number.
    pub(super) fn push(&mut self, row: &[f32]) -> usize {
        self.fresh.extend_from_slice(row);
        self.len() - 1
    }

    /// Appends what is not in the file yet.
    pub(super) fn write(&mut self, folder: &Path, generation: u64) -> Result<()> {
        let path = path(folder, generation);
        let fail = || Error::io("write", &path);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail())?;
        // Behind the last row that a finished step wrote; readers don't look there.
        let start = (self.written * self.width * size_of::<f32>()) as u64;
        file.set_len(start).map_err(fail())?;
        file.seek(SeekFrom::Start(start)).map_err(fail())?;
        let unwritten = &self.fresh[self.written * self.width - self.stored.len()..];
        let written = file
            .write_all(bytemuck::cast_slice(unwritten))
            .and_then(|()| file.sync_data());
        if let Err(e) = written {
            // A full disk is not kept full by rows that nobody reads.
            let _ = file.set_len(start);
            return Err(fail()(e));
        }
        self.written = self.len();
        if self.fresh.len() / self.width >= REMAP {
            self.map(&path, self.written, folder)?;
        }
        Ok(())
    }
}

/// The file's place.
pub(super) fn path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("rows-{generation}.f32"))
}

/// The cosine of two rows of length one. In chains side by side, which the compiler turns into registers.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const CHAINS: usize = 32;
    let (mut sums, (a, a_rest), (b, b_rest)) = (
        [0.0f32; CHAINS],
        a.as_chunks::<CHAINS>(),
        b.as_chunks::<CHAINS>(),
    );
    for (a, b) in a.iter().zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
