//! A folder of pictures with same-stem `.txt` files.

use std::path::{Path, PathBuf};

use super::{Found, Location, Pair, Unreadable, is_picture, key, lines};
use crate::{Error, Result};

/// Reads the names and captions under `root`.
pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &folder))?;
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .and_then(|e| e.to_str())
                .is_some_and(is_picture)
            {
                add(&mut found, root, path);
            }
        }
    }
    Ok(found)
}

fn add(found: &mut Found, root: &Path, path: PathBuf) {
    let key = key(root, &path);
    match std::fs::read_to_string(path.with_extension("txt")) {
        Ok(text) => match lines(&text) {
            captions if captions.is_empty() => found.without_caption.push(key),
            captions => found.pairs.push(Pair {
                key,
                location: Location::File(path),
                captions,
            }),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => found.without_caption.push(key),
        Err(e) => found.unreadable.push(Unreadable {
            key,
            reason: format!("its caption: {e}"),
        }),
    }
}
