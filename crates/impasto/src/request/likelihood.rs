//! The likelihood of pairs of caption and picture.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Request;
use crate::engine::Likelihood;
use crate::image::Image;
use crate::model::Model;
use crate::observer::{Event, Observer};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A request for ln p of a caption, where the model predicts captions, and of each picture given it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairLikelihood {
    /// What the pictures show.
    pub caption: String,
    /// What is done with a caption that is too long for the model.
    #[serde(default)]
    pub long: LongCaption,
    /// The pictures; the middle square of each is taken.
    #[serde(skip)]
    pub images: Arc<[Image]>,
}

impl Request<Model> for PairLikelihood {
    /// One for each picture, in their order.
    type Outcome = Vec<Likelihood>;

    fn validate(&self) -> Result<()> {
        match self.images.is_empty() {
            true => Err(Error::invalid("images", "expected one or more, got none")),
            false => Ok(()),
        }
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Vec<Likelihood>> {
        let generator = model.generator()?;
        let mut likelihoods = Vec::with_capacity(self.images.len());
        for image in self.images.iter() {
            let image_ids = model.encode(image)?;
            likelihoods.push(generator.likelihood(&self.caption, &image_ids, self.long)?);
            let event = Event::Items {
                done: likelihoods.len(),
                total: self.images.len(),
            };
            if observer.event(&event).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(likelihoods)
    }
}
