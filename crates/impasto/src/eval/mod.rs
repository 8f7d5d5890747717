//! Judging what a model draws.

pub mod detector;
pub mod run;
pub mod scenes;
