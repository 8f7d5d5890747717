//! `impasto data dedup`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use impasto::device::Device;
use impasto::files;
use impasto::privacy::dedup::{
    DedupOptions, DedupReport, Duplicate, PictureSet, dedup, keep_jsonl,
};
use impasto::rank::Ranker;

use super::source;
use crate::arguments::{DeviceFlags, find_model};
use crate::terminal::{self, in_line};

/// See [`super::DataAction`].
#[derive(Args)]
pub(super) struct Flags {
    /// A folder of pictures, a .jsonl or .csv list, or .tar or .tar.gz files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Also find pictures that are seen in a mirror
    #[arg(long)]
    mirrored: bool,
    /// Also find pictures that a CLIP finds alike; --clip=NAME|DIR takes another one than the embedded
    #[arg(long, value_name = "NAME|DIR", num_args = 0..=1, require_equals = true,
          default_missing_value = impasto::checkpoint::EMBEDDED_CLIP)]
    clip: Option<String>,
    /// The least cosine of two pictures that --clip takes for duplicates
    #[arg(long, value_name = "COSINE", default_value = "0.97", value_parser = cosine,
          allow_negative_numbers = true, requires = "clip")]
    cosine: f32,
    /// Write the names of the pictures to leave out, for `train --exclude`
    #[arg(long, value_name = "LIST")]
    exclude: Option<PathBuf>,
    /// Write the names of the pictures to keep; with the ending .jsonl, as a list of pairs that trainings read
    #[arg(long, value_name = "LIST")]
    keep: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceFlags,
}

fn cosine(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (-1.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from -1 to 1".to_owned()),
    }
}

/// Compares and reports.
pub(super) fn run(flags: Flags) -> Result<()> {
    for list in [&flags.exclude, &flags.keep].into_iter().flatten() {
        files::check_writable(files::folder_of(list))?;
    }
    let is_jsonl = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    };
    let pairs_kept = flags.keep.as_deref().is_some_and(is_jsonl);
    let (set, mut left_out) = match &flags.paths[..] {
        [path] if path.is_dir() => PictureSet::below(path)?,
        _ => {
            let (pairs, unreadable) = source(flags.paths.clone())?.captions()?;
            (PictureSet::Pairs(pairs), unreadable)
        }
    };
    let ranker = match &flags.clip {
        Some(name) => {
            let source = find_model(name)?;
            let device: Device = flags.device.select()?;
            Some(Ranker::load(&source, &device)?)
        }
        None => {
            flags.device.use_threads()?;
            None
        }
    };
    let mut options = DedupOptions {
        cosine: ranker.is_some().then_some(flags.cosine),
        ..DedupOptions::default()
    };
    options.twins.mirrored = flags.mirrored;
    terminal::catch_interrupts()?;
    let bar = terminal::bar(set.len() as u64, "pictures")?;
    let report = dedup(&set, &options, ranker.as_ref(), &mut terminal::items(&bar));
    bar.finish_and_clear();
    let mut report = report?;
    report.unreadable.append(&mut left_out);
    report.unreadable.sort();
    if let Some(list) = &flags.exclude {
        files::write_atomic(list, report.exclude_list().as_bytes())?;
    }
    if let Some(list) = &flags.keep {
        let text = match (pairs_kept, &set) {
            (false, _) => report.keep_list().into_bytes(),
            (true, PictureSet::Pairs(pairs)) => keep_jsonl(pairs, &report)?,
            (true, PictureSet::Files(_)) => {
                let (pairs, _) = source(flags.paths.clone())?.captions()?;
                keep_jsonl(&pairs, &report)?
            }
        };
        files::write_atomic(list, &text)?;
    }
    match flags.json {
        true => terminal::json(&report)?,
        false => print(&report)?,
    }
    finish(&report)
}

fn print(report: &DedupReport) -> Result<()> {
    for group in &report.groups {
        for dropped in &group.dropped {
            let why = match &dropped.duplicate {
                Duplicate::Bytes => "the same bytes".to_owned(),
                Duplicate::Clip { cosine } => format!("alike to the CLIP, cosine {cosine:.3}"),
                Duplicate::Copy {
                    window: [left, top, right, bottom],
                    mirrored,
                    difference,
                } => {
                    let shares = (right - left).min(bottom - top);
                    let cropped = match shares > 0.98 {
                        true => String::new(),
                        false => format!(", cropped to {:.0} %", 100.0 * shares),
                    };
                    let mirrored = if *mirrored { ", mirrored" } else { "" };
                    format!("a copy{cropped}{mirrored}, difference {difference:.1} of 255")
                }
            };
            terminal::result(format_args!(
                "{}\tas {}\t{why}",
                in_line(&dropped.key),
                in_line(&group.kept)
            ))?;
        }
    }
    for unreadable in &report.unreadable {
        let (key, reason) = (in_line(&unreadable.key), in_line(&unreadable.reason));
        terminal::note(format_args!("not compared: {key} {reason}"));
    }
    let counts: Vec<String> = report
        .dropped
        .iter()
        .map(|(why, count)| format!("{count} by {why}"))
        .collect();
    terminal::note(format_args!(
        "{} pictures, {} groups of duplicates, {} pictures more than needed{}{}",
        report.pictures,
        report.groups.len(),
        report.all_dropped().count(),
        if counts.is_empty() { "" } else { ": " },
        counts.join(", ")
    ));
    Ok(())
}

/// One that can't be read stops nothing, but is a failure at the end.
fn finish(report: &DedupReport) -> Result<()> {
    match &report.unreadable[..] {
        [] => Ok(()),
        [first, ..] => anyhow::bail!(
            "{} pictures can't be read, the first one: {}",
            report.unreadable.len(),
            in_line(&first.key)
        ),
    }
}
