//! The pictures below a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::pairs::Kind;
use crate::{Error, Result, files};

/// What is below a folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Pictures by their names' endings, sorted.
    pub pictures: Vec<PathBuf>,
    /// Folders that can't be read, and pictures of formats that are not: they should be looked at.
    pub left_out: Vec<LeftOut>,
    /// All other files, and what is hidden (its name begins with a dot).
    pub other: Vec<LeftOut>,
    /// Those of the folders that can't be read.
    pub(super) folders: Vec<PathBuf>,
}

/// A file or folder that is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// Where it is.
    #[serde(serialize_with = "files::lossy")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Looks through `root` and all folders in it. Everything that is there is in the listing.
///
/// # Errors
/// If `root` itself can't be read.
pub fn pictures_below(root: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    // Links may lead in circles.
    let mut entered = HashSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = folder
            .canonicalize()
            .and_then(|real| match entered.insert(real) {
                true => std::fs::read_dir(&folder)?.collect(),
                false => Ok(Vec::new()),
            });
        match entries {
            Ok(entries) => {
                for entry in entries {
                    listing.add(entry.path(), &mut folders);
                }
            }
            Err(e) if folder == root => return Err(Error::io("read", root)(e)),
            Err(e) => {
                let reason = format!("the folder can't be read: {e}");
                let path = folder.clone();
                listing.left_out.push(LeftOut { path, reason });
                listing.folders.push(folder);
            }
        }
    }
    listing.pictures.sort();
    listing.left_out.sort();
    listing.other.sort();
    Ok(listing)
}

impl Listing {
    fn add(&mut self, path: PathBuf, folders: &mut Vec<PathBuf>) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let other = |reason: &str| LeftOut {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        if name.starts_with(b".") {
            self.other.push(other("is hidden"));
        } else if path.is_dir() {
            folders.push(path);
        } else {
            match Kind::of(extension.unwrap_or_default()) {
                Kind::Image => self.pictures.push(path),
                Kind::ForeignPicture => {
                    let extension = extension.unwrap_or_default();
                    let reason = format!(
                        "is a .{extension} file, expected .png, .jpg, .webp, .gif, .bmp or .tiff"
                    );
                    self.left_out.push(LeftOut { path, reason });
                }
                Kind::Text | Kind::Json | Kind::Other => {
                    self.other.push(other("is no picture by its name"));
                }
            }
        }
    }
}
