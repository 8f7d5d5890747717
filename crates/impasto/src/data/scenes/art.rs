//! Art packs: a folder of emoji pictures a style, as `recipes/art/fetch` makes it.
//!
//! A pack has `pack.json` (whose art it is), `LICENSE`, and a WebP or PNG with alpha for each code point, named by it
//! in hexadecimal: `1f422.webp` is 🐢.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::glyph::Glyph;
use crate::error::Reason;
use crate::error::{Hint, LocatedFile};
use crate::image::Original;
use crate::{Error, Result, files};

/// Whose art a pack is: its `pack.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackInfo {
    /// The folder's name, which is the style's.
    pub name: String,
    /// SPDX identifier of the licence.
    pub license: String,
    /// Who to name where the art is shown.
    pub attribution: String,
    /// The package it was made from.
    pub source: PackSource,
}

/// Where a pack was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackSource {
    /// The npm package.
    pub npm: String,
    /// Its version.
    pub version: String,
}

/// A pack's pictures, by emoji; none is decoded yet.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Whose art it is.
    pub info: PackInfo,
    folder: PathBuf,
    pictures: HashMap<char, PathBuf>,
}

impl Pack {
    /// Opens the pack `name` in the folder of all packs.
    pub fn open(art: &Path, name: &str) -> Result<Self> {
        let folder = art.join(name);
        let path = folder.join("pack.json");
        if !path.exists() {
            return Err(Error::Missing {
                what: "art pack",
                path: folder,
                hint: Hint::Locate {
                    file: LocatedFile::Art,
                    install: "run recipes/art/fetch",
                },
            });
        }
        let text = files::read_to_string(&path)?;
        let info: PackInfo = serde_json::from_str(&text).map_err(|e| {
            Error::bad_file(&path, Reason::because("expected an art pack's origin", e))
        })?;
        if info.name != name {
            return Err(Error::bad_file(
                &path,
                format!("expected the pack {name}, found {}", info.name),
            ));
        }
        let mut pictures = HashMap::new();
        for entry in std::fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            let is_picture = path
                .extension()
                .is_some_and(|extension| extension == "webp" || extension == "png");
            let emoji = path
                .file_stem()
                .and_then(|stem| u32::from_str_radix(stem.to_str()?, 16).ok())
                .and_then(char::from_u32);
            if let (true, Some(emoji)) = (is_picture, emoji) {
                pictures.insert(emoji, path);
            }
        }
        Ok(Pack {
            info,
            folder,
            pictures,
        })
    }

    /// Whether there is a picture for that emoji.
    pub fn has(&self, emoji: &str) -> bool {
        self.file(emoji).is_some()
    }

    /// The emoji's picture, cropped to its ink.
    pub fn glyph(&self, emoji: &str) -> Result<Glyph> {
        let Some(path) = self.file(emoji) else {
            return Err(Error::bad_file(
                &self.folder,
                format!("has no picture for {emoji}; run recipes/art/fetch again"),
            ));
        };
        let (width, height, rgba) = Original::open(path)?.into_rgba8();
        Glyph::cropped(width, height, &rgba)
            .ok_or_else(|| Error::bad_file(path, "expected a picture with ink, found none"))
    }

    fn file(&self, emoji: &str) -> Option<&PathBuf> {
        let mut characters = emoji.chars().filter(|&c| c != '\u{fe0f}');
        match (characters.next(), characters.next()) {
            (Some(character), None) => self.pictures.get(&character),
            _ => None,
        }
    }
}
