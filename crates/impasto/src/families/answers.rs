//! Answers in words, about an image or without one.

use serde::Serialize;

use crate::Result;
use crate::image::Image;
use crate::observer::Observer;
use crate::sampling::SamplingOptions;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Inquiry<'a> {
    /// The words.
    pub question: &'a str,
    /// What they are about, whole: nothing is cut off.
    pub image: Option<&'a Image>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The words.
    pub text: String,
    /// ln p of its ids, the end included, in nats; without temperature and cuts.
    pub log_likelihood: f64,
    /// Tokens counted, the end among them.
    pub tokens: usize,
    /// Whether its end was generated; if not, it is as long as answers can be.
    pub ended: bool,
}

/// A model that answers questions.
pub trait Answerer {
    /// The default sampling options for answers.
    fn answer_sampling(&self) -> SamplingOptions;

    /// An answer, sampled from `seed`. Reports the text so far after each token as
    /// [`Event::Text`](crate::observer::Event::Text).
    fn answer(
        &self,
        inquiry: Inquiry<'_>,
        sampling: &SamplingOptions,
        seed: u64,
        observer: &mut dyn Observer,
    ) -> Result<Answer>;
}
