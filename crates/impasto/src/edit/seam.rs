//! Pixels that continue smoothly: into a hole before it is drawn, and over the seam afterwards.
//!
//! Holes are filled by push and pull (Gortler et al. 1996, "The Lumigraph", section 3.3): means of what is
//! known on ever coarser levels, then down again. Seams are closed as in Poisson image editing (Pérez et al.
//! 2003): the difference between the known pixels and the drawn ones there is carried into the hole. Deviation:
//! the same push and pull stands in for the solution of Laplace's equation, and the difference fades out within
//! a few pixels, so that what was drawn keeps its colours.

use super::mask::Mask;
use crate::image::Image;

/// Three values a pixel, of which some are known.
struct Field {
    width: usize,
    height: usize,
    values: Vec<[f32; 3]>,
    /// 1 is known, 0 is not.
    weight: Vec<f32>,
}

impl Field {
    /// Half as wide and high; each value the mean of the known ones.
    fn pulled(&self) -> Field {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut values = vec![[0.0; 3]; width * height];
        let mut weight = vec![0.0; width * height];
        for y in 0..self.height {
            for x in 0..self.width {
                let (from, to) = (y * self.width + x, y / 2 * width + x / 2);
                let known = self.weight[from];
                for (sum, value) in values[to].iter_mut().zip(self.values[from]) {
                    *sum += known * value;
                }
                weight[to] += known;
            }
        }
        for (value, weight) in values.iter_mut().zip(&mut weight) {
            if *weight > 0.0 {
                *value = value.map(|sum| sum / *weight);
                *weight = weight.min(1.0);
            }
        }
        Field {
            width,
            height,
            values,
            weight,
        }
    }

    /// The value between the four nearest, where this field lies over one twice as large.
    fn between(&self, x: usize, y: usize) -> [f32; 3] {
        let split = |at: usize, side: usize| {
            let place = ((at as f32 + 0.5) / 2.0 - 0.5).clamp(0.0, (side - 1) as f32);
            let low = place as usize;
            (low, (low + 1).min(side - 1), place - low as f32)
        };
        let (left, right, across) = split(x, self.width);
        let (top, bottom, down) = split(y, self.height);
        let mut value = [0.0; 3];
        for (row, row_share) in [(top, 1.0 - down), (bottom, down)] {
            for (column, share) in [(left, 1.0 - across), (right, across)] {
                let here = self.values[row * self.width + column];
                for (sum, part) in value.iter_mut().zip(here) {
                    *sum += row_share * share * part;
                }
            }
        }
        value
    }

    /// Gives every pixel a value.
    fn fill(&mut self) {
        if self.weight.iter().all(|&weight| weight == 1.0) || self.values.len() == 1 {
            return;
        }
        let mut coarse = self.pulled();
        coarse.fill();
        for y in 0..self.height {
            for x in 0..self.width {
                let at = y * self.width + x;
                let known = self.weight[at];
                if known < 1.0 {
                    let below = coarse.between(x, y);
                    for (value, below) in self.values[at].iter_mut().zip(below) {
                        *value = known * *value + (1.0 - known) * below;
                    }
                }
            }
        }
    }
}

fn weights(mask: &Mask) -> Vec<f32> {
    let known = |&asked: &bool| f32::from(u8::from(!asked));
    mask.asked.iter().map(known).collect()
}

/// The picture with what the mask covers smoothly filled from what is known; mid-grey if nothing is.
pub fn fill_hole(picture: &Image, mask: &Mask) -> Image {
    let mut field = Field {
        width: picture.width,
        height: picture.height,
        values: picture
            .rgb
            .chunks_exact(3)
            .zip(&mask.asked)
            .map(|(rgb, &asked)| {
                if asked {
                    [127.5; 3]
                } else {
                    [rgb[0], rgb[1], rgb[2]].map(f32::from)
                }
            })
            .collect(),
        weight: weights(mask),
    };
    if field.weight.iter().any(|&weight| weight > 0.0) {
        field.fill();
    }
    let mut filled = picture.clone();
    for ((rgb, value), &asked) in filled
        .rgb
        .chunks_exact_mut(3)
        .zip(&field.values)
        .zip(&mask.asked)
    {
        if asked {
            rgb.copy_from_slice(&value.map(|value| value.round().clamp(0.0, 255.0) as u8));
        }
    }
    filled
}

/// `known` where the mask covers nothing, else `drawn`, which goes over into the known within `feather`
/// pixels inside the mask.
pub fn close(known: &Image, drawn: &Image, mask: &Mask, feather: usize) -> Image {
    let mut difference = Field {
        width: known.width,
        height: known.height,
        values: known
            .rgb
            .chunks_exact(3)
            .zip(drawn.rgb.chunks_exact(3))
            .map(|(known, drawn)| {
                std::array::from_fn(|c| f32::from(known[c]) - f32::from(drawn[c]))
            })
            .collect(),
        weight: weights(mask),
    };
    if feather > 0 && difference.weight.iter().any(|&weight| weight > 0.0) {
        difference.fill();
    }
    let distances = mask.distances();
    let mut closed = known.clone();
    for (at, rgb) in closed.rgb.chunks_exact_mut(3).enumerate() {
        if !mask.asked[at] {
            continue;
        }
        // Steps into the hole, from 0 at its first pixel.
        let depth = f32::from(distances[at]) - 1.0;
        let share = (1.0 - depth / feather.max(1) as f32).max(0.0);
        let share = if feather == 0 {
            0.0
        } else {
            // Level at both ends.
            share * share * (3.0 - 2.0 * share)
        };
        for (channel, value) in rgb.iter_mut().enumerate() {
            let drawn = f32::from(drawn.rgb[3 * at + channel]);
            let moved = drawn + share * difference.values[at][channel];
            *value = moved.round().clamp(0.0, 255.0) as u8;
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hole() -> Mask {
        Mask::of_area(24, 16, "6,4,12,8".parse().unwrap()).unwrap()
    }

    fn slope() -> Image {
        let rgb = (0..24 * 16).flat_map(|at| [(at % 24 * 10) as u8, 100, 200]);
        Image::new(24, 16, rgb.collect()).unwrap()
    }

    #[test]
    fn holes_are_filled_from_their_surroundings_alone() {
        let mask = hole();
        let mut broken = slope();
        for (rgb, &asked) in broken.rgb.chunks_exact_mut(3).zip(&mask.asked) {
            if asked {
                rgb.fill(255);
            }
        }
        let filled = fill_hole(&broken, &mask);
        assert_eq!(
            filled,
            fill_hole(&slope(), &mask),
            "the hole's content shows"
        );
        for (at, (rgb, original)) in filled
            .rgb
            .chunks_exact(3)
            .zip(slope().rgb.chunks_exact(3))
            .enumerate()
        {
            assert_eq!(rgb[1..], [100, 200]);
            if mask.asked[at] {
                // A slope over 12 pixels comes back to within a few of its steps.
                assert!(
                    rgb[0].abs_diff(original[0]) < 45,
                    "{at}: {rgb:?} {original:?}"
                );
            } else {
                assert_eq!(rgb, original);
            }
        }
        let all = Mask::empty(24, 16).inverted();
        assert!(fill_hole(&slope(), &all).rgb.iter().all(|&v| v == 128));
    }

    #[test]
    fn seams_are_closed_inside_the_mask_only() {
        let (mask, known) = (hole(), slope());
        // Drawn 40 too dark everywhere.
        let mut drawn = known.clone();
        drawn.rgb.iter_mut().for_each(|v| *v = v.saturating_sub(40));
        let closed = close(&known, &drawn, &mask, 4);
        let distances = mask.distances();
        for (at, distance) in distances.into_iter().enumerate() {
            let green = i32::from(closed.rgb[3 * at + 1]);
            match distance {
                0 => assert_eq!(closed.rgb[3 * at..][..3], known.rgb[3 * at..][..3]),
                1 => assert!((green - 100).abs() <= 1, "{green} at the seam"),
                _ => assert!((60..=100).contains(&green)),
            }
        }
        let deep = closed.rgb[3 * (8 * 24 + 12) + 1];
        assert!(deep <= 77, "{deep}: the middle keeps what was drawn");
        let hard = close(&known, &drawn, &mask, 0);
        assert_eq!(hard.rgb[3 * (4 * 24 + 6) + 1], 60);
    }
}
