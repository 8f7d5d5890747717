//! The VQGAN's sizes and names in the two forms (vqgan-jax `modeling_flax_vqgan.py`; min-dalle
//! `models/vqgan_detokenizer.py`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::mapping::{Entry, Layout, Part, Source, collect};
use crate::checkpoint::weights::LazyTensor;
use crate::error::Reason;
use crate::import::{ImportReport, taming};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::{Error, Result, files};

/// `config.json` of vqgan-jax, with its defaults.
#[derive(Deserialize)]
#[serde(default)]
struct FlaxConfig {
    ch: usize,
    out_ch: usize,
    in_channels: usize,
    num_res_blocks: usize,
    resolution: usize,
    z_channels: usize,
    ch_mult: Vec<usize>,
    attn_resolutions: Vec<usize>,
    n_embed: usize,
    embed_dim: usize,
    double_z: bool,
    resamp_with_conv: bool,
    give_pre_end: bool,
}

impl Default for FlaxConfig {
    fn default() -> Self {
        FlaxConfig {
            ch: 128,
            out_ch: 3,
            in_channels: 3,
            num_res_blocks: 2,
            resolution: 256,
            z_channels: 256,
            ch_mult: vec![1, 1, 2, 2, 4],
            attn_resolutions: vec![16],
            n_embed: 1024,
            embed_dim: 256,
            double_z: false,
            resamp_with_conv: true,
            give_pre_end: false,
        }
    }
}

/// The sizes: the config's beside `file`, or what min-dalle's tensors say.
pub fn config(source: &Source<'_>, file: &Path, image_length: usize) -> Result<TamingVqganConfig> {
    let config = if source.is_flax() {
        let path = file.with_file_name(super::CONFIG);
        let bytes = files::read(&path)?;
        let config: FlaxConfig = serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_file(&path, Reason::because("not a VQGAN config", e)))?;
        let fits = config.in_channels == 3
            && config.out_ch == 3
            && !config.double_z
            && config.resamp_with_conv
            && !config.give_pre_end;
        if !fits {
            return Err(Error::bad_file(
                path,
                "expected 3 channels, double_z and give_pre_end false, resamp_with_conv true",
            ));
        }
        TamingVqganConfig {
            picture_size: config.resolution,
            base_width: config.ch,
            multipliers: config.ch_mult,
            n_res_blocks: config.num_res_blocks,
            attention_sizes: config.attn_resolutions,
            latent_width: config.z_channels,
            codebook_size: config.n_embed,
            code_width: config.embed_dim,
            gumbel: false,
            normalised_codes: false,
            middle_attention: true,
            pixel_range: PixelRange::Unit,
            encoder: true,
        }
    } else {
        by_tensors(source, image_length).map_err(|reason| Error::bad_file(file, reason))?
    };
    config
        .validate()
        .map_err(|e| Error::bad_file(file, Reason::of(e)))?;
    Ok(config)
}

fn by_tensors(source: &Source<'_>, image_length: usize) -> Result<TamingVqganConfig, Reason> {
    let grid = image_length.isqrt();
    if grid * grid != image_length {
        return Err(format!("expected a square picture, got {image_length} ids").into());
    }
    // The detokenizer's table of codes has no module around it.
    let shape = |name: &str| source.shape(name.strip_prefix("quantize.").unwrap_or(name));
    taming::sizes(&shape, PixelRange::Unit, |levels| {
        grid << (levels - 1).min(16)
    })
}

/// What stands before the names of a parameter of `ImageTokenizer`, which has one of several models.
const VARIANT: &str = "TamingVqgan.";

/// All parameters of `TamingVqgan`, as `ImageTokenizer` has them, with where they come from.
pub fn plan<'a>(
    source: &Source<'a>,
    shapes: BTreeMap<String, Vec<usize>>,
) -> (Vec<LazyTensor<'a>>, ImportReport) {
    let entries = shapes
        .into_iter()
        .map(|(ours, shape)| {
            let name = if source.is_flax() {
                flax_name(&ours)
            } else {
                // Names are the original's but for the table of codes.
                ours.strip_prefix("quantize.").unwrap_or(&ours).to_owned()
            };
            let layout = match shape.len() {
                4 => Layout::Kernel,
                _ => Layout::Same,
            };
            Entry {
                parts: vec![Part { name, layer: None }],
                ours: format!("{VARIANT}{ours}"),
                shape,
                layout,
            }
        })
        .collect();
    collect(source, entries)
}

/// `encoder.down.0.block.1.conv1.weight` → `encoder.down_0.block_1.conv1.kernel`.
fn flax_name(ours: &str) -> String {
    if ours == "quantize.embedding.weight" {
        return "quantize.embedding.embedding".to_owned();
    }
    let (module, leaf) = ours.rsplit_once('.').unwrap_or(("", ours));
    let mut name = String::with_capacity(ours.len() + 1);
    for part in module.split('.') {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            name.push('_');
        } else if !name.is_empty() {
            name.push('.');
        }
        name.push_str(part);
    }
    let is_norm = name.contains("norm");
    name.push('.');
    name.push_str(match (leaf, is_norm) {
        ("weight", true) => "scale",
        ("weight", false) => "kernel",
        (other, _) => other,
    });
    name
}
