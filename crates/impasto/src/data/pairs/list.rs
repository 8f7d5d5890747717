//! Lists of pictures with captions: JSONL and CSV.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::{Found, Location, Pair, Unreadable};
use crate::{Error, Result};

/// One line of a list.
#[derive(Deserialize)]
struct Row {
    image: Option<String>,
    #[serde(flatten)]
    captions: Captions,
}

/// What a JSON object says about a picture.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Captions {
    caption: Option<String>,
    captions: Vec<String>,
}

/// One line of a table.
#[derive(Deserialize)]
struct TableRow {
    image: String,
    caption: String,
}

impl Captions {
    /// All captions, those that are empty left out; a line break within one is a space.
    pub(super) fn all(&self) -> Vec<String> {
        self.caption
            .iter()
            .chain(&self.captions)
            .map(|caption| {
                let lines: Vec<&str> = caption.lines().map(str::trim).collect();
                lines.join(" ").trim().to_owned()
            })
            .filter(|caption| !caption.is_empty())
            .collect()
    }
}

/// Reads a JSONL file.
pub(super) fn read_jsonl(path: &Path) -> Result<Found> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut found = Found::default();
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(Error::io("read", path))?;
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
        if !line.iter().all(u8::is_ascii_whitespace) {
            let row = serde_json::from_slice(line).map_err(|e| e.to_string());
            add(&mut found, path, ("line", number + 1), row);
        }
    }
    Ok(found)
}

/// Reads a CSV file with a header.
pub(super) fn read_csv(path: &Path) -> Result<Found> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let headers = reader
        .headers()
        .map_err(|e| Error::bad_file(path, format!("not a CSV file: {e}")))?
        .clone();
    for column in ["image", "caption"] {
        if !headers.iter().any(|header| header == column) {
            let columns: Vec<&str> = headers.iter().collect();
            return Err(Error::bad_file(
                path,
                format!(
                    "has no column {column}; expected image and caption, got {}",
                    columns.join(", ")
                ),
            ));
        }
    }
    let mut found = Found::default();
    // Rows are counted as spreadsheets do, the header being the first: the reader's own line numbers are
    // one too low in files with Windows line ends.
    for (number, record) in reader.into_records().enumerate() {
        let row = match record {
            Err(e) if e.is_io_error() => {
                return Err(Error::bad_file(path, format!("can't be read: {e}")));
            }
            record => record.and_then(|record| record.deserialize::<TableRow>(Some(&headers))),
        };
        let row = row.map_err(|e| e.to_string()).map(|row| Row {
            image: Some(row.image),
            captions: Captions {
                caption: Some(row.caption),
                captions: Vec::new(),
            },
        });
        add(&mut found, path, ("row", number + 2), row);
    }
    Ok(found)
}

fn add(found: &mut Found, path: &Path, (unit, number): (&str, usize), row: Result<Row, String>) {
    let mut unreadable = |reason: String| {
        let key = format!("{unit} {number}");
        found.unreadable.push(Unreadable { key, reason });
    };
    let row = match row {
        Ok(row) => row,
        Err(reason) => return unreadable(reason),
    };
    let Some(image) = row.image.filter(|image| !image.is_empty()) else {
        return unreadable("has no image".into());
    };
    // The number keeps two rows of one picture apart.
    let key = format!("{image}#{number}");
    match row.captions.all() {
        captions if captions.is_empty() => found.without_caption.push(key),
        captions => {
            let folder = path.parent().unwrap_or(Path::new("."));
            found.pairs.push(Pair {
                key,
                location: Location::File(folder.join(image)),
                captions,
            });
        }
    }
}
