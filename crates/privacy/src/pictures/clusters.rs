//! Near-duplicates by embeddings: SemDeDup (Abbas et al. 2023, arXiv:2303.09540, section 3).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Rows in a cluster on average: comparing all rows of a cluster stays as quick as finding the clusters.
const CLUSTER: usize = 2048;
/// Rounds of k-means.
const ROUNDS: usize = 8;

/// Pairs of rows whose cosine is `least` or more, sorted, among rows of `width` numbers of length one. Rows are clustered
/// by k-means first where there are many, and compared within their cluster: a pair on both sides of a border is not
/// found.
pub fn near_pairs(rows: &[f32], width: usize, least: f32) -> Vec<(u32, u32, f32)> {
    if width == 0 {
        return Vec::new();
    }
    let rows: Vec<&[f32]> = rows.chunks_exact(width).collect();
    let mut pairs: Vec<(u32, u32, f32)> = clusters(&rows, rows.len().div_ceil(CLUSTER))
        .par_iter()
        .flat_map_iter(|members| {
            members.iter().enumerate().flat_map(|(place, &a)| {
                let rows = &rows;
                members[place + 1..].iter().filter_map(move |&b| {
                    let cosine = dot(rows[a as usize], rows[b as usize]);
                    (cosine >= least).then_some((a, b, cosine))
                })
            })
        })
        .collect();
    pairs.sort_by_key(|&(a, b, _)| (a, b));
    pairs
}

/// Spherical k-means: the rows of each cluster, in order.
fn clusters(rows: &[&[f32]], count: usize) -> Vec<Vec<u32>> {
    if count <= 1 {
        return vec![(0..rows.len() as u32).collect()];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut centres: Vec<Vec<f32>> = (0..count)
        .map(|_| rows[rng.random_range(0..rows.len() as u64) as usize].to_vec())
        .collect();
    let mut members = Vec::new();
    for _ in 0..ROUNDS {
        let nearest: Vec<usize> = rows
            .par_iter()
            .map(|row| {
                let cosines = centres.iter().map(|centre| dot(row, centre)).enumerate();
                let best = cosines.max_by(|a, b| a.1.total_cmp(&b.1));
                best.map_or(0, |best| best.0)
            })
            .collect();
        members = vec![Vec::new(); count];
        for (row, cluster) in nearest.into_iter().enumerate() {
            members[cluster].push(row as u32);
        }
        for (centre, members) in centres.iter_mut().zip(&members) {
            let mut sum = vec![0.0; centre.len()];
            for &member in members {
                for (sum, value) in sum.iter_mut().zip(rows[member as usize]) {
                    *sum += value;
                }
            }
            let length = dot(&sum, &sum).sqrt();
            // An empty cluster stays where it is.
            if length > 0.0 {
                *centre = sum.iter().map(|value| value / length).collect();
            }
        }
    }
    members
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const CHAINS: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<CHAINS>(), b.as_chunks::<CHAINS>());
    let mut sums = [0.0f32; CHAINS];
    for (a, b) in a.iter().zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_rows_are_found_across_many_clusters() {
        const WIDTH: usize = 17;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut rows: Vec<f32> = Vec::new();
        let push = |rows: &mut Vec<f32>, row: &[f32]| {
            let length = dot(row, row).sqrt();
            rows.extend(row.iter().map(|value| value / length));
        };
        for number in 0..3000usize {
            let row: Vec<f32> = (0..WIDTH).map(|_| rng.random_range(-1.0f32..1.0)).collect();
            push(&mut rows, &row);
            if number % 100 == 0 {
                let near: Vec<f32> = row.iter().map(|value| value + 0.01).collect();
                push(&mut rows, &near);
            }
        }
        let pairs = near_pairs(&rows, WIDTH, 0.995);
        assert!(pairs.len() >= 29 && pairs.len() <= 30, "{}", pairs.len());
        assert!(
            pairs
                .iter()
                .all(|&(a, b, cosine)| b == a + 1 && cosine >= 0.995)
        );
        assert!(near_pairs(&[], 3, 0.5).is_empty() && near_pairs(&[1.0], 0, 0.5).is_empty());
    }
}
