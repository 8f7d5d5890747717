//! `impasto safety`: what the policy finds in texts and pictures, thresholds from labelled pictures, the lists.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::checkpoint::ModelSource;
use impasto::files;
use impasto::image::Image;
use impasto::rank::Ranker;
use impasto::safety::concepts::Concepts;
use impasto::safety::{Guard, Lists, Mode, Verdict, calibration};
use serde::Serialize;

use super::pull;
use crate::arguments::{DeviceFlags, find_model};
use crate::failure::Usage;
use crate::safety::SafetyFlags;
use crate::terminal::{self, in_line};

/// Check prompts and pictures by a policy, calibrate its thresholds, write its lists
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(Check),
    Calibrate(Calibrate),
    Lists(WriteLists),
}

/// Scores of prompts and pictures: category, score, what is done, what was found
#[derive(Args)]
struct Check {
    /// Prompts
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,
    /// A picture; may be given several times. The policy has to name a checker or concepts
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    safety: SafetyFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Print one JSON document, with the scores of all categories
    #[arg(long)]
    json: bool,
}

/// Find thresholds of concepts with labelled pictures; writes the concepts with their thresholds and the curves
///
/// Pictures that show a concept stand in a folder of its name below --pictures; those in all other folders don't.
#[derive(Args)]
struct Calibrate {
    /// The concepts: a CLIP, and for each a name, a category and texts (docs/trust.md)
    #[arg(long, value_name = "FILE")]
    concepts: PathBuf,
    /// Folder with a folder of pictures for each concept, and others
    #[arg(long, value_name = "DIR")]
    pictures: PathBuf,
    /// The share of pictures without the concept that may be found all the same
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = share)]
    false_alarms: f64,
    /// Where the concepts with their thresholds go; the curves go beside it, as .svg
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceFlags,
    /// Print one JSON document, with all points of the curves
    #[arg(long)]
    json: bool,
}

/// Write the lists of the prompt filter into a folder, to be edited and named in a policy
#[derive(Args)]
struct WriteLists {
    /// The folder; nothing in it is replaced
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Checked {
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(flatten)]
    verdict: Verdict,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("expected a number from 0 to 1, got \"{text}\"")),
    }
}

/// Runs the sub-command.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Check(arguments) => check(&arguments),
        Command::Calibrate(arguments) => calibrate(&arguments),
        Command::Lists(arguments) => lists(&arguments),
    }
}

fn check(arguments: &Check) -> Result<()> {
    if arguments.prompts.is_empty() && arguments.images.is_empty() {
        let message = "expected a prompt or --image, got neither";
        return Err(Usage::new(message, "impasto safety check \"a red cat\"").into());
    }
    let mut guard = Guard::prompts(arguments.safety.policy(Mode::Flag)?)?;
    let mut checked: Vec<Checked> = Vec::new();
    for prompt in &arguments.prompts {
        checked.push(Checked {
            prompt: Some(prompt.clone()),
            image: None,
            verdict: guard.prompt(&[prompt]),
        });
    }
    if !arguments.images.is_empty() {
        let device = arguments.device.select()?;
        let cache = pull::default_cache().ok();
        guard = guard.with_pictures(&device, |name| ModelSource::find(name, cache.as_deref()))?;
        if !guard.checks_pictures() {
            return Err(Usage::new(
                "the policy has nothing that looks at pictures",
                "give a --safety-policy with pictures.checker or pictures.concepts (docs/trust.md)",
            )
            .into());
        }
        for path in &arguments.images {
            let verdicts = guard.pictures(&[Image::open(path)?], &Verdict::default())?;
            for verdict in verdicts {
                checked.push(Checked {
                    prompt: None,
                    image: Some(path.display().to_string()),
                    verdict,
                });
            }
        }
    }
    if arguments.json {
        return terminal::json(&checked);
    }
    for one in &checked {
        let what = one
            .prompt
            .as_deref()
            .or(one.image.as_deref())
            .unwrap_or_default();
        let what = in_line(what);
        if one.verdict.findings.is_empty() {
            terminal::result(format_args!("-\t0.00\toff\t{what}\t"))?;
        }
        for finding in &one.verdict.findings {
            terminal::result(format_args!(
                "{}\t{:.2}\t{}\t{what}\t{}",
                finding.category,
                finding.score,
                finding.action,
                in_line(&finding.reason)
            ))?;
        }
    }
    Ok(())
}

fn calibrate(arguments: &Calibrate) -> Result<()> {
    files::check_writable(files::folder_of(&arguments.output))?;
    let mut concepts = Concepts::load(&arguments.concepts)?;
    let source = find_model(&concepts.clip)?;
    let device = arguments.device.select()?;
    let clip = Ranker::load(&source, &device)?;
    terminal::catch_interrupts()?;
    let bar = terminal::bar(1, "pictures")?;
    let mut skipped = 0;
    let mut skip = |path: &std::path::Path, error: &impasto::Error| {
        skipped += 1;
        bar.suspend(|| terminal::note(format_args!("skipped {}: {error}", terminal::shown(path))));
    };
    let calibrated = calibration::calibrate(
        &mut concepts,
        &clip,
        &arguments.pictures,
        arguments.false_alarms,
        &mut skip,
        &mut terminal::items(&bar),
    );
    bar.finish_and_clear();
    let calibrated = calibrated?;
    // JSON is YAML that every program reads.
    let text = serde_json::to_string_pretty(&concepts)? + "\n";
    files::write_atomic(&arguments.output, text.as_bytes())?;
    let curves = arguments.output.with_extension("svg");
    files::write_atomic(&curves, calibration::draw(&calibrated)?.as_bytes())?;
    if arguments.json {
        terminal::json(&calibrated)?;
    } else {
        for one in &calibrated {
            terminal::result(format_args!(
                "{}\tfrom {:.4}\trecall {:.1} %\tfalse alarms {:.1} %\tAUC {:.3}\t{} and {} pictures",
                in_line(&one.name),
                one.chosen.threshold,
                100.0 * one.chosen.recall,
                100.0 * one.chosen.false_alarms,
                one.auc,
                one.positives,
                one.negatives
            ))?;
        }
        terminal::note(format_args!("curves: {}", terminal::shown(&curves)));
    }
    match skipped {
        0 => Ok(()),
        _ => anyhow::bail!("{skipped} pictures can't be read"),
    }
}

fn lists(arguments: &WriteLists) -> Result<()> {
    std::fs::create_dir_all(&arguments.output)
        .map_err(impasto::Error::io("create", &arguments.output))?;
    for (name, text) in Lists::files() {
        let path = arguments.output.join(name);
        if !files::write_new(&path, text.as_bytes())? {
            let message = format!("{} exists, and is not replaced", path.display());
            return Err(Usage::new(message, "choose another folder").into());
        }
        terminal::result(terminal::shown(&path))?;
    }
    Ok(())
}
