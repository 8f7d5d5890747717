//! Every reader of files as a function of bytes, with whole files to start from.
//!
//! `cargo fuzz run NAME` drives one of them, `cargo test` all of them over the committed corpus and over seeded damage
//! (`crates/cli/tests/readers`). A reader may refuse what it gets or read it, within bounds of time and memory; a panic
//! is a fault.

#![allow(clippy::unwrap_used)]

pub mod models;
pub mod mutate;
mod readers;
mod seeds;
mod trust;

use std::fs;
use std::path::{Path, PathBuf};

pub use readers::READERS;

/// A reader, not ready yet.
#[derive(Clone, Copy)]
pub struct Kind {
    /// What `cargo fuzz run` calls it.
    pub name: &'static str,
    make: fn(&Path) -> Reader,
}

impl Kind {
    /// The reader, with a folder of its own for what it reads from files.
    pub fn reader(&self, scratch: &Path) -> Reader {
        let folder = scratch.join(self.name);
        fs::create_dir_all(&folder).unwrap();
        let mut reader = (self.make)(&folder);
        reader.seeds.extend(corpus(self.name));
        reader
    }

    /// The one of a name.
    pub fn named(name: &str) -> Kind {
        let mut kinds = READERS.iter().copied();
        kinds.find(|kind| kind.name == name).unwrap()
    }
}

/// A reader of one kind of file.
pub struct Reader {
    /// Whole files, and others that found faults once.
    pub seeds: Vec<Vec<u8>>,
    read: Box<Read>,
}

/// What reading came to: none where the bytes are refused, else the memory that the content rightly takes.
type Read = dyn Fn(&[u8]) -> Option<u64>;

impl Reader {
    fn new(seeds: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> bool + 'static) -> Self {
        Reader::sized(seeds, move |bytes| read(bytes).then_some(0))
    }

    /// A reader of what may be much larger than its file, such as a picture of one colour.
    fn sized(seeds: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> Option<u64> + 'static) -> Self {
        Reader {
            seeds,
            read: Box::new(read),
        }
    }

    /// A reader of a file in a folder with others, which is opened by `open`.
    fn of_file(folder: &Path, file: &str, open: fn(&Path) -> bool) -> Self {
        let (folder, path) = (folder.to_path_buf(), folder.join(file));
        let seed = fs::read(&path).unwrap();
        Reader::new(vec![seed], move |bytes| {
            fs::write(&path, bytes).unwrap();
            open(&folder)
        })
    }

    /// Reads; where the bytes are taken for a whole file, the memory that the content rightly takes besides the file.
    pub fn read(&self, bytes: &[u8]) -> Option<u64> {
        (self.read)(bytes)
    }
}

/// Drives a reader from a fuzzer, which calls it in one thread.
pub fn fuzz(name: &str, bytes: &[u8]) {
    use std::cell::OnceCell;
    thread_local!(static READER: OnceCell<(PathBuf, Reader)> = const { OnceCell::new() });
    READER.with(|reader| {
        let (_, reader) = reader.get_or_init(|| {
            let scratch = std::env::temp_dir().join(format!("impasto-fuzz-{}", std::process::id()));
            let reader = Kind::named(name).reader(&scratch);
            (scratch, reader)
        });
        reader.read(bytes);
    });
}

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = here.ancestors();
    folders
        .find(|folder| folder.join("fuzz/corpus").is_dir())
        .unwrap()
        .to_path_buf()
}

/// The committed inputs of a reader.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = root().join("fuzz/corpus").join(name);
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Copies a folder of the library's goldens.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !path.ends_with("expected.safetensors") {
            fs::copy(&path, target).unwrap();
        }
    }
}
