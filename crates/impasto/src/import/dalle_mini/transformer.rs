//! The transformer's sizes and names in the two forms (`model/configuration.py`, `model/modeling.py` of
//! dalle-mini; `min_dalle/models` of min-dalle).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::mapping::{Entry, Layer, Layout, Part, Source, collect};
use crate::checkpoint::weights::LazyTensor;
use crate::error::Reason;
use crate::import::ImportReport;
use crate::models::DalleBartConfig;
use crate::models::dalle_bart::StackConfig;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::{Error, Result};

/// `config.json` of dalle-mini, as far as it changes the model, with `DalleBartConfig`'s defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct FlaxConfig {
    model_type: String,
    normalize_text: bool,
    encoder_vocab_size: usize,
    image_vocab_size: usize,
    image_length: usize,
    max_text_length: usize,
    encoder_layers: usize,
    encoder_ffn_dim: usize,
    encoder_attention_heads: usize,
    decoder_layers: usize,
    decoder_ffn_dim: usize,
    decoder_attention_heads: usize,
    d_model: usize,
    decoder_start_token_id: Option<u32>,
    force_ln_scale: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Default for FlaxConfig {
    fn default() -> Self {
        FlaxConfig {
            model_type: String::new(),
            normalize_text: false,
            encoder_vocab_size: 50264,
            image_vocab_size: 16384,
            image_length: 256,
            max_text_length: 64,
            encoder_layers: 12,
            encoder_ffn_dim: 4096,
            encoder_attention_heads: 16,
            decoder_layers: 12,
            decoder_ffn_dim: 4096,
            decoder_attention_heads: 16,
            d_model: 1024,
            decoder_start_token_id: None,
            force_ln_scale: false,
            others: Map::new(),
        }
    }
}

impl FlaxConfig {
    /// Whether it is of this family.
    pub fn is_dalle_bart(&self) -> bool {
        self.model_type == "dallebart"
    }

    /// Whether captions are normalised.
    pub fn normalizes(&self) -> bool {
        self.normalize_text
    }

    /// Refuses variants that no published model uses.
    fn check(&self) -> Result<(), Reason> {
        let fixed = [
            ("activation_function", Value::from("gelu")),
            ("scale_embedding", Value::from(false)),
            ("use_bias", Value::from(false)),
            ("ln_type", Value::from("layernorm")),
            ("ln_positions", Value::from("normformer")),
            ("use_head_scale", Value::from(false)),
            ("use_cosine_attention", Value::from(false)),
            ("use_absolute_position_embeddings", Value::from(true)),
            ("use_swin_position_embeddings", Value::from(false)),
            ("use_deepnet_scaling", Value::from(false)),
            ("use_glu", Value::from(true)),
            ("use_alibi", Value::from(false)),
            ("sinkhorn_iters", Value::from(1)),
            ("use_final_ln_encoder", Value::from(true)),
            ("use_final_ln_decoder", Value::from(true)),
            ("tie_word_embeddings", Value::from(false)),
        ];
        for (name, expected) in fixed {
            if let Some(found) = self.others.get(name)
                && *found != expected
            {
                return Err(format!(
                    "{name} is {found}, expected {expected}: the published DALL·E mini and mega"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// The picture's ids, by the decoder's positions.
pub fn image_length(
    source: &Source<'_>,
    config: Option<&FlaxConfig>,
    folder: &Path,
) -> Result<usize> {
    if source.is_flax() {
        let config = config.ok_or_else(|| Error::bad_file(folder, "lacks config.json"))?;
        return Ok(config.image_length);
    }
    let shape = source.shape("decoder.embed_positions.weight");
    shape
        .and_then(|shape| shape.first().copied())
        .ok_or_else(|| Error::bad_file(folder, "decoder.pt lacks embed_positions.weight"))
}

/// The sizes: the config's, or what min-dalle's tensors say.
pub fn config(
    source: &Source<'_>,
    config: Option<&FlaxConfig>,
    vqgan: &TamingVqganConfig,
    folder: &Path,
) -> Result<DalleBartConfig> {
    let bad = |reason: Reason| Error::bad_file(folder.join(super::CONFIG), reason);
    let grid = vqgan.grid();
    if source.is_flax() {
        let config = config.ok_or_else(|| Error::bad_file(folder, "lacks config.json"))?;
        config.check().map_err(bad)?;
        if grid * grid != config.image_length {
            return Err(bad(format!(
                "image_length is {}, the VQGAN has a grid of {grid}x{grid}",
                config.image_length
            )
            .into()));
        }
        let start = config.decoder_start_token_id.map(u64::from);
        let start = start.unwrap_or(config.image_vocab_size as u64);
        return Ok(DalleBartConfig {
            text_vocab_size: config.encoder_vocab_size,
            text_length: config.max_text_length,
            image_vocab_size: config.image_vocab_size,
            codebook_size: vqgan.codebook_size,
            start_id: u32::try_from(start)
                .map_err(|_| bad("image_vocab_size is too large".into()))?,
            grid,
            width: config.d_model,
            encoder: StackConfig {
                n_layers: config.encoder_layers,
                n_heads: config.encoder_attention_heads,
                hidden: config.encoder_ffn_dim,
            },
            decoder: StackConfig {
                n_layers: config.decoder_layers,
                n_heads: config.decoder_attention_heads,
                hidden: config.decoder_ffn_dim,
            },
            scaled_norms: config.force_ln_scale,
        });
    }
    let size = |name: &str, axis: usize| {
        let shape = source.shape(name).filter(|shape| shape.len() == 2);
        shape
            .map(|shape| shape[axis])
            .ok_or_else(|| Error::bad_file(folder, format!("lacks the matrix {name}")))
    };
    let width = size("encoder.embed_tokens.weight", 1)?;
    let stack = |stack: &str, heads: Option<usize>| -> Result<StackConfig> {
        Ok(StackConfig {
            n_layers: n_layers(source, stack),
            // Both published models have heads of 64; nothing in the file says so.
            n_heads: heads.unwrap_or((width / 64).max(1)),
            hidden: size(&format!("{stack}.layers.0.glu.fc0.weight"), 0)?,
        })
    };
    Ok(DalleBartConfig {
        text_vocab_size: size("encoder.embed_tokens.weight", 0)?,
        text_length: size("encoder.embed_positions.weight", 0)?,
        image_vocab_size: size("decoder.embed_tokens.weight", 0)?.saturating_sub(1),
        codebook_size: vqgan.codebook_size,
        // The original's: the first id that no code has. (min-dalle itself begins with the last code.)
        start_id: vqgan.codebook_size as u32,
        grid,
        width,
        encoder: stack("encoder", config.map(|c| c.encoder_attention_heads))?,
        decoder: stack("decoder", config.map(|c| c.decoder_attention_heads))?,
        scaled_norms: source.has("encoder.layers.0.pre_self_attn_layer_norm.weight"),
    })
}

fn n_layers(source: &Source<'_>, stack: &str) -> usize {
    let prefix = format!("{stack}.layers.");
    let numbers = source.names().into_iter().filter_map(|name| {
        let (number, _) = name.strip_prefix(&prefix)?.split_once('.')?;
        number
            .parse::<usize>()
            .ok()
            .filter(|&number| number < 1 << 10)
    });
    numbers.max().map_or(0, |last| last + 1)
}

/// A parameter of a layer without the ends of its names: ours, Flax's, min-dalle's. Several of theirs are
/// side by side in ours.
type Names = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const MATRICES: [Names; 7] = [
    (
        "attention.qkv",
        &[
            "FlaxBartAttention_0.q_proj",
            "FlaxBartAttention_0.k_proj",
            "FlaxBartAttention_0.v_proj",
        ],
        &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    ),
    (
        "attention.out",
        &["FlaxBartAttention_0.out_proj"],
        &["self_attn.out_proj"],
    ),
    (
        "caption_attention.query",
        &["FlaxBartAttention_1.q_proj"],
        &["encoder_attn.q_proj"],
    ),
    (
        "caption_attention.key_value",
        &["FlaxBartAttention_1.k_proj", "FlaxBartAttention_1.v_proj"],
        &["encoder_attn.k_proj", "encoder_attn.v_proj"],
    ),
    (
        "caption_attention.out",
        &["FlaxBartAttention_1.out_proj"],
        &["encoder_attn.out_proj"],
    ),
    (
        "glu.gate_up",
        &["GLU_0.Dense_0", "GLU_0.Dense_1"],
        &["glu.fc0", "glu.fc1"],
    ),
    ("glu.down", &["GLU_0.Dense_2"], &["glu.fc2"]),
];

const NORMS: [(&str, &str, &str); 6] = [
    (
        "attention.pre_norm",
        "LayerNorm_0",
        "pre_self_attn_layer_norm",
    ),
    ("attention.norm", "LayerNorm_1", "self_attn_layer_norm"),
    (
        "caption_attention.pre_norm",
        "LayerNorm_2",
        "pre_encoder_attn_layer_norm",
    ),
    (
        "caption_attention.norm",
        "LayerNorm_3",
        "encoder_attn_layer_norm",
    ),
    ("glu.pre_norm", "GLU_0.LayerNorm_0", "glu.ln0"),
    ("glu.inner_norm", "GLU_0.LayerNorm_1", "glu.ln1"),
];

/// All of our parameters with where they come from.
pub fn plan<'a>(
    source: &Source<'a>,
    config: &DalleBartConfig,
    shapes: BTreeMap<String, Vec<usize>>,
) -> (Vec<LazyTensor<'a>>, ImportReport) {
    let entries = shapes
        .into_iter()
        .map(|(ours, shape)| {
            let (names, layer, layout) = theirs(source, &ours);
            let layer = layer.map(|index| Layer {
                index,
                count: match ours.starts_with("encoder.") {
                    true => config.encoder.n_layers,
                    false => config.decoder.n_layers,
                },
            });
            let parts = names.into_iter().map(|name| Part { name, layer });
            Entry {
                parts: parts.collect(),
                ours,
                shape,
                layout,
            }
        })
        .collect();
    collect(source, entries)
}

/// Their names of a parameter of ours, the layer where those are stacks, and how it lies.
fn theirs(source: &Source<'_>, ours: &str) -> (Vec<String>, Option<usize>, Layout) {
    let flax = source.is_flax();
    let unknown = || {
        (
            vec![format!("(a counterpart of {ours})")],
            None,
            Layout::Same,
        )
    };
    if ours == "head.weight" {
        let name = if flax {
            "lm_head.kernel"
        } else {
            "decoder.lm_head.weight"
        };
        return (vec![name.to_owned()], None, Layout::Matrix);
    }
    let Some((stack, rest)) = ours.split_once('.') else {
        return unknown();
    };
    let Some((module, leaf)) = rest.rsplit_once('.') else {
        return unknown();
    };
    let norm_leaf = match (flax, leaf) {
        (true, "weight") => "scale",
        _ => leaf,
    };
    let whole = if flax {
        format!("model.{stack}")
    } else {
        stack.to_owned()
    };
    // What there is once.
    let once = match module {
        "embed_tokens" | "embed_positions" => {
            let leaf = if flax { "embedding" } else { "weight" };
            Some(format!("{module}.{leaf}"))
        }
        "embedding_norm" => Some(format!("layernorm_embedding.{norm_leaf}")),
        "final_norm" => Some(format!("final_ln.{norm_leaf}")),
        _ => None,
    };
    if let Some(once) = once {
        return (vec![format!("{whole}.{once}")], None, Layout::Same);
    }
    let Some((number, module)) = module
        .strip_prefix("layers.")
        .and_then(|module| module.split_once('.'))
    else {
        return unknown();
    };
    let Ok(number) = number.parse::<usize>() else {
        return unknown();
    };
    let class = match stack {
        "encoder" => "FlaxBartEncoderLayer",
        _ => "FlaxBartDecoderLayer",
    };
    let stacked = format!("{whole}.layers.{class}s");
    let (front, layer) = if !flax {
        (format!("{whole}.layers.{number}"), None)
    } else if source.has(&format!("{stacked}.LayerNorm_0.bias")) {
        (stacked, Some(number))
    } else {
        (format!("{whole}.layers.{class}_{number}"), None)
    };
    if let Some((_, flax_name, torch_name)) = NORMS.iter().find(|(name, ..)| *name == module) {
        let name = if flax { flax_name } else { torch_name };
        let name = format!("{front}.{name}.{norm_leaf}");
        return (vec![name], layer, Layout::Same);
    }
    let Some((_, flax_names, torch_names)) = MATRICES.iter().find(|(name, ..)| *name == module)
    else {
        return unknown();
    };
    let (names, leaf) = if flax {
        (flax_names, "kernel")
    } else {
        (torch_names, "weight")
    };
    let names = names.iter().map(|name| format!("{front}.{name}.{leaf}"));
    (names.collect(), layer, Layout::Matrix)
}
