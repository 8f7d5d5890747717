//! `impasto audit`: what a model gives away of its training data.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::observer::Event;
use impasto::privacy::memorization::{AuditOptions, audit};

use super::data::source;
use crate::arguments::ModelFlags;
use crate::terminal;

/// Audit a model: what it has memorized of its training pictures
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: AuditTask,
}

#[derive(Subcommand)]
enum AuditTask {
    /// Name training pictures that the model reproduces, and measure how well it gives away what it was trained on
    ///
    /// Compares training pictures with held-out pictures of the same kind, which the model must not have been trained on.
    Memorization(MemorizationFlags),
}

#[derive(Args)]
struct MemorizationFlags {
    /// The training data: a folder, a .jsonl or .csv list, or .tar files
    #[arg(required = true, value_name = "PATH")]
    training: Vec<PathBuf>,
    /// Held-out data of the same kind
    #[arg(long, required = true, value_name = "PATH")]
    held_out: Vec<PathBuf>,
    /// Audit at most this many distinct training pictures: those with the most copies, then any
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..))]
    pictures: u32,
    /// Use at most this many distinct held-out pictures
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u32).range(1..))]
    held_out_pictures: u32,
    /// Seed of what is drawn and chosen
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelFlags,
}

/// Audits and reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let AuditTask::Memorization(flags) = arguments.what;
    memorization(flags)
}

fn memorization(flags: MemorizationFlags) -> Result<()> {
    let (training, _) = source(flags.training)?.open()?;
    let (held_out, _) = source(flags.held_out)?.open()?;
    let model = flags.model.open()?;
    let options = AuditOptions {
        training: flags.pictures as usize,
        held_out: flags.held_out_pictures as usize,
        seed: flags.seed,
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(0, "pictures")?;
    let report = audit(
        &model,
        &training,
        &held_out,
        &options,
        &mut |event: &Event<'_>| {
            if let Event::Items { done, total } = event {
                bar.set_length(*total as u64);
                bar.set_position(*done as u64);
            }
            terminal::go_on()
        },
    );
    bar.finish_and_clear();
    terminal::json(&report?)
}
