//! `impasto caption`: words from pictures.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, ValueEnum};
use impasto::families::{GeneratedCaption, Language, Search};
use impasto::observer::NoObserver;
use impasto::request::{Caption, SamplingOverrides};
use serde::Serialize;

use crate::arguments::{ModelFlags, random_seed, temperature, top_k, top_p};
use crate::failure::Usage;
use crate::pictures;
use crate::terminal::{self, shown};

/// Describe pictures in words, with log-likelihoods in nats
///
/// Each picture is cropped to its centre square and scaled to the model's size. Captions are found by beam search, or
/// sampled with --sample.
#[derive(Args)]
pub struct Arguments {
    /// The pictures
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    /// Captions of each picture, the likeliest first
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    n: u16,
    /// Beam width of the search [default: 8 (1 for Janus), or --count if that is larger]
    #[arg(long, value_name = "WIDTH", value_parser = clap::value_parser!(u16).range(1..=256))]
    beam: Option<u16>,
    /// Sample captions instead of searching for the likeliest
    #[arg(long, conflicts_with = "beam")]
    sample: bool,
    /// Sample this many and print the likeliest [default: --count; 16 for models whose captions come before images]
    #[arg(long, value_name = "K", conflicts_with = "beam",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    best_of: Option<u16>,
    /// Seed of the first sampled caption [default: random, printed to stderr]
    #[arg(long, requires = "sample", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Sampling temperature; 0 always takes the likeliest token [default: 1]
    #[arg(long, value_name = "T", requires = "sample", allow_negative_numbers = true,
          value_parser = temperature)]
    temperature: Option<f32>,
    /// Sample from this many likeliest tokens only
    #[arg(long, value_name = "K", requires = "sample", allow_negative_numbers = true,
          value_parser = top_k)]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens whose probabilities add up to this
    #[arg(long, value_name = "P", requires = "sample", allow_negative_numbers = true,
          value_parser = top_p)]
    top_p: Option<f32>,
    /// Language of the captions, for models that were trained on several [default: the locale's]
    #[arg(long, value_enum)]
    language: Option<LanguageName>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LanguageName {
    /// English
    En,
    /// Chinese
    Zh,
    /// Whichever the model finds likelier
    Any,
}

impl LanguageName {
    /// Of the user's locale, by the variables in the order in which they count: Chinese, or else English.
    fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Self {
        let names = ["LC_ALL", "LC_MESSAGES", "LANG"];
        let mut set = names.into_iter().filter_map(variable);
        let locale = set.find(|value| !value.is_empty()).unwrap_or_default();
        match locale.to_ascii_lowercase().starts_with("zh") {
            true => LanguageName::Zh,
            false => LanguageName::En,
        }
    }

    fn language(self) -> Option<Language> {
        match self {
            LanguageName::En => Some(Language::English),
            LanguageName::Zh => Some(Language::Chinese),
            LanguageName::Any => None,
        }
    }
}

#[derive(Serialize)]
struct CaptionReport<'a> {
    model: &'a str,
    search: &'a Search,
    /// None where it was left to the model.
    language: Option<Language>,
    pictures: Vec<Captioned>,
}

#[derive(Serialize)]
struct Captioned {
    #[serde(serialize_with = "impasto::files::lossy")]
    path: PathBuf,
    captions: Vec<GeneratedCaption>,
}

/// Reads, searches, prints.
pub fn run(arguments: Arguments) -> Result<()> {
    let opened = pictures::open(&arguments.images)?;
    let (images, pictures) = (opened.paths(&arguments.images), &opened.pictures);
    let n = usize::from(arguments.n);
    let model = arguments.model.open()?;
    let language = arguments.language.unwrap_or_else(|| {
        LanguageName::of_locale(|name| std::env::var_os(name)?.into_string().ok())
    });
    let language = language.language();
    let mut request = Caption {
        n,
        beam: arguments.beam.map(usize::from),
        sample: arguments.sample,
        best_of: arguments.best_of.map(usize::from),
        seed: arguments.seed.unwrap_or_else(random_seed),
        sampling: SamplingOverrides {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            ..SamplingOverrides::default()
        },
        language,
        image: None,
    };
    let (search, drawn) = request.search(&model)?;
    if drawn < n {
        return Err(Usage::new(
            format!("--best-of {drawn} draws fewer captions than --count {n} prints"),
            "draw at least as many as are printed",
        )
        .into());
    }
    if let Search::Sampling { seed, .. } = &search {
        terminal::note(format_args!("seed: {seed}"));
    }
    let samples = matches!(search, Search::Sampling { .. });
    if samples && model.captioner()?.ranks_captions() {
        terminal::note(format_args!(
            "note: {} generates captions before pictures: {drawn} are drawn without the picture, and ranked by the picture's likelihood given each",
            model.name()
        ));
    }
    let mut reported = Vec::with_capacity(pictures.len());
    for (path, picture) in images.iter().zip(pictures.iter()) {
        request.image = Some(Arc::new(picture.clone()));
        let captions = model.run(&request, &mut NoObserver)?.captions;
        if !arguments.json {
            for caption in &captions {
                let name = if arguments.images.len() > 1 {
                    format!("{}\t", shown(path))
                } else {
                    String::new()
                };
                // A caption a line, whatever a model generates.
                let words: Vec<&str> = caption.text.split_whitespace().collect();
                terminal::result(format_args!(
                    "{name}{}\t{:.4} nats in {} tokens",
                    words.join(" "),
                    caption.log_likelihood,
                    caption.tokens
                ))?;
            }
        }
        reported.push(Captioned {
            path: path.clone(),
            captions,
        });
    }
    if arguments.json {
        terminal::json(&CaptionReport {
            model: model.name(),
            search: &search,
            language,
            pictures: reported,
        })?;
    }
    opened.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_chooses_the_language() {
        let chosen = |set: &[(&str, &str)]| {
            LanguageName::of_locale(|name| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(chosen(&[]), LanguageName::En);
        assert_eq!(chosen(&[("LANG", "zh_CN.UTF-8")]), LanguageName::Zh);
        assert_eq!(
            chosen(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "en_US.UTF-8")]),
            LanguageName::En
        );
        assert_eq!(
            chosen(&[("LANG", "zh_TW"), ("LC_ALL", "")]),
            LanguageName::Zh
        );
        assert_eq!(
            chosen(&[("LC_MESSAGES", "zh"), ("LANG", "de_DE")]),
            LanguageName::Zh
        );
        assert_eq!(chosen(&[("LANG", "C.UTF-8")]), LanguageName::En);
    }
}
