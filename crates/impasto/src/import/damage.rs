//! Damage to files, for tests of readers.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;

use super::goldens::copied;
use crate::Result;

/// What is done to a file.
#[derive(Clone, Debug)]
pub enum Damage {
    /// Its end is lost.
    Cut(usize),
    /// Bytes have other values.
    Changed(Vec<(usize, u8)>),
    /// A part is there twice.
    Repeated(usize, usize),
}

/// Half of the places near the beginning or the end, where the structure is.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![
        0usize..2000,
        (0usize..4000).prop_map(|back| usize::MAX - back),
        any::<usize>(),
    ]
}

/// Any damage.
pub fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        place().prop_map(Damage::Cut),
        prop::collection::vec((place(), any::<u8>()), 1..4).prop_map(Damage::Changed),
        (place(), 1usize..64).prop_map(|(at, count)| Damage::Repeated(at, count)),
    ]
}

impl Damage {
    /// The damaged bytes.
    pub fn of(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let length = bytes.len().max(1);
        // Places count from the beginning, or from the end where they are beyond it.
        let at = |place: usize| match usize::MAX - place {
            back if back < length => length - 1 - back,
            _ => place % length,
        };
        match self {
            Damage::Cut(place) => bytes.truncate(at(*place)),
            Damage::Changed(changes) => {
                for &(place, value) in changes {
                    if let Some(byte) = bytes.get_mut(at(place)) {
                        *byte = value;
                    }
                }
            }
            Damage::Repeated(place, count) => {
                let start = at(*place);
                let part = bytes[start..(start + count).min(bytes.len())].to_vec();
                bytes.splice(start..start, part);
            }
        }
        bytes
    }
}

/// Opens a copy of `folder` with one file damaged: there has to be a model, or an error of one line, nothing else.
pub fn open_damaged<T>(
    folder: &Path,
    name: &str,
    damage: &Damage,
    open: impl Fn(&Path) -> Result<T>,
) {
    let folder = copied(folder);
    let path = folder.path().join(name);
    let bytes = damage.of(std::fs::read(&path).unwrap());
    std::fs::write(&path, bytes).unwrap();
    if let Err(error) = open(folder.path()) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}
