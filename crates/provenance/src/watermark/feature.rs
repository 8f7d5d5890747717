//! What of a picture is compared with a key: coefficients in which the picture itself counts as little as possible.

use super::plane::{self, Basis, Plane};

/// Frequencies up to this are compared in pictures of any size: they survive half the size of 64 pixels.
pub(super) const LOW: usize = 27;
/// Frequencies up to this are compared where the shorter side has [`LARGE`] pixels.
pub(super) const WAVES: usize = 57;
/// The shorter side from which all [`WAVES`] fit twice.
pub(super) const LARGE: usize = 128;
/// Slower waves than this are left to the picture.
const LOWEST: usize = 4;
/// Levels by which samples may differ and still be similar.
const RANGE: f32 = 10.0;
/// A coefficient of more than this many times the median of its frequency is limited: it is the picture's.
const PEAK: f32 = 4.0;
/// Normalised coefficients are limited to this.
const LIMIT: f32 = 1.2;
/// How much less a sample changes a feature where the picture is strong: the exponent of its sensitivity.
const MASKING: f32 = 0.7;

/// Which ring of frequencies a coefficient belongs to.
fn ring(u: usize, v: usize) -> usize {
    ((u * u + v * v) as f32).sqrt() as usize
}

/// The detail of a picture with all frequencies equally strong.
pub(super) struct Whitened {
    pub plane: Plane,
    /// How much a change of a sample counts, 0 to 1.
    sensitivity: Vec<f32>,
    /// The same of the coefficients that the plane was made from.
    passed: Vec<f32>,
    bases: (Basis, Basis),
}

impl Whitened {
    /// Of a picture that is reduced so that its sides have `side` samples to twice as many.
    pub fn new(luma: &Plane, side: usize, waves: usize) -> Self {
        let small = luma.reduced(luma.width / side, luma.height / side);
        let shorter = small.width.min(small.height);
        let reach = (4.0 * shorter as f32 / 64.0).round().max(1.0) as usize;
        let detail = small.detail(reach, RANGE);
        let waves = (waves + 2).min(shorter);
        let down = Basis::whole(waves, small.height);
        let across = Basis::whole(waves, small.width);
        let mut spectrum = plane::coefficients(&detail.values, &down, &across);
        let mut rings: Vec<Vec<f32>> = vec![Vec::new(); waves];
        for (i, value) in spectrum.iter().enumerate() {
            rings[ring(i / waves, i % waves) / 2].push(value.abs());
        }
        let medians = rings
            .iter_mut()
            .map(|values| median(values).max(0.3))
            .collect::<Vec<f32>>();
        let mut passed = vec![0.0; spectrum.len()];
        for (i, (value, passed)) in spectrum.iter_mut().zip(&mut passed).enumerate() {
            let ring = ring(i / waves, i % waves);
            if ring < LOWEST {
                *value = 0.0;
                continue;
            }
            *value /= medians[ring / 2];
            if value.abs() <= PEAK {
                *passed = 1.0 / medians[ring / 2].sqrt();
            }
            *value = value.clamp(-PEAK, PEAK);
        }
        let mut values = plane::samples(&spectrum, &down, &across);
        let limit = median(&mut values.iter().map(|value| value.abs()).collect::<Vec<_>>());
        let limit = limit.max(1e-6);
        let mut sensitivity = Vec::with_capacity(values.len());
        for value in &mut values {
            let slope = 1.0 / (1.0 + value.abs() / limit);
            sensitivity.push((slope * slope).powf(MASKING));
            *value *= slope;
        }
        Whitened {
            plane: Plane { values, ..detail },
            sensitivity,
            passed,
            bases: (down, across),
        }
    }

    /// Normalised coefficients of the picture as a whole.
    pub fn features(&self, waves: usize) -> Vec<f32> {
        let (width, height) = (self.plane.width, self.plane.height);
        let (down, across) = (Basis::whole(waves, height), Basis::whole(waves, width));
        let mut features = plane::coefficients(&self.plane.values, &down, &across);
        normalise(&mut features, waves);
        features
    }

    /// The change of the brightness, `width` x `height`, that adds `wanted` to the features, up to a factor: the
    /// derivative of what [`Whitened::new`] computes, without that of the bilateral filter.
    pub fn back(&self, wanted: &[f32], waves: usize, (width, height): (usize, usize)) -> Vec<f32> {
        let (down, across) = (
            Basis::whole(waves, self.plane.height),
            Basis::whole(waves, self.plane.width),
        );
        let mut change = plane::samples(wanted, &down, &across);
        for (change, sensitivity) in change.iter_mut().zip(&self.sensitivity) {
            *change *= sensitivity;
        }
        let (down, across) = &self.bases;
        let mut spectrum = plane::coefficients(&change, down, across);
        for (value, passed) in spectrum.iter_mut().zip(&self.passed) {
            *value *= passed;
        }
        let (down, across) = (
            Basis::whole(down.waves, height),
            Basis::whole(across.waves, width),
        );
        plane::samples(&spectrum, &down, &across)
    }
}

fn median(values: &mut [f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Scales each ring of frequencies to a mean square of 1 and limits what is far from it; the slowest waves become 0.
pub(super) fn normalise(features: &mut [f32], waves: usize) {
    let mut sums = [(0.0f32, 0.0f32); WAVES];
    for (u, row) in features.chunks_exact(waves).enumerate() {
        for (v, value) in row.iter().enumerate() {
            let sum = &mut sums[ring(u, v) / 2];
            *sum = (sum.0 + value * value, sum.1 + 1.0);
        }
    }
    let scales = sums.map(|(sum, count)| (count / sum.max(1e-12)).sqrt());
    for (u, row) in features.chunks_exact_mut(waves).enumerate() {
        for (v, value) in row.iter_mut().enumerate() {
            let ring = ring(u, v);
            *value = match ring < LOWEST {
                true => 0.0,
                false => (*value * scales[ring / 2]).clamp(-LIMIT, LIMIT),
            };
        }
    }
}
