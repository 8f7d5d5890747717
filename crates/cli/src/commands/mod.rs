//! One file a command: its arguments (whose comments are its help) and what it does.

pub mod ask;
pub mod bench;
pub mod caption;
pub mod complete;
pub mod data;
pub mod doctor;
mod drawing;
pub mod edit;
pub mod embed;
pub mod eval;
pub mod explain;
pub mod generate;
pub mod import;
pub mod index;
pub mod likelihood;
pub mod model;
pub mod pull;
pub mod quantize;
pub mod reconstruct;
pub mod score;
pub mod search;
pub mod selftest;
pub mod serve;
pub mod tokens;
pub mod train;
pub mod vary;
mod words;
