//! Pipelines of diffusers: a folder for each part, `text_encoder` (`CLIPTextModelWithProjection`), `vqvae` (`VQModel`),
//! `tokenizer`, `scheduler` and the transformer. Weights are safetensors or `.bin`, whole or in shards, in 32 bits or in
//! 16 (the variant `fp16`).

mod config;

use std::path::Path;

use burn::module::Module;

pub(super) use self::config::{
    expect, image, json, of_pictures, scale, scheduler, text, tokenizer,
};
use super::ImportReport;
use super::mapping::Mapping;
use super::weights::{Tensors, WeightFolder};
use crate::checkpoint::WeightFormat;
use crate::files::FileAccess;
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::TamingVqganConfig;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::{Error, Result};

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

/// The weights of a pipeline, their numbers still in the files.
pub(super) struct PipelineWeights {
    transformer: WeightFolder,
    text_encoder: WeightFolder,
    image: WeightFolder,
}

impl PipelineWeights {
    /// Those of a transformer's folder, and of the other parts in `folder`.
    pub fn open(transformer: &Path, folder: &Path, access: FileAccess) -> Result<Self> {
        let part = |path: &Path, names: &[&str]| WeightFolder::open_named(path, names, access);
        Ok(PipelineWeights {
            transformer: part(transformer, &OF_DIFFUSERS)?,
            text_encoder: part(&folder.join("text_encoder"), &OF_TRANSFORMERS)?,
            image: part(&folder.join("vqvae"), &OF_DIFFUSERS)?,
        })
    }

    /// Refuses configs that describe more numbers than the files have bytes, before any memory is taken. `net` counts
    /// those of the text encoder, too.
    pub fn check_room(&self, net: u64, text: u64, image: u64) -> Result<()> {
        for (weights, described) in [
            (&self.text_encoder, text),
            (&self.transformer, net.saturating_sub(text)),
            (&self.image, image),
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
    pub fn bytes(&self) -> u64 {
        self.transformer.bytes() + self.text_encoder.bytes() + self.image.bytes()
    }

    /// Transformer and text encoder. `path` is what errors name.
    pub fn load_net<M: Module>(
        &self,
        path: &Path,
        net: M,
        format: WeightFormat,
        map: impl FnOnce(&mut Mapping<'_>) -> Result<()>,
    ) -> Result<(M, ImportReport)> {
        let loaded = self.transformer.read(|tensors| {
            self.text_encoder.read(|of_text| {
                let tensors: Tensors<'_> = tensors.into_iter().chain(of_text).collect();
                let mut mapping = Mapping::new(path, tensors, &net);
                map(&mut mapping)?;
                mapping.finish_in(net, format)
            })
        })?;
        self.transformer.release();
        self.text_encoder.release();
        Ok(loaded)
    }

    /// The image tokenizer.
    pub fn load_image(
        &self,
        config: &ImageTokenizerConfig,
        init: &mut Init,
    ) -> Result<(ImageTokenizer, ImportReport)> {
        let ImageTokenizerConfig::TamingVqgan(sizes) = config else {
            return Err(Error::bad_file(self.image.path(), "expected a VQModel"));
        };
        let path = self.image.path();
        let loaded = self
            .image
            .read(|tensors| load_image(sizes, path, tensors, init))?;
        self.image.release();
        Ok(loaded)
    }
}

fn load_image(
    sizes: &TamingVqganConfig,
    path: &Path,
    tensors: Tensors<'_>,
    init: &mut Init,
) -> Result<(ImageTokenizer, ImportReport)> {
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

/// Gives the tensors before and after the layers of `UVit2DModel`, which Meissonic has too, our names and layouts; not
/// the first one of the caption.
pub(super) fn map_ends(mapping: &mut Mapping<'_>, halved: bool) -> Result<()> {
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
    if halved {
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
    Ok(())
}
