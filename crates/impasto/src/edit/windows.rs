//! Which squares of a picture are shown to the model, and in which order, until all that the mask covers is
//! drawn. A model sees pictures of one size; a photograph is larger, and a hole needs surroundings.

use super::mask::{Area, Mask};
use crate::{Error, Result};

/// More than anybody waits for.
const MAX_WINDOWS: usize = 4096;
/// The share of a window that should be known.
const KNOWN: f64 = 0.35;

/// The side of the windows for a mask: the thickest place of the hole with surroundings, at least the model's
/// own size where the picture has it, at most the picture's shorter side.
pub fn side_for(mask: &Mask, picture_size: usize) -> usize {
    let limit = mask.width.min(mask.height);
    let deepest = mask
        .distances()
        .into_iter()
        .filter(|&distance| distance < u16::MAX)
        .max()
        .unwrap_or(0);
    // A hole as thick as this is 0.6 of the window's side, about a third of its pixels.
    let wanted = (2.0 * f64::from(deepest) / 0.6).ceil() as usize;
    wanted.max(picture_size).min(limit)
}

/// The windows, each `side` pixels wide and high. Every masked pixel is in one; what one window draws, the next
/// ones know.
pub fn plan(mask: &Mask, side: usize) -> Result<Vec<Area>> {
    let limit = mask.width.min(mask.height);
    if side == 0 || side > limit {
        return Err(Error::invalid(
            "window",
            format!("expected 1 to {limit} pixels (the picture's shorter side), got {side}"),
        ));
    }
    let mut open = mask.clone();
    let mut windows = Vec::new();
    let take = |open: &mut Mask, windows: &mut Vec<Area>, window: Area| {
        if windows.len() == MAX_WINDOWS {
            return Err(Error::invalid(
                "window",
                format!(
                    "{side} pixels would take more than {MAX_WINDOWS} windows for this mask, expected a larger one"
                ),
            ));
        }
        for y in window.y..window.y + side {
            open.asked[y * open.width + window.x..][..side].fill(false);
        }
        windows.push(window);
        Ok(())
    };
    for piece in mask.pieces() {
        while let Some(rest) = open.bounds_within(piece) {
            let middle = Area {
                x: around(rest.x, rest.width.min(side), side, mask.width),
                y: around(rest.y, rest.height.min(side), side, mask.height),
                width: side,
                height: side,
            };
            let fits = rest.width <= side && rest.height <= side;
            let window = if fits && knows_enough(open.crop(middle).count(), side) {
                middle
            } else {
                best(&open, rest, side)
            };
            take(&mut open, &mut windows, window)?;
        }
    }
    Ok(windows)
}

/// Where a window starts that has `start..start + length` in its middle, as far as the picture goes.
fn around(start: usize, length: usize, side: usize, whole: usize) -> usize {
    (start + length / 2)
        .saturating_sub(side / 2)
        .min(whole - side)
}

/// Whether a window with this many masked pixels has enough known ones.
fn knows_enough(asked: usize, side: usize) -> bool {
    let all = (side * side) as f64;
    all - asked as f64 >= KNOWN * all
}

/// The window over `rest` that draws most among those that know enough, else the one that knows most. Candidates
/// lie a quarter of a window apart; the first of equals is taken.
fn best(open: &Mask, rest: Area, side: usize) -> Area {
    let starts = |start: usize, length: usize, whole: usize| -> Vec<usize> {
        let first = start.saturating_sub(side / 2);
        let mut starts: Vec<usize> = (first..start + length)
            .step_by((side / 4).max(1))
            .map(|start| start.min(whole - side))
            .collect();
        starts.dedup();
        starts
    };
    let columns = starts(rest.x, rest.width, open.width);
    let rows = starts(rest.y, rest.height, open.height);
    // Sums over all rectangles from the corner, so that each candidate is counted in four look-ups.
    let (left, top) = (columns[0], rows[0]);
    let width = columns[columns.len() - 1] + side - left;
    let height = rows[rows.len() - 1] + side - top;
    let stride = width + 1;
    let mut sums = vec![0u32; stride * (height + 1)];
    for y in 0..height {
        let mut row = 0;
        for x in 0..width {
            row += u32::from(open.asks(left + x, top + y));
            sums[(y + 1) * stride + x + 1] = sums[y * stride + x + 1] + row;
        }
    }
    let asked = |x: usize, y: usize| {
        let at = |x: usize, y: usize| sums[(y - top) * stride + x - left];
        at(x + side, y + side) + at(x, y) - at(x + side, y) - at(x, y + side)
    };
    let mut best: Option<((bool, u32), Area)> = None;
    for &y in &rows {
        for &x in &columns {
            let asked = asked(x, y);
            if asked == 0 {
                continue;
            }
            let known = (side * side) as u32 - asked;
            let enough = knows_enough(asked as usize, side);
            let worth = (enough, if enough { asked } else { known });
            if best.is_none_or(|(found, _)| worth > found) {
                let window = Area {
                    x,
                    y,
                    width: side,
                    height: side,
                };
                best = Some((worth, window));
            }
        }
    }
    // Candidates cover all of `rest`, which has a masked pixel.
    best.map_or(rest, |(_, window)| window)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(width: usize, height: usize, areas: &[&str]) -> Mask {
        let mut mask = Mask::empty(width, height);
        for area in areas {
            let part = Mask::of_area(width, height, area.parse().unwrap()).unwrap();
            for (asked, part) in mask.asked.iter_mut().zip(part.asked) {
                *asked |= part;
            }
        }
        mask
    }

    fn covers(mask: &Mask, windows: &[Area]) {
        for at in 0..mask.asked.len() {
            let (x, y) = (at % mask.width, at / mask.width);
            assert!(
                !mask.asked[at] || windows.iter().any(|window| window.contains(x, y)),
                "{x},{y}"
            );
        }
        for window in windows {
            assert!(
                window.x + window.width <= mask.width && window.y + window.height <= mask.height
            );
        }
    }

    #[test]
    fn a_small_hole_takes_one_window_around_it() {
        let mask = of(2000, 1500, &["990,740,20,20"]);
        let side = side_for(&mask, 64);
        let windows = plan(&mask, side).unwrap();
        assert_eq!(windows, ["968,718,64,64".parse().unwrap()]);
        let corner = of(2000, 1500, &["0,1490,10,10"]);
        assert_eq!(
            plan(&corner, 64).unwrap(),
            ["0,1436,64,64".parse().unwrap()]
        );
    }

    #[test]
    fn a_large_hole_takes_a_larger_window() {
        let mask = of(2000, 1500, &["800,600,300,200"]);
        let side = side_for(&mask, 64);
        assert_eq!(side, 334, "200 thick, 0.6 of the side");
        assert_eq!(plan(&mask, side).unwrap().len(), 1);
    }

    #[test]
    fn long_and_scattered_holes_take_several_windows() {
        // A scratch, a frame's worth of border, two spots near each other and one far away.
        for mask in [
            of(300, 200, &["10,100,280,3"]),
            of(128, 64, &["0,0,64,64"]),
            of(
                100,
                100,
                &["0,0,100,10", "0,90,100,10", "0,0,10,100", "90,0,10,100"],
            ),
            of(300, 200, &["10,10,5,5", "20,12,5,5", "250,150,5,5"]),
        ] {
            let side = side_for(&mask, 64);
            let windows = plan(&mask, side).unwrap();
            covers(&mask, &windows);
            assert!((2..12).contains(&windows.len()), "{windows:?}");
        }
        // Each continues something known.
        let outpainted = of(128, 64, &["0,0,64,64"]);
        let windows = plan(&outpainted, 64).unwrap();
        assert_eq!(windows[0].x, 32);
    }

    #[test]
    fn windows_that_can_not_be_are_refused() {
        let mask = of(100, 50, &["0,0,10,10"]);
        assert!(plan(&mask, 0).is_err());
        assert!(
            plan(&mask, 51)
                .unwrap_err()
                .to_string()
                .contains("1 to 50 pixels")
        );
        let all = of(700, 700, &["0,0,700,699"]);
        assert!(
            plan(&all, 4)
                .unwrap_err()
                .to_string()
                .contains("more than 4096")
        );
    }
}
