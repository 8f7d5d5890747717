//! `impasto quantize`: a model's weights in fewer bits, as a checkpoint of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::WeightFormat;
use impasto::families::{self, ModelFiles};

use crate::arguments::find_model;
use crate::terminal;

/// Write a checkpoint whose weights take fewer bits
///
/// The transformer's linear layers are stored in bf16 (16 bits), int8 (8.5 bits a weight) or int4 (4.5) and used
/// from the file's memory as they are; everything else stays as it is. Commands that load a model do the same in
/// memory with --precision.
#[derive(Args)]
pub struct Arguments {
    /// A model's name, the embedded one's or a pulled one's, or a checkpoint folder, ours or a published one
    #[arg(value_name = "NAME|DIR")]
    model: String,
    /// bf16, int8 or int4
    #[arg(long, value_name = "FORMAT")]
    to: WeightFormat,
    /// The new checkpoint's folder
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Quantises and prints where to.
pub fn run(arguments: Arguments) -> Result<()> {
    let model = ModelFiles::find(&find_model(&arguments.model)?)?;
    families::quantise(&model, arguments.to, &arguments.output)?;
    terminal::result(terminal::shown(&arguments.output))
}
