//! CLIP as `transformers` saves it (`modeling_clip.py`, `configuration_clip.py`).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{check_size, json, preprocessing};
use crate::error::Reason;
use crate::import::mapping::{ImportReport, Mapping};
use crate::import::weights;
use crate::models::clip::{Activation, Clip, ClipConfig, ClipImageConfig, EndOfText, TowerConfig};
use crate::nn::Init;
use crate::{Error, Result};

const CONFIG: &str = "config.json";

/// The architecture of Stable Diffusion's checker of pictures, whose config is one of a CLIP otherwise.
pub(in crate::import) const CHECKER: &str = "StableDiffusionSafetyChecker";

/// The weight files that may be there, the best first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

#[derive(Deserialize)]
struct HuggingFaceConfig {
    #[serde(default)]
    model_type: String,
    architectures: Option<Vec<String>>,
    #[serde(default = "projection_dim")]
    projection_dim: usize,
    text_config: Option<Map<String, Value>>,
    /// Old files have what differs from the defaults here, and it counts.
    text_config_dict: Option<Map<String, Value>>,
    vision_config: Option<Map<String, Value>>,
    vision_config_dict: Option<Map<String, Value>>,
}

fn projection_dim() -> usize {
    512
}

/// Fields and defaults of `CLIPTextConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Text {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    eos_token_id: u32,
}

impl Default for Text {
    fn default() -> Self {
        Text {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            vocab_size: 49408,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// Fields and defaults of `CLIPVisionConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct VisionFields {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for VisionFields {
    fn default() -> Self {
        VisionFields {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// Whether `folder` has a config of a CLIP of `transformers`; that of a checker is one with another architecture.
pub fn is_folder(folder: &Path) -> bool {
    json::<HuggingFaceConfig>(&folder.join(CONFIG)).is_ok_and(|config| {
        let mut architectures = config.architectures.iter().flatten();
        let is_checker = architectures.any(|name| name == CHECKER);
        config.model_type == "clip" && !is_checker
    })
}

/// The weights of `folder`.
pub fn weights(folder: &Path) -> Option<PathBuf> {
    let mut paths = WEIGHTS.iter().map(|name| folder.join(name));
    paths.find(|path| path.is_file())
}

/// Loads a folder.
pub fn load(folder: &Path, device: &Device) -> Result<(Clip, ImportReport)> {
    let config = config(folder)?;
    let path = weights(folder).ok_or_else(|| Error::Missing {
        what: "weights",
        path: folder.join(WEIGHTS[0]),
        hint: format!("expected one of {}", WEIGHTS.join(", ")).into(),
    })?;
    weights::read(&path, |_, tensors| {
        check_size(&folder.join(CONFIG), &config, &tensors)?;
        let clip = config.init(&mut Init::empty(device));
        let mut mapping = Mapping::new(&path, tensors, &clip);
        map(&config, &mut mapping)?;
        mapping.finish(clip)
    })
}

fn config(folder: &Path) -> Result<ClipConfig> {
    let path = folder.join(CONFIG);
    let bad = |reason: Reason| Error::bad_file(&path, reason);
    let config: HuggingFaceConfig = json(&path)?;
    let text: Text =
        overlaid("text_config", config.text_config, config.text_config_dict).map_err(bad)?;
    let vision: VisionFields = overlaid(
        "vision_config",
        config.vision_config,
        config.vision_config_dict,
    )
    .map_err(bad)?;
    if text.layer_norm_eps != 1e-5 || vision.layer_norm_eps != 1e-5 {
        return Err(bad(format!(
            "layer_norm_eps is {} and {}, expected 1e-5",
            text.layer_norm_eps, vision.layer_norm_eps
        )
        .into()));
    }
    if vision.num_channels != 3 {
        return Err(bad(format!(
            "num_channels is {}, expected 3",
            vision.num_channels
        )
        .into()));
    }
    let activation = match (text.hidden_act.as_str(), vision.hidden_act.as_str()) {
        ("quick_gelu", "quick_gelu") => Activation::QuickGelu,
        ("gelu", "gelu") => Activation::Gelu,
        (text, vision) => {
            return Err(bad(format!(
                "hidden_act is {text:?} and {vision:?}, expected \"quick_gelu\" or \"gelu\" for both"
            ).into()));
        }
    };
    Ok(ClipConfig {
        image_size: vision.image_size,
        patch_size: vision.patch_size,
        image: TowerConfig {
            width: vision.hidden_size,
            n_layers: vision.num_hidden_layers,
            n_heads: vision.num_attention_heads,
            hidden: vision.intermediate_size,
        },
        text_vocab_size: text.vocab_size,
        text_length: text.max_position_embeddings,
        text: TowerConfig {
            width: text.hidden_size,
            n_layers: text.num_hidden_layers,
            n_heads: text.num_attention_heads,
            hidden: text.intermediate_size,
        },
        projection_width: config.projection_dim,
        activation,
        // Old configs hold 2, which is wrong and means what OpenAI does.
        end_of_text: match text.eos_token_id {
            2 => EndOfText::HighestId,
            id => EndOfText::FirstOf(id),
        },
        logit_bias: false,
        normalisation: preprocessing::read(folder, vision.image_size)?,
    })
}

/// Reads the tower of pictures of a config.
pub(in crate::import) fn vision(path: &Path) -> Result<ClipImageConfig> {
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let config: HuggingFaceConfig = json(path)?;
    let vision: VisionFields = overlaid(
        "vision_config",
        config.vision_config,
        config.vision_config_dict,
    )
    .map_err(bad)?;
    if vision.layer_norm_eps != 1e-5 || vision.num_channels != 3 {
        let reason = format!(
            "layer_norm_eps is {} and num_channels {}, expected 1e-5 and 3",
            vision.layer_norm_eps, vision.num_channels
        );
        return Err(bad(reason.into()));
    }
    let activation = match vision.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => {
            let reason = format!("hidden_act is {other:?}, expected \"quick_gelu\" or \"gelu\"");
            return Err(bad(reason.into()));
        }
    };
    Ok(ClipImageConfig {
        image_size: vision.image_size,
        patch_size: vision.patch_size,
        tower: TowerConfig {
            width: vision.hidden_size,
            n_layers: vision.num_hidden_layers,
            n_heads: vision.num_attention_heads,
            hidden: vision.intermediate_size,
        },
        projection_width: config.projection_dim,
        activation,
    })
}

fn overlaid<T: for<'de> Deserialize<'de>>(
    name: &str,
    base: Option<Map<String, Value>>,
    over: Option<Map<String, Value>>,
) -> Result<T, Reason> {
    let mut fields = base.unwrap_or_default();
    fields.extend(over.unwrap_or_default());
    // Nothing is as good as not there.
    fields.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(fields)).map_err(|e| Reason::because(name, e))
}

fn map(config: &ClipConfig, mapping: &mut Mapping<'_>) -> Result<()> {
    map_image(mapping, config.image.n_layers)?;
    mapping.same("logit_scale", "logit_scale")?;
    map_text(mapping, config.text.n_layers)
}

/// The tower of pictures, whose names begin with `image.` here: of a CLIP, or alone.
pub(in crate::import) fn map_image(mapping: &mut Mapping<'_>, n_layers: usize) -> Result<()> {
    // Positions counted from zero, which old versions saved.
    mapping.ignore("vision_model.embeddings.position_ids");
    let image = "vision_model.embeddings";
    mapping.same("image.class_embedding", &format!("{image}.class_embedding"))?;
    mapping.transposed(
        "image.patch_embedding.weight",
        &format!("{image}.patch_embedding.weight"),
    )?;
    mapping.same(
        "image.position_embedding",
        &format!("{image}.position_embedding.weight"),
    )?;
    for (ours, theirs) in [
        ("image.pre_norm", "vision_model.pre_layrnorm"),
        ("image.post_norm", "vision_model.post_layernorm"),
    ] {
        for part in ["weight", "bias"] {
            mapping.same(&format!("{ours}.{part}"), &format!("{theirs}.{part}"))?;
        }
    }
    mapping.transposed("image.projection.weight", "visual_projection.weight")?;
    map_blocks(mapping, "image", "vision_model", n_layers)
}

/// The tower of captions, whose names begin with `text.` here: of a CLIP, or alone (`CLIPTextModelWithProjection`).
pub(in crate::import) fn map_text(mapping: &mut Mapping<'_>, n_layers: usize) -> Result<()> {
    mapping.ignore("text_model.embeddings.position_ids");
    let text = "text_model.embeddings";
    mapping.same(
        "text.token_embedding.weight",
        &format!("{text}.token_embedding.weight"),
    )?;
    mapping.same(
        "text.position_embedding",
        &format!("{text}.position_embedding.weight"),
    )?;
    for part in ["weight", "bias"] {
        mapping.same(
            &format!("text.final_norm.{part}"),
            &format!("text_model.final_layer_norm.{part}"),
        )?;
    }
    mapping.transposed("text.projection.weight", "text_projection.weight")?;
    map_blocks(mapping, "text", "text_model", n_layers)
}

fn map_blocks(mapping: &mut Mapping<'_>, ours: &str, theirs: &str, n_layers: usize) -> Result<()> {
    for i in 0..n_layers {
        let ours = format!("{ours}.blocks.{i}");
        let theirs = format!("{theirs}.encoder.layers.{i}");
        for part in ["weight", "bias"] {
            let name = |name: &str| format!("{theirs}.{name}.{part}");
            for (ours_part, theirs_part) in [
                ("attention_norm", "layer_norm1"),
                ("mlp_norm", "layer_norm2"),
            ] {
                mapping.same(&format!("{ours}.{ours_part}.{part}"), &name(theirs_part))?;
            }
            let qkv = ["q", "k", "v"].map(|which| name(&format!("self_attn.{which}_proj")));
            mapping.side_by_side(
                &format!("{ours}.qkv.{part}"),
                &qkv.each_ref().map(String::as_str),
            )?;
            for (ours_part, theirs_part) in [
                ("attention_out", "self_attn.out_proj"),
                ("up", "mlp.fc1"),
                ("down", "mlp.fc2"),
            ] {
                mapping.transposed(&format!("{ours}.{ours_part}.{part}"), &name(theirs_part))?;
            }
        }
    }
    Ok(())
}
