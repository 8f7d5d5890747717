//! A scene's picture.

use super::glyphs::Glyphs;
use super::scene::Scene;
use crate::image::Image;

/// Draws a scene of the world that `glyphs` was loaded for.
pub fn render(scene: &Scene, glyphs: &Glyphs) -> Image {
    let mut picture = (*glyphs.background(scene.background)).clone();
    for kind in &scene.kinds {
        let colour = scene.style.drawn_colour(kind.colour, scene.background.kind);
        for place in &kind.boxes {
            if let Some(master) = glyphs.master(kind.thing, place.size, scene.style) {
                master.draw(colour, &mut picture, (place.x, place.y));
                continue;
            }
            let sprite = glyphs.sprite(kind.thing, colour, place.size, scene.style);
            for row in 0..place.size {
                let start = ((place.y + row) * picture.width + place.x) * 3;
                let under = &mut picture.rgb[start..start + place.size * 3];
                let over = &sprite.pixels[row * place.size..(row + 1) * place.size];
                for (below, above) in under.chunks_exact_mut(3).zip(over) {
                    let through = 1.0 - above[3] / 255.0;
                    for channel in 0..3 {
                        let mixed = f32::from(below[channel]) * through + above[channel];
                        below[channel] = (mixed + 0.5) as u8;
                    }
                }
            }
        }
    }
    picture
}
