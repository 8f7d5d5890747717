//! `impasto ask`: questions about a picture.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use impasto::families::Answer;
use impasto::observer::Event;
use impasto::request::{Ask, SamplingOverrides};
use serde::Serialize;

use crate::arguments::{ModelFlags, prompt, random_seed, temperature, top_k, top_p};
use crate::pictures;
use crate::terminal;

/// Answer a question about a picture, by a model that sees (Janus)
///
/// The picture may have any size and shape; all of it is seen. The answer is printed as it is generated.
#[derive(Args)]
pub struct Arguments {
    /// The picture
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// What to ask
    #[arg(value_name = "QUESTION", value_parser = prompt)]
    question: String,
    #[command(flatten)]
    model: ModelFlags,
    /// Sample the answer instead of taking the likeliest token each time
    #[arg(long)]
    sample: bool,
    /// Seed of a sampled answer [default: random, printed to stderr]
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
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct AnswerReport<'a> {
    model: &'a str,
    #[serde(serialize_with = "impasto::files::lossy")]
    path: PathBuf,
    question: &'a str,
    /// None where it is the likeliest.
    seed: Option<u64>,
    answer: &'a Answer,
}

/// Reads, answers, prints.
pub fn run(arguments: Arguments) -> Result<()> {
    let opened = pictures::open(std::slice::from_ref(&arguments.image))?;
    let Some(picture) = opened.pictures.first() else {
        return opened.finish();
    };
    let model = arguments.model.open()?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let request = Ask {
        question: arguments.question,
        sample: arguments.sample,
        seed,
        sampling: SamplingOverrides {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            ..SamplingOverrides::default()
        },
        image: Some(Arc::new(picture.clone())),
    };
    if arguments.sample {
        terminal::note(format_args!("seed: {seed}"));
    }
    let mut printed = String::new();
    let mut failure = None;
    let answer = {
        let json = arguments.json;
        let observer = &mut |event: &Event<'_>| {
            let Event::Text(text) = event else {
                return ControlFlow::Continue(());
            };
            if json {
                return ControlFlow::Continue(());
            }
            match stream(text, &mut printed) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        model.run(&request, observer)
    };
    if let Some(error) = failure {
        return Err(error);
    }
    let answer = answer?;
    if arguments.json {
        terminal::json(&AnswerReport {
            model: model.name(),
            path: arguments.image,
            question: &request.question,
            seed: arguments.sample.then_some(seed),
            answer: &answer,
        })?;
    } else {
        // What was held back, and the line's end.
        let rest = answer.text.strip_prefix(printed.as_str());
        terminal::result(rest.unwrap_or_default())?;
    }
    if !answer.ended {
        terminal::note(format_args!(
            "note: the answer has {} tokens, the most there are, and no end",
            answer.tokens
        ));
    }
    opened.finish()
}

/// Prints what is new of a text. Spaces at its end, and characters of which bytes are missing, wait for what follows.
fn stream(text: &str, printed: &mut String) -> Result<()> {
    let whole = text.trim_start().trim_end_matches('\u{fffd}').trim_end();
    if let Some(new) = whole
        .strip_prefix(printed.as_str())
        .filter(|new| !new.is_empty())
    {
        terminal::part(new)?;
        printed.push_str(new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_may_still_change_is_not_printed() {
        let mut printed = String::new();
        for (text, expected) in [
            (" ", ""),
            (" A cat", "A cat"),
            (" A cat\u{fffd}", "A cat"),
            (" A cat ", "A cat"),
            (" A cat 猫", "A cat 猫"),
        ] {
            stream(text, &mut printed).unwrap();
            assert_eq!(printed, expected);
        }
    }
}
