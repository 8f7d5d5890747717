//! Requests as data: what a command line or a server takes, validated and run by [`Model::run`](crate::Model::run),
//! [`Ranker::run`](crate::rank::Ranker::run) or [`Searcher::run`].

mod ask;
mod caption;
mod edit;
mod explain;
mod generate;
mod likelihood;
mod score;
mod search;
mod session;
mod upscale;
mod vary;

use serde::{Deserialize, Serialize};

pub use crate::observer::GeneratedImage;
pub use crate::work::Request;
pub use ask::Ask;
pub use caption::{Caption, CaptionOutcome};
pub use edit::{Edit, EditCandidate, EditOutcome};
pub use explain::{Explain, ExplainOutcome};
pub use generate::{Generate, GenerateOutcome, Timings};
pub use likelihood::PairLikelihood;
pub use score::{Embed, EmbedOutcome, Score, ScoreOutcome};
pub use search::{Search, SearchOutcome, Searcher};
pub use session::Session;
pub use vary::{Vary, VaryOutcome};

use crate::Result;
use crate::sampling::SamplingOptions;

/// Sampling options that take the place of a model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOverrides {
    /// In the place of [`SamplingOptions::guidance_scale`].
    pub guidance_scale: Option<f32>,
    /// In the place of [`SamplingOptions::temperature`].
    pub temperature: Option<f32>,
    /// In the place of [`SamplingOptions::top_k`].
    pub top_k: Option<usize>,
    /// In the place of [`SamplingOptions::top_p`].
    pub top_p: Option<f32>,
}

impl SamplingOverrides {
    /// The model's options with these in their place.
    pub fn over(&self, defaults: &SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            guidance_scale: self.guidance_scale.unwrap_or(defaults.guidance_scale),
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.or(defaults.top_k),
            top_p: self.top_p.or(defaults.top_p),
        }
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        self.over(&SamplingOptions::greedy()).validate()
    }
}
