//! The executable as its users meet it: arguments in, files, lines and exit codes out.
//!
//! The models are tiny and untrained: what they draw is noise, how it is drawn is what is tested.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod amused;
mod bad_input;
mod bounds;
mod chunks;
mod clip;
mod dalle_mini;
mod data;
mod doctor;
mod edit;
mod examples;
mod explain;
mod fine_tune;
mod foreign;
mod full;
mod generate;
mod help;
mod hostile;
mod import;
mod kills;
mod left_out;
mod llamagen;
mod meissonic;
mod model;
#[path = "../../../../fuzz/src/mutate.rs"]
mod mutate;
mod mutations;
mod privacy;
mod program;
mod provenance;
mod published;
mod pull;
mod quantize;
mod raster_models;
mod references;
mod rudalle;
mod safety;
mod search;
mod selftest;
mod serve;
mod tokens;
mod train;
mod training;
mod upscale;
mod writing;
