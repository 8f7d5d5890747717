//! Where training pictures and captions come from: composed scenes without end, or a user's own data.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use super::engine::{Event, Observer, ReportEvents};
use crate::data::Sample;
use crate::data::pairs::{Exclusions, PairSource, Pairs, ScanReport};
use crate::data::scenes::{Glyphs, Scene, Sources, Split, World, render};
use crate::error::Reason;
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
        /// The folder of art packs, where it is not `art` in the working directory; the world `styles` reads it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        art: Option<PathBuf>,
        /// This many scenes in a row have much in common; 1: none have. Who is trained to distinguish captions then
        /// learns to look at counts, colours and places.
        #[serde(default = "default_family", skip_serializing_if = "is_default_family")]
        family: u64,
    },
    /// A user's pictures with captions.
    Pairs {
        /// Where they are.
        from: PairSource,
        /// Share set aside for validation.
        #[serde(default = "default_validation_share")]
        validation_share: f64,
        /// Seed of the epochs' orders.
        #[serde(default)]
        seed: u64,
        /// A list of pictures that are not trained on; see [`Exclusions`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exclude: Option<PathBuf>,
    },
}

fn default_family() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks for it
fn is_default_family(family: &u64) -> bool {
    *family == default_family()
}

fn default_validation_share() -> f64 {
    0.05
}

/// Side of users' pictures where only their captions are wanted.
const CAPTIONS_ONLY: usize = 1;

/// Numbered training samples, and held-out ones.
pub trait ImageSource: Send + Sync {
    /// Number of different training samples; none if there is no end to them.
    fn count(&self) -> Option<u64>;
    /// Samples `start .. start + count`; finite sources begin again (in another order).
    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>>;
    /// The captions of those samples; no picture is read or rendered.
    fn train_captions(&self, start: u64, count: usize) -> Result<Vec<Vec<String>>>;
    /// This many samples in a row have much in common, from a multiple of this number on; 1: none have.
    fn family(&self) -> u64 {
        1
    }
    /// Up to `count` held-out samples.
    fn validation(&self, count: usize) -> Result<Vec<Sample>>;
    /// Stands for the content where the config does not say all of it: a user's files may change.
    fn fingerprint(&self) -> String {
        String::new()
    }
}

impl SourceConfig {
    /// Leaves the pictures of a list out, in the place of a list that the config has.
    ///
    /// # Errors
    /// Composed scenes have no pictures that a list could name.
    pub fn exclude(&mut self, list: &Path) -> Result<()> {
        match self {
            SourceConfig::Pairs { exclude, .. } => {
                *exclude = Some(list.to_path_buf());
                Ok(())
            }
            SourceConfig::Scenes { .. } => Err(Error::invalid(
                "exclude",
                "names pictures of your own data, but the config trains on composed scenes",
            )),
        }
    }

    /// Opens the source for square pictures of `size` pixels, or of whichever size it has; the report says
    /// what in it can't be used.
    pub fn open(&self, size: Option<usize>) -> Result<(Box<dyn ImageSource>, ScanReport)> {
        match self {
            SourceConfig::Scenes {
                world,
                seed,
                font,
                cldr,
                art,
                family,
            } => {
                if *family == 0 {
                    return Err(Error::invalid("family", "expected 1 or more, got 0"));
                }
                let mut sources = Sources::default();
                if let Some(font) = font {
                    sources.font = font.clone();
                }
                if let Some(cldr) = cldr {
                    sources.cldr = cldr.clone();
                }
                if let Some(art) = art {
                    sources.art = art.clone();
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
                for split in [Split::Train, Split::HeldOut] {
                    world.check_split(split)?;
                }
                let glyphs = Glyphs::load(&world, &sources)?;
                Ok((
                    Box::new(Scenes {
                        world,
                        glyphs,
                        seed: *seed,
                        family: *family,
                    }),
                    ScanReport::default(),
                ))
            }
            SourceConfig::Pairs {
                from,
                validation_share,
                seed,
                exclude,
            } => {
                if !(0.0..1.0).contains(validation_share) {
                    let reason =
                        format!("expected 0 or more and less than 1, got {validation_share}");
                    return Err(Error::invalid("validation_share", reason));
                }
                let exclusions = exclude.as_deref().map(Exclusions::read).transpose()?;
                let (pairs, report) = from.open_without(exclusions.as_ref())?;
                let (training, validation) = pairs.split(*validation_share);
                if training.is_empty() {
                    return Err(Error::invalid(
                        "data",
                        format!("no pair can be used: {}", report.summary()),
                    ));
                }
                let size = size.unwrap_or(CAPTIONS_ONLY);
                Ok((
                    Box::new(Numbered {
                        pairs,
                        training,
                        validation,
                        seed: *seed,
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
) -> Result<Box<dyn ImageSource>> {
    let (source, report) = config.open(size)?;
    if let SourceConfig::Pairs {
        exclude: Some(list),
        ..
    } = config
    {
        report_exclusions(list, &report, observer);
    }
    if !report.lists_nothing() {
        let path = dir.join("excluded.json");
        let json = serde_json::to_vec_pretty(&report)
            .map_err(|e| Error::invalid("report", Reason::of(e)))?;
        files::write_atomic(&path, &json)?;
        if !(report.is_clean() && report.other.is_empty()) {
            observer.report(Event::Warning(format!(
                "{}; see {}",
                report.summary(),
                path.display()
            )));
        }
    }
    Ok(source)
}

/// Says how many pairs a list leaves out, and which of its entries name none.
fn report_exclusions(list: &Path, report: &ScanReport, observer: &mut dyn Observer) {
    /// Entries that are named; all of them are in `excluded.json`.
    const NAMED: usize = 20;
    observer.report(Event::Note(format!(
        "{} leaves {} of {} pairs out",
        list.display(),
        report.excluded.len(),
        report.excluded.len() + report.usable
    )));
    let without = &report.exclusions_without_pair;
    if without.is_empty() {
        return;
    }
    let named: Vec<&str> = without.iter().take(NAMED).map(String::as_str).collect();
    let more = match without.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more, which excluded.json lists"),
    };
    observer.report(Event::Warning(format!(
        "{} names {} pictures that are not in the data: {}{more}",
        list.display(),
        without.len(),
        named.join(", ")
    )));
}

/// Up to `count` held-out samples, of which a run that was asked to hold some out may have none: small data that all
/// falls to training is trained on, and the one who started the run knows.
pub(super) fn held_out(
    source: &dyn ImageSource,
    count: usize,
    run: &RunConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<Sample>> {
    let samples = source.validation(count)?;
    if !samples.is_empty() {
        return Ok(samples);
    }
    if let Some(name) = run
        .expect
        .keys()
        .find(|name| name.starts_with("validation"))
    {
        return Err(Error::invalid(
            "training config",
            format!(
                "expects {name}, but no picture is held out for validation; raise validation_share or give more pictures"
            ),
        ));
    }
    if count > 0 {
        observer.report(Event::Warning(
            "no picture is held out for validation: all are trained on, and checkpoints are not measured; a larger validation_share would hold some out".into(),
        ));
    }
    Ok(samples)
}

/// [`open`] for a model that reads pictures of `size` pixels, whatever size scenes are drawn at.
pub(super) fn open_scaled(
    config: &SourceConfig,
    size: usize,
    dir: &Path,
    observer: &mut dyn Observer,
) -> Result<Box<dyn ImageSource>> {
    match config {
        SourceConfig::Pairs { .. } => open(config, Some(size), dir, observer),
        SourceConfig::Scenes { .. } => {
            let drawn = open(config, None, dir, observer)?;
            Ok(Box::new(Scaled { drawn, size }))
        }
    }
}

/// Pictures of another size than they are drawn at.
struct Scaled {
    drawn: Box<dyn ImageSource>,
    size: usize,
}

impl Scaled {
    fn all(&self, samples: Vec<Sample>) -> Result<Vec<Sample>> {
        let scaled = samples.into_par_iter().map(|sample| {
            let picture = sample.picture.fit_square(self.size)?;
            Ok(Sample { picture, ..sample })
        });
        scaled.collect()
    }
}

impl ImageSource for Scaled {
    fn count(&self) -> Option<u64> {
        self.drawn.count()
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        self.all(self.drawn.train_batch(start, count)?)
    }

    fn train_captions(&self, start: u64, count: usize) -> Result<Vec<Vec<String>>> {
        self.drawn.train_captions(start, count)
    }

    fn validation(&self, count: usize) -> Result<Vec<Sample>> {
        self.all(self.drawn.validation(count)?)
    }

    fn fingerprint(&self) -> String {
        format!("{} {}", self.drawn.fingerprint(), self.size)
    }
}

struct Scenes {
    world: World,
    glyphs: Glyphs,
    seed: u64,
    family: u64,
}

impl Scenes {
    fn scene(&self, index: u64, split: Split) -> Scene {
        // Validation stays the same, so that runs can be compared.
        if self.family == 1 || split == Split::HeldOut {
            return self.world.scene(self.seed, index, split);
        }
        let (family, member) = (index / self.family, index % self.family);
        self.world
            .hard_negative_scene(self.seed, family, member, split)
    }

    fn sample(&self, index: u64, split: Split) -> Sample {
        let scene = self.scene(index, split);
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

impl ImageSource for Scenes {
    fn count(&self) -> Option<u64> {
        None
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        Ok(self.samples(start, count, Split::Train))
    }

    fn train_captions(&self, start: u64, count: usize) -> Result<Vec<Vec<String>>> {
        let captions = (start..start + count as u64).into_par_iter().map(|index| {
            let scene = self.scene(index, Split::Train);
            self.world.all_captions(&scene)
        });
        Ok(captions.collect())
    }

    fn family(&self) -> u64 {
        self.family
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
    seed: u64,
    size: usize,
}

impl ImageSource for Numbered {
    fn count(&self) -> Option<u64> {
        Some(self.training.len() as u64)
    }

    fn train_batch(&self, start: u64, count: usize) -> Result<Vec<Sample>> {
        let len = self.training.len() as u64;
        (start..start + count as u64)
            .into_par_iter()
            .map(|number| {
                self.pairs.sample(
                    self.training[epoch_index(self.seed, len, number)],
                    self.size,
                )
            })
            .collect()
    }

    fn train_captions(&self, start: u64, count: usize) -> Result<Vec<Vec<String>>> {
        let len = self.training.len() as u64;
        let numbers = start..start + count as u64;
        let index = |number| self.training[epoch_index(self.seed, len, number)];
        Ok(numbers
            .map(|number| self.pairs.captions(index(number)).to_vec())
            .collect())
    }

    fn fingerprint(&self) -> String {
        self.pairs.fingerprint()
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
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::image::{Format, Image};

    fn folder(pictures: u8) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..pictures {
            let bytes = Image::filled(2, 2, [i; 3]).encode(Format::Png, 100);
            std::fs::write(dir.path().join(format!("{i}.png")), bytes.unwrap()).unwrap();
            std::fs::write(dir.path().join(format!("{i}.txt")), format!("{i}")).unwrap();
        }
        dir
    }

    fn pairs(dir: &Path, seed: u64, share: f64) -> SourceConfig {
        let pairs = json!({"from": {"folder": dir}, "seed": seed, "validation_share": share});
        serde_json::from_value(json!({ "pairs": pairs })).unwrap()
    }

    fn keys(source: &dyn ImageSource, start: u64, count: usize) -> Vec<String> {
        let samples = source.train_batch(start, count).unwrap();
        samples.into_iter().map(|sample| sample.key).collect()
    }

    /// A resumed run asks from the middle of an epoch, and maybe in other portions.
    #[test]
    fn samples_do_not_depend_on_where_reading_began() {
        let dir = folder(9);
        let (source, _) = pairs(dir.path(), 3, 0.0).open(Some(2)).unwrap();
        let all = keys(source.as_ref(), 0, 27);
        for start in [0, 4, 8, 9, 13, 25] {
            assert_eq!(
                keys(source.as_ref(), start as u64, 2),
                all[start..start + 2]
            );
        }
        let (other, _) = pairs(dir.path(), 4, 0.0).open(Some(2)).unwrap();
        assert_ne!(keys(other.as_ref(), 0, 27), all);
    }

    #[test]
    fn impossible_sources_are_refused() {
        let dir = folder(1);
        let error = |config: SourceConfig| match config.open(Some(2)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        for share in [-0.1, 1.0, 7.0] {
            let error = error(pairs(dir.path(), 1, share));
            assert!(error.contains("validation_share"), "{error}");
        }
        std::fs::write(dir.path().join("0.png"), b"no picture").unwrap();
        let error = error(pairs(dir.path(), 1, 0.0));
        assert!(error.contains("1 unreadable"), "{error}");
    }

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
