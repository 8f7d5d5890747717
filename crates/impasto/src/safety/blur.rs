//! Pictures of which nothing can be recognised but colours.

use crate::Result;
use crate::image::{Filter, Image};

/// Pixels of the short side that are left.
const LEFT: usize = 6;

impl Image {
    /// The picture through frosted glass: a few pixels of it, smoothly enlarged.
    ///
    /// # Errors
    /// Where it has no pixels.
    pub fn blurred(&self) -> Result<Self> {
        // In two steps, so that no edge of a square is seen.
        let small = self.squash(LEFT, Filter::Bilinear)?;
        let larger = small.squash(8 * LEFT, Filter::Bicubic)?;
        larger.resize(self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_but_colours_is_left() {
        let mut picture = Image::filled(96, 64, [255, 0, 0]);
        for (place, pixel) in picture.rgb.chunks_exact_mut(3).enumerate() {
            // Stripes of two pixels on the left.
            if place % 96 < 48 && place % 4 < 2 {
                pixel.copy_from_slice(&[0, 0, 255]);
            }
        }
        let blurred = picture.blurred().unwrap();
        assert_eq!((blurred.width, blurred.height), (96, 64));
        let at = |x: usize| &blurred.rgb[3 * (32 * 96 + x)..][..3];
        let neighbours = (1..96).map(|x| {
            at(x)
                .iter()
                .zip(at(x - 1))
                .map(|(a, b)| a.abs_diff(*b))
                .max()
                .unwrap()
        });
        assert!(neighbours.max().unwrap() < 16);
        assert!(
            at(90)[0] > 240 && (100..156).contains(&at(10)[0]),
            "{:?} {:?}",
            at(90),
            at(10)
        );
    }
}
