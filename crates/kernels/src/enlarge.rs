//! Pictures twice as large, each pixel standing for four.

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::vector::vectorised;

/// Planes of rows of `width` pixels, one after the other, with twice the height and width.
///
/// # Panics
/// If there are no whole rows.
pub fn twice(x: &[f32], width: usize) -> Vec<f32> {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "rows of {width} pixels"
    );
    let rows = x.len() / width;
    let mut y = fresh(4 * x.len());
    let shared = SharedPtr::new(y.as_mut_ptr());
    for_rows(rows, 4 * width, |first, rows| {
        // SAFETY: each task has rows of its own, within the result.
        let y = unsafe { rows_mut(shared, first, rows, 4 * width) };
        let x = &x[first * width..][..rows * width];
        for (y, x) in y.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
            let (upper, lower) = y.split_at_mut(2 * width);
            double(upper, x);
            lower.copy_from_slice(upper);
        }
    });
    y
}

vectorised! {
    fn double(to: &mut [f32], from: &[f32]) {
        let (to, _) = to.as_chunks_mut::<2>();
        for (to, x) in to.iter_mut().zip(from) {
            *to = [*x, *x];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pixel_stands_for_four() {
        for (rows, width) in [(1, 1), (6, 7), (300, 150)] {
            let x: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
            let y = twice(&x, width);
            assert_eq!(y.len(), 4 * x.len());
            for (i, y) in y.into_iter().enumerate() {
                let (row, column) = (i / (2 * width) / 2, i % (2 * width) / 2);
                assert_eq!(y, x[row * width + column], "{i}");
            }
        }
    }
}
