//! The joint sequence: text parts and image parts, and the orders in which a picture's ids can come.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A stretch of the joint sequence for a whole batch, row after row.
#[derive(Clone, Debug)]
pub enum Part {
    /// Text ids; the first stands at place `start` of the text.
    Text {
        /// `[batch, n]`.
        ids: Vec<u32>,
        /// Place of the first one.
        start: usize,
    },
    /// Image inputs. `codebook_size` as an id is the start of the picture, `grid²` as a position is none.
    Image {
        /// `[batch, n]`.
        ids: Vec<u32>,
        /// Where each id stands, `[batch, n]`.
        own: Vec<u32>,
        /// Which position each has to predict, `[batch, n]`.
        target: Vec<u32>,
    },
}

impl Part {
    /// All ids of the batch.
    pub fn len(&self) -> usize {
        match self {
            Part::Text { ids, .. } | Part::Image { ids, .. } => ids.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The inputs for a batch of pictures: the start, then each picture's ids in its own order.
/// `whole` adds the last id, which predicts nothing (needed where something follows the picture).
///
/// `image_ids` are row-major pictures, `orders` permutations of their positions, one for each.
pub fn image_part(
    image_ids: &[Vec<u32>],
    orders: &[Vec<u32>],
    codebook_size: usize,
    whole: bool,
) -> Part {
    let mut ids = Vec::new();
    let mut own = Vec::new();
    let mut target = Vec::new();
    for (picture, order) in image_ids.iter().zip(orders) {
        let positions = order.len() as u32;
        let inputs = if whole {
            order.len()
        } else {
            order.len().saturating_sub(1)
        };
        ids.push(codebook_size as u32);
        own.push(positions);
        target.push(order[0]);
        for (i, &position) in order.iter().take(inputs).enumerate() {
            ids.push(picture[position as usize]);
            own.push(position);
            target.push(order.get(i + 1).copied().unwrap_or(positions));
        }
    }
    Part::Image { ids, own, target }
}

/// How the picture's tokens are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Order {
    /// Row after row, one token a pass: the highest quality.
    #[default]
    Raster,
    /// All tokens in this many passes, in random order, a growing number a pass.
    Parallel {
        /// Passes.
        steps: usize,
    },
    /// All tokens in this many passes: each draws all that are masked, and keeps the most confident ones.
    Confidence {
        /// Passes.
        steps: usize,
    },
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Raster => write!(f, "raster"),
            Order::Parallel { steps } => write!(f, "parallel:{steps}"),
            Order::Confidence { steps } => write!(f, "confidence:{steps}"),
        }
    }
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "order",
                format!("expected raster, parallel:STEPS or confidence:STEPS, got \"{text}\""),
            )
        };
        if text == "raster" {
            return Ok(Order::Raster);
        }
        let (kind, steps) = text.split_once(':').ok_or_else(bad)?;
        let steps = match steps.parse() {
            Ok(steps) if steps > 0 => steps,
            _ => return Err(bad()),
        };
        match kind {
            "parallel" => Ok(Order::Parallel { steps }),
            "confidence" => Ok(Order::Confidence { steps }),
            _ => Err(bad()),
        }
    }
}

impl From<Order> for String {
    fn from(order: Order) -> String {
        order.to_string()
    }
}

impl TryFrom<String> for Order {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Row after row.
pub fn raster(positions: usize) -> Vec<u32> {
    (0..positions as u32).collect()
}

/// A random permutation (Fisher–Yates).
pub fn shuffled(positions: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut order = raster(positions);
    for i in (1..positions).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}

/// Row after row, but for a random rectangle that comes last: the order for a picture whose hole is to be filled.
pub fn around_hole(grid: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut span = || {
        let length = rng.random_range(1..=grid);
        let start = rng.random_range(0..=grid - length);
        start..start + length
    };
    let (rows, columns) = (span(), span());
    let in_hole = |position: &u32| {
        let position = *position as usize;
        rows.contains(&(position / grid)) && columns.contains(&(position % grid))
    };
    let (hole, known): (Vec<u32>, Vec<u32>) = raster(grid * grid).into_iter().partition(in_hole);
    [known, hole].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_asks_for_the_next_position_of_its_order() {
        let Part::Image { ids, own, target } =
            image_part(&[vec![7, 8, 9, 6]], &[vec![2, 0, 3, 1]], 16, false)
        else {
            panic!("not an image part")
        };
        assert_eq!(ids, [16, 9, 7, 6]);
        assert_eq!(own, [4, 2, 0, 3]);
        assert_eq!(target, [2, 0, 3, 1]);
    }

    #[test]
    fn holes_come_last_and_row_after_row() {
        use rand::SeedableRng;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let order = around_hole(4, &mut rng);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, raster(16));
            // At most one step back, from what is known to the hole.
            let back = order.windows(2).filter(|pair| pair[0] > pair[1]);
            assert!(back.count() <= 1, "{order:?}");
            let hole = order.windows(2).position(|pair| pair[0] > pair[1]);
            lengths.insert(hole.map(|at| 15 - at));
        }
        assert!(lengths.len() > 5, "{lengths:?}");
    }

    #[test]
    fn orders_are_parsed_and_printed_alike() {
        for text in ["raster", "parallel:12", "confidence:8"] {
            assert_eq!(
                text.parse::<Order>()
                    .map(|order| order.to_string())
                    .ok()
                    .as_deref(),
                Some(text)
            );
        }
        for text in ["", "parallel", "parallel:0", "parallel:x", "spiral"] {
            assert!(text.parse::<Order>().is_err(), "{text}");
        }
    }
}
