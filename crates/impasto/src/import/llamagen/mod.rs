//! LlamaGen as it is published: the transformer (`t2i_XL_stage1_256.pt`, `c2i_L_384.pt`, or `model.safetensors` beside
//! the `config.json` of its `ModelArgs`), its image tokenizer (`vq_ds16_t2i.pt`), and for captions the folder of a T5
//! encoder as transformers has it (`google/flan-t5-xl`). Fine-tunes are the same files.
//!
//! Heads and the size of pictures are not in the tensors: `config.json` says them, else the sizes of the published models
//! and the end of the file's name do.

mod config;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use self::config::{ModelArgs, is_t5};
use super::mapping::Mapping;
use super::taming;
use super::weights::{Tensors, WeightFolder};
use super::{entries, file_name};
use crate::checkpoint::WeightFormat;
use crate::checkpoint::stored::Element;
use crate::error::Reason;
use crate::families::{
    FamilyConfig, FamilyModel, LlamaGen as LlamaGenFamily, LlamaGenText, NetworkReport, NoOptions,
    Published, PublishedFiles, PublishedForm,
};
use crate::models::llamagen::LlamaGenCondition;
use crate::models::parameters::shapes;
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::models::{ImageTokenizer, ImageTokenizerConfig, LlamaGenConfig};
use crate::nn::Init;
use crate::sampling::SamplingOptions;
use crate::text::t5::T5Tokenizer;
use crate::{Error, Result, files};

/// Of the code and the weights.
const LICENCE: &str = "MIT";

/// Files and folders of LlamaGen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form;

/// Where the parts of a model are.
struct Parts {
    transformer: PathBuf,
    image: PathBuf,
    /// The folder of the text encoder, of models of captions.
    text: Option<PathBuf>,
}

fn is_weights(path: &Path) -> bool {
    let end = path
        .extension()
        .and_then(|end| end.to_str())
        .unwrap_or_default();
    path.is_file() && ["pt", "pth", "bin", "safetensors"].contains(&end)
}

/// Whether a file has the name of a published transformer.
fn is_transformer(path: &Path) -> bool {
    is_weights(path)
        && ["c2i_", "t2i_"]
            .iter()
            .any(|start| file_name(path).starts_with(start))
}

impl Parts {
    /// By names and small files alone.
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
        let here = entries(folder);
        let transformer = if path.is_file() {
            path.to_owned()
        } else {
            let named: Vec<&PathBuf> = here.iter().filter(|path| is_transformer(path)).collect();
            let usual = ["model.safetensors", "pytorch_model.bin"].map(|name| folder.join(name));
            match named[..] {
                [one] => one.clone(),
                [] => usual
                    .into_iter()
                    .find(|path| path.is_file())
                    .ok_or_else(|| {
                        missing(
                            "the transformer",
                            "expected a file such as t2i_XL_stage1_256.pt",
                        )
                    })?,
                _ => {
                    let count = named.len();
                    let reason = format!("has {count} transformers; name the file of one of them");
                    return Err(Error::bad_file(folder, reason));
                }
            }
        };
        let is_image = |path: &&PathBuf| is_weights(path) && file_name(path).starts_with("vq");
        let image = here.iter().find(is_image).cloned();
        let image = image.or_else(|| {
            let mut folders = here.iter().filter(|path| path.is_dir());
            let of = folders.find(|path| file_name(path).starts_with("vq"))?;
            let usual = ["model.safetensors", "pytorch_model.bin"].map(|name| of.join(name));
            usual.into_iter().find(|path| path.is_file())
        });
        let image = image.ok_or_else(|| {
            missing(
                "the image tokenizer",
                "expected vq_ds16_t2i.pt or vq_ds16_c2i.pt",
            )
        })?;
        let text = here.iter().find(|path| is_t5(path)).cloned();
        let beside = || {
            published
                .image_tokenizer
                .filter(|path| is_t5(path))
                .map(Path::to_owned)
        };
        Ok(Parts {
            transformer,
            image,
            text: text.or_else(beside),
        })
    }
}

/// What a published model turned out to be, its numbers still in its files.
struct Inspected<'a> {
    config: FamilyConfig<LlamaGenFamily>,
    text: LlamaGenText,
    tensors: Tensors<'a>,
    image_tensors: Tensors<'a>,
    format: WeightFormat,
    bytes: u64,
    transformer: &'a Path,
    image: &'a Path,
}

/// Reads the files and passes on what they are.
fn inspect<T>(
    published: PublishedFiles<'_>,
    then: impl FnOnce(Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let parts = Parts::find(published)?;
    let args = ModelArgs::beside(&parts.transformer)?;
    let transformer = WeightFolder::open_file(&parts.transformer, published.access)?;
    let image = WeightFolder::open_file(&parts.image, published.access)?;
    let text = match &parts.text {
        Some(folder) => Some(WeightFolder::open(folder, published.access)?),
        None => None,
    };
    transformer.read(|tensors| {
        image.read(|image_tensors| match &text {
            None => inspect_with(
                &parts,
                &args,
                published,
                [tensors, image_tensors],
                None,
                then,
            ),
            Some(of) => of.read(|of_text| {
                let all = [tensors, image_tensors];
                inspect_with(&parts, &args, published, all, Some((of, of_text)), then)
            }),
        })
    })
}

fn inspect_with<'a, T>(
    parts: &'a Parts,
    args: &ModelArgs,
    published: PublishedFiles<'_>,
    [mut tensors, image_tensors]: [Tensors<'a>; 2],
    text_encoder: Option<(&WeightFolder, Tensors<'a>)>,
    then: impl FnOnce(Inspected<'_>) -> Result<T>,
) -> Result<T> {
    let bad = |reason: Reason| Error::bad_file(&parts.transformer, reason);
    let bytes_of = |path: &Path| {
        let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
        Ok::<u64, Error>(found.len())
    };
    // Of the image tokenizer first: the number of its levels and the size of pictures give the grid.
    let levels = (0..16)
        .take_while(|i| {
            image_tensors.contains_key(&format!("decoder.conv_blocks.{i}.res.0.conv1.weight"))
        })
        .count();
    let (grid, n_heads) = args
        .outer(&parts.transformer, &tensors, levels)
        .map_err(bad)?;
    let of_taming = |name: &str| {
        let theirs = taming::of_llamagen(name, levels);
        image_tensors.get(&theirs).map(|tensor| tensor.shape())
    };
    let image = taming::sizes(&of_taming, PixelRange::Signed, |levels| {
        grid << (levels - 1).min(16)
    })
    .map(|sizes| TamingVqganConfig {
        normalised_codes: true,
        ..sizes
    })
    .and_then(|sizes| sizes.validate().map(|()| sizes).map_err(Reason::of))
    .map_err(|reason| Error::bad_file(&parts.image, reason))?;
    let is_text = tensors.contains_key("cls_embedding.uncond_embedding");
    let mut bytes = bytes_of(&parts.transformer)? + bytes_of(&parts.image)?;
    let text_config = match (is_text, &parts.text) {
        (false, _) => None,
        (true, Some(folder)) => Some((folder, config::t5(folder)?)),
        (true, None) => {
            return Err(Error::Missing {
                what: "the text encoder",
                path: files::folder_of(&parts.transformer).to_owned(),
                hint: "put the folder of google/flan-t5-xl into it, or pull the model by its name"
                    .into(),
            });
        }
    };
    let (sizes, text) = {
        let of_text = text_config.as_ref().map(|(_, config)| config.clone());
        let sizes = args
            .sizes(&tensors, (grid, n_heads), of_text)
            .map_err(bad)?;
        let text = match &text_config {
            None => LlamaGenText::Class,
            Some((folder, config)) => {
                LlamaGenText::Caption(Box::new(T5Tokenizer::load(folder, config.vocab_size)?))
            }
        };
        (sizes, text)
    };
    if let (Some((files, of_text)), true) = (text_encoder, is_text) {
        bytes += files.bytes();
        tensors.extend(of_text);
    }
    let described = sizes.parameters().saturating_add(image.parameters());
    if described > bytes {
        return Err(bad(format!(
            "and its parts have {bytes} bytes, their sizes describe {described} numbers"
        )
        .into()));
    }
    let format = match tensors
        .get("layers.0.attention.wqkv.weight")
        .map(|it| it.element())
    {
        Some(Element::Bf16) => WeightFormat::Bf16,
        _ => WeightFormat::F32,
    };
    // The defaults of `sample_c2i.py` and `sample_t2i.py`.
    let (guidance_scale, top_k) = if is_text { (7.5, 1000) } else { (4.0, 2000) };
    let config = FamilyConfig::<LlamaGenFamily> {
        name: published.name.to_owned(),
        licence: LICENCE.to_owned(),
        options: NoOptions {},
        image_tokenizer: ImageTokenizerConfig::TamingVqgan(image),
        sizes,
        sampling: SamplingOptions {
            guidance_scale,
            temperature: 1.0,
            top_k: Some(top_k),
            top_p: None,
        },
        precision: format,
    };
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    then(Inspected {
        config,
        text,
        tensors,
        image_tensors,
        format,
        bytes,
        transformer: &parts.transformer,
        image: &parts.image,
    })
}

impl PublishedForm<LlamaGenFamily> for Form {
    fn is_published(&self, path: &Path, config: Option<&[u8]>) -> bool {
        if path.is_file() {
            return is_transformer(path);
        }
        path.is_dir()
            && (entries(path).iter().any(|path| is_transformer(path))
                || config.is_some_and(config::is_model_args))
    }

    fn precision(&self, files: PublishedFiles<'_>) -> Result<WeightFormat> {
        inspect(files, |model| Ok(model.format))
    }

    fn load(
        &self,
        files: PublishedFiles<'_>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Published<LlamaGenFamily>> {
        inspect(files, |model| load(model, device, format))
    }

    fn describe(&self, files: PublishedFiles<'_>) -> Result<(FamilyConfig<LlamaGenFamily>, u64)> {
        inspect(files, |model| Ok((model.config, model.bytes)))
    }
}

fn load(
    model: Inspected<'_>,
    device: &Device,
    format: WeightFormat,
) -> Result<Published<LlamaGenFamily>> {
    let Inspected {
        mut config,
        text,
        tensors,
        image_tensors,
        bytes,
        transformer,
        image,
        ..
    } = model;
    config.precision = format;
    let mut init = Init::empty(device);
    let net = config.sizes.init(&mut init);
    let mut mapping = Mapping::new(transformer, tensors, &net);
    map(&mut mapping, &config.sizes)?;
    let (net, report) = mapping.finish_in(net, format)?;

    let ImageTokenizerConfig::TamingVqgan(sizes) = &config.image_tokenizer else {
        return Err(Error::bad_file(image, "expected the image tokenizer VQ-16"));
    };
    let tokenizer = sizes.init(&mut init);
    let ours: Vec<String> = shapes(&tokenizer).into_keys().collect();
    let mut mapping = Mapping::new(image, image_tensors, &tokenizer);
    // How often codes were used.
    mapping.ignore("quantize.codebook_used");
    for name in ours {
        mapping.same(&name, &taming::of_llamagen(&name, sizes.multipliers.len()))?;
    }
    let (tokenizer, image_report) = mapping.finish(tokenizer)?;
    Ok(Published {
        model: FamilyModel {
            config,
            text,
            image: ImageTokenizer::TamingVqgan(tokenizer),
            net,
            device: device.clone(),
        },
        networks: NetworkReport::of(report, image_report),
        bytes,
    })
}

/// Gives the tensors of transformer and text encoder our names and layouts.
fn map(mapping: &mut Mapping<'_>, sizes: &LlamaGenConfig) -> Result<()> {
    mapping.ignore("freqs_cis");
    match &sizes.condition {
        LlamaGenCondition::Classes { .. } => {
            mapping.same("classes.weight", "cls_embedding.embedding_table.weight")?;
        }
        LlamaGenCondition::Caption { text, .. } => {
            for name in mapping.names() {
                // The other half of T5, and another name of the embedding.
                let unused = ["decoder.", "lm_head.", "encoder.embed_tokens."];
                if unused.iter().any(|start| name.starts_with(start)) {
                    mapping.ignore(&name);
                }
            }
            mapping.same("caption.nothing", "cls_embedding.uncond_embedding")?;
            mapping.transposed(
                "caption.project_in.weight",
                "cls_embedding.cap_proj.fc1.weight",
            )?;
            mapping.transposed(
                "caption.project_out.weight",
                "cls_embedding.cap_proj.fc2.weight",
            )?;
            map_t5(mapping, text.n_layers)?;
        }
    }
    mapping.same("image_embedding.weight", "tok_embeddings.weight")?;
    mapping.same("norm.weight", "norm.weight")?;
    mapping.transposed("head.weight", "output.weight")?;
    let (width, head) = (sizes.width, sizes.width / sizes.n_heads);
    // Ours has the first of each pair, then the second ones; values stay.
    let order = move |i: usize| {
        if i >= 2 * width {
            return i;
        }
        let (start, i) = (i / head * head, i % head);
        let (half, pair) = (i / (head / 2), i % (head / 2));
        start + 2 * pair + half
    };
    for i in 0..sizes.n_layers {
        let ours = |name: &str| format!("blocks.{i}.{name}.weight");
        let theirs = |name: &str| format!("layers.{i}.{name}.weight");
        mapping.same(&ours("attention_norm"), &theirs("attention_norm"))?;
        mapping.sorted(&ours("qkv"), &[&theirs("attention.wqkv")], order)?;
        mapping.transposed(&ours("attention_out"), &theirs("attention.wo"))?;
        mapping.same(&ours("mlp_norm"), &theirs("ffn_norm"))?;
        let gate_up = ["w1", "w3"].map(|part| theirs(&format!("feed_forward.{part}")));
        mapping.side_by_side(&ours("gate_up"), &gate_up.each_ref().map(String::as_str))?;
        mapping.transposed(&ours("down"), &theirs("feed_forward.w2"))?;
    }
    Ok(())
}

/// Gives the tensors of transformers' `T5EncoderModel` our names and layouts.
fn map_t5(mapping: &mut Mapping<'_>, n_layers: usize) -> Result<()> {
    mapping.same("caption.text.embedding.weight", "shared.weight")?;
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    mapping.same("caption.text.bias.weight", bias)?;
    mapping.same(
        "caption.text.norm.weight",
        "encoder.final_layer_norm.weight",
    )?;
    for i in 0..n_layers {
        let ours = |name: &str| format!("caption.text.layers.{i}.{name}.weight");
        let theirs =
            |part: usize, name: &str| format!("encoder.block.{i}.layer.{part}.{name}.weight");
        let qkv = ["q", "k", "v"].map(|part| theirs(0, &format!("SelfAttention.{part}")));
        let gate = ["wi_0", "wi_1"].map(|part| theirs(1, &format!("DenseReluDense.{part}")));
        mapping.same(&ours("attention_norm"), &theirs(0, "layer_norm"))?;
        mapping.side_by_side(&ours("qkv"), &qkv.each_ref().map(String::as_str))?;
        mapping.transposed(&ours("attention_out"), &theirs(0, "SelfAttention.o"))?;
        mapping.same(&ours("mlp_norm"), &theirs(1, "layer_norm"))?;
        mapping.side_by_side(&ours("gate_up"), &gate.each_ref().map(String::as_str))?;
        mapping.transposed(&ours("down"), &theirs(1, "DenseReluDense.wo"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
