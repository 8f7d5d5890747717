//! Pictures of an index by words or by a picture.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Request;
use crate::image::Image;
use crate::observer::Observer;
use crate::rank::Ranker;
use crate::search::{Hit, Index};
use crate::text::clip::LongCaption;
use crate::{Error, Result};

/// A request for the pictures of an index that are nearest to words or to a picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Words; or `image`.
    #[serde(default)]
    pub text: Option<String>,
    /// The number of pictures to find.
    #[serde(default = "ten")]
    pub n: usize,
    /// What to do with words that are too long for the model.
    #[serde(default)]
    pub long: LongCaption,
    /// A picture; or `text`.
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

fn ten() -> usize {
    10
}

impl Default for Search {
    fn default() -> Self {
        Search {
            text: None,
            n: ten(),
            long: LongCaption::default(),
            image: None,
        }
    }
}

/// An index and the CLIP of its embeddings.
#[derive(Debug)]
pub struct Searcher<'a> {
    index: &'a Index,
    ranker: &'a Ranker,
}

impl<'a> Searcher<'a> {
    /// Returns an error where the index was built by another CLIP.
    pub fn new(index: &'a Index, ranker: &'a Ranker) -> Result<Self> {
        index.check(ranker)?;
        Ok(Searcher { index, ranker })
    }

    /// Validates a request and runs it.
    pub fn run<R>(&self, request: &R, observer: &mut dyn Observer) -> Result<R::Outcome>
    where
        R: Request<Self>,
    {
        request.validate()?;
        request.run(self, observer)
    }
}

/// The result of a [`Search`].
#[derive(Clone, Debug)]
pub struct SearchOutcome {
    /// The pictures found, the nearest first.
    pub hits: Vec<Hit>,
    /// How many pictures the index has.
    pub pictures: usize,
    /// The CLIP's name.
    pub model: String,
}

impl Request<Searcher<'_>> for Search {
    type Outcome = SearchOutcome;

    fn validate(&self) -> Result<()> {
        if self.n == 0 {
            return Err(Error::invalid("n", "expected 1 or more, got 0"));
        }
        match (&self.text, &self.image) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            (None, None) => Err(Error::invalid(
                "query",
                "expected text or an image, got none",
            )),
            (Some(_), Some(_)) => Err(Error::invalid(
                "query",
                "expected text or an image, got both",
            )),
        }
    }

    fn run(&self, searcher: &Searcher<'_>, _observer: &mut dyn Observer) -> Result<SearchOutcome> {
        let (index, ranker) = (searcher.index, searcher.ranker);
        let hits = match (&self.image, &self.text) {
            (Some(image), _) => index.search_picture(ranker, image, self.n)?,
            (None, text) => {
                let text = text.as_deref().unwrap_or_default();
                index.search_text(ranker, text, self.long, self.n)?
            }
        };
        Ok(SearchOutcome {
            hits,
            pictures: index.len(),
            model: ranker.model.name().to_owned(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_search_has_one_query_and_finds_something() {
        let valid: Search = serde_json::from_str(r#"{"text": "a red cat"}"#).unwrap();
        assert_eq!(valid.n, 10);
        valid.validate().unwrap();
        let image = Some(Arc::new(Image::filled(8, 8, [1, 2, 3])));
        let both = Search {
            image,
            ..valid.clone()
        };
        for (request, field) in [
            (both, "query"),
            (Search::default(), "query"),
            (Search { n: 0, ..valid }, "n"),
        ] {
            let error = request.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: expected ")), "{error}");
        }
    }
}
