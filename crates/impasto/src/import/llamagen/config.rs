//! What the files of LlamaGen and T5 say of their sizes.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::config_file::CONFIG;
use crate::error::Reason;
use crate::import::weights::Tensors;
use crate::models::LlamaGenConfig;
use crate::models::llamagen::LlamaGenCondition;
use crate::models::t5::T5Config;
use crate::{Error, Result, files};

/// The longest config that is read.
const LONGEST: u64 = 1 << 20;

/// Fields of `ModelArgs` (`autoregressive/models/gpt.py`), as `PyTorchModelHubMixin` writes them into `config.json`. What
/// is not there follows from the tensors, the published sizes and the name of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ModelArgs {
    n_head: Option<usize>,
    n_kv_head: Option<usize>,
    block_size: Option<usize>,
    rope_base: Option<f64>,
    norm_eps: Option<f64>,
    cls_token_num: Option<usize>,
    model_type: Option<String>,
}

/// `GPT_models`: layers, width, heads.
const PUBLISHED: [[usize; 3]; 8] = [
    [12, 768, 12],
    [24, 1024, 16],
    [36, 1280, 20],
    [48, 1536, 24],
    [48, 2560, 40],
    [22, 2048, 32],
    [24, 3200, 32],
    [32, 4096, 32],
];

/// Whether a `config.json` is of LlamaGen's transformer.
pub(super) fn is_model_args(config: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Known {
        model_type: String,
        #[serde(rename = "cls_token_num")]
        _places: usize,
        #[serde(rename = "block_size")]
        _block: usize,
    }
    serde_json::from_slice::<Known>(config)
        .is_ok_and(|known| ["c2i", "t2i"].contains(&&known.model_type[..]))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path)
        .map_err(Error::io("read", path))?
        .len();
    if length > LONGEST {
        let reason = format!("has {length} bytes, expected a config");
        return Err(Error::bad_file(path, reason));
    }
    files::read(path)
}

impl ModelArgs {
    /// Those in the folder of a transformer; none where nothing is there.
    pub(super) fn beside(transformer: &Path) -> Result<Self> {
        let path = files::folder_of(transformer).join(CONFIG);
        if !path.is_file() {
            return Ok(ModelArgs::default());
        }
        serde_json::from_slice(&read(&path)?).map_err(|e| {
            Error::bad_file(&path, Reason::because("not the ModelArgs of LlamaGen", e))
        })
    }

    /// What tensors do not say: image ids along a side, and heads.
    pub(super) fn outer(
        &self,
        path: &Path,
        tensors: &Tensors<'_>,
        levels: usize,
    ) -> Result<(usize, usize), Reason> {
        if levels == 0 || levels > 10 {
            return Err(
                "its image tokenizer lacks the tensor decoder.conv_blocks.0.res.0.conv1.weight"
                    .into(),
            );
        }
        let grid = match self.block_size {
            Some(positions) => {
                let grid = positions.isqrt();
                if grid == 0 || grid > 1 << 8 || grid * grid != positions {
                    return Err(format!(
                        "block_size is {positions}, expected the square of 1 to 256"
                    )
                    .into());
                }
                grid
            }
            None => picture_size(path).ok_or("has neither a config.json with block_size beside it nor a name that ends with _256, _384 or _512")? >> (levels - 1),
        };
        let (n_layers, width) = (layers(tensors), size(tensors, "norm.weight", 0)?);
        let published = PUBLISHED
            .iter()
            .find(|known| known[..2] == [n_layers, width]);
        let n_heads = match (self.n_head, published) {
            (Some(n_heads), _) => n_heads,
            (None, Some(known)) => known[2],
            (None, None) => {
                return Err(format!(
                    "has {n_layers} layers x {width}, which is no published size; expected a config.json with n_head beside it"
                )
                .into());
            }
        };
        if self.n_kv_head.is_some_and(|found| found != n_heads) {
            return Err(format!("n_kv_head is not n_head = {n_heads}, which is not read").into());
        }
        Ok((grid, n_heads))
    }

    /// Sizes of the transformer.
    pub(super) fn sizes(
        &self,
        tensors: &Tensors<'_>,
        (grid, n_heads): (usize, usize),
        text: Option<T5Config>,
    ) -> Result<LlamaGenConfig, Reason> {
        let condition = match text {
            Some(text) => {
                let length = size(tensors, "cls_embedding.uncond_embedding", 0)?;
                let features = size(tensors, "cls_embedding.uncond_embedding", 1)?;
                if features != text.width {
                    return Err(format!(
                        "reads features of width {features}, its text encoder makes {}",
                        text.width
                    )
                    .into());
                }
                LlamaGenCondition::Caption { length, text }
            }
            None => {
                let rows = size(tensors, "cls_embedding.embedding_table.weight", 0)?;
                LlamaGenCondition::Classes {
                    n_classes: rows.saturating_sub(1),
                }
            }
        };
        let config = LlamaGenConfig {
            width: size(tensors, "norm.weight", 0)?,
            hidden: size(tensors, "layers.0.feed_forward.w1.weight", 0)?,
            n_layers: layers(tensors),
            n_heads,
            norm_epsilon: self.norm_eps.unwrap_or(1e-5),
            rope_base: self.rope_base.unwrap_or(10_000.0),
            codebook_size: size(tensors, "tok_embeddings.weight", 0)?,
            grid,
            condition,
        };
        let kind = match config.condition {
            LlamaGenCondition::Classes { .. } => "c2i",
            LlamaGenCondition::Caption { .. } => "t2i",
        };
        if let Some(said) = self.model_type.as_deref().filter(|said| *said != kind) {
            return Err(format!("model_type is {said:?}, the tensors are those of {kind}").into());
        }
        let places = config.text_length();
        if let Some(said) = self.cls_token_num.filter(|said| *said != places) {
            return Err(format!("cls_token_num is {said}, the tensors are for {places}").into());
        }
        config.validate().map_err(Reason::of)?;
        Ok(config)
    }
}

fn layers(tensors: &Tensors<'_>) -> usize {
    (0..1024)
        .take_while(|i| tensors.contains_key(&format!("layers.{i}.attention.wqkv.weight")))
        .count()
}

fn size(tensors: &Tensors<'_>, name: &str, axis: usize) -> Result<usize, Reason> {
    let found = tensors
        .get(name)
        .and_then(|tensor| tensor.shape().get(axis).copied());
    found.ok_or_else(|| format!("lacks the tensor {name}").into())
}

/// The side of the pictures of a published model: `t2i_XL_stage1_256.pt`.
fn picture_size(path: &Path) -> Option<usize> {
    let stem = path.file_stem()?.to_str()?;
    let size = stem.rsplit('_').next()?.parse().ok()?;
    [256, 384, 512].contains(&size).then_some(size)
}

/// Fields of `T5Config` of transformers.
#[derive(Deserialize)]
struct PublishedT5 {
    model_type: String,
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "distance")]
    relative_attention_max_distance: usize,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default)]
    feed_forward_proj: String,
}

fn buckets() -> usize {
    32
}

fn distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}

/// Whether a folder is one of a T5.
pub(super) fn is_t5(folder: &Path) -> bool {
    #[derive(Deserialize)]
    struct Known {
        model_type: String,
    }
    let path = folder.join(CONFIG);
    path.is_file()
        && read(&path)
            .ok()
            .and_then(|config| serde_json::from_slice::<Known>(&config).ok())
            .is_some_and(|known| known.model_type == "t5")
}

/// The sizes of the encoder in a folder.
pub(super) fn t5(folder: &Path) -> Result<T5Config> {
    let path = folder.join(CONFIG);
    let bad = |reason: Reason| Error::bad_file(&path, reason);
    let found: PublishedT5 = serde_json::from_slice(&read(&path)?)
        .map_err(|e| bad(Reason::because("not a config of T5", e)))?;
    if found.model_type != "t5" || found.feed_forward_proj != "gated-gelu" {
        return Err(bad(format!(
            "model_type is {:?} and feed_forward_proj {:?}, expected \"t5\" and \"gated-gelu\" (T5 v1.1 or flan-T5)",
            found.model_type, found.feed_forward_proj
        )
        .into()));
    }
    let config = T5Config {
        vocab_size: found.vocab_size,
        width: found.d_model,
        n_layers: found.num_layers,
        n_heads: found.num_heads,
        head_width: found.d_kv,
        hidden: found.d_ff,
        n_buckets: found.relative_attention_num_buckets,
        max_distance: found.relative_attention_max_distance,
        norm_epsilon: found.layer_norm_epsilon,
    };
    config.validate().map_err(|e| bad(Reason::of(e)))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_of_pictures_is_at_the_end_of_the_name() {
        for (name, size) in [
            ("t2i_XL_stage1_256.pt", Some(256)),
            ("c2i_L_384.pt", Some(384)),
            ("t2i_XL_stage2_512.safetensors", Some(512)),
            ("c2i_L.pt", None),
            ("c2i_7.pt", None),
        ] {
            assert_eq!(picture_size(Path::new(name)), size, "{name}");
        }
    }

    #[test]
    fn configs_of_others_are_none_of_it() {
        let own = br#"{"model_type": "t2i", "cls_token_num": 120, "block_size": 256}"#;
        assert!(is_model_args(own));
        for other in [&b"{}"[..], b"[]", br#"{"model_type": "t5"}"#] {
            assert!(!is_model_args(other));
        }
    }
}
