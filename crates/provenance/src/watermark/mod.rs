//! An invisible watermark for small pictures: a key's signs, added to the cosine coefficients of the brightness.
//!
//! **What it says.** One thing: whoever drew this had the key. There is no payload; at 64 x 64 pixels and 40 dB there is
//! no room for one that survives.
//!
//! **How it is found.** Features f of the picture (limited coefficients in which edges and patterns of the picture count
//! little, `feature.rs`) are correlated with the key's signs s: z = Σ s f / ‖f‖. The features are a function of the
//! picture alone, so for a picture that was made without the key, each sign is a fair coin, and z is a weighted sum of
//! them. For such sums P(z ≥ t) ≤ 3.178 · Q(t), where Q is the tail of the normal distribution (Bentkus & Dzindzalieta
//! 2015, "A tight Gaussian bound for weighted sums of Rademacher random variables", Bernoulli 21(2), arXiv:1307.3451),
//! whatever the picture is. The picture as a whole, and parts of a larger original that it may be, are each a try; the
//! bound of each is multiplied by the number of tries (Bonferroni). [`Detection::score`] is −log10 of that bound: a score
//! of 6 or more is reached by at most one unmarked picture in a million.
//!
//! **How it is put in.** By steps in the direction in which z grows most, until the score survives a blur and half the
//! size, or the difference reaches [`MIN_PSNR`]: the detector is known while embedding (informed embedding; Cox,
//! Miller & Bloom, Digital Watermarking, 2007, chapter 5).
//!
//! Frequencies count from the whole picture's size, so scaling changes nothing. Cropping does: [`detect`] tries kept
//! parts of 80 % to 100 % of each side.

mod embed;
mod feature;
mod parts;
mod plane;

use feature::{LARGE, LOW, WAVES, Whitened};
use plane::Plane;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

pub use embed::{Embedded, MIN_PSNR, embed};

/// A score from which a watermark is said to be there: false for at most one picture in a million.
pub const THRESHOLD: f64 = 6.0;
/// The shortest side that can be marked, in pixels.
pub const MIN_SIDE: usize = 64;
/// The shortest side in which a watermark is looked for: half of that.
const MIN_SEARCHED: usize = MIN_SIDE / 2;
/// What the key everyone has is made from.
const PUBLIC: &[u8] = b"impasto public watermark key";

/// What a watermark is made and found with.
#[derive(Clone)]
pub struct Key {
    name: String,
    signs: Vec<f32>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

impl Key {
    /// The key that is used where none is given. Everyone has it, so everyone can find the watermark, imitate it, and
    /// remove it.
    pub fn public() -> Self {
        Key {
            name: "public".into(),
            ..Key::secret(PUBLIC)
        }
    }

    /// A key of any bytes, such as a file's.
    pub fn secret(bytes: &[u8]) -> Self {
        let seed = |purpose: &[u8]| -> [u8; 32] {
            let hash = Sha256::new().chain_update(b"impasto watermark 1, ");
            hash.chain_update(purpose)
                .chain_update([0])
                .chain_update(bytes)
                .finalize()
                .into()
        };
        let mut random = ChaCha8Rng::from_seed(seed(b"signs"));
        let mut sign = || {
            if random.next_u32() >> 31 == 0 {
                1.0
            } else {
                -1.0
            }
        };
        let signs = (0..WAVES * WAVES).map(|_| sign()).collect();
        let [a, b, c, d, ..] = seed(b"name");
        Key {
            name: format!("{a:02x}{b:02x}{c:02x}{d:02x}"),
            signs,
        }
    }

    /// What reports call it: "public", or eight digits that say nothing about the bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// z of features up to a frequency.
    fn correlation(&self, features: &[f32], waves: usize, limit: usize) -> f64 {
        let (mut sum, mut squares) = (0.0f32, 0.0f32);
        let rows = features
            .chunks_exact(waves)
            .zip(self.signs.chunks_exact(WAVES));
        for (features, signs) in rows.take(limit) {
            for (feature, sign) in features[..limit].iter().zip(signs) {
                sum += feature * sign;
                squares += feature * feature;
            }
        }
        if squares <= 0.0 {
            return 0.0;
        }
        f64::from(sum) / f64::from(squares).sqrt()
    }
}

/// The part of the original that a picture is, in shares of its sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// What is missing at the left.
    pub left: f64,
    /// What is missing at the top.
    pub top: f64,
    /// The width that is left.
    pub width: f64,
    /// The height that is left.
    pub height: f64,
}

/// What a search for a key found.
#[derive(Clone, Debug)]
pub struct Detection {
    /// −log10 of a bound on the probability that a picture that was made without the key looks like this.
    pub score: f64,
    /// Of what part of the original, where the picture is not taken as a whole.
    pub part: Option<Part>,
}

impl Detection {
    /// Whether the score reaches [`THRESHOLD`].
    pub fn found(&self) -> bool {
        self.score >= THRESHOLD
    }
}

/// ln of a bound on the probability of a `z` or more of coins: the smaller one of exp(−z²/2) (Hoeffding 1963, theorem 2)
/// and c Q(z) with c = 1 / (4 Q(√2)) (Bentkus & Dzindzalieta 2015, theorem 1.1), where Q(z) ≤ 2 φ(z) / (z + √(z² + 8/π))
/// (Pollak 1956).
fn ln_tail(z: f64) -> f64 {
    const C: f64 = 3.1787;
    let root = (z * z + 8.0 / std::f64::consts::PI).sqrt();
    let factor = 2.0 * C / ((2.0 * std::f64::consts::PI).sqrt() * (z + root));
    -z * z / 2.0 + factor.min(1.0).ln()
}

/// −log10 of the bound on the probability of a `z` in `tries` tries, which have `share` of the false positives.
fn score(z: f64, tries: usize, share: f64) -> f64 {
    if z <= 0.0 {
        return 0.0;
    }
    let bound = ln_tail(z) + (tries as f64 / share).ln();
    (-bound / std::f64::consts::LN_10).max(0.0)
}

/// Frequencies that a picture of this size has.
fn waves_of(width: usize, height: usize) -> usize {
    if width.min(height) >= LARGE {
        WAVES
    } else {
        LOW
    }
}

/// The z of the picture as a whole: the larger one of two tries.
fn z_of_whole(features: &[f32], waves: usize, key: &Key) -> f64 {
    let z = [LOW, waves].map(|limit| key.correlation(features, waves, limit));
    z[0].max(z[1])
}

/// The score of a [`z_of_whole`], which has half of the false positives.
fn score_of_whole(z: f64) -> f64 {
    score(z, 2, 0.5)
}

/// Looks for a key's watermark in 8-bit RGB: in the whole, and if it is not there, in the picture as a part of a
/// larger one. None where the picture is too small to say anything.
///
/// # Panics
/// If there are not three bytes a pixel.
pub fn detect(width: usize, height: usize, rgb: &[u8], key: &Key) -> Option<Detection> {
    detect_keys(width, height, rgb, std::slice::from_ref(key))?.pop()
}

/// [`detect`] of several keys, which costs little more than of one.
pub fn detect_keys(
    width: usize,
    height: usize,
    rgb: &[u8],
    keys: &[Key],
) -> Option<Vec<Detection>> {
    assert_eq!(rgb.len(), 3 * width * height, "three bytes a pixel");
    if width.min(height) < MIN_SEARCHED {
        return None;
    }
    if keys.is_empty() {
        return Some(Vec::new());
    }
    let luma = Plane::luma(width, height, rgb);
    let waves = waves_of(width, height);
    let features = Whitened::new(&luma, LARGE, waves).features(waves);
    let mut found: Vec<Detection> = keys
        .iter()
        .map(|key| Detection {
            score: score_of_whole(z_of_whole(&features, waves, key)),
            part: None,
        })
        .collect();
    if found.iter().any(|detection| !detection.found()) {
        parts::search(&luma, keys, &mut found);
    }
    Some(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    /// Flat parts, edges, a slope and some noise, other ones for each seed.
    fn picture(width: usize, height: usize, seed: u64) -> Vec<u8> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut number = |below: usize| random.next_u32() as usize % below;
        let mut rgb = vec![0; 3 * width * height];
        let base = [number(256), number(256), number(256)];
        for (i, value) in rgb.iter_mut().enumerate() {
            *value = (base[i % 3] + i / (3 * width) * 20 / height + number(3)).min(255) as u8;
        }
        for _ in 0..6 {
            let (x, y) = (number(width), number(height));
            let (right, down) = (
                (x + 4 + number(width / 3)).min(width),
                (y + 4 + number(height / 3)).min(height),
            );
            let colour = [number(256), number(256), number(256)];
            for row in y..down {
                for column in x..right {
                    for (c, value) in colour.iter().enumerate() {
                        rgb[3 * (row * width + column) + c] = *value as u8;
                    }
                }
            }
        }
        rgb
    }

    fn cropped(rgb: &[u8], width: usize, (x, y, w, h): (usize, usize, usize, usize)) -> Vec<u8> {
        (y..y + h)
            .flat_map(|row| rgb[3 * (row * width + x)..][..3 * w].to_vec())
            .collect()
    }

    #[test]
    fn a_mark_is_found_by_its_key_whole_cropped_and_at_half_the_size() {
        let (key, other) = (Key::secret(b"a"), Key::secret(b"b"));
        for (width, height, seed) in [(64, 64, 1), (100, 70, 2), (200, 160, 3)] {
            let rgb = picture(width, height, seed);
            let marked = embed(width, height, &rgb, &key, None).unwrap();
            assert!(
                marked.psnr >= MIN_PSNR && marked.psnr < 60.0,
                "{}",
                marked.psnr
            );
            let found =
                detect_keys(width, height, &marked.rgb, &[key.clone(), other.clone()]).unwrap();
            assert!(found[0].found() && found[0].part.is_none(), "{found:?}");
            assert!(!found[1].found(), "{found:?}");
            assert_eq!(
                found[0].score,
                detect(width, height, &marked.rgb, &key).unwrap().score
            );
            assert!(!detect(width, height, &rgb, &key).unwrap().found());

            let (w, h) = (width - width / 10, height - height / 10);
            let part = cropped(&marked.rgb, width, (width / 30, height / 15, w, h));
            let found = detect(w, h, &part, &key).unwrap();
            assert!(found.found(), "{width}x{height} {found:?}");
            let place = found.part.unwrap();
            assert!(
                (place.left - 1.0 / 30.0).abs() < 0.05 && (place.width - 0.9).abs() < 0.05,
                "{place:?}"
            );

            let half: Vec<u8> = (0..width / 2 * (height / 2) * 3)
                .map(|i| {
                    let (c, x, y) = (i % 3, i / 3 % (width / 2), i / 3 / (width / 2));
                    let at =
                        |dx, dy| u16::from(marked.rgb[3 * ((2 * y + dy) * width + 2 * x + dx) + c]);
                    ((at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1) + 2) / 4) as u8
                })
                .collect();
            assert!(detect(width / 2, height / 2, &half, &key).unwrap().found());
        }
    }

    #[test]
    fn pixels_outside_of_the_area_stay() {
        let (width, height) = (96, 96);
        let rgb = picture(width, height, 4);
        let area: Vec<bool> = (0..width * height).map(|i| i % width > 10).collect();
        let marked = embed(width, height, &rgb, &Key::public(), Some(&area)).unwrap();
        for (i, inside) in area.iter().enumerate() {
            assert!(
                *inside || rgb[3 * i..][..3] == marked.rgb[3 * i..][..3],
                "pixel {i}"
            );
        }
        assert!(
            detect(width, height, &marked.rgb, &Key::public())
                .unwrap()
                .found()
        );
        // Nothing may change: nothing is marked.
        let none = embed(
            width,
            height,
            &rgb,
            &Key::public(),
            Some(&vec![false; width * height]),
        )
        .unwrap();
        assert!(none.rgb == rgb && none.score < THRESHOLD);
    }

    #[test]
    fn what_is_too_small_is_neither_marked_nor_searched() {
        assert!(embed(63, 80, &picture(63, 80, 5), &Key::public(), None).is_none());
        assert!(detect(31, 80, &picture(31, 80, 5), &Key::public()).is_none());
        assert!(
            detect(64, 80, &vec![7; 3 * 64 * 80], &Key::public())
                .unwrap()
                .score
                == 0.0
        );
    }

    /// The bound holds: of searches with keys that have nothing to do with a picture, at most a share of 10^-s has a
    /// score of s.
    #[test]
    fn wrong_keys_are_found_as_rarely_as_the_score_says() {
        let keys: Vec<Key> = (0..100u32).map(|i| Key::secret(&i.to_le_bytes())).collect();
        let mut scores = Vec::new();
        for seed in 0..6 {
            let rgb = picture(64, 64, seed);
            scores.extend(
                detect_keys(64, 64, &rgb, &keys)
                    .unwrap()
                    .iter()
                    .map(|found| found.score),
            );
        }
        let above = |score: f64| scores.iter().filter(|&&other| other >= score).count();
        // 600 searches: 60 and 6 are expected at most; the probability of more than 90 or 18 is below 1e-4.
        assert!(
            above(1.0) <= 90 && above(2.0) <= 18 && above(5.0) == 0,
            "{scores:?}"
        );
    }

    #[test]
    fn a_key_s_name_says_nothing_about_it_and_signs_stay() {
        let key = Key::secret(b"a");
        assert_eq!(key.name().len(), 8);
        // Marks of earlier versions have to be found.
        let first: String = key.signs[..16]
            .iter()
            .map(|&sign| if sign > 0.0 { '+' } else { '-' })
            .collect();
        assert_eq!((key.name(), &first[..]), ("6d0b26b3", "-++--++++--+++-+"));
    }

    /// A picture of the embedded model, marked by the first version of the program.
    #[test]
    fn marks_of_earlier_versions_are_found_whole_and_cropped() {
        let marked = image::load_from_memory(include_bytes!("marked.png")).unwrap();
        let marked = marked.to_rgb8();
        let (key, side) = (Key::secret(b"measured"), 128);
        let found = detect(side, side, &marked, &key).unwrap();
        assert!(found.score > 400.0, "{found:?}");
        for (x, y, w, h) in [(5, 9, 115, 115), (0, 20, 128, 104), (13, 0, 108, 120)] {
            let part = cropped(&marked, side, (x, y, w, h));
            let found = detect(w, h, &part, &key).unwrap();
            assert!(found.score > 30.0, "{found:?}");
            let place = found.part.unwrap();
            let (left, width) = (x as f64 / 128.0, w as f64 / 128.0);
            assert!(
                (place.left - left).abs() < 0.02 && (place.width - width).abs() < 0.03,
                "{place:?}"
            );
        }
    }

    /// Photographs hold the mark in fast frequencies; here a texture takes the slow ones.
    #[test]
    fn a_mark_beside_a_strong_texture_is_found_in_a_part() {
        let (side, key) = (160, Key::secret(b"t"));
        let mut rgb = picture(side, side, 9);
        for (i, pixel) in rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = ((i % side) as f32, (i / side) as f32);
            let wave = 9.0 * ((0.43 * x + 0.2 * y).sin() + (0.31 * y - 0.37 * x).sin());
            pixel
                .iter_mut()
                .for_each(|value| *value = (f32::from(*value) + wave) as u8);
        }
        let marked = embed(side, side, &rgb, &key, None).unwrap().rgb;
        let part = cropped(&marked, side, (11, 4, 144, 144));
        assert!(detect(144, 144, &part, &key).unwrap().found());
    }

    #[test]
    fn the_bound_is_the_smaller_one_and_never_below_the_normal_tail() {
        for (z, tail) in [(1.0, 0.158_655), (3.0, 0.001_349_898), (6.0, 9.865_876e-10)] {
            let bound = ln_tail(z).exp();
            assert!(
                bound >= tail && bound <= (-z * z / 2.0f64).exp(),
                "{z}: {bound}"
            );
            // Not more than 3.18 times, and the approximation of the tail is near.
            assert!(bound <= 3.2 * 1.05 * tail || z < 2.0, "{z}: {bound}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_size_is_searched(width in 1usize..150, height in 1usize..150, value: u8) {
            let mut rgb = vec![value; 3 * width * height];
            for (i, pixel) in rgb.iter_mut().enumerate() {
                *pixel = pixel.wrapping_mul((i * i / 7) as u8);
            }
            let found = detect(width, height, &rgb, &Key::public());
            prop_assert!(found.is_none_or(|found| !found.found()));
        }
    }
}
