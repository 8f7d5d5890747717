//! `impasto embed`: captions and pictures as vectors.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::observer::NoObserver;
use impasto::request::Embed;
use serde::Serialize;

use crate::arguments::{ClipFlags, Encoder, LongCaptionFlags, prompt};
use crate::pictures;
use crate::terminal;

/// Embed captions and pictures with a CLIP, as unit vectors
///
/// The dot product of two vectors is their cosine similarity. With a model that sees pictures (Janus) as
/// --clip, pictures alone: the mean of what its vision encoder makes of the patches.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
pub struct Arguments {
    /// A caption; may be given several times
    #[arg(long = "text", value_name = "TEXT", value_parser = prompt, group = "what")]
    texts: Vec<String>,
    /// A picture; may be given several times
    #[arg(long = "image", value_name = "FILE", group = "what")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    clip: ClipFlags,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// Print one JSON document instead of one line of numbers each
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct EmbedReport {
    model: String,
    embeddings: Vec<Embedded>,
}

#[derive(Serialize)]
struct Embedded {
    #[serde(flatten)]
    what: EmbedInput,
    embedding: Vec<f32>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum EmbedInput {
    Text(String),
    Image(#[serde(serialize_with = "impasto::files::lossy")] PathBuf),
}

/// Embeds and prints, captions first.
pub fn run(arguments: Arguments) -> Result<()> {
    let opened = pictures::open(&arguments.images)?;
    let images = opened.paths(&arguments.images);
    let encoder = arguments.clip.load_encoder()?;
    let request = Embed {
        texts: arguments.texts,
        long: arguments.long.what(),
        images: opened.pictures.clone(),
    };
    let outcome = match &encoder {
        Encoder::Clip(ranker) => ranker.run(&request, &mut NoObserver)?,
        Encoder::Model(model) => model.run(&request, &mut NoObserver)?,
    };
    let values = outcome.texts.into_iter().chain(outcome.images);
    let texts = request.texts.into_iter().map(EmbedInput::Text);
    let what = texts.chain(images.into_iter().map(EmbedInput::Image));
    let embeddings: Vec<Embedded> = what
        .zip(values)
        .map(|(what, embedding)| Embedded { what, embedding })
        .collect();
    if arguments.json {
        terminal::json(&EmbedReport {
            model: outcome.model,
            embeddings,
        })?;
        return opened.finish();
    }
    for embedded in embeddings {
        let numbers: Vec<String> = embedded.embedding.iter().map(f32::to_string).collect();
        terminal::result(numbers.join(" "))?;
    }
    opened.finish()
}
