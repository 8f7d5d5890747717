//! How likely a model finds held-out composed scenes and their captions: what it has lost, say to fewer bits,
//! without any drawing.

use serde::Serialize;

use super::scenes::held_out_prompts;
use crate::data::scenes::{Glyphs, Language, World, render};
use crate::model::Model;
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
    /// Image tokens measured.
    pub image_tokens: usize,
    /// Text tokens measured.
    pub text_tokens: usize,
}

/// Measures. `observer` gets the scenes done and to do.
pub fn run(
    model: &Model,
    world: &World,
    glyphs: &Glyphs,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<LikelihoodReport> {
    if options.scenes == 0 {
        return Err(Error::invalid("scenes", "expected 1 or more, got 0"));
    }
    let generator = model.generator()?;
    let (mut image, mut text) = ((0.0, 0), (0.0, 0));
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
    }
    Ok(LikelihoodReport {
        model: model.name().to_owned(),
        world: world.name.clone(),
        options: options.clone(),
        image_nats_per_token: image.0 / image.1 as f64,
        text_nats_per_token: (text.1 > 0).then(|| text.0 / text.1 as f64),
        image_tokens: image.1,
        text_tokens: text.1,
    })
}
