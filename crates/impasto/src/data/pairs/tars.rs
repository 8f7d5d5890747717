//! WebDataset tars, read at random places: opening notes where each picture's bytes lie.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::list::Row;
use super::{Found, Location, Pair, Unreadable, is_picture, lines};
use crate::{Error, Result};

/// The largest caption file that is read.
const MAX_CAPTION_BYTES: u64 = 1 << 20;

#[derive(Default)]
struct Parts {
    picture: Option<(u64, u64)>,
    captions: Vec<String>,
    problem: Option<String>,
}

/// Reads the indices of tars.
pub(super) fn read(paths: &[PathBuf]) -> Result<Found> {
    let mut found = Found::default();
    for path in paths {
        read_one(path, &mut found)?;
    }
    Ok(found)
}

fn read_one(path: &Path, found: &mut Found) -> Result<()> {
    let bad = |e: std::io::Error| Error::bad_file(path, format!("not a whole tar: {e}"));
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
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
            extension if is_picture(extension) => part.picture = Some((offset, length)),
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
                match serde_json::from_slice::<Row>(&bytes) {
                    Ok(row) => part.captions.extend(row.captions()),
                    Err(e) => part.problem = Some(format!("{name}: {e}")),
                }
            }
            _ => {}
        }
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    for (key, part) in parts {
        let key = format!("{stem}/{key}");
        let Some((offset, length)) = part.picture else {
            continue;
        };
        if let Some(reason) = part.problem {
            found.unreadable.push(Unreadable { key, reason });
        } else if part.captions.is_empty() {
            found.without_caption.push(key);
        } else {
            // The same caption stands in .txt and .json of our own exports.
            let mut captions = part.captions;
            let mut seen = std::collections::HashSet::new();
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
    Ok(bytes)
}
