//! What the references made of tiny published models, for tests: `reference/write_*_goldens.py` wrote the folders.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::Result;
use crate::checkpoint::stored::safetensors;

/// The folder of a set of a family.
pub fn golden(family: &str, set: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import");
    sources.join(family).join("goldens").join(set)
}

/// Where `reference/write_long_caption_goldens.py` wrote what it makes of a caption in chunks.
pub fn chunk_golden(family: &str, set: &str) -> PathBuf {
    golden(family, "../chunk_goldens").join(set)
}

/// A copy of a folder, to be damaged.
pub fn copied(folder: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let to = to.join(from.file_name().unwrap());
            if from.is_dir() {
                copy(&from, &to);
            } else {
                std::fs::copy(&from, to).unwrap();
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    copy(folder, copied.path());
    copied
}

/// The error, of one line, that opening `folder` ends in.
pub fn refusal<T: std::fmt::Debug>(folder: &Path, open: impl Fn(&Path) -> Result<T>) -> String {
    let error = open(folder).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// [`refusal`] of a copy of `folder` with other words in one of its files.
pub fn refusal_of_changed<T: std::fmt::Debug>(
    folder: &Path,
    (file, from, to): (&str, &str, &str),
    open: impl Fn(&Path) -> Result<T>,
) -> String {
    let folder = copied(folder);
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    refusal(folder.path(), open)
}

/// What a reference made of a set.
pub struct Expected {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Expected {
    pub fn of(folder: &Path) -> Self {
        let path = folder.join("expected.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        Expected { path, bytes }
    }

    pub fn has(&self, name: &str) -> bool {
        let tensors = safetensors(&self.path, &self.bytes).unwrap();
        tensors.iter().any(|(found, _)| found == name)
    }

    pub fn tensor(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let tensors = safetensors(&self.path, &self.bytes).unwrap();
        let (_, tensor) = tensors.iter().find(|(found, _)| found == name).unwrap();
        (tensor.floats(), tensor.shape().to_vec())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).0
    }

    /// Rows of ids, of the last dimension's length.
    pub fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let (values, shape) = self.tensor(name);
        values
            .chunks(*shape.last().unwrap())
            .map(|row| row.iter().map(|&id| id as u32).collect())
            .collect()
    }

    pub fn metadata<T: DeserializeOwned>(&self, name: &str) -> T {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()[name]).unwrap()
    }
}

pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

fn furthest(found: &[f32], expected: &[f32], what: &str) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

pub fn assert_within(found: &[f32], expected: &[f32], most: f32, what: &str) {
    let furthest = furthest(found, expected, what);
    assert!(furthest <= most, "{what}: {furthest} apart");
}

/// Within 1e-3 of the expected values' spread, as the families promise.
pub fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    let furthest = furthest(found, expected, what);
    let mean = expected.iter().sum::<f32>() / expected.len() as f32;
    let squares = expected.iter().map(|x| (x - mean).powi(2)).sum::<f32>();
    let spread = (squares / expected.len() as f32).sqrt();
    assert!(
        furthest <= 1e-3 * spread,
        "{what}: {furthest} apart, spread {spread}"
    );
}
