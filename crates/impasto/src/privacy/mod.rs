//! Privacy of training data: personal data in captions, near-duplicate pictures, and what a model has memorized.
//!
//! All of it runs on this machine; nothing of a picture, a caption or a prompt is sent or logged.

pub mod captions;
pub mod dedup;
pub mod memorization;

pub use impasto_privacy::membership;
