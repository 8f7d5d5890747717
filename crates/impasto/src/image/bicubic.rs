//! Scaling as Pillow does it, byte for byte: the networks that we import were trained with it.
//!
//! Source: Pillow's `src/libImaging/Resample.c` (8 bits a channel): a cubic convolution filter (a = −1/2)
//! that grows with the reduction, weights in fixed point with 22 bits, columns first, each pass rounded to
//! 8 bits. Pillow 13 begins with the rows of some tall pictures; the networks' training did not.

use rayon::prelude::*;

use super::Image;
use crate::{Error, Result};

/// Bits after the binary point of a weight: 8 of a value and 2 of overshoot leave 22 of 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Radius of the filter where nothing is reduced.
const SUPPORT: f64 = 2.0;

/// One of Pillow's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle.
    Bilinear,
    /// Keys' cubic convolution with a = −1/2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => SUPPORT,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Bicubic => cubic(x),
        }
    }
}

impl Image {
    /// The short side scaled to `size` with Pillow's bicubic filter, then the middle square: torchvision's
    /// `Resize(size, BICUBIC)` and `CenterCrop(size)`, of which only the square is computed.
    pub fn fit_square_bicubic(&self, size: usize) -> Result<Self> {
        if size == 0 || self.rgb.is_empty() {
            return Err(Error::invalid(
                "picture",
                format!(
                    "{}x{} can't be scaled to {size}x{size}",
                    self.width, self.height
                ),
            ));
        }
        let short = self.width.min(self.height);
        let scaled = |side: usize| {
            if side == short {
                size
            } else {
                (size as f64 * side as f64 / short as f64) as usize
            }
        };
        let columns = Weights::new(self.width, scaled(self.width), size);
        let rows = Weights::new(self.height, scaled(self.height), size);
        self.weighed(&columns, &rows)
    }

    /// All of the picture in a square, whatever its shape: Pillow's `resize((size, size))`.
    pub fn squash(&self, size: usize, filter: Filter) -> Result<Self> {
        if size == 0 || self.rgb.is_empty() {
            return Err(Error::invalid(
                "picture",
                format!(
                    "{}x{} can't be scaled to {size}x{size}",
                    self.width, self.height
                ),
            ));
        }
        self.weighed(
            &Weights::with(filter, self.width, size, size),
            &Weights::with(filter, self.height, size, size),
        )
    }

    /// All of the picture in a square: the long side scaled to `size` with Pillow's bicubic filter, the other one to
    /// what it is then, rounded, but to `smallest` at least, with `padding` on both of its sides (transformers'
    /// `JanusImageProcessorPil`; the original truncates where this rounds).
    pub fn fit_whole_bicubic(
        &self,
        size: usize,
        padding: [u8; 3],
        smallest: usize,
    ) -> Result<Self> {
        let long = self.width.max(self.height);
        if size == 0 || smallest > size || self.rgb.is_empty() {
            return Err(Error::invalid(
                "picture",
                format!(
                    "{}x{} can't be scaled to {size}x{size}",
                    self.width, self.height
                ),
            ));
        }
        let share = size as f64 / long as f64;
        let scaled = |side: usize| {
            let rounded = (side as f64 * share).round_ties_even() as usize;
            rounded.clamp(smallest.max(1), size)
        };
        let (width, height) = (scaled(self.width), scaled(self.height));
        let inner = self.weighed(
            &Weights::new(self.width, width, width),
            &Weights::new(self.height, height, height),
        )?;
        let mut square = Image::filled(size, size, padding);
        let (left, top) = ((size - width) / 2, (size - height) / 2);
        for (y, row) in inner.rgb.chunks_exact(3 * width).enumerate() {
            let start = 3 * ((top + y) * size + left);
            square.rgb[start..start + row.len()].copy_from_slice(row);
        }
        Ok(square)
    }

    /// The picture that these weights make, a side each.
    fn weighed(&self, columns: &Weights, rows: &Weights) -> Result<Self> {
        let (width, height) = (columns.taps.len(), rows.taps.len());
        // The rows that any output row is made of.
        let (top, bottom) = rows.reach();
        let mut between = vec![0u8; (bottom - top) * width * 3];
        between
            .par_chunks_mut(width * 3)
            .zip(self.rgb.par_chunks(self.width * 3).skip(top))
            .for_each(|(to, from)| {
                for (pixel, taps) in to.chunks_exact_mut(3).zip(&columns.taps) {
                    pixel.copy_from_slice(&taps.sum(|i| &from[3 * i..3 * i + 3]));
                }
            });
        let mut rgb = vec![0u8; height * width * 3];
        rgb.par_chunks_mut(width * 3)
            .zip(&rows.taps)
            .for_each(|(to, taps)| {
                for (x, pixel) in to.chunks_exact_mut(3).enumerate() {
                    let at = |i: usize| {
                        let start = 3 * ((i - top) * width + x);
                        &between[start..start + 3]
                    };
                    pixel.copy_from_slice(&taps.sum(at));
                }
            });
        Image::new(width, height, rgb)
    }
}

/// How each output of one axis is made.
struct Weights {
    taps: Vec<Taps>,
}

struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn sum<'a>(&self, pixel: impl Fn(usize) -> &'a [u8]) -> [u8; 3] {
        let mut sums = [1i32 << (PRECISION_BITS - 1); 3];
        for (i, &weight) in self.weights.iter().enumerate() {
            let pixel = pixel(self.first + i);
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        sums.map(|sum| (sum >> PRECISION_BITS).clamp(0, 255) as u8)
    }
}

impl Weights {
    /// [`Weights::with`] the bicubic filter.
    fn new(from: usize, to: usize, size: usize) -> Self {
        Weights::with(Filter::Bicubic, from, to, size)
    }

    /// The middle `size` of `to` outputs over `from` inputs.
    fn with(filter: Filter, from: usize, to: usize, size: usize) -> Self {
        let start = round_half_even(to - size);
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let taps = (start..start + size)
            .map(|i| {
                let centre = (i as f64 + 0.5) * scale;
                // Truncated towards zero before they are cut to the picture, as C does.
                let first = ((centre - support + 0.5) as i64).max(0) as usize;
                let end = ((centre + support + 0.5) as i64).min(from as i64) as usize;
                let weights: Vec<f64> = (first..end)
                    .map(|j| filter.at((j as f64 - centre + 0.5) * (1.0 / filter_scale)))
                    .collect();
                let share = 1.0 / weights.iter().sum::<f64>();
                let fixed = |weight: f64| {
                    let weight = weight * share * f64::from(1u32 << PRECISION_BITS);
                    (weight + 0.5f64.copysign(weight)) as i32
                };
                Taps {
                    first,
                    weights: weights.into_iter().map(fixed).collect(),
                }
            })
            .collect();
        Weights { taps }
    }

    /// The first input and the one after the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.taps.iter().map(|taps| taps.first).min();
        let end = self.taps.iter().map(|taps| taps.first + taps.weights.len());
        (first.unwrap_or(0), end.max().unwrap_or(0))
    }
}

/// Half of `n`, as Python's `round` does it.
fn round_half_even(n: usize) -> usize {
    n / 2 + usize::from(n % 4 == 3)
}

/// Keys' cubic convolution with a = −1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use safetensors::SafeTensors;

    use super::*;

    /// `reference/write_clip_goldens.py` made the file with Pillow and torchvision.
    const GOLDENS: &[u8] = include_bytes!("goldens/bicubic.safetensors");

    fn golden(name: &str) -> Image {
        let file = SafeTensors::deserialize(GOLDENS).unwrap();
        let view = file.tensor(name).unwrap();
        Image::new(view.shape()[1], view.shape()[0], view.data().to_vec()).unwrap()
    }

    #[test]
    fn every_byte_is_pillows() {
        for i in 0..6 {
            let expected = golden(&format!("{i}.square"));
            let picture = golden(&format!("{i}.picture"));
            let found = picture.fit_square_bicubic(expected.width).unwrap();
            assert!(
                found == expected,
                "picture {i}, {picture:?} to {expected:?}"
            );
        }
    }

    /// Scaled whole, this one would take gigabytes.
    #[test]
    fn a_very_long_picture_is_scaled_within_its_middle() {
        let long = Image::filled(60_000, 1, [7, 8, 9]);
        let square = long.fit_square_bicubic(224).unwrap();
        assert!(square == Image::filled(224, 224, [7, 8, 9]));
        assert!(long.fit_square_bicubic(0).is_err());
    }
}
