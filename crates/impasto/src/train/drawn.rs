//! Pictures that a model draws, as training pictures of the CLIP that is to choose among such: what is drawn looks
//! otherwise than what is rendered or photographed, and what is wrong in it is wrong in its own ways.
//!
//! They are drawn once, of the source's captions, before the first step, and kept as ids in the run's directory.
//! Pictures that the source has in families ([`ImageSource::family`]) stay together.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::engine::{Event, Observer, ReportEvents};
use super::source::ImageSource;
use crate::data::tokens::TokenCache;
use crate::error::Reason;
use crate::image::Image;
use crate::model::{Model, OpenOptions};
use crate::models::dalle::Order;
use crate::observer::NoObserver;
use crate::text::clip::LongCaption;
use crate::{Error, Result, files};

/// The `drawn` part of a training config.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedPicturesConfig {
    /// The model that draws, by its name or folder, with the settings that are published with it.
    pub by: String,
    /// How many pictures.
    pub pictures: u64,
    /// Which share of the pairs of a batch they are.
    pub share: f64,
}

/// Drawn in one batch.
const BATCH: usize = 32;
/// Drawn between two writings of the file.
const AT_ONCE: u64 = 2048;
/// Captions come from samples so far after those that are trained on as themselves.
const FIRST: u64 = 1 << 40;
/// Streams of random numbers that are not those of samples.
const STREAM: u64 = 1 << 62;

/// The pictures, and what draws them.
pub(super) struct SyntheticPairs {
    config: GeneratedPicturesConfig,
    model: Model,
    tokens: TokenCache,
    family: u64,
    seed: u64,
}

impl SyntheticPairs {
    /// Opens the model; there are no pictures yet.
    pub(super) fn new(
        config: &GeneratedPicturesConfig,
        source: &dyn ImageSource,
        (size, seed): (usize, u64),
        device: &Device,
    ) -> Result<Self> {
        let bad = |reason: Reason| Err(Error::invalid("training config", reason));
        if !(0.0..=1.0).contains(&config.share) {
            return bad(format!("drawn.share is {}, expected 0 to 1", config.share).into());
        }
        let family = source.family();
        if config.pictures == 0 || !config.pictures.is_multiple_of(family) {
            return bad(format!(
                "drawn.pictures is {}, expected a multiple of the family's {family}",
                config.pictures
            )
            .into());
        }
        let model = Model::open(&config.by, device, &OpenOptions::default())?;
        model.generator()?;
        let made = model.picture_size();
        if made != size {
            return bad(format!(
                "{} draws pictures of {made} px, the CLIP reads {size} px",
                config.by
            )
            .into());
        }
        Ok(SyntheticPairs {
            config: config.clone(),
            tokens: TokenCache::new(model.grid().pow(2))?,
            model,
            family,
            seed,
        })
    }

    /// Draws what the file at `path` does not have yet.
    pub(super) fn draw_all(
        &mut self,
        source: &dyn ImageSource,
        path: &Path,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let pictures = self.config.pictures;
        let fingerprint = self.fingerprint(source)?;
        if path.exists() {
            match TokenCache::open(path, &fingerprint) {
                Ok(tokens) => self.tokens = tokens,
                Err(error) => {
                    observer.report(Event::Warning(format!("{error}; drawing again")));
                }
            }
        }
        let (begin, known) = (Instant::now(), self.tokens.len() as u64);
        let mut done = known;
        while done < pictures {
            let next = (done + AT_ONCE).min(pictures);
            while done < next {
                let count = (next - done).min(BATCH as u64);
                self.draw(source, done, count)?;
                done += count;
                let rate = (done - known) as f64 / begin.elapsed().as_secs_f64();
                let left = (pictures - done) as f64 / rate;
                observer.report(Event::Preparing(format!(
                    "drew {done} of {pictures} pictures, {rate:.1} a second, {left:.0} s left"
                )));
                if observer.stop() {
                    self.tokens.write(path, &fingerprint)?;
                    return Err(Error::Stopped);
                }
            }
            self.tokens.write(path, &fingerprint)?;
        }
        Ok(())
    }

    fn draw(&mut self, source: &dyn ImageSource, first: u64, count: u64) -> Result<()> {
        let generator = self.model.generator()?;
        let captions = source.train_captions(FIRST + first, count as usize)?;
        let mut prompts = Vec::with_capacity(captions.len());
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        for (number, captions) in (first..).zip(&captions) {
            random.set_stream(STREAM + number);
            random.set_word_pos(0);
            let caption = &captions[random.random_range(0..captions.len())];
            prompts.push((caption.as_str(), self.seed.wrapping_add(number)));
        }
        let sampling = generator.sampling();
        let drawn = generator.sample(
            &prompts,
            LongCaption::Truncate,
            sampling,
            Order::Raster,
            &mut NoObserver,
        )?;
        for (drawn, captions) in drawn.iter().zip(captions) {
            self.tokens.push(&drawn.image_ids, captions)?;
        }
        Ok(())
    }

    /// Which drawn picture stands in for a sample of the source, if one does.
    pub(super) fn instead_of(&self, number: u64) -> Option<usize> {
        let (family, member) = (number / self.family, number % self.family);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream((STREAM << 1) + family);
        let families = self.tokens.len() as u64 / self.family;
        random
            .random_bool(self.config.share)
            .then(|| (random.random_range(0..families) * self.family + member) as usize)
    }

    /// A drawn picture's captions.
    pub(super) fn captions(&self, index: usize) -> &[String] {
        self.tokens.captions(index)
    }

    /// The pictures.
    pub(super) fn pictures(&self, indices: &[usize]) -> Result<Vec<Image>> {
        let ids: Vec<Vec<u32>> = indices
            .iter()
            .map(|&index| {
                let ids = self.tokens.image_ids(index);
                ids.iter().map(|&id| u32::from(id)).collect()
            })
            .collect();
        self.model.image_tokenizer().decode(&ids)
    }
    /// What the pictures depend on but for their number: the model, the captions.
    fn fingerprint(&self, source: &dyn ImageSource) -> Result<String> {
        let model = serde_json::to_vec(&self.model.config()?)
            .map_err(|e| Error::invalid("config of the model", Reason::of(e)))?;
        let captions = source.train_captions(FIRST, self.family as usize)?;
        let digest = Sha256::new()
            .chain_update(self.config.by.as_bytes())
            .chain_update(model)
            .chain_update(captions.concat().concat())
            .chain_update(source.fingerprint())
            .chain_update(self.seed.to_le_bytes())
            .finalize();
        Ok(files::hex(&digest))
    }
}
