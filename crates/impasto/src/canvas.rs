//! An image, some of whose ids are known and the rest masked. Generating, editing, completing and varying differ only
//! in what is masked: the same model predicts whichever part is missing.
//!
//! A model that was trained on image ids in random orders (σ-GPT, arXiv:2404.09562) takes the known ids first, as a
//! prefix, wherever they are in the image, and the masked ones follow. A model that was trained in raster order only
//! doesn't support this: its known ids are forced at their positions in raster order ([`Conditioning::TeacherForced`]),
//! and what is below or to the right of a hole is then unknown while the hole is filled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::models::dalle::{Order, raster, shuffled};
use crate::random::RandomStream;
use crate::{Error, Result};

/// An image's ids, known or masked.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// Row-major; `None` is masked.
    pub image_ids: Vec<Option<u32>>,
    /// What else is known about masked ids, such as the pixels of a patch that is half hidden: by position, a value
    /// for each code, added to its logit.
    pub logit_biases: BTreeMap<u32, Vec<f32>>,
}

impl Canvas {
    /// All ids are masked.
    pub fn blank(positions: usize) -> Self {
        Canvas {
            image_ids: vec![None; positions],
            logit_biases: BTreeMap::new(),
        }
    }

    /// A whole image.
    pub fn of(image_ids: &[u32]) -> Self {
        Canvas {
            image_ids: image_ids.iter().map(|&id| Some(id)).collect(),
            logit_biases: BTreeMap::new(),
        }
    }

    /// The first ids of an image; the rest is masked.
    ///
    /// # Errors
    /// Where nothing would be masked.
    pub fn with_prefix(prefix_ids: &[u32], positions: usize) -> Result<Self> {
        if prefix_ids.len() >= positions {
            return Err(Error::invalid(
                "prefix",
                format!(
                    "expected fewer than {positions} ids, got {}",
                    prefix_ids.len()
                ),
            ));
        }
        let mut canvas = Canvas::blank(positions);
        for (known, &id) in canvas.image_ids.iter_mut().zip(prefix_ids) {
            *known = Some(id);
        }
        Ok(canvas)
    }

    /// The same with `positions` masked.
    pub fn masked(mut self, positions: impl IntoIterator<Item = u32>) -> Self {
        for position in positions {
            self.image_ids[position as usize] = None;
        }
        self
    }

    /// How many ids are masked.
    pub fn n_masked(&self) -> usize {
        self.image_ids.iter().filter(|id| id.is_none()).count()
    }

    /// All ids, if all are known.
    pub fn whole(&self) -> Option<Vec<u32>> {
        self.image_ids.iter().copied().collect()
    }

    /// Returns an error that names what does not fit a model with this many positions and codes.
    pub fn check(&self, positions: usize, codes: usize) -> Result<()> {
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
        if let Some((position, bias)) = self.logit_biases.iter().find(|(position, bias)| {
            **position as usize >= positions
                || bias.len() != codes
                || bias.iter().any(|value| !value.is_finite())
        }) {
            return Err(Error::invalid(
                "logit bias",
                format!(
                    "expected {codes} finite values below position {positions}, got {} at {position}",
                    bias.len()
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
    /// the whole ([`crate::engine::image_log_likelihoods`]).
    #[serde(rename = "raster-forced")]
    TeacherForced,
}

impl Conditioning {
    /// The order of all positions for a canvas of this seed.
    pub fn order(self, canvas: &Canvas, order: Order, seed: u64) -> Vec<u32> {
        let positions = canvas.image_ids.len();
        let visited = match (self, order) {
            (Conditioning::TeacherForced, _) => return raster(positions),
            // The order of confidence is known when the ids are.
            (Conditioning::Prefix, Order::Raster | Order::Confidence { .. }) => raster(positions),
            // One order for a batch would tie pictures together: a row's order comes from its own seed.
            (Conditioning::Prefix, Order::Parallel { .. }) => {
                shuffled(positions, &mut RandomStream::Order.of(seed))
            }
        };
        let (known, masked): (Vec<u32>, Vec<u32>) = visited
            .into_iter()
            .partition(|&position| canvas.image_ids[position as usize].is_some());
        [known, masked].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canvas() -> Canvas {
        Canvas::of(&[5, 6, 7, 8]).masked([0, 2])
    }

    #[test]
    fn known_ids_come_first() {
        let canvas = canvas();
        assert_eq!((canvas.n_masked(), canvas.whole()), (2, None));
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
