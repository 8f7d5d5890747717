//! A picture as 32 × 32 mean colours, of which any part can be read in any coarser grid.

/// Cells along a side.
pub(super) const SIDE: usize = 32;

/// What is compared of a picture.
#[derive(Clone)]
pub struct Fingerprint {
    /// Mean colours, row after row, three bytes a cell.
    cells: Box<[u8; 3 * SIDE * SIDE]>,
    /// Width divided by height.
    aspect: f32,
}

/// A part of a picture; its sides are 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// The left side.
    pub left: f32,
    /// The upper side.
    pub top: f32,
    /// The right side.
    pub right: f32,
    /// The lower side.
    pub bottom: f32,
}

impl Window {
    /// All of it.
    pub const WHOLE: Window = Window {
        left: 0.0,
        top: 0.0,
        right: 1.0,
        bottom: 1.0,
    };

    /// Width divided by height, of a picture of aspect 1.
    pub fn aspect(&self) -> f32 {
        (self.right - self.left) / (self.bottom - self.top)
    }
}

impl Fingerprint {
    /// Of `height` rows of `width` pixels, three bytes each.
    ///
    /// None where the bytes are not as many, or there is none.
    pub fn of(width: usize, height: usize, rgb: &[u8]) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        if expected == 0 || rgb.len() != expected {
            return None;
        }
        // Rows first, then columns: each cell is the mean of what it covers, parts of pixels included.
        let columns = covered(width);
        let mut narrow = vec![0f32; height * SIDE * 3];
        for (row, out) in rgb
            .chunks_exact(3 * width)
            .zip(narrow.chunks_exact_mut(3 * SIDE))
        {
            for (cell, (first, weights)) in out.chunks_exact_mut(3).zip(&columns) {
                for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                    for (sum, &value) in cell.iter_mut().zip(pixel) {
                        *sum += weight * f32::from(value);
                    }
                }
            }
        }
        let mut cells = Box::new([0u8; 3 * SIDE * SIDE]);
        for (out, (first, weights)) in cells.chunks_exact_mut(3 * SIDE).zip(&covered(height)) {
            let mut sums = [0f32; 3 * SIDE];
            for (row, weight) in narrow[3 * SIDE * first..]
                .chunks_exact(3 * SIDE)
                .zip(weights)
            {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum.round().clamp(0.0, 255.0) as u8;
            }
        }
        Some(Fingerprint {
            cells,
            aspect: width as f32 / height as f32,
        })
    }

    /// Width divided by height.
    pub fn aspect(&self) -> f32 {
        self.aspect
    }

    /// Mean colours in `G` × `G` cells, row after row, three numbers of 0 to 255 each.
    pub fn colours<const G: usize>(&self) -> Vec<f32> {
        self.sums().grid::<G>(&Window::WHOLE).into_flattened()
    }

    /// The picture seen in a mirror.
    pub(super) fn mirrored(&self) -> Self {
        let mut mirrored = self.clone();
        for (to, from) in mirrored
            .cells
            .chunks_exact_mut(3 * SIDE)
            .zip(self.cells.chunks_exact(3 * SIDE))
        {
            for (to, from) in to.chunks_exact_mut(3).zip(from.chunks_exact(3).rev()) {
                to.copy_from_slice(from);
            }
        }
        mirrored
    }

    /// Sums from which the mean of any rectangle follows.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = vec![[0f32; 3]; (SIDE + 1) * (SIDE + 1)];
        for y in 0..SIDE {
            let mut row = [0f32; 3];
            for x in 0..SIDE {
                for channel in 0..3 {
                    row[channel] += f32::from(self.cells[3 * (y * SIDE + x) + channel]);
                    sums[(y + 1) * (SIDE + 1) + x + 1][channel] =
                        sums[y * (SIDE + 1) + x + 1][channel] + row[channel];
                }
            }
        }
        Sums(sums)
    }
}

/// For each cell along a side of `pixels`: the first pixel that it covers, and the share of each in it.
fn covered(pixels: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = pixels as f64 / SIDE as f64;
    (0..SIDE)
        .map(|cell| {
            let (start, end) = (cell as f64 * scale, (cell + 1) as f64 * scale);
            let first = (start as usize).min(pixels - 1);
            let last = (end.ceil() as usize).clamp(first + 1, pixels);
            let weights = (first..last).map(|pixel| {
                let from = start.max(pixel as f64);
                let to = end.min((pixel + 1) as f64);
                ((to - from).max(0.0) / scale) as f32
            });
            (first, weights.collect())
        })
        .collect()
}

/// A summed-area table (Crow 1984) of a fingerprint.
pub(super) struct Sums(Vec<[f32; 3]>);

impl Sums {
    /// The mean colours of a window in `G` × `G` cells, row after row.
    pub fn grid<const G: usize>(&self, window: &Window) -> Vec<[f32; 3]> {
        let along = |from: f32, to: f32| {
            let places: Vec<(usize, f32)> = (0..=G)
                .map(|line| {
                    let place =
                        (from + (to - from) * line as f32 / G as f32).clamp(0.0, 1.0) * SIDE as f32;
                    let whole = (place as usize).min(SIDE - 1);
                    (whole, place - whole as f32)
                })
                .collect();
            places
        };
        let (columns, rows) = (
            along(window.left, window.right),
            along(window.top, window.bottom),
        );
        let mut corners = Vec::with_capacity((G + 1) * (G + 1));
        for &(y, v) in &rows {
            for &(x, u) in &columns {
                let at = y * (SIDE + 1) + x;
                let (a, b) = (&self.0[at], &self.0[at + 1]);
                let (c, d) = (&self.0[at + SIDE + 1], &self.0[at + SIDE + 2]);
                corners.push([0, 1, 2].map(|channel| {
                    let upper = a[channel] + u * (b[channel] - a[channel]);
                    let lower = c[channel] + u * (d[channel] - c[channel]);
                    upper + v * (lower - upper)
                }));
            }
        }
        let cells = (SIDE as f32).powi(2) / (G as f32).powi(2);
        let area = (window.right - window.left) * (window.bottom - window.top) * cells;
        let scale = 1.0 / area.max(1e-6);
        let mut grid = Vec::with_capacity(G * G);
        for y in 0..G {
            for x in 0..G {
                let at = y * (G + 1) + x;
                grid.push([0, 1, 2].map(|channel| {
                    (corners[at][channel] + corners[at + G + 2][channel]
                        - corners[at + 1][channel]
                        - corners[at + G + 1][channel])
                        * scale
                }));
            }
        }
        grid
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> Vec<u8> {
        (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [
                    (255 * x / width) as u8,
                    (255 * y / height) as u8,
                    (x * y % 256) as u8,
                ]
            })
            .collect()
    }

    #[test]
    fn cells_are_means_whatever_the_size_is() {
        for (width, height) in [(1, 1), (31, 33), (64, 64), (200, 7), (640, 480)] {
            let plain = vec![77; 3 * width * height];
            let print = Fingerprint::of(width, height, &plain).unwrap();
            assert!(
                print.cells.iter().all(|&cell| cell == 77),
                "{width}x{height}"
            );
        }
        assert!(Fingerprint::of(2, 2, &[0; 11]).is_none() && Fingerprint::of(0, 2, &[]).is_none());
        assert!(Fingerprint::of(usize::MAX, 2, &[0]).is_none());
        let small = Fingerprint::of(64, 64, &gradient(64, 64)).unwrap();
        let large = Fingerprint::of(256, 256, &gradient(256, 256)).unwrap();
        for (a, b) in small.cells.chunks(3).zip(large.cells.chunks(3)) {
            assert!(a[0].abs_diff(b[0]) <= 3 && a[1].abs_diff(b[1]) <= 3);
        }
    }

    #[test]
    fn windows_are_read_where_they_are() {
        let print = Fingerprint::of(64, 64, &gradient(64, 64)).unwrap();
        let sums = print.sums();
        let whole = sums.grid::<32>(&Window::WHOLE);
        for (mean, cell) in whole.iter().zip(print.cells.chunks(3)) {
            assert!((mean[0] - f32::from(cell[0])).abs() < 0.1);
        }
        let left = Window {
            right: 0.5,
            ..Window::WHOLE
        };
        let means = sums.grid::<2>(&left);
        let full = sums.grid::<4>(&Window::WHOLE);
        assert!((means[0][0] - (full[0][0] + full[4][0]) / 2.0).abs() < 0.1);
        let mirrored = print.mirrored().sums().grid::<2>(&Window::WHOLE);
        let plain = sums.grid::<2>(&Window::WHOLE);
        assert!((mirrored[0][0] - plain[1][0]).abs() < 0.1);
    }
}
