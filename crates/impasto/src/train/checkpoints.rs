//! Training checkpoints: directories `step-00001000` that appear whole or not at all.
//!
//! A checkpoint is written under a temporary name, its files synced, and renamed; the oldest ones are
//! removed after that. What a killed run leaves behind is at most a temporary directory, which is removed
//! by the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::weights::{self, LazyTensor};
use crate::error::Reason;
use crate::models::parameters::Parameters;
use crate::{Error, Result, files};

/// Everything of a run at one step, as it was read.
pub struct Snapshot {
    /// Steps done.
    pub step: u64,
    /// Tensors by file: "model", "ema", "first", "second", and what the task adds.
    pub tensors: BTreeMap<String, Parameters>,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    files: Vec<String>,
}

const FOLDER: &str = "checkpoints";
const PREFIX: &str = "step-";
const TEMPORARY: &str = ".writing-";

/// The checkpoints of one run.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Those under `run_dir`, of which the last `keep` stay.
    pub fn open(run_dir: &Path, keep: usize) -> Result<Self> {
        let dir = run_dir.join(FOLDER);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        for entry in fs::read_dir(&dir)
            .map_err(Error::io("read", &dir))?
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                // A leftover of a killed run; if it can't be removed, it is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Checkpoints { dir, keep })
    }

    /// Steps and directories of the whole checkpoints, oldest first.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        Self::list_dir(&self.dir)
    }

    /// [`Self::list`] of a run that may have none yet.
    pub fn list_in(run_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
        let dir = run_dir.join(FOLDER);
        match dir.exists() {
            true => Self::list_dir(&dir),
            false => Ok(Vec::new()),
        }
    }

    fn list_dir(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))?.flatten() {
            let name = entry.file_name();
            let step = name
                .to_string_lossy()
                .strip_prefix(PREFIX)
                .and_then(|step| step.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest one that can be read; `damaged` hears of those that are passed over for it.
    ///
    /// # Errors
    /// If there are some, and none of them can be read.
    pub fn latest(&self, damaged: &mut dyn FnMut(Error)) -> Result<Option<Snapshot>> {
        let mut list = self.list()?;
        while let Some((_, dir)) = list.pop() {
            match Self::read(&dir) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                // To start over silently would lose all that was done.
                Err(error) if list.is_empty() => return Err(error),
                Err(error) => damaged(error),
            }
        }
        Ok(None)
    }

    fn read(dir: &Path) -> Result<Snapshot> {
        let path = dir.join("state.json");
        let text = files::read(&path)?;
        let state: State = serde_json::from_slice(&text)
            .map_err(|e| Error::bad_file(&path, Reason::because("not a checkpoint's state", e)))?;
        let mut tensors = BTreeMap::new();
        for name in state.files {
            let path = dir.join(format!("{name}.safetensors"));
            let bytes = files::read(&path)?;
            tensors.insert(name, weights::parse(&path, &bytes)?);
        }
        Ok(Snapshot {
            step: state.step,
            tensors,
        })
    }

    fn write(
        temporary: &Path,
        step: u64,
        tensors: BTreeMap<String, Vec<LazyTensor<'_>>>,
    ) -> Result<()> {
        fs::create_dir_all(temporary).map_err(Error::io("create", temporary))?;
        let files = tensors.keys().cloned().collect();
        for (name, tensors) in tensors {
            let path = temporary.join(format!("{name}.safetensors"));
            weights::write_lazily(&path, &path, tensors)?;
        }
        let state = State { step, files };
        let state = serde_json::to_vec_pretty(&state)
            .map_err(|e| Error::invalid("state", Reason::of(e)))?;
        files::write_atomic(temporary.join("state.json"), &state)?;
        files::sync_folder(temporary);
        Ok(())
    }

    /// Writes a checkpoint, one tensor after the other, and removes the oldest ones.
    pub fn save(
        &self,
        step: u64,
        tensors: BTreeMap<String, Vec<LazyTensor<'_>>>,
    ) -> Result<PathBuf> {
        let temporary = self
            .dir
            .join(format!("{TEMPORARY}{step}-{}", std::process::id()));
        if let Err(error) = Self::write(&temporary, step, tensors) {
            // What a full disk holds of it would keep the disk full.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        let path = self.dir.join(format!("{PREFIX}{step:08}"));
        // The same step again after a resume: the same bits, unless the first ones were damaged. Renamed, as removing
        // takes time in which there would be neither.
        let replaced = self
            .dir
            .join(format!("{TEMPORARY}replaced-{}", std::process::id()));
        if path.exists() {
            fs::rename(&path, &replaced).map_err(Error::io("replace", &path))?;
        }
        fs::rename(&temporary, &path).map_err(Error::io("write", &path))?;
        let _ = fs::remove_dir_all(&replaced);
        // Before older ones go, this one has to be there for good.
        files::sync_folder(&self.dir);
        self.remove_old()?;
        Ok(path)
    }

    /// Removes the oldest ones beyond those that are kept.
    pub fn remove_old(&self) -> Result<()> {
        let all = self.list()?;
        for (_, old) in all.iter().take(all.len().saturating_sub(self.keep)) {
            // Renamed first, so that a half-removed checkpoint is never taken for a whole one.
            let doomed = self
                .dir
                .join(format!("{TEMPORARY}old-{}", std::process::id()));
            fs::rename(old, &doomed).map_err(Error::io("remove", old))?;
            fs::remove_dir_all(&doomed).map_err(Error::io("remove", &doomed))?;
        }
        Ok(())
    }
}
