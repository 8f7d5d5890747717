//! Pictures and captions in a CLIP's space.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::Request;
use crate::Model;
use crate::image::Image;
use crate::observer::{Event, Observer};
use crate::rank::{Ranker, Scores, check_templates, rows};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// Pictures that are embedded together, between two events.
const TOGETHER: usize = 32;

/// A request to compare each picture with each caption.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The captions, or the labels that `templates` take.
    pub captions: Vec<String>,
    /// Sentences with a `{}` in which each label is inserted, such as `a photo of a {}`: the mean of their embeddings
    /// stands for the label. Captions are taken as they are, if none is given.
    #[serde(default)]
    pub templates: Vec<String>,
    /// What to do with captions that are too long for the model.
    #[serde(default)]
    pub long: LongCaption,
    /// The pictures.
    #[serde(skip)]
    pub images: Arc<[Image]>,
}

/// The result of a [`Score`].
#[derive(Clone, Debug)]
pub struct ScoreOutcome {
    /// The CLIP's name.
    pub model: String,
    /// How near pictures and captions are.
    pub scores: Scores,
}

impl Request<Ranker> for Score {
    type Outcome = ScoreOutcome;

    fn validate(&self) -> Result<()> {
        if self.captions.is_empty() {
            return Err(Error::invalid("captions", "expected one or more, got none"));
        }
        if self.images.is_empty() {
            return Err(Error::invalid("images", "expected one or more, got none"));
        }
        check_templates(&self.templates)
    }

    fn run(&self, ranker: &Ranker, observer: &mut dyn Observer) -> Result<ScoreOutcome> {
        let text = ranker.embed_labels(&self.captions, &self.templates, self.long)?;
        let mut scores: Option<Scores> = None;
        let mut done = 0;
        for images in self.images.chunks(TOGETHER) {
            let images_embedded = ranker.model.embed_pictures(images)?;
            let part = ranker.compare(images_embedded, text.clone())?;
            match &mut scores {
                Some(scores) => scores.append(part),
                None => scores = Some(part),
            }
            done += images.len();
            let total = self.images.len();
            if observer.event(&Event::Items { done, total }).is_break() {
                return Err(Error::Stopped);
            }
        }
        match scores {
            Some(scores) => Ok(ScoreOutcome {
                model: ranker.model.name().to_owned(),
                scores,
            }),
            None => Err(Error::invalid("images", "expected one or more, got none")),
        }
    }
}

/// A request for vectors of length one: what belongs together is near.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embed {
    /// Captions.
    #[serde(default)]
    pub texts: Vec<String>,
    /// What to do with captions that are too long for the model.
    #[serde(default)]
    pub long: LongCaption,
    /// Pictures.
    #[serde(skip)]
    pub images: Arc<[Image]>,
}

/// The result of an [`Embed`].
#[derive(Clone, Debug)]
pub struct EmbedOutcome {
    /// The CLIP's name.
    pub model: String,
    /// A vector for each caption.
    pub texts: Vec<Vec<f32>>,
    /// A vector for each picture.
    pub images: Vec<Vec<f32>>,
}

impl Embed {
    fn check(&self) -> Result<()> {
        match self.texts.is_empty() && self.images.is_empty() {
            true => Err(Error::invalid(
                "texts, images",
                "expected one or more, got neither",
            )),
            false => Ok(()),
        }
    }

    /// Adds the pictures to what is embedded of the captions.
    fn embed_images(
        &self,
        model: &str,
        texts: Vec<Vec<f32>>,
        embed: impl Fn(&[Image]) -> Result<Tensor<2>>,
        observer: &mut dyn Observer,
    ) -> Result<EmbedOutcome> {
        let total = self.texts.len() + self.images.len();
        let mut outcome = EmbedOutcome {
            model: model.to_owned(),
            texts,
            images: Vec::with_capacity(self.images.len()),
        };
        for images in self.images.chunks(TOGETHER) {
            let done = outcome.texts.len() + outcome.images.len();
            if observer.event(&Event::Items { done, total }).is_break() {
                return Err(Error::Stopped);
            }
            outcome.images.extend(rows(embed(images)?)?);
        }
        Ok(outcome)
    }
}

impl Request<Ranker> for Embed {
    type Outcome = EmbedOutcome;

    fn validate(&self) -> Result<()> {
        self.check()
    }

    fn run(&self, ranker: &Ranker, observer: &mut dyn Observer) -> Result<EmbedOutcome> {
        let model = &ranker.model;
        let texts = match self.texts.is_empty() {
            true => Vec::new(),
            false => rows(model.embed_texts(&self.texts, self.long)?)?,
        };
        let embed = |images: &[Image]| model.embed_pictures(images);
        self.embed_images(model.name(), texts, embed, observer)
    }
}

/// Pictures alone, by the vision encoder of a model that draws.
impl Request<Model> for Embed {
    type Outcome = EmbedOutcome;

    fn validate(&self) -> Result<()> {
        if !self.texts.is_empty() {
            let reason = "expected pictures alone: only a CLIP embeds captions, too";
            return Err(Error::invalid("texts", reason));
        }
        self.check()
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<EmbedOutcome> {
        let encoder = model.picture_encoder()?;
        let embed = |images: &[Image]| encoder.embed_pictures(images);
        self.embed_images(model.name(), Vec::new(), embed, observer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_field_that_is_invalid() {
        let images: Arc<[Image]> = [Image::filled(8, 8, [1, 2, 3])].into();
        let valid = Score {
            captions: vec!["cat".to_owned()],
            templates: vec!["a {}".to_owned()],
            long: LongCaption::default(),
            images: images.clone(),
        };
        valid.validate().unwrap();
        let none = Score {
            captions: Vec::new(),
            ..valid.clone()
        };
        let no_picture = Score {
            images: Arc::default(),
            ..valid.clone()
        };
        let no_blank = Score {
            templates: vec!["a cat".to_owned()],
            ..valid
        };
        for (request, field) in [
            (none, "captions"),
            (no_picture, "images"),
            (no_blank, "template"),
        ] {
            let error = request.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: expected ")), "{error}");
        }
        assert!(Request::<Ranker>::validate(&Embed::default()).is_err());
        let words = Embed {
            texts: vec!["cat".to_owned()],
            ..Embed::default()
        };
        assert!(Request::<Ranker>::validate(&words).is_ok());
        let error = Request::<Model>::validate(&words).unwrap_err().to_string();
        assert!(
            error.starts_with("texts: expected pictures alone"),
            "{error}"
        );
    }
}
