//! Judging what a model draws.

mod canvas;
pub mod detector;
pub mod diversity;
pub mod edits;
pub mod explain;
pub mod likelihood;
pub mod retrieval;
pub mod run;
pub mod scenes;
