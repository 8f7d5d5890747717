//! The cache of pulled files, in the layout of Python's `huggingface_hub`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Reason;
use crate::files::{folder_of, write_atomic};
use crate::{Error, Result, files};

/// A repository's place in the cache.
pub(super) struct Repository {
    folder: PathBuf,
}

/// What a pulled commit consists of. Kept in `impasto/{commit}.json` of the repository's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub commit: String,
    pub licence: Option<String>,
    pub files: Vec<RecordedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RecordedFile {
    pub name: String,
    pub size: u64,
}

/// The record of a pulled commit's folder, `snapshots/{commit}` of its repository.
pub(super) fn record_of(snapshot: &Path) -> Option<Record> {
    let snapshots = snapshot
        .parent()
        .filter(|parent| parent.ends_with("snapshots"))?;
    let repository = Repository {
        folder: folder_of(snapshots).to_path_buf(),
    };
    let path = repository.record(snapshot.file_name()?.to_str()?);
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl RecordedFile {
    pub fn of(name: &str, blob: &Path) -> Result<Self> {
        let size = fs::metadata(blob).map_err(Error::io("read", blob))?.len();
        Ok(RecordedFile {
            name: name.to_owned(),
            size,
        })
    }
}

impl Repository {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
        Repository { folder }
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn record(&self, commit: &str) -> PathBuf {
        self.folder.join("impasto").join(format!("{commit}.json"))
    }

    /// The revision, if it is here whole: what our record of it names, or, where another program pulled it,
    /// the wanted files.
    pub fn found(&self, revision: &str, wanted: Option<&[String]>) -> Result<Option<Record>> {
        let commit = match files::read_to_string(self.reference(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            // A commit's own name needs no reference.
            Err(_) => revision.to_owned(),
        };
        if commit.is_empty() || commit.contains(['/', '\\', '.']) {
            return Ok(None);
        }
        let snapshot = self.snapshot(&commit);
        let size = |name: &str| {
            fs::metadata(snapshot.join(name))
                .ok()
                .map(|file| file.len())
        };
        let path = self.record(&commit);
        if let Ok(text) = files::read_to_string(&path) {
            let record: Record = serde_json::from_str(&text).map_err(|error| {
                Error::bad_file(&path, Reason::because("no record of a pull", error))
            })?;
            let whole = record
                .files
                .iter()
                .all(|file| size(&file.name) == Some(file.size));
            return Ok(whole.then_some(record));
        }
        let files = wanted.unwrap_or_default().iter().map(|names| {
            names.split('|').find_map(|name| {
                size(name).map(|size| RecordedFile {
                    name: name.to_owned(),
                    size,
                })
            })
        });
        let files: Option<Vec<RecordedFile>> = files.collect();
        Ok(files.filter(|files| !files.is_empty()).map(|files| Record {
            commit,
            licence: None,
            files,
        }))
    }

    /// Gives a blob its name in a snapshot: by a link, or by a copy where there are none.
    pub fn link(&self, commit: &str, name: &str, blob: &Path) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        let folder = folder_of(&path);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        if fs::metadata(&path)
            .is_ok_and(|here| fs::metadata(blob).is_ok_and(|blob| blob.len() == here.len()))
        {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("replace", &path)(error)),
        }
        #[cfg(unix)]
        {
            // Relative, as Python's client makes them: the cache can be moved as a whole.
            let up = "../".repeat(2 + Path::new(name).components().count() - 1);
            let file = blob.file_name().unwrap_or_default();
            let target = Path::new(&up).join("blobs").join(file);
            std::os::unix::fs::symlink(target, &path).map_err(Error::io("link", &path))
        }
        #[cfg(not(unix))]
        fs::copy(blob, &path)
            .map(drop)
            .map_err(Error::io("write", &path))
    }

    /// Notes that the revision is here whole.
    pub fn remember(&self, revision: &str, record: &Record) -> Result<()> {
        let write = |path: PathBuf, bytes: &[u8]| {
            let folder = folder_of(&path);
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            write_atomic(&path, bytes)
        };
        let path = self.record(&record.commit);
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::bad_file(&path, Reason::of(error)))?;
        write(path, &text)?;
        if revision != record.commit || revision == super::registry::NO_COMMITS {
            write(self.reference(revision), record.commit.as_bytes())?;
        }
        Ok(())
    }
}
