//! Training: `text_tokenizer`, then `image_tokenizer`, then `dalle`; `clip` beside them. Each from one
//! config file. `fine_tune` trains published models on.
//!
//! Everything random in a step is drawn from (seed, step), and everything that a step changes is in the
//! checkpoint, so that a run that was stopped goes on bit for bit.

mod ahead;
mod checkpoints;
pub mod clip;
pub mod config;
pub mod dalle;
mod dalle_config;
pub mod drawn;
mod encoded;
mod engine;
pub mod fine_tune;
mod folder;
pub mod image_tokenizer;
mod initial_model;
mod metrics;
mod muon;
pub(crate) mod optimizer;
pub mod source;
pub mod text_tokenizer;
mod timer;

pub use crate::observer::{Observer, TrainingEvent};
pub use config::RunConfig;
pub use source::SourceConfig;

#[cfg(test)]
pub(crate) mod tests;
