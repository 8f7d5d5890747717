//! The sizes of a published aMUSEd: the small files of its folders.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::MaskSchedule;
use crate::error::Reason;
use crate::models::AmusedConfig;
use crate::models::clip::{Activation, ClipTextConfig, EndOfText, TowerConfig};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::text::clip::{Cleaning, ClipTokenizer};
use crate::{Error, Result, files};

/// What says which folder is of what class.
pub(super) const INDEX: &str = "model_index.json";
/// The pipelines that are saved with the same parts.
const PIPELINES: [&str; 3] = [
    "AmusedPipeline",
    "AmusedImg2ImgPipeline",
    "AmusedInpaintPipeline",
];

/// Whether `model_index.json` is that of an aMUSEd.
pub(super) fn is_amused(index: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class_name: String,
    }
    let index: Option<Index> = serde_json::from_slice(index).ok();
    index.is_some_and(|index| PIPELINES.contains(&index.class_name.as_str()))
}

/// Fields and defaults of `UVit2DModel`.
#[derive(Deserialize)]
#[serde(default)]
struct Transformer {
    hidden_size: usize,
    use_bias: bool,
    cond_embed_dim: usize,
    micro_cond_encode_dim: usize,
    micro_cond_embed_dim: usize,
    encoder_hidden_size: usize,
    vocab_size: usize,
    codebook_size: usize,
    in_channels: usize,
    block_out_channels: usize,
    num_res_blocks: usize,
    downsample: bool,
    upsample: bool,
    block_num_heads: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    layer_norm_eps: f64,
    ln_elementwise_affine: bool,
    sample_size: usize,
}

impl Default for Transformer {
    fn default() -> Self {
        Transformer {
            hidden_size: 1024,
            use_bias: false,
            cond_embed_dim: 768,
            micro_cond_encode_dim: 256,
            micro_cond_embed_dim: 1280,
            encoder_hidden_size: 768,
            vocab_size: 8256,
            codebook_size: 8192,
            in_channels: 768,
            block_out_channels: 768,
            num_res_blocks: 3,
            downsample: false,
            upsample: false,
            block_num_heads: 12,
            num_hidden_layers: 22,
            num_attention_heads: 16,
            intermediate_size: 2816,
            layer_norm_eps: 1e-6,
            ln_elementwise_affine: true,
            sample_size: 64,
        }
    }
}

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
struct Scheduler {
    mask_token_id: u32,
    #[serde(default)]
    masking_schedule: MaskSchedule,
}

/// A small file of the folder.
fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
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
fn expect<T: PartialEq + std::fmt::Debug>(
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

/// What the small files say.
pub(super) struct Sizes {
    pub net: AmusedConfig,
    pub image: TamingVqganConfig,
}

/// The sizes of the published model in `folder`.
pub(super) fn read(folder: &Path) -> Result<Sizes> {
    let path = folder.join("vqvae/config.json");
    let image = image(&path, &json(&path)?)?;
    let path = folder.join("text_encoder/config.json");
    let text = text(&path, &json(&path)?)?;
    let path = folder.join("scheduler/scheduler_config.json");
    let scheduler: Scheduler = json(&path)?;
    let path = folder.join("transformer/config.json");
    let net: Transformer = json(&path)?;
    expect(&path, "use_bias", &net.use_bias, &false)?;
    expect(
        &path,
        "ln_elementwise_affine",
        &net.ln_elementwise_affine,
        &true,
    )?;
    expect(&path, "upsample", &net.upsample, &net.downsample)?;
    expect(
        &path,
        "codebook_size",
        &net.codebook_size,
        &image.codebook_size,
    )?;
    let (found, expected) = (&net.encoder_hidden_size, &text.tower.width);
    expect(&path, "encoder_hidden_size", found, expected)?;
    expect(
        &path,
        "cond_embed_dim",
        &net.cond_embed_dim,
        &text.projection_width,
    )?;
    let numbers = net.micro_cond_encode_dim.saturating_mul(5);
    expect(
        &path,
        "micro_cond_embed_dim",
        &net.micro_cond_embed_dim,
        &numbers,
    )?;
    let grid = net.sample_size;
    let scale = 1 << (image.multipliers.len() - 1);
    let picture_size = grid.saturating_mul(scale);
    let net = AmusedConfig {
        text,
        codebook_size: net.codebook_size,
        embedding_rows: net.vocab_size,
        mask_id: scheduler.mask_token_id,
        grid,
        picture_size,
        embedding_width: net.in_channels,
        block_width: net.block_out_channels,
        block_heads: net.block_num_heads,
        n_blocks: net.num_res_blocks,
        halved: net.downsample,
        width: net.hidden_size,
        hidden: net.intermediate_size,
        n_layers: net.num_hidden_layers,
        n_heads: net.num_attention_heads,
        number_width: net.micro_cond_encode_dim,
        norm_epsilon: net.layer_norm_eps,
        schedule: scheduler.masking_schedule,
    };
    net.validate()
        .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    let image = TamingVqganConfig {
        picture_size,
        ..image
    };
    let path = folder.join("vqvae/config.json");
    image
        .validate()
        .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    Ok(Sizes { net, image })
}

fn text(path: &Path, text: &Text) -> Result<ClipTextConfig> {
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

/// All but the side of the pictures, which the transformer's config has.
fn image(path: &Path, vq: &VqModel) -> Result<TamingVqganConfig> {
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

/// The text tokenizer, and the id that fills captions up.
pub(super) fn tokenizer(folder: &Path, text: &ClipTextConfig) -> Result<(ClipTokenizer, u32)> {
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
