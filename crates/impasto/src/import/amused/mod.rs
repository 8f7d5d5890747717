//! aMUSEd as diffusers publishes it (`amused/amused-256`, `amused/amused-512` and fine-tunes of them): a folder with
//! `model_index.json`, and in it a folder for each of `transformer` (`UVit2DModel`), `text_encoder`
//! (`CLIPTextModelWithProjection`), `vqvae` (`VQModel`), `tokenizer` and `scheduler`. Weights are safetensors or `.bin`,
//! whole or in shards, in 32 bits or in 16 (the variant `fp16`).

mod config;

use std::path::Path;

use burn::tensor::Device;

use self::config::INDEX;
use super::clip::hugging_face;
use super::mapping::Mapping;
use super::weights::{Tensors, WeightFolder};
use crate::checkpoint::WeightFormat;
use crate::error::Reason;
use crate::families::{
    Amused as AmusedFamily, AmusedOptions, FamilyConfig, FamilyModel, NetworkReport, Published,
    PublishedFiles, PublishedForm,
};
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::models::{AmusedConfig, ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::clip::ClipTokenizer;
use crate::{Error, Result, files};

/// CreativeML Open RAIL++-M, for which SPDX has no name: use is free, with restrictions (its attachment A).
const LICENCE: &str = "LicenseRef-OpenRAIL-PP-M";

/// Folders of diffusers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// The weight files of a part, the best first.
const OF_DIFFUSERS: [&str; 6] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
];
/// Those of the text encoder.
const OF_TRANSFORMERS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.fp16.bin",
];

/// The files of a published model, its numbers still in them.
struct Opened {
    config: FamilyConfig<AmusedFamily>,
    text: ClipTokenizer,
    transformer: WeightFolder,
    text_encoder: WeightFolder,
    image: WeightFolder,
}

impl Opened {
    fn new(published: PublishedFiles<'_>) -> Result<Self> {
        let folder = published.path;
        let sizes = config::read(folder)?;
        let (text, pad_id) = config::tokenizer(folder, &sizes.net.text)?;
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
        let part = |name: &str, names: &'static [&'static str]| {
            WeightFolder::open_named(&folder.join(name), names, published.access)
        };
        let opened = Opened {
            config,
            text,
            transformer: part("transformer", &OF_DIFFUSERS)?,
            text_encoder: part("text_encoder", &OF_TRANSFORMERS)?,
            image: part("vqvae", &OF_DIFFUSERS)?,
        };
        opened.check_room()?;
        Ok(opened)
    }

    /// Refuses configs that describe more numbers than the files have bytes, before any memory is taken.
    fn check_room(&self) -> Result<()> {
        let (text, net) = (
            self.config.sizes.text.parameters(),
            self.config.sizes.parameters(),
        );
        for (weights, described) in [
            (&self.text_encoder, text),
            (&self.transformer, net.saturating_sub(text)),
            (&self.image, self.config.image_tokenizer.parameters()),
        ] {
            let length = weights.bytes();
            if described > length {
                return Err(Error::bad_file(
                    weights.path(),
                    format!("has {length} bytes, its config describes {described} numbers"),
                ));
            }
        }
        Ok(())
    }

    /// Bytes of the weight files.
    fn bytes(&self) -> u64 {
        self.transformer.bytes() + self.text_encoder.bytes() + self.image.bytes()
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
            transformer,
            text_encoder,
            image,
        } = Opened::new(files)?;
        let bytes = transformer.bytes() + text_encoder.bytes() + image.bytes();
        config.precision = format;
        let mut init = Init::empty(device);
        let net = config.sizes.init(&mut init);
        let (net, report) = transformer.read(|tensors| {
            text_encoder.read(|of_text| {
                let tensors: Tensors<'_> = tensors.into_iter().chain(of_text).collect();
                let mut mapping = Mapping::new(files.path, tensors, &net);
                map(&mut mapping, &config.sizes)?;
                mapping.finish_in(net, format)
            })
        })?;
        transformer.release();
        text_encoder.release();

        let ImageTokenizerConfig::TamingVqgan(sizes) = &config.image_tokenizer else {
            return Err(Error::bad_file(image.path(), "expected a VQModel"));
        };
        let (tokenizer, image_report) =
            image.read(|tensors| load_image(sizes, image.path(), tensors, &mut init))?;
        image.release();
        Ok(Published {
            model: FamilyModel {
                config,
                text,
                image: tokenizer,
                net,
                device: device.clone(),
            },
            networks: NetworkReport::of(report, image_report),
            bytes,
        })
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<AmusedFamily>, u64)> {
        let opened = Opened::new(files)?;
        let bytes = opened.bytes();
        Ok((opened.config, bytes))
    }
}

fn load_image(
    sizes: &TamingVqganConfig,
    path: &Path,
    tensors: Tensors<'_>,
    init: &mut Init,
) -> Result<(ImageTokenizer, super::ImportReport)> {
    let image = sizes.init(init);
    let ours: Vec<String> = shapes(&image).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &image);
    for name in ours {
        mapping.same(&name, &of_image(&name, sizes.multipliers.len()))?;
    }
    let (image, report) = mapping.finish(image)?;
    Ok((ImageTokenizer::TamingVqgan(image), report))
}

/// diffusers' name of a parameter of [`crate::models::taming_vqgan::TamingVqgan`] with this many levels: of the
/// decoder's the coarsest is the first there, the last here.
fn of_image(ours: &str, levels: usize) -> String {
    let is_decoder = ours.starts_with("decoder.up.");
    let mut theirs = Vec::new();
    for (place, part) in ours.split('.').enumerate() {
        theirs.push(match (place, part) {
            (1, "down") => "down_blocks".to_owned(),
            (1, "up") => "up_blocks".to_owned(),
            (1, "mid") => "mid_block".to_owned(),
            (1, "norm_out") => "conv_norm_out".to_owned(),
            (2, level) if is_decoder => {
                let level: usize = level.parse().unwrap_or_default();
                // One that is not there here is not there either.
                let theirs = levels.checked_sub(1 + level).unwrap_or(level);
                theirs.to_string()
            }
            (2, "block_1") => "resnets.0".to_owned(),
            (2, "block_2") => "resnets.1".to_owned(),
            (3, "block") => "resnets".to_owned(),
            (3, "downsample") => "downsamplers.0".to_owned(),
            (3, "upsample") => "upsamplers.0".to_owned(),
            (_, "nin_shortcut") => "conv_shortcut".to_owned(),
            (_, part) => part.to_owned(),
        });
    }
    theirs.join(".")
}

/// Gives the tensors of transformer and text encoder our names and layouts.
fn map(mapping: &mut Mapping<'_>, sizes: &AmusedConfig) -> Result<()> {
    hugging_face::map_text(mapping, sizes.text.tower.n_layers)?;
    for (ours, theirs) in [
        ("caption_norm.weight", "encoder_proj_layer_norm.weight"),
        ("embedding.weight", "embed.embeddings.weight"),
        ("embedding_norm.weight", "embed.layer_norm.weight"),
        ("norm_in.weight", "project_to_hidden_norm.weight"),
        ("norm_out.weight", "project_from_hidden_norm.weight"),
        ("head_norm.weight", "mlm_layer.layer_norm.weight"),
    ] {
        mapping.same(ours, theirs)?;
    }
    for (ours, theirs) in [
        ("caption.weight", "encoder_proj.weight"),
        ("condition_in.weight", "cond_embed.linear_1.weight"),
        ("condition_out.weight", "cond_embed.linear_2.weight"),
        ("embedding_out.weight", "embed.conv.weight"),
        ("project_in.weight", "project_to_hidden.weight"),
        ("project_out.weight", "project_from_hidden.weight"),
        ("head_in.weight", "mlm_layer.conv1.weight"),
        ("head.weight", "mlm_layer.conv2.weight"),
    ] {
        mapping.transposed(ours, theirs)?;
    }
    if sizes.halved {
        mapping.same(
            "downsample.norm.weight",
            "down_block.downsample.norm.weight",
        )?;
        mapping.transposed(
            "downsample.squares.weight",
            "down_block.downsample.conv.weight",
        )?;
        mapping.same("upsample.norm.weight", "up_block.upsample.norm.weight")?;
        // A transposed convolution has its inputs first, as we have.
        mapping.same("upsample.squares.weight", "up_block.upsample.conv.weight")?;
    }
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
