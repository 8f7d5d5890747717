//! A glyph's picture, and painting it in a colour.

use super::colour::Colour;

/// A glyph's picture, cropped to its ink, with straight alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glyph {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 4` bytes: red, green, blue, alpha.
    pub rgba: Vec<u8>,
}

impl Glyph {
    /// Cuts the transparent border off. `None` when there is no ink at all.
    pub(super) fn cropped(width: usize, height: usize, rgba: &[u8]) -> Option<Self> {
        let inked = |x: usize, y: usize| rgba[(y * width + x) * 4 + 3] > 24;
        let rows: Vec<usize> = (0..height)
            .filter(|&y| (0..width).any(|x| inked(x, y)))
            .collect();
        let columns: Vec<usize> = (0..width)
            .filter(|&x| (0..height).any(|y| inked(x, y)))
            .collect();
        let (top, bottom) = (*rows.first()?, *rows.last()?);
        let (left, right) = (*columns.first()?, *columns.last()?);
        let mut cut = Vec::with_capacity((bottom - top + 1) * (right - left + 1) * 4);
        for y in top..=bottom {
            cut.extend_from_slice(&rgba[(y * width + left) * 4..(y * width + right + 1) * 4]);
        }
        Some(Glyph {
            width: right - left + 1,
            height: bottom - top + 1,
            rgba: cut,
        })
    }

    /// What its brightness ranges over.
    pub(super) fn tones(&self) -> Tones {
        let mut histogram = [0u64; 256];
        for px in self.rgba.chunks_exact(4) {
            histogram[luminance(px) as usize] += u64::from(px[3]);
        }
        let total: u64 = histogram.iter().sum::<u64>().max(1);
        let percentile = |share: f64| {
            let mut sum = 0;
            for (value, count) in histogram.iter().enumerate() {
                sum += count;
                if sum as f64 >= share * total as f64 {
                    return value as f32;
                }
            }
            255.0
        };
        let middle = percentile(0.55);
        // Glyphs of one tone keep a gentle slope, instead of noise blown up to black and white.
        let low = percentile(0.04).min(middle - 48.0);
        let high = percentile(0.96).max(middle + 48.0);
        Tones { low, middle, high }
    }

    /// The look in a colour: its light and dark stay, its hues go.
    ///
    /// Brightness is stretched so that the middle of the glyph gets the colour's own tone; a hue
    /// rotation would leave grey and white glyphs uncoloured.
    pub(super) fn painted(&self, colour: Colour) -> Glyph {
        let ramp = self.tones().ramp(colour);
        let mut painted = self.clone();
        for px in painted.rgba.chunks_exact_mut(4) {
            let tone = ramp[luminance(px) as usize];
            px[..3].copy_from_slice(&tone);
        }
        painted
    }

    pub(super) fn grey(&self) -> Glyph {
        let mut grey = self.clone();
        for px in grey.rgba.chunks_exact_mut(4) {
            let tone = luminance(px);
            px[..3].fill(tone);
        }
        grey
    }
}

/// The brightness that little of a glyph is darker than, that of its middle, and that little is brighter than.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tones {
    low: f32,
    middle: f32,
    high: f32,
}

impl Tones {
    /// For every brightness the tone that it is painted in.
    pub(super) fn ramp(self, colour: Colour) -> [[u8; 3]; 256] {
        let Tones { low, middle, high } = self;
        let paint = colour.paint();
        let dark = paint.map(|c| c * 0.36);
        let light = paint.map(|c| c + (255.0 - c) * 0.42);
        let mut ramp = [[0u8; 3]; 256];
        for (value, tone) in ramp.iter_mut().enumerate() {
            let value = value as f32;
            for channel in 0..3 {
                let mixed = if value < middle {
                    let t = ((value - low) / (middle - low)).clamp(0.0, 1.0);
                    dark[channel] + (paint[channel] - dark[channel]) * t
                } else {
                    let t = ((value - middle) / (high - middle)).clamp(0.0, 1.0);
                    paint[channel] + (light[channel] - paint[channel]) * t
                };
                tone[channel] = mixed.round() as u8;
            }
        }
        ramp
    }
}

/// Rec. 601 luma.
fn luminance(px: &[u8]) -> u8 {
    ((u32::from(px[0]) * 299 + u32::from(px[1]) * 587 + u32::from(px[2]) * 114 + 500) / 1000) as u8
}
