//! Pictures from words with discrete-token transformers.
//!
//! The modules stand in pipeline order: read downwards.

pub mod error;
pub mod files;
pub mod sampling;

pub use error::{Error, Result};
