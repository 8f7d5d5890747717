//! Published checkers as a guard asks them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use impasto_safety::{Category, Policy};
use serde::Serialize;

use crate::image::Image;
use crate::import::safety::{self as published, PublishedChecker};
use crate::models::clip::Normalisation;
use crate::models::safety_checker::ConceptScores;
use crate::rank::{numbers, rows};
use crate::{Error, Result};

/// How much of a category a picture has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureScores {
    /// The category.
    pub category: Category,
    /// 0 to 1; what counts as how much is the checker's.
    pub score: f32,
    /// Whether the checker decides by itself that the picture belongs to the category.
    pub flagged: Option<bool>,
    /// What was looked for.
    pub reason: String,
}

/// Looks at pictures.
pub trait PictureChecker: Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Scores of each picture.
    ///
    /// # Errors
    /// Where a picture can't be scaled, or the numbers are not finite.
    fn check(&self, pictures: &[Image]) -> Result<Vec<Vec<PictureScores>>>;
}

/// A published checker with what a policy says of it.
#[derive(Debug)]
pub struct Checker {
    name: String,
    checker: PublishedChecker,
    adjustment: f32,
    /// The category of each label of a classifier.
    labels: Vec<Option<Category>>,
}

/// Pictures in one pass.
const BATCH: usize = 8;

/// Labels of classifiers that are well known.
const LABELS: [(&str, Option<Category>); 15] = [
    ("nsfw", Some(Category::Sexual)),
    ("porn", Some(Category::Sexual)),
    ("hentai", Some(Category::Sexual)),
    ("sexy", Some(Category::Sexual)),
    ("sexual", Some(Category::Sexual)),
    ("explicit", Some(Category::Sexual)),
    ("nude", Some(Category::Sexual)),
    ("violence", Some(Category::Violence)),
    ("violent", Some(Category::Violence)),
    ("gore", Some(Category::ViolenceGraphic)),
    ("normal", None),
    ("sfw", None),
    ("safe", None),
    ("neutral", None),
    ("drawings", None),
];

impl Checker {
    /// Loads a folder onto `device`.
    ///
    /// # Errors
    /// Where it holds no checker, or one of whose labels no category is known.
    pub fn load(folder: &Path, policy: &Policy, device: &Device) -> Result<Self> {
        let (checker, _) = published::load(folder, device)?;
        let labels = match &checker {
            PublishedChecker::Concepts { .. } => Vec::new(),
            PublishedChecker::Classifier { model, .. } => {
                categories(folder, &model.config().labels, &policy.pictures.labels)?
            }
        };
        Ok(Checker {
            name: crate::import::name_of(folder),
            checker,
            adjustment: policy.pictures.adjustment,
            labels,
        })
    }
}

/// The category of each label: what the policy says, else what is usual.
fn categories(
    folder: &Path,
    labels: &[String],
    named: &BTreeMap<String, Category>,
) -> Result<Vec<Option<Category>>> {
    if let Some(unknown) = named.keys().find(|name| !labels.contains(name)) {
        let reason = format!(
            "has no label {unknown:?}, which the policy names; its labels: {}",
            labels.join(", ")
        );
        return Err(Error::bad_file(folder, reason));
    }
    let usual = |label: &String| {
        let label = label.to_lowercase();
        LABELS
            .iter()
            .find(|(name, _)| *name == label)
            .map(|(_, category)| *category)
    };
    let categories: Vec<Option<Category>> = labels
        .iter()
        .map(|label| {
            named
                .get(label)
                .copied()
                .map(Some)
                .or_else(|| usual(label))
                .flatten()
        })
        .collect();
    if categories.iter().all(Option::is_none) {
        let reason = format!(
            "has the labels {}, of which none is known; expected pictures.labels in the policy, with the category of each",
            labels.join(", ")
        );
        return Err(Error::bad_file(folder, reason));
    }
    Ok(categories)
}

impl PictureChecker for Checker {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, pictures: &[Image]) -> Result<Vec<Vec<PictureScores>>> {
        let mut all = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(BATCH) {
            match &self.checker {
                PublishedChecker::Concepts {
                    model,
                    normalisation,
                } => {
                    let size = model.config().image.image_size;
                    let square = |picture: &Image| picture.fit_square_bicubic(size);
                    let device = model.device();
                    let pixels = pixels(pictures, square, normalisation, &device)?;
                    all.extend(
                        model
                            .scores(pixels, self.adjustment)?
                            .iter()
                            .map(of_concepts),
                    );
                }
                PublishedChecker::Classifier {
                    model,
                    filter,
                    normalisation,
                } => {
                    let size = model.config().image_size;
                    let square = |picture: &Image| picture.squash(size, *filter);
                    let pixels = pixels(pictures, square, normalisation, &model.device())?;
                    let labels = &model.config().labels;
                    for shares in model.probabilities(pixels)? {
                        all.push(of_shares(&shares, labels, &self.labels));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// Numbers of pictures in the form that a model reads.
fn pixels(
    pictures: &[Image],
    square: impl Fn(&Image) -> Result<Image>,
    normalisation: &Normalisation,
    device: &Device,
) -> Result<Tensor<4>> {
    let mut values = Vec::new();
    let mut side = 0;
    for picture in pictures {
        let picture = square(picture)?;
        side = picture.width;
        values.extend(normalisation.apply(&picture));
    }
    let data = TensorData::new(values, [pictures.len(), 3, side, side]);
    Ok(Tensor::from_data(data, device))
}

/// A score of 0.5 is the threshold; what is beyond it counts as it is. The special concepts are of children (Rando et al.
/// 2022, arXiv:2210.04610, section 2).
fn of_concepts(scores: &ConceptScores) -> Vec<PictureScores> {
    let score = (0.5 + scores.highest()).clamp(0.0, 1.0);
    let flagged = scores.is_flagged();
    let found = scores.concepts.iter().enumerate();
    let found: Vec<String> = found
        .filter(|(_, score)| **score > 0.0)
        .map(|(number, score)| format!("concept {number} by {score:.3}"))
        .collect();
    let of = |category, flagged: bool| PictureScores {
        category,
        score: if flagged {
            score.max(0.5)
        } else {
            score.min(0.5)
        },
        flagged: Some(flagged),
        reason: found.join(", "),
    };
    let minors = of(Category::SexualMinors, flagged && scores.is_special());
    vec![of(Category::Sexual, flagged), minors]
}

/// The probability of a category is that of all its labels.
fn of_shares(
    shares: &[f32],
    labels: &[String],
    categories: &[Option<Category>],
) -> Vec<PictureScores> {
    let mut scores: BTreeMap<Category, (f32, Vec<String>)> = BTreeMap::new();
    for ((share, label), category) in shares.iter().zip(labels).zip(categories) {
        if let Some(category) = category {
            let (sum, reasons) = scores.entry(*category).or_default();
            *sum += share;
            reasons.push(format!("{label} {share:.3}"));
        }
    }
    let scores = scores.into_iter();
    scores
        .map(|(category, (score, reasons))| PictureScores {
            category,
            score: score.clamp(0.0, 1.0),
            flagged: None,
            reason: reasons.join(", "),
        })
        .collect()
}

impl crate::models::SafetyChecker {
    /// What it makes of pictures, with `adjustment` added to its scores.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    pub fn scores(&self, pixels: Tensor<4>, adjustment: f32) -> Result<Vec<ConceptScores>> {
        let (special, concepts) = self.cosines(pixels);
        let (special_thresholds, thresholds) = self.thresholds();
        let special_thresholds = numbers(special_thresholds.unsqueeze())?;
        let thresholds = numbers(thresholds.unsqueeze())?;
        let (special, concepts) = (rows(special)?, rows(concepts)?);
        if special
            .iter()
            .chain(&concepts)
            .flatten()
            .any(|cosine| !cosine.is_finite())
        {
            return Err(Error::NonFinite {
                what: "cosine",
                detail: "of a picture and a concept".into(),
            });
        }
        let both = special.iter().zip(&concepts);
        let scores = both.map(|(special, concepts)| {
            ConceptScores::of(
                (special, &special_thresholds),
                (concepts, &thresholds),
                adjustment,
            )
        });
        Ok(scores.collect())
    }
}

impl crate::models::Vit {
    /// The probability of each label, picture after picture.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    pub fn probabilities(&self, pixels: Tensor<4>) -> Result<Vec<Vec<f32>>> {
        let shares = rows(burn::tensor::activation::softmax(self.forward(pixels), 1))?;
        match shares.iter().flatten().all(|share| share.is_finite()) {
            true => Ok(shares),
            false => Err(Error::NonFinite {
                what: "probability",
                detail: "of a label of a picture".into(),
            }),
        }
    }
}
