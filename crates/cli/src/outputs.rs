//! Where pictures go: decided and checked before any work starts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use impasto::files;
use impasto::image::Format;

use crate::failure::Usage;

/// Where pictures go.
#[derive(Debug, PartialEq)]
pub enum Target {
    /// One picture, to this path; what is there is replaced.
    File(PathBuf),
    /// Into this folder under names of their own; nothing is replaced.
    Folder(PathBuf),
}

/// Target and format of `count` pictures from `--output` and `--format`. A folder is one that exists or
/// ends with a slash (and is made then).
pub fn plan(
    output: Option<&Path>,
    format: Option<Format>,
    count: usize,
) -> Result<(Target, Format)> {
    let Some(output) = output else {
        files::check_writable(".")?;
        return Ok((Target::Folder(PathBuf::new()), format.unwrap_or_default()));
    };
    if is_folder(output) {
        make_folder(output)?;
        return Ok((
            Target::Folder(output.to_path_buf()),
            format.unwrap_or_default(),
        ));
    }
    if count > 1 {
        return Err(Usage::new(
            format!(
                "{count} pictures can't all be written to {}",
                output.display()
            ),
            "give a folder (ending with /), or --grid for one picture of them all",
        )
        .into());
    }
    Ok((
        Target::File(output.to_path_buf()),
        check_file(output, format)?,
    ))
}

/// Whether a path is a folder, or by its end is to be one.
pub fn is_folder(output: &Path) -> bool {
    let name = output.as_os_str().to_string_lossy();
    output.is_dir() || name.ends_with(std::path::is_separator)
}

/// Makes a folder that can be written into.
pub fn make_folder(output: &Path) -> Result<()> {
    fs::create_dir_all(output).map_err(impasto::Error::io("create", output))?;
    Ok(files::check_writable(output)?)
}

/// The format of one picture file that can be written.
pub fn check_file(path: &Path, format: Option<Format>) -> Result<Format> {
    let by_name = Format::of_path(path).map_err(|e| {
        Usage::new(
            e.to_string(),
            "name a picture file, or a folder (ending with /)",
        )
    })?;
    if let Some(format) = format
        && format != by_name
    {
        return Err(Usage::new(
            format!(
                "--format {} does not fit the name {}",
                format.extension(),
                path.display()
            ),
            "leave --format out, or change the name",
        )
        .into());
    }
    check_plain(path)?;
    Ok(by_name)
}

/// Refuses a file that can't be written, or must not be replaced.
pub fn check_plain(path: &Path) -> Result<()> {
    // Writing replaces what is there by a plain file: a folder can't be, a device must not be.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Usage::new(
            format!(
                "{} exists and is no plain file, expected a file's name",
                path.display()
            ),
            "choose another name",
        )
        .into());
    }
    Ok(files::check_writable(files::folder_of(path))?)
}

impl Target {
    /// Writes a picture's bytes; returns where they are.
    pub fn write(&self, bytes: &[u8], prompt: &str, seed: u64, format: Format) -> Result<PathBuf> {
        self.write_numbered(bytes, &format!("{}-{seed}", file_stem(prompt)), format)
    }

    /// [`Target::write`] under a name, in a folder with a number after it where it is taken.
    pub fn write_numbered(&self, bytes: &[u8], stem: &str, format: Format) -> Result<PathBuf> {
        let folder = match self {
            Target::File(path) => {
                files::write_atomic(path, bytes)?;
                return Ok(path.clone());
            }
            Target::Folder(folder) => folder,
        };
        write_new(folder, stem, format.extension(), bytes)
    }
}

/// Writes a file of this stem and extension, or with the first number that is free; returns where it is.
pub fn write_new(folder: &Path, stem: &str, extension: &str, bytes: &[u8]) -> Result<PathBuf> {
    let mut suffix = 1;
    loop {
        let name = match suffix {
            1 => format!("{stem}.{extension}"),
            _ => format!("{stem}-{suffix}.{extension}"),
        };
        let path = folder.join(name);
        // Looked up first so that bytes are not written out for each name that is taken; another
        // process may still take a name in between.
        if !path.exists() && files::write_new(&path, bytes)? {
            return Ok(path);
        }
        suffix += 1;
    }
}

/// A path in JSON, where there is one.
pub fn lossy<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => files::lossy(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// A prompt as a file name: letters and digits of any script, the rest as dashes, cut between letters.
pub fn file_stem(prompt: &str) -> String {
    /// File systems hold 255 bytes; seed, suffix and extension need some of them.
    const MAX_BYTES: usize = 80;
    let mut stem = String::new();
    for letter in prompt.to_lowercase().chars() {
        let letter = if letter.is_alphanumeric() {
            letter
        } else {
            '-'
        };
        if letter == '-' && (stem.is_empty() || stem.ends_with('-')) {
            continue;
        }
        if stem.len() + letter.len_utf8() > MAX_BYTES {
            break;
        }
        stem.push(letter);
    }
    let stem = stem.trim_end_matches('-');
    if stem.is_empty() { "picture" } else { stem }.to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prompts_become_safe_names() {
        assert_eq!(file_stem("A turtle, on yellow!"), "a-turtle-on-yellow");
        assert_eq!(file_stem("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_stem("黄色背景上的乌龟"), "黄色背景上的乌龟");
        assert_eq!(file_stem("🐢"), "picture");
        let long = file_stem(&"乌龟 ".repeat(100));
        assert!(long.len() <= 80 && !long.ends_with('-'), "{long}");
    }

    #[test]
    fn a_taken_name_gets_the_next_suffix() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Folder(dir.path().to_path_buf());
        let names: Vec<String> = (0..3)
            .map(|_| target.write(b"x", "a cat", 7, Format::Png).unwrap())
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a-cat-7.png", "a-cat-7-2.png", "a-cat-7-3.png"]);
    }

    #[test]
    fn what_can_not_be_written_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        let error = |output: &Path, format, count| {
            plan(Some(output), format, count).unwrap_err().to_string()
        };
        assert!(error(&file, None, 2).contains("2 pictures can't all be written to"));
        assert!(error(&file, Some(Format::Webp), 1).contains("--format webp does not fit"));
        assert!(error(&dir.path().join("a.txt"), None, 1).contains("expected png, jpg or webp"));
        assert!(error(&dir.path().join("no/a.png"), None, 1).contains("write into"));
        let folder = dir.path().join("b.png");
        fs::create_dir(&folder).unwrap();
        assert!(
            check_file(&folder, None)
                .unwrap_err()
                .to_string()
                .contains("no plain file")
        );
        let planned = plan(Some(&file), None, 1).unwrap();
        assert_eq!(planned, (Target::File(file), Format::Png));
    }
}
