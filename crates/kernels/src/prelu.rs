//! Leaky rectified linear units with a slope for each channel (He et al. 2015, arXiv:1502.01852): `x` where it is
//! positive, `slope · x` elsewhere.

use crate::shared::{SharedPtr, for_rows, rows_mut};
use crate::vector::vectorised;

/// In place, over planes of `pixels` elements, whose slopes repeat: `x` is `[batch, slopes, pixels]`.
pub fn forward(x: &mut [f32], slopes: &[f32], pixels: usize) {
    assert!(
        pixels > 0 && !slopes.is_empty() && x.len().is_multiple_of(slopes.len() * pixels),
        "whole planes of all channels"
    );
    let planes = x.len() / pixels;
    let shared = SharedPtr::new(x.as_mut_ptr());
    for_rows(planes, pixels, |first, planes| {
        // SAFETY: each task has planes of its own, within the slice.
        let x = unsafe { rows_mut(shared, first, planes, pixels) };
        let slopes = slopes.iter().cycle().skip(first % slopes.len());
        for (plane, &slope) in x.chunks_exact_mut(pixels).zip(slopes) {
            bend(plane, slope);
        }
    });
}

vectorised! {
    fn bend(plane: &mut [f32], slope: f32) {
        for x in plane {
            *x = if *x > 0.0 { *x } else { slope * *x };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_slope() {
        let (slopes, pixels) = ([0.5, -2.0, 0.0], 9001);
        let value = |i: usize| (i * 7919 % 101) as f32 - 50.0;
        let mut x: Vec<f32> = (0..2 * slopes.len() * pixels).map(value).collect();
        forward(&mut x, &slopes, pixels);
        for (i, &found) in x.iter().enumerate() {
            let before = value(i);
            let slope = slopes[i / pixels % slopes.len()];
            let expected = before.max(0.0) + slope * before.min(0.0);
            assert_eq!(found, expected, "element {i}");
        }
    }
}
