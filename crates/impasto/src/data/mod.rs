//! Pictures with captions: composed scenes, and users' own.

pub mod pairs;
pub mod scenes;
pub mod tokens;

use crate::image::Image;

/// A picture with its captions.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name within its source.
    pub key: String,
    /// The pixels.
    pub picture: Image,
    /// One or more.
    pub captions: Vec<String>,
}
