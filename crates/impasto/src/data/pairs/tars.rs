//! WebDataset tars, read at random places: opening notes where each picture's bytes lie.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::list::Captions;
use super::{
    Found, Location, MAX_CAPTION_BYTES, Pair, Unreadable, is_foreign_picture, is_picture, lines,
};
use crate::image::MAX_FILE_BYTES;
use crate::{Error, Result};

#[derive(Default)]
struct Parts {
    picture: Option<(u64, u64)>,
    captions: Vec<String>,
    /// Why a caption can't be read.
    problem: Option<String>,
    /// Why the picture can't be read.
    foreign: Option<String>,
}

/// Reads the indices of tars.
pub(super) fn read(paths: &[PathBuf]) -> Result<Found> {
    let mut found = Found::default();
    for pattern in paths {
        for path in matching(pattern)? {
            read_one(&path, &mut found)?;
        }
    }
    Ok(found)
}

/// The tars that a path stands for: itself, those in the folder, or those whose names fit its `*`.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let (folder, name) = if pattern.is_dir() {
        (pattern, "*.tar".into())
    } else if name.contains('*') {
        let folder = pattern
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        (folder.unwrap_or(Path::new(".")), name)
    } else {
        return Ok(vec![pattern.to_path_buf()]);
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_file()
            && fits(
                &name,
                &path.file_name().unwrap_or_default().to_string_lossy(),
            )
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::bad_file(pattern, "no tar is found there"));
    }
    paths.sort();
    Ok(paths)
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return pattern == name;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn read_one(path: &Path, found: &mut Found) -> Result<()> {
    let bad = |e: std::io::Error| Error::bad_file(path, format!("not a whole tar: {e}"));
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut archive = tar::Archive::new(file);
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(bad)?.to_string_lossy().into_owned();
        // WebDataset: the key ends at the first dot behind the last slash.
        let start = name.rfind('/').map_or(0, |slash| slash + 1);
        let Some(dot) = name[start..].find('.') else {
            continue;
        };
        let (key, extension) = (
            name[..start + dot].to_owned(),
            name[start + dot + 1..].to_owned(),
        );
        let (offset, length) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::bad_file(
                path,
                format!("not a whole tar: {name} reaches beyond its end"),
            ));
        }
        let part = parts.entry(key).or_default();
        match extension.as_str() {
            extension if is_picture(extension) && part.picture.is_some() => {
                found.unreadable.push(Unreadable {
                    key: format!("{stem}/{name}"),
                    reason: "is a second picture of its key".into(),
                });
            }
            extension if is_picture(extension) => part.picture = Some((offset, length)),
            extension if is_foreign_picture(extension) => {
                part.foreign = Some(format!(
                    "is a .{extension} file, expected .png, .jpg or .webp"
                ));
            }
            "txt" | "json" if length > MAX_CAPTION_BYTES => {
                part.problem = Some(format!(
                    "{name} has {length} bytes, expected at most {MAX_CAPTION_BYTES}"
                ));
            }
            "txt" => {
                let mut text = String::new();
                match entry.read_to_string(&mut text) {
                    Ok(_) => part.captions.extend(lines(&text)),
                    Err(e) => part.problem = Some(format!("{name}: {e}")),
                }
            }
            "json" => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(bad)?;
                match serde_json::from_slice::<Captions>(&bytes) {
                    Ok(captions) => part.captions.extend(captions.all()),
                    Err(e) => part.problem = Some(format!("{name}: {e}")),
                }
            }
            _ => {}
        }
    }
    for (key, part) in parts {
        let key = format!("{stem}/{key}");
        let mut unreadable = |key, reason| found.unreadable.push(Unreadable { key, reason });
        let Some((offset, length)) = part.picture else {
            match part.foreign {
                Some(reason) => unreadable(key, reason),
                None if part.captions.is_empty() && part.problem.is_none() => {}
                None => found.without_picture.push(key),
            }
            continue;
        };
        if length > MAX_FILE_BYTES {
            unreadable(
                key,
                format!("has {length} bytes, expected at most {MAX_FILE_BYTES}"),
            );
        } else if part.captions.is_empty() {
            match part.problem {
                Some(reason) => unreadable(key, reason),
                None => found.without_caption.push(key),
            }
        } else {
            // The same caption stands in .txt and .json of our own exports.
            let mut captions = part.captions;
            let mut seen = HashSet::new();
            captions.retain(|caption| seen.insert(caption.clone()));
            let location = Location::Tar {
                path: path.to_path_buf(),
                offset,
                length,
            };
            found.pairs.push(Pair {
                key,
                location,
                captions,
            });
        }
    }
    Ok(())
}

/// A stretch of a file.
pub(super) fn read_at(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::Start(offset))
        .map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 != length {
        return Err(Error::bad_file(path, "is shorter than when it was opened"));
    }
    Ok(bytes)
}
