//! Pictures from words with discrete-token transformers.
//!
//! The modules stand in pipeline order: read downwards.

pub mod error;
pub mod files;
pub mod image;
pub mod text;
pub mod data;
pub mod device;
pub mod nn;
pub mod models;
pub mod sampling;
pub mod generate;
pub mod checkpoint;
pub mod pipeline;
pub mod eval;
pub mod train;

pub use error::{Error, Result};
