//! The Gaussian error linear unit `x · Φ(x)` (Hendrycks and Gimpel 2016, arXiv:1606.08415), its quick approximation
//! `x · σ(1.702 x)`, and the exact one as a gate; gradients of the exact ones.

use std::ops::Range;

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::{exp, multiply_add, sigmoid, vectorised};

/// `x · Φ(x)` of every element.
pub fn forward(x: &[f32]) -> Vec<f32> {
    elementwise(x.len(), |y, part| gelu_all(y, &x[part]))
}

/// The gradient of [`forward`]'s input, from that of its output and the input.
pub fn backward(dy: &[f32], x: &[f32]) -> Vec<f32> {
    assert_eq!(dy.len(), x.len(), "gradient against input");
    elementwise(x.len(), |dx, part| {
        slope_all(dx, &dy[part.clone()], &x[part]);
    })
}

/// `x · σ(1.702 x)` of every element.
pub fn quick(x: &[f32]) -> Vec<f32> {
    elementwise(x.len(), |y, part| quick_all(y, &x[part]))
}

/// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))` of every element, which is `x · σ(2·√(2/π)·(x + 0.044715·x³))`.
pub fn tanh(x: &[f32]) -> Vec<f32> {
    elementwise(x.len(), |y, part| tanh_all(y, &x[part]))
}

/// `a · Φ(a) · b` of rows that hold `a` and `b` side by side, `hidden` each.
pub fn gate(x: &[f32], hidden: usize) -> Vec<f32> {
    assert!(
        hidden > 0 && x.len().is_multiple_of(2 * hidden),
        "rows of two halves"
    );
    let rows = x.len() / (2 * hidden);
    let mut y = fresh(rows * hidden);
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(rows, 2 * hidden, |first, rows| {
        // SAFETY: each task has rows of its own.
        let y = unsafe { rows_mut(shared, first, rows, hidden) };
        gate_rows(y, &x[first * 2 * hidden..][..rows * 2 * hidden], hidden);
    });
    y
}

/// The gradient of [`gate`]'s input, from that of its output and the input.
pub fn gate_backward(dy: &[f32], x: &[f32], hidden: usize) -> Vec<f32> {
    assert!(
        hidden > 0 && x.len() == 2 * dy.len(),
        "gradient against input"
    );
    let mut dx = fresh(x.len());
    let shared = SharedPtr::new(dx.as_mut_ptr());
    for_rows(dy.len() / hidden, 4 * hidden, |first, rows| {
        // SAFETY: each task has rows of its own.
        let dx = unsafe { rows_mut(shared, first, rows, 2 * hidden) };
        let (dy, x) = (&dy[first * hidden..], &x[first * 2 * hidden..]);
        gate_slopes(dx, &dy[..rows * hidden], &x[..rows * 2 * hidden], hidden);
    });
    dx
}

/// Elements that a task takes at least.
const PIECE: usize = 1 << 12;

/// `work` writes the part of the result that it is given.
fn elementwise(length: usize, work: impl Fn(&mut [f32], Range<usize>) + Sync) -> Vec<f32> {
    let mut y = fresh(length);
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(length.div_ceil(PIECE), PIECE, |first, pieces| {
        let from = first * PIECE;
        let part = (pieces * PIECE).min(length - from);
        // SAFETY: each task has pieces of its own, within the slice.
        let y = unsafe { rows_mut(shared, from, part, 1) };
        work(y, from..from + part);
    });
    y
}

/// `Φ(x)` within 1.5e-7 of itself: `erfc` by Chebyshev's fit of Press et al. (Numerical Recipes, section 6.2,
/// `erfcc`).
#[inline(always)]
fn normal<const FUSED: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FUSED>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    for coefficient in [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = multiply_add::<FUSED>(p, t, coefficient);
    }
    let tail = 0.5 * t * exp::<FUSED>(multiply_add::<FUSED>(-z, z, p));
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// The normal distribution's density.
#[inline(always)]
fn density<const FUSED: bool>(x: f32) -> f32 {
    // 1 / √(2π).
    0.398_942_3 * exp::<FUSED>(-0.5 * x * x)
}

vectorised! {
    fn slope_all(dx: &mut [f32], dy: &[f32], x: &[f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = dy * multiply_add::<FUSED>(x, density::<FUSED>(x), normal::<FUSED>(x));
        }
    }
}

vectorised! {
    fn gate_slopes(dx: &mut [f32], dy: &[f32], x: &[f32], hidden: usize) {
        let rows = dx.chunks_exact_mut(2 * hidden).zip(dy.chunks_exact(hidden));
        for ((dx, dy), x) in rows.zip(x.chunks_exact(2 * hidden)) {
            let (da, db) = dx.split_at_mut(hidden);
            let (a, b) = x.split_at(hidden);
            for ((((da, db), &dy), &a), &b) in da.iter_mut().zip(db).zip(dy).zip(a).zip(b) {
                let below = normal::<FUSED>(a);
                *da = dy * b * multiply_add::<FUSED>(a, density::<FUSED>(a), below);
                *db = dy * a * below;
            }
        }
    }
}

vectorised! {
    fn gelu_all(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal::<FUSED>(x);
        }
    }
}

vectorised! {
    fn quick_all(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid::<FUSED>(1.702 * x);
        }
    }
}

vectorised! {
    fn tanh_all(y: &mut [f32], x: &[f32]) {
        // 2·√(2/π).
        const SCALE: f32 = 1.595_769;
        for (y, &x) in y.iter_mut().zip(x) {
            let inner = x * multiply_add::<FUSED>(0.044_715 * SCALE * x, x, SCALE);
            *y = x * sigmoid::<FUSED>(inner);
        }
    }
}

vectorised! {
    fn gate_rows(y: &mut [f32], x: &[f32], hidden: usize) {
        for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(2 * hidden)) {
            let (a, b) = x.split_at(hidden);
            for ((y, &a), b) in y.iter_mut().zip(a).zip(b) {
                *y = a * normal::<FUSED>(a) * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    /// `x · Φ(x)` by Simpson's rule over the density from 0 to `|x|`.
    fn exact(x: f64) -> f64 {
        const STEPS: usize = 2000;
        let width = x.abs() / STEPS as f64;
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let sum: f64 = (0..=STEPS)
            .map(|i| {
                let factor = match i {
                    0 | STEPS => 1.0,
                    _ if i % 2 == 1 => 4.0,
                    _ => 2.0,
                };
                factor * density(i as f64 * width)
            })
            .sum();
        let half = sum * width / 3.0;
        x * (0.5 + if x < 0.0 { -half } else { half })
    }

    #[test]
    fn agrees_with_doubles() {
        let x: Vec<f32> = (-600..=600).map(|i| i as f32 / 100.0).collect();
        for (&x, y) in x.iter().zip(forward(&x)) {
            let exact = exact(x as f64);
            // The fit's 1.2e-7 of the tail and f32's roundings, times |x|.
            assert!(
                (y as f64 - exact).abs() < 4e-7 * (1.0 + x.abs() as f64),
                "{x}: {y} {exact}"
            );
        }
        for (&x, y) in x.iter().zip(quick(&x)) {
            let exact = x as f64 / (1.0 + (-1.702 * x as f64).exp());
            assert!(
                (y as f64 - exact).abs() < 1e-6 * (1.0 + exact.abs()),
                "{x}: {y} {exact}"
            );
        }
    }

    #[test]
    fn the_tanh_form_agrees_with_doubles() {
        let x: Vec<f32> = (-900..=900).map(|i| i as f32 / 100.0).collect();
        for (&x, y) in x.iter().zip(tanh(&x)) {
            let x = x as f64;
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let exact = 0.5 * x * (1.0 + inner.tanh());
            assert!(
                (y as f64 - exact).abs() < 1e-6 * (1.0 + exact.abs()),
                "{x}: {y} {exact}"
            );
        }
    }

    #[test]
    fn extremes_stay_what_they_are() {
        let y = forward(&[f32::INFINITY, 50.0, -50.0, 0.0, f32::NAN]);
        assert_eq!(y[..4], [f32::INFINITY, 50.0, -0.0, 0.0]);
        assert!(y[4].is_nan());
    }

    #[test]
    fn the_gate_is_the_unit_times_the_other_half() {
        let (rows, hidden) = (30, 700);
        let x = numbers(rows * 2 * hidden, 1);
        let y = gate(&x, hidden);
        for (row, y) in x.chunks(2 * hidden).zip(y.chunks(hidden)) {
            let unit = forward(&row[..hidden]);
            let expected: Vec<f32> = unit
                .iter()
                .zip(&row[hidden..])
                .map(|(a, b)| a * b)
                .collect();
            assert_eq!(y, expected);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (rows, hidden) = (5, 900);
        let x: Vec<f32> = numbers(rows * 2 * hidden, 1)
            .iter()
            .map(|x| 5.0 * x)
            .collect();
        // Of doubles: the step loses 1e-5² of the value, 1e-10.
        let slope = |x: f32| {
            let x = f64::from(x);
            (exact(x + 1e-5) - exact(x - 1e-5)) / 2e-5
        };
        let dy = numbers(x.len(), 2);
        for ((&x, &dy), dx) in x.iter().zip(&dy).zip(backward(&dy, &x)).step_by(17) {
            let expected = f64::from(dy) * slope(x);
            // A slope up to 1.13 of a few roundings of 6e-8 and the fit's 1.2e-7.
            assert!(
                (f64::from(dx) - expected).abs() < 2e-6,
                "{x}: {dx} {expected}"
            );
        }
        let dy = numbers(rows * hidden, 3);
        let dx = gate_backward(&dy, &x, hidden);
        for row in 0..rows {
            for i in (0..hidden).step_by(13) {
                let (a, b) = (x[row * 2 * hidden + i], x[row * 2 * hidden + hidden + i]);
                let dy = f64::from(dy[row * hidden + i]);
                let (da, db) = (dy * f64::from(b) * slope(a), dy * exact(f64::from(a)));
                let found = &dx[row * 2 * hidden..];
                assert!((f64::from(found[i]) - da).abs() < 1e-5, "{a} {b}");
                assert!((f64::from(found[hidden + i]) - db).abs() < 1e-5, "{a} {b}");
            }
        }
    }
}
