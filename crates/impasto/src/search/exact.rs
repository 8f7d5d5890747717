//! The nearest rows by looking at each.

use std::cmp::Ordering;
use std::ops::Range;

use rayon::prelude::*;

use super::vectors::{Vectors, dot};

/// Rows that a thread takes at a time.
const ROWS: usize = 1024;

/// The higher score first, of equal ones the earlier row. What is not a number comes first of all, so that it is seen.
fn order(a: &(f32, usize), b: &(f32, usize)) -> Ordering {
    let key = |score: f32| if score.is_nan() { f32::INFINITY } else { score };
    key(b.0).total_cmp(&key(a.0)).then(a.1.cmp(&b.1))
}

/// The first `count` of `found` in order, sorted.
pub(super) fn best(mut found: Vec<(f32, usize)>, count: usize) -> Vec<(f32, usize)> {
    if found.len() > count && count > 0 {
        found.select_nth_unstable_by(count - 1, order);
    }
    found.truncate(count);
    found.sort_unstable_by(order);
    found
}

/// The `count` rows nearest to `query` among those of `range` that are `alive`, with their cosines, the nearest first.
pub(super) fn search(
    vectors: &Vectors,
    range: Range<usize>,
    query: &[f32],
    count: usize,
    alive: &(dyn Fn(usize) -> bool + Sync),
) -> Vec<(f32, usize)> {
    let found: Vec<(f32, usize)> = (0..range.len().div_ceil(ROWS))
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let start = range.start + chunk * ROWS;
            let rows = start..range.end.min(start + ROWS);
            let scored = rows
                .filter(|&row| alive(row))
                .map(|row| (dot(vectors.row(row), query), row));
            best(scored.collect(), count)
        })
        .collect();
    best(found, count)
}
