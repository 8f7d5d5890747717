//! `impasto audit`: what a model gives away of its training data.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::data::pairs::{Exclusions, ScanReport};
use impasto::files;
use impasto::image::Image;
use impasto::privacy::membership::{Estimate, Separation, StrongestTest};
use impasto::privacy::memorization::{AuditOptions, AuditReport, AuditedSet, Membership, audit};

use super::data::source;
use crate::arguments::ModelFlags;
use crate::outputs;
use crate::terminal::{self, in_line};

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
    /// Write the worst pictures here, one a row: the training picture, what the model completes from its upper half, and
    /// what it draws from its caption
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Write the names of the memorized pictures, for `train --exclude`
    #[arg(long, value_name = "LIST")]
    exclude: Option<PathBuf>,
    /// Print one JSON document, with the measures of every picture
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
    let format = match &flags.grid {
        Some(path) => Some(outputs::check_file(path, None)?),
        None => None,
    };
    if let Some(list) = &flags.exclude {
        files::check_writable(files::folder_of(list))?;
    }
    let (training, report) = source(flags.training)?.open()?;
    note_left_out("training data", &report);
    let (held_out, report) = source(flags.held_out)?.open()?;
    note_left_out("held-out data", &report);
    let model = flags.model.open()?;
    let options = AuditOptions {
        training: flags.pictures as usize,
        held_out: flags.held_out_pictures as usize,
        seed: flags.seed,
        shown: if format.is_some() { SHOWN } else { 0 },
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(0, "pictures")?;
    let report = audit(
        &model,
        &training,
        &held_out,
        &options,
        &mut terminal::items(&bar),
    );
    bar.finish_and_clear();
    let report = report?;
    if let (Some(path), Some(format)) = (&flags.grid, format) {
        let grid = Image::grid(report.shown.as_flattened(), 3, 2)?;
        files::write_atomic(path, &grid.encode(format, 95)?)?;
    }
    if let Some(list) = &flags.exclude {
        let mut text = "# pictures that the model has memorized\n".to_owned();
        for picture in &report.memorized {
            text += &Exclusions::line(&picture.key);
            text.push('\n');
        }
        files::write_atomic(list, text.as_bytes())?;
    }
    match flags.json {
        true => terminal::json(&report),
        false => print(&report),
    }
}

const CONDITIONAL: &str = "ln p(picture | caption)";
const UNCONDITIONAL: &str = "ln p(picture)";
const DIFFERENCE: &str = "ln p(picture | caption) - ln p(picture)";

/// What the membership tests come to.
fn verdict(membership: &Membership) -> String {
    let Some(StrongestTest { score, lower, auc }) = membership.strongest else {
        return "membership: no test separates training pictures from held-out ones (the intervals of all AUCs hold 0.5)"
            .to_owned();
    };
    let score = match score {
        "conditional" => CONDITIONAL,
        "unconditional" => UNCONDITIONAL,
        _ => DIFFERENCE,
    };
    format!(
        "membership: the strongest test is that {score} is {} for a training picture than for a held-out one, in \
         {:.1} % [{:.1}, {:.1}] of the pairs of them (chance: 50 %)",
        if lower { "lower" } else { "higher" },
        100.0 * auc.value,
        100.0 * auc.low,
        100.0 * auc.high
    )
}

/// Rows of the grid.
const SHOWN: usize = 16;

fn note_left_out(what: &str, report: &ScanReport) {
    if !report.is_clean() {
        terminal::note(format_args!("{what}: {}", report.summary()));
    }
}

fn print(report: &AuditReport) -> Result<()> {
    for picture in &report.memorized {
        terminal::result(format_args!(
            "{}\tmemorized\t{} copies\tcompleted {:.0} %\tdrawn {:.0} %\tln p {:.1}\t{}",
            in_line(&picture.key),
            picture.copies,
            100.0 * picture.completed,
            100.0 * picture.drawn,
            picture.unconditional,
            in_line(&picture.caption)
        ))?;
    }
    let set = |name: &str, set: &AuditedSet| {
        format!(
            "{name:<9} {:>8} {:>8} {:>9.1} % ({:>4}) {:>9.1} % ({:>4}) {:>9.3}",
            set.pictures,
            set.pairs,
            100.0 * set.completed,
            set.completed_pictures,
            100.0 * set.drawn,
            set.drawn_pictures,
            set.distance_ratio
        )
    };
    let membership = |name: &str, of: &Separation| {
        let percent = |estimate: &Estimate| {
            format!(
                "{:.1} % [{:.1}, {:.1}]",
                100.0 * estimate.value,
                100.0 * estimate.low,
                100.0 * estimate.high
            )
        };
        format!(
            "{name:<39} AUC {:.3} [{:.3}, {:.3}]  TPR at 1 % FPR {}",
            of.auc.value,
            of.auc.low,
            of.auc.high,
            percent(&of.tpr_at_1_percent_fpr)
        )
    };
    terminal::result(format_args!(
        "{}: {} of {} training pictures are memorized\n\
         threshold: ln p {:.1} without a caption, the highest of a held-out picture is {:.1}; {}\n\
         {}\n\
         {:<9} {:>8} {:>8} {:>18} {:>18} {:>9}\n{}\n{}\n{}\n{}\n{}",
        in_line(&report.model),
        report.memorized.len(),
        report.training.pictures,
        report.threshold.nats,
        report.threshold.highest_held_out,
        match report.false_alarms {
            Some(count) => format!("{count} false alarms among held-out pictures"),
            None => "false alarms were not counted, which takes 40 held-out pictures".to_owned(),
        },
        verdict(&report.membership),
        "",
        "pictures",
        "pairs",
        "completed (>= 90 %)",
        "drawn (>= 90 %)",
        "distances",
        set("training", &report.training),
        set("held out", &report.held_out),
        membership(CONDITIONAL, &report.membership.conditional),
        membership(UNCONDITIONAL, &report.membership.unconditional),
        membership(DIFFERENCE, &report.membership.difference),
    ))?;
    if report.held_out_copies > 0 {
        terminal::note(format_args!(
            "{} held-out pictures are copies of training pictures and were not used",
            report.held_out_copies
        ));
    }
    Ok(())
}
