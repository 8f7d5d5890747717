//! A picture with its words of which some is known and the rest is asked for. Drawing, editing, completing and
//! varying ask for image ids, captioning for text ids: the same model tells whichever part is missing.
//!
//! The model was trained on pictures told in random orders (σ-GPT, arXiv:2404.09562), so what is known is told
//! first, wherever it lies, and what is asked for follows. A model that was trained in raster order only can't
//! be asked so: its known ids are forced where raster order comes to them ([`Telling::RasterForced`]), and what
//! is below or to the right of a hole is then unknown while the hole is drawn.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::models::DalleConfig;
use crate::models::dalle::{Order, raster, shuffled};
use crate::{Error, Result};

/// The words of a canvas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caption {
    /// Padded text ids.
    Known(Vec<u32>),
    /// To be told by the model.
    Asked,
}

/// A picture's ids, known or asked for, and its words.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// Row-major; `None` is asked for.
    pub image_ids: Vec<Option<u32>>,
    /// The words.
    pub caption: Caption,
    /// What else is known about asked ids, such as the pixels of a patch that is half hidden: by position, a
    /// value for each code, added to its logit.
    pub leanings: BTreeMap<u32, Vec<f32>>,
}

impl Canvas {
    /// Nothing is known but the words.
    pub fn blank(positions: usize, caption: Caption) -> Self {
        Canvas {
            image_ids: vec![None; positions],
            caption,
            leanings: BTreeMap::new(),
        }
    }

    /// A whole picture.
    pub fn of(image_ids: &[u32], caption: Caption) -> Self {
        Canvas {
            image_ids: image_ids.iter().map(|&id| Some(id)).collect(),
            caption,
            leanings: BTreeMap::new(),
        }
    }

    /// The same with `positions` asked for.
    pub fn asking(mut self, positions: impl IntoIterator<Item = u32>) -> Self {
        for position in positions {
            self.image_ids[position as usize] = None;
        }
        self
    }

    /// How many ids are asked for.
    pub fn asked(&self) -> usize {
        self.image_ids.iter().filter(|id| id.is_none()).count()
    }

    /// All ids, if all are known.
    pub fn whole(&self) -> Option<Vec<u32>> {
        self.image_ids.iter().copied().collect()
    }

    /// Says what does not fit a model.
    pub fn check(&self, config: &DalleConfig) -> Result<()> {
        self.check_picture(config.image_length(), config.codebook_size)?;
        if let Caption::Known(text_ids) = &self.caption
            && text_ids.len() != config.text_length
        {
            return Err(Error::invalid(
                "text ids",
                format!(
                    "expected {} ids, got {}",
                    config.text_length,
                    text_ids.len()
                ),
            ));
        }
        Ok(())
    }

    /// Says what of the picture does not fit a model of so many places and codes.
    pub fn check_picture(&self, positions: usize, codes: usize) -> Result<()> {
        if self.image_ids.len() != positions {
            return Err(Error::invalid(
                "image ids",
                format!("expected {positions} ids, got {}", self.image_ids.len()),
            ));
        }
        if let Some(id) = self
            .image_ids
            .iter()
            .flatten()
            .find(|&&id| id as usize >= codes)
        {
            return Err(Error::invalid(
                "image ids",
                format!("id {id} is not below the codebook's {codes}"),
            ));
        }
        if let Some((position, leaning)) = self.leanings.iter().find(|(position, leaning)| {
            **position as usize >= positions
                || leaning.len() != codes
                || leaning.iter().any(|value| !value.is_finite())
        }) {
            return Err(Error::invalid(
                "leaning",
                format!(
                    "expected {codes} finite values below position {positions}, got {} at {position}",
                    leaning.len()
                ),
            ));
        }
        Ok(())
    }
}

/// How a canvas is told to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Telling {
    /// What is known first, then what is asked for: for models trained on random orders.
    #[default]
    KnownFirst,
    /// All in raster order, known ids in their places. What follows a hole is only seen by the likelihood of
    /// the whole ([`crate::generate::log_likelihoods`]).
    RasterForced,
}

impl Telling {
    /// The order of all positions for a canvas of this seed.
    pub fn order(self, canvas: &Canvas, order: Order, seed: u64) -> Vec<u32> {
        let positions = canvas.image_ids.len();
        let told = match (self, order) {
            (Telling::RasterForced, _) => return raster(positions),
            (Telling::KnownFirst, Order::Raster) => raster(positions),
            // One order for a batch would tie pictures together: a row's order comes from its own seed.
            (Telling::KnownFirst, Order::Parallel { .. }) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(u64::MAX);
                shuffled(positions, &mut random)
            }
        };
        let (known, asked): (Vec<u32>, Vec<u32>) = told
            .into_iter()
            .partition(|&position| canvas.image_ids[position as usize].is_some());
        [known, asked].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas() -> Canvas {
        Canvas::of(&[5, 6, 7, 8], Caption::Asked).asking([0, 2])
    }

    #[test]
    fn what_is_known_is_told_first() {
        let canvas = canvas();
        assert_eq!((canvas.asked(), canvas.whole()), (2, None));
        let told = |telling: Telling, order| telling.order(&canvas, order, 3);
        assert_eq!(told(Telling::KnownFirst, Order::Raster), [1, 3, 0, 2]);
        assert_eq!(told(Telling::RasterForced, Order::Raster), [0, 1, 2, 3]);
        let parallel = Order::Parallel { steps: 2 };
        assert_eq!(told(Telling::RasterForced, parallel), [0, 1, 2, 3]);
        let mut shuffled = told(Telling::KnownFirst, parallel);
        assert_eq!(shuffled, told(Telling::KnownFirst, parallel));
        shuffled[..2].sort_unstable();
        shuffled[2..].sort_unstable();
        assert_eq!(shuffled, [1, 3, 0, 2]);
    }
}
