//! The held-out split: a stable hash of what a scene combines decides, so that no list has to be kept and
//! every world that contains a combination agrees on its side.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::scene::{Arrangement, Kind, Scene};
use super::world::World;

/// Which side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// For training: nine combinations in ten.
    Train,
    /// For the benchmark: never seen in training.
    HeldOut,
}

/// Combinations in a hundred that are held out.
const HELD_OUT_PERCENT: u64 = 10;

impl World {
    /// What a scene combines: things, colours, counts, arrangement and background. Sizes, positions within
    /// the place and style are left out: other drawings of one combination are on one side of the split.
    pub fn combination(&self, scene: &Scene) -> String {
        let mut kinds: Vec<&Kind> = scene.kinds.iter().collect();
        let mut arrangement = scene.arrangement;
        // "A left of B" and "B right of A" are one fact.
        if let (Arrangement::Related(relation), [a, b]) = (arrangement, kinds.as_slice())
            && self.things[b.thing].emoji < self.things[a.thing].emoji
        {
            arrangement = Arrangement::Related(relation.converse());
            kinds.reverse();
        }
        let mut text = String::new();
        for kind in kinds {
            let colour = kind.colour.map_or("natural", |c| c.english());
            // Writing to a string can't fail.
            let _ = write!(
                text,
                "{}|{colour}|{}|",
                self.things[kind.thing].emoji,
                kind.count()
            );
        }
        let _ = match arrangement {
            Arrangement::Free => write!(text, "free"),
            Arrangement::At(place) => write!(text, "{place:?}"),
            Arrangement::Related(relation) => write!(text, "{relation:?}"),
        };
        let colour = scene.background.colour.map_or("", |c| c.english());
        let _ = write!(text, "|{:?}|{colour}", scene.background.kind);
        text
    }

    /// The side that a scene is on.
    pub fn split_of(&self, scene: &Scene) -> Split {
        let digest = Sha256::digest(self.combination(scene).as_bytes());
        let number = digest
            .iter()
            .take(8)
            .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        if number % 100 < HELD_OUT_PERCENT {
            Split::HeldOut
        } else {
            Split::Train
        }
    }
}
