//! Where training pictures and captions come from: composed scenes without end, or a user's own data.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::engine::{Event, Observer};
use crate::data::Sample;
use crate::data::pairs::{PairSource, Pairs, ScanReport};
use crate::data::scenes::{Glyphs, Sources, Split, World, render};
use crate::{Error, Result, files};

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
        from: PairSource,
        /// Share set aside for validation.
        #[serde(default = "default_validation_share")]
        validation_share: f64,
    },
}

fn default_validation_share() -> f64 {
    0.05
}

/// Side of users' pictures where only their captions are wanted.
const CAPTIONS_ONLY: usize = 1;

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
    /// Opens the source for square pictures of `size` pixels, or of whichever size it has; the report says
    /// what in it can't be used.
    pub fn open(&self, size: Option<usize>) -> Result<(Box<dyn PictureSource>, ScanReport)> {
        match self {
            SourceConfig::Scenes {
                world,
                seed,
                font,
                cldr,
            } => {
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
                        format!(
                            "{} is drawn at {} px, the model reads {size} px",
                            world.name, world.picture_size
                        ),
                    ));
                }
                let glyphs = Glyphs::load(&world, &sources)?;
                Ok((
                    Box::new(Scenes {
                        world,
                        glyphs,
                        seed: *seed,
                    }),
                    ScanReport::default(),
                ))
            }
            SourceConfig::Pairs {
                from,
                validation_share,
            } => {
                let (pairs, report) = from.open()?;
                let (training, validation) = pairs.split(*validation_share);
                if training.is_empty() {
                    return Err(Error::invalid(
                        "data",
                        format!(
                            "no picture with a caption: {} without caption, {} unreadable",
                            report.without_caption.len(),
                            report.unreadable.len()
                        ),
                    ));
                }
                let size = size.unwrap_or(CAPTIONS_ONLY);
                Ok((
                    Box::new(Numbered {
                        pairs,
                        training,
                        validation,
                        size,
                    }),
                    report,
                ))
            }
        }
    }
}

/// Opens a run's source; what can't be used is warned of and listed in `excluded.json` in `dir`.
pub(super) fn open(
    config: &SourceConfig,
    size: Option<usize>,
    dir: &Path,
    observer: &mut dyn Observer,
) -> Result<Box<dyn PictureSource>> {
    let (source, report) = config.open(size)?;
    if !report.is_clean() {
        let path = dir.join("excluded.json");
        let json = serde_json::to_vec_pretty(&report)
            .map_err(|e| Error::invalid("report", e.to_string()))?;
        files::write_atomic(&path, &json)?;
        observer.event(Event::Warning(format!(
            "{} pairs are used; {} pictures without a caption and {} unreadable ones are left out, see {}",
            report.usable,
            report.without_caption.len(),
            report.unreadable.len(),
            path.display()
        )));
    }
    Ok(source)
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
        (start..start + count as u64)
            .into_par_iter()
            .map(|index| self.sample(index, split))
            .collect()
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

/// A user's pairs, epoch after epoch.
struct Numbered {
    pairs: Pairs,
    training: Vec<usize>,
    validation: Vec<usize>,
    size: usize,
}

impl PictureSource for Numbered {
    fn len(&self) -> Option<u64> {
        Some(self.training.len() as u64)
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        let len = self.training.len() as u64;
        (start..start + count as u64)
            .into_par_iter()
            .map(|number| {
                self.pairs
                    .sample(self.training[epoch_index(0, len, number)], self.size)
            })
            .collect()
    }

    fn validation(&self, count: usize) -> Result<Vec<Sample>> {
        self.validation
            .par_iter()
            .take(count)
            .map(|&index| self.pairs.sample(index, self.size))
            .collect()
    }
}

/// Which of `len` samples is number `number` of endless epochs. Each epoch walks all samples once, from a
/// start and by a stride (prime to `len`) of its own, so that any place of any epoch is found without
/// walking there: a resumed run sees exactly what an uninterrupted one would.
pub(super) fn epoch_index(seed: u64, len: u64, number: u64) -> usize {
    let (epoch, place) = (number / len, number % len);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0e90c);
    rng.set_stream(epoch);
    let offset = rng.random_range(0..len);
    let mut stride = rng.random_range(1..=len);
    while gcd(stride, len) != 1 {
        stride = stride % len + 1;
    }
    ((u128::from(place) * u128::from(stride) + u128::from(offset)) % u128::from(len)) as usize
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_sample_once() {
        for len in [1u64, 2, 7, 12, 100] {
            for epoch in 0..3 {
                let mut seen: Vec<usize> = (0..len)
                    .map(|place| epoch_index(5, len, epoch * len + place))
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..len as usize).collect::<Vec<_>>());
            }
        }
    }
}
