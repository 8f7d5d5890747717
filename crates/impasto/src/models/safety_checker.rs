//! `SafetyChecker`: the image tower of a CLIP and concepts in its space, each with a threshold (`StableDiffusionSafetyChecker`
//! of diffusers' `pipelines/stable_diffusion/safety_checker.py`; what it finds and misses: Rando et al. 2022,
//! arXiv:2210.04610).
//!
//! # Parameters
//! | ours | shape | diffusers |
//! |---|---|---|
//! | `image.…` | | `vision_model.…`, `visual_projection` |
//! | `concepts` | `[concepts, projection_width]` | `concept_embeds` |
//! | `thresholds` | `[concepts]` | `concept_embeds_weights` |
//! | `special_concepts` | `[special, projection_width]` | `special_care_embeds` |
//! | `special_thresholds` | `[special]` | `special_care_embeds_weights` |

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::clip::{ClipImageConfig, ImageTower, unit};
use crate::nn::Init;
use crate::{Error, Result};

/// The sizes of a [`SafetyChecker`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafetyCheckerConfig {
    /// The tower.
    pub image: ClipImageConfig,
    /// Concepts; 17 in the published file.
    pub concepts: usize,
    /// Concepts that make all others stricter; 3 in the published file.
    pub special_concepts: usize,
}

impl SafetyCheckerConfig {
    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        self.image.validate()?;
        for (name, value) in [
            ("concepts", self.concepts),
            ("special_concepts", self.special_concepts),
        ] {
            if value == 0 || value > 1 << 12 {
                let reason = format!("{name} is {value}, expected 1 to 4096");
                return Err(Error::invalid("safety checker config", reason));
            }
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out.
    pub fn parameters(&self) -> u64 {
        let concepts = (self.concepts + self.special_concepts) as u64;
        self.image.parameters() + concepts * self.image.projection_width as u64
    }

    /// A checker with fresh weights, which finds nothing in particular.
    pub fn init(&self, init: &mut Init) -> SafetyChecker {
        let width = self.image.projection_width;
        SafetyChecker {
            image: self.image.init(init),
            concepts: init.normal([self.concepts, width], 1.0),
            thresholds: init.constant([self.concepts], 1.0),
            special_concepts: init.normal([self.special_concepts, width], 1.0),
            special_thresholds: init.constant([self.special_concepts], 1.0),
            config: self.clone(),
        }
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct SafetyChecker {
    image: ImageTower,
    concepts: Param<Tensor<2>>,
    thresholds: Param<Tensor<1>>,
    special_concepts: Param<Tensor<2>>,
    special_thresholds: Param<Tensor<1>>,
    #[module(skip)]
    config: SafetyCheckerConfig,
}

/// What a checker makes of one picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConceptScores {
    /// Of each special concept: cosine − threshold + adjustment, to three digits.
    pub special: Vec<f32>,
    /// Of each concept the same.
    pub concepts: Vec<f32>,
}

/// What is added after a special concept was found.
const ADJUSTMENT: f32 = 0.01;

impl ConceptScores {
    /// The reference's decision from cosines and thresholds; its `adjustment` is 0 in the published code. A special
    /// concept that is found makes those after it, and all others, stricter. Scores have three digits before they are
    /// compared with zero, as there.
    pub fn of(
        (special, special_thresholds): (&[f32], &[f32]),
        (concepts, thresholds): (&[f32], &[f32]),
        mut adjustment: f32,
    ) -> Self {
        let rounded = |score: f32| (score * 1000.0).round_ties_even() / 1000.0;
        let special = special.iter().zip(special_thresholds);
        let special = special
            .map(|(cosine, threshold)| {
                let score = rounded(cosine - threshold + adjustment);
                if score > 0.0 {
                    adjustment = adjustment.max(ADJUSTMENT);
                }
                score
            })
            .collect();
        let concepts = concepts.iter().zip(thresholds);
        let concepts = concepts
            .map(|(cosine, threshold)| rounded(cosine - threshold + adjustment))
            .collect();
        ConceptScores { special, concepts }
    }

    /// Whether a concept was found.
    pub fn is_flagged(&self) -> bool {
        self.concepts.iter().any(|score| *score > 0.0)
    }

    /// Whether a special concept was found.
    pub fn is_special(&self) -> bool {
        self.special.iter().any(|score| *score > 0.0)
    }

    /// The highest score of a concept.
    pub fn highest(&self) -> f32 {
        self.concepts
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max)
    }
}

impl SafetyChecker {
    /// The sizes.
    pub fn config(&self) -> &SafetyCheckerConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.thresholds.val().device()
    }

    /// Cosines with the special concepts and with the concepts.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    /// - returns: `[batch, special_concepts]`, `[batch, concepts]`
    pub fn cosines(&self, pixels: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let embedded = unit(self.image.forward(pixels, &self.config.image));
        let with =
            |concepts: &Param<Tensor<2>>| embedded.clone().matmul(unit(concepts.val()).transpose());
        (with(&self.special_concepts), with(&self.concepts))
    }

    /// The thresholds of the special concepts and of the concepts.
    pub fn thresholds(&self) -> (Tensor<1>, Tensor<1>) {
        (self.special_thresholds.val(), self.thresholds.val())
    }
}
