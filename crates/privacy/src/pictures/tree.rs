//! Points of few numbers, and those within a box (Bentley 1975: k-d trees).

/// A point's numbers.
pub(super) const DIMENSIONS: usize = 12;

/// A point.
pub(super) type Point = [f32; DIMENSIONS];

/// A balanced tree over points.
pub(super) struct Tree<'a> {
    points: &'a [Point],
    /// Point numbers; the middle of each stretch separates what is before it from what follows.
    order: Vec<u32>,
    /// For each place of `order` that is the middle of a stretch, the dimension that it separates by.
    axes: Vec<u8>,
}

/// Stretches of this many points are looked through one by one.
const LEAF: usize = 16;

impl<'a> Tree<'a> {
    pub fn new(points: &'a [Point]) -> Self {
        let mut order: Vec<u32> = (0..points.len() as u32).collect();
        let mut axes = vec![0; points.len()];
        build(points, &mut order, &mut axes);
        Tree {
            points,
            order,
            axes,
        }
    }

    /// Calls `found` for each point no number of which is further than `reach` from the query's.
    pub fn within(&self, query: &Point, reach: f32, found: &mut impl FnMut(u32)) {
        let mut stretches = vec![(0, self.order.len())];
        while let Some((start, end)) = stretches.pop() {
            if end - start <= LEAF {
                for &number in &self.order[start..end] {
                    self.check(number, query, reach, found);
                }
                continue;
            }
            let middle = usize::midpoint(start, end);
            let axis = usize::from(self.axes[middle]);
            let number = self.order[middle];
            self.check(number, query, reach, found);
            let value = self.points[number as usize][axis];
            if query[axis] - reach <= value {
                stretches.push((start, middle));
            }
            if query[axis] + reach >= value {
                stretches.push((middle + 1, end));
            }
        }
    }

    fn check(&self, number: u32, query: &Point, reach: f32, found: &mut impl FnMut(u32)) {
        let point = &self.points[number as usize];
        if point.iter().zip(query).all(|(a, b)| (a - b).abs() <= reach) {
            found(number);
        }
    }
}

fn build(points: &[Point], order: &mut [u32], axes: &mut [u8]) {
    if order.len() <= LEAF {
        return;
    }
    let mut low = [f32::INFINITY; DIMENSIONS];
    let mut high = [f32::NEG_INFINITY; DIMENSIONS];
    for &number in order.iter() {
        for (axis, &value) in points[number as usize].iter().enumerate() {
            low[axis] = low[axis].min(value);
            high[axis] = high[axis].max(value);
        }
    }
    let widest = (0..DIMENSIONS).max_by(|&a, &b| (high[a] - low[a]).total_cmp(&(high[b] - low[b])));
    let axis = widest.unwrap_or(0);
    // As `within` finds it: the middle of start and end.
    let middle = order.len() / 2;
    order.select_nth_unstable_by(middle, |&a, &b| {
        points[a as usize][axis].total_cmp(&points[b as usize][axis])
    });
    axes[middle] = axis as u8;
    let (before, after) = order.split_at_mut(middle);
    let (axes_before, axes_after) = axes.split_at_mut(middle);
    build(points, before, axes_before);
    build(points, &mut after[1..], &mut axes_after[1..]);
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_tree_finds_what_comparing_with_all_finds() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for count in [0, 1, 15, 16, 17, 18, 1000] {
            // Few values, so that many are equal.
            let points: Vec<Point> = (0..count)
                .map(|_| std::array::from_fn(|_| f32::from(rng.random_range(0..6u8))))
                .collect();
            let tree = Tree::new(&points);
            for query in points.iter().take(50) {
                let mut found = Vec::new();
                tree.within(query, 2.0, &mut |number| found.push(number));
                found.sort_unstable();
                let expected: Vec<u32> = (0..points.len() as u32)
                    .filter(|&number| {
                        let point = &points[number as usize];
                        point.iter().zip(query).all(|(a, b)| (a - b).abs() <= 2.0)
                    })
                    .collect();
                assert_eq!(found, expected);
            }
        }
    }
}
