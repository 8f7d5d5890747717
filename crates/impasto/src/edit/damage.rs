//! Scratches and holes of one colour, found and proposed as a mask.
//!
//! Paint over a picture is exactly one colour, and the picture continues after it: on the way across a spot of it,
//! the pixels just before and just after are like each other and unlike the spot. A flat thing in front of a
//! plain background looks the same; that is why this proposes, and the colour can be named.

use super::mask::Mask;
use crate::image::Image;
use crate::{Error, Result};

/// How much a channel may differ from the colour: what compression leaves of a flat colour.
const TOLERANCE: u8 = 12;
/// How much pixels must differ from the colour to be its surroundings, over all channels.
const UNLIKE: u32 = 90;
/// How much the two sides of a spot may differ, over all channels.
const ALIKE: u32 = 60;
/// The share of a picture that can be damage.
const MOST: f64 = 0.5;
/// The share of the ways across a colour's spots that must look like damage.
const EVIDENCE: f64 = 0.6;
/// Colours that are looked at, the most frequent first.
const COLOURS: usize = 16;
/// How far around a spot its rim is blurred or compressed.
const RIM: usize = 1;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The colour of the spots.
    pub colour: [u8; 3],
    /// The spots with their rims.
    pub mask: Mask,
}

/// The spots of `colour`, or of the colour that looks most like damage if none is named.
pub fn find(picture: &Image, colour: Option<[u8; 3]>) -> Result<Damage> {
    let area = picture.width * picture.height;
    let spots = |colour: [u8; 3]| Mask {
        width: picture.width,
        height: picture.height,
        asked: picture
            .rgb
            .chunks_exact(3)
            .map(|rgb| is(rgb, colour))
            .collect(),
    };
    let fits = |mask: &Mask| {
        let count = mask.count();
        count > 0 && count as f64 <= MOST * area as f64
    };
    let found = match colour {
        Some(colour) => Some((colour, spots(colour))).filter(|(_, mask)| fits(mask)),
        None => frequent_colours(picture)
            .into_iter()
            .map(|colour| (colour, spots(colour)))
            .filter(|(_, mask)| fits(mask))
            .filter_map(|(colour, mask)| {
                let evidence = evidence(picture, &mask, colour)?;
                (evidence >= EVIDENCE).then_some((evidence, colour, mask))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, colour, mask)| (colour, mask)),
    };
    let (colour, mask) = found.ok_or_else(|| {
        let what = match colour {
            Some([r, g, b]) => format!("of colour #{r:02x}{g:02x}{b:02x}"),
            None => "of one colour".to_owned(),
        };
        Error::invalid(
            "damage",
            format!("found none {what} on up to half of the picture, expected scratches or holes"),
        )
    })?;
    Ok(Damage {
        colour,
        mask: mask.grown(RIM),
    })
}

fn is(rgb: &[u8], colour: [u8; 3]) -> bool {
    rgb.iter()
        .zip(colour)
        .all(|(value, wanted)| value.abs_diff(wanted) <= TOLERANCE)
}

fn distance(a: &[u8], b: &[u8]) -> u32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| u32::from(a.abs_diff(*b)))
        .sum()
}

/// The most frequent exact colours; of equals the darker.
fn frequent_colours(picture: &Image) -> Vec<[u8; 3]> {
    let mut colours: Vec<[u8; 3]> = picture
        .rgb
        .chunks_exact(3)
        .map(|rgb| [rgb[0], rgb[1], rgb[2]])
        .collect();
    colours.sort_unstable();
    let mut counted: Vec<(usize, [u8; 3])> = colours
        .chunk_by(|a, b| a == b)
        .map(|same| (same.len(), same[0]))
        .collect();
    counted.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    counted.truncate(COLOURS);
    counted.into_iter().map(|(_, colour)| colour).collect()
}

/// The share of the ways across (along rows and columns) that look like damage, weighted by their length; none
/// if no way has both its ends in the picture.
fn evidence(picture: &Image, mask: &Mask, colour: [u8; 3]) -> Option<f64> {
    let (width, height) = (picture.width, picture.height);
    let pixel = |at: usize| &picture.rgb[3 * at..3 * at + 3];
    let (mut damaged, mut all) = (0usize, 0usize);
    let lines = (0..height)
        .map(|y| (y * width, 1, width))
        .chain((0..width).map(|x| (x, width, height)));
    for (first, step, length) in lines {
        let mut start = None;
        for i in 0..length {
            let at = first + i * step;
            match (mask.asked[at], start) {
                (true, None) => start = Some(i),
                (false, Some(begin)) => {
                    start = None;
                    // What meets the picture's edge has one side only.
                    if begin == 0 {
                        continue;
                    }
                    let before = pixel(first + (begin - 1) * step);
                    let behind = pixel(at);
                    all += i - begin;
                    let unlike = distance(before, &colour).min(distance(behind, &colour)) >= UNLIKE;
                    if unlike && distance(before, behind) <= ALIKE {
                        damaged += i - begin;
                    }
                }
                _ => {}
            }
        }
    }
    (all > 0).then(|| damaged as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A picture of soft slopes, as photographs are.
    fn soft() -> Image {
        let rgb = (0..60 * 40).flat_map(|at| {
            let (x, y) = (at % 60, at / 60);
            [(60 + 2 * x) as u8, (80 + 3 * y) as u8, (100 + x + y) as u8]
        });
        Image::new(60, 40, rgb.collect()).unwrap()
    }

    fn scratched(colour: [u8; 3]) -> (Image, Mask) {
        let mut picture = soft();
        let mut mask = Mask::empty(60, 40);
        for i in 0..30 {
            for thick in 0..3 {
                let at = (5 + i + thick) * 60 + 10 + i;
                if at < 60 * 40 {
                    picture.rgb[3 * at..3 * at + 3].copy_from_slice(&colour);
                    mask.asked[at] = true;
                }
            }
        }
        (picture, mask)
    }

    #[test]
    fn scratches_of_any_colour_are_found_with_their_rims() {
        for colour in [[255, 255, 255], [0, 0, 0], [255, 0, 255]] {
            let (picture, spots) = scratched(colour);
            let damage = find(&picture, None).unwrap();
            assert_eq!(damage.colour, colour);
            assert_eq!(damage.mask, spots.grown(RIM));
            assert_eq!(find(&picture, Some(colour)).unwrap(), damage);
        }
    }

    #[test]
    fn whole_pictures_have_none() {
        let message = find(&soft(), None).unwrap_err().to_string();
        assert!(message.contains("found none of one colour"), "{message}");
        let named = find(&soft(), Some([255, 0, 0])).unwrap_err().to_string();
        assert!(named.contains("#ff0000"), "{named}");
        assert!(find(&Image::filled(9, 9, [7; 3]), None).is_err());
        assert!(find(&Image::filled(9, 9, [7; 3]), Some([7; 3])).is_err());
    }
}
