//! The sizes of a published Janus: `config.json` of either form, and what the tensors' shapes say where it is silent.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::names::{Form, Names};
use crate::error::Reason;
use crate::import::taming;
use crate::import::weights::Tensors;
use crate::models::janus::{JanusConfig, VisionConfig};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::{Error, Result, files};

pub(super) const CONFIG: &str = "config.json";

/// The form that a `config.json` says it is of.
pub(super) fn form(config: &[u8]) -> Option<Form> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind: Kind = serde_json::from_slice(config).ok()?;
    match kind.model_type?.as_str() {
        "janus" => Some(Form::HuggingFace),
        "multi_modality" => Some(Form::Original),
        _ => None,
    }
}

/// `config.json` of either form; the other's fields are not there.
#[derive(Deserialize)]
pub(super) struct PublishedConfig {
    #[serde(alias = "language_config")]
    text_config: Llama,
    #[serde(default)]
    vision_config: Vision,
    #[serde(default)]
    tie_word_embeddings: bool,
}

/// Fields and defaults of `LlamaConfig`: the original's 7B has little more than the layers.
#[derive(Deserialize)]
#[serde(default)]
struct Llama {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Rope>,
    attention_bias: bool,
    mlp_bias: bool,
}

impl Default for Llama {
    fn default() -> Self {
        Llama {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            attention_bias: false,
            mlp_bias: false,
        }
    }
}

/// What transformers 5 writes in the place of `rope_theta` and `rope_scaling`.
#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// Fields of `JanusVisionConfig`, and of the original's `vision_config`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Vision {
    num_attention_heads: Option<usize>,
    image_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    use_qk_norm: bool,
    params: VisionParams,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VisionParams {
    image_size: Option<usize>,
    select_layer: Option<i64>,
    select_feature: Option<String>,
}

/// The base of Llama's rotary frequencies where nothing is said.
const ROPE_BASE: f64 = 10_000.0;
/// The side of the published models' pictures.
const IMAGE_SIZE: usize = 384;
/// Width of a head of the original's SigLIP, which is named and not described.
const SIGLIP_HEAD: usize = 64;
/// The longest prompt in ids; the published models take any that fits their positions, and every id of it has its room
/// in the caches.
const TEXT_LENGTH: usize = 512;

pub(super) fn read(folder: &Path) -> Result<PublishedConfig> {
    let path = folder.join(CONFIG);
    serde_json::from_slice(&files::read(&path)?)
        .map_err(|e| Error::bad_file(&path, Reason::because("not a config of Janus", e)))
}

impl PublishedConfig {
    /// Whether the head of text ids is their embedding, where the file has no head.
    pub(super) fn ties_embeddings(&self) -> bool {
        self.tie_word_embeddings
    }

    /// Sizes of the transformer and the image tokenizer; the reason if there is something that is not read.
    pub(super) fn sizes(
        &self,
        names: Names,
        tensors: &Tensors<'_>,
        end_id: u32,
    ) -> Result<(JanusConfig, TamingVqganConfig), Reason> {
        let shape = |name: &str| tensors.get(name).map(|tensor| tensor.shape());
        let size = |name: &str, axis: usize| {
            let found = shape(name).and_then(|shape| shape.get(axis).copied());
            found.ok_or_else(|| format!("lacks the tensor {name}"))
        };
        let count = |name: &dyn Fn(usize) -> String| {
            (0..1024).take_while(|&i| shape(&name(i)).is_some()).count()
        };
        let text = &self.text_config;
        let vision = &self.vision_config;
        self.check()?;
        let patch = size(&names.vision("patch.weight"), 2)?;
        let vision_width = size(&names.vision("norm.weight"), 0)?;
        let image_size = vision
            .image_size
            .or(vision.params.image_size)
            .unwrap_or(IMAGE_SIZE);
        if patch == 0 || !image_size.is_multiple_of(patch) {
            return Err(format!(
                "image_size is {image_size}, expected a multiple of the patches' {patch}"
            )
            .into());
        }
        let grid = image_size / patch;
        let rope = text.rope_parameters.as_ref();
        let config = JanusConfig {
            text_vocab_size: text.vocab_size,
            text_length: TEXT_LENGTH.min(text.max_position_embeddings.saturating_sub(grid * grid)),
            max_positions: text.max_position_embeddings,
            end_id,
            width: text.hidden_size,
            hidden: text.intermediate_size,
            n_layers: text.num_hidden_layers,
            n_heads: text.num_attention_heads,
            norm_epsilon: text.rms_norm_eps,
            rope_base: rope
                .and_then(|rope| rope.rope_theta)
                .or(text.rope_theta)
                .unwrap_or(ROPE_BASE),
            codebook_size: size(&names.image_embedding(), 0)?,
            code_width: size(&names.image_embedding(), 1)?,
            grid,
            image_aligner_depth: count(&|i| names.image_aligner(i, "weight")),
            vision: VisionConfig {
                image_size,
                patch_size: patch,
                width: vision_width,
                n_layers: count(&|i| names.vision_layer(i, "norm1.weight")),
                n_heads: vision
                    .num_attention_heads
                    .unwrap_or((vision_width / SIGLIP_HEAD).max(1)),
                hidden: size(&names.vision_layer(0, "fc1.weight"), 0)?,
                norm_epsilon: vision.layer_norm_eps.unwrap_or(1e-6),
                aligner_depth: count(&|i| names.vision_aligner(i, "weight")),
            },
        };
        config.validate().map_err(Reason::of)?;
        // Taming's names are ours; it counts the decoder's levels from the finest.
        let levels = (0..16)
            .take_while(|&i| {
                shape(&names.image(&format!("encoder.down.{i}.block.0.conv1.weight"), i + 1))
                    .is_some()
            })
            .count();
        let of_taming = |name: &str| shape(&names.image(name, levels));
        let image = TamingVqganConfig {
            normalised_codes: true,
            middle_attention: true,
            ..taming::sizes(&of_taming, PixelRange::Signed, |levels| {
                grid << (levels - 1).min(16)
            })?
        };
        image.validate().map_err(Reason::of)?;
        Ok((config, image))
    }

    /// Refuses what would give other figures than the reference's.
    fn check(&self) -> Result<(), Reason> {
        let text = &self.text_config;
        let vision = &self.vision_config;
        let key_value = text.num_key_value_heads.unwrap_or(text.num_attention_heads);
        if key_value != text.num_attention_heads {
            return Err(format!(
                "num_key_value_heads is {key_value}, expected as many as num_attention_heads, {}",
                text.num_attention_heads
            )
            .into());
        }
        let head = text.hidden_size / text.num_attention_heads.max(1);
        if text.head_dim.is_some_and(|found| found != head) {
            return Err(format!(
                "head_dim is {}, expected hidden_size / num_attention_heads = {head}",
                text.head_dim.unwrap_or_default()
            )
            .into());
        }
        if text.hidden_act != "silu" {
            return Err(format!(
                "hidden_act of the text is {:?}, expected silu",
                text.hidden_act
            )
            .into());
        }
        if text.attention_bias || text.mlp_bias {
            return Err("attention_bias or mlp_bias is true, expected false".into());
        }
        let scaled = text.rope_scaling.as_ref().is_some_and(|it| !it.is_null());
        let kind = text
            .rope_parameters
            .as_ref()
            .and_then(|it| it.rope_type.as_deref());
        if scaled || kind.is_some_and(|kind| kind != "default") {
            return Err("scales its rotary positions, expected none".into());
        }
        if let Some(act) = vision.hidden_act.as_deref().filter(|act| *act != "gelu") {
            return Err(format!("hidden_act of the vision is {act:?}, expected gelu").into());
        }
        if vision.use_qk_norm {
            return Err("use_qk_norm is true, expected false".into());
        }
        let params = &vision.params;
        if params.select_layer.is_some_and(|layer| layer != -1)
            || params
                .select_feature
                .as_deref()
                .is_some_and(|it| it != "same")
        {
            return Err(
                "select_layer or select_feature of the vision: expected -1 and same".into(),
            );
        }
        Ok(())
    }
}
