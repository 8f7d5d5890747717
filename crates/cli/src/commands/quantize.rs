//! `impasto quantize`: a model's weights in fewer bits, as a checkpoint of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::WeightFormat;
use impasto::families::{self, ModelFiles};

use crate::arguments::find_model;
use crate::terminal;

/// Write a checkpoint with quantised weights
///
/// The transformer's linear layers are stored in bf16 (16 bits), int8 (8.5 bits per weight) or int4 (4.5 bits) and used
/// in place from the mapped file; everything else is unchanged. Commands that load a model do the same in memory with
/// --precision.
#[derive(Args)]
pub struct Arguments {
    /// Name of the embedded or of a pulled model, or a checkpoint folder: impasto's or a published one
    #[arg(value_name = "NAME|DIR")]
    model: String,
    /// bf16, int8 or int4
    #[arg(long, value_name = "FORMAT")]
    to: WeightFormat,
    /// Output folder
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Quantises and prints where to.
pub fn run(arguments: Arguments) -> Result<()> {
    let model = ModelFiles::find(&find_model(&arguments.model)?)?;
    families::quantise(&model, arguments.to, &arguments.output)?;
    terminal::result(terminal::shown(&arguments.output))
}
