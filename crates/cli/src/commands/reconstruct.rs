//! `impasto reconstruct`: a picture through the image tokenizer and back.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::files;
use impasto::image::Image;
use impasto::image::metrics::psnr;

use crate::arguments::ModelFlags;
use crate::{outputs, terminal};

/// Encode and decode a picture with the image tokenizer: the upper bound of the model's quality
#[derive(Args)]
pub struct Arguments {
    /// The picture; cropped to its centre square
    image: PathBuf,
    /// Output file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
}

/// Reads, reconstructs, writes.
pub fn run(arguments: Arguments) -> Result<()> {
    let format = outputs::check_file(&arguments.output, None)?;
    let picture = Image::open(&arguments.image)?;
    let model = arguments.model.open()?;
    let original = picture.fit_square(model.picture_size())?;
    let reconstructed = model.reconstruct(&original)?;
    files::write_atomic(&arguments.output, &reconstructed.encode(format, 95)?)?;
    terminal::note(format_args!(
        "psnr: {:.2} dB",
        psnr(&original, &reconstructed)
    ));
    terminal::result(terminal::shown(&arguments.output))
}
