//! A folder of pictures with same-stem `.txt` files.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{Found, Kind, Location, MAX_CAPTION_BYTES, Pair, Unreadable, key, lines};
use crate::{Error, Result, files};

/// Reads the names and captions under `root`. What can't be read below it is listed.
pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    // Links may lead in circles.
    let mut entered = HashSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let names = folder
            .canonicalize()
            .and_then(|real| match entered.insert(real) {
                true => names(&folder),
                false => Ok(Vec::new()),
            });
        match names {
            Ok(names) => sort(names, root, &mut found, &mut folders),
            Err(e) if folder == root => return Err(Error::io("read", root)(e)),
            Err(e) => found.unreadable.push(Unreadable {
                key: key(root, &folder),
                reason: format!("the folder can't be read: {e}"),
            }),
        }
    }
    Ok(found)
}

fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    let mut names = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// What one folder has: each name becomes a pair, a part of one, a folder to be read, or is listed.
fn sort(names: Vec<PathBuf>, root: &Path, found: &mut Found, folders: &mut Vec<PathBuf>) {
    let mut pictures = Vec::new();
    let mut texts: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut stems: HashSet<OsString> = HashSet::new();
    for path in names {
        if path.is_dir() {
            folders.push(path);
            continue;
        }
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_owned();
        match Kind::of(extension) {
            Kind::Image => {
                stems.insert(stem);
                pictures.push(path);
            }
            Kind::ForeignPicture => {
                stems.insert(stem);
                found.unreadable.push(Unreadable {
                    key: key(root, &path),
                    reason: format!(
                        "is a .{extension} file, expected .png, .jpg, .webp, .gif, .bmp or .tiff"
                    ),
                });
            }
            Kind::Text => texts.entry(stem).or_default().push(path),
            Kind::Json | Kind::Other => {
                let special = std::fs::metadata(&path)
                    .ok()
                    .and_then(|metadata| files::special(metadata.file_type()));
                let is_list = path
                    .file_name()
                    .is_some_and(|name| name == "metadata.jsonl" || name == "metadata.csv");
                let reason = match special {
                    Some(kind) => format!("is {kind}"),
                    None if is_list => {
                        "is a list of pictures with captions, which is used where it is named itself"
                            .to_owned()
                    }
                    None => "is neither a picture nor a caption by its name".to_owned(),
                };
                found.other.push(Unreadable {
                    key: key(root, &path),
                    reason,
                });
            }
        }
    }
    for path in pictures {
        let stem = path.file_stem().unwrap_or_default();
        let captions = texts.get(stem).map_or(&[][..], Vec::as_slice);
        add(found, root, path.clone(), captions);
    }
    let alone = texts.into_iter().filter(|(stem, _)| !stems.contains(stem));
    let alone = alone.flat_map(|(_, paths)| paths);
    found
        .without_picture
        .extend(alone.map(|path| key(root, &path)));
}

fn add(found: &mut Found, root: &Path, path: PathBuf, texts: &[PathBuf]) {
    let key = key(root, &path);
    let mut captions = Vec::new();
    for text in texts {
        match read_captions(text) {
            Ok(lines) => captions.extend(lines),
            Err(error) => {
                let reason = format!("its caption: {error}");
                return found.unreadable.push(Unreadable { key, reason });
            }
        }
    }
    if captions.is_empty() {
        return found.without_caption.push(key);
    }
    found.pairs.push(Pair {
        key,
        location: Location::File(path),
        captions,
    });
}

fn read_captions(path: &Path) -> Result<Vec<String>> {
    let bytes = files::read_at_most(path, MAX_CAPTION_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::bad_file(path, format!("is not UTF-8: {}", e.utf8_error())))?;
    Ok(lines(&text))
}
