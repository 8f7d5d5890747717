//! Classifiers as transformers saves them (`modeling_vit.py`, `image_processing_vit.py`).

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::Value;

use super::{CONFIG, PublishedChecker};
use crate::checkpoint::config_file::check_numbers;
use crate::error::Reason;
use crate::image::Filter;
use crate::import::mapping::{ImportReport, Mapping};
use crate::import::weights::WeightFolder;
use crate::models::VitConfig;
use crate::models::clip::{Normalisation, TowerConfig};
use crate::nn::Init;
use crate::{Error, Result, files};

/// Fields and defaults of `ViTConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    id2label: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            id2label: BTreeMap::new(),
        }
    }
}

/// What `preprocessor_config.json` may say; as the image processor has it where it does not.
#[derive(Deserialize)]
#[serde(default)]
struct Preprocessor {
    size: Value,
    resample: Option<u8>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_center_crop: Option<bool>,
    rescale_factor: Option<f64>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for Preprocessor {
    fn default() -> Self {
        Preprocessor {
            size: Value::Null,
            resample: None,
            do_resize: None,
            do_rescale: None,
            do_normalize: None,
            do_center_crop: None,
            rescale_factor: None,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    serde_json::from_slice(&files::read(path)?).map_err(|e| Error::bad_file(path, Reason::of(e)))
}

pub(super) fn load(
    folder: &Path,
    weights: &WeightFolder,
    device: &Device,
) -> Result<(PublishedChecker, ImportReport)> {
    let path = folder.join(CONFIG);
    let config = config(&path)?;
    let (filter, normalisation) = preprocessing(folder, config.image_size)?;
    check_numbers(&path, config.parameters(), weights.bytes())?;
    weights.read(|tensors| {
        let has_bias = tensors.contains_key("vit.encoder.layer.0.attention.attention.query.bias");
        let model = config.init(&mut Init::empty(device));
        let mut mapping = Mapping::new(weights.path(), tensors, &model);
        map(&config, has_bias, &mut mapping)?;
        let (model, report) = mapping.finish(model)?;
        let checker = PublishedChecker::Classifier {
            model: Box::new(model),
            filter,
            normalisation,
        };
        Ok((checker, report))
    })
}

fn config(path: &Path) -> Result<VitConfig> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let found: Config = json(path)?;
    if found.hidden_act != "gelu" || found.num_channels != 3 {
        return Err(bad(format!(
            "hidden_act is {:?} and num_channels {}, expected \"gelu\" and 3",
            found.hidden_act, found.num_channels
        )));
    }
    let labels = found.id2label.len();
    let labels = (0..labels).map(|id| found.id2label.get(&id.to_string()).cloned());
    let labels = labels
        .collect::<Option<Vec<String>>>()
        .filter(|labels| !labels.is_empty());
    let config = VitConfig {
        image_size: found.image_size,
        patch_size: found.patch_size,
        tower: TowerConfig {
            width: found.hidden_size,
            n_layers: found.num_hidden_layers,
            n_heads: found.num_attention_heads,
            hidden: found.intermediate_size,
        },
        labels: labels.ok_or_else(|| {
            bad("id2label has no labels numbered from 0, expected those of a classifier".into())
        })?,
        norm_epsilon: found.layer_norm_eps,
    };
    config
        .validate()
        .map_err(|e| Error::bad_file(path, Reason::of(e)))?;
    Ok(config)
}

fn preprocessing(folder: &Path, image_size: usize) -> Result<(Filter, Normalisation)> {
    let path = folder.join("preprocessor_config.json");
    let found: Preprocessor = match path.is_file() {
        true => json(&path)?,
        false => Preprocessor::default(),
    };
    let bad = |reason: String| Err(Error::bad_file(&path, reason));
    let side = |name: &str| found.size.get(name).and_then(Value::as_u64);
    let square = image_size as u64;
    let size = match &found.size {
        Value::Null => true,
        Value::Number(_) => found.size.as_u64() == Some(square),
        _ => (side("height"), side("width")) == (Some(square), Some(square)),
    };
    if !size {
        return bad(format!(
            "size is {}, expected the model's {image_size} by {image_size}",
            found.size
        ));
    }
    for (name, step, expected) in [
        ("do_resize", found.do_resize, true),
        ("do_rescale", found.do_rescale, true),
        ("do_normalize", found.do_normalize, true),
        ("do_center_crop", found.do_center_crop, false),
    ] {
        if step == Some(!expected) {
            return bad(format!("{name} is {}, expected {expected}", !expected));
        }
    }
    if found
        .rescale_factor
        .is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6)
    {
        return bad("rescale_factor is not 1/255".into());
    }
    let filter = match found.resample {
        None | Some(2) => Filter::Bilinear,
        Some(3) => Filter::Bicubic,
        Some(other) => {
            return bad(format!(
                "resample is {other}, expected 2 (bilinear) or 3 (bicubic)"
            ));
        }
    };
    if found
        .image_std
        .iter()
        .any(|std| !(std.is_finite() && *std > 0.0))
        || found.image_mean.iter().any(|mean| !mean.is_finite())
    {
        return bad(
            "image_mean or image_std holds numbers that no picture can be normalised by".into(),
        );
    }
    let normalisation = Normalisation {
        mean: found.image_mean,
        std: found.image_std,
    };
    Ok((filter, normalisation))
}

fn map(config: &VitConfig, has_bias: bool, mapping: &mut Mapping<'_>) -> Result<()> {
    let embeddings = "vit.embeddings";
    mapping.reshaped("class_embedding", &format!("{embeddings}.cls_token"))?;
    mapping.reshaped(
        "position_embedding",
        &format!("{embeddings}.position_embeddings"),
    )?;
    mapping.transposed(
        "patch_embedding.weight",
        &format!("{embeddings}.patch_embeddings.projection.weight"),
    )?;
    mapping.same(
        "patch_embedding.bias",
        &format!("{embeddings}.patch_embeddings.projection.bias"),
    )?;
    for part in ["weight", "bias"] {
        mapping.same(&format!("norm.{part}"), &format!("vit.layernorm.{part}"))?;
        mapping.transposed(&format!("classifier.{part}"), &format!("classifier.{part}"))?;
    }
    for i in 0..config.tower.n_layers {
        let ours = format!("blocks.{i}");
        let theirs = format!("vit.encoder.layer.{i}");
        for part in ["weight", "bias"] {
            let name = |name: &str| format!("{theirs}.{name}.{part}");
            for (ours_part, theirs_part) in [
                ("attention_norm", "layernorm_before"),
                ("mlp_norm", "layernorm_after"),
            ] {
                mapping.same(&format!("{ours}.{ours_part}.{part}"), &name(theirs_part))?;
            }
            if part == "weight" || has_bias {
                let qkv = ["query", "key", "value"]
                    .map(|which| name(&format!("attention.attention.{which}")));
                mapping.side_by_side(
                    &format!("{ours}.qkv.{part}"),
                    &qkv.each_ref().map(String::as_str),
                )?;
            } else {
                // `qkv_bias` is off: biases of zero.
                mapping.zeros(&format!("{ours}.qkv.bias"))?;
            }
            for (ours_part, theirs_part) in [
                ("attention_out", "attention.output.dense"),
                ("up", "intermediate.dense"),
                ("down", "output.dense"),
            ] {
                mapping.transposed(&format!("{ours}.{ours_part}.{part}"), &name(theirs_part))?;
            }
        }
    }
    Ok(())
}
