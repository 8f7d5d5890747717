//! How alike two pictures are. Data range: 0 to 255.

use super::Image;

/// Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures.
pub fn psnr(a: &Image, b: &Image) -> f64 {
    assert_eq!(
        (a.width, a.height),
        (b.width, b.height),
        "pictures differ in size"
    );
    let total: f64 = a
        .rgb
        .iter()
        .zip(&b.rgb)
        .map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2))
        .sum();
    10.0 * (255.0 * 255.0 / (total / a.rgb.len() as f64)).log10()
}

const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;

/// Structural similarity (Wang et al. 2004): 11 × 11 Gaussian window of σ 1.5, K₁ 0.01, K₂ 0.03, mean over
/// the windows that lie inside and over the channels. Pictures under 11 pixels a side are refused.
pub fn ssim(a: &Image, b: &Image) -> f64 {
    assert_eq!(
        (a.width, a.height),
        (b.width, b.height),
        "pictures differ in size"
    );
    assert!(
        a.width > 2 * RADIUS && a.height > 2 * RADIUS,
        "ssim needs 11x11 pixels or more"
    );
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let mut total = 0.0;
    let mut count = 0.0;
    for channel in 0..3 {
        let plane = |picture: &Image| -> Vec<f64> {
            picture
                .rgb
                .iter()
                .skip(channel)
                .step_by(3)
                .map(|&value| f64::from(value))
                .collect()
        };
        let (x, y) = (plane(a), plane(b));
        let product =
            |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
        let blur = |plane: &[f64]| blurred(plane, a.width, a.height);
        let (mean_x, mean_y) = (blur(&x), blur(&y));
        let (xx, yy, xy) = (
            blur(&product(&x, &x)),
            blur(&product(&y, &y)),
            blur(&product(&x, &y)),
        );
        for i in 0..mean_x.len() {
            let (mx, my) = (mean_x[i], mean_y[i]);
            let (vx, vy, cov) = (xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my);
            total += (2.0 * mx * my + c1) * (2.0 * cov + c2)
                / ((mx * mx + my * my + c1) * (vx + vy + c2));
            count += 1.0;
        }
    }
    total / count
}

/// The windows that lie inside, row after row.
fn blurred(plane: &[f64], width: usize, height: usize) -> Vec<f64> {
    let weights: Vec<f64> = (0..=2 * RADIUS)
        .map(|i| (-((i as f64 - RADIUS as f64) / SIGMA).powi(2) / 2.0).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    let columns = width - 2 * RADIUS;
    let across: Vec<f64> = (0..height)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| {
            weights
                .iter()
                .zip(&plane[row * width + column..])
                .map(|(weight, value)| weight * value)
                .sum()
        })
        .collect();
    (0..height - 2 * RADIUS)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| {
            weights
                .iter()
                .enumerate()
                .map(|(i, weight)| weight * across[(row + i) * columns + column])
                .sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_follows_its_formula() {
        let a = Image::filled(16, 16, [100; 3]);
        let b = Image::filled(16, 16, [110; 3]);
        // 10 · log10(255² / 10²)
        assert!((psnr(&a, &b) - 28.130_803_608_679_1).abs() < 1e-9);
        assert!(psnr(&a, &a).is_infinite());
    }

    /// scikit-image 0.26.0: `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
    /// use_sample_covariance=False, data_range=255, channel_axis=2)` and `peak_signal_noise_ratio(a, b,
    /// data_range=255)`. Both are sums of the same f64 terms in another order.
    #[test]
    fn metrics_agree_with_scikit_image() {
        let a: Vec<u8> = (0..17 * 23 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let b: Vec<u8> = (0..17 * 23 * 3)
            .map(|i| (i * 37 % 251 * 3 / 4 + i * 11 % 40) as u8)
            .collect();
        let [a, b] = [a, b].map(|rgb| Image {
            width: 23,
            height: 17,
            rgb,
        });
        assert!(
            (ssim(&a, &b) - 0.941_408_050_435_145_4).abs() < 1e-9,
            "{}",
            ssim(&a, &b)
        );
        assert!(
            (psnr(&a, &b) - 20.375_298_137_294_1).abs() < 1e-9,
            "{}",
            psnr(&a, &b)
        );
    }

    /// Flat pictures have no variance: what is left is (2 μ ν + C₁) / (μ² + ν² + C₁).
    #[test]
    fn ssim_of_flat_pictures_is_its_luminance_term() {
        let a = Image::filled(16, 16, [100; 3]);
        let b = Image::filled(16, 16, [150; 3]);
        let c1 = (0.01f64 * 255.0).powi(2);
        let expected = (2.0 * 100.0 * 150.0 + c1) / (100.0f64.powi(2) + 150.0f64.powi(2) + c1);
        assert!((ssim(&a, &b) - expected).abs() < 1e-9);
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-12);
    }
}
