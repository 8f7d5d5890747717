//! Data: where pictures and captions come from.

pub mod scenes;
