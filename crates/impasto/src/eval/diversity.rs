//! How much the pictures of one prompt differ, beside the scenes that the prompt describes.

use serde::Serialize;

use super::scenes::PromptKind;
use crate::data::scenes::{Glyphs, World, render};
use crate::image::Image;
use crate::model::Model;
use crate::models::dalle::Order;
use crate::observer::{Event, Observer};
use crate::sampling::SamplingOptions;
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// What is drawn.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Number of prompts.
    pub prompts: usize,
    /// Pictures of each prompt, 2 or more: one a seed.
    pub pictures: usize,
    /// Seed of the prompts; the pictures of each are drawn with the seeds from `seed` on.
    pub seed: u64,
    /// Which prompts.
    pub kind: PromptKind,
    /// How ids are drawn.
    pub sampling: SamplingOptions,
    /// Token order.
    pub order: Order,
}

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// The mean over the prompts of the mean distance of two pictures: the root of their pixels' mean squared
    /// difference, data range 255.
    pub mean: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Distance {
    fn of(distances: &[f64]) -> Self {
        let (mean, low, high) = mean_and_interval(distances);
        Distance { mean, low, high }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct DiversityReport {
    /// The model's name.
    pub model: String,
    /// The world's name.
    pub world: String,
    /// The settings.
    pub options: Options,
    /// Between pictures that the model drew.
    pub drawn: Distance,
    /// Between as many scenes that the prompt describes ([`World::rearranged`]), as the image tokenizer reconstructs
    /// them, so that both are as blurred.
    pub scenes: Distance,
    /// The first by the second; none if the scenes do not differ.
    pub share: Option<f64>,
}

/// Draws and compares. `observer` gets the prompts done and to do.
pub fn run(
    model: &Model,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<DiversityReport> {
    if options.prompts == 0 {
        return Err(Error::invalid("prompts", "expected 1 or more, got 0"));
    }
    if options.pictures < 2 {
        let reason = format!("expected 2 or more, got {}", options.pictures);
        return Err(Error::invalid("pictures", reason));
    }
    options.kind.check(world)?;
    super::run::check_size(model, world)?;
    let generator = model.generator()?;
    let (mut drawn, mut scenes) = (Vec::new(), Vec::new());
    let prompts = options.kind.prompts(world, options.seed, options.prompts);
    for (done, prompt) in prompts.iter().enumerate() {
        let total = prompts.len();
        let mut within = |_: &Event<'_>| observer.event(&Event::Items { done, total });
        let specs: Vec<(&str, u64)> = (0..options.pictures as u64)
            .map(|i| (prompt.caption.as_str(), options.seed.wrapping_add(i)))
            .collect();
        let sampled = generator.sample(
            &specs,
            LongCaption::Refuse,
            &options.sampling,
            options.order,
            &mut within,
        )?;
        let ids: Vec<Vec<u32>> = sampled.into_iter().map(|image| image.image_ids).collect();
        drawn.push(distance_of(&model.image_tokenizer().decode(&ids)?));
        let others: Vec<Image> = (0..options.pictures as u64)
            .map(|i| render(&world.rearranged(&prompt.scene, options.seed, i), glyphs))
            .collect();
        let ids = model.image_tokenizer().encode(&others, model.device())?;
        scenes.push(distance_of(&model.image_tokenizer().decode(&ids)?));
        let done = done + 1;
        if observer.event(&Event::Items { done, total }).is_break() {
            return Err(Error::Stopped);
        }
    }
    let (drawn, scenes) = (Distance::of(&drawn), Distance::of(&scenes));
    Ok(DiversityReport {
        model: model.name().to_owned(),
        world: world.name.clone(),
        options: options.clone(),
        drawn,
        scenes,
        share: (scenes.mean > 0.0).then(|| drawn.mean / scenes.mean),
    })
}

fn distance_of(pictures: &[Image]) -> f64 {
    mean_distance(&pictures.iter().collect::<Vec<_>>())
}

/// The mean over all pairs of the root mean squared difference.
pub(super) fn mean_distance(pictures: &[&Image]) -> f64 {
    let mut distances = Vec::new();
    for (i, a) in pictures.iter().enumerate() {
        for b in &pictures[i + 1..] {
            let squares: f64 = a
                .rgb
                .iter()
                .zip(&b.rgb)
                .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
                .sum();
            distances.push((squares / a.rgb.len() as f64).sqrt());
        }
    }
    distances.iter().sum::<f64>() / distances.len().max(1) as f64
}

/// The mean, and the ends of its two-sided 95 % interval by the normal distribution.
pub(super) fn mean_and_interval(values: &[f64]) -> (f64, f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let half = Z * (squares / (n - 1.0).max(1.0) / n).sqrt();
    (mean, mean - half, mean + half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_root_mean_squares() {
        let [a, b] = [10, 40].map(|value| Image::filled(4, 4, [value; 3]));
        assert_eq!(mean_distance(&[&a, &a]), 0.0);
        assert_eq!(mean_distance(&[&a, &b, &b]), 20.0);
    }

    #[test]
    fn intervals_are_those_of_the_mean() {
        // Standard deviation 1 of a hundred values: 1.96 / 10.
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 2) * 2.0).collect();
        let (mean, low, high) = mean_and_interval(&values);
        assert_eq!(mean, 1.0);
        assert!((high - 1.197).abs() < 1e-3 && (low - 0.803).abs() < 1e-3);
    }
}
