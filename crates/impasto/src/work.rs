//! What can be run on a model.

use crate::Result;
use crate::observer::Observer;

/// Work for an `M`: a [`Model`](crate::Model), a CLIP ([`Ranker`](crate::rank::Ranker)), or a CLIP with an index
/// ([`Searcher`](crate::request::Searcher)).
pub trait Request<M> {
    /// The result.
    type Outcome;

    /// Returns an error that names the invalid field.
    fn validate(&self) -> Result<()>;

    /// Does the work; see [`Model::run`](crate::Model::run).
    fn run(&self, model: &M, observer: &mut dyn Observer) -> Result<Self::Outcome>;
}
