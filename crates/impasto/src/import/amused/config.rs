//! The sizes of a published aMUSEd: the small files of its folders.

use std::path::Path;

use serde::Deserialize;

use crate::error::Reason;
use crate::import::diffusers::{self, expect, json};
use crate::models::AmusedConfig;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::{Error, Result};

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

/// What the small files say.
pub(super) struct Sizes {
    pub net: AmusedConfig,
    pub image: TamingVqganConfig,
}

/// The sizes of the published model in `folder`.
pub(super) fn read(folder: &Path) -> Result<Sizes> {
    let image = diffusers::image(folder)?;
    let text = diffusers::text(folder)?;
    let scheduler = diffusers::scheduler(folder)?;
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
    let picture_size = grid.saturating_mul(diffusers::scale(&image));
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
    let image = diffusers::of_pictures(folder, image, picture_size)?;
    Ok(Sizes { net, image })
}
