//! The search for cropped pictures: the picture may be any part of its original that keeps four fifths of each side.
//!
//! A part is two lines, one across and one down, each with what is missing at its two ends. The places that count as
//! tried are those on a fine grid. All of a coarser grid are compared first, at lower frequencies, whose correlation
//! falls less between its places; around the best of them, the fine grid is climbed with all frequencies. How these are
//! chosen changes nothing about the bound, which counts every place of the fine grid. The coarse comparison needs
//! frequencies that small pictures don't have: where a photograph is strong, most of the mark is in those.

use super::feature::{LARGE, LOW, WAVES, Whitened, normalise};
use super::plane::{Basis, Plane};
use super::{Detection, Key, Part, score, waves_of};

/// Steps of the coarse grid on a side of the original.
const COARSE: usize = 48;
/// Frequencies that are compared at its places: between two of them, the fastest is off by less than half a wave.
const COARSE_WAVES: usize = 40;
/// Coarse places that are compared with all frequencies.
const PROMISING: usize = 32;
/// The best of these, from which the fine grid is climbed.
const CLIMBED: usize = 12;
/// A z at which no other place is looked at.
const CLEAR: f64 = 12.0;
/// Rounds of a climb: each looks at the neighbours of both lines.
const ROUNDS: usize = 3;

/// What is missing before and after a line, in steps of a grid.
type Line = (usize, usize);

/// A grid on the sides of the original.
#[derive(Clone, Copy)]
struct Grid {
    steps: usize,
    /// How many steps may be missing, before and after together.
    missing: usize,
}

impl Grid {
    /// Of the coarse places.
    fn coarse() -> Self {
        Grid {
            steps: COARSE,
            missing: COARSE.div_ceil(5),
        }
    }

    /// Of the places that count: as fine as the frequencies need.
    fn fine(waves: usize) -> Self {
        let steps = if waves > LOW { 128 } else { 72 };
        Grid {
            steps,
            missing: steps.div_ceil(5) + 1,
        }
    }

    fn lines(self) -> Vec<Line> {
        (0..=self.missing)
            .flat_map(|before| (0..=self.missing - before).map(move |after| (before, after)))
            .collect()
    }

    /// Where a line begins and ends, in shares of the side.
    fn ends(self, (before, after): Line) -> (f64, f64) {
        let share = |steps| steps as f64 / self.steps as f64;
        (share(before), 1.0 - share(after))
    }

    /// The nearest line of this grid.
    fn nearest(self, line: Line, of: Grid) -> Line {
        let near = |steps: usize| (steps * self.steps + of.steps / 2) / of.steps;
        let (before, after) = (near(line.0), near(line.1));
        (
            before.min(self.missing),
            after.min(self.missing - before.min(self.missing)),
        )
    }

    /// A line's neighbours and itself.
    fn around(self, (before, after): Line) -> impl Iterator<Item = Line> {
        let near = |at: usize| at.saturating_sub(1)..=at + 1;
        near(before)
            .flat_map(move |before| near(after).map(move |after| (before, after)))
            .filter(move |line| line.0 + line.1 <= self.missing)
    }
}

/// Bases of the lines of a grid, made when they are needed.
struct Bases {
    grid: Grid,
    waves: usize,
    samples: usize,
    made: Vec<Option<Basis>>,
}

impl Bases {
    fn new(grid: Grid, waves: usize, samples: usize) -> Self {
        Bases {
            grid,
            waves,
            samples,
            made: vec![None; (grid.missing + 1).pow(2)],
        }
    }

    fn of(&mut self, line: Line) -> &Basis {
        let (from, to) = self.grid.ends(line);
        self.made[line.0 * (self.grid.missing + 1) + line.1]
            .get_or_insert_with(|| Basis::new(self.waves, self.samples, from, to))
    }
}

/// Raises the scores of what is found in a part.
pub(super) fn search(luma: &Plane, keys: &[Key], found: &mut [Detection]) {
    // Those of the original, whose sides may be a quarter longer.
    let longest = |side: usize| side * 5 / 4;
    let waves = waves_of(longest(luma.width), longest(luma.height));
    let whitened = Whitened::new(luma, LARGE, waves);
    let best = coarse_places(&whitened.plane, keys, waves.min(COARSE_WAVES));
    let mut climb = Climb::new(&whitened.plane, waves);
    // All frequencies of a place are a try, and where there are more, the slow ones another.
    let tries = climb.grid.lines().len().pow(2) * if waves > LOW { 2 } else { 1 };
    for ((key, best), found) in keys.iter().zip(best).zip(found) {
        let starts = best
            .into_iter()
            .map(|(_, down, across)| climb.start(key, down, across));
        let mut starts: Vec<Start> = starts.collect();
        starts.sort_by(|a, b| b.z.total_cmp(&a.z));
        for start in starts.into_iter().take(CLIMBED) {
            let Start {
                z, down, across, ..
            } = climb.up(key, start);
            let score = score(z, tries, 0.5);
            if score > found.score {
                let (top, bottom) = climb.grid.ends(down);
                let (left, right) = climb.grid.ends(across);
                let part = Part {
                    left,
                    top,
                    width: right - left,
                    height: bottom - top,
                };
                (found.score, found.part) = (score, Some(part));
            }
            if z >= CLEAR {
                break;
            }
        }
    }
}

/// For each key the coarse places with the largest z: lines down and across.
fn coarse_places(plane: &Plane, keys: &[Key], waves: usize) -> Vec<Vec<(f64, Line, Line)>> {
    let grid = Grid::coarse();
    let bases = |samples: usize| -> Vec<(Line, Basis)> {
        let basis = |line| {
            let (from, to) = grid.ends(line);
            (line, Basis::new(waves, samples, from, to))
        };
        grid.lines().into_iter().map(basis).collect()
    };
    let (downs, acrosses) = (bases(plane.height), bases(plane.width));
    let mut best: Vec<Vec<(f64, Line, Line)>> = vec![Vec::new(); keys.len()];
    let mut features = vec![0.0; waves * waves];
    for (down, basis) in &downs {
        let half = basis.along_columns(&plane.values, plane.width);
        for (across, basis) in &acrosses {
            features.fill(0.0);
            basis.along_rows(&half, &mut features);
            normalise(&mut features, waves);
            for (key, best) in keys.iter().zip(&mut best) {
                let z = key.correlation(&features, waves, waves);
                if best.len() == PROMISING {
                    if best[PROMISING - 1].0 >= z {
                        continue;
                    }
                    best.pop();
                }
                let at = best.partition_point(|other| other.0 >= z);
                best.insert(at, (z, *down, *across));
            }
        }
    }
    best
}

/// A place of the fine grid, lines down and across, and its z.
struct Start {
    z: f64,
    down: Line,
    across: Line,
}

/// Climbs the fine grid.
struct Climb<'a> {
    plane: &'a Plane,
    grid: Grid,
    waves: usize,
    down: Bases,
    across: Bases,
    features: Vec<f32>,
}

impl<'a> Climb<'a> {
    fn new(plane: &'a Plane, waves: usize) -> Self {
        let grid = Grid::fine(waves);
        Climb {
            plane,
            grid,
            waves,
            down: Bases::new(grid, waves, plane.height),
            across: Bases::new(grid, waves, plane.width),
            features: vec![0.0; waves * waves],
        }
    }

    fn half(&mut self, down: Line) -> Vec<f32> {
        let basis = self.down.of(down);
        basis.along_columns(&self.plane.values, self.plane.width)
    }

    /// The larger z of all frequencies and of the slow ones.
    fn z(&mut self, key: &Key, half: &[f32], across: Line) -> f64 {
        self.features.fill(0.0);
        self.across.of(across).along_rows(half, &mut self.features);
        normalise(&mut self.features, self.waves);
        let limits = [LOW, self.waves.min(WAVES)];
        let z = limits.map(|limit| key.correlation(&self.features, self.waves, limit));
        z[0].max(z[1])
    }

    /// Where the fine grid is nearest to a coarse place.
    fn start(&mut self, key: &Key, down: Line, across: Line) -> Start {
        let down = self.grid.nearest(down, Grid::coarse());
        let across = self.grid.nearest(across, Grid::coarse());
        let half = self.half(down);
        Start {
            z: self.z(key, &half, across),
            down,
            across,
        }
    }

    /// The best place that is reached from one.
    fn up(&mut self, key: &Key, start: Start) -> Start {
        let mut best = start;
        let mut half = self.half(best.down);
        for _ in 0..ROUNDS {
            let before = (best.down, best.across);
            for line in self.grid.around(before.1).filter(|&line| line != before.1) {
                let z = self.z(key, &half, line);
                if z > best.z {
                    (best.z, best.across) = (z, line);
                }
            }
            for line in self.grid.around(before.0).filter(|&line| line != before.0) {
                let other = self.half(line);
                let z = self.z(key, &other, best.across);
                if z > best.z {
                    (best.z, best.down, half) = (z, line, other);
                }
            }
            if (best.down, best.across) == before {
                break;
            }
        }
        best
    }
}
