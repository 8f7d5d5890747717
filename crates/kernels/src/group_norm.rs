//! Group normalisation (Wu & He 2018) of `[batch, channels, pixels]`, alone or with SiLU after it, and
//! its gradients, each in two passes over a group that then is in the cache.

use rayon::prelude::*;

use crate::shared::{SharedPtr, fresh, rows_mut};
use crate::vector::{multiply_add, sigmoid, sum_of, sum_of_pairs, vectorised};

/// The sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: usize,
    /// Pixels of a channel.
    pub pixels: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// Channels of a group; checks the sizes.
    fn channels(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> usize {
        assert_eq!(weight.len(), bias.len(), "weight against bias");
        assert!(
            self.groups > 0 && !weight.is_empty() && weight.len().is_multiple_of(self.groups),
            "channels in groups"
        );
        assert!(
            self.pixels > 0 && x.len().is_multiple_of(weight.len() * self.pixels),
            "pictures of the weight's channels"
        );
        weight.len() / self.groups
    }
}

/// The normalised pictures.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], norm: &GroupNorm) -> Vec<f32> {
    let channels = norm.channels(x, weight, bias);
    let size = channels * norm.pixels;
    let mut y = fresh(x.len());
    y.par_chunks_exact_mut(size)
        .zip(x.par_chunks_exact(size))
        .enumerate()
        .for_each(|(unit, (y, x))| {
            let first = unit % norm.groups * channels;
            let (weight, bias) = (&weight[first..][..channels], &bias[first..][..channels]);
            forward_group(y, x, weight, bias, norm.eps, norm.silu);
        });
    y
}

/// Mean and reciprocal deviation.
#[inline(always)]
fn moments<const FUSED: bool>(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum_of(x, |x| x) / x.len() as f32;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

vectorised! {
    fn forward_group(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32, silu: bool) {
        let pixels = x.len() / weight.len();
        let (mean, scale) = moments::<FUSED>(x, eps);
        for (c, (y, x)) in y.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).enumerate() {
            let (w, b) = (weight[c], bias[c]);
            if silu {
                for (y, x) in y.iter_mut().zip(x) {
                    let z = multiply_add::<FUSED>((x - mean) * scale, w, b);
                    *y = z * sigmoid::<FUSED>(z);
                }
            } else {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = multiply_add::<FUSED>((x - mean) * scale, w, b);
                }
            }
        }
    }
}

/// The gradients of input, weight and bias.
pub fn backward(
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    norm: &GroupNorm,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = norm.channels(x, weight, bias);
    assert_eq!(dy.len(), x.len(), "gradient against input");
    let size = channels * norm.pixels;
    let mut dx = fresh(x.len());
    let mut partial = fresh(x.len() / norm.pixels * 2);
    let shared = SharedPtr::new(partial.as_mut_ptr());
    dx.par_chunks_exact_mut(size)
        .enumerate()
        .for_each(|(unit, dx)| {
            let first = unit % norm.groups * channels;
            let (weight, bias) = (&weight[first..][..channels], &bias[first..][..channels]);
            let (dy, x) = (&dy[unit * size..][..size], &x[unit * size..][..size]);
            // SAFETY: each group has sums of its own.
            let sums = unsafe { rows_mut(shared, unit * channels, channels, 2) };
            backward_group(dx, sums, dy, x, weight, bias, norm.eps, norm.silu);
        });
    let (mut dw, mut db) = (vec![0.0; weight.len()], vec![0.0; weight.len()]);
    for picture in partial.chunks_exact(2 * weight.len()) {
        for (c, sums) in picture.chunks_exact(2).enumerate() {
            dw[c] += sums[0];
            db[c] += sums[1];
        }
    }
    (dx, dw, db)
}

vectorised! {
    fn backward_group(
        dx: &mut [f32],
        sums: &mut [f32],
        dy: &[f32],
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        silu: bool,
    ) {
        let pixels = x.len() / weight.len();
        let (mean, scale) = moments::<FUSED>(x, eps);
        // Gradients of what SiLU gets, and their sums.
        let (mut plain, mut along) = (0.0, 0.0);
        for c in 0..weight.len() {
            let (w, b) = (weight[c], bias[c]);
            let range = c * pixels..(c + 1) * pixels;
            let (dz, dy, x) = (&mut dx[range.clone()], &dy[range.clone()], &x[range]);
            if silu {
                for ((dz, &dy), x) in dz.iter_mut().zip(dy).zip(x) {
                    let z = multiply_add::<FUSED>((x - mean) * scale, w, b);
                    let s = sigmoid::<FUSED>(z);
                    *dz = dy * s * multiply_add::<FUSED>(z, 1.0 - s, 1.0);
                }
            } else {
                dz.copy_from_slice(dy);
            }
            let dw = sum_of_pairs(dz, x, |dz, x| dz * (x - mean)) * scale;
            let db = sum_of(dz, |dz| dz);
            sums[2 * c] = dw;
            sums[2 * c + 1] = db;
            along += dw * w;
            plain += db * w;
        }
        let count = x.len() as f32;
        let (plain, along) = (plain / count, along / count);
        for c in 0..weight.len() {
            let range = c * pixels..(c + 1) * pixels;
            for (dx, x) in dx[range.clone()].iter_mut().zip(&x[range]) {
                let normal = (x - mean) * scale;
                *dx = scale * (*dx * weight[c] - plain - normal * along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn output_and_gradients_equal_the_plain_ones() {
        for (batch, channels, groups, pixels, silu) in [
            (1, 2, 1, 3, false),
            (2, 6, 3, 35, true),
            (3, 32, 8, 256, true),
            (2, 4, 4, 17, false),
        ] {
            let len = batch * channels * pixels;
            let (x, dy) = (numbers(len, 1), numbers(len, 2));
            let (weight, bias) = (numbers(channels, 3), numbers(channels, 4));
            let norm = GroupNorm {
                groups,
                pixels,
                eps: 1e-5,
                silu,
            };
            let y = forward(&x, &weight, &bias, &norm);
            let (dx, dw, db) = backward(&dy, &x, &weight, &bias, &norm);
            let (mut exact_dw, mut exact_db) = (vec![0.0f64; channels], vec![0.0f64; channels]);
            let each = channels / groups;
            let size = each * pixels;
            for unit in 0..batch * groups {
                let x: Vec<f64> = x[unit * size..][..size].iter().map(|&x| x as f64).collect();
                let mean = x.iter().sum::<f64>() / size as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                let channel = |i: usize| unit % groups * each + i / pixels;
                let mut dz = vec![0.0; size];
                for i in 0..size {
                    let (w, b) = (weight[channel(i)] as f64, bias[channel(i)] as f64);
                    let normal = (x[i] - mean) * scale;
                    let z = normal * w + b;
                    let s = if silu { 1.0 / (1.0 + (-z).exp()) } else { 1.0 };
                    let exact = if silu { z * s } else { z };
                    assert!((y[unit * size + i] as f64 - exact).abs() < 5e-6);
                    let slope = if silu { s * (1.0 + z * (1.0 - s)) } else { 1.0 };
                    dz[i] = dy[unit * size + i] as f64 * slope;
                    exact_dw[channel(i)] += dz[i] * normal;
                    exact_db[channel(i)] += dz[i];
                }
                let g = |i: usize| dz[i] * weight[channel(i)] as f64;
                let plain = (0..size).map(g).sum::<f64>() / size as f64;
                let along =
                    (0..size).map(|i| g(i) * (x[i] - mean) * scale).sum::<f64>() / size as f64;
                for i in 0..size {
                    let exact = scale * (g(i) - plain - (x[i] - mean) * scale * along);
                    // Some roundings of numbers of some units, and sums of some hundred.
                    assert!((dx[unit * size + i] as f64 - exact).abs() < 1e-5);
                }
            }
            for c in 0..channels {
                assert!((dw[c] as f64 - exact_dw[c]).abs() < 1e-4);
                assert!((db[c] as f64 - exact_db[c]).abs() < 1e-4);
            }
        }
    }
}
