//! A CLIP with its text tokenizer: `config.json`, `tokenizer.json`, `clip.safetensors`.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{ModelSource, weights};
use crate::image::Picture;
use crate::models::clip::unit;
use crate::models::parameters::export;
use crate::models::{Clip, ClipConfig};
use crate::nn::Init;
use crate::text::TextTokenizer;
use crate::{Error, Result, files};

/// `config.json` of a CLIP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipModelConfig {
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The sizes.
    pub clip: ClipConfig,
}

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const CLIP: &str = "clip.safetensors";

/// Pictures or captions in one pass.
const ROWS: usize = 64;

/// A CLIP ready to run.
#[derive(Debug)]
pub struct ClipModel {
    /// The config.
    pub config: ClipModelConfig,
    /// Caption → text ids.
    pub text: TextTokenizer,
    /// The towers.
    pub clip: Clip,
}

impl ClipModel {
    /// Loads all of a CLIP onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let config: ClipModelConfig = serde_json::from_slice(&source.read(CONFIG)?)
            .map_err(|e| Error::bad_file(source.path(CONFIG), format!("not a CLIP config: {e}")))?;
        config
            .clip
            .validate()
            .map_err(|e| Error::bad_file(source.path(CONFIG), e.to_string()))?;
        let text = TextTokenizer::from_bytes(&source.read(TOKENIZER)?)
            .map_err(|e| Error::bad_file(source.path(TOKENIZER), e.to_string()))?;
        if text.vocab_size() != config.clip.text_vocab_size {
            return Err(Error::bad_file(
                source.path(TOKENIZER),
                format!(
                    "has {} ids, config.json expects {}",
                    text.vocab_size(),
                    config.clip.text_vocab_size
                ),
            ));
        }
        let clip = weights::load(
            config.clip.init(&mut Init::empty(device)),
            &source.path(CLIP),
            &source.map(CLIP)?,
            weights::Formats::default(),
        )?;
        Ok(ClipModel { config, text, clip })
    }

    /// Writes a checkpoint directory; each file is written whole or not at all, the config last.
    pub fn save(&self, dir: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        weights::write(&dir.join(CLIP), &export(&self.clip), precision)?;
        self.text.save(dir)?;
        let config = serde_json::to_vec_pretty(&self.config)
            .map_err(|e| Error::invalid("config", e.to_string()))?;
        files::write_atomic(dir.join(CONFIG), &config)
    }

    /// Embeddings of captions, of length one.
    ///
    /// # Shapes
    /// - returns: `[captions, projection_width]`
    ///
    /// # Errors
    /// On an empty caption, and on one that is too long unless `truncate` cuts it.
    pub fn embed_texts(&self, captions: &[String], truncate: bool) -> Result<Tensor<2>> {
        let length = self.config.clip.text_length;
        let ids: Vec<Vec<u32>> = captions
            .iter()
            .map(|caption| self.text.encode_caption(caption, length, truncate))
            .collect::<Result<_>>()?;
        let parts: Vec<Tensor<2>> = ids
            .chunks(ROWS)
            .map(|ids| Ok(unit(self.clip.encode_text(ids)?)))
            .collect::<Result<_>>()?;
        joined(parts, "captions")
    }

    /// Embeddings of pictures, of length one.
    ///
    /// # Shapes
    /// - returns: `[pictures, projection_width]`
    pub fn embed_pictures(&self, pictures: &[Picture]) -> Result<Tensor<2>> {
        let parts: Vec<Tensor<2>> = pictures
            .chunks(ROWS)
            .map(|pictures| Ok(unit(self.clip.encode_image(self.clip.pixels(pictures)?))))
            .collect::<Result<_>>()?;
        joined(parts, "pictures")
    }
}

fn joined(parts: Vec<Tensor<2>>, what: &'static str) -> Result<Tensor<2>> {
    if parts.is_empty() {
        return Err(Error::invalid(what, "expected 1 or more, got 0"));
    }
    Ok(Tensor::cat(parts, 0))
}
