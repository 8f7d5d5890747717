//! Where training pictures and captions come from: composed scenes without end, or a user's own data.

use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::scenes::{Glyphs, Split, World};
use crate::data::{Dataset, DataSource, Sample};
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
    /// A user's pictures with captions.
    Pairs {
        /// Where they are.
        from: DataSource,
        /// Share of the pairs set aside for validation, by a hash of their names.
        #[serde(default = "default_validation_share")]
        validation_share: f64,
    },
}

fn default_validation_share() -> f64 {
    0.05
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
    /// Opens the source for square pictures of `size` pixels.
    pub fn open(&self, size: usize) -> Result<Box<dyn PictureSource>> {
        match self {
            SourceConfig::Scenes { world, seed, font, cldr } => {
                let world = World::preset(world)?.with_picture_size(size)?;
                let glyphs = Glyphs::load(&world, font.as_deref(), cldr.as_deref())?;
                Ok(Box::new(Scenes { world, glyphs, seed: *seed }))
            }
            SourceConfig::Pairs { from, validation_share } => {
                let dataset = from.open()?;
                let (training, validation) = dataset.split(*validation_share)?;
                if training.is_empty() {
                    return Err(Error::invalid("data", "no training pairs: every picture needs a caption"));
                }
                Ok(Box::new(Pairs { dataset, training, validation, size }))
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
            picture: self.glyphs.render(&scene),
            captions: scene.captions(&self.world),
        }
    }
}

impl PictureSource for Scenes {
    fn len(&self) -> Option<u64> {
        None
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        Ok((start..start + count as u64).into_par_iter().map(|index| self.sample(index, Split::Train)).collect())
    }

    fn validation(&self, count: usize) -> Result<Vec<Sample>> {
        Ok((0..count as u64).into_par_iter().map(|index| self.sample(index, Split::HeldOut)).collect())
    }
}

