//! Pictures from words with discrete-token transformers.
//!
//! The modules stand in pipeline order: read downwards.

pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod image;

pub use error::{Error, Result};
