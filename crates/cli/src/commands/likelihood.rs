//! `impasto likelihood`: how likely the model finds a caption, and pictures given it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::engine::Likelihood;
use impasto::observer::NoObserver;
use impasto::request::PairLikelihood;
use serde::Serialize;

use crate::arguments::{LongCaptionFlags, ModelFlags, prompt};
use crate::pictures;
use crate::terminal::{self, shown};

/// Compute the log-likelihood of a caption, and of pictures given the caption, in nats
///
/// Each picture is cropped to its centre square, scaled to the model's size and encoded; its ids are scored in raster
/// order.
#[derive(Args)]
pub struct Arguments {
    /// The pictures
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// The caption
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    caption: String,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct LikelihoodReport<'a> {
    model: &'a str,
    caption: &'a str,
    pictures: Vec<ReportedPicture>,
}

#[derive(Serialize)]
struct ReportedPicture {
    #[serde(serialize_with = "impasto::files::lossy")]
    path: PathBuf,
    #[serde(flatten)]
    likelihood: Likelihood,
}

/// Measures and reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let opened = pictures::open(&arguments.images)?;
    let model = arguments.model.open()?;
    let request = PairLikelihood {
        caption: arguments.caption,
        long: arguments.long.what(),
        images: opened.pictures.clone(),
    };
    let likelihoods = model.run(&request, &mut NoObserver)?;
    let paths = opened.paths(&arguments.images);
    let mut reported = Vec::with_capacity(paths.len());
    for (path, likelihood) in paths.into_iter().zip(likelihoods) {
        if !arguments.json {
            terminal::result(format_args!(
                "{}\ttext {:.4} nats in {} tokens\timage {:.4} nats in {} tokens",
                shown(&path),
                likelihood.text_log_likelihood,
                likelihood.text_tokens,
                likelihood.image_log_likelihood,
                likelihood.image_tokens
            ))?;
        }
        reported.push(ReportedPicture { path, likelihood });
    }
    if arguments.json {
        terminal::json(&LikelihoodReport {
            model: model.name(),
            caption: &request.caption,
            pictures: reported,
        })?;
    }
    opened.finish()
}
