//! AdamW (Loshchilov & Hutter 2019) and moving averages, each in one pass in place.

use crate::shared::{SharedPtr, for_rows, rows_mut};
use crate::vector::{multiply_add, vectorised};

/// The numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f32,
    /// Factor of the gradient: clipping, accumulation.
    pub gradient_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 − beta1^step`, steps counted from one.
    pub correction1: f32,
    /// `1 − beta2^step`.
    pub correction2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The weight's own factor, `1 − learning_rate · weight_decay`.
    pub decay: f32,
}

/// Moves a parameter and its moments.
///
/// # Panics
/// If the lengths differ.
pub fn step(
    param: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    adam: &AdamW,
) {
    let len = param.len();
    assert!(
        gradient.len() == len && first.len() == len && second.len() == len,
        "equal lengths"
    );
    let shared = [param, first, second].map(|x| SharedPtr::new(x.as_mut_ptr()));
    for_rows(len, 4, |from, count| {
        // SAFETY: each task has elements of its own.
        let [param, first, second] = shared.map(|x| unsafe { rows_mut(x, from, count, 1) });
        step_part(param, &gradient[from..][..count], first, second, adam);
    });
}

vectorised! {
    fn step_part(param: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], adam: &AdamW) {
        let rate = adam.learning_rate / adam.correction1;
        let (keep1, keep2) = (1.0 - adam.beta1, 1.0 - adam.beta2);
        let state = param.iter_mut().zip(first).zip(second);
        for (((p, m), v), g) in state.zip(gradient) {
            let g = g * adam.gradient_scale;
            *m = multiply_add::<FUSED>(*m, adam.beta1, g * keep1);
            *v = multiply_add::<FUSED>(*v, adam.beta2, g * g * keep2);
            let update = *m / ((*v / adam.correction2).sqrt() + adam.eps);
            *p = multiply_add::<FUSED>(*p, adam.decay, -(rate * update));
        }
    }
}

/// `average = average · decay + x · (1 − decay)`.
pub fn follow(average: &mut [f32], x: &[f32], decay: f32) {
    assert_eq!(average.len(), x.len(), "equal lengths");
    let shared = SharedPtr::new(average.as_mut_ptr());
    for_rows(x.len(), 2, |from, count| {
        // SAFETY: each task has elements of its own.
        let average = unsafe { rows_mut(shared, from, count, 1) };
        follow_part(average, &x[from..][..count], decay);
    });
}

vectorised! {
    fn follow_part(average: &mut [f32], x: &[f32], decay: f32) {
        let rest = 1.0 - decay;
        for (average, x) in average.iter_mut().zip(x) {
            *average = multiply_add::<FUSED>(*average, decay, x * rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    #[test]
    fn steps_equal_the_plain_ones() {
        let len = 40_001;
        let (mut param, mut first, mut second) = (numbers(len, 1), vec![0.0; len], vec![0.0; len]);
        let mut plain: Vec<[f64; 3]> = param.iter().map(|&p| [p as f64, 0.0, 0.0]).collect();
        let mut average = param.clone();
        for step_number in 1..=5 {
            let gradient = numbers(len, 10 + step_number as u64);
            let adam = AdamW {
                learning_rate: 1e-2,
                gradient_scale: 0.5,
                beta1: 0.9,
                beta2: 0.95,
                correction1: 1.0 - 0.9f32.powi(step_number),
                correction2: 1.0 - 0.95f32.powi(step_number),
                eps: 1e-8,
                decay: 1.0 - 1e-2 * 0.1,
            };
            step(&mut param, &gradient, &mut first, &mut second, &adam);
            let before = average.clone();
            follow(&mut average, &param, 0.75);
            for i in 0..len {
                let g = gradient[i] as f64 * 0.5;
                let [p, m, v] = &mut plain[i];
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                let m = *m / (1.0 - 0.9f64.powi(step_number));
                let v = *v / (1.0 - 0.95f64.powi(step_number));
                *p = *p * (1.0 - 1e-3) - 1e-2 * m / (v.sqrt() + 1e-8);
                // Steps of 0.01 at most, rounded at about 1e-7 of themselves, and weights below 1.
                assert!((param[i] as f64 - *p).abs() < 2e-6);
                let exact = 0.75 * before[i] + 0.25 * param[i];
                assert!((average[i] - exact).abs() < 1e-6);
            }
        }
    }
}
