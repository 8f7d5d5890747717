//! Lists of pictures with captions: JSONL and CSV.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::{Found, Location, Pair, Unreadable};
use crate::error::Reason;
use crate::{Error, Result, files};

/// One line of a list.
#[derive(Deserialize)]
struct Row {
    image: Option<String>,
    /// What `datasets` calls it.
    file_name: Option<String>,
    #[serde(flatten)]
    captions: Captions,
}

/// What a JSON object says about a picture. `text` is what `datasets` calls a caption; one or several may stand under
/// any of the names.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Captions {
    caption: Texts,
    captions: Texts,
    text: Texts,
    texts: Texts,
}

/// None, one or several.
#[derive(Default, Deserialize)]
#[serde(untagged, expecting = "expected a caption or a list of captions")]
enum Texts {
    #[default]
    None,
    One(String),
    Several(Vec<Option<String>>),
}

impl Texts {
    fn all(&self) -> Vec<&str> {
        match self {
            Texts::None => Vec::new(),
            Texts::One(text) => vec![text],
            Texts::Several(texts) => texts.iter().flatten().map(String::as_str).collect(),
        }
    }
}

impl Captions {
    /// All captions, those that are empty left out; a line break within one is a space.
    pub(super) fn all(&self) -> Vec<String> {
        let texts = [&self.caption, &self.captions, &self.text, &self.texts];
        texts
            .into_iter()
            .flat_map(Texts::all)
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
    let file = files::open(path)?;
    let mut found = Found::default();
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(Error::io("read", path))?;
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
        if !line.iter().all(u8::is_ascii_whitespace) {
            let row = serde_json::from_slice(line).map_err(Reason::of);
            add(&mut found, path, ("line", number + 1), row);
        }
    }
    Ok(found)
}

/// Reads a CSV file with a header.
pub(super) fn read_csv(path: &Path) -> Result<Found> {
    let bytes = files::read(path)?;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(&bytes[..]);
    let bad = |e: csv::Error| Error::bad_file(path, Reason::because("not a CSV file", e));
    let headers = reader.headers().map_err(bad)?.clone();
    let column = |names: [&str; 2]| {
        let at = headers
            .iter()
            .position(|header| names.contains(&header.trim()));
        at.ok_or_else(|| {
            let columns: Vec<&str> = headers.iter().collect();
            Error::bad_file(
                path,
                format!(
                    "has no column {}; expected image (or file_name) and caption (or text), got {}",
                    names[0],
                    columns.join(", ")
                ),
            )
        })
    };
    let (image, caption) = (
        column(["image", "file_name"])?,
        column(["caption", "text"])?,
    );
    let mut found = Found::default();
    let mut record = csv::StringRecord::new();
    let place = |reader: &csv::Reader<&[u8]>| {
        usize::try_from(reader.position().byte()).map_or(bytes.len(), |at| at.min(bytes.len()))
    };
    // Rows are counted as spreadsheets do, the header being the first: the reader's own line numbers are
    // one too low in files with Windows line ends.
    for number in 2.. {
        let start = place(&reader);
        let row = match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let raw = &bytes[start..place(&reader).max(start)];
                as_meant(raw, &record, &headers, lines_of(&bytes[..start])).and_then(|()| {
                    let field = |at: usize, name: &str| {
                        let field = record.get(at).map(str::to_owned);
                        field.ok_or_else(|| format!("has no field for the column {name}"))
                    };
                    Ok([field(image, "image")?, field(caption, "caption")?])
                })
            }
            Err(e) if e.is_io_error() => return Err(bad(e)),
            Err(e) => Err(Reason::of(e)),
        };
        let row = row.map(|[image, caption]| Row {
            image: Some(image),
            file_name: None,
            captions: Captions {
                caption: Texts::One(caption),
                ..Captions::default()
            },
        });
        add(&mut found, path, ("row", number), row);
    }
    Ok(found)
}

fn lines_of(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// Says why a row is hardly what its writer meant. The reader takes any bytes for a table: a quote that is not closed
/// takes all rows up to the next quote into its field, or all of the file, and a comma outside of quotes cuts a
/// caption.
fn as_meant(
    raw: &[u8],
    record: &csv::StringRecord,
    headers: &csv::StringRecord,
    lines_before: usize,
) -> Result<(), Reason> {
    let lines = || {
        let blank = raw.iter().take_while(|byte| byte.is_ascii_whitespace());
        let first = 1 + lines_before + blank.filter(|&&byte| byte == b'\n').count();
        let last = lines_before + lines_of(raw).max(1);
        match last > first {
            true => format!("lines {first} to {last} are not used"),
            false => format!("line {first} is not used"),
        }
    };
    match quotes(raw) {
        Quotes::Closed => {}
        Quotes::Open => {
            return Err(format!("a quote opens in it and never closes: {}", lines()).into());
        }
        Quotes::Followed => {
            let lines = lines();
            return Err(format!(
                "text follows a closing quote: one is missing, or one within a text is not doubled; {lines}"
            ).into());
        }
    }
    let more = record.iter().skip(headers.len());
    if more.into_iter().any(|field| !field.trim().is_empty()) {
        return Err(format!(
            "has {} fields, the header has {}; expected quotes around a text with commas",
            record.len(),
            headers.len()
        )
        .into());
    }
    Ok(())
}

/// How the quoted fields of a row end.
#[derive(Debug, PartialEq)]
enum Quotes {
    /// At a comma or a line's end, as they should.
    Closed,
    /// Not at all.
    Open,
    /// In front of other text.
    Followed,
}

fn quotes(row: &[u8]) -> Quotes {
    let mut bytes = row.iter().copied().peekable();
    loop {
        match bytes.next() {
            None => return Quotes::Closed,
            Some(b'"') => loop {
                match bytes.next() {
                    None => return Quotes::Open,
                    // Doubled, it stands for itself.
                    Some(b'"') if bytes.next_if_eq(&b'"').is_some() => {}
                    Some(b'"') => match bytes.next() {
                        None | Some(b',' | b'\r' | b'\n') => break,
                        Some(_) => return Quotes::Followed,
                    },
                    Some(_) => {}
                }
            },
            Some(b',' | b'\r' | b'\n') => {}
            // A quote within a plain field is a letter like others.
            Some(_) => while bytes.next_if(|byte| !b",\r\n".contains(byte)).is_some() {},
        }
    }
}

fn add(found: &mut Found, path: &Path, (unit, number): (&str, usize), row: Result<Row, Reason>) {
    let mut unreadable = |reason: String| {
        let key = format!("{unit} {number}");
        found.unreadable.push(Unreadable { key, reason });
    };
    let row = match row {
        Ok(row) => row,
        Err(reason) => return unreadable(reason.to_string()),
    };
    let named = [row.image, row.file_name].into_iter().flatten();
    let Some(image) = named.into_iter().find(|image| !image.is_empty()) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_close_where_a_field_ends() {
        for (row, expected) in [
            (&b"a.png,\"two\r\nlines\"\r\n"[..], Quotes::Closed),
            (b"a.png,\"a \"\"red\"\" cat\"", Quotes::Closed),
            (b"a.png,5\" wide,\"\"\n", Quotes::Closed),
            (b"\n\n\"a\",\"b\"\n", Quotes::Closed),
            (b"a.png,\"never\nb.png,more\n", Quotes::Open),
            (b"a.png,\"even \"\"", Quotes::Open),
            (b"a.png,\"never\nb.png,\"more\"\n", Quotes::Followed),
        ] {
            assert_eq!(quotes(row), expected, "{}", row.escape_ascii());
        }
    }
}
