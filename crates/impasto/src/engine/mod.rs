//! The decoding engine: one loop samples the masked ids of images with any net, whatever the order of the positions,
//! and one continues texts. It knows no model family.
//!
//! An image's random numbers come from its own seed and position, and our products sum in an order that does not
//! depend on the batch, so an image is the same alone and among others, whenever it joins a running batch.

mod batch;
mod confidence;
pub(crate) mod drafts;
mod likelihood;
mod logits;
mod model;
mod particles;
mod predictions;
mod row;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use batch::pass_sizes;
pub use batch::{
    Batch, FillOptions, FillRequest, InfillRow, SampleSpec, SampledTokens, Ticket, fill, fill_in,
    request_of, sample, sample_guided,
};
pub use confidence::MaskSchedule;
#[cfg(test)]
pub(crate) use confidence::confidence_passes;
pub(crate) use likelihood::sums;
pub use likelihood::{Likelihood, entropies, image_log_likelihoods, likelihood};
pub(crate) use logits::to_host;
pub use model::{
    AutoregressiveModel, DecodeState, Input, ParallelPasses, Prompted, Rewind, Rows, Sizes,
    TextModel, TextSizes, TokenNll,
};
pub use predictions::{ImageContext, Predictions, predictions};
pub use text::{Allowed, SampledText, Watch, beam_search, sample_texts, unwatched};
