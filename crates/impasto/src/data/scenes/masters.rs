//! Sprites of the art styles: shrunk once to each size, painted and laid onto pictures in fixed point.
//!
//! A world of a thousand things in five styles and eight colours has too many sprites to keep. What is kept are the
//! natural ones at each size, in bytes (a quarter of the memory of [`Sprite`]s); colours follow from them by a ramp
//! over their brightness, quickly enough to be painted each time.

use super::colour::Colour;
use super::glyph::{Glyph, Tones};
use super::sprites::Sprite;
use super::style::Style;
use crate::image::Image;

/// A thing's natural picture at one size.
pub(super) struct Master {
    /// Width and height of the box in px.
    size: usize,
    /// The ink's left upper corner in the box, and its width.
    left: usize,
    top: usize,
    width: usize,
    /// Rows of `width` pixels: red, green, blue (each times alpha / 255), alpha.
    ink: Vec<[u8; 4]>,
    tones: Tones,
    style: Style,
    shadow: Option<Shadow>,
}

/// What a thing darkens below itself: alpha, row by row over the whole width of the box.
struct Shadow {
    top: usize,
    alpha: Vec<u8>,
}

impl Master {
    pub(super) fn new(glyph: &Glyph, size: usize, style: Style) -> Self {
        // The shadow of a volume needs some room below it.
        let is_volume = style == Style::Fluent3d;
        let room = if is_volume {
            size - size / 12
        } else {
            size - 2
        };
        let (width, height, scaled) = Sprite::scaled(glyph, room);
        let ink: Vec<[u8; 4]> = scaled
            .iter()
            .map(|px| px.map(|v| (v + 0.5) as u8))
            .collect();
        let left = (size - width) / 2;
        let top = if is_volume {
            ((room - height) / 2).max(1)
        } else {
            (size - height) / 2
        };
        let shadow = is_volume.then(|| Shadow::below(&ink, (left, top), (width, height), size));
        Master {
            size,
            left,
            top,
            width,
            ink,
            tones: glyph.tones(),
            style,
            shadow,
        }
    }

    /// Lays the thing onto a picture with its box's left upper corner at `x`, `y`.
    pub(super) fn draw(&self, colour: Option<Colour>, picture: &mut Image, (x, y): (usize, usize)) {
        if let Some(shadow) = &self.shadow {
            for (row, alpha) in shadow.alpha.chunks_exact(self.size).enumerate() {
                let start = ((y + shadow.top + row) * picture.width + x) * 3;
                let under = &mut picture.rgb[start..start + self.size * 3];
                for (below, &alpha) in under.chunks_exact_mut(3).zip(alpha) {
                    for value in below {
                        *value = scale(*value, 255 - alpha);
                    }
                }
            }
        }
        let brush = colour.map(|colour| self.brush(colour));
        for (row, ink) in self.ink.chunks_exact(self.width).enumerate() {
            let start = ((y + self.top + row) * picture.width + x + self.left) * 3;
            let under = &mut picture.rgb[start..start + self.width * 3];
            for (below, &px) in under.chunks_exact_mut(3).zip(ink) {
                if px[3] == 0 {
                    continue;
                }
                let px = brush.as_ref().map_or(px, |brush| brush.paint(px));
                for channel in 0..3 {
                    below[channel] = scale(below[channel], 255 - px[3]).saturating_add(px[channel]);
                }
            }
        }
    }

    /// The same as a sprite of its own: thing and shadow.
    pub(super) fn sprite(&self, colour: Option<Colour>) -> Sprite {
        let size = self.size;
        let mut pixels = vec![[0.0; 4]; size * size];
        if let Some(shadow) = &self.shadow {
            for (px, &alpha) in pixels[shadow.top * size..].iter_mut().zip(&shadow.alpha) {
                px[3] = f32::from(alpha);
            }
        }
        let brush = colour.map(|colour| self.brush(colour));
        for (row, ink) in self.ink.chunks_exact(self.width).enumerate() {
            let start = (self.top + row) * size + self.left;
            for (below, &px) in pixels[start..].iter_mut().zip(ink) {
                let px = brush.as_ref().map_or(px, |brush| brush.paint(px));
                let through = 1.0 - f32::from(px[3]) / 255.0;
                for channel in 0..4 {
                    below[channel] = below[channel] * through + f32::from(px[channel]);
                }
            }
        }
        Sprite { size, pixels }
    }

    fn brush(&self, colour: Colour) -> Brush {
        Brush {
            ramp: match self.style {
                // One ink, as evenly as the black.
                Style::HighContrast => [colour.paint().map(|c| c as u8); 256],
                _ => self.tones.ramp(colour),
            },
        }
    }
}

impl Shadow {
    /// A soft ellipse around the lowest ink, as wide as what stands there.
    fn below(
        ink: &[[u8; 4]],
        (left, top): (usize, usize),
        (width, height): (usize, usize),
        size: usize,
    ) -> Self {
        // What the lowest tenth covers.
        let foot = (height - height.div_ceil(10)) * width;
        let columns: Vec<usize> = (0..width)
            .filter(|&x| {
                ink[foot..]
                    .iter()
                    .skip(x)
                    .step_by(width)
                    .any(|px| px[3] > 128)
            })
            .collect();
        let (first, last) = match (columns.first(), columns.last()) {
            (Some(&first), Some(&last)) => (first as f32, last as f32),
            _ => (0.0, width as f32 - 1.0),
        };
        let unit = size as f32 / 12.0;
        let centre_x = left as f32 + (first + last) / 2.0;
        // A narrow foot still throws a shadow of the thing above it.
        let reach = ((last - first) / 2.0 + unit * 0.8).max(width as f32 * 0.3);
        let centre_y = (top + height) as f32 - 0.5 - unit * 0.15;
        let rise = unit * 1.05;
        let first_row = ((centre_y - rise).floor().max(0.0) as usize).min(size - 1);
        let mut alpha = Vec::with_capacity((size - first_row) * size);
        for y in first_row..size {
            for x in 0..size {
                let dx = (x as f32 - centre_x) / reach;
                let dy = (y as f32 - centre_y) / rise;
                let share = (1.0 - dx * dx - dy * dy).max(0.0);
                alpha.push((92.0 * share.powf(1.2) + 0.5) as u8);
            }
        }
        Shadow {
            top: first_row,
            alpha,
        }
    }
}

/// Paints pixels in one colour.
struct Brush {
    ramp: [[u8; 3]; 256],
}

impl Brush {
    fn paint(&self, px: [u8; 4]) -> [u8; 4] {
        let alpha = px[3];
        if alpha == 0 {
            return px;
        }
        // Rec. 601 luma, in 1024ths, of the colour without its alpha.
        let luma = u32::from(px[0]) * 306 + u32::from(px[1]) * 601 + u32::from(px[2]) * 117;
        let bright = ((luma * 255 / u32::from(alpha) + 512) >> 10).min(255);
        let [red, green, blue] = self.ramp[bright as usize];
        [
            scale(red, alpha),
            scale(green, alpha),
            scale(blue, alpha),
            alpha,
        ]
    }
}

/// `value * share / 255`, rounded.
fn scale(value: u8, share: u8) -> u8 {
    let product = u32::from(value) * u32::from(share) + 128;
    ((product + (product >> 8)) >> 8) as u8
}
