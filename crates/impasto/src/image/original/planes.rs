//! Samples as numbers in 0..1, plane after plane, as networks take them; and back.

use std::ops::Range;

use image::{DynamicImage, ImageBuffer, Pixel};
use impasto_resize::Layout;

use super::Original;
use crate::error::Reason;
use crate::image::{MAX_PIXELS, MAX_SIDE};
use crate::{Error, Result};

/// A sample of 8 or 16 bits.
trait Sample: Copy {
    fn unit(self) -> f32;
    fn of_unit(value: f32) -> Self;
}

impl Sample for u8 {
    fn unit(self) -> f32 {
        f32::from(self) / 255.0
    }

    fn of_unit(value: f32) -> Self {
        // Rounded; a cast keeps what is beyond its range at the end of it.
        (value * 255.0 + 0.5) as u8
    }
}

impl Sample for u16 {
    fn unit(self) -> f32 {
        f32::from(self) / 65_535.0
    }

    fn of_unit(value: f32) -> Self {
        (value * 65_535.0 + 0.5) as u16
    }
}

/// How bright a colour is, as OpenCV's conversion to grey has it (Rec. 601).
fn grey([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// Colours and opacity of a rectangle: `[3, height, width]` and `[height, width]`.
pub(crate) struct Planes {
    pub(crate) colours: Vec<f32>,
    /// None where all is opaque.
    pub(crate) opacity: Option<Vec<f32>>,
}

/// Runs one expression for whichever samples an image has.
macro_rules! each_kind {
    ($image:expr, $buffer:ident => $work:expr) => {
        match $image {
            DynamicImage::ImageLuma8($buffer) => $work,
            DynamicImage::ImageLumaA8($buffer) => $work,
            DynamicImage::ImageRgb8($buffer) => $work,
            DynamicImage::ImageRgba8($buffer) => $work,
            DynamicImage::ImageLuma16($buffer) => $work,
            DynamicImage::ImageLumaA16($buffer) => $work,
            DynamicImage::ImageRgb16($buffer) => $work,
            DynamicImage::ImageRgba16($buffer) => $work,
            _ => unreachable!("decoded pictures have 8 or 16 bits"),
        }
    };
}

fn read<P: Pixel<Subpixel: Sample>>(
    buffer: &ImageBuffer<P, Vec<P::Subpixel>>,
    columns: &[usize],
    rows: &[usize],
) -> Planes {
    let area = columns.len() * rows.len();
    let mut colours = vec![0.0; 3 * area];
    let mut opacity = vec![1.0; if P::HAS_ALPHA { area } else { 0 }];
    for (i, &y) in rows.iter().enumerate() {
        for (j, &x) in columns.iter().enumerate() {
            let at = i * columns.len() + j;
            let samples = buffer.get_pixel(x as u32, y as u32).channels();
            let coloured = samples.len() >= 3;
            for channel in 0..3 {
                let from = if coloured { channel } else { 0 };
                colours[channel * area + at] = samples[from].unit();
            }
            if P::HAS_ALPHA {
                opacity[at] = samples[samples.len() - 1].unit();
            }
        }
    }
    let opaque = opacity.iter().all(|&value| value == 1.0);
    Planes {
        colours,
        opacity: (!opaque).then_some(opacity),
    }
}

fn write<P: Pixel<Subpixel: Sample>>(
    buffer: &mut ImageBuffer<P, Vec<P::Subpixel>>,
    (columns, rows): (Range<usize>, Range<usize>),
    planes: &Planes,
) {
    let (width, area) = (columns.len(), columns.len() * rows.len());
    for (i, y) in rows.enumerate() {
        for (j, x) in columns.clone().enumerate() {
            let at = i * width + j;
            let colour = [0, 1, 2].map(|channel| planes.colours[channel * area + at]);
            let opacity = planes.opacity.as_ref().map_or(1.0, |opacity| opacity[at]);
            let samples = buffer.get_pixel_mut(x as u32, y as u32).channels_mut();
            match samples.len() {
                1 | 2 => samples[0] = P::Subpixel::of_unit(grey(colour)),
                _ => {
                    for (sample, value) in samples.iter_mut().zip(colour) {
                        *sample = P::Subpixel::of_unit(value);
                    }
                }
            }
            if P::HAS_ALPHA {
                let last = samples.len() - 1;
                samples[last] = P::Subpixel::of_unit(opacity);
            }
        }
    }
}

impl Planes {
    /// Opacity as the grey picture that it is.
    pub(crate) fn opacity_as_grey(&self) -> Option<Vec<f32>> {
        Some(self.opacity.as_ref()?.repeat(3))
    }

    /// What [`Planes::opacity_as_grey`] has become.
    pub(crate) fn grey_as_opacity(colours: &[f32]) -> Vec<f32> {
        let area = colours.len() / 3;
        let colour = |i: usize| [0, 1, 2].map(|channel| colours[channel * area + i]);
        (0..area).map(|i| grey(colour(i))).collect()
    }
}

impl Original {
    /// The pixels where these columns and rows meet, colours as they are below transparency.
    pub(crate) fn planes(&self, columns: &[usize], rows: &[usize]) -> Planes {
        each_kind!(&self.image, buffer => read(buffer, columns, rows))
    }

    /// Sets the pixels of a rectangle; values beyond 0..1 are cut off.
    pub(crate) fn set_planes(&mut self, rectangle: (Range<usize>, Range<usize>), planes: &Planes) {
        each_kind!(&mut self.image, buffer => write(buffer, rectangle, planes));
    }

    /// Refuses sizes that no picture may have.
    pub(crate) fn check_size(width: usize, height: usize) -> Result<()> {
        let side = MAX_SIDE as usize;
        let sides = 1..=side;
        if !sides.contains(&width)
            || !sides.contains(&height)
            || (width * height) as u64 > MAX_PIXELS
        {
            let reason = format!(
                "would be {width}x{height} pixels, expected 1 to {side} a side and at most {MAX_PIXELS} in all"
            );
            return Err(Error::invalid("picture", reason));
        }
        Ok(())
    }

    /// A black picture of another size with the same kind of samples and profile.
    pub(crate) fn of_size(&self, width: usize, height: usize) -> Result<Self> {
        Original::check_size(width, height)?;
        Ok(Original {
            image: DynamicImage::new(width as u32, height as u32, self.image.color()),
            profile: self.profile.clone(),
        })
    }

    /// The same in 8-bit RGB with transparency.
    #[cfg(test)]
    pub(crate) fn with_transparency(self) -> Self {
        Original {
            image: DynamicImage::ImageRgba8(self.image.into_rgba8()),
            profile: self.profile,
        }
    }

    /// Scaled with a Lanczos-3 filter, in its own samples; what is transparent counts less.
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        if (width, height) == (self.width(), self.height()) {
            return Ok(self.clone());
        }
        let mut scaled = self.of_size(width, height)?;
        let colour = self.image.color();
        let wide = colour.bytes_per_pixel() / colour.channel_count() == 2;
        let layout = Layout {
            channels: colour.channel_count().into(),
            wide,
        };
        let sides = [self.width(), self.height()];
        let found = impasto_resize::lanczos(self.image.as_bytes(), layout, sides, [width, height])
            .map_err(|e| Error::invalid("picture", Reason::of(e)))?;
        each_kind!(&mut scaled.image, buffer => {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(buffer);
            bytes.copy_from_slice(&found);
        });
        Ok(scaled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::image::original::tests::kinds;

    #[test]
    fn planes_hold_every_kind_of_samples() {
        for original in kinds() {
            let kind = original.describe();
            let planes = original.planes(&[0, 1, 2, 3, 4], &[0, 1, 2, 3]);
            assert_eq!(planes.opacity.is_some(), kind.contains("transparency"));
            let mut back = original.of_size(5, 4).unwrap();
            back.set_planes((0..5, 0..4), &planes);
            for (x, y) in (0..20).map(|i| (i % 5, i / 5)) {
                assert!(back.same_at(&original, x, y), "{kind} at {x}, {y}");
            }
            // A part of it, with a column that stands twice.
            let part = original.planes(&[4, 4], &[1]);
            assert_eq!(part.colours[0], part.colours[1]);
            assert_eq!(part.colours[0], planes.colours[9]);
        }
    }

    #[test]
    fn scaled_pictures_keep_their_samples() {
        for original in kinds() {
            let scaled = original.resize(10, 2).unwrap();
            assert_eq!((scaled.width(), scaled.height()), (10, 2));
            assert_eq!(scaled.describe(), original.describe());
            assert!(original.resize(0, 3).is_err() && original.resize(20_000, 1).is_err());
        }
    }
}
