//! `impasto eval`: how much of what was asked is in the pictures.

mod diversity;
mod edits;
mod explain;
mod likelihood;
mod retrieval;
mod scenes;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use impasto::Error;
use impasto::data::scenes::{Glyphs, Language, Split, World};
use impasto::eval::scenes::{Accuracy, CaptionLength, PromptKind};
use impasto::image::Image;

use crate::arguments::WorldFlags;

/// Measure a model
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: EvalTask,
}

#[derive(Subcommand)]
enum EvalTask {
    /// Draw held-out composed scenes; object, style, colour, count, place and background are judged by a detector
    Scenes(scenes::Flags),
    /// Draw pictures of one prompt with several seeds, and compare them with the scenes that the prompt describes
    Diversity(diversity::Flags),
    /// Mask things in held-out composed scenes and redraw them, caption the scenes, vary them
    Edits(edits::Flags),
    /// Retrieve held-out composed scenes by their captions with a CLIP, and captions by scenes
    Retrieval(retrieval::Flags),
    /// Compute the likelihood of held-out composed scenes and their captions, in nats per token
    Likelihood(likelihood::Flags),
    /// Point at the things of held-out composed scenes by the maps of their words, with every method
    Explain(explain::Flags),
}

/// Which held-out scenes, and how the answer is printed.
#[derive(Args)]
struct SceneFlags {
    #[command(flatten)]
    world: WorldFlags,
    /// Seed of the scenes and of sampling
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Language of the captions
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageName,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl SceneFlags {
    fn open(&self) -> Result<(World, Glyphs)> {
        let (world, sources) = self.world.open("styles-small")?;
        let glyphs = Glyphs::load(&world, &sources)?;
        Ok((world, glyphs))
    }
}

/// Which prompts.
#[derive(Args)]
struct PromptFlags {
    /// What training never shows: combinations of things, colours, counts, places and backgrounds, or things in a style
    /// that no picture shows them in (unseen-pair; worlds of styles)
    #[arg(long, value_enum, default_value = "held-out")]
    split: SplitName,
    /// How much the captions say; long: several sentences for any number of things (worlds of styles)
    #[arg(long, value_enum, default_value = "plain")]
    captions: CaptionLengthName,
}

impl PromptFlags {
    fn over(&self, scenes: &SceneFlags) -> PromptKind {
        PromptKind {
            split: match self.split {
                SplitName::HeldOut => Split::HeldOut,
                SplitName::UnseenPair => Split::UnseenPair,
            },
            language: scenes.language.into(),
            length: match self.captions {
                CaptionLengthName::Plain => CaptionLength::Plain,
                CaptionLengthName::Long => CaptionLength::Long,
            },
        }
    }
}

/// The splits that nothing was trained on.
#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    HeldOut,
    UnseenPair,
}

#[derive(Clone, Copy, ValueEnum)]
enum CaptionLengthName {
    Plain,
    Long,
}

/// The split's name in a table.
fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "trained",
        Split::HeldOut => "held-out",
        Split::UnseenPair => "unseen-pair",
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LanguageName {
    English,
    Chinese,
}

impl From<LanguageName> for Language {
    fn from(name: LanguageName) -> Self {
        match name {
            LanguageName::English => Language::English,
            LanguageName::Chinese => Language::Chinese,
        }
    }
}

/// Measures and reports.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        EvalTask::Scenes(flags) => scenes::run(&flags),
        EvalTask::Diversity(flags) => diversity::run(&flags),
        EvalTask::Edits(flags) => edits::run(&flags),
        EvalTask::Retrieval(flags) => retrieval::run(&flags),
        EvalTask::Likelihood(flags) => likelihood::run(&flags),
        EvalTask::Explain(flags) => explain::run(&flags),
    }
}

/// Makes the folder for pictures, before any work.
fn prepare(folder: Option<&PathBuf>) -> Result<()> {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        impasto::files::check_writable(folder)?;
    }
    Ok(())
}

/// Writes the pictures with their captions beside them.
fn write(folder: &Path, shown: &[(String, Image)]) -> Result<()> {
    for (number, (caption, picture)) in shown.iter().enumerate() {
        let bytes = picture.encode(impasto::image::Format::Png, 100)?;
        impasto::files::write_atomic(folder.join(format!("{number:05}.png")), &bytes)?;
        let text = format!("{caption}\n");
        impasto::files::write_atomic(folder.join(format!("{number:05}.txt")), text.as_bytes())?;
    }
    Ok(())
}

/// A share with its interval.
fn cell(accuracy: Accuracy) -> String {
    if accuracy.asked == 0 {
        return "not asked".to_owned();
    }
    format!(
        "{:.1} % [{:.1}, {:.1}]",
        100.0 * accuracy.accuracy,
        100.0 * accuracy.low,
        100.0 * accuracy.high
    )
}
