//! What files of ruDALL-E say of its sizes.
//!
//! Two things are in no tensor. Heads: those of the published widths are known, other models need a `config.json` beside
//! the weights with what the package's table of models has (`rudalle/dalle/__init__.py`). The version: of `config.json`
//! (`hf_version`), of the masks that fine-tunes and the files of 2021 have beside the weights (the package loaded those
//! strictly, masks included), of the file's name (`pytorch_model_v2.bin`), or of the published model's name.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::config_file::CONFIG;
use crate::error::Reason;
use crate::import::file_name;
use crate::import::weights::Tensors;
use crate::models::RuDalleConfig;
use crate::models::rudalle::{MaskKind, RuDalleVersion};
use crate::{Error, Result, files};

/// The longest config that is read.
const LONGEST: u64 = 1 << 20;

/// Widths of the published models, and their heads.
const HEADS: [[usize; 2]; 3] = [[768, 12], [2048, 16], [3840, 60]];

/// Published models whose files have the same name, and their versions.
const NAMES: [(&str, RuDalleVersion); 3] = [
    ("emojich", RuDalleVersion::V2),
    ("surrealist", RuDalleVersion::V3),
    ("kandinsky", RuDalleVersion::V3),
];

/// An entry of `MODELS`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ModelEntry {
    hf_version: Option<String>,
    model_params: ModelParams,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ModelParams {
    num_attention_heads: Option<usize>,
    num_layers: Option<usize>,
    hidden_size: Option<usize>,
    text_seq_length: Option<usize>,
    image_tokens_per_dim: Option<usize>,
    vocab_size: Option<usize>,
    image_vocab_size: Option<usize>,
}

/// `transformer.layers.{i}.…`: how many there are.
fn layers(tensors: &Tensors<'_>) -> usize {
    let name = |i: usize| format!("transformer.layers.{i}.input_layernorm.weight");
    (0..1 << 10)
        .take_while(|&i| tensors.contains_key(&name(i)))
        .count()
}

fn size(tensors: &Tensors<'_>, name: &str, axis: usize) -> Result<usize, Reason> {
    let shape = tensors.get(name).map(|tensor| tensor.shape());
    let found = shape.and_then(|shape| shape.get(axis).copied());
    found.ok_or_else(|| format!("lacks the tensor {name}").into())
}

impl ModelEntry {
    /// That of `config.json` in the folder of a transformer; nothing where there is none.
    pub(super) fn beside(transformer: &Path) -> Result<Self> {
        let path = files::folder_of(transformer).join(CONFIG);
        if !path.is_file() {
            return Ok(ModelEntry::default());
        }
        let length = std::fs::metadata(&path)
            .map_err(Error::io("read", &path))?
            .len();
        if length > LONGEST {
            let reason = format!("has {length} bytes, expected a config");
            return Err(Error::bad_file(&path, reason));
        }
        serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            let reason = Reason::because("no entry of ruDALL-E's table of models", e);
            Error::bad_file(&path, reason)
        })
    }

    /// The sizes of a transformer in the file `path`, of a model called `name`.
    pub(super) fn sizes(
        &self,
        tensors: &Tensors<'_>,
        path: &Path,
        name: &str,
    ) -> Result<RuDalleConfig, Reason> {
        let width = size(tensors, "text_embeddings.weight", 1)?;
        let text_rows = size(tensors, "text_embeddings.weight", 0)?;
        let places = size(tensors, "text_pos_embeddings.weight", 0)?;
        let text_length = places.saturating_sub(1);
        let params = &self.model_params;
        let config = RuDalleConfig {
            version: RuDalleVersion::V3,
            text_vocab_size: text_rows.saturating_sub(text_length),
            text_length,
            codebook_size: size(tensors, "image_embeddings.weight", 0)?,
            grid: size(tensors, "image_row_embeddings.weight", 0)?,
            width,
            n_layers: layers(tensors),
            n_heads: match params.num_attention_heads {
                Some(heads) => heads,
                None => HEADS
                    .iter()
                    .find(|[published, _]| *published == width)
                    .map(|[_, heads]| *heads)
                    .ok_or_else(|| {
                        format!(
                            "is {width} wide, which no published model is; expected a config.json beside it with {{\"model_params\": {{\"num_attention_heads\": …}}}}"
                        )
                    })?,
            },
            sandwich_norm: tensors
                .contains_key("transformer.layers.0.before_first_addition_layernorm.weight"),
        };
        for (what, stated, found) in [
            ("num_layers", params.num_layers, config.n_layers),
            ("hidden_size", params.hidden_size, width),
            ("text_seq_length", params.text_seq_length, text_length),
            (
                "image_tokens_per_dim",
                params.image_tokens_per_dim,
                config.grid,
            ),
            ("vocab_size", params.vocab_size, text_rows),
            (
                "image_vocab_size",
                params.image_vocab_size,
                config.codebook_size,
            ),
        ] {
            if stated.is_some_and(|stated| stated != found) {
                let stated = stated.unwrap_or_default();
                return Err(format!(
                    "config.json says {what} is {stated}, the tensors say {found}"
                )
                .into());
            }
        }
        config.validate().map_err(Reason::of)?;
        let version = self.version(tensors, &config, path, name)?;
        Ok(RuDalleConfig { version, ..config })
    }

    fn version(
        &self,
        tensors: &Tensors<'_>,
        config: &RuDalleConfig,
        path: &Path,
        name: &str,
    ) -> Result<RuDalleVersion, Reason> {
        let stated = match self.hf_version.as_deref() {
            None => None,
            Some(name) => {
                let mut known = RuDalleVersion::ALL.into_iter();
                let version = known.find(|version| version.name() == name);
                Some(version.ok_or_else(|| {
                    format!(
                        "has the version {} in config.json, expected v2 or v3",
                        name.escape_debug()
                    )
                })?)
            }
        };
        let of_mask = of_mask(tensors, config)?;
        if let (Some(stated), Some(found)) = (stated, of_mask)
            && stated != found
        {
            return Err(format!(
                "config.json says hf_version is {}, transformer.conv_mask is that of {}",
                stated.name(),
                found.name()
            )
            .into());
        }
        let file = file_name(path);
        let of_file = || match (file.contains("_v2"), file.contains("_v3")) {
            (true, false) => Some(RuDalleVersion::V2),
            (false, true) => Some(RuDalleVersion::V3),
            _ => None,
        };
        let of_name = || {
            let folder = file_name(files::folder_of(path));
            let names = [name, folder, file].map(str::to_lowercase);
            let known = |part: &str| names.iter().any(|name| name.contains(part));
            let mut found = NAMES.iter().filter(|(part, _)| known(part));
            found.next().map(|&(_, version)| version)
        };
        stated
            .or(of_mask)
            .or_else(of_file)
            .or_else(of_name)
            .ok_or_else(|| {
                "is of an unknown version, which no tensor says: expected a config.json beside it with {\"hf_version\": \"v3\"} (Malevich, Surrealist, Kandinsky) or \"v2\" (Emojich, the first Malevich), or a name that ends with _v3 or _v2".into()
            })
    }
}

/// The version whose window a saved mask is, if there is one and the picture is wide enough to distinguish them.
fn of_mask(
    tensors: &Tensors<'_>,
    config: &RuDalleConfig,
) -> Result<Option<RuDalleVersion>, Reason> {
    let name = "transformer.conv_mask";
    let Some(mask) = tensors.get(name) else {
        return Ok(None);
    };
    let total = config.text_length + config.image_length();
    if mask.shape() != [total, total] {
        return Err(format!(
            "{name} has shape {:?}, expected {:?}",
            mask.shape(),
            [total, total]
        )
        .into());
    }
    let seen = mask.floats();
    let is = |version: RuDalleVersion| {
        let around = version == RuDalleVersion::V2;
        let kind = MaskKind::Window { around };
        seen.chunks(total).enumerate().all(|(from, row)| {
            let mut places = row.iter().enumerate();
            places.all(|(to, &seen)| {
                let sees = to <= from && kind.sees([from, to], config.text_length, config.grid);
                (seen != 0.0) == sees
            })
        })
    };
    match (is(RuDalleVersion::V2), is(RuDalleVersion::V3)) {
        (true, true) => Ok(None),
        (true, false) => Ok(Some(RuDalleVersion::V2)),
        (false, true) => Ok(Some(RuDalleVersion::V3)),
        (false, false) => Err(format!("{name} is the mask of no known version").into()),
    }
}
