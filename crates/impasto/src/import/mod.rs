//! Published models in their own formats, given our names and layouts.
//!
//! Importing is strict: a tensor that is missing, has another shape, or belongs nowhere ends it, and what was
//! found is told by the names that the file uses. Nothing in a file is ever executed.

pub mod clip;
pub mod dalle_mini;
mod mapping;
mod weights;

pub use mapping::{ImportReport, Misshapen};
