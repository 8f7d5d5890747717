//! A picture and its caption, of which a part is known and the rest is masked. Drawing, editing, completing and
//! varying mask image ids, captioning masks text ids: the same model predicts whichever part is missing.
//!
//! The model was trained on image ids in random orders (σ-GPT, arXiv:2404.09562), so the known ids come first, as
//! a prefix, wherever they are in the picture, and the masked ones follow. A model that was trained in raster order
//! only doesn't support this: its known ids are forced at their positions in raster order
//! ([`Conditioning::TeacherForced`]), and what is below or to the right of a hole is then unknown while the hole is
//! drawn.

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
    /// To be predicted by the model.
    Asked,
}

/// A picture's ids, known or masked, and its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// Row-major; `None` is masked.
    pub image_ids: Vec<Option<u32>>,
    /// The words.
    pub caption: Caption,
    /// What else is known about masked ids, such as the pixels of a patch that is half hidden: by position, a
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

    /// The same with `positions` masked.
    pub fn asking(mut self, positions: impl IntoIterator<Item = u32>) -> Self {
        for position in positions {
            self.image_ids[position as usize] = None;
        }
        self
    }

    /// How many ids are masked.
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

    /// Returns an error that names what does not fit a model with this many positions and codes.
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

/// How the known ids of a canvas condition the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Conditioning {
    /// The known ids first, then the masked ones: for models trained on random orders.
    #[default]
    #[serde(rename = "known-first")]
    Prefix,
    /// All in raster order, known ids forced at their positions. What follows a hole is only seen by the likelihood of
    /// the whole ([`crate::generate::log_likelihoods`]).
    #[serde(rename = "raster-forced")]
    TeacherForced,
}

impl Conditioning {
    /// The order of all positions for a canvas of this seed.
    pub fn order(self, canvas: &Canvas, order: Order, seed: u64) -> Vec<u32> {
        let positions = canvas.image_ids.len();
        let visited = match (self, order) {
            (Conditioning::TeacherForced, _) => return raster(positions),
            (Conditioning::Prefix, Order::Raster) => raster(positions),
            // One order for a batch would tie pictures together: a row's order comes from its own seed.
            (Conditioning::Prefix, Order::Parallel { .. }) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(u64::MAX);
                shuffled(positions, &mut random)
            }
        };
        let (known, asked): (Vec<u32>, Vec<u32>) = visited
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
    fn known_ids_come_first() {
        let canvas = canvas();
        assert_eq!((canvas.asked(), canvas.whole()), (2, None));
        let visited = |conditioning: Conditioning, order| conditioning.order(&canvas, order, 3);
        assert_eq!(visited(Conditioning::Prefix, Order::Raster), [1, 3, 0, 2]);
        assert_eq!(
            visited(Conditioning::TeacherForced, Order::Raster),
            [0, 1, 2, 3]
        );
        let parallel = Order::Parallel { steps: 2 };
        assert_eq!(visited(Conditioning::TeacherForced, parallel), [0, 1, 2, 3]);
        let mut shuffled = visited(Conditioning::Prefix, parallel);
        assert_eq!(shuffled, visited(Conditioning::Prefix, parallel));
        shuffled[..2].sort_unstable();
        shuffled[2..].sort_unstable();
        assert_eq!(shuffled, [1, 3, 0, 2]);
    }
}
