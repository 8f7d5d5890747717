//! A question about a picture.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Request, SamplingOverrides};
use crate::families::{Answer, Inquiry};
use crate::image::Image;
use crate::model::Model;
use crate::observer::Observer;
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// A question, about a picture or without one. The likeliest token follows, or tokens are sampled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The words.
    pub question: String,
    /// Sample the answer instead of taking the likeliest token each time.
    #[serde(default)]
    pub sample: bool,
    /// Seed of a sampled one.
    #[serde(default)]
    pub seed: u64,
    /// Temperature and cuts of a sampled one, in the place of the model's own. Guidance is not used.
    #[serde(default)]
    pub sampling: SamplingOverrides,
    /// The picture, of any size and shape; all of it is seen.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

impl Ask {
    /// The likeliest answer to a question about a picture.
    pub fn new(question: &str, image: Image) -> Self {
        Ask {
            question: question.to_owned(),
            sample: false,
            seed: 0,
            sampling: SamplingOverrides::default(),
            image: Some(Arc::new(image)),
        }
    }
}

impl Request<Model> for Ask {
    type Outcome = Answer;

    fn validate(&self) -> Result<()> {
        if self.question.trim().is_empty() {
            return Err(Error::invalid("question", "expected words, got none"));
        }
        self.sampling.validate()
    }

    /// Reports each text so far as [`Event::Text`](crate::observer::Event::Text).
    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Answer> {
        let answerer = model.answerer()?;
        let sampling = match self.sample {
            true => SamplingOptions {
                guidance_scale: 1.0,
                ..self.sampling.over(&answerer.answer_sampling())
            },
            false => SamplingOptions::greedy(),
        };
        let inquiry = Inquiry {
            question: &self.question,
            image: self.image.as_deref(),
        };
        answerer.answer(inquiry, &sampling, self.seed, observer)
    }
}
