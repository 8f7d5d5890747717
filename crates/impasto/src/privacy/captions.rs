//! Personal data in the captions of a data set, and copies of the data without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_privacy::captions::{Category, Names, Scanner, redacted};
use serde::Serialize;

use crate::data::pairs::{CaptionList, Unreadable};
use crate::error::Reason;
use crate::image::extension_of;
use crate::{Error, Result, files};

pub use impasto_privacy::captions;

/// Personal data in a caption.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaptionFinding {
    /// The picture.
    pub key: String,
    /// Which of its captions, from 0.
    pub caption: usize,
    /// What it is.
    pub category: Category,
    /// The first character of it, from 0, counted in Unicode's.
    pub start: usize,
    /// The character after it.
    pub end: usize,
    /// The text itself; only where it is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What was found in the captions of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptionReport {
    /// Pictures with captions.
    pub pictures: usize,
    /// Their captions.
    pub captions: usize,
    /// Captions with personal data.
    pub captions_with_findings: usize,
    /// How often each kind was found.
    pub counts: BTreeMap<Category, usize>,
    /// All of it, in the order of the data.
    pub findings: Vec<CaptionFinding>,
    /// Rows and captions that can't be read.
    pub unreadable: Vec<Unreadable>,
}

/// Names of persons from files, in the place of or beside the lists in the program.
pub fn names(listed: Option<&Path>, allowed: Option<&Path>) -> Result<Names> {
    let read = |path: &Path| {
        let text = files::read_to_string(path)?;
        match captions::overlong_name(&text) {
            Some(line) => Err(Error::bad_file(
                path,
                format!("line {line} is too long for a name, expected 256 bytes at most"),
            )),
            None => Ok(text),
        }
    };
    let mut names = Names::default();
    if let Some(path) = listed {
        names.list(&read(path)?);
    }
    if let Some(path) = allowed {
        names.allow(&read(path)?);
    }
    Ok(names)
}

/// Searches captions; `shown` puts what was found into the report.
pub fn scan(
    list: &CaptionList,
    unreadable: Vec<Unreadable>,
    scanner: &Scanner,
    shown: bool,
) -> CaptionReport {
    let mut report = CaptionReport {
        pictures: list.len(),
        unreadable,
        ..CaptionReport::default()
    };
    for index in 0..list.len() {
        for (number, caption) in list.captions(index).iter().enumerate() {
            report.captions += 1;
            let findings = scanner.scan(caption);
            report.captions_with_findings += usize::from(!findings.is_empty());
            for found in findings {
                *report.counts.entry(found.category).or_default() += 1;
                let characters = |end: usize| caption[..end].chars().count();
                report.findings.push(CaptionFinding {
                    key: list.key(index).to_owned(),
                    caption: number,
                    category: found.category,
                    start: characters(found.bytes.start),
                    end: characters(found.bytes.end),
                    text: shown.then(|| caption[found.bytes].to_owned()),
                });
            }
        }
    }
    report
}

/// Writes the pairs with redacted captions: into a `.jsonl` list that names the pictures where they are, or into a new
/// folder with copies of the pictures. Nothing that is there is changed. Returns how many captions are others now.
///
/// # Errors
/// A list of pictures within tars; a folder that is not empty; pictures that can't be read, by name, after all others
/// are written.
pub fn write_redacted(list: &CaptionList, scanner: &Scanner, output: &Path) -> Result<usize> {
    let is_list = output
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    if output.exists() && (is_list || !files::is_empty(output)?) {
        let reason = "exists already; expected a name that is free, so that no data is replaced";
        return Err(Error::bad_file(output, reason));
    }
    match is_list {
        true => write_list(list, scanner, output),
        false => write_folder(list, scanner, output),
    }
}

/// The captions of a pair, and how many of them are others now.
fn redact(list: &CaptionList, scanner: &Scanner, index: usize) -> (Vec<String>, usize) {
    let mut changed = 0;
    let captions = list.captions(index).iter().map(|caption| {
        let findings = scanner.scan(caption);
        changed += usize::from(!findings.is_empty());
        redacted(caption, &findings)
    });
    (captions.collect(), changed)
}

fn write_list(list: &CaptionList, scanner: &Scanner, output: &Path) -> Result<usize> {
    #[derive(Serialize)]
    struct Row {
        image: String,
        captions: Vec<String>,
    }
    let (mut text, mut changed) = (Vec::new(), 0);
    for index in 0..list.len() {
        let Some(path) = list.path(index) else {
            let reason = "can't name pictures within tars; expected a folder";
            return Err(Error::bad_file(output, reason));
        };
        let (captions, count) = redact(list, scanner, index);
        changed += count;
        let row = Row {
            image: absolute(path).to_string_lossy().into_owned(),
            captions,
        };
        serde_json::to_writer(&mut text, &row)
            .map_err(|e| Error::invalid("captions", Reason::of(e)))?;
        text.push(b'\n');
    }
    files::write_atomic(output, &text)?;
    Ok(changed)
}

/// A path that means the same from any folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn write_folder(list: &CaptionList, scanner: &Scanner, output: &Path) -> Result<usize> {
    let mut changed = 0;
    let mut unreadable: Vec<String> = Vec::new();
    files::write_folder(output, |folder| {
        for index in 0..list.len() {
            let bytes = match list.bytes(index) {
                Ok(bytes) => bytes,
                Err(error) => {
                    unreadable.push(error.to_string());
                    continue;
                }
            };
            let (captions, count) = redact(list, scanner, index);
            changed += count;
            let stem = format!("{index:08}");
            let Some(extension) = extension_of(&bytes) else {
                let name = list.name(index);
                unreadable.push(format!("{}: not a picture", name.display()));
                continue;
            };
            let text = captions.join("\n") + "\n";
            // The folder gets its name when all of it is written.
            for (extension, content) in [(extension, &bytes[..]), ("txt", text.as_bytes())] {
                let path = folder.join(format!("{stem}.{extension}"));
                std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            }
        }
        Ok(())
    })?;
    match &unreadable[..] {
        [] => Ok(changed),
        [first, ..] => Err(Error::bad_file(
            output,
            format!(
                "is written without {} pictures that can't be read; the first one: {first}",
                unreadable.len()
            ),
        )),
    }
}
