//! `impasto search`: pictures of a folder by words, or by a picture.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use impasto::image::{Format, Image};
use impasto::observer::NoObserver;
use impasto::request::{Search, Searcher};
use impasto::search::{Hit, Index};
use serde::Serialize;

use super::index::index_of;
use crate::arguments::{ClipFlags, LongCaptionFlags, prompt};
use crate::terminal::{self, shown};

/// Search an indexed folder of pictures by words or by a picture; the nearest first
///
/// `impasto search "two red cats" photos`, `impasto search a.png photos`. Build the index with `impasto index build`. A
/// query that names a file, or ends like a picture's name, is a picture unless --text is given.
#[derive(Args)]
pub struct Arguments {
    /// Words, or a picture
    #[arg(value_name = "QUERY|IMAGE", value_parser = prompt)]
    query: String,
    /// The folder of pictures
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The folder of the index [default: .impasto-index in the folder of pictures]
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// Number of pictures to find
    #[arg(short = 'n', long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The query is words, even if a file has this name
    #[arg(long, conflicts_with = "image")]
    text: bool,
    /// The query is a picture
    #[arg(long)]
    image: bool,
    #[command(flatten)]
    clip: ClipFlags,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SearchReport<'a> {
    query: &'a str,
    by: &'static str,
    clip: &'a str,
    pictures: usize,
    hits: Vec<Hit>,
}

/// Whether a query names a file, or looks like the name of a picture: a mistyped name is an error, not words.
fn is_named_picture(query: &str) -> bool {
    let path = Path::new(query);
    (path.exists() && !path.is_dir()) || Format::of_path(path).is_ok()
}

/// Searches and prints what was found.
pub fn run(arguments: Arguments) -> Result<()> {
    let query = &arguments.query;
    let index = Index::open(&index_of(&arguments.folder, arguments.index.as_deref()))?;
    let is_picture = arguments.image || (!arguments.text && is_named_picture(query));
    let picture = is_picture.then(|| Image::open(query)).transpose();
    let picture = picture
        .with_context(|| format!("{query} is taken for a picture; --text searches the words"))?;
    let ranker = arguments.clip.load()?;
    let request = Search {
        text: (!is_picture).then(|| query.clone()),
        n: arguments.count as usize,
        long: arguments.long.what(),
        image: picture.map(Arc::new),
    };
    let found = Searcher::new(&index, &ranker)?.run(&request, &mut NoObserver)?;
    if arguments.json {
        return terminal::json(&SearchReport {
            query,
            by: if is_picture { "picture" } else { "words" },
            clip: &found.model,
            pictures: found.pictures,
            hits: found.hits,
        });
    }
    for hit in found.hits {
        terminal::result(format_args!("{:.4}  {}", hit.score, shown(&hit.path)))?;
    }
    Ok(())
}
