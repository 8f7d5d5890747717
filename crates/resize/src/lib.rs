//! Scaling of pictures with a Lanczos-3 filter, for impasto.
//!
//! A crate of its own because the code of `fast_image_resize` is generic: the crate that calls it compiles it, for every
//! kind of pixel and every instruction set, and once more for its tests. That was a fifth of what impasto compiled.

use fast_image_resize as fir;

/// The samples of a picture's pixels, which lie side by side, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of a pixel, 1 to 4; the last one of two or four is how opaque it is, and what is transparent counts less.
    pub channels: usize,
    /// Whether they have 16 bits, in the machine's order, not 8.
    pub wide: bool,
}

/// Why a picture can't be scaled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to scale, or nothing to scale it to.
    #[error("{}x{} can't be scaled to {}x{}", from[0], from[1], to[0], to[1])]
    Empty {
        /// Its width and height in pixels.
        from: [usize; 2],
        /// Those that were requested.
        to: [usize; 2],
    },
    /// Sides that are no 32-bit numbers.
    #[error("a picture of {}x{} is too large", .0[0], .0[1])]
    TooLarge([usize; 2]),
    /// Bytes that are no picture of these sides.
    #[error(transparent)]
    Bytes(#[from] fir::ImageBufferError),
    /// What the library says.
    #[error(transparent)]
    Resize(#[from] fir::ResizeError),
}

/// A picture of `from` pixels (width and height) scaled to `to`.
///
/// # Errors
/// Sides of zero or above 2³² − 1, or bytes of another number of pixels.
pub fn lanczos(
    bytes: &[u8],
    layout: Layout,
    from: [usize; 2],
    to: [usize; 2],
) -> Result<Vec<u8>, Error> {
    if [from, to].concat().contains(&0) {
        return Err(Error::Empty { from, to });
    }
    let sides = |sides: [usize; 2]| match sides.map(u32::try_from) {
        [Ok(width), Ok(height)] => Ok([width, height]),
        _ => Err(Error::TooLarge(sides)),
    };
    let ([width, height], to) = (sides(from)?, sides(to)?);
    let kind = match (layout.channels, layout.wide) {
        (1, false) => fir::PixelType::U8,
        (2, false) => fir::PixelType::U8x2,
        (3, false) => fir::PixelType::U8x3,
        (_, false) => fir::PixelType::U8x4,
        (1, true) => fir::PixelType::U16,
        (2, true) => fir::PixelType::U16x2,
        (3, true) => fir::PixelType::U16x3,
        (_, true) => fir::PixelType::U16x4,
    };
    let source = fir::images::ImageRef::new(width, height, bytes, kind)?;
    let mut scaled = fir::images::Image::new(to[0], to[1], kind);
    let lanczos = fir::ResizeAlg::Convolution(fir::FilterType::Lanczos3);
    let options = fir::ResizeOptions::new().resize_alg(lanczos);
    fir::Resizer::new().resize(&source, &mut scaled, &options)?;
    Ok(scaled.into_vec())
}
