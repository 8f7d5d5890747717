//! CLIP as OpenAI's code and open_clip save it (openai/CLIP `clip/model.py`, open_clip `model.py`): the same
//! names. Sizes follow from the tensors; what does not is the number of heads, the nonlinearity, and how
//! pixels are normalised, which a config or the architecture's name says.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Format, check_size, json};
use crate::import::mapping::{ImportReport, Mapping};
use crate::import::weights::{self, Container, Tensors};
use crate::models::clip::{Activation, Clip, ClipConfig, EndOfText, Normalisation, TowerConfig};
use crate::nn::Init;
use crate::{Error, Result};

const CONFIG: &str = "open_clip_config.json";

/// The weight files that a folder may have, the best first.
const WEIGHTS: [&str; 3] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// The architectures whose names are known, without `-quickgelu`; all of them divide their text's width
/// into heads of 64.
const ARCHITECTURES: [&str; 25] = [
    "ViT-S-16",
    "ViT-S-16-alt",
    "ViT-S-32",
    "ViT-S-32-alt",
    "ViT-M-16",
    "ViT-M-32",
    "ViT-M-32-alt",
    "ViT-B-16",
    "ViT-B-16-plus",
    "ViT-B-16-plus-240",
    "ViT-B-32",
    "ViT-B-32-256",
    "ViT-B-32-plus-256",
    "ViT-L-14",
    "ViT-L-14-280",
    "ViT-L-14-336",
    "ViT-L-16",
    "ViT-L-16-320",
    "ViT-H-14",
    "ViT-H-14-378",
    "ViT-H-16",
    "ViT-g-14",
    "ViT-e-14",
    "ViT-bigG-14",
    "ViT-L-14-378",
];

/// What the tensors' shapes do not say.
struct Untold {
    image_head_width: usize,
    text_heads: Option<usize>,
    activation: Activation,
    normalisation: Normalisation,
}

impl Untold {
    fn openai() -> Self {
        Untold {
            image_head_width: 64,
            text_heads: None,
            activation: Activation::QuickGelu,
            normalisation: Normalisation::default(),
        }
    }

    /// By open_clip's name.
    fn named(name: &str) -> Result<Self> {
        let (base, activation) = match name.strip_suffix("-quickgelu") {
            Some(base) => (base, Activation::QuickGelu),
            None => (name, Activation::Gelu),
        };
        if !ARCHITECTURES.contains(&base) {
            return Err(Error::invalid(
                "architecture",
                format!(
                    "{name:?} is not known, expected one of {}, with -quickgelu behind it or not",
                    ARCHITECTURES.join(", ")
                ),
            ));
        }
        let image_head_width = match base.split('-').nth(1) {
            Some("H") => 80,
            Some("g") => 88,
            Some("bigG") => 104,
            Some("e") => 112,
            _ => 64,
        };
        Ok(Untold {
            image_head_width,
            activation,
            ..Untold::openai()
        })
    }
}

#[derive(Deserialize)]
struct OpenClipConfig {
    model_cfg: ModelConfig,
    #[serde(default)]
    preprocess_cfg: Preprocess,
}

#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: Vision,
    text_cfg: Text,
}

#[derive(Deserialize)]
struct Vision {
    #[serde(default = "head_width")]
    head_width: usize,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn head_width() -> usize {
    64
}

#[derive(Deserialize)]
struct Text {
    #[serde(default = "text_heads")]
    heads: usize,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn text_heads() -> usize {
    8
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Preprocess {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    interpolation: Option<String>,
    resize_mode: Option<String>,
}

/// Fields that the tensors' shapes give as well, or that count in training only.
const GIVEN_BY_SHAPES: [&str; 11] = [
    "image_size",
    "layers",
    "width",
    "patch_size",
    "mlp_ratio",
    "context_length",
    "vocab_size",
    "patch_dropout",
    "output_tokens",
    "attn_pooler_queries",
    "attn_pooler_heads",
];

/// Fields that may have one value.
const USUAL: [(&str, &str); 5] = [
    ("pos_embed_type", "learnable"),
    ("pool_type", "tok"),
    ("pool_type", "argmax"),
    ("proj_type", "linear"),
    ("block_type", "default"),
];

/// Loads a folder with `open_clip_config.json`.
pub fn load_folder(folder: &Path, device: &Device) -> Result<(Clip, ImportReport)> {
    let untold = read_config(&folder.join(CONFIG))?;
    let mut paths = WEIGHTS.iter().map(|name| folder.join(name));
    let path = paths
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing {
            what: "weights",
            path: folder.join(WEIGHTS[0]),
            hint: format!("expected one of {}", WEIGHTS.join(", ")).into(),
        })?;
    weights::read(&path, |_, tensors| load(&path, tensors, &untold, device))
}

/// Loads OpenAI's archive or a checkpoint of open_clip; for the latter the config beside it or the
/// architecture's name is needed.
pub fn load_file(
    path: &Path,
    architecture: Option<&str>,
    device: &Device,
) -> Result<(Format, (Clip, ImportReport))> {
    weights::read(path, |container, tensors| {
        let beside = path.with_file_name(CONFIG);
        let (format, untold) = match architecture {
            Some(name) => (Format::OpenClip, Untold::named(name)?),
            None if container == Container::TorchScript => (Format::OpenAi, Untold::openai()),
            None if beside.is_file() => (Format::OpenClip, read_config(&beside)?),
            None => {
                return Err(Error::bad_file(
                    path,
                    format!(
                        "does not state its number of heads and its nonlinearity; give the architecture's name \
                         (such as ViT-B-32 or ViT-B-32-quickgelu), or put {CONFIG} beside it"
                    ),
                ));
            }
        };
        Ok((format, load(path, tensors, &untold, device)?))
    })
}

fn read_config(path: &Path) -> Result<Untold> {
    let OpenClipConfig {
        model_cfg: model,
        preprocess_cfg: preprocess,
    } = json(path)?;
    let bad = |reason: String| Err(Error::bad_file(path, reason));
    let towers = [
        ("vision_cfg", &model.vision_cfg.rest),
        ("text_cfg", &model.text_cfg.rest),
    ];
    for (tower, rest) in towers {
        for (name, value) in rest {
            let off = value.is_null() || value == &Value::Bool(false);
            let usual = |text: &str| USUAL.contains(&(name.as_str(), text));
            let unused = matches!(name.as_str(), "pad_id" | "eos_id")
                || name.starts_with("timm_")
                || name == "hf_model_pretrained";
            if off
                || unused
                || GIVEN_BY_SHAPES.contains(&name.as_str())
                || value.as_str().is_some_and(usual)
            {
                continue;
            }
            return bad(format!(
                "{tower}.{name} is {value}, which this architecture does not have"
            ));
        }
    }
    for (name, found, expected) in [
        ("interpolation", &preprocess.interpolation, "bicubic"),
        ("resize_mode", &preprocess.resize_mode, "shortest"),
    ] {
        if let Some(found) = found
            && found != expected
        {
            return bad(format!(
                "preprocess_cfg.{name} is {found:?}, expected {expected:?}"
            ));
        }
    }
    let default = Normalisation::default();
    Ok(Untold {
        image_head_width: model.vision_cfg.head_width,
        text_heads: Some(model.text_cfg.heads),
        activation: if model.quick_gelu {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        },
        normalisation: Normalisation {
            mean: preprocess.mean.unwrap_or(default.mean),
            std: preprocess.std.unwrap_or(default.std),
        },
    })
}

fn load(
    path: &Path,
    tensors: Tensors<'_>,
    untold: &Untold,
    device: &Device,
) -> Result<(Clip, ImportReport)> {
    let tensors = named_alike(tensors);
    let config = sizes(path, &tensors, untold)?;
    check_size(path, &config, &tensors)?;
    let clip = config.init(&mut Init::empty(device));
    let mut mapping = Mapping::new(path, tensors, &clip);
    map(&config, &mut mapping)?;
    mapping.finish(clip)
}

/// The text tower's names without the prefix that open_clip's newer class puts before them.
fn named_alike(tensors: Tensors<'_>) -> Tensors<'_> {
    if !tensors.contains_key("text.positional_embedding") {
        return tensors;
    }
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let name = name.strip_prefix("text.").unwrap_or(&name).to_owned();
        (name, tensor)
    });
    renamed.collect()
}

fn sizes(path: &Path, tensors: &Tensors<'_>, untold: &Untold) -> Result<ClipConfig> {
    let bad = |reason: String| Error::bad_file(path, reason);
    if tensors
        .keys()
        .any(|name| name.starts_with("visual.layer1."))
    {
        return Err(bad(
            "its image tower is a ResNet, expected a ViT; RN50 and its like are not supported"
                .into(),
        ));
    }
    let shape = |name: &str, dimensions: usize| {
        let shape = tensors.get(name).map(|tensor| tensor.shape());
        match shape {
            Some(shape) if shape.len() == dimensions => Ok(shape),
            Some(shape) => Err(bad(format!(
                "tensor {name} has shape {shape:?}, expected {dimensions} dimensions"
            ))),
            None => Err(bad(format!(
                "lacks the tensor {name}; expected a CLIP with a ViT"
            ))),
        }
    };
    let layers = |prefix: &str| {
        let numbers = tensors.keys().filter_map(|name| {
            let rest = name.strip_prefix(prefix)?.strip_prefix(".resblocks.")?;
            rest.split('.').next()
        });
        numbers.collect::<BTreeSet<&str>>().len()
    };
    let patch = shape("visual.conv1.weight", 4)?;
    let image_positions = shape("visual.positional_embedding", 2)?[0];
    let text = shape("positional_embedding", 2)?;
    let grid = image_positions.saturating_sub(1).isqrt();
    if grid * grid + 1 != image_positions || patch[2] != patch[3] {
        return Err(bad(format!(
            "has {image_positions} image positions and patches of {}x{}, expected a square and one more, and squares",
            patch[2], patch[3]
        )));
    }
    let (image_width, text_width) = (patch[0], text[1]);
    let hidden = |prefix: &str| shape(&format!("{prefix}.resblocks.0.mlp.c_fc.weight"), 2);
    let heads = |what: &str, width: usize, head_width: usize| {
        if head_width > 0 && width >= head_width && width.is_multiple_of(head_width) {
            return Ok(width / head_width);
        }
        Err(bad(format!(
            "its {what} width {width} is no multiple of heads of {head_width}"
        )))
    };
    Ok(ClipConfig {
        image_size: grid.saturating_mul(patch[2]),
        patch_size: patch[2],
        image: TowerConfig {
            width: image_width,
            n_layers: layers("visual.transformer"),
            n_heads: heads("image", image_width, untold.image_head_width)?,
            hidden: hidden("visual.transformer")?[0],
        },
        text_vocab_size: shape("token_embedding.weight", 2)?[0],
        text_length: text[0],
        text: TowerConfig {
            width: text_width,
            n_layers: layers("transformer"),
            n_heads: match untold.text_heads {
                Some(heads) => heads,
                None => heads("text", text_width, 64)?,
            },
            hidden: hidden("transformer")?[0],
        },
        projection_width: shape("text_projection", 2)?[1],
        activation: untold.activation,
        end_of_text: EndOfText::HighestId,
        logit_bias: tensors.contains_key("logit_bias"),
        normalisation: untold.normalisation,
    })
}

fn map(config: &ClipConfig, mapping: &mut Mapping<'_>) -> Result<()> {
    // OpenAI's archives hold their sizes as tensors; masks follow from the length.
    for known in [
        "input_resolution",
        "context_length",
        "vocab_size",
        "attn_mask",
    ] {
        mapping.ignore(known);
    }
    mapping.transposed("image.patch_embedding.weight", "visual.conv1.weight")?;
    for (ours, theirs) in [
        ("image.class_embedding", "visual.class_embedding"),
        ("image.position_embedding", "visual.positional_embedding"),
        ("image.projection.weight", "visual.proj"),
        ("text.token_embedding.weight", "token_embedding.weight"),
        ("text.position_embedding", "positional_embedding"),
        ("text.projection.weight", "text_projection"),
        ("logit_scale", "logit_scale"),
    ] {
        mapping.same(ours, theirs)?;
    }
    if config.logit_bias {
        mapping.same("logit_bias", "logit_bias")?;
    }
    for part in ["weight", "bias"] {
        for (ours, theirs) in [
            ("image.pre_norm", "visual.ln_pre"),
            ("image.post_norm", "visual.ln_post"),
            ("text.final_norm", "ln_final"),
        ] {
            mapping.same(&format!("{ours}.{part}"), &format!("{theirs}.{part}"))?;
        }
    }
    let towers = [
        ("image", "visual.transformer", config.image.n_layers),
        ("text", "transformer", config.text.n_layers),
    ];
    for (ours, theirs, n_layers) in towers {
        for i in 0..n_layers {
            let ours = format!("{ours}.blocks.{i}");
            let theirs = format!("{theirs}.resblocks.{i}");
            for part in ["weight", "bias"] {
                let ours = |name: &str| format!("{ours}.{name}.{part}");
                let theirs = |name: &str| format!("{theirs}.{name}.{part}");
                mapping.same(&ours("attention_norm"), &theirs("ln_1"))?;
                mapping.same(&ours("mlp_norm"), &theirs("ln_2"))?;
                let qkv = theirs("attn.in_proj").replace(&format!(".{part}"), &format!("_{part}"));
                mapping.transposed(&ours("qkv"), &qkv)?;
                mapping.transposed(&ours("attention_out"), &theirs("attn.out_proj"))?;
                mapping.transposed(&ours("up"), &theirs("mlp.c_fc"))?;
                mapping.transposed(&ours("down"), &theirs("mlp.c_proj"))?;
            }
        }
    }
    Ok(())
}
