//! Where training pictures and captions come from: composed scenes without end, or a user's own data.

use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::Sample;
use crate::data::scenes::{Glyphs, Sources, Split, World, render};
use crate::{Error, Result};

/// The `data` part of a training config.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SourceConfig {
    /// Composed scenes.
    Scenes {
        /// A preset of [`World`].
        world: String,
        /// Seed of the scenes.
        #[serde(default)]
        seed: u64,
        /// The emoji font, where it is not at Debian's place.
        #[serde(default)]
        font: Option<PathBuf>,
        /// The CLDR folder, where it is not at Debian's place.
        #[serde(default)]
        cldr: Option<PathBuf>,
    },
}

/// Numbered training samples, and held-out ones.
pub trait PictureSource: Send + Sync {
    /// Number of different training samples; none if there is no end to them.
    fn len(&self) -> Option<u64>;
    /// Samples `start .. start + count`; finite sources begin again (in another order).
    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>>;
    /// Up to `count` held-out samples.
    fn validation(&self, count: usize) -> Result<Vec<Sample>>;
}

impl SourceConfig {
    /// Opens the source for square pictures of `size` pixels, or of whichever size it has.
    pub fn open(&self, size: Option<usize>) -> Result<Box<dyn PictureSource>> {
        match self {
            SourceConfig::Scenes { world, seed, font, cldr } => {
                let mut sources = Sources::default();
                if let Some(font) = font {
                    sources.font = font.clone();
                }
                if let Some(cldr) = cldr {
                    sources.cldr = cldr.clone();
                }
                let world = World::preset(world, &sources)?;
                if let Some(size) = size
                    && world.picture_size != size
                {
                    return Err(Error::invalid(
                        "world",
                        format!("{} is drawn at {} px, the model reads {size} px", world.name, world.picture_size),
                    ));
                }
                let glyphs = Glyphs::load(&world, &sources)?;
                Ok(Box::new(Scenes { world, glyphs, seed: *seed }))
            }
        }
    }
}

struct Scenes {
    world: World,
    glyphs: Glyphs,
    seed: u64,
}

impl Scenes {
    fn sample(&self, index: u64, split: Split) -> Sample {
        let scene = self.world.scene(self.seed, index, split);
        Sample {
            key: format!("{index:08}"),
            picture: render(&scene, &self.glyphs),
            captions: self.world.all_captions(&scene),
        }
    }

    fn samples(&self, start: u64, count: usize, split: Split) -> Vec<Sample> {
        (start..start + count as u64).into_par_iter().map(|index| self.sample(index, split)).collect()
    }
}

impl PictureSource for Scenes {
    fn len(&self) -> Option<u64> {
        None
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        Ok(self.samples(start, count, Split::Train))
    }

    fn validation(&self, count: usize) -> Result<Vec<Sample>> {
        Ok(self.samples(0, count, Split::HeldOut))
    }
}
