//! `impasto score`: which pictures fit a caption, which captions fit a picture.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use impasto::image::Image;
use impasto::observer::NoObserver;
use impasto::request::{self, ScoreOutcome};
use serde::Serialize;

use crate::arguments::{ClipFlags, LongCaptionFlags, prompt};
use crate::failure::Usage;
use crate::pictures;
use crate::terminal::{self, in_line};

/// Rank pictures by a caption, or captions by a picture, with a CLIP
///
/// `impasto score "a red cat" *.png` ranks pictures; `impasto score --image a.png cat dog bird` ranks words (zero-shot
/// classification). The best comes first.
#[derive(Args)]
pub struct Arguments {
    /// A caption, then pictures; with --image, captions only
    #[arg(required = true, value_name = "CAPTION|IMAGE", value_parser = caption_or_path())]
    what: Vec<OsString>,
    /// The picture that captions are compared with
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// With --image: a sentence in which {} is replaced by each word, such as "a photo of a {}"; may be given several
    /// times: embeddings are averaged
    #[arg(long = "template", value_name = "TEXT", requires = "image")]
    templates: Vec<String>,
    #[command(flatten)]
    clip: ClipFlags,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ScoreReport<'a> {
    model: &'a str,
    /// The caption, or the picture's path, that all are compared with.
    of: &'a str,
    scores: Vec<Score<'a>>,
}

#[derive(Serialize)]
struct Score<'a> {
    /// A picture's path, or a caption.
    what: Cow<'a, str>,
    cosine: f32,
    logit: f32,
    /// The softmax over all that were given.
    probability: f32,
}

/// Words, or a path, whose bytes may be any.
fn caption_or_path() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|value| match value.to_str().map(prompt) {
        Some(Err(reason)) => Err(reason),
        _ => Ok(value),
    })
}

/// Compares, sorts and prints.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.image.clone() {
        Some(image) => captions(&arguments, image),
        None => pictures(&arguments),
    }
}

fn pictures(arguments: &Arguments) -> Result<()> {
    let (caption, paths) = match arguments.what.split_first() {
        Some((caption, paths)) if !paths.is_empty() => (caption, paths),
        _ => {
            return Err(Usage::new(
                "expected a caption and one or more pictures, got no picture",
                "impasto score \"a red cat\" a.png b.png, or --image a.png \"a cat\" \"a dog\"",
            )
            .into());
        }
    };
    let caption = pictures::words(caption)?;
    if Path::new(caption).is_file() {
        return Err(Usage::new(
            format!("{caption} is a file, expected a caption in front of the pictures"),
            "impasto score \"a red cat\" a.png b.png",
        )
        .into());
    }
    let opened = pictures::open(paths)?;
    let ranker = arguments.clip.load()?;
    let request = request::Score {
        captions: vec![caption.to_owned()],
        templates: Vec::new(),
        long: arguments.long.what(),
        images: opened.pictures.clone(),
    };
    let ScoreOutcome { model, scores } = ranker.run(&request, &mut NoObserver)?;
    let shares = scores.picture_probabilities(0);
    let rows = scores.best_pictures(0).into_iter().map(|picture| Score {
        what: paths[opened.numbers[picture]].to_string_lossy(),
        cosine: scores.cosine(picture, 0),
        logit: scores.logit(picture, 0),
        probability: shares[picture],
    });
    print_result(arguments, &model, caption, rows.collect())?;
    opened.finish()
}

fn captions(arguments: &Arguments, image: PathBuf) -> Result<()> {
    let words = arguments.what.iter().map(pictures::words);
    let words = words
        .map(|words| words.map(str::to_owned))
        .collect::<Result<Vec<String>>>()?;
    let request = request::Score {
        captions: words,
        templates: arguments.templates.clone(),
        long: arguments.long.what(),
        images: [Image::open(&image)?].into(),
    };
    let ranker = arguments.clip.load()?;
    let ScoreOutcome { model, scores } = ranker.run(&request, &mut NoObserver)?;
    let shares = scores.caption_probabilities(0);
    let rows = scores.best_captions(0).into_iter().map(|caption| Score {
        what: Cow::Borrowed(&request.captions[caption]),
        cosine: scores.cosine(0, caption),
        logit: scores.logit(0, caption),
        probability: shares[caption],
    });
    let image = image.display().to_string();
    print_result(arguments, &model, &image, rows.collect())
}

fn print_result(arguments: &Arguments, model: &str, of: &str, scores: Vec<Score>) -> Result<()> {
    if arguments.json {
        return terminal::json(&ScoreReport { model, of, scores });
    }
    for score in scores {
        terminal::result(format_args!(
            "{:.4}\t{:8.3}\t{:5.1} %\t{}",
            score.cosine,
            score.logit,
            100.0 * score.probability,
            in_line(&score.what)
        ))?;
    }
    Ok(())
}
