//! The backgrounds: exact functions of kind and colour, with every pattern's period an eighth of 64 px,
//! so that an image tokenizer with 8 px patches sees few different ones.

use super::background::{Background, BackgroundKind};
use super::colour::Colour;
use super::soft_backgrounds::{self, mix};
use crate::image::Image;

/// Draws a background; `size` is a multiple of 64.
pub(super) fn draw(background: Background, size: usize) -> Image {
    // Samples per pixel and direction: edges of dots and stars come out smooth.
    const SAMPLES: usize = 4;
    let unit = 64.0 / size as f32;
    let mut rgb = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            let mut sum = [0.0f32; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let shift = |i: usize| (i as f32 + 0.5) / SAMPLES as f32;
                let tone = tone(
                    background,
                    (x as f32 + shift(sample % SAMPLES)) * unit,
                    (y as f32 + shift(sample / SAMPLES)) * unit,
                );
                for channel in 0..3 {
                    sum[channel] += tone[channel];
                }
            }
            rgb.extend(sum.map(|s| (s / (SAMPLES * SAMPLES) as f32).round() as u8));
        }
    }
    Image {
        width: size,
        height: size,
        rgb,
    }
}

/// The colour at a point of the picture, 64 units wide and high.
fn tone(background: Background, x: f32, y: f32) -> [f32; 3] {
    let colour = background.colour.unwrap_or(Colour::White).ground();
    let white = Colour::White.ground();
    // Within the 8-unit cell, from its middle.
    let (cell_x, cell_y) = (x.rem_euclid(8.0) - 4.0, y.rem_euclid(8.0) - 4.0);
    match background.kind {
        BackgroundKind::Plain => colour,
        BackgroundKind::Gradient => mix(colour, white, (y / 64.0) * 0.9),
        BackgroundKind::Stripes => {
            if cell_x < 0.0 {
                colour
            } else {
                mix(colour, white, 0.7)
            }
        }
        BackgroundKind::Dots => {
            if cell_x * cell_x + cell_y * cell_y < 2.5 * 2.5 {
                colour
            } else {
                mix(colour, white, 0.85)
            }
        }
        BackgroundKind::SkyAndGrass => {
            // A horizon of blades.
            if y < 40.0 + 2.0 * (cell_x.abs() - 2.0) {
                [168.0, 214.0, 250.0]
            } else if y < 48.0 {
                [120.0, 196.0, 92.0]
            } else {
                [100.0, 176.0, 76.0]
            }
        }
        BackgroundKind::Night => {
            let (column, row) = ((x / 8.0) as usize, (y / 8.0) as usize);
            // One cell in four has a star, in a fixed pattern without rows or columns.
            let star = (column * 3 + row * 5) % 8 < 2;
            let radius = cell_x.abs() + cell_y.abs();
            if star && radius < 1.8 {
                [255.0, 244.0, 190.0]
            } else {
                [24.0, 30.0, 78.0]
            }
        }
        BackgroundKind::Sea => {
            let wave = cell_y + 1.0 - cell_x.abs() * 0.5;
            let base = mix(
                [62.0, 160.0, 214.0],
                [22.0, 96.0, 168.0],
                (y / 8.0).floor() / 8.0,
            );
            // Crests on every second row of cells.
            if wave.abs() < 0.9 && ((y / 8.0) as usize).is_multiple_of(2) {
                mix(base, [255.0; 3], 0.5)
            } else {
                base
            }
        }
        BackgroundKind::Room => {
            if y < 46.0 {
                [242.0, 226.0, 204.0]
            } else if y < 48.0 {
                [250.0, 248.0, 242.0]
            } else if cell_y > 3.2 || (cell_x > 3.2 && (y / 8.0) as usize == 6) {
                [142.0, 94.0, 58.0]
            } else {
                [184.0, 132.0, 86.0]
            }
        }
        BackgroundKind::Smooth
        | BackgroundKind::Fade
        | BackgroundKind::Table
        | BackgroundKind::Meadow
        | BackgroundKind::NightSky
        | BackgroundKind::Ocean
        | BackgroundKind::Parlour => soft_backgrounds::tone(background, x, y),
    }
}
