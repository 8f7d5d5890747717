//! `impasto complete`: the rest of a picture from a part of it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use impasto::edit::{Area, Region};
use impasto::image::Original;

use super::drawing::{DrawingFlags, Task};
use crate::arguments::prompt;
use crate::failure::Usage;

/// Keep a part of a picture and redraw the rest
#[derive(Args)]
#[command(group = ArgGroup::new("kept").required(true).multiple(false))]
pub struct Arguments {
    /// The picture, of any size
    image: PathBuf,
    /// Keep this many rows of the model's grid, from the top
    #[arg(long, value_name = "K", group = "kept", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    /// Keep this rectangle, in pixels from the top left corner
    #[arg(long = "box", value_name = "X,Y,W,H", group = "kept")]
    area: Option<Area>,
    /// Prompt for the whole picture [default: none; the rest is drawn to fit]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    #[command(flatten)]
    drawing: DrawingFlags,
}

/// Reads, draws, writes, reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let planned = arguments.drawing.plan()?;
    let original = Original::open(&arguments.image)?;
    let model = arguments.drawing.open()?;
    let region = match (arguments.rows, arguments.area) {
        (Some(rows), _) => Region::BelowRows(rows as usize),
        (None, Some(area)) => Region::AllBut(area),
        (None, None) => {
            return Err(Usage::new("nothing to keep was named", "pass --rows or --box").into());
        }
    };
    let canvassed = region.of(original, model.grid()).map_err(|error| {
        let what = error.to_string();
        match region {
            Region::BelowRows(_) => Usage::new(what, "keep fewer rows").into(),
            _ => anyhow::Error::from(error),
        }
    })?;
    let task = Task {
        path: &arguments.image,
        verb: "completed",
        canvassed,
        prompt: arguments.prompt,
    };
    arguments.drawing.draw(&model, task, planned)
}
