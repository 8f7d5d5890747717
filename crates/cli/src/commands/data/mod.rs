//! `impasto data`: make composed scenes, and look through a user's own pairs.

mod dedup;
mod scan;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use impasto::data::pairs::{PairSource, is_tar};
use impasto::data::scenes::{Export, Form, Glyphs, Split, export};
use impasto::{Error, files};

use crate::arguments::WorldFlags;
use crate::failure::Usage;
use crate::terminal::{self, in_line};

/// Make training data, or check your own
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: DataAction,
}

#[derive(Subcommand)]
enum DataAction {
    /// Render composed scenes with captions into a folder or tars; an interrupted run is continued
    Scenes(ScenesFlags),
    /// Check every picture and caption of your own data, and list what can't be used
    ///
    /// Fails if training would leave out a picture or a caption. Other files are listed, too.
    Check(CheckFlags),
    /// Find duplicate pictures: the same bytes, re-encoded, scaled and slightly cropped copies
    ///
    /// The picture with the most pixels of each group is kept. Nothing is deleted: --exclude and --keep write lists.
    Dedup(dedup::Flags),
    /// Find personal data in captions, English and Chinese: e-mail, phone, identity, card and account numbers, names
    ///
    /// Fails if something is found, unless --redact writes a copy of the data without it.
    Scan(scan::Flags),
}

#[derive(Args)]
struct ScenesFlags {
    /// Output folder
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Number of scenes
    #[arg(short, long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    #[arg(long, default_value = "0")]
    /// The same seed renders the same scenes
    seed: u64,
    #[command(flatten)]
    world: WorldFlags,
    /// Which scenes: for training, held-out combinations for the benchmark, or (world styles) things in styles that
    /// training never shows them in
    #[arg(long, value_enum, default_value = "train")]
    split: SplitName,
    /// Write WebDataset tars of this many pictures instead of single files
    #[arg(long, value_name = "PICTURES", value_parser = clap::value_parser!(u64).range(1..))]
    tars: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    HeldOut,
    UnseenPair,
}

#[derive(Args)]
struct CheckFlags {
    /// A folder of pictures with same-stem .txt, a .jsonl or .csv list, or .tar or .tar.gz files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Renders or checks.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        DataAction::Scenes(flags) => scenes(&flags),
        DataAction::Check(flags) => check(flags),
        DataAction::Dedup(flags) => dedup::run(flags),
        DataAction::Scan(flags) => scan::run(flags),
    }
}

fn scenes(flags: &ScenesFlags) -> Result<()> {
    std::fs::create_dir_all(&flags.out).map_err(Error::io("create", &flags.out))?;
    files::check_writable(&flags.out)?;
    let (world, sources) = flags.world.open("small")?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let what = Export {
        world,
        seed: flags.seed,
        count: flags.n,
        split: match flags.split {
            SplitName::Train => Split::Train,
            SplitName::HeldOut => Split::HeldOut,
            SplitName::UnseenPair => Split::UnseenPair,
        },
        form: match flags.tars {
            Some(per_shard) => Form::Tars { per_shard },
            None => Form::Folder,
        },
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(flags.n, "scenes")?;
    let report = export(&what, &glyphs, &flags.out, &|done| {
        bar.set_position(done);
        !terminal::stop_requested()
    });
    bar.finish_and_clear();
    let report = report?;
    terminal::note(format_args!(
        "{} scenes written ({:.1} MiB), {} were there already",
        report.written,
        report.bytes as f64 / f64::from(1 << 20),
        report.kept
    ));
    terminal::result(terminal::shown(&flags.out))
}

/// Other files that are listed without --json.
const OTHERS: usize = 20;

fn check(flags: CheckFlags) -> Result<()> {
    let (_, report) = source(flags.paths)?.open()?;
    if flags.json {
        terminal::json(&report)?;
    } else {
        let line = |key: &str, reason: &str| {
            terminal::result(format_args!("{}\t{}", in_line(key), in_line(reason)))
        };
        for key in &report.without_caption {
            line(key, "no caption")?;
        }
        for key in &report.without_picture {
            line(key, "no picture")?;
        }
        for unreadable in &report.unreadable {
            line(&unreadable.key, &unreadable.reason)?;
        }
        for repeated in &report.repeated {
            line(&repeated.key, &format!("same as {}", repeated.same_as))?;
        }
        // No fault of the data, so not among the results.
        for other in report.other.iter().take(OTHERS) {
            let (key, reason) = (in_line(&other.key), in_line(&other.reason));
            terminal::note(format_args!("not used: {key} {reason}"));
        }
        if let Some(more @ 1..) = report.other.len().checked_sub(OTHERS) {
            terminal::note(format_args!(
                "not used: {more} more files, which --json lists"
            ));
        }
        terminal::note(report.summary());
    }
    if report.usable == 0 {
        return Err(Error::invalid("data", "not one picture with a caption").into());
    }
    if !report.is_clean() {
        return Err(Error::invalid("data", report.summary()).into());
    }
    Ok(())
}

/// What kind of source the paths name.
pub(super) fn source(mut paths: Vec<PathBuf>) -> Result<PairSource> {
    let is = |path: &Path, extension: &str| {
        path.extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(extension))
    };
    let named_tar = |path: &PathBuf| is_tar(&path.as_os_str().to_string_lossy());
    if paths.iter().all(named_tar) {
        return Ok(PairSource::Tars(paths));
    }
    if let [path] = &mut paths[..] {
        let path = std::mem::take(path);
        if is(&path, "jsonl") {
            return Ok(PairSource::Jsonl(path));
        }
        if is(&path, "csv") {
            return Ok(PairSource::Csv(path));
        }
        if path.is_dir() {
            return Ok(PairSource::Folder(path));
        }
        if path.is_file() {
            let reason = "is no source of pairs by its name, expected a folder, .jsonl, .csv, .tar or .tar.gz";
            return Err(Error::bad_file(path, reason).into());
        }
        return Err(Error::Missing {
            what: "folder, .jsonl, .csv or .tar",
            path,
            hint: "check the spelling of the path".into(),
        }
        .into());
    }
    Err(Usage::new(
        format!("{} paths that are not all tars", paths.len()),
        "give one folder, one .jsonl, one .csv, or any number of .tar files",
    )
    .into())
}
