//! A folder of pictures with same-stem `.txt` files.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{
    Found, Location, MAX_CAPTION_BYTES, Pair, Unreadable, is_foreign_picture, is_picture, key,
    lines,
};
use crate::{Error, Result};

/// Reads the names and captions under `root`.
pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    // Links may lead in circles.
    let mut entered = HashSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let real = folder.canonicalize().map_err(Error::io("read", &folder))?;
        if entered.insert(real) {
            read_one(&folder, root, &mut found, &mut folders)?;
        }
    }
    Ok(found)
}

fn read_one(
    folder: &Path,
    root: &Path,
    found: &mut Found,
    folders: &mut Vec<PathBuf>,
) -> Result<()> {
    let mut texts = Vec::new();
    let mut stems: HashSet<OsString> = HashSet::new();
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            folders.push(path);
            continue;
        }
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_owned();
        if is_picture(extension) {
            stems.insert(stem);
            add(found, root, path);
        } else if is_foreign_picture(extension) {
            stems.insert(stem);
            found.unreadable.push(Unreadable {
                key: key(root, &path),
                reason: format!("is a .{extension} file, expected .png, .jpg or .webp"),
            });
        } else if extension == "txt" {
            texts.push((stem, key(root, &path)));
        }
    }
    let alone = texts.into_iter().filter(|(stem, _)| !stems.contains(stem));
    found.without_picture.extend(alone.map(|(_, key)| key));
    Ok(())
}

fn add(found: &mut Found, root: &Path, path: PathBuf) {
    let key = key(root, &path);
    match read_captions(&path.with_extension("txt")) {
        Ok(captions) if captions.is_empty() => found.without_caption.push(key),
        Ok(captions) => found.pairs.push(Pair {
            key,
            location: Location::File(path),
            captions,
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => found.without_caption.push(key),
        Err(e) => found.unreadable.push(Unreadable {
            key,
            reason: format!("its caption: {e}"),
        }),
    }
}

fn read_captions(path: &Path) -> std::io::Result<Vec<String>> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_CAPTION_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CAPTION_BYTES {
        let reason = format!("has more than {MAX_CAPTION_BYTES} bytes");
        return Err(std::io::Error::other(reason));
    }
    Ok(lines(&text))
}
