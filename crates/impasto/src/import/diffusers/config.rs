//! The small files of pipelines: sizes of the parts, the text tokenizer.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::MaskSchedule;
use crate::error::Reason;
use crate::models::clip::{Activation, ClipTextConfig, EndOfText, TowerConfig};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::text::clip::{Cleaning, ClipTokenizer};
use crate::{Error, Result, files};

/// Fields and defaults of `CLIPTextConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Text {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    projection_dim: usize,
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
            projection_dim: 512,
            vocab_size: 49408,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// Fields and defaults of `VQModel`.
#[derive(Deserialize)]
#[serde(default)]
struct VqModel {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    act_fn: String,
    latent_channels: usize,
    num_vq_embeddings: usize,
    norm_num_groups: usize,
    vq_embed_dim: Option<usize>,
    norm_type: String,
    mid_block_add_attention: bool,
    lookup_from_codebook: bool,
}

impl Default for VqModel {
    fn default() -> Self {
        VqModel {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 3,
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            norm_type: "group".to_owned(),
            mid_block_add_attention: true,
            lookup_from_codebook: false,
        }
    }
}

/// Fields of `AmusedScheduler`.
#[derive(Deserialize)]
pub(in crate::import) struct Scheduler {
    pub mask_token_id: u32,
    #[serde(default)]
    pub masking_schedule: MaskSchedule,
}

/// A small file of the folder.
pub(in crate::import) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let value: Value = serde_json::from_slice(&files::read(path)?)
        .map_err(|e| Error::bad_file(path, Reason::because("is no JSON", e)))?;
    let mut value = value;
    if let Some(fields) = value.as_object_mut() {
        // Nothing is as good as not there.
        fields.retain(|_, value| !value.is_null());
    }
    serde_json::from_value(value)
        .map_err(|e| Error::bad_file(path, Reason::because("is no config of this kind", e)))
}

/// Refuses a field whose value is not the one that all published models have.
pub(in crate::import) fn expect<T: PartialEq + std::fmt::Debug>(
    path: &Path,
    name: &str,
    found: &T,
    expected: &T,
) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::bad_file(
            path,
            format!("{name} is {found:?}, expected {expected:?}"),
        )),
    }
}

/// The sizes of the text encoder in a pipeline's folder.
pub(in crate::import) fn text(folder: &Path) -> Result<ClipTextConfig> {
    let path = &folder.join("text_encoder/config.json");
    let text: Text = json(path)?;
    expect(path, "layer_norm_eps", &text.layer_norm_eps, &1e-5)?;
    let activation = match text.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => {
            return Err(Error::bad_file(
                path,
                format!("hidden_act is {other:?}, expected \"quick_gelu\" or \"gelu\""),
            ));
        }
    };
    let config = ClipTextConfig {
        vocab_size: text.vocab_size,
        length: text.max_position_embeddings,
        tower: TowerConfig {
            width: text.hidden_size,
            n_layers: text.num_hidden_layers,
            n_heads: text.num_attention_heads,
            hidden: text.intermediate_size,
        },
        projection_width: text.projection_dim,
        activation,
        // Old configs hold 2, which is wrong and means what OpenAI does.
        end_of_text: match text.eos_token_id {
            2 => EndOfText::HighestId,
            id => EndOfText::FirstOf(id),
        },
    };
    config
        .validate()
        .map_err(|e| Error::bad_file(path, Reason::of(e)))?;
    Ok(config)
}

/// The sizes of the image tokenizer in a pipeline's folder, but for the side of the pictures, which [`of_pictures`] says.
pub(in crate::import) fn image(folder: &Path) -> Result<TamingVqganConfig> {
    let path = &image_path(folder);
    let vq: VqModel = json(path)?;
    for (name, found, expected) in [
        ("in_channels", vq.in_channels, 3),
        ("out_channels", vq.out_channels, 3),
        ("norm_num_groups", vq.norm_num_groups, 32),
    ] {
        expect(path, name, &found, &expected)?;
    }
    for (name, found, expected) in [
        ("act_fn", vq.act_fn.as_str(), "silu"),
        ("norm_type", vq.norm_type.as_str(), "group"),
    ] {
        expect(path, name, &found, &expected)?;
    }
    let attends = vq.mid_block_add_attention;
    expect(path, "mid_block_add_attention", &attends, &false)?;
    expect(
        path,
        "lookup_from_codebook",
        &vq.lookup_from_codebook,
        &true,
    )?;
    let widths = &vq.block_out_channels;
    let base_width = widths.first().copied().unwrap_or_default();
    if base_width == 0
        || widths.len() > 10
        || widths.iter().any(|width| !width.is_multiple_of(base_width))
    {
        return Err(Error::bad_file(
            path,
            format!("block_out_channels is {widths:?}, expected up to 10 multiples of the first"),
        ));
    }
    Ok(TamingVqganConfig {
        picture_size: 0,
        base_width,
        multipliers: widths.iter().map(|width| width / base_width).collect(),
        n_res_blocks: vq.layers_per_block,
        attention_sizes: Vec::new(),
        latent_width: vq.latent_channels,
        codebook_size: vq.num_vq_embeddings,
        code_width: vq.vq_embed_dim.unwrap_or(vq.latent_channels),
        gumbel: false,
        normalised_codes: false,
        middle_attention: false,
        pixel_range: PixelRange::Unit,
        encoder: true,
    })
}

/// Pixels of an id's side.
pub(in crate::import) fn scale(image: &TamingVqganConfig) -> usize {
    1 << (image.multipliers.len() - 1)
}

/// The image tokenizer of pictures of this side.
pub(in crate::import) fn of_pictures(
    folder: &Path,
    image: TamingVqganConfig,
    picture_size: usize,
) -> Result<TamingVqganConfig> {
    let image = TamingVqganConfig {
        picture_size,
        ..image
    };
    image
        .validate()
        .map_err(|e| Error::bad_file(image_path(folder), Reason::of(e)))?;
    Ok(image)
}

fn image_path(folder: &Path) -> PathBuf {
    folder.join("vqvae/config.json")
}

/// The scheduler in a pipeline's folder.
pub(in crate::import) fn scheduler(folder: &Path) -> Result<Scheduler> {
    json(&folder.join("scheduler/scheduler_config.json"))
}

/// The text tokenizer, and the id that fills captions up.
pub(in crate::import) fn tokenizer(
    folder: &Path,
    text: &ClipTextConfig,
) -> Result<(ClipTokenizer, u32)> {
    /// A token: its text, or an object that has it.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Object { content: String },
    }
    #[derive(Default, Deserialize)]
    struct Config {
        pad_token: Option<Token>,
        model_max_length: Option<f64>,
    }
    let folder = folder.join("tokenizer");
    let tokenizer = ClipTokenizer::load(&folder, text.vocab_size, Cleaning::Transformers)?;
    let (found, rows) = (tokenizer.vocab_size(), text.vocab_size);
    if found > rows {
        return Err(Error::bad_file(
            &folder,
            format!("has {found} ids, the text encoder reads {rows}"),
        ));
    }
    let mut pad = None;
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let config: Config = json(&path)?;
        if let Some(length) = config.model_max_length
            && length < text.length as f64
        {
            return Err(Error::bad_file(
                &path,
                format!(
                    "model_max_length is {length}, expected the text encoder's {}",
                    text.length
                ),
            ));
        }
        if let Some(Token::Text(token) | Token::Object { content: token }) = config.pad_token {
            let id = tokenizer.id_of(&token).ok_or_else(|| {
                let token = token.escape_debug();
                Error::bad_file(
                    &path,
                    format!("pad_token \"{token}\" is not in the vocabulary"),
                )
            })?;
            pad = Some(id);
        }
    }
    let pad = pad.unwrap_or_else(|| tokenizer.end());
    Ok((tokenizer, pad))
}
