//! The held-out split: a stable hash of what a scene combines decides, so that no list has to be kept and
//! every world that contains a combination agrees on its side.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::scene::{Arrangement, Kind, Scene, Split};
use super::style::Style;
use super::world::{Grammar, World};
use crate::{Error, Result};

/// Combinations in a hundred that are held out, and pairs of thing and style.
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
            Arrangement::Quadrants => scene
                .kinds
                .iter()
                .flat_map(|kind| &kind.boxes)
                .try_for_each(|b| write!(text, "{:?} ", b.quadrant(self.picture_size))),
        };
        let colour = scene.background.colour.map_or("", |c| c.english());
        let _ = write!(text, "|{:?}|{colour}", scene.background.kind);
        text
    }

    /// The side that a scene is on; one with any held-out pair is on the side of those.
    pub fn split_of(&self, scene: &Scene) -> Split {
        let has_unseen = |kind: &Kind| self.is_held_out_pair(kind.thing, scene.style);
        if scene.kinds.iter().any(has_unseen) {
            Split::UnseenPair
        } else if percentile(&self.combination(scene)) < HELD_OUT_PERCENT {
            Split::HeldOut
        } else {
            Split::Train
        }
    }

    /// Whether the split holds that scene: for [`Split::UnseenPair`], all of its pairs have to be held out and
    /// what it combines has to be on training's side.
    pub(super) fn is_on_side(&self, scene: &Scene, split: Split) -> bool {
        match split {
            Split::UnseenPair => {
                let is_unseen = |kind: &Kind| self.is_held_out_pair(kind.thing, scene.style);
                scene.kinds.iter().all(is_unseen)
                    && percentile(&self.combination(scene)) >= HELD_OUT_PERCENT
            }
            _ => self.split_of(scene) == split,
        }
    }

    /// Whether training never shows this thing in this style. No pair is held out where the grammar is plain.
    pub fn is_held_out_pair(&self, thing: usize, style: Style) -> bool {
        self.grammar == Grammar::Rich
            && percentile(&format!("{} in {}", self.things[thing].emoji, style.name()))
                < HELD_OUT_PERCENT
    }

    /// Refuses a world that no scene can be drawn from ([`World::check`]), and a split that it has none of.
    pub fn check_split(&self, split: Split) -> Result<()> {
        self.check()?;
        let pairs = |held_out: bool, style: Style| {
            (0..self.things.len())
                .filter(|&thing| self.is_held_out_pair(thing, style) == held_out)
                .count()
        };
        let has_any = match split {
            Split::UnseenPair => self.styles.iter().any(|&style| pairs(true, style) > 0),
            Split::Train | Split::HeldOut => {
                self.grammar == Grammar::Plain
                    || self.styles.iter().any(|&style| pairs(false, style) >= 4)
            }
        };
        if has_any {
            return Ok(());
        }
        Err(Error::invalid(
            "split",
            format!("the world {} has no scenes on that side", self.name),
        ))
    }
}

/// From 0 to 99, by a stable hash.
fn percentile(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    let number = digest
        .iter()
        .take(8)
        .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    number % 100
}
