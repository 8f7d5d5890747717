//! Janus and Janus-Pro in the two forms they are published in, as `.bin` or safetensors, whole or in shards:
//!
//! - *Hugging Face* (`JanusForConditionalGeneration` of transformers): `model_type` "janus";
//! - *original* (github.com/deepseek-ai/Janus): `model_type` "multi_modality", with `language_config` and the names of
//!   LlamaGen's image tokenizer.
//!
//! Such a folder is loaded as it is; fine-tunes of either form are the same files. What has its weights in bfloat16
//! keeps it, in memory and in an import.
//!
//! The image tokenizer follows the original: transformers compares the encoder's vectors with the codes as they are, the
//! original with both at length 1, as in the training. Pictures decode the same.

mod config;
mod names;

use std::path::Path;

use burn::tensor::Device;

use self::config::CONFIG;
use self::names::{Form as Kind, Names};
use super::mapping::Mapping;
use super::weights::{Tensors, WeightFolder};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::stored::Element;
use crate::error::Reason;
use crate::families::{
    FamilyConfig, FamilyModel, ImportOptions, Janus as JanusFamily, JanusOptions, NetworkReport,
    Published, PublishedFiles, PublishedForm, SaveAs,
};
use crate::models::parameters::shapes;
use crate::models::{ImageTokenizer, ImageTokenizerConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::janus::JanusTokenizer;
use crate::{Error, Result, files};

/// SPDX has no name for it: use is free, with restrictions (its attachment A).
const LICENCE: &str = "LicenseRef-DeepSeek-Model";

/// Folders of both forms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// What a published model turned out to be, its numbers still in its files.
struct Inspected<'a> {
    config: FamilyConfig<JanusFamily>,
    text: JanusTokenizer,
    names: Names,
    tensors: Tensors<'a>,
    image_tensors: Tensors<'a>,
    format: WeightFormat,
}

/// Reads the files and passes on what they are.
fn inspect<T>(
    published: PublishedFiles<'_>,
    then: impl FnOnce(&WeightFolder, Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let folder = published.path;
    let config_path = folder.join(CONFIG);
    let kind = config::form(&files::read(&config_path)?)
        .ok_or_else(|| Error::bad_file(&config_path, "is no config of Janus"))?;
    let config = config::read(folder)?;
    let weights = WeightFolder::open(folder, published.access)?;
    let names = Names(kind);
    weights.read(|mut tensors| {
        let bad = |reason: Reason| Error::bad_file(weights.path(), reason);
        let head = names.text_head();
        if config.ties_embeddings()
            && !tensors.contains_key(&head)
            && let Some(embedding) = tensors.get(&names.text("embed_tokens.weight"))
        {
            tensors.insert(head, embedding.clone());
        }
        let known = tensors.get(&names.text("embed_tokens.weight"));
        let known = known.and_then(|tensor| tensor.shape().first().copied());
        let text = JanusTokenizer::load(folder, known.unwrap_or(usize::MAX))?;
        let (sizes, image) = config.sizes(names, &tensors, text.end()).map_err(bad)?;
        for (what, described) in [
            ("transformer", sizes.parameters()),
            ("image tokenizer", image.parameters()),
        ] {
            if described > weights.bytes() {
                let length = weights.bytes();
                return Err(bad(format!(
                    "has {length} bytes, its config describes {described} numbers of the {what}"
                )
                .into()));
            }
        }
        let first = names.text("layers.0.self_attn.q_proj.weight");
        let format = match tensors.get(&first).map(|tensor| tensor.element()) {
            Some(Element::Bf16) => WeightFormat::Bf16,
            _ => WeightFormat::F32,
        };
        let (image_tensors, tensors): (Tensors<'_>, Tensors<'_>) = tensors
            .into_iter()
            .partition(|(name, _)| name.starts_with(names.image_prefix()));
        let config = FamilyConfig::<JanusFamily> {
            name: published.name.to_owned(),
            licence: LICENCE.to_owned(),
            options: JanusOptions {
                roles: text.roles(),
            },
            image_tokenizer: ImageTokenizerConfig::TamingVqgan(image),
            sizes,
            // `generation_inference.py`: guidance alone.
            sampling: SamplingOptions {
                guidance_scale: 5.0,
                temperature: 1.0,
                top_k: None,
                top_p: None,
            },
            precision: format,
        };
        config.validate().map_err(|e| bad(Reason::of(e)))?;
        let inspected = Inspected {
            config,
            text,
            names,
            tensors,
            image_tensors,
            format,
        };
        then(&weights, inspected)
    })
}

impl PublishedForm<JanusFamily> for Form {
    fn is_published(&self, path: &Path, config: Option<&[u8]>) -> bool {
        path.is_dir() && config.and_then(config::form).is_some() && WeightFolder::is_in(path)
    }

    fn precision(&self, files: PublishedFiles<'_>) -> Result<WeightFormat> {
        inspect(files, |_, model| Ok(model.format))
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<JanusFamily>> {
        inspect(files, |weights, model| load(weights, model, device, format))
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<JanusFamily>, u64)> {
        inspect(files, |weights, model| Ok((model.config, weights.bytes())))
    }

    /// The weights keep the precision that they have.
    fn import(
        &self,
        files: PublishedFiles<'_>,
        options: &ImportOptions,
        dir: &Path,
    ) -> Result<Vec<NetworkReport>> {
        inspect(files, |weights, model| {
            let format = model.format;
            let published = load(weights, model, &Device::flex(), format)?;
            let mut model = published.model;
            if let Some(licence) = &options.licence {
                model.config.licence.clone_from(licence);
            }
            model.save(dir, SaveAs::Held)?;
            Ok(published.networks)
        })
    }
}

fn load(
    weights: &WeightFolder,
    model: Inspected<'_>,
    device: &Device,
    format: WeightFormat,
) -> Result<Published<JanusFamily>> {
    let path = weights.path();
    let Inspected {
        mut config,
        text,
        names,
        tensors,
        image_tensors,
        ..
    } = model;
    config.precision = format;
    let mut init = Init::empty(device);
    let net = config.sizes.init(&mut init);
    let mut mapping = Mapping::new(path, tensors, &net);
    map(&mut mapping, names, &config)?;
    let (net, report) = mapping.finish_in(net, format)?;
    weights.release();

    let ImageTokenizerConfig::TamingVqgan(sizes) = &config.image_tokenizer else {
        return Err(Error::bad_file(path, "expected the image tokenizer VQ-16"));
    };
    let image = sizes.init(&mut init);
    let ours: Vec<String> = shapes(&image).into_keys().collect();
    let unused: Vec<String> = image_tensors
        .keys()
        .filter(|name| names.is_unused(name))
        .cloned()
        .collect();
    let mut mapping = Mapping::new(path, image_tensors, &image);
    for name in unused {
        mapping.ignore(&name);
    }
    for name in ours {
        mapping.same(&name, &names.image(&name, sizes.multipliers.len()))?;
    }
    let (image, image_report) = mapping.finish(image)?;
    weights.release();
    Ok(Published {
        model: FamilyModel {
            config,
            text,
            image: ImageTokenizer::TamingVqgan(image),
            net,
            device: device.clone(),
        },
        networks: NetworkReport::of(report, image_report),
        bytes: weights.bytes(),
    })
}

/// Gives the transformer's tensors our names and layouts.
fn map(mapping: &mut Mapping<'_>, names: Names, config: &FamilyConfig<JanusFamily>) -> Result<()> {
    let sizes = &config.sizes;
    for name in mapping.names() {
        if names.is_unused(&name) {
            mapping.ignore(&name);
        }
    }
    mapping.same("text_embedding.weight", &names.text("embed_tokens.weight"))?;
    mapping.same("norm.weight", &names.text("norm.weight"))?;
    mapping.transposed("text_head.weight", &names.text_head())?;
    for i in 0..sizes.n_layers {
        let ours = |name: &str| format!("blocks.{i}.{name}.weight");
        let theirs = |name: &str| names.text(&format!("layers.{i}.{name}.weight"));
        let q = ["q", "k", "v"].map(|part| theirs(&format!("self_attn.{part}_proj")));
        let gate = ["gate", "up"].map(|part| theirs(&format!("mlp.{part}_proj")));
        mapping.same(&ours("attention_norm"), &theirs("input_layernorm"))?;
        mapping.side_by_side(&ours("qkv"), &q.each_ref().map(String::as_str))?;
        mapping.transposed(&ours("attention_out"), &theirs("self_attn.o_proj"))?;
        mapping.same(&ours("mlp_norm"), &theirs("post_attention_layernorm"))?;
        mapping.side_by_side(&ours("gate_up"), &gate.each_ref().map(String::as_str))?;
        mapping.transposed(&ours("down"), &theirs("mlp.down_proj"))?;
    }
    mapping.same("image_embedding.weight", &names.image_embedding())?;
    let aligners = [
        ("image_aligner", sizes.image_aligner_depth, true),
        ("vision_aligner", sizes.vision.aligner_depth, false),
    ];
    for (place, depth, of_ids) in aligners {
        for i in 0..depth {
            let ours = format!("{place}.layers.{i}");
            linear(mapping, &ours, |leaf| match of_ids {
                true => names.image_aligner(i, leaf),
                false => names.vision_aligner(i, leaf),
            })?;
        }
    }
    linear(mapping, "image_head.inner", |leaf| {
        names.image_head_inner(leaf)
    })?;
    linear(mapping, "image_head.out", |leaf| names.image_head_out(leaf))?;

    for leaf in ["weight", "bias"] {
        let ours = format!("vision.patch_embedding.{leaf}");
        mapping.same(&ours, &names.vision(&format!("patch.{leaf}")))?;
        let ours = format!("vision.norm.{leaf}");
        mapping.same(&ours, &names.vision(&format!("norm.{leaf}")))?;
    }
    mapping.reshaped(
        "vision.position_embedding.weight",
        &names.vision("positions"),
    )?;
    for i in 0..sizes.vision.n_layers {
        let ours = |name: &str| format!("vision.layers.{i}.{name}");
        let theirs = |name: &str| names.vision_layer(i, name);
        for leaf in ["weight", "bias"] {
            let norms = [("attention_norm", "norm1"), ("mlp_norm", "norm2")];
            for (name, of) in norms {
                mapping.same(
                    &ours(&format!("{name}.{leaf}")),
                    &theirs(&format!("{of}.{leaf}")),
                )?;
            }
            let qkv: &[&str] = match names.0 {
                Kind::HuggingFace => &["q", "k", "v"],
                Kind::Original => &["qkv"],
            };
            let qkv: Vec<String> = qkv
                .iter()
                .map(|part| theirs(&format!("{part}.{leaf}")))
                .collect();
            let qkv: Vec<&str> = qkv.iter().map(String::as_str).collect();
            mapping.side_by_side(&ours(&format!("qkv.{leaf}")), &qkv)?;
        }
        linear(mapping, &ours("attention_out"), |leaf| {
            theirs(&format!("proj.{leaf}"))
        })?;
        linear(mapping, &ours("up"), |leaf| theirs(&format!("fc1.{leaf}")))?;
        linear(mapping, &ours("down"), |leaf| {
            theirs(&format!("fc2.{leaf}"))
        })?;
    }
    Ok(())
}

/// A linear layer with a bias.
fn linear(mapping: &mut Mapping<'_>, ours: &str, theirs: impl Fn(&str) -> String) -> Result<()> {
    mapping.transposed(&format!("{ours}.weight"), &theirs("weight"))?;
    mapping.same(&format!("{ours}.bias"), &theirs("bias"))
}

#[cfg(test)]
mod tests;
