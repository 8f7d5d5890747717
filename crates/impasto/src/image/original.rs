//! A picture in its file's own samples, so that what is not edited stays as it is to the last bit.

mod planes;

use std::path::Path;

use image::{DynamicImage, ExtendedColorType, ImageBuffer, Luma, LumaA, Pixel, Rgb, Rgba};

use super::{Format, Image, decode_image, read_bounded};
use crate::Result;

pub(crate) use planes::Planes;

/// A picture of 8 or 16 bits, grey or coloured, with or without transparency, upright.
#[derive(Clone, Debug)]
pub struct Original {
    image: DynamicImage,
    /// Its ICC profile, where it fits the samples.
    profile: Option<Vec<u8>>,
}

/// Pixels as an encoder takes them.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// What a pixel consists of: L, La, Rgb or Rgba, 8 or 16 bits each.
    pub colour: ExtendedColorType,
    /// Row after row; 16-bit samples with the high byte first.
    pub bytes: Vec<u8>,
    /// An ICC profile.
    pub profile: Option<Vec<u8>>,
}

impl Original {
    /// Reads a picture file; see [`Image::decode`] for what is refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Original::decode(&read_bounded(path)?, path)
    }

    /// Decodes a PNG, JPEG or WebP, turned as its EXIF says. CMYK becomes RGB.
    pub fn decode(bytes: &[u8], name: impl AsRef<Path>) -> Result<Self> {
        let (image, profile) = decode_image(bytes, name.as_ref())?;
        let image = match image {
            DynamicImage::ImageRgb32F(_) => DynamicImage::ImageRgb16(image.to_rgb16()),
            DynamicImage::ImageRgba32F(_) => DynamicImage::ImageRgba16(image.to_rgba16()),
            image => image,
        };
        // A CMYK profile says nothing about the RGB that CMYK has become.
        let space: &[u8] = if image.color().has_color() {
            b"RGB "
        } else {
            b"GRAY"
        };
        let profile = profile.filter(|profile| profile.get(16..20) == Some(space));
        Ok(Original { image, profile })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.image.width() as usize
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.image.height() as usize
    }

    /// Whether it has no colours.
    pub fn is_grey(&self) -> bool {
        !self.image.color().has_color()
    }

    /// Which pixels are more than half transparent; none where no pixel is: many programs write transparency that says
    /// nothing.
    pub fn transparent(&self) -> Option<Vec<bool>> {
        if !self.image.color().has_alpha() {
            return None;
        }
        let grey = self.image.to_luma_alpha8();
        let transparent: Vec<bool> = grey.pixels().map(|pixel| pixel.0[1] < 128).collect();
        transparent.contains(&true).then_some(transparent)
    }

    /// Width, height, and four bytes a pixel, transparency the last.
    pub(crate) fn into_rgba8(self) -> (usize, usize, Vec<u8>) {
        let (width, height) = (self.width(), self.height());
        (width, height, self.image.into_rgba8().into_raw())
    }

    /// How bright the pixels are, 0 to 255.
    pub fn brightness(&self) -> Vec<u8> {
        self.image.to_luma8().into_raw()
    }

    /// A rectangle of it in 8-bit RGB, transparent parts on white.
    pub fn region(&self, x: usize, y: usize, width: usize, height: usize) -> Image {
        let [x, y, width, height] = [x, y, width, height].map(|value| value as u32);
        Image::flattened(&self.image.crop_imm(x, y, width, height))
    }

    /// All of it in 8-bit RGB, transparent parts on white.
    pub fn picture(&self) -> Image {
        Image::flattened(&self.image)
    }

    /// Puts pixels of `picture`, whose top left corner is at `x`, `y`, where `painted` says so (in coordinates
    /// of this picture). They become opaque, and grey in a grey picture.
    pub fn paint(
        &mut self,
        x: usize,
        y: usize,
        picture: &Image,
        painted: impl Fn(usize, usize) -> bool,
    ) {
        fn put<P: Pixel>(
            buffer: &mut ImageBuffer<P, Vec<P::Subpixel>>,
            (x, y): (usize, usize),
            picture: &Image,
            painted: impl Fn(usize, usize) -> bool,
            pixel: impl Fn([u8; 3]) -> P,
        ) {
            for (i, rgb) in picture.rgb.chunks_exact(3).enumerate() {
                let (x, y) = (x + i % picture.width, y + i / picture.width);
                if painted(x, y) {
                    buffer.put_pixel(x as u32, y as u32, pixel([rgb[0], rgb[1], rgb[2]]));
                }
            }
        }
        // Rec. 709, as the decoder's own conversions.
        let grey = |[r, g, b]: [u8; 3]| {
            let [r, g, b] = [r, g, b].map(u32::from);
            ((2126 * r + 7152 * g + 722 * b + 5000) / 10_000) as u8
        };
        // 255 becomes 65535.
        let wide = |value: u8| u16::from(value) * 257;
        const OPAQUE: u16 = u16::MAX;
        let at = (x, y);
        match &mut self.image {
            DynamicImage::ImageLuma8(to) => put(to, at, picture, painted, |c| Luma([grey(c)])),
            DynamicImage::ImageLumaA8(to) => {
                put(to, at, picture, painted, |c| LumaA([grey(c), u8::MAX]));
            }
            DynamicImage::ImageRgb8(to) => put(to, at, picture, painted, Rgb),
            DynamicImage::ImageRgba8(to) => {
                put(to, at, picture, painted, |[r, g, b]| {
                    Rgba([r, g, b, u8::MAX])
                });
            }
            DynamicImage::ImageLuma16(to) => {
                put(to, at, picture, painted, |c| Luma([wide(grey(c))]));
            }
            DynamicImage::ImageLumaA16(to) => {
                put(to, at, picture, painted, |c| LumaA([wide(grey(c)), OPAQUE]));
            }
            DynamicImage::ImageRgb16(to) => put(to, at, picture, painted, |c| Rgb(c.map(wide))),
            DynamicImage::ImageRgba16(to) => put(to, at, picture, painted, |c| {
                let [r, g, b] = c.map(wide);
                Rgba([r, g, b, OPAQUE])
            }),
            _ => unreachable!("decoded pictures have 8 or 16 bits"),
        }
    }

    /// The same with this many new pixels on each side, black (and transparent where it can be).
    pub fn extended(&self, left: usize, top: usize, right: usize, bottom: usize) -> Result<Self> {
        let grown = |side: usize, more: usize| side.saturating_add(more);
        let width = grown(grown(self.width(), left), right);
        let height = grown(grown(self.height(), top), bottom);
        Original::check_size(width, height)?;
        let mut image = DynamicImage::new(width as u32, height as u32, self.image.color());
        macro_rules! copy {
            ($($kind:ident),*) => {
                match (&mut image, &self.image) {
                    $((DynamicImage::$kind(to), DynamicImage::$kind(from)) => {
                        image::imageops::replace(to, from, left as i64, top as i64);
                    })*
                    _ => unreachable!("both have the same samples"),
                }
            };
        }
        copy!(
            ImageLuma8,
            ImageLumaA8,
            ImageRgb8,
            ImageRgba8,
            ImageLuma16,
            ImageLumaA16,
            ImageRgb16,
            ImageRgba16
        );
        Ok(Original {
            image,
            profile: self.profile.clone(),
        })
    }

    /// What an encoder of `format` takes: PNG the samples as they are; WebP 8-bit RGB with transparency where
    /// there is some; JPEG 8-bit RGB on white.
    pub fn samples(&self, format: Format) -> Samples {
        let (width, height) = (self.width(), self.height());
        let samples = |colour, bytes| Samples {
            width,
            height,
            colour,
            bytes,
            profile: self.profile.clone(),
        };
        // A profile of grey does not fit RGB.
        let coloured = |colour, bytes| Samples {
            profile: self.profile.clone().filter(|_| !self.is_grey()),
            ..samples(colour, bytes)
        };
        match format {
            Format::Png => {
                let colour = self.image.color().into();
                let bytes = self.image.as_bytes();
                let wide =
                    self.image.color().bytes_per_pixel() / self.image.color().channel_count() == 2;
                if !wide {
                    return samples(colour, bytes.to_vec());
                }
                let pairs = bytes.chunks_exact(2);
                let high_first =
                    pairs.flat_map(|pair| u16::from_ne_bytes([pair[0], pair[1]]).to_be_bytes());
                samples(colour, high_first.collect())
            }
            Format::Webp if self.image.color().has_alpha() => {
                coloured(ExtendedColorType::Rgba8, self.image.to_rgba8().into_raw())
            }
            Format::Webp | Format::Jpeg => coloured(ExtendedColorType::Rgb8, self.picture().rgb),
        }
    }

    /// What kind of samples it has: "8-bit grey with transparency".
    pub fn describe(&self) -> String {
        let colour = self.image.color();
        let bits = 8 * colour.bytes_per_pixel() / colour.channel_count();
        let kind = if colour.has_color() { "RGB" } else { "grey" };
        let alpha = if colour.has_alpha() {
            " with transparency"
        } else {
            ""
        };
        format!("{bits}-bit {kind}{alpha}")
    }

    /// Whether two pictures agree to the last bit at a pixel. They must have the same kind of samples.
    pub fn same_at(&self, other: &Original, x: usize, y: usize) -> bool {
        let width = self.image.color().bytes_per_pixel() as usize;
        let at = |image: &Original| (y * image.width() + x) * width;
        self.image.as_bytes()[at(self)..][..width] == other.image.as_bytes()[at(other)..][..width]
    }
}

impl From<&Image> for Original {
    fn from(picture: &Image) -> Self {
        let mut image = DynamicImage::new_rgb8(picture.width as u32, picture.height as u32);
        if let Some(buffer) = image.as_mut_rgb8() {
            buffer.copy_from_slice(&picture.rgb);
        }
        Original {
            image,
            profile: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::provenance;

    pub fn kinds() -> Vec<Original> {
        let noise = |i: usize| (i * 7919 + 13) % 65_536;
        let eight = |n: usize| (0..n * 20).map(|i| noise(i) as u8).collect::<Vec<u8>>();
        let sixteen = |n: usize| (0..n * 20).map(|i| noise(i) as u16).collect::<Vec<u16>>();
        macro_rules! image {
            ($kind:ident, $values:expr) => {
                DynamicImage::$kind(ImageBuffer::from_raw(5, 4, $values).unwrap())
            };
        }
        [
            image!(ImageLuma8, eight(1)),
            image!(ImageLumaA8, eight(2)),
            image!(ImageRgb8, eight(3)),
            image!(ImageRgba8, eight(4)),
            image!(ImageLuma16, sixteen(1)),
            image!(ImageLumaA16, sixteen(2)),
            image!(ImageRgb16, sixteen(3)),
            image!(ImageRgba16, sixteen(4)),
        ]
        .map(|image| Original {
            image,
            profile: None,
        })
        .into()
    }

    #[test]
    fn every_kind_of_samples_survives_a_png_and_is_painted_where_told() {
        for original in kinds() {
            let kind = original.describe();
            let samples = original.samples(Format::Png);
            let bytes = provenance::encode_samples(&samples, Format::Png, 90, "a\nb: c").unwrap();
            let back = Original::decode(&bytes, "a.png").unwrap();
            assert_eq!(back.image, original.image, "{kind}");
            let mut painted = original.clone();
            painted.paint(1, 1, &Image::filled(3, 2, [255; 3]), |x, y| {
                x == 2 || y == 2
            });
            for (x, y) in (0..20).map(|i| (i % 5, i / 5)) {
                let inside = (1..4).contains(&x) && (1..3).contains(&y) && (x == 2 || y == 2);
                if inside {
                    assert_eq!(painted.region(x, y, 1, 1).rgb, [255; 3], "{kind}");
                } else {
                    assert!(painted.same_at(&original, x, y), "{kind}");
                }
            }
        }
    }

    #[test]
    fn an_extended_picture_holds_the_old_one() {
        for original in kinds() {
            let extended = original.extended(3, 1, 0, 2).unwrap();
            assert_eq!((extended.width(), extended.height()), (8, 7));
            assert_eq!(extended.region(3, 1, 5, 4), original.picture());
            assert_eq!(extended.describe(), original.describe());
        }
        assert!(kinds()[0].extended(20_000, 0, 0, 0).is_err());
        assert!(kinds()[0].extended(usize::MAX, 0, 1, 0).is_err());
    }
}
