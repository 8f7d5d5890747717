//! The pictures below a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::data::pairs::is_picture;
use crate::{Error, Result};

/// All pictures below `root` by their names' endings, sorted. What is hidden (its name begins with a dot) is left out.
pub fn pictures_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    // Links may lead in circles.
    let mut entered = HashSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let fail = || Error::io("read", &folder);
        if !entered.insert(folder.canonicalize().map_err(fail())?) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_some_and(is_picture) {
                pictures.push(path);
            }
        }
    }
    pictures.sort();
    Ok(pictures)
}
