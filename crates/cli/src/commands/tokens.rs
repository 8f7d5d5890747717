//! `impasto tokens`: pictures as image ids, and back.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::image::Image;
use impasto::{Error, files};
use serde::{Deserialize, Serialize};

use crate::arguments::ModelFlags;
use crate::{outputs, terminal};

/// Encode a picture as image ids, or decode image ids to a picture
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a picture's image ids, one line per row of the grid
    Encode {
        /// The picture; cropped to its centre square
        image: PathBuf,
        #[command(flatten)]
        model: ModelFlags,
        /// Print one JSON document that `decode` reads
        #[arg(long)]
        json: bool,
    },
    /// Decode image ids and write the picture
    Decode {
        /// JSON: a list of ids row by row, or the output of `encode --json`; - reads standard input
        ids: PathBuf,
        /// Output file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        model: ModelFlags,
    },
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    model: String,
    /// Rows and columns.
    grid: usize,
    image_ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    List(Vec<u32>),
    Encoded(Encoded),
}

/// Encodes or decodes.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Encode { image, model, json } => encode(&image, &model, json),
        Command::Decode { ids, output, model } => decode(&ids, &output, &model),
    }
}

fn encode(image: &Path, model: &ModelFlags, json: bool) -> Result<()> {
    let picture = Image::open(image)?;
    let model = model.open()?;
    let encoded = Encoded {
        model: model.name().to_owned(),
        grid: model.grid(),
        image_ids: model.encode(&picture)?,
    };
    if json {
        return terminal::json(&encoded);
    }
    for row in encoded.image_ids.chunks(encoded.grid) {
        let row: Vec<String> = row.iter().map(u32::to_string).collect();
        terminal::result(row.join(" "))?;
    }
    Ok(())
}

fn decode(path: &Path, output: &Path, model: &ModelFlags) -> Result<()> {
    let format = outputs::check_file(output, None)?;
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(Error::io("read", "standard input"))?;
        text
    } else {
        files::read_to_string(path)?
    };
    let ids: Ids = serde_json::from_str(&text).map_err(|_| {
        Error::bad_file(
            path,
            "not image ids: expected a JSON list of numbers, or what `tokens encode --json` prints",
        )
    })?;
    let model = model.open()?;
    let name = model.name();
    let ids = match ids {
        Ids::List(ids) => ids,
        Ids::Encoded(encoded) if encoded.model == name => encoded.image_ids,
        Ids::Encoded(encoded) => {
            let reason = format!("ids of model {}, expected those of {name}", encoded.model);
            return Err(Error::bad_file(path, reason).into());
        }
    };
    let picture = model.decode(&ids)?;
    files::write_atomic(output, &picture.encode(format, 95)?)?;
    terminal::result(terminal::shown(output))
}
