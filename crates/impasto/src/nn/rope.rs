//! Rotary positions in two dimensions (Su et al. 2021, arXiv:2104.09864; two axes as in LlamaGen's
//! `precompute_freqs_cis_2d`): the first half of each head turns with the row, the second with the column.
//!
//! Deviation: a query turns with the position that it has to *predict*, a key with its own, so that a
//! score depends on the offset between a known place and the asked one, whatever the order. The base is
//! 100, not 10,000, since grids are at most a few dozen wide.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::RmsNorm;
use super::ops::{self, QkNormRope};

const BASE: f64 = 100.0;

/// Cosines and sines by position; the last row, "no position", turns by nothing. Kept on the host, since
/// positions come from there.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[grid² + 1, half]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// The rotation of each place of a sequence.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[batch, seq, 1, half]` each.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RopeTable {
    /// The table of a `grid` × `grid` picture. `head_width` must be a multiple of 4.
    pub fn new(grid: usize, head_width: usize) -> Self {
        assert!(
            head_width.is_multiple_of(4),
            "head width {head_width} is not a multiple of 4"
        );
        let half = head_width / 2;
        let per_axis = half / 2;
        let positions = grid * grid;
        let mut cos = Vec::with_capacity((positions + 1) * half);
        let mut sin = Vec::with_capacity((positions + 1) * half);
        for position in 0..=positions {
            for i in 0..half {
                let coordinate = if i < per_axis {
                    position / grid
                } else {
                    position % grid
                };
                let frequency = BASE.powf(-((i % per_axis) as f64) / per_axis as f64);
                let angle = if position == positions {
                    0.0
                } else {
                    coordinate as f64 * frequency
                };
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        RopeTable { cos, sin, half }
    }

    /// The rotations of `positions`, `[batch, seq]` row after row, each up to and including "no position".
    pub fn rotation(&self, positions: &[u32], batch: usize, device: &Device) -> Rotation {
        let seq = positions.len() / batch;
        let half = self.half;
        if !ops::is_cpu(device) {
            // The table and the positions are a fraction of the rows that come of them.
            let ids: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
            let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [positions.len()]), device);
            let rows = |table: &[f32]| {
                let table = TensorData::new(table.to_vec(), [table.len() / half, half]);
                Tensor::<2>::from_data(table, device)
                    .select(0, ids.clone())
                    .reshape([batch, seq, 1, half])
            };
            return Rotation {
                cos: rows(&self.cos),
                sin: rows(&self.sin),
            };
        }
        let rows = |table: &[f32]| {
            let mut values = Vec::with_capacity(positions.len() * half);
            for &position in positions {
                let start = position as usize * half;
                values.extend_from_slice(&table[start..start + half]);
            }
            Tensor::from_data(TensorData::new(values, [batch, seq, 1, half]), device)
        };
        Rotation {
            cos: rows(&self.cos),
            sin: rows(&self.sin),
        }
    }
}

impl Rotation {
    /// The rotations of places on several axes, each with its own part of a head (`FluxPosEmbed` of diffusers): pair `i` of
    /// a part of `width` turns by its place times `base^(−2i / width)`, computed in f64.
    ///
    /// # Shapes
    /// - `places`: `[seq]`
    /// - `widths`: of the parts, all even
    pub fn of_axes<const AXES: usize>(
        places: &[[u32; AXES]],
        widths: [usize; AXES],
        base: f64,
        device: &Device,
    ) -> Self {
        let half: usize = widths.iter().map(|width| width / 2).sum();
        let mut cos = Vec::with_capacity(places.len() * half);
        let mut sin = Vec::with_capacity(places.len() * half);
        for place in places {
            for (&at, &width) in place.iter().zip(&widths) {
                for i in 0..width / 2 {
                    let angle = f64::from(at) / base.powf((2 * i) as f64 / width as f64);
                    cos.push(angle.cos() as f32);
                    sin.push(angle.sin() as f32);
                }
            }
        }
        let seq = places.len();
        let of = |values| Tensor::from_data(TensorData::new(values, [1, seq, 1, half]), device);
        Rotation {
            cos: of(cos),
            sin: of(sin),
        }
    }

    /// Cosines and sines in the type of what they are multiplied with.
    fn of_type(&self, dtype: DType) -> (Tensor<4>, Tensor<4>) {
        let of = |x: &Tensor<4>| match x.dtype() == dtype {
            true => x.clone(),
            false => x.clone().cast(dtype),
        };
        (of(&self.cos), of(&self.sin))
    }

    /// What self-attention does to queries or keys of these places.
    pub(super) fn turn(&self, norm: &RmsNorm) -> QkNormRope {
        let weight = norm.weight.val();
        let (cos, sin) = self.of_type(weight.dtype());
        QkNormRope { weight, cos, sin }
    }

    /// Turns the pairs (i, i + head_width / 2) of each head.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, heads, head_width]`
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, head_width] = x.dims();
        let half = head_width / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let (cos, sin) = self.of_type(second.dtype());
        let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        let turned_second = first * sin + second * cos;
        Tensor::cat(vec![turned_first, turned_second], 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The score of a turned query and a turned key must not change when both move by the same offset.
    #[test]
    fn scores_depend_on_offsets_only() {
        let device = Device::flex();
        let table = RopeTable::new(8, 16);
        let vector = |seed: f32| {
            let values: Vec<f32> = (0..16).map(|i| (i as f32 * seed).sin()).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, 16]), &device)
        };
        let score = |from: u32, to: u32| -> f32 {
            let query = table.rotation(&[from], 1, &device).apply(vector(0.7));
            let key = table.rotation(&[to], 1, &device).apply(vector(1.3));
            (query * key).sum().into_scalar()
        };
        // (row 1, column 2) to (3, 5), and the same offset elsewhere.
        let here = score(8 + 2, 3 * 8 + 5);
        let there = score(4 * 8, 6 * 8 + 3);
        assert!(
            (here - there).abs() < 1e-4,
            "{here} {there}: f32 rounding of unit-size sums"
        );
        assert!((here - score(8 + 2, 3 * 8 + 6)).abs() > 1e-3);
    }
}
