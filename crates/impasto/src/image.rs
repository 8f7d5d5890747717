//! The picture type that every part shares.

/// An 8-bit sRGB picture, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes: red, green, blue.
    pub rgb: Vec<u8>,
}
