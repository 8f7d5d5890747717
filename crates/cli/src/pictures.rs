//! Several pictures to read: one that can't be is named and left out, and the command fails at its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use impasto::image::Image;

use crate::failure::Usage;
use crate::terminal::{self, shown};

/// The pictures that could be read.
pub struct Opened {
    /// Their places among the paths that were given.
    pub numbers: Vec<usize>,
    pub pictures: Arc<[Image]>,
    /// How many could not be read.
    left_out: usize,
}

/// Reads pictures, and names on stderr those that can't be read.
///
/// # Errors
/// If none can be read: the reason, where it is one picture.
pub fn open(paths: &[impl AsRef<Path>]) -> Result<Opened> {
    if let [path] = paths {
        return Ok(Opened {
            numbers: vec![0],
            pictures: [Image::open(path)?].into(),
            left_out: 0,
        });
    }
    let (mut numbers, mut pictures) = (Vec::new(), Vec::new());
    let mut left_out = 0;
    for (number, path) in paths.iter().enumerate() {
        match Image::open(path) {
            Ok(picture) => {
                numbers.push(number);
                pictures.push(picture);
            }
            Err(error) => {
                left_out += 1;
                terminal::note(format_args!("skipped {}: {error}", shown(path.as_ref())));
            }
        }
    }
    if pictures.is_empty() && !paths.is_empty() {
        anyhow::bail!("none of the {} pictures can be read", paths.len());
    }
    Ok(Opened {
        numbers,
        pictures: pictures.into(),
        left_out,
    })
}

impl Opened {
    /// The paths of those that could be read.
    pub fn paths(&self, all: &[PathBuf]) -> Vec<PathBuf> {
        self.numbers
            .iter()
            .map(|&number| all[number].clone())
            .collect()
    }

    /// Fails if a picture was left out; for the end of the work.
    pub fn finish(&self) -> Result<()> {
        finish(self.left_out, self.left_out + self.pictures.len(), "read")
    }
}

/// Fails if pictures were left out because what the verb says could not be done with them.
pub fn finish(left_out: usize, all: usize, verb: &str) -> Result<()> {
    match left_out {
        0 => Ok(()),
        1 => anyhow::bail!("1 of {all} pictures could not be {verb} and is left out"),
        left_out => {
            anyhow::bail!("{left_out} of {all} pictures could not be {verb} and are left out")
        }
    }
}

/// An argument that has to be words.
pub fn words(argument: &std::ffi::OsString) -> Result<&str> {
    argument.to_str().ok_or_else(|| {
        Usage::new(
            format!(
                "{} is not UTF-8, expected words",
                argument.to_string_lossy()
            ),
            "a picture's name may have any bytes, a caption may not",
        )
        .into()
    })
}
