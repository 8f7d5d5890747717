//! WebDataset tars, read at random places: opening notes where each picture's bytes lie. A tar that is packed with gzip
//! can't be read so, and is unpacked to a temporary file first.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::MultiGzDecoder;

use super::list::Captions;
use super::{Found, Kind, Location, MAX_CAPTION_BYTES, Pair, Unreadable, lines};
use crate::image::MAX_FILE_BYTES;
use crate::{Error, Result, files};

/// What a tar has under one key.
#[derive(Default)]
struct Parts {
    /// Name, offset and length.
    picture: Option<(String, u64, u64)>,
    captions: Vec<String>,
    /// Names of the entries that can have captions.
    texts: Vec<String>,
    /// Which captions can't be read, and why.
    problems: Vec<Unreadable>,
    /// Pictures of formats that are not read, and further ones.
    foreign: Vec<Unreadable>,
}

/// Reads the indices of tars. A damaged tar is listed; what is whole before the damage is used.
pub(super) fn read(paths: &[PathBuf]) -> Result<Found> {
    let mut found = Found::default();
    for pattern in paths {
        for path in matching(pattern, &mut found)? {
            let opened = match Source::open(&path) {
                Ok(opened) => opened,
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::io("read", &path)(source));
                }
                Err(error) => {
                    found.unreadable.push(Unreadable {
                        key: path.display().to_string(),
                        reason: error.to_string(),
                    });
                    continue;
                }
            };
            let (source, file, damage) = opened;
            let mut tar = Tar::new(source);
            // What is after damage to the packed file is not there to be missed in the tar.
            if let Some(e) = damage.or(tar.read(file, &mut found).err()) {
                found.unreadable.push(Unreadable {
                    key: path.display().to_string(),
                    reason: format!("not a whole tar: {e}; nothing behind that can be read"),
                });
            }
            tar.finish(&mut found);
        }
    }
    Ok(found)
}

/// A tar, or what was unpacked of one.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// Without a name: it is gone with the program, however that ends.
    unpacked: Option<Mutex<File>>,
}

/// A tar to be read later on, to be read now, and what is wrong with its packing.
type Opened = (Arc<Source>, File, Option<io::Error>);

impl Source {
    fn open(path: &Path) -> Result<Opened> {
        let fail = || Error::io("read", path);
        let mut file = files::open(path)?;
        let mut start = [0; 6];
        let length = (&file).take(6).read(&mut start).map_err(fail())?;
        file.rewind().map_err(fail())?;
        let mut source = Source {
            path: path.to_path_buf(),
            unpacked: None,
        };
        if !start.starts_with(crate::text::clip::GZIP) {
            if let Some(packing) = packing(&start[..length]) {
                let reason = format!("is packed with {packing}, expected a .tar or .tar.gz");
                return Err(Error::bad_file(path, reason));
            }
            return Ok((Arc::new(source), file, None));
        }
        let cannot = |e: io::Error| {
            let reason = crate::error::Reason::because("can't be unpacked to a temporary file", e);
            Error::bad_file(path, reason)
        };
        let mut unpacked = tempfile::tempfile().map_err(cannot)?;
        let mut packed = MultiGzDecoder::new(io::BufReader::new(file));
        let mut buffer = vec![0; 1 << 16];
        let damage = loop {
            match packed.read(&mut buffer) {
                Ok(0) => break None,
                Ok(count) => {
                    io::Write::write_all(&mut unpacked, &buffer[..count]).map_err(cannot)?
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(e),
            }
        };
        unpacked.rewind().map_err(cannot)?;
        source.unpacked = Some(Mutex::new(unpacked.try_clone().map_err(cannot)?));
        Ok((Arc::new(source), unpacked, damage))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A stretch of it.
    pub(super) fn read_at(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let fail = || Error::io("read", &self.path);
        let stretch = |mut file: &File| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(offset)).map_err(fail())?;
            file.take(length).read_to_end(&mut bytes).map_err(fail())?;
            Ok(bytes)
        };
        let bytes = match &self.unpacked {
            // A reader that panicked left it at some place, which does not matter.
            Some(file) => stretch(&file.lock().unwrap_or_else(PoisonError::into_inner)),
            None => stretch(&files::open(&self.path)?),
        }?;
        if bytes.len() as u64 != length {
            let reason = "is shorter than when it was opened";
            return Err(Error::bad_file(&self.path, reason));
        }
        Ok(bytes)
    }
}

/// By what a file is packed that is not read so, by its first bytes.
fn packing(start: &[u8]) -> Option<&'static str> {
    [
        (&b"\x28\xb5\x2f\xfd"[..], "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"Rar!", "RAR"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ]
    .into_iter()
    .find_map(|(magic, name)| start.starts_with(magic).then_some(name))
}

/// The tars that a path stands for: itself, those in the folder, or those whose names fit its `*`.
fn matching(pattern: &Path, found: &mut Found) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let is_folder = pattern.is_dir();
    let (folder, name) = if is_folder {
        (pattern, "*.tar".into())
    } else if name.contains('*') {
        (files::folder_of(pattern), name)
    } else {
        return Ok(vec![pattern.to_path_buf()]);
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_tar = match is_folder {
            true => is_tar(&file_name),
            false => fits(&name, &file_name),
        };
        if is_tar && !path.is_dir() {
            paths.push(path);
        } else if is_folder {
            let entry = Unreadable {
                key: file_name.to_string(),
                reason: not_a_tar(&path),
            };
            // It has pictures that are meant to be used.
            match file_name.to_lowercase().contains(".tar") {
                true => found.unreadable.push(entry),
                false => found.other.push(entry),
            }
        }
    }
    if paths.is_empty() {
        return Err(Error::bad_file(pattern, "no tar is found there"));
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file's name ends as a tar's does, packed with gzip or not.
pub fn is_tar(name: &str) -> bool {
    let name = name.to_lowercase();
    [".tar", ".tar.gz", ".tgz"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn not_a_tar(path: &Path) -> String {
    let reason = if path.is_dir() {
        "is a folder, whose tars are not looked for"
    } else if path.to_string_lossy().to_lowercase().contains(".tar.") {
        "is a compressed tar, expected a .tar or .tar.gz"
    } else {
        "is no tar by its name"
    };
    reason.to_owned()
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return pattern == name;
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A tar's entries as they are read.
struct Tar {
    source: Arc<Source>,
    /// In front of its keys.
    stem: String,
    /// WebDataset's: a key ends at the first dot after the last slash.
    parts: BTreeMap<String, Parts>,
    /// Names with further dots, whose endings are none of WebDataset's for the key before the first one: keys
    /// end at the last dot. Such as `track 2.0 (clean).png`, but also `0001.mask.png`.
    dotted: BTreeMap<String, Parts>,
}

impl Tar {
    fn new(source: Arc<Source>) -> Self {
        let path = Path::new(source.path.file_stem().unwrap_or_default());
        // Of name.tar.gz, the name.
        let stem = match path.extension() {
            Some(end) if end.eq_ignore_ascii_case("tar") => path.file_stem(),
            _ => path.file_name(),
        };
        Tar {
            stem: stem.unwrap_or_default().to_string_lossy().into_owned(),
            source,
            parts: BTreeMap::new(),
            dotted: BTreeMap::new(),
        }
    }

    fn other(&self, found: &mut Found, name: &str, reason: &str) {
        found.other.push(Unreadable {
            key: format!("{}/{name}", self.stem),
            reason: reason.to_owned(),
        });
    }

    fn read(&mut self, file: File, found: &mut Found) -> io::Result<()> {
        let size = file.metadata()?.len();
        let mut archive = tar::Archive::new(file);
        // Tars may be joined end to end.
        archive.set_ignore_zeros(true);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if !(kind.is_file() || kind.is_contiguous()) {
                self.other(found, &name, "is a link or a special file");
                continue;
            }
            let (offset, length) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(length).is_none_or(|end| end > size) {
                let reason = format!("{name} reaches beyond its end");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            let start = name.rfind('/').map_or(0, |slash| slash + 1);
            let file_name = &name[start..];
            let Some(first) = file_name.find('.') else {
                self.other(found, &name, "has no ending");
                continue;
            };
            let last = file_name.rfind('.').unwrap_or(first);
            let (dotted, at, kind) = match Kind::of(&file_name[first + 1..]) {
                Kind::Other => (true, last, Kind::of(&file_name[last + 1..])),
                kind => (false, first, kind),
            };
            if kind == Kind::Other {
                self.other(
                    found,
                    &name,
                    "is neither a picture nor a caption by its ending",
                );
                continue;
            }
            let parts = match dotted {
                true => &mut self.dotted,
                false => &mut self.parts,
            };
            let part = parts.entry(name[..start + at].to_owned()).or_default();
            let place = (name, offset, length);
            part.take(&self.stem, kind, place, &mut entry)?;
        }
        Ok(())
    }

    /// The pairs, and what is part of none.
    fn finish(self, found: &mut Found) {
        let whole: HashSet<&String> = self
            .parts
            .iter()
            .filter(|(_, part)| part.picture.is_some())
            .map(|(key, _)| key)
            .collect();
        let mut loose = Vec::new();
        let mut pairs = Vec::new();
        for (key, part) in self.dotted {
            let start = key.rfind('/').map_or(0, |slash| slash + 1);
            let first = key[start..].find('.').map_or(key.len(), |dot| start + dot);
            let belongs = whole.contains(&key[..first].to_owned());
            let pair = part.picture.is_some() && !part.captions.is_empty();
            match belongs && !pair {
                // Such as a mask of a picture that is used.
                true => loose.push(part),
                false => pairs.push((key, part)),
            }
        }
        for part in loose {
            let picture = part.picture.map(|(name, _, _)| name);
            let listed = part.problems.into_iter().chain(part.foreign);
            let names = picture.into_iter().chain(part.texts);
            let names = names.map(|name| format!("{}/{name}", self.stem));
            let keys = names.chain(listed.map(|entry| entry.key));
            found.other.extend(keys.map(|key| Unreadable {
                key,
                reason: "has an ending of its own beside the picture of its key".to_owned(),
            }));
        }
        for (key, part) in self.parts.into_iter().chain(pairs) {
            part.finish(found, format!("{}/{key}", self.stem), &self.source);
        }
    }
}

impl Parts {
    fn take(
        &mut self,
        stem: &str,
        kind: Kind,
        (name, offset, length): (String, u64, u64),
        entry: &mut impl Read,
    ) -> io::Result<()> {
        let listed = |reason: String| Unreadable {
            key: format!("{stem}/{name}"),
            reason,
        };
        match kind {
            Kind::Image if self.picture.is_some() => self
                .foreign
                .push(listed("is a second picture of its key".into())),
            Kind::Image => self.picture = Some((name, offset, length)),
            Kind::ForeignPicture => {
                let ending = name.rsplit('.').next().unwrap_or_default();
                self.foreign.push(listed(format!(
                    "is a .{ending} file, expected .png, .jpg, .webp, .gif, .bmp or .tiff"
                )));
            }
            Kind::Text | Kind::Json if length > MAX_CAPTION_BYTES => {
                self.problems.push(listed(format!(
                    "has {length} bytes, expected at most {MAX_CAPTION_BYTES}"
                )));
            }
            Kind::Text | Kind::Json => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                let captions = match kind {
                    Kind::Text => String::from_utf8(bytes)
                        .map(|text| lines(&text))
                        .map_err(|e| format!("is not UTF-8: {}", e.utf8_error())),
                    _ => serde_json::from_slice::<Captions>(&bytes)
                        .map(|captions| captions.all())
                        .map_err(|e| e.to_string()),
                };
                match captions {
                    Ok(captions) => {
                        self.captions.extend(captions);
                        self.texts.push(name);
                    }
                    Err(reason) => self.problems.push(listed(reason)),
                }
            }
            Kind::Other => {}
        }
        Ok(())
    }

    fn finish(self, found: &mut Found, key: String, source: &Arc<Source>) {
        let unreadable = |found: &mut Found, key, reason| {
            found.unreadable.push(Unreadable { key, reason });
        };
        let Some((_, offset, length)) = self.picture else {
            // A caption's picture is there, but not one that is read.
            if self.foreign.is_empty() {
                let has_caption = !self.captions.is_empty() || !self.problems.is_empty();
                match has_caption {
                    true => found.without_picture.push(key),
                    // A .json of something else.
                    false => found
                        .other
                        .extend(self.texts.into_iter().map(|_| Unreadable {
                            key: key.clone(),
                            reason: "has neither a picture nor a caption".to_owned(),
                        })),
                }
            } else {
                found.unreadable.extend(self.foreign);
                found.unreadable.extend(self.problems);
            }
            return;
        };
        found.unreadable.extend(self.foreign);
        if length > MAX_FILE_BYTES {
            let reason = format!("has {length} bytes, expected at most {MAX_FILE_BYTES}");
            return unreadable(found, key, reason);
        }
        if self.captions.is_empty() {
            return match self.problems.first() {
                Some(problem) => {
                    let reason = format!("its caption {}: {}", problem.key, problem.reason);
                    unreadable(found, key, reason);
                }
                None => found.without_caption.push(key),
            };
        }
        found.unreadable.extend(self.problems);
        // The same caption stands in .txt and .json of our own exports.
        let mut captions = self.captions;
        let mut seen = HashSet::new();
        captions.retain(|caption| seen.insert(caption.clone()));
        let location = Location::Tar {
            source: Arc::clone(source),
            offset,
            length,
        };
        found.pairs.push(Pair {
            key,
            location,
            captions,
        });
    }
}
