//! Lists of pictures that are left out.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::{Location, Pair};
use crate::{Error, Result, files};

/// The largest list that is read.
const MAX_BYTES: u64 = 256 << 20;

/// A list of pictures, one a line:
/// - the name of a pair in its source (as `data check` prints it), also without the `#` and the number that it has in a
///   list;
/// - the path of a picture, absolute, or from the current folder or the list's;
/// - a SHA-256 in 64 hexadecimal digits, alone or with two spaces and a name after it, as `sha256sum` writes it: all
///   pictures of these bytes;
/// - any of these in quotes, as JSON writes text.
///
/// Empty lines and lines that start with `#` are comments.
#[derive(Clone, Debug, Default)]
pub struct Exclusions {
    folder: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// As the list has it.
    line: String,
    names: Names,
}

#[derive(Clone, Debug, PartialEq)]
enum Names {
    Digest([u8; 32]),
    Name(String),
}

impl Exclusions {
    /// Reads a list.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read_at_most(path, MAX_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::bad_file(path, format!("is not UTF-8: {}", e.utf8_error())))?;
        Ok(Self::parse(&text, files::folder_of(path)))
    }

    /// The list of a text; relative paths also count from `folder`.
    pub fn parse(text: &str, folder: &Path) -> Self {
        let lines = super::without_mark(text).lines();
        let entries = lines
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|line| Entry {
                names: names(line),
                line: line.to_owned(),
            });
        Exclusions {
            folder: folder.to_path_buf(),
            entries: entries.collect(),
        }
    }

    /// A line of a list for a pair's name, which may have any letters.
    pub fn line(name: &str) -> String {
        let plain = !name.chars().any(char::is_control)
            && name.trim() == name
            && !name.starts_with(['#', '"'])
            && digest(name).is_none();
        match plain {
            true => name.to_owned(),
            // Text is always JSON.
            false => serde_json::to_string(name).unwrap_or_default(),
        }
    }

    /// Finds the pairs that the list names.
    pub(super) fn matcher(&self) -> Matcher<'_> {
        let mut matcher = Matcher {
            entries: &self.entries,
            used: vec![false; self.entries.len()],
            digests: HashMap::new(),
            names: HashMap::new(),
        };
        for (number, entry) in self.entries.iter().enumerate() {
            match &entry.names {
                Names::Digest(digest) => {
                    matcher.digests.entry(*digest).or_default().push(number);
                }
                Names::Name(name) => {
                    let mut add = |name: String| {
                        matcher.names.entry(name).or_default().push(number);
                    };
                    add(name.replace('\\', "/"));
                    for path in [PathBuf::from(name), self.folder.join(name)] {
                        if let Ok(real) = path.canonicalize() {
                            add(real.to_string_lossy().into_owned());
                        }
                    }
                }
            }
        }
        matcher
    }
}

fn names(line: &str) -> Names {
    if line.starts_with('"')
        && let Ok(name) = serde_json::from_str(line)
    {
        return Names::Name(name);
    }
    // `sha256sum` separates by a space and a letter that says how it read the file.
    let first = line.split([' ', '\t']).next().unwrap_or_default();
    match digest(first) {
        Some(digest) => Names::Digest(digest),
        None => Names::Name(line.to_owned()),
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(bytes.chunks(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(digest)
}

/// A list that remembers which of its entries named a pair.
pub(super) struct Matcher<'a> {
    entries: &'a [Entry],
    used: Vec<bool>,
    digests: HashMap<[u8; 32], Vec<usize>>,
    names: HashMap<String, Vec<usize>>,
}

impl Matcher<'_> {
    /// Whether the list names a pair.
    pub fn names(&mut self, pair: &Pair, digest: &[u8; 32]) -> bool {
        let mut found = self.digests.get(digest).cloned().unwrap_or_default();
        let mut look = |name: &str| {
            if let Some(numbers) = self.names.get(name) {
                found.extend(numbers);
            }
        };
        look(&pair.key);
        // Lists add the number of the row.
        if let Some((name, number)) = pair.key.rsplit_once('#')
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            look(name);
        }
        if let Location::File(path) = &pair.location {
            look(&path.to_string_lossy().replace('\\', "/"));
            if !self.names.is_empty()
                && let Ok(real) = path.canonicalize()
            {
                look(&real.to_string_lossy());
            }
        }
        for &number in &found {
            self.used[number] = true;
        }
        !found.is_empty()
    }

    /// The entries that named none, each once.
    pub fn without_pair(self) -> Vec<String> {
        let unused = self.entries.iter().zip(self.used).filter(|(_, used)| !used);
        let unused: BTreeMap<&String, ()> = unused.map(|(entry, _)| (&entry.line, ())).collect();
        unused.into_keys().cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::pairs::PairSource;
    use crate::image::{Format, Image};

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (number, name) in ["a", "b", "#c", "d"].into_iter().enumerate() {
            let bytes = Image::filled(2, 2, [number as u8; 3]).encode(Format::Png, 100);
            std::fs::write(dir.path().join(format!("{name}.png")), bytes.unwrap()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.txt")), name).unwrap();
        }
        dir
    }

    #[test]
    fn names_paths_and_sums_are_left_out_and_the_rest_is_named() {
        let dir = folder();
        let source = PairSource::Folder(dir.path().to_path_buf());
        let (all, _) = source.open().unwrap();
        let sum = files::hex(all.digest(1));
        let path = dir.path().join("b.png");
        for (list, excluded, without) in [
            (
                "# a.png\n\na.png\r\nx.png\nx.png\n".to_owned(),
                &["a.png"][..],
                &["x.png"][..],
            ),
            (format!("{}\n", path.display()), &["b.png"], &[]),
            (
                format!("{}  other name\n", sum.to_uppercase()),
                &["a.png"],
                &[],
            ),
            (
                format!("{}\n{}", Exclusions::line("#c.png"), "f".repeat(64)),
                &["#c.png"],
                &["f"],
            ),
            (String::new(), &[], &[]),
        ] {
            let exclusions = Exclusions::parse(&list, dir.path());
            let (pairs, report) = source.open_without(Some(&exclusions)).unwrap();
            assert_eq!(report.excluded, excluded, "{list}");
            assert_eq!(
                (pairs.len(), report.usable),
                (4 - excluded.len(), pairs.len())
            );
            assert_eq!(
                report.exclusions_without_pair.len(),
                without.len(),
                "{list}"
            );
            let starts = report.exclusions_without_pair.iter().zip(without);
            assert!(
                starts
                    .into_iter()
                    .all(|(line, start)| line.starts_with(start))
            );
        }
    }

    #[test]
    fn rows_of_a_list_are_named_with_and_without_their_number() {
        let dir = folder();
        let list = dir.path().join("list.jsonl");
        let rows = "{\"image\": \"a.png\", \"caption\": \"x\"}\n{\"image\": \"a.png\", \"caption\": \"y\"}\n\
                    {\"image\": \"b.png\", \"caption\": \"z\"}\n";
        std::fs::write(&list, rows).unwrap();
        let source = PairSource::Jsonl(list);
        let excluded = |line: &str| {
            let exclusions = Exclusions::parse(line, Path::new("nowhere"));
            source.open_without(Some(&exclusions)).unwrap().1.excluded
        };
        assert_eq!(excluded("a.png"), ["a.png#1", "a.png#2"]);
        assert_eq!(excluded("a.png#2"), ["a.png#2"]);
        assert_eq!(excluded("a.png#3"), [""; 0]);
    }

    #[test]
    fn any_name_comes_back_from_its_line() {
        for name in ["a.png", "#a", "\"", " a", "a\nb", "红.png", &"0".repeat(64)] {
            let list = Exclusions::parse(&Exclusions::line(name), Path::new("."));
            let entries: Vec<&Names> = list.entries.iter().map(|entry| &entry.names).collect();
            assert_eq!(entries, [&Names::Name(name.to_owned())]);
        }
    }
}
