//! Scenes as files: a folder of pictures with captions beside them, or WebDataset tars.
//!
//! What lies there already from the same world and seed is kept, so that a stopped export goes on.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Glyphs, Scene, Split, World, render};
use crate::error::Reason;
use crate::files::write_atomic;
use crate::image::Image;
use crate::{Error, Result, files};

/// How the files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `00000000.png`, `.txt` and `.json` side by side.
    Folder,
    /// The same three as entries of `scenes-000000.tar`, `scenes-000001.tar`, …
    Tars {
        /// Pictures in a tar.
        per_shard: u64,
    },
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// The world; `world.json` keeps it beside the pictures.
    pub world: World,
    /// The seed.
    pub seed: u64,
    /// Scenes 0 to `count`.
    pub count: u64,
    /// Which side of the split.
    pub split: Split,
    /// Folder or tars.
    pub form: Form,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Pictures drawn now.
    pub written: u64,
    /// Pictures that lay there already.
    pub kept: u64,
    /// Bytes written now.
    pub bytes: u64,
}

/// The head of `world.json`: everything that the pictures follow from, except how many there are.
#[derive(Serialize, Deserialize, PartialEq)]
struct Origin {
    seed: u64,
    split: Split,
    form: Form,
    world: World,
}

/// Writes scenes to `folder`, which is made when it does not exist.
///
/// `progress` hears how many pictures are done and says whether to go on; a stop is [`Error::Stopped`] and
/// leaves whole files only. Both forms hold for each picture a PNG, a text file with one caption a line
/// (all wordings, both languages) and the scene as JSON.
pub fn export(
    what: &Export,
    glyphs: &Glyphs,
    folder: &Path,
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<ExportReport> {
    what.world.check_split(what.split)?;
    if let Form::Tars { per_shard: 0 } = what.form {
        return Err(Error::invalid(
            "per_shard",
            "expected at least 1 picture, got 0",
        ));
    }
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    agree(what, folder)?;

    // A folder is written in shards too: its pieces of work.
    let (per_shard, is_tar) = match what.form {
        Form::Folder => (64, false),
        Form::Tars { per_shard } => (per_shard, true),
    };
    let done = AtomicU64::new(0);
    let written = AtomicU64::new(0);
    let bytes = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let advance = |pictures: u64| {
        if !progress(done.fetch_add(pictures, Ordering::Relaxed) + pictures) {
            stopped.store(true, Ordering::Relaxed);
        }
    };
    let shard = |number: u64| -> Result<()> {
        let indices = number * per_shard..((number + 1) * per_shard).min(what.count);
        if is_tar {
            let path = shard_path(folder, number);
            if path.exists() && entries(&path)? == indices.end - indices.start {
                advance(indices.end - indices.start);
                return Ok(());
            }
            let pictures = indices.end - indices.start;
            let tar = tar_of(what, glyphs, indices, &stopped)?;
            write_atomic(&path, &tar)?;
            written.fetch_add(pictures, Ordering::Relaxed);
            bytes.fetch_add(tar.len() as u64, Ordering::Relaxed);
            advance(pictures);
            return Ok(());
        }
        for index in indices {
            if stopped.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            // The JSON is written last: where it stands, all three do.
            if !folder.join(format!("{index:08}.json")).exists() {
                for (name, content) in files_of(what, glyphs, index)? {
                    write_atomic(folder.join(name), &content)?;
                    bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
                }
                written.fetch_add(1, Ordering::Relaxed);
            }
            advance(1);
        }
        Ok(())
    };
    let shards = what.count.div_ceil(per_shard);
    (0..shards).into_par_iter().try_for_each(|number| {
        if stopped.load(Ordering::Relaxed) {
            Err(Error::Stopped)
        } else {
            shard(number)
        }
    })?;
    let written = written.into_inner();
    Ok(ExportReport {
        written,
        kept: what.count - written,
        bytes: bytes.into_inner(),
    })
}

/// Writes `world.json`, or checks that the one there says the same.
fn agree(what: &Export, folder: &Path) -> Result<()> {
    let origin = Origin {
        seed: what.seed,
        split: what.split,
        form: what.form,
        world: what.world.clone(),
    };
    let path = folder.join("world.json");
    if path.exists() {
        let text = files::read_to_string(&path)?;
        let there: Origin = serde_json::from_str(&text)
            .map_err(|e| Error::bad_file(&path, Reason::because("expected a scenes' origin", e)))?;
        if there != origin {
            return Err(Error::bad_file(
                &path,
                "the folder holds scenes of another world, seed, split or form; choose an empty one",
            ));
        }
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&origin)
        .map_err(|e| Error::bad_file(&path, Reason::because("can't be written as JSON", e)))?;
    write_atomic(&path, &text)
}

fn shard_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("scenes-{number:06}.tar"))
}

/// How many pictures a whole tar holds: a shorter last one grows when `count` does.
fn entries(path: &Path) -> Result<u64> {
    let file = files::open(path)?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    let files = archive.entries().map_err(Error::io("read", path))?.count() as u64;
    Ok(files / 3)
}

fn tar_of(
    what: &Export,
    glyphs: &Glyphs,
    indices: std::ops::Range<u64>,
    stopped: &AtomicBool,
) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for index in indices {
        if stopped.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        for (name, content) in files_of(what, glyphs, index)? {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // No time or owner: the same seed gives the same bytes.
            header.set_mtime(0);
            builder
                .append_data(&mut header, &name, content.as_slice())
                .map_err(Error::io("write", &name))?;
        }
    }
    builder.into_inner().map_err(Error::io("write", "tar"))
}

/// The three files of one picture.
fn files_of(what: &Export, glyphs: &Glyphs, index: u64) -> Result<[(String, Vec<u8>); 3]> {
    let scene = what.world.scene(what.seed, index, what.split);
    let picture = render(&scene, glyphs);
    let mut captions = what.world.all_captions(&scene).join("\n");
    captions.push('\n');
    Ok([
        (format!("{index:08}.png"), png(&picture)?),
        (format!("{index:08}.txt"), captions.into_bytes()),
        (
            format!("{index:08}.json"),
            description(what, &scene, index)?,
        ),
    ])
}

fn description(what: &Export, scene: &Scene, index: u64) -> Result<Vec<u8>> {
    let names: Vec<&str> = scene
        .kinds
        .iter()
        .map(|kind| what.world.things[kind.thing].english.as_str())
        .collect();
    let value = json!({
        "seed": what.seed,
        "index": index,
        "split": what.split,
        "things": names,
        "scene": scene,
    });
    serde_json::to_vec(&value)
        .map_err(|e| Error::invalid("scene", Reason::because("can't be written as JSON", e)))
}

fn png(picture: &Image) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ::image::write_buffer_with_format(
        &mut Cursor::new(&mut bytes),
        &picture.rgb,
        picture.width as u32,
        picture.height as u32,
        ::image::ExtendedColorType::Rgb8,
        ::image::ImageFormat::Png,
    )
    .map_err(|e| Error::invalid("picture", Reason::because("can't be written as PNG", e)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::scenes::Sources;

    fn tiny(form: Form, count: u64) -> (Export, Glyphs) {
        let world = World::tiny();
        let glyphs = Glyphs::load(&world, &Sources::default()).unwrap();
        (
            Export {
                world,
                seed: 1,
                count,
                split: Split::Train,
                form,
            },
            glyphs,
        )
    }

    #[test]
    fn a_folder_holds_picture_captions_and_scene() {
        let (what, glyphs) = tiny(Form::Folder, 5);
        let folder = tempfile::tempdir().unwrap();
        let report = export(&what, &glyphs, folder.path(), &|_| true).unwrap();
        assert_eq!((report.written, report.kept), (5, 0));
        let scene = what.world.scene(1, 4, Split::Train);
        let picture = ::image::open(folder.path().join("00000004.png"))
            .unwrap()
            .into_rgb8();
        assert_eq!(picture.as_raw(), &render(&scene, &glyphs).rgb);
        let captions = std::fs::read_to_string(folder.path().join("00000004.txt")).unwrap();
        assert_eq!(
            captions.lines().collect::<Vec<_>>(),
            what.world.all_captions(&scene)
        );
        let text = std::fs::read_to_string(folder.path().join("00000004.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            serde_json::from_value::<Scene>(value["scene"].clone()).unwrap(),
            scene
        );
    }

    #[test]
    fn a_stopped_export_goes_on_to_the_same_bytes() {
        for form in [Form::Folder, Form::Tars { per_shard: 4 }] {
            let (what, glyphs) = tiny(form, 10);
            let whole = tempfile::tempdir().unwrap();
            export(&what, &glyphs, whole.path(), &|_| true).unwrap();
            let resumed = tempfile::tempdir().unwrap();
            let stop = export(&what, &glyphs, resumed.path(), &|done| done < 4);
            assert!(matches!(stop, Err(Error::Stopped)), "{stop:?}");
            let report = export(&what, &glyphs, resumed.path(), &|_| true).unwrap();
            assert!(
                report.kept >= 4 && report.written + report.kept == 10,
                "{report:?}"
            );
            let read = |folder: &Path| {
                let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
                    .unwrap()
                    .map(|entry| entry.unwrap())
                    .map(|e| {
                        (
                            e.file_name().into_string().unwrap(),
                            std::fs::read(e.path()).unwrap(),
                        )
                    })
                    .collect();
                files.sort();
                files
            };
            assert_eq!(read(whole.path()), read(resumed.path()));
        }
    }

    #[test]
    fn another_seed_in_the_same_folder_is_refused() {
        let (mut what, glyphs) = tiny(Form::Tars { per_shard: 3 }, 3);
        let folder = tempfile::tempdir().unwrap();
        export(&what, &glyphs, folder.path(), &|_| true).unwrap();
        what.seed = 2;
        let error = export(&what, &glyphs, folder.path(), &|_| true).unwrap_err();
        assert!(error.to_string().contains("another world, seed"), "{error}");
    }

    #[test]
    fn a_shard_of_no_pictures_is_refused() {
        let (what, glyphs) = tiny(Form::Tars { per_shard: 0 }, 3);
        let folder = tempfile::tempdir().unwrap();
        assert!(export(&what, &glyphs, folder.path(), &|_| true).is_err());
    }
}
