//! Heat maps as pictures.

use crate::image::Image;
use crate::{Error, Result};

/// The least side of a heat map in pixels: small pictures are enlarged.
const LEAST_SIDE: usize = 512;
/// The colour of what is strong.
const WARM: [f32; 3] = [255.0, 140.0, 20.0];

/// A picture in which the patches with high values shine: those of 0 and less are dark and grey, that of the largest is in
/// full colour, with a warm tint. `map` has a value for each patch, row-major, `grid` of them along a side.
///
/// # Errors
/// A map of another size.
pub fn heat_map(picture: &Image, map: &[f64], grid: usize) -> Result<Image> {
    if grid == 0 || map.len() != grid * grid {
        let reason = format!("expected {} values, got {}", grid * grid, map.len());
        return Err(Error::invalid("map", reason));
    }
    let scale = LEAST_SIDE
        .div_ceil(picture.width.max(picture.height))
        .max(1);
    let (width, height) = (picture.width * scale, picture.height * scale);
    let largest = map.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut rgb = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let patch = y * grid / height * grid + x * grid / width;
            let strength = (map[patch] / largest).clamp(0.0, 1.0) as f32;
            let at = 3 * (y / scale * picture.width + x / scale);
            let pixel = &picture.rgb[at..at + 3];
            let grey = pixel.iter().map(|&sample| f32::from(sample)).sum::<f32>() / 3.0;
            for (&sample, warm) in pixel.iter().zip(WARM) {
                let bright = 0.8 * f32::from(sample) + 0.2 * warm;
                let dark = 0.3 * grey;
                rgb.push((dark + strength * (bright - dark)).round() as u8);
            }
        }
    }
    Image::new(width, height, rgb)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_patch_is_the_brightest_and_a_negative_one_dark() {
        let picture = Image::filled(8, 8, [200, 100, 50]);
        let heat = heat_map(&picture, &[1.0, 4.0, -3.0, 0.0], 2).unwrap();
        assert_eq!((heat.width, heat.height), (512, 512));
        let at = |x: usize, y: usize| heat.rgb[3 * (512 * y + x)];
        assert_eq!(at(256, 0), (0.8 * 200.0 + 0.2 * 255.0) as u8);
        assert!(at(0, 0) > at(0, 256));
        assert_eq!(at(0, 256), 35);
        assert_eq!(at(0, 256), at(511, 511));
    }

    #[test]
    fn a_map_without_anything_and_one_of_another_size() {
        let picture = Image::filled(4, 4, [9; 3]);
        assert!(heat_map(&picture, &[0.0; 4], 2).is_ok());
        assert!(heat_map(&picture, &[0.0; 5], 2).is_err());
        assert!(heat_map(&picture, &[], 0).is_err());
    }
}
