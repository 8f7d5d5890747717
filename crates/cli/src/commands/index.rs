//! `impasto index`: a folder of pictures made ready for `impasto search`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use impasto::files;
use impasto::observer::{self, IndexEvent, Observer};
use impasto::search::{Changes, FOLDER, Index, LeftOut, Writer, pictures_below};
use serde::Serialize;

use crate::arguments::ClipFlags;
use crate::terminal::{self, in_line, shown};

/// Build and update the search index of a folder of pictures
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: IndexAction,
}

#[derive(Subcommand)]
enum IndexAction {
    /// Embed the pictures below a folder; later runs embed new and changed pictures and remove deleted ones
    ///
    /// Fails at the end if a picture or folder could not be read; the other pictures are indexed.
    Build(BuildFlags),
    /// Add pictures, also from other folders
    Add(PictureFlags),
    /// Remove pictures from the index; the files stay (and `build` adds them again)
    Remove(PictureFlags),
    /// Show the number of pictures and the CLIP of an index
    Info(InfoFlags),
}

#[derive(Args)]
struct IndexFolders {
    /// The folder of pictures
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The folder of the index [default: .impasto-index in the folder of pictures]
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
}

impl IndexFolders {
    fn index(&self) -> PathBuf {
        index_of(&self.folder, self.index.as_deref())
    }
}

/// Where the index of a folder of pictures is.
pub(super) fn index_of(folder: &Path, index: Option<&Path>) -> PathBuf {
    index.map_or_else(|| folder.join(FOLDER), Path::to_path_buf)
}

#[derive(Args)]
struct BuildFlags {
    #[command(flatten)]
    place: IndexFolders,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    #[command(flatten)]
    clip: ClipFlags,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct PictureFlags {
    #[command(flatten)]
    place: IndexFolders,
    /// Pictures
    #[arg(required = true, value_name = "IMAGE")]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct InfoFlags {
    #[command(flatten)]
    place: IndexFolders,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Embeds, adds, removes, reports.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        IndexAction::Build(flags) => build(&flags),
        IndexAction::Add(flags) => add(&flags),
        IndexAction::Remove(flags) => remove(&flags),
        IndexAction::Info(flags) => info(&flags),
    }
}

fn build(flags: &BuildFlags) -> Result<()> {
    let listing = pictures_below(&flags.place.folder)?;
    let changes = change(
        &flags.place,
        &flags.how,
        &listing.other,
        |writer, observer| writer.update(&listing, observer),
    )?;
    complete(changes, listing.pictures.len() + listing.left_out.len())
}

/// Fails if something that should be in the index was left out.
fn complete(changes: Changes, files: usize) -> Result<()> {
    if changes.skipped > 0 {
        anyhow::bail!(
            "{} of {files} files could not be read as pictures; the others are in the index",
            changes.skipped,
        );
    }
    Ok(())
}

fn add(flags: &PictureFlags) -> Result<()> {
    // Named one by one, each has to be there.
    for path in &flags.pictures {
        std::fs::metadata(path).map_err(impasto::Error::io("read", path))?;
    }
    let changes = change(&flags.place, &flags.how, &[], |writer, observer| {
        writer.add(&flags.pictures, observer)
    })?;
    complete(changes, flags.pictures.len())
}

fn remove(flags: &PictureFlags) -> Result<()> {
    // An index that is not there is not made for this.
    Index::open(&flags.place.index())?;
    change(&flags.place, &flags.how, &[], |writer, _| {
        let removed = writer.remove(&flags.pictures)?;
        Ok(Changes {
            removed,
            ..Changes::default()
        })
    })?;
    Ok(())
}

#[derive(Serialize)]
struct IndexReport<'a> {
    #[serde(serialize_with = "files::lossy")]
    index: PathBuf,
    #[serde(flatten)]
    changes: Changes,
    /// What could not be read.
    left_out: Vec<LeftOut>,
    /// Files that are no pictures by their names, and hidden ones.
    other: &'a [LeftOut],
}

fn change(
    place: &IndexFolders,
    how: &How,
    other: &[LeftOut],
    work: impl FnOnce(&mut Writer<'_>, &mut dyn Observer) -> impasto::Result<Changes>,
) -> Result<Changes> {
    let index = place.index();
    let ranker = how.clip.load()?;
    let mut writer = Writer::open(&index, &place.folder, &ranker)?;
    terminal::catch_interrupts()?;
    let bar = terminal::bar(0, "pictures")?;
    let mut left_out = Vec::new();
    let changes = work(&mut writer, &mut |event: &observer::Event<'_>| {
        let observer::Event::Index(event) = *event else {
            return terminal::go_on();
        };
        match event {
            IndexEvent::Embedded(done, all) => {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            }
            IndexEvent::Linked(done, all) => {
                bar.set_message("graph ");
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            }
            IndexEvent::Skipped(path, error) => {
                bar.suspend(|| terminal::note(format_args!("skipped {}: {error}", shown(path))));
                left_out.push(LeftOut {
                    path: path.to_path_buf(),
                    reason: error.to_string(),
                });
            }
        }
        terminal::go_on()
    });
    bar.finish_and_clear();
    let changes = changes?;
    if how.json {
        terminal::json(&IndexReport {
            index,
            changes,
            left_out,
            other,
        })?;
    } else {
        if !other.is_empty() {
            terminal::note(format_args!(
                "not used: {} files that are hidden or no pictures by their names, which --json lists",
                other.len()
            ));
        }
        terminal::result(format_args!(
            "{}: {} added, {} changed, {} removed, {} unchanged, {} skipped",
            shown(&index),
            changes.added,
            changes.changed,
            changes.removed,
            changes.unchanged,
            changes.skipped
        ))?;
    }
    Ok(changes)
}

#[derive(Serialize)]
struct Info {
    #[serde(serialize_with = "files::lossy")]
    index: PathBuf,
    #[serde(serialize_with = "files::lossy")]
    root: PathBuf,
    pictures: usize,
    clip: String,
    width: usize,
    graph: bool,
}

fn info(flags: &InfoFlags) -> Result<()> {
    let place = flags.place.index();
    let index = Index::open(&place)?;
    let info = Info {
        root: index.root(),
        pictures: index.len(),
        clip: index.clip().name.clone(),
        width: index.clip().width,
        graph: index.has_graph(),
        index: place,
    };
    if flags.json {
        return terminal::json(&info);
    }
    terminal::result(format_args!(
        "{}: {} pictures of {}, embedded by {} ({} numbers each), {}",
        shown(&info.index),
        info.pictures,
        shown(&info.root),
        in_line(&info.clip),
        info.width,
        if info.graph {
            "with a graph"
        } else {
            "searched one by one"
        }
    ))
}
