//! A CLIP of DALLE-pytorch with its text tokenizer: a checkpoint folder.
//!
//! `config.json` begins with `"architecture": "dalle_pytorch_clip"`; the weights are
//! `dalle_pytorch_clip.safetensors`; the text tokenizer's file is the one that it came with.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{ModelSource, config_file, weights};
use crate::image::Image;
use crate::models::clip::unit;
use crate::models::dalle_pytorch::{DallePytorchClip, DallePytorchClipConfig};
use crate::models::parameters::export;
use crate::nn::Init;
use crate::text::clip::LongCaption;
use crate::text::dalle_pytorch::DallePytorchTokenizer;
use crate::{Error, Result};

const WEIGHTS: &str = "dalle_pytorch_clip.safetensors";

/// The tag in `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only value.
    #[default]
    #[serde(rename = "dalle_pytorch_clip")]
    DallePytorchClip,
}

/// What such a model is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DallePytorchClipModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// The model's name.
    pub name: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// The sizes.
    pub clip: DallePytorchClipConfig,
}

/// Such a model, ready to run.
#[derive(Debug)]
pub struct DallePytorchClipModel {
    /// The config.
    pub config: DallePytorchClipModelConfig,
    /// Caption → ids.
    pub text: DallePytorchTokenizer,
    /// The towers.
    pub clip: DallePytorchClip,
}

/// Pictures or captions in one pass.
const ROWS: usize = 16;

/// Whether `source` is a folder of one in our format.
pub fn is_dalle_pytorch_clip(source: &ModelSource) -> bool {
    source.architecture().as_deref() == Some("dalle_pytorch_clip")
}

impl DallePytorchClipModel {
    /// Loads all of a folder in our format onto `device`.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self> {
        let config = source.parsed_config(
            "a config of DALLE-pytorch's CLIP",
            |config: &DallePytorchClipModelConfig| config.clip.validate(),
        )?;
        let folder = source.folder().unwrap_or(Path::new(""));
        let text = DallePytorchTokenizer::load(folder, config.clip.text_vocab_size)?;
        source.check_room(config.clip.parameters(), &[WEIGHTS])?;
        let clip = config.clip.init(&mut Init::empty(device));
        let clip = source.load(clip, WEIGHTS, Default::default())?;
        Ok(DallePytorchClipModel { config, text, clip })
    }

    /// Writes a checkpoint folder, with the text tokenizer's file; the config last.
    pub fn save(&self, dir: &Path, precision: weights::Precision) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        weights::write(&dir.join(WEIGHTS), &export(&self.clip), precision)?;
        self.text.save(dir)?;
        config_file::save(dir, &self.config)
    }

    /// A caption's ids, without what fills it up.
    pub fn encode_caption(&self, caption: &str, long: LongCaption) -> Result<Vec<u32>> {
        if long == LongCaption::Chunks {
            let reason = format!("{} does not take captions in pieces", self.config.name);
            return Err(Error::invalid("caption", reason));
        }
        let length = self.config.clip.text_length;
        self.text.encode_caption(caption, length, long.truncates())
    }

    /// Embeddings of captions, of length one.
    ///
    /// # Shapes
    /// - returns: `[captions, projection_width]`
    pub fn embed_texts(&self, captions: &[String], long: LongCaption) -> Result<Tensor<2>> {
        let ids = captions
            .iter()
            .map(|caption| self.encode_caption(caption, long));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let parts = ids.chunks(ROWS).map(|ids| self.clip.encode_text(ids));
        joined(parts.collect::<Result<_>>()?, "captions")
    }

    /// Embeddings of pictures, of length one.
    ///
    /// # Shapes
    /// - returns: `[pictures, projection_width]`
    pub fn embed_pictures(&self, pictures: &[Image]) -> Result<Tensor<2>> {
        let parts = pictures.chunks(ROWS);
        let parts = parts.map(|pictures| self.clip.encode_pictures(pictures));
        joined(parts.collect::<Result<_>>()?, "pictures")
    }
}

fn joined(parts: Vec<Tensor<2>>, what: &'static str) -> Result<Tensor<2>> {
    match parts.is_empty() {
        true => Err(Error::invalid(what, "expected 1 or more, got 0")),
        false => Ok(unit(Tensor::cat(parts, 0))),
    }
}
