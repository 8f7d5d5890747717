//! Checkpoints of taming-transformers (`taming/models/vqgan.py`): PyTorch Lightning's `.ckpt` with a
//! `state_dict`, and the YAML that the model was configured by.

use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::check_size;
use crate::checkpoint::pytorch::Archive;
use crate::error::Reason;
use crate::import::ImportReport;
use crate::import::mapping::Mapping;
use crate::import::weights::Tensors;
use crate::models::ImageTokenizer;
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::nn::Init;
use crate::{Error, Result, files};

/// What Lightning puts beside the weights; read as plain data and not used.
const CLASSES: [&str; 6] = [
    "pytorch_lightning.",
    "lightning.",
    "omegaconf.",
    "argparse.Namespace",
    "__builtin__.set",
    "builtins.set",
];

/// The longest config that is read.
const LONGEST_CONFIG: u64 = 1 << 20;

#[derive(Deserialize)]
struct TamingConfig {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    target: String,
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    embed_dim: usize,
    n_embed: usize,
    ddconfig: Coders,
    remap: Option<IgnoredAny>,
}

/// `ddconfig`, which encoder and decoder are made from.
#[derive(Deserialize)]
struct Coders {
    ch: usize,
    out_ch: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    attn_resolutions: Vec<usize>,
    in_channels: usize,
    resolution: usize,
    z_channels: usize,
    #[serde(default)]
    double_z: bool,
    #[serde(default)]
    give_pre_end: bool,
    #[serde(default = "yes")]
    resamp_with_conv: bool,
}

fn yes() -> bool {
    true
}

fn read_config(path: &Path) -> Result<TamingVqganConfig> {
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let length = std::fs::metadata(path)
        .map_err(Error::io("read", path))?
        .len();
    if length > LONGEST_CONFIG {
        return Err(bad(format!("has {length} bytes, expected a config").into()));
    }
    let text = files::read_to_string(path)?;
    let config: TamingConfig = serde_saphyr::from_str(&text).map_err(|e| {
        let reason = e.to_string();
        let first = reason.lines().next().unwrap_or_default().to_owned();
        bad(format!("not a VQGAN config: {first}").into())
    })?;
    let Model { target, params } = config.model;
    let gumbel = match target.rsplit('.').next() {
        Some("GumbelVQ") => true,
        Some("VQModel" | "VQNoDiscModel") => false,
        _ => {
            return Err(bad(format!(
                "model.target is {}, expected VQModel or GumbelVQ",
                target.escape_debug()
            )
            .into()));
        }
    };
    let coders = params.ddconfig;
    let fits = coders.in_channels == 3
        && coders.out_ch == 3
        && !coders.double_z
        && !coders.give_pre_end
        && coders.resamp_with_conv
        && params.remap.is_none();
    if !fits {
        return Err(bad(
            "expected 3 channels, double_z and give_pre_end false, resamp_with_conv true, no remap"
                .into(),
        ));
    }
    let config = TamingVqganConfig {
        picture_size: coders.resolution,
        base_width: coders.ch,
        multipliers: coders.ch_mult,
        n_res_blocks: coders.num_res_blocks,
        attention_sizes: coders.attn_resolutions,
        latent_width: coders.z_channels,
        codebook_size: params.n_embed,
        code_width: params.embed_dim,
        gumbel,
        normalised_codes: false,
        middle_attention: true,
        pixel_range: PixelRange::Signed,
        encoder: true,
    };
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    Ok(config)
}

pub fn load(
    weights: &Path,
    config: &Path,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    let config = read_config(config)?;
    read(weights, |tensors| map(weights, tensors, &config, device))
}

/// Passes the tensors of a `.ckpt` on.
pub fn read<T>(weights: &Path, then: impl FnOnce(Tensors<'_>) -> Result<T>) -> Result<T> {
    let bytes = files::map(weights)?;
    let archive = Archive::parse(weights, &bytes, &CLASSES)?;
    let root = archive.root();
    then(root.get("state_dict").unwrap_or(root).tensors()?)
}

/// The model of a state dict.
pub fn map(
    path: &Path,
    tensors: Tensors<'_>,
    config: &TamingVqganConfig,
    device: &Device,
) -> Result<(ImageTokenizer, ImportReport)> {
    check_size(path, config.parameters(), &tensors)?;
    let model = config.init(&mut Init::empty(device));
    // What only training uses: the discriminator, the perceptual loss and its network.
    let training: Vec<String> = tensors
        .keys()
        .filter(|name| name.starts_with("loss.") || *name == "colorize")
        .cloned()
        .collect();
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    for name in training {
        mapping.ignore(&name);
    }
    for name in ours {
        let theirs = match &name[..] {
            "quantize.embedding.weight" if config.gumbel => "quantize.embed.weight",
            name => name,
        };
        mapping.same(&name, theirs)?;
    }
    let (model, report) = mapping.finish(model)?;
    Ok((ImageTokenizer::TamingVqgan(model), report))
}
