//! Why a picture looks as it does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Request;
use crate::explain::{self, Explanation, Method};
use crate::image::Image;
use crate::model::Model;
use crate::observer::{Event, Observer};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A request to explain pictures by their prompts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// What the picture shows, or what it was drawn from.
    pub prompt: String,
    /// How the maps of words are computed; [`Method::best_of`] the model, if not given.
    #[serde(default)]
    pub method: Option<Method>,
    /// What is done with a prompt that is too long for the model.
    #[serde(default)]
    pub long: LongCaption,
    /// The picture's row-major ids, where it was drawn: exactly what the model drew. Empty for pictures from anywhere.
    #[serde(default)]
    pub image_ids: Vec<u32>,
    /// The picture, of any size: its middle square is encoded. Needed where there are no ids.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

/// What came of an [`Explain`].
#[derive(Clone, Debug)]
pub struct ExplainOutcome {
    /// Why.
    pub explanation: Explanation,
    /// The picture that is explained: that of its ids.
    pub picture: Image,
}

impl Request<Model> for Explain {
    type Outcome = ExplainOutcome;

    fn validate(&self) -> Result<()> {
        match self.image.is_none() && self.image_ids.is_empty() {
            true => Err(Error::invalid(
                "image",
                "expected a picture or its ids, got none",
            )),
            false => Ok(()),
        }
    }

    /// Reports words as [`Event::Items`].
    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<ExplainOutcome> {
        let method = self.method.unwrap_or_else(|| Method::best_of(model));
        model.generator()?.check_prompt(&self.prompt, self.long)?;
        let image_ids = match &self.image {
            Some(image) if self.image_ids.is_empty() => model.encode(image)?,
            _ => self.image_ids.clone(),
        };
        let explanation = explain::explain(
            model,
            &self.prompt,
            &image_ids,
            method,
            self.long,
            &mut |done, total| observer.event(&Event::Items { done, total }),
        )?;
        Ok(ExplainOutcome {
            explanation,
            picture: model.decode(&image_ids)?,
        })
    }
}
