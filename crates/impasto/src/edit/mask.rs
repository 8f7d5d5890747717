//! Which pixels are to be drawn.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::Original;
use crate::{Error, Result};

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width, at least 1.
    pub width: usize,
    /// Height, at least 1.
    pub height: usize,
}

impl Area {
    /// The smallest one that holds both.
    pub fn joined(self, other: Area) -> Area {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        Area {
            x,
            y,
            width: (self.x + self.width).max(other.x + other.width) - x,
            height: (self.y + self.height).max(other.y + other.height) - y,
        }
    }

    /// Whether a pixel is in it.
    pub fn contains(&self, x: usize, y: usize) -> bool {
        (self.x..self.x + self.width).contains(&x) && (self.y..self.y + self.height).contains(&y)
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

impl FromStr for Area {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "box",
                format!("expected x,y,width,height in pixels such as 16,8,32,32, got \"{text}\""),
            )
        };
        let numbers: Vec<usize> = text
            .split(',')
            .map(|part| part.trim().parse().map_err(|_| bad()))
            .collect::<Result<_>>()?;
        match numbers[..] {
            [x, y, width, height] if width > 0 && height > 0 => Ok(Area {
                x,
                y,
                width,
                height,
            }),
            _ => Err(bad()),
        }
    }
}

/// Which pixels of a picture are to be drawn; the others are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Row after row.
    pub asked: Vec<bool>,
}

impl Mask {
    /// Nothing is masked.
    pub fn empty(width: usize, height: usize) -> Self {
        Mask {
            width,
            height,
            asked: vec![false; width * height],
        }
    }

    /// The same mask of a picture in another size.
    pub fn scaled(&self, width: usize, height: usize) -> Self {
        let of = |x: usize, y: usize| {
            let (x, y) = (x * self.width / width, y * self.height / height);
            self.asked[y * self.width + x]
        };
        let asked = (0..width * height).map(|at| of(at % width, at / width));
        Mask {
            width,
            height,
            asked: asked.collect(),
        }
    }

    /// Reads a mask file: where it is transparent, the picture is drawn. A file without transparency asks
    /// where it is bright.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Mask::of(&Original::open(path)?))
    }

    /// See [`Mask::open`].
    pub fn of(picture: &Original) -> Self {
        let asked = picture.transparent().unwrap_or_else(|| {
            let brightness = picture.brightness().into_iter();
            brightness.map(|value| value >= 128).collect()
        });
        Mask {
            width: picture.width(),
            height: picture.height(),
            asked,
        }
    }

    /// One rectangle of a picture of this size.
    pub fn of_area(width: usize, height: usize, area: Area) -> Result<Self> {
        let fits = |start: usize, length: usize, whole: usize| {
            start.checked_add(length).is_some_and(|end| end <= whole)
        };
        if !fits(area.x, area.width, width) || !fits(area.y, area.height, height) {
            return Err(Error::invalid(
                "box",
                format!("{area} reaches out of the picture, which is {width}x{height} pixels"),
            ));
        }
        let mut mask = Mask::empty(width, height);
        for y in area.y..area.y + area.height {
            mask.asked[y * width + area.x..][..area.width].fill(true);
        }
        Ok(mask)
    }

    /// Inverts the mask.
    pub fn inverted(mut self) -> Self {
        self.asked.iter_mut().for_each(|asked| *asked = !*asked);
        self
    }

    /// Whether a pixel is masked.
    pub fn asks(&self, x: usize, y: usize) -> bool {
        self.asked[y * self.width + x]
    }

    /// How many pixels are masked.
    pub fn count(&self) -> usize {
        self.asked.iter().filter(|&&asked| asked).count()
    }

    /// The smallest rectangle that holds all masked pixels.
    pub fn bounds(&self) -> Option<Area> {
        self.bounds_within(Area {
            x: 0,
            y: 0,
            width: self.width,
            height: self.height,
        })
    }

    /// [`Mask::bounds`] of the part within `area`.
    pub fn bounds_within(&self, area: Area) -> Option<Area> {
        let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, usize::MAX, 0);
        for y in area.y..area.y + area.height {
            let row = &self.asked[y * self.width + area.x..][..area.width];
            if let Some(first) = row.iter().position(|&asked| asked) {
                let last = row.iter().rposition(|&asked| asked).unwrap_or(first);
                left = left.min(area.x + first);
                right = right.max(area.x + last);
                top = top.min(y);
                bottom = y;
            }
        }
        (top != usize::MAX).then(|| Area {
            x: left,
            y: top,
            width: right - left + 1,
            height: bottom - top + 1,
        })
    }

    /// The part within `area`.
    pub fn crop(&self, area: Area) -> Mask {
        let rows = area.y..area.y + area.height;
        Mask {
            width: area.width,
            height: area.height,
            asked: rows
                .flat_map(|y| {
                    self.asked[y * self.width + area.x..][..area.width]
                        .iter()
                        .copied()
                })
                .collect(),
        }
    }

    /// With all pixels that are at most `reach` from a masked one, diagonal steps counting as one.
    pub fn grown(&self, reach: usize) -> Self {
        let known = Mask {
            asked: self.asked.iter().map(|asked| !asked).collect(),
            ..*self
        };
        Mask {
            asked: known
                .distances()
                .into_iter()
                .map(|distance| usize::from(distance) <= reach)
                .collect(),
            ..*self
        }
    }

    /// How far each pixel is from the next known one, diagonal steps counting as one (a two-pass chessboard
    /// distance transform); `u16::MAX` where nothing is known.
    pub fn distances(&self) -> Vec<u16> {
        let (width, height) = (self.width, self.height);
        let mut distances: Vec<u16> = self
            .asked
            .iter()
            .map(|&asked| if asked { u16::MAX } else { 0 })
            .collect();
        let nearer = |distances: &mut [u16], at: usize, neighbours: &[Option<usize>]| {
            for &neighbour in neighbours.iter().flatten() {
                distances[at] = distances[at].min(distances[neighbour].saturating_add(1));
            }
        };
        for at in 0..width * height {
            let (x, y) = (at % width, at / width);
            let up = (y > 0).then(|| at - width);
            let neighbours = [
                (x > 0).then(|| at - 1),
                up,
                up.filter(|_| x > 0).map(|up| up - 1),
                up.filter(|_| x + 1 < width).map(|up| up + 1),
            ];
            nearer(&mut distances, at, &neighbours);
        }
        for at in (0..width * height).rev() {
            let (x, y) = (at % width, at / width);
            let down = (y + 1 < height).then(|| at + width);
            let neighbours = [
                (x + 1 < width).then(|| at + 1),
                down,
                down.filter(|_| x > 0).map(|down| down - 1),
                down.filter(|_| x + 1 < width).map(|down| down + 1),
            ];
            nearer(&mut distances, at, &neighbours);
        }
        distances
    }

    /// The rectangles around its connected pieces (also diagonally), in the order of their first pixels.
    pub fn pieces(&self) -> Vec<Area> {
        let mut left = self.asked.clone();
        let mut pieces = Vec::new();
        let mut open = Vec::new();
        for start in 0..left.len() {
            if !left[start] {
                continue;
            }
            left[start] = false;
            open.push(start);
            let pixel = |at: usize| Area {
                x: at % self.width,
                y: at / self.width,
                width: 1,
                height: 1,
            };
            let mut piece = pixel(start);
            while let Some(at) = open.pop() {
                let (x, y) = (at % self.width, at / self.width);
                piece = piece.joined(pixel(at));
                for ny in y.saturating_sub(1)..(y + 2).min(self.height) {
                    for nx in x.saturating_sub(1)..(x + 2).min(self.width) {
                        let next = ny * self.width + nx;
                        if std::mem::take(&mut left[next]) {
                            open.push(next);
                        }
                    }
                }
            }
            pieces.push(piece);
        }
        pieces
    }

    /// Refuses a mask that does not fit a picture, covers nothing, or everything.
    pub fn check(&self, width: usize, height: usize) -> Result<()> {
        if (self.width, self.height) != (width, height) {
            let turned = if (self.height, self.width) == (width, height) {
                " (turned as its EXIF says)"
            } else {
                ""
            };
            return Err(Error::invalid(
                "mask",
                format!(
                    "is {}x{} pixels, the picture is {width}x{height}{turned}: expected the same size",
                    self.width, self.height
                ),
            ));
        }
        match self.count() {
            0 => Err(Error::invalid(
                "mask",
                "is empty: expected some pixels to draw (transparent ones, or bright ones where the mask has no transparency)",
            )),
            all if all == self.asked.len() => Err(Error::invalid(
                "mask",
                "covers the whole picture: expected some known pixels to continue from",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// '#' is masked.
    pub fn mask(rows: &[&str]) -> Mask {
        Mask {
            width: rows[0].len(),
            height: rows.len(),
            asked: rows.concat().chars().map(|c| c == '#').collect(),
        }
    }

    #[test]
    fn a_mask_fits_the_enlarged_picture() {
        let mut mask = Mask::empty(3, 2);
        mask.asked[4] = true;
        let large = mask.scaled(6, 4);
        let asked = (0..24).filter(|&at| large.asked[at]);
        assert_eq!(asked.collect::<Vec<_>>(), [14, 15, 20, 21]);
        assert_eq!(mask.scaled(3, 2), mask);
    }

    #[test]
    fn boxes_are_parsed_and_must_lie_inside() {
        let area: Area = "2, 1,3,2".parse().unwrap();
        assert_eq!(area.to_string(), "2,1,3,2");
        for bad in ["", "1,2,3", "1,2,3,4,5", "1,2,0,4", "-1,2,3,4", "a,b,c,d"] {
            assert!(bad.parse::<Area>().is_err(), "{bad}");
        }
        let mask = Mask::of_area(5, 3, area).unwrap();
        assert_eq!((mask.bounds(), mask.count()), (Some(area), 6));
        assert!(Mask::of_area(4, 3, area).is_err());
        let far = Area {
            x: usize::MAX,
            ..area
        };
        assert!(Mask::of_area(5, 3, far).is_err());
    }

    #[test]
    fn distances_count_steps_to_the_known() {
        let mask = mask(&["#####", "#####", "####.", "#####"]);
        let expected = [4, 3, 2, 2, 2, 4, 3, 2, 1, 1, 4, 3, 2, 1, 0, 4, 3, 2, 1, 1];
        assert_eq!(mask.distances(), expected);
        let all = Mask::empty(2, 2).inverted();
        assert_eq!(all.distances(), [u16::MAX; 4]);
    }

    #[test]
    fn pieces_hold_together_diagonally() {
        let mask = mask(&["#..#", ".#..", "...#"]);
        let pieces: Vec<String> = mask.pieces().iter().map(Area::to_string).collect();
        assert_eq!(pieces, ["0,0,2,2", "3,0,1,1", "3,2,1,1"]);
        assert_eq!(mask.grown(1).count(), 12);
        assert_eq!(
            mask.crop("1,1,3,2".parse().unwrap()),
            self::mask(&["#..", "..#"])
        );
    }

    #[test]
    fn useless_masks_are_refused() {
        let message = |mask: &Mask, w, h| mask.check(w, h).unwrap_err().to_string();
        let mask = Mask::empty(4, 3);
        assert!(message(&mask, 4, 3).contains("is empty"));
        assert!(message(&mask.clone().inverted(), 4, 3).contains("covers the whole"));
        assert!(message(&mask, 3, 4).contains("is 4x3 pixels, the picture is 3x4 (turned"));
        assert!(message(&mask, 5, 5).contains("expected the same size"));
    }
}
