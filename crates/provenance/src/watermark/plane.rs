//! Brightness of a picture, and its coefficients in a cosine basis.

/// Samples row after row.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f32>,
}

impl Plane {
    /// Brightness (Rec. 601, as in JPEG) of 8-bit RGB, 0 to 255.
    pub fn luma(width: usize, height: usize, rgb: &[u8]) -> Self {
        let values = rgb
            .chunks_exact(3)
            .map(|p| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]));
        Plane {
            width,
            height,
            values: values.collect(),
        }
    }

    /// Means of blocks of about `across` x `down` samples; all blocks have nearly the same size.
    pub fn reduced(&self, across: usize, down: usize) -> Self {
        if across <= 1 && down <= 1 {
            return self.clone();
        }
        let (width, height) = (self.width / across.max(1), self.height / down.max(1));
        let part =
            |i: usize, parts: usize, whole: usize| i * whole / parts..(i + 1) * whole / parts;
        let mut values = Vec::with_capacity(width * height);
        for row in 0..height {
            let rows = part(row, height, self.height);
            for column in 0..width {
                let columns = part(column, width, self.width);
                let sum: f32 = rows
                    .clone()
                    .map(|y| {
                        self.values[y * self.width..][columns.clone()]
                            .iter()
                            .sum::<f32>()
                    })
                    .sum();
                values.push(sum / (rows.len() * columns.len()) as f32);
            }
        }
        Plane {
            width,
            height,
            values,
        }
    }

    /// What differs from the mean of the similar samples around: flat parts, slopes and edges vanish (a bilateral
    /// filter, so that an edge does not ring), and small differences stay. `reach` is in samples, `range` in levels.
    pub fn detail(&self, reach: usize, range: f32) -> Self {
        let (width, height) = (self.width, self.height);
        let padded_width = width + 2 * reach;
        let mut padded = Vec::with_capacity(padded_width * (height + 2 * reach));
        for y in 0..height + 2 * reach {
            let row = reflected(y as isize - reach as isize, height) * width;
            padded.extend((0..padded_width).map(|x| {
                let column = reflected(x as isize - reach as isize, width);
                self.values[row + column]
            }));
        }
        let mut sums = vec![0.0f32; self.values.len()];
        let mut weights = vec![0.0f32; self.values.len()];
        let (per_range, spread) = (1.0 / (range * range), 0.5 * (reach * reach) as f32 + 0.5);
        for dy in 0..=2 * reach {
            for dx in 0..=2 * reach {
                let apart = (dx.abs_diff(reach).pow(2) + dy.abs_diff(reach).pow(2)) as f32;
                let near = (-apart / spread).exp();
                for y in 0..height {
                    let others = &padded[(y + dy) * padded_width + dx..][..width];
                    let line = y * width..(y + 1) * width;
                    let own = &self.values[line.clone()];
                    let sums = &mut sums[line.clone()];
                    let weights = &mut weights[line];
                    for (((own, other), sum), weight) in
                        own.iter().zip(others).zip(sums).zip(weights)
                    {
                        let difference = other - own;
                        let unlike = 1.0 + difference * difference * per_range;
                        let similar = near / (unlike * unlike);
                        *sum += similar * difference;
                        *weight += similar;
                    }
                }
            }
        }
        // A sample is similar to itself, so that no weight is 0.
        let values = sums.iter().zip(&weights).map(|(sum, weight)| -sum / weight);
        Plane {
            width,
            height,
            values: values.collect(),
        }
    }
}

/// An index beyond an end, mirrored back.
fn reflected(i: isize, length: usize) -> usize {
    let period = 2 * length as isize;
    let i = i.rem_euclid(period);
    (if i < length as isize {
        i
    } else {
        period - 1 - i
    }) as usize
}

/// Cosines at `samples` places on a line that covers `from` to `to` (0 to 1) of a whole picture: frequency k has k half
/// waves on the whole. On a whole picture they are the orthonormal DCT-II.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    pub waves: usize,
    pub samples: usize,
    /// A row for each frequency.
    rows: Vec<f32>,
    /// A row for each sample.
    columns: Vec<f32>,
}

impl Basis {
    pub fn new(waves: usize, samples: usize, from: f64, to: f64) -> Self {
        let mut rows = Vec::with_capacity(waves * samples);
        for wave in 0..waves {
            let scale = (if wave == 0 { 1.0 } else { 2.0 } / samples as f64).sqrt();
            rows.extend((0..samples).map(|i| {
                let place = from + (to - from) * (i as f64 + 0.5) / samples as f64;
                (scale * (std::f64::consts::PI * wave as f64 * place).cos()) as f32
            }));
        }
        let columns = (0..samples)
            .flat_map(|i| (0..waves).map(move |wave| (i, wave)))
            .map(|(i, wave)| rows[wave * samples + i])
            .collect();
        Basis {
            waves,
            samples,
            rows,
            columns,
        }
    }

    pub fn whole(waves: usize, samples: usize) -> Self {
        Basis::new(waves, samples, 0.0, 1.0)
    }

    /// Vertical frequencies of each of `width` columns of samples.
    pub fn along_columns(&self, samples: &[f32], width: usize) -> Vec<f32> {
        let mut product = vec![0.0; self.waves * width];
        multiply(&self.rows, samples, self.samples, width, &mut product);
        product
    }

    /// Frequencies of each row of samples, added to `into`.
    pub fn along_rows(&self, samples: &[f32], into: &mut [f32]) {
        multiply(samples, &self.columns, self.samples, self.waves, into);
    }
}

/// Coefficients in two bases: `down.waves` rows of `across.waves`.
pub(super) fn coefficients(samples: &[f32], down: &Basis, across: &Basis) -> Vec<f32> {
    let mut product = vec![0.0; down.waves * across.waves];
    across.along_rows(&down.along_columns(samples, across.samples), &mut product);
    product
}

/// The samples of coefficients: `down.samples` rows of `across.samples`.
pub(super) fn samples(coefficients: &[f32], down: &Basis, across: &Basis) -> Vec<f32> {
    let mut half = vec![0.0; down.waves * across.samples];
    let (waves, width) = (across.waves, across.samples);
    multiply(coefficients, &across.rows, waves, width, &mut half);
    let mut product = vec![0.0; down.samples * width];
    multiply(&down.columns, &half, down.waves, width, &mut product);
    product
}

/// Adds the product of a matrix with `k` columns and one of `k` rows and `n` columns. Four rows are added at a time, in
/// their order, so that a sum is loaded and stored a quarter as often and keeps every bit.
fn multiply(a: &[f32], b: &[f32], k: usize, n: usize, product: &mut [f32]) {
    let fours = k / 4 * 4;
    for (row, to) in a.chunks_exact(k).zip(product.chunks_exact_mut(n)) {
        for (factors, from) in row.chunks_exact(4).zip(b.chunks_exact(4 * n)) {
            let (first, second) = from.split_at(2 * n);
            let ((p, q), (r, s)) = (first.split_at(n), second.split_at(n));
            for ((((to, p), q), r), s) in to.iter_mut().zip(p).zip(q).zip(r).zip(s) {
                let sum = *to + factors[0] * p + factors[1] * q;
                *to = sum + factors[2] * r + factors[3] * s;
            }
        }
        for (factor, from) in row[fours..].iter().zip(b[fours * n..].chunks_exact(n)) {
            for (to, from) in to.iter_mut().zip(from) {
                *to += factor * from;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_basis_of_a_whole_picture_is_orthonormal() {
        let (down, across) = (Basis::whole(12, 12), Basis::whole(9, 9));
        let values: Vec<f32> = (0..108).map(|i| ((i * 37) % 101) as f32).collect();
        let back = samples(&coefficients(&values, &down, &across), &down, &across);
        for (a, b) in values.iter().zip(&back) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }

    #[test]
    fn a_part_has_the_waves_of_the_whole() {
        let whole = Basis::whole(5, 40);
        let part = Basis::new(5, 20, 0.25, 0.75);
        // The scale differs: a part of half the samples has coefficients of its own norm.
        let ratio = part.rows[3 * 20] / whole.rows[3 * 40 + 10];
        for i in 0..20 {
            let (a, b) = (part.rows[3 * 20 + i], whole.rows[3 * 40 + 10 + i]);
            assert!((a - ratio * b).abs() < 1e-5);
        }
    }

    #[test]
    fn detail_keeps_small_differences_and_drops_edges() {
        let values = (0..256).map(|i| {
            let side = if i % 16 < 8 { 20.0 } else { 220.0 };
            side + if i == 16 * 5 + 3 { 4.0 } else { 0.0 }
        });
        let plane = Plane {
            width: 16,
            height: 16,
            values: values.collect(),
        };
        let detail = plane.detail(4, 10.0);
        assert!(detail.values[16 * 5 + 3] > 3.0);
        for (i, value) in detail.values.iter().enumerate() {
            assert!(i == 16 * 5 + 3 || value.abs() < 0.6, "{i}: {value}");
        }
    }

    #[test]
    fn blocks_of_any_number_average() {
        let plane = Plane {
            width: 7,
            height: 5,
            values: vec![3.0; 35],
        };
        let reduced = plane.reduced(2, 3);
        assert_eq!((reduced.width, reduced.height), (3, 1));
        assert_eq!(reduced.values, [3.0; 3]);
    }
}
