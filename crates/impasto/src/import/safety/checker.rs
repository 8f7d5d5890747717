//! Stable Diffusion's checker as diffusers saves it.

use std::path::Path;

use burn::tensor::Device;

use super::{CONFIG, PublishedChecker};
use crate::checkpoint::config_file::check_numbers;
use crate::error::Reason;
use crate::import::clip::hugging_face::{map_image, vision};
use crate::import::clip::preprocessing;
use crate::import::mapping::{ImportReport, Mapping};
use crate::import::weights::{Tensors, WeightFolder};
use crate::models::SafetyCheckerConfig;
use crate::nn::Init;
use crate::{Error, Result};

/// What precedes the tower's names in files that were saved while `CLIPVisionModel` had its model within.
const NESTED: &str = "vision_model.vision_model.";

pub(super) fn load(
    folder: &Path,
    weights: &WeightFolder,
    device: &Device,
) -> Result<(PublishedChecker, ImportReport)> {
    let path = folder.join(CONFIG);
    let bad = |reason: Reason| Error::bad_file(&path, reason);
    let image = vision(&path)?;
    weights.read(|tensors| {
        let tensors = flat(tensors);
        // The published file's config does not say how many there are.
        let count = |name: &str| {
            let tensor = tensors.get(name);
            let shape = tensor.map(|tensor| tensor.shape().to_vec());
            match shape.as_deref() {
                Some([count, _]) => Ok(*count),
                Some(shape) => Err(Error::bad_file(
                    weights.path(),
                    format!("{name} has shape {shape:?}, expected concepts and a width"),
                )),
                None => Err(Error::bad_file(weights.path(), format!("lacks {name}"))),
            }
        };
        let config = SafetyCheckerConfig {
            image,
            concepts: count("concept_embeds")?,
            special_concepts: count("special_care_embeds")?,
        };
        config.validate().map_err(|e| bad(Reason::of(e)))?;
        check_numbers(&path, config.parameters(), weights.bytes())?;
        let normalisation = preprocessing::read(folder, config.image.image_size)?;
        let model = config.init(&mut Init::empty(device));
        let mut mapping = Mapping::new(weights.path(), tensors, &model);
        map_image(&mut mapping, config.image.tower.n_layers)?;
        for (ours, theirs) in [
            ("concepts", "concept_embeds"),
            ("thresholds", "concept_embeds_weights"),
            ("special_concepts", "special_care_embeds"),
            ("special_thresholds", "special_care_embeds_weights"),
        ] {
            mapping.same(ours, theirs)?;
        }
        let (model, report) = mapping.finish(model)?;
        let checker = PublishedChecker::Concepts {
            model: Box::new(model),
            normalisation,
        };
        Ok((checker, report))
    })
}

/// Names as transformers 5 has them.
fn flat(tensors: Tensors<'_>) -> Tensors<'_> {
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let flat = name
            .strip_prefix(NESTED)
            .map(|rest| format!("vision_model.{rest}"));
        (flat.unwrap_or(name), tensor)
    });
    renamed.collect()
}
