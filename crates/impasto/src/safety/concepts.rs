//! Concepts in a CLIP's space: what a picture must not show, in words, with the cosine from which it does.
//!
//! A file of concepts is YAML or JSON. The CLIP that ships knows the things of its composed scenes, nothing else: a
//! concept outside of them needs another one (`clip`).

use std::path::Path;

use burn::tensor::Device;
use impasto_safety::Category;
use serde::{Deserialize, Serialize};

use super::pictures::{PictureChecker, PictureScores};
use crate::checkpoint::{EMBEDDED_CLIP, ModelSource};
use crate::error::Reason;
use crate::image::Image;
use crate::rank::{Ranker, rows};
use crate::text::clip::LongCaption;
use crate::{Error, Result, files};

/// Concepts and the CLIP that knows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concepts {
    /// The CLIP's name or folder.
    #[serde(default = "embedded")]
    pub clip: String,
    /// The concepts.
    pub concepts: Vec<Concept>,
}

fn embedded() -> String {
    EMBEDDED_CLIP.to_owned()
}

/// Something that a picture may show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concept {
    /// Its name; for a calibration, the folder of pictures that show it.
    pub name: String,
    /// The category that such a picture belongs to.
    pub category: Category,
    /// What it is in words; their embeddings are averaged.
    pub texts: Vec<String>,
    /// The cosine from which a picture shows it; none before a calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

impl Concepts {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |reason: Reason| Error::bad_file(path, reason);
        let text = files::read_to_string(path)?;
        let concepts: Concepts = serde_saphyr::from_str(&text).map_err(|e| bad(Reason::of(e)))?;
        if concepts.concepts.is_empty() {
            return Err(bad("has no concepts, expected one or more".into()));
        }
        for concept in &concepts.concepts {
            let name = &concept.name;
            let is_name = Path::new(name)
                .file_name()
                .is_some_and(|file| file == name.as_str());
            if !is_name || concept.texts.is_empty() {
                let reason = format!("concept {name:?}: expected a name and one or more texts");
                return Err(bad(reason.into()));
            }
            if concept
                .threshold
                .is_some_and(|threshold| !(-1.0..=1.0).contains(&threshold))
            {
                let reason = format!("concept {name:?}: expected a threshold from -1 to 1");
                return Err(bad(reason.into()));
            }
        }
        Ok(concepts)
    }

    /// The concepts' directions in a CLIP's space: `[concepts][width]`, of length one.
    ///
    /// # Errors
    /// A text that the CLIP can't read.
    pub fn directions(&self, clip: &Ranker) -> Result<Vec<Vec<f32>>> {
        let mut directions = Vec::with_capacity(self.concepts.len());
        for concept in &self.concepts {
            let embedded = rows(
                clip.model
                    .embed_texts(&concept.texts, LongCaption::Refuse)?,
            )?;
            let width = embedded.first().map_or(0, Vec::len);
            let mut sum = vec![0.0f32; width];
            for row in &embedded {
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += value);
            }
            let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
            sum.iter_mut()
                .for_each(|value| *value /= length.max(f32::MIN_POSITIVE));
            directions.push(sum);
        }
        Ok(directions)
    }
}

/// Cosines of pictures and directions: `[pictures][directions]`.
pub(super) fn cosines(
    clip: &Ranker,
    directions: &[Vec<f32>],
    pictures: &[Image],
) -> Result<Vec<Vec<f32>>> {
    let embedded = rows(clip.model.embed_pictures(pictures)?)?;
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let of_picture = |row: &Vec<f32>| {
        directions
            .iter()
            .map(|direction| cosine(row, direction))
            .collect()
    };
    Ok(embedded.iter().map(of_picture).collect())
}

/// Concepts with the CLIP that finds them.
#[derive(Debug)]
pub struct ConceptChecker {
    concepts: Concepts,
    clip: Ranker,
    directions: Vec<Vec<f32>>,
}

impl ConceptChecker {
    /// Loads a file of concepts with thresholds, and its CLIP onto `device`; `find` finds that.
    ///
    /// # Errors
    /// Where a concept has no threshold, or the CLIP can't be loaded.
    pub fn load(
        path: &Path,
        device: &Device,
        find: impl Fn(&str) -> Result<ModelSource>,
    ) -> Result<Self> {
        let concepts = Concepts::load(path)?;
        if let Some(concept) = concepts
            .concepts
            .iter()
            .find(|concept| concept.threshold.is_none())
        {
            let reason = format!("concept {:?} has no threshold", concept.name);
            let hint = "impasto safety calibrate finds it with labelled pictures".to_owned();
            return Err(Error::bad_file(path, reason).with_hint(hint.into()));
        }
        let clip = Ranker::load(&find(&concepts.clip)?, device)?;
        let directions = concepts.directions(&clip)?;
        Ok(ConceptChecker {
            concepts,
            clip,
            directions,
        })
    }
}

impl PictureChecker for ConceptChecker {
    fn name(&self) -> &str {
        &self.concepts.clip
    }

    /// A score of 0.5 is the threshold; what is beyond it counts as it is.
    fn check(&self, pictures: &[Image]) -> Result<Vec<Vec<PictureScores>>> {
        let cosines = cosines(&self.clip, &self.directions, pictures)?;
        let of_picture = |cosines: Vec<f32>| {
            let both = self.concepts.concepts.iter().zip(cosines);
            both.map(|(concept, cosine)| {
                let margin = cosine - concept.threshold.unwrap_or(1.0);
                PictureScores {
                    category: concept.category,
                    score: (0.5 + margin).clamp(0.0, 1.0),
                    flagged: Some(margin >= 0.0),
                    reason: format!("{} by {margin:.3}", concept.name),
                }
            })
            .collect()
        };
        Ok(cosines.into_iter().map(of_picture).collect())
    }
}
