//! Lists of pictures with captions: JSONL and CSV.

use std::path::Path;

use serde::Deserialize;

use super::{Found, Location, Pair, Unreadable, lines};
use crate::{Error, Result};

/// One line of a list.
#[derive(Deserialize)]
pub(super) struct Row {
    image: Option<String>,
    caption: Option<String>,
    #[serde(default)]
    captions: Vec<String>,
}

impl Row {
    /// All captions, those that are empty left out.
    pub(super) fn captions(&self) -> Vec<String> {
        self.caption
            .iter()
            .chain(&self.captions)
            .flat_map(|caption| lines(caption))
            .collect()
    }
}

/// Reads a JSONL file.
pub(super) fn read_jsonl(path: &Path) -> Result<Found> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let mut found = Found::default();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        add(
            &mut found,
            path,
            number + 1,
            serde_json::from_slice(line).map_err(|e| e.to_string()),
        );
    }
    Ok(found)
}

/// Reads a CSV file with a header.
pub(super) fn read_csv(path: &Path) -> Result<Found> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_path(path)
        .map_err(|e| Error::bad_file(path, format!("not a CSV file: {e}")))?;
    let headers = reader
        .headers()
        .map_err(|e| Error::bad_file(path, format!("not a CSV file: {e}")))?;
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
    for (number, row) in reader.deserialize::<Row>().enumerate() {
        // The header is line 1.
        add(&mut found, path, number + 2, row.map_err(|e| e.to_string()));
    }
    Ok(found)
}

fn add(found: &mut Found, path: &Path, line: usize, row: Result<Row, String>) {
    let row = match row {
        Ok(row) => row,
        Err(reason) => {
            found.unreadable.push(Unreadable {
                key: format!("line {line}"),
                reason,
            });
            return;
        }
    };
    let Some(image) = row.image.clone().filter(|image| !image.is_empty()) else {
        found.unreadable.push(Unreadable {
            key: format!("line {line}"),
            reason: "has no image".into(),
        });
        return;
    };
    match row.captions() {
        captions if captions.is_empty() => found.without_caption.push(image),
        captions => {
            let folder = path.parent().unwrap_or(Path::new("."));
            // The line keeps two rows of one picture apart.
            let key = format!("{image}#{line}");
            found.pairs.push(Pair {
                key,
                location: Location::File(folder.join(image)),
                captions,
            });
        }
    }
}
