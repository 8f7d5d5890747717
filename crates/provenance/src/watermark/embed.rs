//! Puts a watermark into a picture.

use super::feature::{LARGE, LOW, Whitened};
use super::plane::Plane;
use super::{Key, MIN_SIDE, score_of_whole, waves_of, z_of_whole};

/// The least peak signal-to-noise ratio, in dB over 8-bit RGB, of a picture and itself with a watermark.
pub const MIN_PSNR: f64 = 40.1;
/// Ratios that are tried, the gentlest first.
const RATIOS: [f64; 4] = [44.0, 42.5, 41.2, MIN_PSNR];
/// A z at which the next ratio is not needed: it has to remain after a blur and at half the size. Its score is about 25.
const ENOUGH: f64 = 10.644_091;
/// Steps for each ratio.
const STEPS: usize = 4;
/// How far a step goes, in levels (root mean square).
const STEP: f32 = 1.2;
/// Features that are this much on the right side are not pushed further.
const SATURATED: f32 = 4.0;
/// The weight of frequencies that small pictures don't have.
const HIGH: f32 = 0.4;

/// A picture with a watermark.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// 8-bit RGB.
    pub rgb: Vec<u8>,
    /// The score of the picture as it is now: see [`Detection::score`](super::Detection::score).
    pub score: f64,
    /// Peak signal-to-noise ratio, in dB, over the pixels that may change.
    pub psnr: f64,
}

/// Marks 8-bit RGB. Where `area` is given, pixels for which it is false stay as they are. The score may be below the
/// threshold: a small area, or noise, holds no watermark. None where the picture is too small.
///
/// # Panics
/// If there are not three bytes a pixel, or not one of the area.
pub fn embed(
    width: usize,
    height: usize,
    rgb: &[u8],
    key: &Key,
    area: Option<&[bool]>,
) -> Option<Embedded> {
    assert_eq!(rgb.len(), 3 * width * height, "three bytes a pixel");
    assert!(area.is_none_or(|area| area.len() == width * height));
    if width.min(height) < MIN_SIDE {
        return None;
    }
    let waves = waves_of(width, height);
    let picture = Picture { rgb, area };
    let mut change = vec![0.0f32; width * height];
    let mut marked = Embedded {
        rgb: rgb.to_vec(),
        score: 0.0,
        psnr: f64::INFINITY,
    };
    for ratio in RATIOS {
        for _ in 0..STEPS {
            let whitened = Whitened::new(&Plane::luma(width, height, &marked.rgb), LARGE, waves);
            let mut wanted = whitened.features(waves);
            for (i, feature) in wanted.iter_mut().enumerate() {
                let (u, v) = (i / waves, i % waves);
                let sign = key.signs[u * super::WAVES + v];
                let unsaturated = (-(*feature / SATURATED).powi(2)).exp();
                let weight = if u < LOW && v < LOW { 1.0 } else { HIGH };
                *feature = sign * unsaturated * weight;
            }
            let mut step = whitened.back(&wanted, waves, (width, height));
            picture.restrict(&mut step);
            let squares: f32 = step.iter().map(|value| value * value).sum();
            let changed = picture.pixels(step.len()) as f32;
            let scale = STEP / (squares / changed.max(1.0)).sqrt().max(1e-9);
            for (change, step) in change.iter_mut().zip(&step) {
                *change += scale * step;
            }
            picture.limit(&mut change, ratio);
            marked.rgb = picture.with(&change);
        }
        let luma = Plane::luma(width, height, &marked.rgb);
        let z = whole(&luma, key);
        marked.score = score_of_whole(z);
        if z.min(whole(&luma.reduced(2, 2), key)) >= ENOUGH {
            break;
        }
    }
    marked.psnr = picture.psnr(&marked.rgb);
    Some(marked)
}

fn whole(luma: &Plane, key: &Key) -> f64 {
    let waves = waves_of(luma.width, luma.height);
    let features = Whitened::new(luma, LARGE, waves).features(waves);
    z_of_whole(&features, waves, key)
}

struct Picture<'a> {
    rgb: &'a [u8],
    area: Option<&'a [bool]>,
}

impl Picture<'_> {
    /// How many may change.
    fn pixels(&self, all: usize) -> usize {
        match self.area {
            Some(area) => area.iter().filter(|&&inside| inside).count(),
            None => all,
        }
    }

    fn restrict(&self, change: &mut [f32]) {
        for (change, inside) in change.iter_mut().zip(self.area.unwrap_or_default()) {
            if !inside {
                *change = 0.0;
            }
        }
    }

    fn with(&self, change: &[f32]) -> Vec<u8> {
        let pixels = self.rgb.chunks_exact(3).zip(change);
        pixels
            .flat_map(|(pixel, change)| {
                [0, 1, 2].map(|i| (f32::from(pixel[i]) + change).round() as u8)
            })
            .collect()
    }

    fn psnr(&self, marked: &[u8]) -> f64 {
        let squares: u64 = self
            .rgb
            .iter()
            .zip(marked)
            .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
            .sum();
        if squares == 0 {
            return f64::INFINITY;
        }
        let count = 3 * self.pixels(self.rgb.len() / 3);
        10.0 * (255.0 * 255.0 * count as f64 / squares as f64).log10()
    }

    /// Scales a change down until the ratio holds, after rounding and at black and white too.
    fn limit(&self, change: &mut [f32], ratio: f64) {
        // The error grows nearly with the square of the change, so that few tries are enough.
        loop {
            let missing = ratio - self.psnr(&self.with(change));
            if missing <= 0.0 {
                return;
            }
            let scale = (0.999 * 10f64.powf(-missing / 20.0)) as f32;
            change.iter_mut().for_each(|value| *value *= scale);
        }
    }
}
