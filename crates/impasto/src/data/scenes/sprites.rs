//! From a glyph to the pixels that are drawn: painting in a colour, style, scaling.

use super::colour::Colour;
use super::glyph::Glyph;
use super::style::Style;

/// A thing's pixels, as large as its box: premultiplied colour and alpha, from 0 to 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Sprite {
    /// Width and height of the box in px.
    pub size: usize,
    /// `size * size` pixels: red, green, blue (each times alpha / 255), alpha.
    pub pixels: Vec<[f32; 4]>,
}

impl Sprite {
    /// Draws `glyph` into a box of `size` px: a border of 1 px stays free, the longer side fills the
    /// rest, the shorter one is centred.
    pub(super) fn new(glyph: &Glyph, colour: Option<Colour>, size: usize, style: Style) -> Self {
        let painted = match (colour, style) {
            (_, Style::Grey) => glyph.grey(),
            (Some(colour), _) => glyph.painted(colour),
            (None, _) => glyph.clone(),
        };
        let room = size - 2;
        match style {
            Style::Pixels => {
                // Cells of an eighth of the box at least, so that 24 px still show a shape.
                let cell = (size / 16).max(2);
                let coarse = Self::placed(&painted, room / cell, room / cell);
                let mut pixels = vec![[0.0; 4]; size * size];
                let shift = (size - coarse.size * cell) / 2;
                for y in 0..coarse.size * cell {
                    for x in 0..coarse.size * cell {
                        let mut px = coarse.pixels[y / cell * coarse.size + x / cell];
                        // Pixel art has hard edges.
                        if px[3] < 112.0 {
                            px = [0.0; 4];
                        } else {
                            px = px.map(|v| v * 255.0 / px[3]);
                        }
                        pixels[(y + shift) * size + x + shift] = px;
                    }
                }
                Sprite { size, pixels }
            }
            Style::Outline => Self::placed(&painted, size, room).outline(),
            Style::Sticker => {
                let border = (size / 20).max(2);
                Self::placed(&painted, size, room - 2 * border).sticker(border)
            }
            _ => Self::placed(&painted, size, room),
        }
    }

    /// Width, height and premultiplied pixels of the glyph scaled so that its longer side is `room`.
    pub(super) fn scaled(glyph: &Glyph, room: usize) -> (usize, usize, Vec<[f32; 4]>) {
        let longer = glyph.width.max(glyph.height) as f32;
        let scale = room as f32 / longer;
        let width = ((glyph.width as f32 * scale).round() as usize).max(1);
        let height = ((glyph.height as f32 * scale).round() as usize).max(1);
        let source: Vec<[f32; 4]> = glyph
            .rgba
            .chunks_exact(4)
            .map(|px| {
                let alpha = f32::from(px[3]) / 255.0;
                [
                    f32::from(px[0]) * alpha,
                    f32::from(px[1]) * alpha,
                    f32::from(px[2]) * alpha,
                    f32::from(px[3]),
                ]
            })
            .collect();
        let scaled = resize(&source, glyph.width, glyph.height, width, height);
        (width, height, scaled)
    }

    /// The glyph scaled so that its longer side is `room`, in the middle of a box.
    fn placed(glyph: &Glyph, size: usize, room: usize) -> Self {
        let (width, height, scaled) = Self::scaled(glyph, room);
        let (left, top) = ((size - width) / 2, (size - height) / 2);
        let mut pixels = vec![[0.0; 4]; size * size];
        for y in 0..height {
            let row = (y + top) * size + left;
            pixels[row..row + width].copy_from_slice(&scaled[y * width..(y + 1) * width]);
        }
        Sprite { size, pixels }
    }

    fn alpha(&self, x: isize, y: isize) -> f32 {
        let size = self.size as isize;
        if x < 0 || y < 0 || x >= size || y >= size {
            return 0.0;
        }
        self.pixels[(y * size + x) as usize][3]
    }

    /// Paper white inside, ink where alpha or brightness changes quickly.
    fn outline(&self) -> Self {
        let size = self.size as isize;
        let bright = |x: isize, y: isize| {
            if x < 0 || y < 0 || x >= size || y >= size {
                return 0.0;
            }
            let px = self.pixels[(y * size + x) as usize];
            // Transparent counts as paper.
            0.299 * px[0] + 0.587 * px[1] + 0.114 * px[2] + (255.0 - px[3])
        };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..size {
            for x in 0..size {
                let alpha = self.alpha(x, y);
                let edge = |f: &dyn Fn(isize, isize) -> f32| {
                    let horizontal = f(x + 1, y) - f(x - 1, y);
                    let vertical = f(x, y + 1) - f(x, y - 1);
                    (horizontal * horizontal + vertical * vertical).sqrt()
                };
                let shape = edge(&|x, y| self.alpha(x, y));
                let inner = edge(&bright);
                let ink = ((shape * 0.9 + inner * 1.6) / 255.0).clamp(0.0, 1.0) * alpha / 255.0;
                let own = self.pixels[(y * size + x) as usize];
                let mut px = [0.0, 0.0, 0.0, alpha];
                for channel in 0..3 {
                    // Ink is the thing's own colour, darkened.
                    px[channel] = alpha * (1.0 - ink) + own[channel] * 0.55 * ink;
                }
                pixels.push(px);
            }
        }
        Sprite {
            size: self.size,
            pixels,
        }
    }

    /// A white border of `border` px around the ink.
    fn sticker(&self, border: usize) -> Self {
        let size = self.size as isize;
        let reach = border as isize;
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..size {
            for x in 0..size {
                let mut white: f32 = 0.0;
                for dy in -reach..=reach {
                    for dx in -reach..=reach {
                        if dx * dx + dy * dy <= reach * reach {
                            white = white.max(self.alpha(x + dx, y + dy));
                        }
                    }
                }
                let own = self.pixels[(y * size + x) as usize];
                let under = 1.0 - own[3] / 255.0;
                let tone = 252.0 / 255.0 * white * under;
                pixels.push([
                    own[0] + tone,
                    own[1] + tone,
                    own[2] + tone,
                    own[3] + white * under,
                ]);
            }
        }
        Sprite {
            size: self.size,
            pixels,
        }
    }
}

/// Resamples premultiplied pixels with a Catmull-Rom kernel, stretched when shrinking.
fn resize(
    source: &[[f32; 4]],
    width: usize,
    height: usize,
    new_width: usize,
    new_height: usize,
) -> Vec<[f32; 4]> {
    let across = kernel(width, new_width);
    let down = kernel(height, new_height);
    let mut wide = vec![[0.0f32; 4]; height * new_width];
    for y in 0..height {
        for (x, (first, weights)) in across.iter().enumerate() {
            let px = &mut wide[y * new_width + x];
            for (i, weight) in weights.iter().enumerate() {
                let from = source[y * width + first + i];
                for channel in 0..4 {
                    px[channel] += from[channel] * weight;
                }
            }
        }
    }
    let mut scaled = vec![[0.0f32; 4]; new_height * new_width];
    for (y, (first, weights)) in down.iter().enumerate() {
        for (i, weight) in weights.iter().enumerate() {
            for x in 0..new_width {
                let from = wide[(first + i) * new_width + x];
                let px = &mut scaled[y * new_width + x];
                for channel in 0..4 {
                    px[channel] += from[channel] * weight;
                }
            }
        }
    }
    for px in &mut scaled {
        px[3] = px[3].clamp(0.0, 255.0);
        for channel in 0..3 {
            px[channel] = px[channel].clamp(0.0, px[3]);
        }
    }
    scaled
}

/// For every new pixel the first old one that it reads and the weights.
fn kernel(old: usize, new: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = old as f32 / new as f32;
    let stretch = scale.max(1.0);
    let cubic = |x: f32| {
        let x = x.abs();
        if x < 1.0 {
            1.5 * x * x * x - 2.5 * x * x + 1.0
        } else if x < 2.0 {
            -0.5 * x * x * x + 2.5 * x * x - 4.0 * x + 2.0
        } else {
            0.0
        }
    };
    (0..new)
        .map(|i| {
            let centre = (i as f32 + 0.5) * scale - 0.5;
            let first = (centre - 2.0 * stretch).ceil().max(0.0) as usize;
            let last = ((centre + 2.0 * stretch).floor() as usize).min(old - 1);
            let mut weights: Vec<f32> = (first..=last)
                .map(|j| cubic((j as f32 - centre) / stretch))
                .collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            (first, weights)
        })
        .collect()
}
