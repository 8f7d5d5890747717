//! The VQGAN of taming-transformers by the shapes of its tensors, where no config comes with them, and under the names
//! that LlamaGen gives to them.

use crate::error::Reason;
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};

/// The sizes that the shapes under the checkpoints' names give; the side of the pictures follows from the number
/// of levels.
pub fn sizes<'a>(
    shape: &dyn Fn(&str) -> Option<&'a [usize]>,
    pixel_range: PixelRange,
    picture_size: impl Fn(usize) -> usize,
) -> Result<TamingVqganConfig, Reason> {
    let size = |name: &str, axis: usize| {
        let found = shape(name).and_then(|shape| shape.get(axis).copied());
        found.ok_or_else(|| format!("lacks the tensor {name}"))
    };
    let has = |name: &str| shape(name).is_some();
    let count = |name: &dyn Fn(usize) -> String| (0..64).take_while(|&i| has(&name(i))).count();
    let levels = count(&|i| format!("decoder.up.{i}.block.0.conv1.weight"));
    if levels == 0 {
        return Err("lacks the tensor decoder.up.0.block.0.conv1.weight".into());
    }
    let blocks = count(&|j| format!("decoder.up.0.block.{j}.conv1.weight"));
    let mut widths = Vec::with_capacity(levels);
    for i in 0..levels {
        widths.push(size(&format!("decoder.up.{i}.block.0.conv1.weight"), 0)?);
    }
    let encoder = has("encoder.conv_in.weight");
    // Only the decoder's widths are known; the first one usually is the one that the others are multiples of.
    let base_width = match widths.iter().all(|width| width % widths[0].max(1) == 0) {
        _ if encoder => size("encoder.conv_in.weight", 0)?.max(1),
        true => widths[0].max(1),
        false => 32,
    };
    if let Some(width) = widths.iter().find(|&width| width % base_width != 0) {
        return Err(
            format!("has a level of {width} channels, expected multiples of {base_width}").into(),
        );
    }
    let picture_size = picture_size(levels);
    let attended = |&i: &usize| has(&format!("decoder.up.{i}.attn.0.norm.weight"));
    let gumbel = has("quantize.proj.weight");
    let table = match has("quantize.embed.weight") {
        true => "quantize.embed.weight",
        false => "quantize.embedding.weight",
    };
    Ok(TamingVqganConfig {
        picture_size,
        base_width,
        multipliers: widths.iter().map(|width| width / base_width).collect(),
        n_res_blocks: blocks.saturating_sub(1),
        attention_sizes: (0..levels)
            .filter(attended)
            .map(|i| picture_size >> i)
            .collect(),
        latent_width: size("post_quant_conv.weight", 0)?,
        codebook_size: size(table, 0)?,
        code_width: size(table, 1)?,
        gumbel,
        normalised_codes: false,
        middle_attention: true,
        pixel_range,
        encoder,
    })
}

/// The name of a parameter of [`crate::models::taming_vqgan::TamingVqgan`] with this many levels, where the coarsest
/// level of the decoder is the first; here it is the last.
pub fn coarsest_first(ours: &str, levels: usize) -> String {
    let Some(rest) = ours.strip_prefix("decoder.up.") else {
        return ours.to_owned();
    };
    let (level, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let level: usize = level.parse().unwrap_or_default();
    // One that is not there here is not there either.
    let theirs = levels.checked_sub(1 + level).unwrap_or(level);
    format!("decoder.up.{theirs}.{rest}")
}

/// [`coarsest_first`] under LlamaGen's names (`tokenizer/tokenizer_image/vq_model.py`).
pub fn of_llamagen(ours: &str, levels: usize) -> String {
    let ours = coarsest_first(ours, levels);
    let is_level = ours.starts_with("decoder.up.") || ours.starts_with("encoder.down.");
    let parts = ours
        .split('.')
        .enumerate()
        .map(|(place, part)| match (place, part) {
            (1, "down" | "up") => "conv_blocks",
            (3, "block") if is_level => "res",
            (2, "block_1") => "0",
            (2, "attn_1") => "1",
            (2, "block_2") => "2",
            (_, part) => part,
        });
    parts.collect::<Vec<_>>().join(".")
}
