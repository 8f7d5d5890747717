//! How likely a model finds held-out composed scenes and their captions, and how far its predictions are from another
//! one's: what it has lost, say to fewer bits, without any drawing.

use serde::Serialize;

use super::scenes::held_out_prompts;
use crate::data::scenes::{Glyphs, Language, World, render};
use crate::engine::{ImageContext, Predictions};
use crate::families::{Condition, PromptText};
use crate::model::Model;
use crate::models::dalle::raster;
use crate::observer::{Event, Observer};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// Which pairs are measured.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Held-out scenes, one caption each.
    pub scenes: usize,
    /// Their seed.
    pub seed: u64,
    /// Language of the captions.
    pub language: Language,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct LikelihoodReport {
    /// The model's name.
    pub model: String,
    /// The world's name.
    pub world: String,
    /// The settings.
    pub options: Options,
    /// Mean −ln p of an image token given the caption and those before it, in raster order.
    pub image_nats_per_token: f64,
    /// Mean −ln p of a text token given those before it; none from models that only read captions.
    pub text_nats_per_token: Option<f64>,
    /// The perplexity of the captions, e to the mean −ln p; likewise.
    pub text_perplexity: Option<f64>,
    /// Image tokens measured.
    pub image_tokens: usize,
    /// Text tokens measured.
    pub text_tokens: usize,
    /// How far its predictions of image tokens are from the reference's, where there is one.
    pub against: Option<Comparison>,
}

/// Predictions of image tokens beside those of a reference, given the same caption and the same tokens before: the same
/// model in more bits, say.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The reference's name.
    pub reference: String,
    /// Mean Kullback-Leibler divergence of the reference's distribution from the model's, Σ p ln(p / q) with the
    /// reference's p, in nats a token.
    pub divergence: f64,
    /// Its 99th percentile over the tokens.
    pub divergence_99: f64,
    /// The share of tokens of which both find the same code likeliest.
    pub agreement: f64,
    /// Mean entropy of the reference's distributions, in nats: beside ln of the number of codes, how much it knows.
    pub entropy: f64,
}

/// What is known of each token so far.
#[derive(Default)]
struct Compared {
    divergences: Vec<f64>,
    agreeing: usize,
    entropy: f64,
}

impl Compared {
    fn add(&mut self, reference: &Predictions, model: &Predictions) {
        for position in 0..reference.positions() {
            let of = |found: &Predictions| found.likeliest(position, 1);
            self.agreeing += usize::from(of(reference) == of(model));
            self.entropy += reference.entropy(position);
            let (p, q) = (reference.at(position), model.at(position));
            self.divergences.push(divergence(p, q));
        }
    }

    fn finish(mut self, reference: &Model) -> Comparison {
        let count = self.divergences.len().max(1);
        self.divergences.sort_by(f64::total_cmp);
        let percentile = (count * 99).div_ceil(100) - 1;
        Comparison {
            reference: reference.name().to_owned(),
            divergence: self.divergences.iter().sum::<f64>() / count as f64,
            divergence_99: self.divergences.get(percentile).copied().unwrap_or(0.0),
            agreement: self.agreeing as f64 / count as f64,
            entropy: self.entropy / count as f64,
        }
    }
}

/// Σ p ln(p / q) of distributions given as logarithms, in nats. What p excludes counts for nothing.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let pairs = p.iter().zip(q).filter(|(p, _)| p.is_finite());
    let terms = pairs.map(|(&p, &q)| {
        let (p, q) = (f64::from(p), f64::from(q));
        p.exp() * (p - q)
    });
    terms.sum::<f64>().max(0.0)
}

/// What a model predicts of each token of an image after a caption, from those before it in raster order.
fn predictions(model: &Model, caption: &str, image_ids: &[u32]) -> Result<Predictions> {
    let text = PromptText {
        prompt: Some(caption),
        ..PromptText::default()
    };
    let order = raster(image_ids.len());
    model.generator()?.read(text)?.predictions(
        Condition::Prompt,
        image_ids,
        ImageContext::Before(&order),
    )
}

/// Measures, beside `reference` if there is one. `observer` gets the scenes done and to do.
///
/// # Errors
/// Also where the reference has another image tokenizer: its tokens would mean something else.
pub fn run(
    model: &Model,
    reference: Option<&Model>,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<LikelihoodReport> {
    if options.scenes == 0 {
        return Err(Error::invalid("scenes", "expected 1 or more, got 0"));
    }
    let generator = model.generator()?;
    // Both get the ids of the model: in bf16 an image tokenizer may round a few pictures' ids otherwise.
    if let Some(reference) = reference
        && reference.image_tokenizer().config() != model.image_tokenizer().config()
    {
        return Err(Error::invalid(
            "reference",
            format!(
                "encodes pictures otherwise than {}; expected the same model in other precision",
                model.name()
            ),
        ));
    }
    let (mut image, mut text) = ((0.0, 0), (0.0, 0));
    let mut compared = Compared::default();
    let prompts = held_out_prompts(world, options.seed, options.scenes, options.language);
    for (done, prompt) in prompts.iter().enumerate() {
        let total = options.scenes;
        if observer.event(&Event::Items { done, total }).is_break() {
            return Err(Error::Stopped);
        }
        let picture = render(&prompt.scene, glyphs);
        let image_ids = model.encode(&picture)?;
        let found = generator.likelihood(&prompt.caption, &image_ids, LongCaption::Refuse)?;
        image.0 -= found.image_log_likelihood;
        image.1 += found.image_tokens;
        text.0 -= found.text_log_likelihood;
        text.1 += found.text_tokens;
        if let Some(reference) = reference {
            compared.add(
                &predictions(reference, &prompt.caption, &image_ids)?,
                &predictions(model, &prompt.caption, &image_ids)?,
            );
        }
    }
    let text_nats_per_token = (text.1 > 0).then(|| text.0 / text.1 as f64);
    Ok(LikelihoodReport {
        model: model.name().to_owned(),
        world: world.name.clone(),
        options: options.clone(),
        image_nats_per_token: image.0 / image.1 as f64,
        text_nats_per_token,
        text_perplexity: text_nats_per_token.map(f64::exp),
        image_tokens: image.1,
        text_tokens: text.1,
        against: reference.map(|reference| compared.finish(reference)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_of_known_distributions() {
        let of = |p: &[f64]| -> Vec<f32> { p.iter().map(|p| p.ln() as f32).collect() };
        let (halves, skewed) = (of(&[0.5, 0.5, 0.0]), of(&[0.75, 0.25, 0.0]));
        assert_eq!(divergence(&halves, &halves), 0.0);
        let expected = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        assert!((divergence(&halves, &skewed) - expected).abs() < 1e-6);
        // Not symmetric, and endless where the model excludes what the reference expects.
        assert!((divergence(&skewed, &halves) - expected).abs() > 1e-3);
        assert_eq!(divergence(&halves, &of(&[1.0, 0.0, 0.0])), f64::INFINITY);
    }
}
