//! Privacy of training data, without any model: personal data in captions, near-duplicate pictures, and the statistics of
//! membership tests.

pub mod captions;
pub mod membership;
pub mod pictures;
