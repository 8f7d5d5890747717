//! PyTorch's own files (`.pt`, `.pth`, `.bin`, `.ckpt`), read without PyTorch and without running anything.
//!
//! Three containers hold the same pickle of a tree whose leaves are tensors: the zip archive of
//! `torch.save` since 1.6, the same with code beside it (TorchScript, in which OpenAI published CLIP; the
//! code is not looked at), and the row of pickles of older versions. Sources: PyTorch's
//! `torch/serialization.py` and `caffe2/serialize/inline_container.h`.
//!
//! Whatever is in a file, reading it ends in a tree or in an [`Error`], within four times the file's size
//! and a mebibyte of memory. Not read: compressed entries, big-endian files, quantised and sparse tensors.

mod pickle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek};
use std::ops::Range;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use self::pickle::{Node, Pickle, Value};
use super::stored::StoredTensor;
use crate::error::Reason;
use crate::{Error, Result, files};

/// Classes of TorchScript modules, whose objects are their parameters.
pub const TORCH_SCRIPT: &[&str] = &["__torch__."];

/// Levels of dictionaries within each other.
const MAX_DEPTH: usize = 64;

/// Begins every file of PyTorch before 1.6: a pickled magic number.
const LEGACY_MAGIC: &[u8] = &[
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e,
];

/// The longest pickle that is looked into by [`mentions`].
const LONGEST_PICKLE: u64 = 16 << 20;

/// Whether the pickle of a file has all of these words somewhere: a guess at what it is, without reading all of it.
pub fn mentions(path: &Path, words: &[&str]) -> bool {
    let pickle = || -> Option<Vec<u8>> {
        let mut file = files::open(path).ok()?;
        let mut pickle = Vec::new();
        if let Ok(mut zip) = ZipArchive::new(&file) {
            let name = zip.file_names().find(|name| name.ends_with("/data.pkl"))?;
            let name = name.to_owned();
            let entry = zip.by_name(&name).ok()?;
            entry.take(LONGEST_PICKLE).read_to_end(&mut pickle).ok()?;
        } else {
            file.rewind().ok()?;
            file.take(LONGEST_PICKLE).read_to_end(&mut pickle).ok()?;
        }
        Some(pickle)
    };
    pickle().is_some_and(|pickle| {
        let has = |word: &&str| {
            let mut places = pickle.windows(word.len());
            places.any(|place| place == word.as_bytes())
        };
        words.iter().all(has)
    })
}

/// Whether these bytes begin as a file of PyTorch does.
pub fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(LEGACY_MAGIC)
}

/// A file that was understood.
#[derive(Debug)]
pub struct Archive<'a> {
    name: &'a Path,
    bytes: &'a [u8],
    /// What the pickle's texts are ranges of.
    texts: &'a [u8],
    pickle: Pickle,
    /// Bytes of the storages by key.
    storages: BTreeMap<String, Range<usize>>,
}

/// A place in the tree of a file.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    archive: &'a Archive<'a>,
    value: Value,
}

impl<'a> Archive<'a> {
    /// Understands `bytes`; `name` is used in errors. `classes` are the beginnings of names of classes whose
    /// objects are read as plain data, such as [`TORCH_SCRIPT`].
    pub fn parse(name: &'a Path, bytes: &'a [u8], classes: &[&str]) -> Result<Self> {
        let bad = |reason: Reason| Error::bad_file(name, reason);
        // The file itself is the first of four; leave one for what is made of the tree.
        let budget = (1 << 20) + 2 * bytes.len();
        if bytes.starts_with(LEGACY_MAGIC) {
            return Archive::legacy(name, bytes, classes, budget).map_err(bad);
        }
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| {
            bad(
                format!("not a whole PyTorch file ({e}); expected a zip archive with data.pkl")
                    .into(),
            )
        })?;
        Archive::zipped(name, bytes, zip, classes, budget).map_err(bad)
    }

    fn zipped(
        name: &'a Path,
        bytes: &'a [u8],
        mut zip: ZipArchive<Cursor<&'a [u8]>>,
        classes: &[&str],
        budget: usize,
    ) -> Result<Self, Reason> {
        // The archive has one folder, named after the file that it was first written to.
        let folder = zip
            .file_names()
            .find_map(|entry| entry.strip_suffix("/data.pkl"))
            .filter(|folder| !folder.contains('/'))
            .ok_or("is a zip archive without data.pkl, expected a PyTorch file")?
            .to_owned();
        if let Some(index) = zip.index_for_name(&format!("{folder}/byteorder")) {
            let range = entry(&mut zip, index)?;
            if bytes.get(range) == Some(b"big") {
                return Err("was written on a big-endian machine, expected little-endian".into());
            }
        }
        let index = zip
            .index_for_name(&format!("{folder}/data.pkl"))
            .ok_or("has no data.pkl")?;
        let range = entry(&mut zip, index)?;
        let texts = bytes.get(range).ok_or("has a data.pkl beyond its end")?;
        let pickle = pickle::run(texts, 0, classes, budget)?;
        let mut storages = BTreeMap::new();
        // Entries may lie over each other; more than the whole file is none that anyone wrote.
        let mut unclaimed = bytes.len();
        for node in &pickle.nodes {
            let Node::Storage {
                element,
                key,
                count,
            } = node
            else {
                continue;
            };
            let key = text(texts, *key).ok_or("has a storage whose name is no text")?;
            let expected = count.checked_mul(element.bytes());
            if !storages.contains_key(key) {
                let index = zip
                    .index_for_name(&format!("{folder}/data/{key}"))
                    .ok_or_else(|| format!("lacks the entry data/{}", key.escape_debug()))?;
                let range = entry(&mut zip, index)?;
                unclaimed = unclaimed
                    .checked_sub(range.len())
                    .ok_or("has entries that lie over each other")?;
                storages.insert(key.to_owned(), range);
            }
            let range = &storages[key];
            if expected.is_none_or(|expected| expected > range.len()) {
                return Err(format!(
                    "has {} bytes in data/{key}, expected {count} numbers of {} bytes",
                    range.len(),
                    element.bytes()
                )
                .into());
            }
        }
        Ok(Archive {
            name,
            bytes,
            texts,
            pickle,
            storages,
        })
    }

    fn legacy(
        name: &'a Path,
        bytes: &'a [u8],
        classes: &[&str],
        budget: usize,
    ) -> Result<Self, Reason> {
        let small = 1 << 20;
        let mut at = LEGACY_MAGIC.len();
        let version = pickle::run(bytes, at, &[], small)?;
        if version.root != Value::Integer(1001) {
            return Err("has an unknown version, expected 1001".into());
        }
        // The machine that it was written on.
        at = pickle::run(bytes, version.end, &[], small)?.end;
        let pickle = pickle::run(bytes, at, classes, budget)?;
        let keys = pickle::run(bytes, pickle.end, &[], small + bytes.len())?;
        let Value::Node(index) = keys.root else {
            return Err("has no list of storages".into());
        };
        let Node::List(order) = &keys.nodes[index] else {
            return Err("has no list of storages".into());
        };
        let mut known: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for node in &pickle.nodes {
            if let Node::Storage {
                element,
                key,
                count,
            } = node
            {
                let key = text(bytes, *key).ok_or("has a storage whose name is no text")?;
                known.insert(key, (element.bytes(), *count));
            }
        }
        let mut storages = BTreeMap::new();
        let mut at = keys.end;
        for &key in order {
            let key = text(bytes, key).ok_or("has a storage whose name is no text")?;
            let &(width, count) = known
                .get(key)
                .ok_or("has a storage that no tensor belongs to")?;
            let ended = "ends in the middle of its numbers";
            let head: [u8; 8] = at
                .checked_add(8)
                .and_then(|end| bytes.get(at..end))
                .and_then(|head| head.try_into().ok())
                .ok_or(ended)?;
            at += 8;
            if u64::from_le_bytes(head) != count as u64 {
                return Err(format!("has a storage of other than {count} numbers").into());
            }
            let end = count
                .checked_mul(width)
                .and_then(|length| at.checked_add(length))
                .filter(|&end| end <= bytes.len())
                .ok_or(ended)?;
            storages.insert(key.to_owned(), at..end);
            at = end;
        }
        if let Some(key) = known.keys().find(|key| !storages.contains_key(**key)) {
            return Err(format!("lacks the storage {}", key.escape_debug()).into());
        }
        Ok(Archive {
            name,
            bytes,
            texts: bytes,
            pickle,
            storages,
        })
    }

    /// Whether there are objects of classes in it.
    pub fn has_classes(&self) -> bool {
        let mut nodes = self.pickle.nodes.iter();
        nodes.any(|node| matches!(node, Node::Object(_)))
    }

    /// The whole tree.
    pub fn root(&'a self) -> Item<'a> {
        Item {
            archive: self,
            value: self.pickle.root,
        }
    }
}

impl<'a> Item<'a> {
    fn node(self) -> Option<&'a Node> {
        match self.value {
            Value::Node(index) => self.archive.pickle.nodes.get(index),
            _ => None,
        }
    }

    fn at(self, value: Value) -> Item<'a> {
        Item { value, ..self }
    }

    /// The pairs of a dictionary, or an object's attributes.
    fn pairs(self) -> &'a [(Value, Value)] {
        match self.node() {
            Some(Node::Dict(pairs)) => pairs,
            Some(&Node::Object(state)) => match self.at(state).node() {
                Some(Node::Dict(pairs)) => pairs,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// What a dictionary has under a text.
    pub fn get(self, key: &str) -> Option<Item<'a>> {
        // The last one counts, as in Python.
        let pair = self.pairs().iter().rev();
        let mut found = pair.filter(|(name, _)| text(self.archive.texts, *name) == Some(key));
        found.next().map(|&(_, value)| self.at(value))
    }

    /// The items of a list or a tuple.
    pub fn items(self) -> Vec<Item<'a>> {
        match self.node() {
            Some(Node::List(items) | Node::Tuple(items)) => {
                items.iter().map(|&value| self.at(value)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it is nothing.
    pub fn is_none(self) -> bool {
        self.value == Value::None
    }

    /// It, as a text.
    pub fn text(self) -> Option<&'a str> {
        text(self.archive.texts, self.value)
    }

    /// It, as an integer.
    pub fn integer(self) -> Option<i64> {
        match self.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// It, as true or false.
    pub fn boolean(self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// It, as a number.
    pub fn float(self) -> Option<f64> {
        match self.value {
            Value::Float(value) => Some(value),
            Value::Integer(value) => Some(value as f64),
            _ => None,
        }
    }

    /// All tensors in it, by their way joined with dots; other things are passed over.
    pub fn tensors(self) -> Result<BTreeMap<String, StoredTensor<'a>>> {
        let mut found = BTreeMap::new();
        // Two dictionaries that share a third, and so on, have more ways than any file has bytes.
        let mut budget = (1 << 20) + self.archive.bytes.len();
        self.collect(&mut String::new(), 0, &mut budget, &mut found)
            .map_err(|reason| Error::bad_file(self.archive.name, reason))?;
        // Tensors may share their numbers, but not so that a short file makes a large model.
        let numbers = found.values().map(|tensor| tensor.shape().iter().product());
        let numbers = numbers.fold(0usize, usize::saturating_add);
        if numbers > (1 << 18) + self.archive.bytes.len() {
            return Err(Error::bad_file(
                self.archive.name,
                format!("has {numbers} numbers in its tensors, more than it has bytes"),
            ));
        }
        Ok(found)
    }

    fn collect(
        self,
        way: &mut String,
        depth: usize,
        budget: &mut usize,
        found: &mut BTreeMap<String, StoredTensor<'a>>,
    ) -> Result<(), Reason> {
        let too_much = "describes more than its size can account for";
        *budget = budget.checked_sub(8).ok_or(too_much)?;
        if let Some(Node::Tensor {
            storage,
            offset,
            shape,
            strides,
        }) = self.node()
        {
            let cost = 2 * way.len() + size_of::<StoredTensor<'_>>() + 32 * shape.len();
            *budget = budget.checked_sub(cost).ok_or(too_much)?;
            let tensor = self.view(*storage, *offset, shape, strides);
            let tensor =
                tensor.map_err(|reason| format!("tensor {} {reason}", way.escape_debug()))?;
            found.insert(way.clone(), tensor);
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(format!("has more than {MAX_DEPTH} levels of dictionaries").into());
        }
        let length = way.len();
        for &(key, value) in self.pairs() {
            if !matches!(value, Value::Node(_)) {
                continue;
            }
            let Some(key) = text(self.archive.texts, key) else {
                continue;
            };
            *budget = budget.checked_sub(key.len() + 8).ok_or(too_much)?;
            if length > 0 {
                way.push('.');
            }
            way.push_str(key);
            self.at(value).collect(way, depth + 1, budget, found)?;
            way.truncate(length);
        }
        Ok(())
    }

    fn view(
        self,
        storage: usize,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<StoredTensor<'a>, Reason> {
        let archive = self.archive;
        let Some(Node::Storage {
            element,
            key,
            count,
        }) = archive.pickle.nodes.get(storage)
        else {
            return Err("has no storage".into());
        };
        let range = text(archive.texts, *key)
            .and_then(|key| archive.storages.get(key))
            .ok_or("has no storage")?;
        let width = element.bytes();
        let start = offset.min(*count) * width;
        let bytes = archive
            .bytes
            .get(range.start + start..range.start + count * width)
            .ok_or("has no storage")?;
        StoredTensor::new(*element, shape.to_vec(), strides.to_vec(), bytes)
    }
}

/// The bytes of an entry, once they are found whole and stored as they are.
fn entry(zip: &mut ZipArchive<Cursor<&[u8]>>, index: usize) -> Result<Range<usize>, Reason> {
    let damaged = |e: Reason| Reason::because("has a damaged entry", e);
    let raw = zip
        .by_index_raw(index)
        .map_err(|e| damaged(Reason::of(e)))?;
    let entry_name = raw.name().escape_debug().to_string();
    if raw.compression() != CompressionMethod::Stored || raw.encrypted() {
        return Err(format!(
            "has the compressed entry {entry_name}, expected it stored, as PyTorch does"
        )
        .into());
    }
    let (start, size) = (raw.data_start(), raw.size());
    if raw.compressed_size() != size {
        return Err(damaged(format!("{entry_name} has two sizes").into()));
    }
    drop(raw);
    // To the end and nowhere, for its checksum.
    let mut checked = zip.by_index(index).map_err(|e| damaged(Reason::of(e)))?;
    let read = std::io::copy(&mut checked.by_ref().take(size + 1), &mut std::io::sink())
        .map_err(|e| damaged(Reason::because(&entry_name, e)))?;
    let range = usize::try_from(start).ok().zip(
        start
            .checked_add(size)
            .and_then(|end| usize::try_from(end).ok()),
    );
    match range {
        Some((start, end)) if read == size => Ok(start..end),
        _ => Err(damaged(format!("{entry_name} ends too early").into())),
    }
}

fn text(bytes: &[u8], value: Value) -> Option<&str> {
    match value {
        Value::Text { start, end } => std::str::from_utf8(bytes.get(start..end)?).ok(),
        _ => None,
    }
}
