//! Our own `Dalle`: one decoder-only transformer over the joint sequence of text ids and image ids.
//!
//! Where it deviates from a LLaMA-like decoder (arXiv:2302.13971):
//! - *any order*: each image input carries its own position and the position that it has to predict next,
//!   both as learned embeddings and in its rotary angles (σ-GPT, arXiv:2404.09562; RAR, arXiv:2411.00776);
//! - 2-D rotary positions for the picture, learned positions for the text ([`crate::nn::rope`]);
//! - normalised queries and keys; two untied heads, one for text ids, one for image ids;
//! - text first (drawing) or picture first (captioning) in the same weights;
//! - optional contrastive projections with a learned temperature (CLIP, arXiv:2103.00020).

mod attention;
mod decode;
mod loss;
mod sequence;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub use decode::DalleState;
pub use loss::{DalleBatch, LossWeights, Losses};
pub use sequence::{Order, Part, around_hole, image_part, raster, shuffled};

use crate::nn::block::AttentionMask;
use crate::nn::rope::RopeTable;
use crate::nn::{Adapt, Adaptable, Block, CacheRows, Embedding, Init, KvCache, Linear, RmsNorm};
use crate::{Error, Result};

/// The sizes of a [`Dalle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DalleConfig {
    /// Ids of the text tokenizer.
    pub text_vocab_size: usize,
    /// The most text tokens, start and end included: the limit of a caption.
    pub text_length: usize,
    /// Whether shorter captions are padded to it. If not, an image follows on the last id of its caption: a picture
    /// then takes the less work the shorter its caption is.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub padded_text: bool,
    /// Ids of the image tokenizer.
    pub codebook_size: usize,
    /// Image tokens along a side of the picture.
    pub grid: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Attention heads; `width / n_heads` must be a multiple of 4.
    pub n_heads: usize,
    /// Units of each SwiGLU.
    pub hidden: usize,
    /// Width of the contrastive space; none leaves the projections out.
    #[serde(default)]
    pub contrastive_width: Option<usize>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks for it
fn is_yes(flag: &bool) -> bool {
    *flag
}

impl DalleConfig {
    /// Sizes of one of the presets `mini`, `small`, `base` and `large`, for a text tokenizer of
    /// `text_vocab_size` ids and an image tokenizer of `codebook_size` ids on a `grid`.
    pub fn preset(
        name: &str,
        text_vocab_size: usize,
        codebook_size: usize,
        grid: usize,
    ) -> Result<Self> {
        // (layers, width, heads, hidden): hidden is 8/3 of the width, rounded up to 64 (arXiv:2002.05202).
        let (n_layers, width, n_heads, hidden, text_length) = match name {
            "mini" => (6, 256, 4, 704, 32),
            "small" => (12, 512, 8, 1408, 64),
            "base" => (24, 1024, 16, 2752, 128),
            "large" => (36, 1280, 20, 3456, 256),
            _ => {
                return Err(Error::invalid(
                    "preset",
                    format!("expected mini, small, base or large, got \"{name}\""),
                ));
            }
        };
        Ok(DalleConfig {
            text_vocab_size,
            text_length,
            padded_text: true,
            codebook_size,
            grid,
            width,
            n_layers,
            n_heads,
            hidden,
            contrastive_width: None,
        })
    }

    /// Image tokens of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Text, start of image, and all image tokens.
    pub fn sequence_length(&self) -> usize {
        self.text_length + 1 + self.image_length()
    }

    /// Floating-point operations of a forward and backward pass over one pair: two for each weight of a product
    /// and token forward, four backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and those of the
    /// lower triangle of attention; each head only where it is used.
    pub fn training_operations(&self) -> f64 {
        let sequence = (self.text_length + self.image_length()) as f64;
        let width = self.width as f64;
        let block = 4.0 * width * width + 3.0 * width * self.hidden as f64;
        let heads = self.text_length as f64 * self.text_vocab_size as f64
            + self.image_length() as f64 * self.codebook_size as f64;
        let attention = sequence * sequence * width;
        let layers = self.n_layers as f64;
        6.0 * (layers * block * sequence + width * heads + layers * attention)
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("text_vocab_size", self.text_vocab_size),
            ("codebook_size", self.codebook_size),
            ("grid", self.grid),
            ("width", self.width),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("hidden", self.hidden),
        ];
        for (name, value) in positive {
            if value == 0 || value > 1 << 20 {
                return Err(Error::invalid(
                    "dalle config",
                    format!("{name} is {value}, expected 1 to 2^20"),
                ));
            }
        }
        // Far beyond every model: what these are multiplied by stays a number.
        let bounded = [
            ("n_layers", self.n_layers, 1, 1 << 10),
            ("n_heads", self.n_heads, 1, 1 << 10),
            ("grid", self.grid, 1, 1 << 10),
            ("text_length", self.text_length, 3, 1 << 16),
            (
                "contrastive_width",
                self.contrastive_width.unwrap_or(1),
                1,
                1 << 20,
            ),
        ];
        for (name, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(
                    "dalle config",
                    format!("{name} is {value}, expected {least} to {most}"),
                ));
            }
        }
        if !self.width.is_multiple_of(self.n_heads)
            || !(self.width / self.n_heads).is_multiple_of(4)
        {
            return Err(Error::invalid(
                "dalle config",
                format!(
                    "width {} over {} heads is not a multiple of 4",
                    self.width, self.n_heads
                ),
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let width = of(self.width);
        let layer = 4 * width * width + 3 * width * of(self.hidden);
        let rows = 2 * of(self.text_vocab_size) + of(self.text_length) + 2 * of(self.codebook_size);
        let positions = 2 * of(self.image_length());
        let contrastive = 2 * of(self.contrastive_width.unwrap_or(0));
        of(self.n_layers) * layer + (rows + positions + contrastive) * width
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Dalle {
        let width = self.width;
        let std = 0.02;
        let residual_std = std / (2.0 * self.n_layers as f64).sqrt();
        Dalle {
            text_embedding: Embedding::new(init, self.text_vocab_size, width, std),
            text_position: Embedding::new(init, self.text_length, width, std),
            image_embedding: Embedding::new(init, self.codebook_size + 1, width, std),
            own_position: Embedding::new(init, self.image_length() + 1, width, std),
            target_position: Embedding::new(init, self.image_length() + 1, width, std),
            blocks: (0..self.n_layers)
                .map(|_| Block::new(init, width, self.n_heads, self.hidden, residual_std))
                .collect(),
            final_norm: RmsNorm::new(init, width),
            text_head: Linear::new(init, width, self.text_vocab_size, std),
            image_head: Linear::new(init, width, self.codebook_size, std),
            contrastive: self.contrastive_width.map(|space| Contrastive {
                text_projection: Linear::new(init, width, space, (width as f64).powf(-0.5)),
                image_projection: Linear::new(init, width, space, (width as f64).powf(-0.5)),
                // CLIP's ln(1 / 0.07).
                logit_scale: init.constant([1], (1.0f32 / 0.07).ln()),
            }),
            rope: RopeTable::new(self.grid, width / self.n_heads),
            config: self.clone(),
        }
    }
}

/// The transformer.
#[derive(Module, Debug)]
pub struct Dalle {
    text_embedding: Embedding,
    text_position: Embedding,
    /// One row more than the codebook: the start of the picture.
    image_embedding: Embedding,
    /// One row more than the positions: no position.
    own_position: Embedding,
    target_position: Embedding,
    blocks: Vec<Block>,
    final_norm: RmsNorm,
    text_head: Linear,
    image_head: Linear,
    contrastive: Option<Contrastive>,
    #[module(skip)]
    rope: RopeTable,
    #[module(skip)]
    config: DalleConfig,
}

impl Adapt for Dalle {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all = Vec::new();
        for block in &mut self.blocks {
            all.extend(block.linears());
        }
        all.push(Adaptable::whole("text_head", &mut self.text_head));
        all.push(Adaptable::whole("image_head", &mut self.image_head));
        all
    }
}

/// Projections of the pooled text and image states into one space.
#[derive(Module, Debug)]
struct Contrastive {
    text_projection: Linear,
    image_projection: Linear,
    /// ln(1 / τ), `[1]`.
    logit_scale: Param<Tensor<1>>,
}

impl Dalle {
    /// The sizes.
    pub fn config(&self) -> &DalleConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.text_embedding.weight.val().device()
    }

    /// One empty cache per layer, each for a whole sequence.
    pub fn caches(&self) -> Vec<KvCache> {
        KvCache::of_layers(self.config.n_layers, self.config.sequence_length())
    }

    /// The final states of the tokens of `parts`, which follow on what `caches` hold.
    ///
    /// # Shapes
    /// - each part: `[batch, n_i]`
    /// - returns: `[batch, Σ n_i, width]`
    pub fn forward(
        &self,
        parts: &[Part],
        batch: usize,
        caches: Option<&mut [KvCache]>,
        mask: AttentionMask,
    ) -> Tensor<3> {
        match caches {
            Some(caches) => self.forward_groups(parts, batch, &mut [(caches, batch)], mask),
            None => self.forward_groups(parts, batch, &mut [], mask),
        }
    }

    /// [`Self::forward`] of rows that have different caches: those of each group, and how many rows it has.
    pub(crate) fn forward_groups(
        &self,
        parts: &[Part],
        batch: usize,
        groups: &mut [(&mut [KvCache], usize)],
        mask: AttentionMask,
    ) -> Tensor<3> {
        let device = self.device();
        let no_position = self.config.image_length() as u32;
        let mut embedded = Vec::with_capacity(parts.len());
        let lengths: Vec<usize> = parts.iter().map(|part| part.len() / batch).collect();
        for part in parts {
            embedded.push(self.embed(part, batch, &device));
        }
        let seq: usize = lengths.iter().sum();
        let mut own = Vec::with_capacity(batch * seq);
        let mut target = Vec::with_capacity(batch * seq);
        for row in 0..batch {
            for (part, &n) in parts.iter().zip(&lengths) {
                match part {
                    Part::Text { .. } => {
                        own.extend(std::iter::repeat_n(no_position, n));
                        target.extend(std::iter::repeat_n(no_position, n));
                    }
                    Part::Image {
                        own: part_own,
                        target: part_target,
                        ..
                    } => {
                        own.extend_from_slice(&part_own[row * n..(row + 1) * n]);
                        target.extend_from_slice(&part_target[row * n..(row + 1) * n]);
                    }
                }
            }
        }
        let own = self.rope.rotation(&own, batch, &device);
        let target = self.rope.rotation(&target, batch, &device);
        let mut x = if embedded.len() == 1 {
            embedded.remove(0)
        } else {
            Tensor::cat(embedded, 1)
        };
        if let Some(block) = self.blocks.first() {
            x = block.like_weights(x);
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut of_layer = CacheRows::of_layer(groups, layer);
            x = block.forward(x, &own, &target, &mut of_layer, mask);
        }
        self.final_norm.forward(x)
    }

    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., text_vocab_size]`
    pub fn text_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.text_head.forward(states)
    }

    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., codebook_size]`
    pub fn image_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.image_head.forward(states)
    }

    fn embed(&self, part: &Part, batch: usize, device: &Device) -> Tensor<3> {
        let seq = part.len() / batch;
        let ids = |ids: &[u32]| {
            let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, seq]), device)
        };
        match part {
            Part::Text {
                ids: text_ids,
                start,
            } => {
                let places: Vec<u32> = (*start..start + seq).map(|place| place as u32).collect();
                let places: Vec<u32> = places.repeat(batch);
                self.text_embedding.forward(ids(text_ids))
                    + self.text_position.forward(ids(&places))
            }
            Part::Image {
                ids: image_ids,
                own,
                target,
            } => {
                self.image_embedding.forward(ids(image_ids))
                    + self.own_position.forward(ids(own))
                    + self.target_position.forward(ids(target))
            }
        }
    }
}
