//! `impasto complete`: the rest of a picture from a part of it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use impasto::edit::{Area, Mask};
use impasto::image::Original;

use super::drawing::{DrawingFlags, Task};
use crate::arguments::prompt;
use crate::failure::Usage;

/// Keep a part of a picture and draw the rest anew
#[derive(Args)]
#[command(group = ArgGroup::new("kept").required(true).multiple(false))]
pub struct Arguments {
    /// The picture, of any size
    image: PathBuf,
    /// Keep so many rows of the model's grid, from the top
    #[arg(long, value_name = "K", group = "kept", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    /// Keep this rectangle, in pixels from the top left corner
    #[arg(long = "box", value_name = "X,Y,W,H", group = "kept")]
    area: Option<Area>,
    /// What the whole picture shall show [default: whatever fits what is kept]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    #[command(flatten)]
    drawing: DrawingFlags,
}

/// Reads, draws, writes, tells.
pub fn run(arguments: Arguments) -> Result<()> {
    let planned = arguments.drawing.plan()?;
    let original = Original::open(&arguments.image)?;
    let (width, height) = (original.width(), original.height());
    let pipeline = arguments.drawing.open()?;
    let kept = match (arguments.rows, arguments.area) {
        (Some(rows), _) => {
            let grid = pipeline.grid();
            let rows = rows as usize;
            // All rows would leave nothing to draw; in a very low picture a row may have no pixel.
            let kept = rows * height / grid;
            if rows >= grid || kept == 0 {
                return Err(Usage::new(
                    format!("{rows} of the model's {grid} rows of a picture {height} pixels high leave nothing to keep or to draw"),
                    format!("keep 1 to {} rows", grid - 1),
                )
                .into());
            }
            Area {
                x: 0,
                y: 0,
                width,
                height: kept,
            }
        }
        (None, Some(area)) => area,
        (None, None) => {
            return Err(Usage::new("nothing to keep was named", "pass --rows or --box").into());
        }
    };
    let mask = Mask::of_area(width, height, kept)?.inverted();
    mask.check(width, height)?;
    let task = Task {
        path: &arguments.image,
        verb: "completed",
        original,
        mask,
        prompt: arguments.prompt,
        window: None,
    };
    arguments.drawing.draw(pipeline.as_ref(), task, planned)
}
