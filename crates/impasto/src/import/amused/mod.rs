//! aMUSEd as diffusers publishes it (`amused/amused-256`, `amused/amused-512` and fine-tunes of them): a folder with
//! `model_index.json`, and in it a folder for each of `transformer` (`UVit2DModel`), `text_encoder`
//! (`CLIPTextModelWithProjection`), `vqvae` (`VQModel`), `tokenizer` and `scheduler`. Weights are safetensors or `.bin`,
//! whole or in shards, in 32 bits or in 16 (the variant `fp16`).

mod config;

use std::path::Path;

use burn::tensor::Device;

use self::config::INDEX;
use super::clip::hugging_face;
use super::diffusers::{self, PipelineWeights};
use super::mapping::Mapping;
use crate::checkpoint::WeightFormat;
use crate::error::Reason;
use crate::families::{
    Amused as AmusedFamily, AmusedOptions, FamilyConfig, FamilyModel, NetworkReport, Published,
    PublishedFiles, PublishedForm,
};
use crate::models::{AmusedConfig, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::ClipTokenizer;
use crate::{Error, Result, files};

/// CreativeML Open RAIL++-M, for which SPDX has no name: use is free, with restrictions (its attachment A).
const LICENCE: &str = "LicenseRef-OpenRAIL-PP-M";

/// Folders of diffusers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// The files of a published model, its numbers still in them.
struct Opened {
    config: FamilyConfig<AmusedFamily>,
    text: ClipTokenizer,
    weights: PipelineWeights,
}

impl Opened {
    fn new(published: PublishedFiles<'_>) -> Result<Self> {
        let folder = published.path;
        let sizes = config::read(folder)?;
        let (text, pad_id) = diffusers::tokenizer(folder, &sizes.net.text)?;
        let config = FamilyConfig::<AmusedFamily> {
            name: published.name.to_owned(),
            licence: LICENCE.to_owned(),
            image_tokenizer: ImageTokenizerConfig::TamingVqgan(sizes.image),
            sizes: sizes.net,
            // The defaults of `AmusedPipeline`.
            sampling: SamplingOptions {
                guidance_scale: 10.0,
                temperature: 1.0,
                top_k: None,
                top_p: None,
            },
            options: AmusedOptions { pad_id },
            precision: WeightFormat::F32,
        };
        let path = folder.join(INDEX);
        config
            .validate()
            .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
        let weights = PipelineWeights::open(&folder.join("transformer"), folder, published.access)?;
        weights.check_room(
            config.sizes.parameters(),
            config.sizes.text.parameters(),
            config.image_tokenizer.parameters(),
        )?;
        Ok(Opened {
            config,
            text,
            weights,
        })
    }
}

impl PublishedForm<AmusedFamily> for Form {
    fn is_published(&self, path: &Path, _config: Option<&[u8]>) -> bool {
        let index = path.join(INDEX);
        index.is_file() && files::read(index).is_ok_and(|index| config::is_amused(&index))
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<AmusedFamily>> {
        let Opened {
            mut config,
            text,
            weights,
        } = Opened::new(files)?;
        config.precision = format;
        let mut init = Init::empty(device);
        let net = config.sizes.init(&mut init);
        let sizes = &config.sizes;
        let (net, report) =
            weights.load_net(files.path, net, format, |mapping| map(mapping, sizes))?;
        let (image, image_report) = weights.load_image(&config.image_tokenizer, &mut init)?;
        Ok(Published {
            model: FamilyModel {
                config,
                text,
                image,
                net,
                device: device.clone(),
            },
            networks: NetworkReport::of(report, image_report),
            bytes: weights.bytes(),
        })
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<AmusedFamily>, u64)> {
        let opened = Opened::new(files)?;
        let bytes = opened.weights.bytes();
        Ok((opened.config, bytes))
    }
}

/// Gives the tensors of transformer and text encoder our names and layouts.
fn map(mapping: &mut Mapping<'_>, sizes: &AmusedConfig) -> Result<()> {
    hugging_face::map_text(mapping, sizes.text.tower.n_layers)?;
    diffusers::map_ends(mapping, sizes.halved)?;
    mapping.transposed("caption.weight", "encoder_proj.weight")?;
    for (ours, theirs) in [("before", "down_block"), ("after", "up_block")] {
        for i in 0..sizes.n_blocks {
            map_block(mapping, sizes, &format!("{ours}.{i}"), theirs, i)?;
        }
    }
    for i in 0..sizes.n_layers {
        map_layer(
            mapping,
            &format!("layers.{i}"),
            &format!("transformer_layers.{i}"),
        )?;
    }
    Ok(())
}

/// A convolution and the attentions after it.
fn map_block(
    mapping: &mut Mapping<'_>,
    sizes: &AmusedConfig,
    ours: &str,
    theirs: &str,
    number: usize,
) -> Result<()> {
    let (convolution, of_convolution) = (
        format!("{ours}.convolution"),
        format!("{theirs}.res_blocks.{number}"),
    );
    let name = |name: &str| format!("{of_convolution}.{name}");
    mapping.transposed(
        &format!("{convolution}.depthwise"),
        &name("depthwise.weight"),
    )?;
    mapping.same(&format!("{convolution}.norm.weight"), &name("norm.weight"))?;
    for part in ["gamma", "beta"] {
        mapping.reshaped(
            &format!("{convolution}.{part}"),
            &name(&format!("channelwise_norm.{part}")),
        )?;
    }
    for (part, of) in [
        ("up", "channelwise_linear_1"),
        ("down", "channelwise_linear_2"),
        ("modulation", "cond_embeds_mapper"),
    ] {
        mapping.transposed(
            &format!("{convolution}.{part}.weight"),
            &name(&format!("{of}.weight")),
        )?;
    }
    let (attention, of_attention) = (
        format!("{ours}.attention"),
        format!("{theirs}.attention_blocks.{number}"),
    );
    if sizes.block_width != sizes.width {
        mapping.transposed(
            &format!("{attention}.caption.weight"),
            &format!("{of_attention}.kv_mapper.weight"),
        )?;
    }
    for i in [1, 2] {
        mapping.same(
            &format!("{attention}.norm{i}.weight"),
            &format!("{of_attention}.norm{i}.weight"),
        )?;
        map_cross(
            mapping,
            &format!("{attention}.cross{i}"),
            &format!("{of_attention}.attn{i}"),
        )?;
    }
    Ok(())
}

/// An attention to the caption.
fn map_cross(mapping: &mut Mapping<'_>, ours: &str, theirs: &str) -> Result<()> {
    let [q, k, v, out] =
        ["to_q", "to_k", "to_v", "to_out.0"].map(|part| format!("{theirs}.{part}.weight"));
    mapping.transposed(&format!("{ours}.q.weight"), &q)?;
    mapping.side_by_side(&format!("{ours}.kv.weight"), &[&k, &v])?;
    mapping.transposed(&format!("{ours}.out.weight"), &out)
}

/// A layer of the transformer.
fn map_layer(mapping: &mut Mapping<'_>, ours: &str, theirs: &str) -> Result<()> {
    for i in [1, 2, 3] {
        mapping.same(
            &format!("{ours}.norm{i}.norm.weight"),
            &format!("{theirs}.norm{i}.norm.weight"),
        )?;
        mapping.transposed(
            &format!("{ours}.norm{i}.modulation.weight"),
            &format!("{theirs}.norm{i}.linear.weight"),
        )?;
    }
    let [q, k, v, out] =
        ["to_q", "to_k", "to_v", "to_out.0"].map(|part| format!("{theirs}.attn1.{part}.weight"));
    mapping.side_by_side(&format!("{ours}.qkv.weight"), &[&q, &k, &v])?;
    mapping.transposed(&format!("{ours}.attention_out.weight"), &out)?;
    map_cross(
        mapping,
        &format!("{ours}.cross"),
        &format!("{theirs}.attn2"),
    )?;
    // There the values come first, here the gate.
    mapping.halves_swapped(
        &format!("{ours}.gate_up.weight"),
        &format!("{theirs}.ff.net.0.proj.weight"),
    )?;
    mapping.transposed(
        &format!("{ours}.down.weight"),
        &format!("{theirs}.ff.net.2.weight"),
    )
}

#[cfg(test)]
mod tests;
