//! What `generate` does with words before it draws, or instead: prompts in the model's own words.

use anyhow::Result;
use impasto::families::{ContinueRequest, GeneratedCaption};
use impasto::model::Model;
use impasto::observer::NoObserver;
use impasto::sampling::SamplingOptions;
use serde::Serialize;

use crate::arguments::SamplingFlags;
use crate::terminal;

/// How prompts are finished.
pub struct Finishing<'a> {
    pub model: &'a Model,
    pub sampling: SamplingOptions,
    pub seed: u64,
}

#[derive(Serialize)]
struct WordsReport<'a> {
    model: &'a str,
    sampling: &'a SamplingOptions,
    texts: Vec<ReportedText<'a>>,
}

#[derive(Serialize)]
struct ReportedText<'a> {
    prompt: &'a str,
    #[serde(flatten)]
    generated: GeneratedCaption,
}

impl<'a> Finishing<'a> {
    /// With the flags' options over the model's.
    pub fn new(model: &'a Model, flags: &SamplingFlags, seed: u64) -> Result<Self> {
        let sampling = SamplingOptions {
            guidance_scale: 1.0,
            ..flags.over(&model.captioner()?.text_sampling())
        };
        Ok(Finishing {
            model,
            sampling,
            seed,
        })
    }

    fn texts(&self, prefix: &str, n: usize) -> Result<Vec<GeneratedCaption>> {
        let request = ContinueRequest {
            prefix: prefix.to_owned(),
            n,
            seed: self.seed,
            sampling: self.sampling.clone(),
        };
        let captioner = self.model.captioner()?;
        Ok(captioner.continue_text(&request, &mut NoObserver)?)
    }

    /// Prints `n` texts that start with each prompt, or one document.
    pub fn print(&self, prompts: &[String], n: usize, json: bool) -> Result<()> {
        let mut texts = Vec::new();
        for prompt in prompts {
            for generated in self.texts(prompt, n)? {
                if !json {
                    terminal::result(one_line(&generated.text))?;
                }
                texts.push(ReportedText { prompt, generated });
            }
        }
        if !json {
            return Ok(());
        }
        terminal::json(&WordsReport {
            model: self.model.name(),
            sampling: &self.sampling,
            texts,
        })
    }

    /// One text that starts with a prompt, printed to stderr.
    pub fn finished(&self, prompt: &str) -> Result<String> {
        let generated = self.texts(prompt, 1)?;
        let text = generated
            .first()
            .map_or(prompt.to_owned(), |generated| one_line(&generated.text));
        terminal::note(format_args!("prompt: {text}"));
        Ok(text)
    }
}

/// A text a line, whatever a model generates.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}
