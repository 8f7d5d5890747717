//! Pictures from words with discrete-token transformers.
//!
//! The modules stand in pipeline order: read downwards.

pub mod error;
pub mod files;

// Pictures and captions.
pub mod image;
pub mod text;

pub mod data;

// The models, and the room they run in.
pub mod device;
pub mod nn;

pub mod models;

// From a prompt to a picture in a file.
pub mod sampling;

pub mod canvas;
pub mod generate;

pub mod checkpoint;
pub mod hub;
pub mod import;

pub mod caption;
pub mod edit;

pub mod memory;
pub mod pipeline;
pub mod provenance;
pub mod rank;
pub mod search;

// Making models, and judging them.
pub mod train;

pub mod bench;
pub mod eval;

// What a machine has, and whether it computes what it should.
pub mod doctor;
pub mod selftest;

pub use error::{Error, Result};
