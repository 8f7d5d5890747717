//! Pairs of pictures of which one is a copy of the other, or of most of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::fingerprint::{Fingerprint, Sums, Window};
use super::tree::{DIMENSIONS, Point, Tree};

/// What counts as a copy. The limits are those that separate re-encoded, scaled and cropped copies of composed scenes
/// from other scenes of the same things (`docs/trust.md`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TwinOptions {
    /// Also pictures seen in a mirror.
    pub mirrored: bool,
    /// The most that the colours of the aligned pictures may differ on average over all places, 0 to 255.
    pub mean: f32,
    /// The most that the mean colours of a patch, a quarter of a side wide, may differ, 0 to 255.
    pub shift: f32,
    /// The least structural similarity of a patch, up to 1 (Wang et al. 2004, doi:10.1109/TIP.2003.819861, its last
    /// factor).
    pub similarity: f32,
}

impl Default for TwinOptions {
    fn default() -> Self {
        TwinOptions {
            mirrored: false,
            mean: 10.0,
            shift: 18.0,
            similarity: 0.4,
        }
    }
}

/// Two pictures that show the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Twin {
    /// The picture of which the other one shows all or most.
    pub whole: u32,
    /// The other one.
    pub part: u32,
    /// What of the whole the other one shows.
    pub window: Window,
    /// Whether it shows it in a mirror.
    pub mirrored: bool,
    /// How much the aligned pictures differ on average, 0 to 255.
    pub mean: f32,
    /// How much the mean colours of a patch differ where they differ most, 0 to 255.
    pub shift: f32,
    /// The structural similarity of the patch where it is least, up to 1.
    pub similarity: f32,
}

/// The smallest share of a side that a crop leaves.
const LEAST_SIDE: f32 = 0.9;
/// Coarse colours that differ more are not compared further.
const REACH: f32 = 14.0;
/// Cells along a side where candidates are compared, and the most that they may differ there on average.
const COARSE: usize = 8;
const COARSE_MEAN: f32 = 13.0;
/// Cells along a side of the last comparison.
const FINE: usize = 16;
/// How much the shapes of a picture and of a part of another may differ, as a ratio.
const SHAPE: f32 = 1.06;

/// Pairs of copies among pictures, sorted; a pair is there once. `progress` is called with the number of pictures
/// that are done, and returns whether to continue; without result where it returned false.
pub fn twins(
    prints: &[Fingerprint],
    options: &TwinOptions,
    progress: &(dyn Fn(usize) -> bool + Sync),
) -> Option<Vec<Twin>> {
    let points: Vec<Point> = prints
        .par_iter()
        .map(|print| coarse(&print.sums(), &Window::WHOLE))
        .collect();
    let tree = Tree::new(&points);
    let windows = windows();
    let (done, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut found: Vec<Twin> = (0..prints.len())
        .into_par_iter()
        .flat_map_iter(|whole| {
            if stopped.load(Ordering::Relaxed) {
                return Vec::new();
            }
            let mut found = parts_of(whole as u32, prints, &tree, &windows, false, options);
            if options.mirrored {
                found.extend(parts_of(
                    whole as u32,
                    prints,
                    &tree,
                    &windows,
                    true,
                    options,
                ));
            }
            if !progress(done.fetch_add(1, Ordering::Relaxed) + 1) {
                stopped.store(true, Ordering::Relaxed);
            }
            found
        })
        .collect();
    if stopped.into_inner() {
        return None;
    }
    // Of the two directions of a pair, the one that fits better.
    found.sort_by(|a, b| {
        let pair = |twin: &Twin| (twin.whole.min(twin.part), twin.whole.max(twin.part));
        pair(a)
            .cmp(&pair(b))
            .then(a.mean.total_cmp(&b.mean))
            .then(a.whole.cmp(&b.whole))
    });
    found.dedup_by_key(|twin| (twin.whole.min(twin.part), twin.whole.max(twin.part)));
    Some(found)
}

/// The windows in which a cropped picture is looked for: each side whole, or cut to 95 or 90 % at its start, its end or
/// both.
fn windows() -> Vec<Window> {
    let mut sides = vec![(0.0, 1.0)];
    for length in [0.95, LEAST_SIDE] {
        for share in [0.0, 0.5, 1.0] {
            let start = (1.0 - length) * share;
            sides.push((start, start + length));
        }
    }
    let of = |&(left, right): &(f32, f32)| {
        sides.iter().map(move |&(top, bottom)| Window {
            left,
            top,
            right,
            bottom,
        })
    };
    sides.iter().flat_map(of).collect()
}

/// Mean colours of the quarters.
fn coarse(sums: &Sums, window: &Window) -> Point {
    let grid = sums.grid::<2>(window);
    let mut point = [0.0; DIMENSIONS];
    for (values, cell) in point.chunks_exact_mut(3).zip(&grid) {
        values.copy_from_slice(cell);
    }
    point
}

fn parts_of(
    whole: u32,
    prints: &[Fingerprint],
    tree: &Tree<'_>,
    windows: &[Window],
    mirrored: bool,
    options: &TwinOptions,
) -> Vec<Twin> {
    let print = &prints[whole as usize];
    let sums = match mirrored {
        true => print.mirrored().sums(),
        false => print.sums(),
    };
    let fits = |window: &Window, part: &Fingerprint| {
        let ratio = window.aspect() * print.aspect() / part.aspect();
        (1.0 / SHAPE..=SHAPE).contains(&ratio)
    };
    // The best window of each candidate.
    let mut candidates: HashMap<u32, (f32, Window)> = HashMap::new();
    let mut coarse_parts: HashMap<u32, Vec<[f32; 3]>> = HashMap::new();
    for window in windows {
        let mut seen: Option<Vec<[f32; 3]>> = None;
        let query = coarse(&sums, window);
        tree.within(&query, REACH, &mut |part| {
            // Without a window the other direction finds the pair as well.
            if part == whole || !fits(window, &prints[part as usize]) {
                return;
            }
            if *window == Window::WHOLE && part < whole {
                return;
            }
            let seen = seen.get_or_insert_with(|| sums.grid::<COARSE>(window));
            let other = coarse_parts
                .entry(part)
                .or_insert_with(|| prints[part as usize].sums().grid::<COARSE>(&Window::WHOLE));
            let difference = mean_difference(seen, other);
            if difference > COARSE_MEAN {
                return;
            }
            let best = candidates.entry(part).or_insert((difference, *window));
            if difference < best.0 {
                *best = (difference, *window);
            }
        });
    }
    let mut found = Vec::new();
    for (part, (_, window)) in candidates {
        let other = prints[part as usize].sums().grid::<FINE>(&Window::WHOLE);
        let (window, mean) = aligned(&sums, window, &other, |window| {
            fits(window, &prints[part as usize])
        });
        if mean > options.mean {
            continue;
        }
        let (similarity, shift) = patches(&sums.grid::<FINE>(&window), &other);
        if similarity >= options.similarity && shift <= options.shift {
            found.push(Twin {
                whole,
                part,
                window,
                mirrored,
                mean,
                shift,
                similarity,
            });
        }
    }
    found
}

fn mean_difference(a: &[[f32; 3]], b: &[[f32; 3]]) -> f32 {
    let sum: f32 = a
        .iter()
        .zip(b)
        .map(|(a, b)| {
            (0..3)
                .map(|channel| (a[channel] - b[channel]).abs())
                .sum::<f32>()
        })
        .sum();
    sum / (3 * a.len()) as f32
}

/// Moves the sides of a window in smaller and smaller steps to where the part fits best.
fn aligned(
    sums: &Sums,
    start: Window,
    part: &[[f32; 3]],
    fits: impl Fn(&Window) -> bool,
) -> (Window, f32) {
    /// In shares of the picture; the smallest is an eighth of a cell.
    const STEPS: [f32; 4] = [0.03, 0.015, 0.0075, 0.004];
    /// A window may leave a little more than it should: crops are rounded to pixels.
    const SLACK: f32 = 0.02;
    let of = |window: &Window| mean_difference(&sums.grid::<FINE>(window), part);
    let (mut best, mut least) = (start, of(&start));
    for step in STEPS {
        for _ in 0..8 {
            let before = least;
            // Each side alone, and both sides of a direction together.
            for (left, top, right, bottom) in [
                (1.0, 0.0, 0.0, 0.0),
                (0.0, 1.0, 0.0, 0.0),
                (0.0, 0.0, 1.0, 0.0),
                (0.0, 0.0, 0.0, 1.0),
                (1.0, 0.0, 1.0, 0.0),
                (0.0, 1.0, 0.0, 1.0),
            ] {
                for sign in [-step, step] {
                    let window = Window {
                        left: (best.left + sign * left).clamp(0.0, 1.0),
                        top: (best.top + sign * top).clamp(0.0, 1.0),
                        right: (best.right + sign * right).clamp(0.0, 1.0),
                        bottom: (best.bottom + sign * bottom).clamp(0.0, 1.0),
                    };
                    let narrow = window.right - window.left < LEAST_SIDE - SLACK
                        || window.bottom - window.top < LEAST_SIDE - SLACK;
                    if narrow || window == best || !fits(&window) {
                        continue;
                    }
                    let difference = of(&window);
                    if difference < least {
                        (best, least) = (window, difference);
                    }
                }
            }
            if least >= before {
                break;
            }
        }
    }
    (best, least)
}

/// Cells along a side of a patch, and from one to the next.
const PATCH: usize = 4;
const STRIDE: usize = 2;
/// What is added to variances, so that noise in plain patches is no structure.
const FLOOR: f32 = 40.0;
/// What the channels count for: about what they add to brightness, as copies lose colours first.
const WEIGHTS: [f32; 3] = [0.3, 0.6, 0.1];

/// Of all patches the least structural similarity, and the largest difference of mean colours. A small thing that only
/// one of the pictures has changes both, however much the rest is the same.
fn patches(a: &[[f32; 3]], b: &[[f32; 3]]) -> (f32, f32) {
    const CELLS: f32 = (PATCH * PATCH) as f32;
    let (mut least, mut largest) = (1.0f32, 0.0f32);
    for top in (0..=FINE - PATCH).step_by(STRIDE) {
        for left in (0..=FINE - PATCH).step_by(STRIDE) {
            let cells =
                || (0..PATCH * PATCH).map(|cell| (top + cell / PATCH) * FINE + left + cell % PATCH);
            let (mut variance_a, mut variance_b, mut covariance) = (0.0, 0.0, 0.0);
            for (channel, weight) in WEIGHTS.into_iter().enumerate() {
                let mean_a = cells().map(|cell| a[cell][channel]).sum::<f32>() / CELLS;
                let mean_b = cells().map(|cell| b[cell][channel]).sum::<f32>() / CELLS;
                largest = largest.max((mean_a - mean_b).abs());
                for cell in cells() {
                    let (x, y) = (a[cell][channel] - mean_a, b[cell][channel] - mean_b);
                    variance_a += weight * x * x / CELLS;
                    variance_b += weight * y * y / CELLS;
                    covariance += weight * x * y / CELLS;
                }
            }
            let similarity = (2.0 * covariance + FLOOR) / (variance_a + variance_b + FLOOR);
            least = least.min(similarity);
        }
    }
    (least, largest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A scene of a few discs on a plain ground, at any size; `moved` cuts a part of it out.
    fn scene(seed: u64, side: usize, window: &Window, mirrored: bool) -> Fingerprint {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut colour = || [0; 3].map(|_: u8| rng.random_range(0..=255u8));
        let ground = colour();
        let discs: Vec<_> = (0..4).map(|_| colour()).collect();
        let discs: Vec<_> = discs
            .into_iter()
            .map(|colour| {
                let mut of = |from, to| rng.random_range(from..to);
                (colour, of(0.2, 0.8), of(0.2, 0.8), of(0.08f32, 0.2))
            })
            .collect();
        let mut rgb = Vec::new();
        for y in 0..side {
            for x in 0..side {
                let along = |from: f32, to: f32, place: usize| {
                    from + (to - from) * (place as f32 + 0.5) / side as f32
                };
                let u = along(window.left, window.right, x);
                let u = if mirrored { 1.0 - u } else { u };
                let v = along(window.top, window.bottom, y);
                let inside = |&&(_, cx, cy, r): &&([u8; 3], f32, f32, f32)| {
                    (u - cx).powi(2) + (v - cy).powi(2) < r * r
                };
                let disc = discs.iter().rev().find(inside);
                rgb.extend(disc.map_or(ground, |disc| disc.0));
            }
        }
        Fingerprint::of(side, side, &rgb).unwrap()
    }

    #[test]
    fn scaled_and_cropped_copies_are_found_and_nothing_else() {
        let crop = Window {
            left: 0.03,
            top: 0.07,
            right: 0.96,
            bottom: 0.98,
        };
        let mut prints: Vec<Fingerprint> = (0..200)
            .map(|seed| scene(seed, 96, &Window::WHOLE, false))
            .collect();
        for seed in 0..20 {
            prints.push(scene(seed, 48, &Window::WHOLE, false));
            prints.push(scene(20 + seed, 130, &crop, false));
            prints.push(scene(40 + seed, 96, &Window::WHOLE, true));
        }
        let pairs = |mirrored| {
            let options = TwinOptions {
                mirrored,
                ..TwinOptions::default()
            };
            let found = twins(&prints, &options, &|_| true).unwrap();
            let mut pairs: Vec<(u32, u32)> = found
                .iter()
                .map(|twin| (twin.whole.min(twin.part), twin.whole.max(twin.part)))
                .collect();
            pairs.sort_unstable();
            pairs
        };
        let expected = |kinds: &[u32]| {
            let of = |&kind: &u32| (0..20).map(move |i| (20 * kind + i, 200 + 3 * i + kind));
            let mut pairs: Vec<(u32, u32)> = kinds.iter().flat_map(of).collect();
            pairs.sort_unstable();
            pairs
        };
        assert_eq!(pairs(false), expected(&[0, 1]));
        assert_eq!(pairs(true), expected(&[0, 1, 2]));
        assert_eq!(twins(&prints, &TwinOptions::default(), &|_| false), None);
        assert_eq!(twins(&[], &TwinOptions::default(), &|_| true), Some(vec![]));
    }
}
