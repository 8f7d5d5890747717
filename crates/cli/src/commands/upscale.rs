//! `impasto upscale`: pictures enlarged by a published network.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::WeightFormat;
use impasto::files;
use impasto::image::{Format, Original};
use impasto::provenance;
use impasto::upscale::{DEFAULT_UPSCALER, MAX_FACTOR, Upscale, Upscaler};
use serde::Serialize;

use crate::arguments::{DeviceFlags, find_model};
use crate::{outputs, terminal};

/// Enlarge pictures of any size by a published network, such as Real-ESRGAN
///
/// Works tile by tile, so that memory does not grow with the picture. Transparency, 16-bit samples and colour profiles
/// stay.
#[derive(Args)]
pub struct Arguments {
    /// The pictures
    #[arg(required = true, value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Name of a pulled upscaler, or its file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_UPSCALER)]
    model: String,
    /// How many times as large the sides become, 1 to 8 [default: the network's own factor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_FACTOR as i64))]
    factor: Option<u16>,
    /// Largest side of a tile, in pixels: memory grows with its square [default: 384 for RRDBNet, 512 for
    /// SRVGGNetCompact]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(16..=4096))]
    tile: Option<u16>,
    /// Pixels that the network sees around each tile
    #[arg(long, value_name = "PIXELS", default_value = "16", value_parser = clap::value_parser!(u16).range(0..=4096))]
    overlap: u16,
    /// f32 or bf16; bf16 is faster on processors with units for it, and slightly less accurate
    #[arg(long, value_name = "FORMAT")]
    precision: Option<WeightFormat>,
    /// Output file (replaced if it exists), or a folder (ending with /) [default: a new file in the current folder,
    /// named after the picture and the factor]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// png, jpeg or webp [default: by the extension of the output file, else png]
    #[arg(long)]
    format: Option<Format>,
    /// JPEG quality
    #[arg(long, value_name = "Q", default_value = "95",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Print one JSON document: paths, sizes (pixels), seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceFlags,
}

#[derive(Serialize)]
struct UpscaleReport<'a> {
    model: &'a str,
    architecture: &'static str,
    pictures: Vec<Enlarged>,
}

#[derive(Serialize)]
struct Enlarged {
    #[serde(serialize_with = "impasto::files::lossy")]
    image: PathBuf,
    #[serde(serialize_with = "impasto::files::lossy")]
    path: PathBuf,
    factor: usize,
    width: usize,
    height: usize,
    tiles: usize,
    seconds: f64,
}

/// Reads, enlarges and writes one picture after the other.
pub fn run(arguments: Arguments) -> Result<()> {
    let count = arguments.images.len();
    let (target, format) = outputs::plan(arguments.output.as_deref(), arguments.format, count)?;
    let source = find_model(&arguments.model)?;
    let device = arguments.device.select()?;
    let upscaler = Upscaler::load(&source, &device, arguments.precision)?;
    terminal::catch_interrupts()?;
    let mut report = UpscaleReport {
        model: upscaler.name(),
        architecture: upscaler.config().name(),
        pictures: Vec::with_capacity(count),
    };
    let mut left_out = 0;
    for image in &arguments.images {
        match arguments.enlarge(&upscaler, image, (&target, format)) {
            Ok(enlarged) => {
                if !arguments.json {
                    terminal::result(terminal::shown(&enlarged.path))?;
                }
                report.pictures.push(enlarged);
            }
            // One bad picture of several does not end the others' work.
            Err(error) if count > 1 && !terminal::stop_requested() => {
                left_out += 1;
                terminal::note(format_args!(
                    "skipped {}: {error:#}",
                    terminal::shown(image)
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if arguments.json {
        terminal::json(&report)?;
    }
    match left_out {
        0 => Ok(()),
        left_out => anyhow::bail!("{left_out} of {count} pictures could not be enlarged"),
    }
}

impl Arguments {
    fn enlarge(
        &self,
        upscaler: &Upscaler,
        image: &Path,
        (target, format): (&outputs::Target, Format),
    ) -> Result<Enlarged> {
        let clock = Instant::now();
        let original = Original::open(image)?;
        // What the file says about how it was made stays in it.
        let made = provenance::read_parameters(&files::read(image)?).unwrap_or_default();
        let request = Upscale {
            factor: self.factor.map(usize::from),
            tile: self.tile.map(usize::from),
            overlap: self.overlap.into(),
            ..Upscale::new(original)
        };
        let bar = terminal::bar(1, "tiles")?;
        let outcome = upscaler.run(&request, &mut terminal::items(&bar));
        bar.finish_and_clear();
        let outcome = outcome?;
        let bytes = provenance::encode_samples(
            &outcome.image.samples(format),
            format,
            self.quality,
            &provenance::with_upscale(&made, outcome.factor, upscaler.name()),
        )?;
        let stem = image.file_stem().unwrap_or_default().to_string_lossy();
        let path = target.write_numbered(&bytes, &format!("{stem}-x{}", outcome.factor), format)?;
        Ok(Enlarged {
            image: image.to_owned(),
            path,
            factor: outcome.factor,
            width: outcome.image.width(),
            height: outcome.image.height(),
            tiles: outcome.tiles,
            seconds: clock.elapsed().as_secs_f64(),
        })
    }
}
