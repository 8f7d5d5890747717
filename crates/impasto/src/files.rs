//! Writing files so that a half-written one never stands under its final name.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Writes `bytes` to `path` whole or not at all: to a temporary file in the same folder, synced, then
/// renamed. Two writers to one path end with one whole file.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let file = temporary(path, bytes)?;
    file.persist(path)
        .map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// A file's bytes, mapped into memory where the system can (for as long as the program runs). The file must not
/// be changed in place meanwhile; one that is replaced by another, as [`write_atomic`] does, stays as it is.
pub fn map(path: &Path) -> Result<Cow<'static, [u8]>> {
    impasto_kernels::memory::map(path).map_err(Error::io("read", path))
}

/// Gives the memory that [`map`]ped files take back to the system; what is read again comes again.
pub fn release_mapped() {
    impasto_kernels::memory::release_mapped();
}

/// Like [`write_atomic`], with a file that `write` makes at the path it is given.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let file = temporary(path, &[])?;
    write(file.path())?;
    // Synced through a handle of its own: the writer may have put another file in the place of ours.
    std::fs::File::open(file.path())
        .and_then(|written| written.sync_all())
        .map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// Like [`write_atomic`], but leaves a file that is there already alone and returns false then.
pub fn write_new(path: impl AsRef<Path>, bytes: &[u8]) -> Result<bool> {
    let path = path.as_ref();
    let file = temporary(path, bytes)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("write", path)(e.error)),
    }
}

/// Whether nothing is in `folder`.
pub fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries.next().is_none())
}

/// Whether files can be made in `folder`, found out by making one.
pub fn check_writable(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    tempfile::Builder::new()
        .prefix(".impasto-")
        .tempfile_in(folder)
        .map_err(plain)
        .map_err(Error::io("write into", folder))?;
    Ok(())
}

/// A digest as it is written: two digits a byte.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder that a path is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A finished file beside `path` that removes itself unless it is kept.
fn temporary(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let fail = || Error::io("write", path);
    let mut file = tempfile::Builder::new()
        .prefix(".impasto-")
        .tempfile_in(folder_of(path))
        .map_err(plain)
        .map_err(fail())?;
    file.as_file_mut().write_all(bytes).map_err(fail())?;
    file.as_file().sync_all().map_err(fail())?;
    // Temporary files are private; a finished one gets the permissions a plain create would give.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(permissions)
            .map_err(fail())?;
    }
    Ok(file)
}

/// The system's answer without the temporary file's path, which tempfile adds and means nothing to the
/// reader: our error names the file that was asked for.
fn plain(error: std::io::Error) -> std::io::Error {
    // tempfile's wrapper passes on neither the system's error nor its number, only its kind and its text.
    let text = error.to_string();
    match text.rsplit_once(" at path ") {
        Some((answer, _)) => std::io::Error::new(error.kind(), answer.to_owned()),
        None => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(write_new(&path, b"first").unwrap());
        assert!(!write_new(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_atomic(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        // Nothing else was left behind.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        check_writable(dir.path()).unwrap();
        let missing = dir.path().join("missing");
        let error = check_writable(&missing).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("write into {}", missing.display()))
                && !error.contains(".impasto-"),
            "{error}"
        );
    }
}
