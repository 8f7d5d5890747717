//! The sizes of a [`Clip`], and its fresh weights.

use serde::{Deserialize, Serialize};

use super::towers::{Blocks, ImageTower, TextTower};
use super::{Clip, ContrastiveLoss};
use crate::image::Image;
use crate::nn::{Embedding, Init, LayerNorm, Linear};
use crate::{Error, Result};

/// The sizes of a [`Clip`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels; divides `image_size`.
    pub patch_size: usize,
    /// The tower of pictures.
    pub image: TowerConfig,
    /// Ids of the text tokenizer.
    pub text_vocab_size: usize,
    /// Text tokens, both ends included; the limit of a caption (published: `context_length`, 77).
    pub text_length: usize,
    /// The tower of captions.
    pub text: TowerConfig,
    /// Width of the common space (published: `projection_dim`, `embed_dim`).
    pub projection_width: usize,
    /// The nonlinearity of both towers.
    pub activation: Activation,
    /// Which state of a caption is its embedding.
    pub end_of_text: EndOfText,
    /// A learned bias of the logits, which SigLIP's loss needs.
    #[serde(default)]
    pub logit_bias: bool,
    /// What pixels are shifted and scaled by.
    #[serde(default)]
    pub normalisation: Normalisation,
}

/// The sizes of a [`TextTower`] alone, as text-to-image models have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Ids of the text tokenizer.
    pub vocab_size: usize,
    /// Text tokens, both ends included (published: `max_position_embeddings`, 77).
    pub length: usize,
    /// The blocks.
    pub tower: TowerConfig,
    /// Width of the embeddings (published: `projection_dim`).
    pub projection_width: usize,
    /// The nonlinearity.
    pub activation: Activation,
    /// Which state of a caption is its embedding.
    pub end_of_text: EndOfText,
}

impl ClipTextConfig {
    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("text_vocab_size", self.vocab_size),
            ("text_length", self.length),
            ("projection_width", self.projection_width),
        ] {
            check(name, value)?;
        }
        self.tower.validate("text")?;
        match self.end_of_text {
            EndOfText::FirstOf(id) if id as usize >= self.vocab_size => Err(Error::invalid(
                "clip config",
                format!(
                    "end_of_text is {id}, expected an id below {}",
                    self.vocab_size
                ),
            )),
            _ => Ok(()),
        }
    }

    /// How many numbers the tower has, norms and biases left out.
    pub fn parameters(&self) -> u64 {
        let rows = (self.vocab_size + self.length + self.projection_width) as u64;
        (rows * self.tower.width as u64).saturating_add(self.tower.parameters())
    }

    /// A tower with fresh weights, as openai/CLIP's `initialize_parameters` draws them.
    pub fn init(&self, init: &mut Init) -> TextTower {
        let width = self.tower.width;
        let std = (width as f64).powf(-0.5);
        TextTower {
            token_embedding: Embedding::new(init, self.vocab_size, width, 0.02),
            position_embedding: init.normal([self.length, width], 0.01),
            blocks: Blocks::fresh(init, &self.tower, self.activation),
            final_norm: LayerNorm::new(init, width),
            projection: Linear::new(init, width, self.projection_width, std),
        }
    }
}

/// The sizes of an [`ImageTower`] alone, as checkers of pictures have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipImageConfig {
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels; divides `image_size`.
    pub patch_size: usize,
    /// The blocks.
    pub tower: TowerConfig,
    /// Width of the embeddings.
    pub projection_width: usize,
    /// The nonlinearity.
    pub activation: Activation,
}

impl ClipImageConfig {
    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        let side = self.image_size / self.patch_size;
        side * side
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("projection_width", self.projection_width),
        ] {
            check(name, value)?;
        }
        self.tower.validate("image")?;
        if self.image_size > 1 << 12 || !self.image_size.is_multiple_of(self.patch_size) {
            return Err(Error::invalid(
                "clip config",
                format!(
                    "image_size is {}, expected a multiple of patch_size {} up to 4096",
                    self.image_size, self.patch_size
                ),
            ));
        }
        Ok(())
    }

    /// How many numbers the tower has, norms and biases left out.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let patch = 3 * of(self.patch_size) * of(self.patch_size);
        (patch + of(self.patches()) + of(self.projection_width)) * of(self.tower.width)
            + self.tower.parameters()
    }

    /// A tower with fresh weights, as openai/CLIP's `initialize_parameters` draws those of the text tower.
    pub fn init(&self, init: &mut Init) -> ImageTower {
        let width = self.tower.width;
        let std = |width: usize| (width as f64).powf(-0.5);
        let patch = 3 * self.patch_size * self.patch_size;
        ImageTower {
            patch_embedding: Linear::new(init, patch, width, std(patch)),
            class_embedding: init.normal([width], std(width)),
            position_embedding: init.normal([1 + self.patches(), width], std(width)),
            pre_norm: LayerNorm::new(init, width),
            blocks: Blocks::fresh(init, &self.tower, self.activation),
            post_norm: LayerNorm::new(init, width),
            projection: Linear::new(init, width, self.projection_width, std(width)),
        }
    }
}

/// The sizes of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerConfig {
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Attention heads; divides `width`.
    pub n_heads: usize,
    /// Units between the two layers of each block's MLP; published: 4 · `width`.
    pub hidden: usize,
}

/// A nonlinearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(1.702 x)`: OpenAI's weights.
    #[default]
    QuickGelu,
    /// `x · Φ(x)`, exact: most of open_clip's weights.
    Gelu,
}

/// Which of a caption's states is its embedding: that at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndOfText {
    /// At the first place of the highest id. OpenAI's code; its end, 49407, is the highest of all ids.
    /// `transformers` does this where `eos_token_id` is 2, the wrong number that old configs hold.
    HighestId,
    /// At the first place of this id: `transformers` where `eos_token_id` is not 2, and our own models,
    /// whose end really is 2.
    FirstOf(u32),
}

impl EndOfText {
    /// The place of the end; none where there is no end.
    pub fn position(self, ids: &[u32]) -> Option<usize> {
        let wanted = match self {
            EndOfText::HighestId => *ids.iter().max()?,
            EndOfText::FirstOf(id) => id,
        };
        ids.iter().position(|&id| id == wanted)
    }
}

/// Means and standard deviations of the channels, of values from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Red, green, blue.
    pub mean: [f32; 3],
    /// Red, green, blue.
    pub std: [f32; 3],
}

impl Default for Normalisation {
    /// OpenAI's, as every published CLIP uses it.
    fn default() -> Self {
        Normalisation {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl Normalisation {
    /// A picture's values, channel after channel.
    pub fn apply(&self, picture: &Image) -> Vec<f32> {
        let mut values = Vec::with_capacity(picture.rgb.len());
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let bytes = picture.rgb.iter().skip(channel).step_by(3);
            values.extend(bytes.map(|&value| (f32::from(value) / 255.0 - mean) / std));
        }
        values
    }
}

impl TowerConfig {
    fn validate(&self, name: &str) -> Result<()> {
        let positive = [
            ("width", self.width),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("hidden", self.hidden),
        ];
        for (field, value) in positive {
            check(&format!("{name}.{field}"), value)?;
        }
        for (field, value) in [("n_layers", self.n_layers), ("n_heads", self.n_heads)] {
            if value > 1 << 10 {
                return Err(Error::invalid(
                    "clip config",
                    format!("{name}.{field} is {value}, expected 1 to 1024"),
                ));
            }
        }
        if !self.width.is_multiple_of(self.n_heads) {
            return Err(Error::invalid(
                "clip config",
                format!(
                    "{name}.width {} is not a multiple of {} heads",
                    self.width, self.n_heads
                ),
            ));
        }
        Ok(())
    }
}

impl TowerConfig {
    /// The weights of the blocks.
    fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let block = 4 * of(self.width) * of(self.width) + 2 * of(self.width) * of(self.hidden);
        of(self.n_layers) * block
    }
}

fn check(name: &str, value: usize) -> Result<()> {
    if value == 0 || value > 1 << 20 {
        return Err(Error::invalid(
            "clip config",
            format!("{name} is {value}, expected 1 to 2^20"),
        ));
    }
    Ok(())
}

impl ClipConfig {
    /// The sizes of the tower of captions.
    pub fn text_tower(&self) -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: self.text_vocab_size,
            length: self.text_length,
            tower: self.text,
            projection_width: self.projection_width,
            activation: self.activation,
            end_of_text: self.end_of_text,
        }
    }

    /// The sizes of the tower of pictures.
    pub fn image_tower(&self) -> ClipImageConfig {
        ClipImageConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            tower: self.image,
            projection_width: self.projection_width,
            activation: self.activation,
        }
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        self.image_tower().patches()
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("clip config", reason));
        let positive = [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("text_vocab_size", self.text_vocab_size),
            ("text_length", self.text_length),
            ("projection_width", self.projection_width),
        ];
        for (name, value) in positive {
            check(name, value)?;
        }
        self.image_tower().validate()?;
        self.text_tower().validate()?;
        let Normalisation { mean, std } = self.normalisation;
        if mean.iter().any(|mean| !mean.is_finite())
            || std.iter().any(|std| !(std.is_finite() && *std > 0.0))
        {
            return bad(format!(
                "normalisation has mean {mean:?} and std {std:?}, expected numbers and positive numbers"
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        self.image_tower().parameters() + self.text_tower().parameters()
    }

    /// A model with fresh weights, as openai/CLIP's `initialize_parameters` draws them; the text tower's
    /// rule serves both.
    pub fn init(&self, init: &mut Init) -> Clip {
        // As if for InfoNCE, unless there is a bias.
        let loss = if self.logit_bias {
            ContrastiveLoss::Sigmoid
        } else {
            ContrastiveLoss::InfoNce
        };
        let (scale, bias) = loss.initial();
        Clip {
            image: self.image_tower().init(init),
            text: self.text_tower().init(init),
            logit_scale: init.constant([1], scale),
            logit_bias: self.logit_bias.then(|| init.constant([1], bias)),
            config: self.clone(),
        }
    }
}
