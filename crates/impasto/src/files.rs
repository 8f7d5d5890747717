//! Reading regular files only, and writing files so that a half-written one never stands under its final name.
//!
//! What is written goes to a temporary file (`.impasto-…`) in the same folder, which is synced and renamed. While it
//! is written it is locked; one that is not was left by a program that was killed, and the next one that writes into the
//! folder removes it ([`clear_stale`]).

use std::collections::BTreeSet;
use std::fs::{File, FileType, Metadata, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::{Error, Result, progress};

/// How the names of temporary files start.
const TEMPORARY: &str = ".impasto-";
/// And of temporary folders.
const TEMPORARY_FOLDER: &str = ".impasto-folder-";

/// Opens a file for reading.
///
/// # Errors
/// If it can't be opened; if it is a named pipe, a socket or a device, as opening one may wait for ever; and if it is
/// what git-lfs or a web server has in the place of a file.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    check_regular(path)?;
    let fail = || Error::io("read", path);
    let mut file = File::open(path).map_err(fail())?;
    let mut start = Vec::with_capacity(POINTER_BYTES as usize);
    (&file)
        .take(POINTER_BYTES)
        .read_to_end(&mut start)
        .map_err(fail())?;
    check_content(path, &start)?;
    file.rewind().map_err(fail())?;
    Ok(file)
}

/// A file's bytes; see [`open`] for what is refused.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    check_regular(path)?;
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    check_content(path, &bytes)?;
    Ok(bytes)
}

/// A file's text; see [`open`] for what is refused.
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    check_regular(path)?;
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    check_content(path, text.as_bytes())?;
    Ok(text)
}

/// A file's bytes, if there are at most `limit`.
pub fn read_at_most(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        let reason = format!("has more than {limit} bytes, the most that is read");
        return Err(Error::bad_file(path, reason));
    }
    Ok(bytes)
}

/// Refuses a file that stands for another one.
///
/// # Errors
/// If it can't be opened, and what [`open`] says of git-lfs and web servers.
pub fn check(path: &Path) -> Result<()> {
    open(path).map(drop)
}

/// The longest pointer of git-lfs.
const POINTER_BYTES: u64 = 1024;

/// Refuses a pointer of git-lfs, which a clone without git-lfs leaves, and a web page, which is what a download of the
/// wrong address brings: read as weights or as a picture, both would be called damaged.
fn check_content(path: &Path, bytes: &[u8]) -> Result<()> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
    let start = &bytes[..bytes.len().min(POINTER_BYTES as usize)];
    if start.starts_with(POINTER) {
        let text = String::from_utf8_lossy(start);
        let size = text.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.unwrap_or("?").escape_debug();
        return Err(Error::bad_file(
            path,
            format!(
                "is a pointer of git-lfs, expected the file of {size} bytes that it stands for; `git lfs pull` gets it"
            ),
        ));
    }
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let start = start.trim_ascii_start();
    let is_page = [&b"<!doctype html"[..], b"<html"].iter().any(|tag| {
        start
            .get(..tag.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(tag))
    });
    if is_page {
        return Err(Error::bad_file(
            path,
            "is a web page, expected the file itself; download it again from the address of the file (on the hub with /resolve/ instead of /blob/)",
        ));
    }
    Ok(())
}

/// Refuses what is no regular file; folders are left to the caller, whose reading fails.
fn check_regular(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    match special(metadata.file_type()) {
        Some(kind) => Err(Error::bad_file(
            path,
            format!("is {kind}, expected a regular file"),
        )),
        None => Ok(()),
    }
}

/// What a file is that is neither a regular one nor a folder.
pub fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_dir() || kind.is_symlink() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
        if kind.is_block_device() || kind.is_char_device() {
            return Some("a device");
        }
    }
    Some("neither a file nor a folder")
}

/// Writes `bytes` to `path` whole or not at all: to a temporary file in the same folder, synced, then
/// renamed. Two writers to one path end with one whole file. A file that is there keeps its mode (and its owner,
/// where we may set it), a new one gets the mode that the process's umask gives; a link is followed.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let target = target_of(path)?;
    let file = temporary(path, &target, bytes)?;
    persist(file, path, &target)
}

/// A file's bytes, mapped into memory where the system can, for as long as a part of them is in use. The file must not
/// be changed in place meanwhile; one that is replaced by another, as [`write_atomic`] does, stays as it is.
pub fn map(path: &Path) -> Result<Bytes> {
    check_regular(path)?;
    // SAFETY: the program replaces files and never changes them in place (docs/reliability.md), and says that others
    // must not either; `--no-mmap` reads them whole.
    #[expect(unsafe_code, reason = "the one place where files are mapped")]
    let bytes = unsafe { impasto_kernels::memory::map(path) };
    let bytes = bytes
        .map(Bytes::from_owner)
        .map_err(Error::io("read", path))?;
    check_content(path, &bytes)?;
    Ok(bytes)
}

/// How the bytes of weight files come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileAccess {
    /// [`map`]ped: quick, and shared between processes.
    #[default]
    Map,
    /// Read whole: for files that others may change or truncate meanwhile, as on a network's folder.
    Copy,
}

/// A file's bytes.
pub fn bytes_of(path: &Path, access: FileAccess) -> Result<Bytes> {
    let bytes = match access {
        FileAccess::Map => map(path)?,
        FileAccess::Copy => Bytes::from(read(path)?),
    };
    progress::opened(bytes.len());
    Ok(bytes)
}

/// Gives the memory that a [`map`]ped file takes back to the system; what is read again comes again.
pub fn release_mapped(path: &Path) {
    impasto_kernels::memory::release(path);
}

/// [`release_mapped`] of all files.
pub fn release_all_mapped() {
    impasto_kernels::memory::release_all();
}

/// Like [`write_atomic`], with a file that `write` fills at the path it is given.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let target = target_of(path)?;
    let file = temporary(path, &target, &[])?;
    write(file.path())?;
    // Synced through a handle of its own: the writer may have put another file in the place of ours.
    File::open(file.path())
        .and_then(|written| written.sync_all())
        .map_err(Error::io("write", path))?;
    persist(file, path, &target)
}

/// Like [`write_atomic`], but leaves a file that is there already alone and returns false then.
pub fn write_new(path: impl AsRef<Path>, bytes: &[u8]) -> Result<bool> {
    let path = path.as_ref();
    let file = temporary(path, path, bytes)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("write", path)(e.error)),
    }
}

/// Whether nothing is in `folder`, temporary files of killed programs aside.
pub fn is_empty(folder: &Path) -> Result<bool> {
    clear_stale(folder);
    let mut entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries.next().is_none())
}

/// Whether files can be made in `folder`, found out by making one. Temporary files that killed programs left there
/// are removed.
pub fn check_writable(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    clear_stale(folder);
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(folder)
        .map_err(plain)
        .map_err(Error::io("write into", folder))?;
    Ok(())
}

/// Writes a folder whole or not at all: `write` fills a temporary one, which then gets the name. Into a folder that is
/// there its files are moved, `config.json` last.
///
/// # Errors
/// Those of `write`, after which nothing is left; and if the folder can't be made.
pub fn write_folder<T, E: From<Error> + 'static>(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let is_there = folder.is_dir();
    let parent = if is_there { folder } else { folder_of(folder) };
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    clear_stale(parent);
    let (temporary, lock) = temporary_folder(parent).map_err(Error::io("create", folder))?;
    let written = write(temporary.path()).map_err(|mut error| {
        // Of a file that nobody knows, by the name that it was to get.
        if let Some(error) = (&mut error as &mut dyn std::any::Any).downcast_mut::<Error>() {
            error.rename(temporary.path(), folder);
        }
        error
    })?;
    if is_there {
        move_files(temporary.path(), folder).map_err(Error::io("write", folder))?;
    } else {
        std::fs::rename(temporary.path(), folder).map_err(Error::io("write", folder))?;
        let _ = temporary.keep();
    }
    drop(lock);
    sync_folder(parent);
    Ok(written)
}

fn move_files(from: &Path, to: &Path) -> std::io::Result<()> {
    let entries = std::fs::read_dir(from)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<_> = entries.iter().map(std::fs::DirEntry::file_name).collect();
    // Whoever finds the config finds the rest.
    names.sort_by_key(|name| name == "config.json");
    for name in names {
        std::fs::rename(from.join(&name), to.join(&name))?;
    }
    Ok(())
}

/// A new temporary folder that this process holds the lock of: of the folder itself, so that it is whole as soon as it
/// has its name. None where folders have no locks; nothing is taken for stale there.
fn temporary_folder(parent: &Path) -> std::io::Result<(tempfile::TempDir, Option<File>)> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_FOLDER);
        #[cfg(unix)]
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        #[cfg(unix)]
        builder.permissions(permissions);
        let folder = builder.tempdir_in(parent).map_err(plain)?;
        if !cfg!(unix) {
            return Ok((folder, None));
        }
        match File::open(folder.path()) {
            Ok(lock) => match lock.try_lock() {
                // Someone who clears takes the empty folder for a stale one, or took it.
                Err(TryLockError::WouldBlock) => {}
                _ if !folder.path().is_dir() => {}
                _ => return Ok((folder, Some(lock))),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes the temporary files in `folder` that nobody writes any more; what can't be removed stays.
pub fn clear_stale(folder: &Path) {
    // A stale file is one whose writer no longer holds its lock, which other systems don't show in the same way.
    if !cfg!(unix) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir()
            && name
                .as_encoded_bytes()
                .starts_with(TEMPORARY_FOLDER.as_bytes())
        {
            remove_unlocked_folder(&entry.path());
        }
        if kind.is_file() && name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            remove_unlocked(&entry.path());
        }
    }
}

/// [`clear_stale`] before this process writes into a folder for the first time: whatever the program that was killed
/// wrote there, the next one that does is likely the same command again.
fn clear_stale_once(folder: &Path) {
    static CLEARED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut cleared = CLEARED.lock().unwrap_or_else(PoisonError::into_inner);
    if cleared.insert(folder.to_path_buf()) {
        clear_stale(folder);
    }
}

/// Keeps other programs out of a folder for as long as it lives, by a lock of the system's on the file `lock` in it,
/// which ends with the process, however that ends.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    /// None on file systems that have no locks.
    file: Option<File>,
}

/// Takes the lock of a folder that is there; none if another program has it.
pub fn lock(folder: &Path) -> Result<Option<FolderLock>> {
    let path = folder.join("lock");
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("write", &path))?;
        let file = match file.try_lock() {
            // The one who had it removed the file in between: others would lock a new one.
            Ok(()) if is_removed(&file) => continue,
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => None,
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
        };
        return Ok(Some(FolderLock { path, file }));
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Only where whoever locks the removed file finds out.
        if cfg!(unix) && self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether an open file has no name any more.
#[cfg(unix)]
pub(crate) fn is_removed(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

#[cfg(not(unix))]
pub(crate) fn is_removed(_: &File) -> bool {
    false
}

fn remove_unlocked(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        let _ = std::fs::remove_file(path);
    }
}

fn remove_unlocked_folder(path: &Path) {
    if let Ok(lock) = File::open(path)
        && lock.try_lock().is_ok()
    {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Writes a folder's entries to the disk, so that a rename in it survives a loss of power; best effort, as not every
/// system can.
pub fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// A path in JSON: what of its name is not UTF-8 is replaced, as a report must not fail for a name.
///
/// # Errors
/// The serializer's.
pub fn lossy<S: serde::Serializer>(
    path: impl AsRef<Path>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
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

/// Where a path's bytes go: what a link points to, also if nothing is there yet.
fn target_of(path: &Path) -> Result<PathBuf> {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&target) {
            Ok(link) => target = folder_of(&target).join(link),
            // No link, or nothing there.
            Err(_) => return Ok(target),
        }
    }
    Err(Error::bad_file(
        path,
        "is a link that leads in a circle, expected a file's name",
    ))
}

/// A finished file beside `target` that removes itself unless it is kept; `path` is how errors call it.
fn temporary(path: &Path, target: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let fail = || Error::io("write", path);
    clear_stale_once(folder_of(target));
    let mut file = locked_temporary(folder_of(target)).map_err(fail())?;
    if let Ok(metadata) = std::fs::metadata(target) {
        take_over(&metadata, file.as_file()).map_err(fail())?;
    }
    file.as_file_mut().write_all(bytes).map_err(fail())?;
    file.as_file().sync_all().map_err(fail())?;
    Ok(file)
}

/// A new temporary file that this process holds the lock of.
fn locked_temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        // What a plain create asks for: the umask takes away from it.
        #[cfg(unix)]
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(permissions);
        let file = builder.tempfile_in(folder).map_err(plain)?;
        if cfg!(unix) {
            // File systems without locks have no stale files removed either.
            let _ = file.as_file().try_lock();
        }
        // Someone who clears may have been here between making and locking.
        if !is_removed(file.as_file()) {
            return Ok(file);
        }
    }
}

/// Gives a file the mode and the owner of the one that it replaces.
#[cfg(unix)]
fn take_over(replaced: &Metadata, file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        // Only the superuser may give files away.
        let _ = std::os::unix::fs::fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    file.set_permissions(replaced.permissions())
}

#[cfg(not(unix))]
fn take_over(_: &Metadata, _: &File) -> std::io::Result<()> {
    Ok(())
}

/// Puts a finished temporary file into its place.
fn persist(file: NamedTempFile, path: &Path, target: &Path) -> Result<()> {
    file.persist(target)
        .map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// The system's answer without the temporary file's path, which tempfile adds and means nothing to the
/// reader: our error names the file that was requested.
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

    #[cfg(unix)]
    #[test]
    fn links_are_written_through_and_modes_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mode =
            |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
        std::fs::create_dir(path("there")).unwrap();
        symlink("there/target", path("link")).unwrap();
        symlink("link", path("link-to-link")).unwrap();
        // Nothing is where the link points yet.
        write_atomic(path("link-to-link"), b"one").unwrap();
        assert_eq!(std::fs::read(path("there/target")).unwrap(), b"one");
        File::create(path("plain")).unwrap();
        assert_eq!(mode("there/target"), mode("plain"));
        for bits in [0o600, 0o640, 0o664] {
            let permissions = std::fs::Permissions::from_mode(bits);
            std::fs::set_permissions(path("there/target"), permissions).unwrap();
            write_atomic(path("link"), b"two").unwrap();
            assert_eq!(mode("there/target"), bits);
            write_atomic_with(path("link"), |file| {
                std::fs::write(file, b"three").map_err(Error::io("write", file))
            })
            .unwrap();
            assert_eq!(mode("there/target"), bits);
        }
        assert!(path("link").is_symlink() && path("link-to-link").is_symlink());
        assert_eq!(std::fs::read(path("link")).unwrap(), b"three");
        symlink("circle", path("circle")).unwrap();
        let error = write_atomic(path("circle"), b"").unwrap_err().to_string();
        assert!(error.contains("leads in a circle"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn only_what_nobody_writes_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path(".impasto-killed"), b"half").unwrap();
        std::fs::write(path(".impasto.png"), b"a user's own").unwrap();
        let written = temporary(&path("a"), &path("a"), b"whole").unwrap();
        check_writable(dir.path()).unwrap();
        assert!(!path(".impasto-killed").exists());
        assert!(path(".impasto.png").exists() && written.path().exists());
        persist(written, &path("a"), &path("a")).unwrap();
        assert_eq!(std::fs::read(path("a")).unwrap(), b"whole");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let fill = |folder: &Path| -> Result<()> {
            write_atomic(folder.join("config.json"), b"{}")?;
            write_atomic(folder.join("weights"), b"1")
        };
        let new = dir.path().join("new");
        let failed = write_folder(&new, |folder| {
            fill(folder)?;
            Err::<(), Error>(Error::Stopped)
        });
        assert!(failed.is_err() && names(dir.path()).is_empty());
        write_folder(&new, fill).unwrap();
        assert_eq!(names(&new), ["config.json", "weights"]);
        let there = dir.path().join("there");
        std::fs::create_dir(&there).unwrap();
        // Left by a program that was killed.
        let stale = there.join(".impasto-folder-killed");
        std::fs::create_dir(&stale).unwrap();
        std::fs::write(stale.join("weights"), b"half").unwrap();
        assert!(is_empty(&there).unwrap());
        write_folder(&there, |folder| {
            fill(folder)?;
            // Another program does not clear what is being written.
            clear_stale(&there);
            fill(folder)
        })
        .unwrap();
        assert_eq!(names(&there), ["config.json", "weights"]);
        assert_eq!(names(dir.path()), ["new", "there"]);
    }

    #[test]
    fn what_stands_in_the_place_of_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for (content, reason) in [
            (
                pointer,
                "is a pointer of git-lfs, expected the file of 12345 bytes",
            ),
            ("<!DOCTYPE html>\n<html>", "is a web page"),
            ("\u{feff}\r\n <HTML lang=en>", "is a web page"),
        ] {
            std::fs::write(&path, content).unwrap();
            for error in [
                open(&path).err(),
                read(&path).err(),
                read_to_string(&path).err(),
                read_at_most(&path, 99).err(),
                map(&path).err(),
            ] {
                let error = error.unwrap().to_string();
                assert!(error.contains(reason), "{error}");
            }
        }
        for content in ["", "<", "version https://git", "<svg>", "a <html> caption"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read(&path).unwrap(), content.as_bytes());
            let mut read = String::new();
            open(&path).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, content);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, kind) in [
            (socket.as_path(), "a socket"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            for error in [
                open(path).err(),
                read(path).err(),
                read_to_string(path).err(),
                map(path).err(),
            ] {
                let error = error.unwrap().to_string();
                assert!(
                    error.contains(&format!("is {kind}, expected a regular file")),
                    "{error}"
                );
            }
        }
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
