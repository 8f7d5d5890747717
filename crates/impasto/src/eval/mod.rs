//! Judging what a model draws.

mod canvas;
pub mod detector;
pub mod run;
pub mod scenes;
