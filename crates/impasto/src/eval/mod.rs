//! Judging what a model draws.

mod canvas;
pub mod detector;
pub mod edits;
pub mod run;
pub mod scenes;
