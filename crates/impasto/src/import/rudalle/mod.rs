//! ruDALL-E as it is published: the transformer (`pytorch_model_v3.bin`, `pytorch_model.bin`, or what a fine-tune saved of
//! it), the image tokenizer `vqgan.gumbelf8-sber.model.ckpt` and the text tokenizer `bpe.model` (both of
//! `rudalle-utils`), in one folder.
//!
//! Sizes are those of the tensors. Heads and the version of the architecture are in none: see the module `sizes`.

mod sizes;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use self::sizes::ModelEntry;
use super::image_tokenizer::{read_taming, taming as map_taming};
use super::mapping::Mapping;
use super::weights::{Tensors, WeightFolder};
use super::{dalle_pytorch, entries, taming};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::pytorch::mentions;
use crate::checkpoint::stored::Element;
use crate::error::Reason;
use crate::families::{
    FamilyConfig, FamilyModel, NetworkReport, NoOptions, Published, PublishedFiles, PublishedForm,
    RuDalle as RuDalleFamily,
};
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::models::{ImageTokenizerConfig, RuDalleConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::rudalle::RuDalleTokenizer;
use crate::{Error, Result, files};

/// Of the code and the weights.
const LICENCE: &str = "Apache-2.0";

/// The published image tokenizer.
const VQGAN: &str = "vqgan.gumbelf8-sber.model.ckpt";

/// Files of ruDALL-E.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// Whether a file is a transformer, by its name and what its pickle mentions.
fn is_transformer(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str());
    path.is_file()
        && end.is_some_and(|end| ["bin", "pt", "pth"].contains(&end))
        && mentions(
            path,
            &[
                "text_pos_embeddings.weight",
                "image_row_embeddings.weight",
                "attention.query_key_value.weight",
            ],
        )
}

/// Where the parts of a model are.
struct Parts {
    transformer: PathBuf,
    image: PathBuf,
    /// The folder of the text tokenizer.
    text: PathBuf,
}

impl Parts {
    /// By names and small parts of files.
    fn find(published: PublishedFiles<'_>) -> Result<Self> {
        let path = published.path;
        let folder = if path.is_file() {
            files::folder_of(path)
        } else {
            path
        };
        let missing = |what: &'static str, hint: &'static str| Error::Missing {
            what,
            path: folder.to_owned(),
            hint: hint.into(),
        };
        let transformer = if path.is_file() {
            path.to_owned()
        } else {
            let all = entries(folder);
            let found: Vec<&PathBuf> = all.iter().filter(|path| is_transformer(path)).collect();
            match found[..] {
                [one] => one.clone(),
                [] => {
                    return Err(missing(
                        "the transformer",
                        "expected a file such as pytorch_model_v3.bin",
                    ));
                }
                _ => {
                    let count = found.len();
                    let reason = format!("has {count} transformers; name the file of one of them");
                    return Err(Error::bad_file(folder, reason));
                }
            }
        };
        // Both are in a repository of their own, of all models.
        let places = || std::iter::once(folder).chain(published.image_tokenizer);
        let image = places().find_map(vqgan_in).ok_or_else(|| {
            missing(
                "the image tokenizer",
                "put vqgan.gumbelf8-sber.model.ckpt of rudalle-utils beside the weights",
            )
        })?;
        let text = places()
            .map(|place| match place.is_file() {
                true => files::folder_of(place),
                false => place,
            })
            .find(|place| RuDalleTokenizer::file_in(place).is_some())
            .unwrap_or(folder);
        Ok(Parts {
            transformer,
            image,
            text: text.to_owned(),
        })
    }
}

/// The image tokenizer in a folder, or the file itself: the published one, else the first `.ckpt`.
fn vqgan_in(place: &Path) -> Option<PathBuf> {
    let is_checkpoint = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "ckpt")
            && path.is_file()
    };
    if place.is_file() {
        return Some(place.to_owned()).filter(is_checkpoint);
    }
    let usual = place.join(VQGAN);
    if usual.is_file() {
        return Some(usual);
    }
    entries(place).into_iter().find(is_checkpoint)
}

/// What a published model turned out to be, its numbers still in its files.
struct Inspected<'a> {
    config: FamilyConfig<RuDalleFamily>,
    vqgan: TamingVqganConfig,
    text: RuDalleTokenizer,
    tensors: Tensors<'a>,
    image_tensors: Tensors<'a>,
    bytes: u64,
    parts: &'a Parts,
}

/// Reads the files and passes on what they are.
fn inspect<T>(
    published: PublishedFiles<'_>,
    then: impl FnOnce(Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let parts = Parts::find(published)?;
    let entry = ModelEntry::beside(&parts.transformer)?;
    let transformer = WeightFolder::open_file(&parts.transformer, published.access)?;
    transformer.read(|tensors| {
        read_taming(&parts.image, |image_tensors| {
            inspect_with(&parts, &entry, published, [tensors, image_tensors], then)
        })
    })
}

fn inspect_with<'a, T>(
    parts: &'a Parts,
    entry: &ModelEntry,
    published: PublishedFiles<'_>,
    [tensors, image_tensors]: [Tensors<'a>; 2],
    then: impl FnOnce(Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let bad = |reason: Reason| Error::bad_file(&parts.transformer, reason);
    let bytes_of = |path: &Path| {
        let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
        Ok::<u64, Error>(found.len())
    };
    let sizes = entry
        .sizes(&tensors, &parts.transformer, published.name)
        .map_err(bad)?;
    let vqgan = vqgan(&image_tensors, sizes.grid)
        .and_then(|vqgan| vqgan.validate().map(|()| vqgan).map_err(Reason::of))
        .map_err(|reason| Error::bad_file(&parts.image, reason))?;
    let (bytes, image_bytes) = (bytes_of(&parts.transformer)?, bytes_of(&parts.image)?);
    for (path, described, bytes) in [
        (&parts.transformer, sizes.parameters(), bytes),
        (&parts.image, vqgan.parameters(), image_bytes),
    ] {
        if described > bytes {
            let reason = format!("has {bytes} bytes, its sizes describe {described} numbers");
            return Err(Error::bad_file(path, reason));
        }
    }
    let text = RuDalleTokenizer::load(&parts.text, sizes.text_vocab_size)?;
    let config = FamilyConfig::<RuDalleFamily> {
        name: published.name.to_owned(),
        licence: LICENCE.to_owned(),
        options: NoOptions {},
        image_tokenizer: ImageTokenizerConfig::TamingVqgan(vqgan.clone()),
        // Those of the reference's example (README, "generation by ruDALLE").
        sampling: SamplingOptions {
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: Some(2048).filter(|&kept| kept < sizes.codebook_size),
            top_p: Some(0.995),
        },
        precision: format_of(&tensors),
        sizes,
    };
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    then(Inspected {
        config,
        vqgan,
        text,
        tensors,
        image_tensors,
        bytes: bytes + image_bytes,
        parts,
    })
}

/// In what the linear layers of a transformer are held. Its 16 bits are of the kind with more significant bits, which are
/// kept.
fn format_of(tensors: &Tensors<'_>) -> WeightFormat {
    match tensors
        .get("transformer.layers.0.attention.query_key_value.weight")
        .map(|it| it.element())
    {
        Some(Element::Bf16) => WeightFormat::Bf16,
        _ => WeightFormat::F32,
    }
}

/// The sizes of the image tokenizer; its config is in the package, not beside the weights.
fn vqgan(tensors: &Tensors<'_>, grid: usize) -> Result<TamingVqganConfig, Reason> {
    if tensors.keys().any(|name| name.contains("decoder.decoder.")) {
        return Err(format!(
            "is the image tokenizer with wavelets, for pictures twice as large, which is not read; expected {VQGAN}"
        )
        .into());
    }
    let shape = |name: &str| tensors.get(name).map(|tensor| tensor.shape());
    taming::sizes(&shape, PixelRange::Signed, |levels| {
        grid << (levels - 1).min(16)
    })
}

impl PublishedForm<RuDalleFamily> for Form {
    fn is_published(&self, path: &Path, _config: Option<&[u8]>) -> bool {
        match path.is_dir() {
            true => entries(path).iter().any(|path| is_transformer(path)),
            false => is_transformer(path),
        }
    }

    fn precision(&self, files: PublishedFiles<'_>) -> Result<WeightFormat> {
        inspect(files, |model| Ok(model.config.precision))
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<RuDalleFamily>> {
        inspect(files, |model| load(model, device, format))
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<RuDalleFamily>, u64)> {
        inspect(files, |model| Ok((model.config, model.bytes)))
    }
}

fn load(
    model: Inspected<'_>,
    device: &Device,
    format: WeightFormat,
) -> Result<Published<RuDalleFamily>> {
    let Inspected {
        mut config,
        vqgan,
        text,
        tensors,
        image_tensors,
        bytes,
        parts,
    } = model;
    config.precision = format;
    let (net, report) = map(&parts.transformer, tensors, &config.sizes, device, format)?;
    let (image, image_report) = map_taming(&parts.image, image_tensors, &vqgan, device)?;
    Ok(Published {
        model: FamilyModel {
            config,
            text,
            image,
            net,
            device: device.clone(),
        },
        networks: NetworkReport::of(report, image_report),
        bytes,
    })
}

/// The model of a state dict.
fn map(
    path: &Path,
    mut tensors: Tensors<'_>,
    config: &RuDalleConfig,
    device: &Device,
    format: WeightFormat,
) -> Result<(crate::models::RuDalle, super::ImportReport)> {
    let heads = [config.text_rows(), config.codebook_size];
    dalle_pytorch::split_head(&mut tensors, heads).map_err(|e| Error::bad_file(path, e))?;
    let model = config.init(&mut Init::empty(device));
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    // They follow from the version.
    for mask in ["row", "col", "conv"] {
        mapping.ignore(&format!("transformer.{mask}_mask"));
    }
    for name in ours {
        let theirs = theirs(&name).ok_or_else(|| {
            let reason = format!("nothing is known that {name} comes from");
            Error::bad_file(path, reason)
        })?;
        let is_matrix = name.ends_with("weight") && !name.contains("norm");
        match is_matrix && !is_table(&name) {
            true => mapping.transposed(&name, &theirs)?,
            false => mapping.same(&name, &theirs)?,
        }
    }
    mapping.finish_in(model, format)
}

fn is_table(ours: &str) -> bool {
    !ours.starts_with("layers.") && !ours.contains("head")
}

/// Their name of a parameter of ours.
fn theirs(ours: &str) -> Option<String> {
    if let Some(rest) = ours.strip_prefix("layers.") {
        let (number, rest) = rest.split_once('.')?;
        let (part, leaf) = rest.rsplit_once('.')?;
        let part = match part {
            "attention_norm" => "input_layernorm",
            "qkv" => "attention.query_key_value",
            "attention_out" => "attention.dense",
            "attention_norm_out" => "before_first_addition_layernorm",
            "mlp_norm" => "post_attention_layernorm",
            "up" => "mlp.dense_h_to_4h",
            "down" => "mlp.dense_4h_to_h",
            "mlp_norm_out" => "before_second_addition_layernorm",
            _ => return None,
        };
        return Some(format!("transformer.layers.{number}.{part}.{leaf}"));
    }
    let (part, leaf) = ours.split_once('.')?;
    Some(match part {
        "text_embedding" => format!("text_embeddings.{leaf}"),
        "image_embedding" => format!("image_embeddings.{leaf}"),
        "text_positions" => format!("text_pos_embeddings.{leaf}"),
        "image_rows" => format!("image_row_embeddings.{leaf}"),
        "image_columns" => format!("image_col_embeddings.{leaf}"),
        "norm" => format!("transformer.final_layernorm.{leaf}"),
        "head_norm" => format!("to_logits.0.{leaf}"),
        "text_head" => format!("to_logits.1.{leaf} (text)"),
        "image_head" => format!("to_logits.1.{leaf} (image)"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
