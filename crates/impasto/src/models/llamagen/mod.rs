//! LlamaGen (Sun et al. 2024, arXiv:2406.06525; `autoregressive/models/gpt.py` of github.com/FoundationVision/LlamaGen):
//! a LLaMA over image ids, with rotary positions in two dimensions, after a class or after what a T5 encoder makes of a
//! caption.
//!
//! The image tokenizer is VQ-16: [`super::taming_vqgan`] with normalised codes. Captions are padded to the left in the
//! reference, and the padding is masked; here there is none. What guidance leads away from is as long as the caption:
//! the last of the learned vectors, as the reference masks the others.
//!
//! Queries and keys of the prefix are zero in the reference, since its table of rotations is: each place of the prefix
//! sees the mean of the values before it. That is kept.
//!
//! Deviations, none of which changes a number beyond rounding: the pairs of a head are (i, i + half), not neighbours, to
//! which the columns of queries and keys are sorted; both halves of the SwiGLU are one product.

mod decode;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::decode::{LlamaGenPrompt, LlamaGenState};
pub(crate) use self::decode::{NEXT_CHUNK, NO_CAPTION};
use super::ids::{check_ids, ids};
use super::t5::{T5Config, T5Encoder};
use crate::nn::llama::{GridFrequencies, LlamaBlock};
use crate::nn::{Adapt, Adaptable, CacheRows, Embedding, Init, KvCache, Linear, RmsNorm, ops};
use crate::{Error, Result};

/// What images follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LlamaGenCondition {
    /// A class (`c2i`).
    Classes {
        /// How many; the row after them is that of no class.
        n_classes: usize,
    },
    /// A caption (`t2i`).
    Caption {
        /// The longest, in text ids (`cls_token_num`).
        length: usize,
        /// What reads it.
        text: T5Config,
    },
}

/// The sizes of a [`LlamaGen`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaGenConfig {
    /// What images follow.
    pub condition: LlamaGenCondition,
    /// Width of the residual stream.
    pub width: usize,
    /// Units of each SwiGLU.
    pub hidden: usize,
    /// Layers.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Added to mean squares in the norms.
    pub norm_epsilon: f64,
    /// The base of the rotary frequencies.
    pub rope_base: f64,
    /// Ids of the image tokenizer.
    pub codebook_size: usize,
    /// Image ids along a side of a picture.
    pub grid: usize,
}

impl LlamaGenConfig {
    /// Image ids of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Places before the image, at most.
    pub fn text_length(&self) -> usize {
        match &self.condition {
            LlamaGenCondition::Classes { .. } => 1,
            LlamaGenCondition::Caption { length, .. } => *length,
        }
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("llamagen config", reason));
        for (name, value, most) in [
            ("width", self.width, 1 << 16),
            ("hidden", self.hidden, 1 << 20),
            ("n_layers", self.n_layers, 1 << 10),
            ("n_heads", self.n_heads, 1 << 10),
            ("codebook_size", self.codebook_size, 1 << 20),
            ("grid", self.grid, 1 << 8),
        ] {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !self.width.is_multiple_of(4 * self.n_heads) {
            return bad(format!(
                "width {} is not a multiple of 4 for each of {} heads",
                self.width, self.n_heads
            ));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return bad(format!(
                "norm_epsilon is {}, expected between 0 and 1",
                self.norm_epsilon
            ));
        }
        if !(self.rope_base > 1.0 && self.rope_base.is_finite()) {
            return bad(format!(
                "rope_base is {}, expected more than 1",
                self.rope_base
            ));
        }
        match &self.condition {
            LlamaGenCondition::Classes { n_classes } if !(1..=1 << 20).contains(n_classes) => {
                bad(format!("n_classes is {n_classes}, expected 1 to 2^20"))
            }
            LlamaGenCondition::Classes { .. } => Ok(()),
            LlamaGenCondition::Caption { length, .. } if !(2..=1 << 12).contains(length) => {
                bad(format!("length is {length}, expected 2 to 4096"))
            }
            LlamaGenCondition::Caption { text, .. } => text.validate(),
        }
    }

    /// How many numbers the model has, norms left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let (width, hidden) = (of(self.width), of(self.hidden));
        let layer = 4 * width * width + 3 * width * hidden;
        let condition = match &self.condition {
            LlamaGenCondition::Classes { n_classes } => (of(*n_classes) + 1) * width,
            LlamaGenCondition::Caption { length, text } => {
                let features = of(text.width);
                text.parameters() + of(*length) * features + (features + width) * width
            }
        };
        of(self.n_layers)
            .saturating_mul(layer)
            .saturating_add(2 * of(self.codebook_size) * width)
            .saturating_add(condition)
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> LlamaGen {
        let (width, std) = (self.width, 0.02);
        let (classes, caption) = match &self.condition {
            LlamaGenCondition::Classes { n_classes } => {
                (Some(Embedding::new(init, n_classes + 1, width, std)), None)
            }
            LlamaGenCondition::Caption { length, text } => {
                let features = text.width;
                let caption = Caption {
                    text: text.init(init),
                    project_in: Linear::new(init, features, width, std),
                    project_out: Linear::new(init, width, width, std),
                    nothing: init.normal([*length, features], (features as f64).powf(-0.5)),
                };
                (None, Some(caption))
            }
        };
        LlamaGen {
            classes,
            caption,
            image_embedding: Embedding::new(init, self.codebook_size, width, std),
            blocks: (0..self.n_layers)
                .map(|_| LlamaBlock::new(init, width, self.n_heads, self.hidden, self.norm_epsilon))
                .collect(),
            norm: RmsNorm::new(init, width),
            head: Linear::new(init, width, self.codebook_size, std),
            frequencies: GridFrequencies::new(self.grid, width / self.n_heads, self.rope_base),
            config: self.clone(),
        }
    }
}

/// What reads captions.
#[derive(Module, Debug)]
struct Caption {
    text: T5Encoder,
    project_in: Linear,
    project_out: Linear,
    /// What stands for no caption: `[length, text.width]`.
    nothing: Param<Tensor<2>>,
}

impl Caption {
    /// `MLP` of the reference.
    fn project(&self, features: Tensor<3>) -> Tensor<3> {
        self.project_out
            .forward(ops::tanh_gelu(self.project_in.forward(features)))
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct LlamaGen {
    /// `[n_classes + 1, width]`.
    classes: Option<Embedding>,
    caption: Option<Caption>,
    image_embedding: Embedding,
    blocks: Vec<LlamaBlock>,
    norm: RmsNorm,
    head: Linear,
    #[module(skip)]
    frequencies: GridFrequencies,
    #[module(skip)]
    config: LlamaGenConfig,
}

impl LlamaGen {
    /// The sizes.
    pub fn config(&self) -> &LlamaGenConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.norm.weight.val().device()
    }

    /// With a text encoder whose weights keep no gradients, and vectors of no caption that keep none: they are no part of
    /// what is trained. (The reference draws the vectors at random and has them as a buffer.)
    pub fn for_training(mut self) -> Self {
        self.caption = self.caption.map(|caption| Caption {
            text: caption.text.no_grad(),
            nothing: caption.nothing.no_grad(),
            ..caption
        });
        self
    }

    /// What the text encoder makes of a caption's ids: `[1, n, text.width]`.
    ///
    /// # Errors
    /// Where images follow classes.
    pub fn features(&self, text_ids: &[u32]) -> Result<Tensor<3>> {
        match &self.caption {
            Some(caption) => caption.text.forward(text_ids),
            None => Err(Error::invalid("caption", "this model reads classes only")),
        }
    }

    /// What stands before an image: of a class, or of a caption's ids; `[1, n, width]`. The class after the last one, or
    /// `nothing` (this many places), are for no condition.
    fn prefix(&self, condition: Condition<'_>) -> Result<Tensor<3>> {
        let bad = |reason: String| Err(Error::invalid("text ids", reason));
        match (condition, &self.classes, &self.caption) {
            (Condition::Class(class), Some(classes), _) => {
                let [rows, _] = classes.weight.dims();
                if class as usize >= rows {
                    return bad(format!("expected a class below {rows}, got {class}"));
                }
                Ok(classes.forward(ids(&[&[class]], &self.device())))
            }
            (Condition::Caption(text_ids), _, Some(caption)) => {
                let limit = self.config.text_length();
                let chunks = text_ids.split(|&id| id == NEXT_CHUNK);
                let mut features = Vec::with_capacity(1);
                for chunk in chunks {
                    if chunk.len() > limit {
                        return bad(format!("expected at most {limit} ids, got {}", chunk.len()));
                    }
                    features.push(caption.text.forward(chunk)?);
                }
                let features = match features.len() {
                    1 => features.remove(0),
                    _ => Tensor::cat(features, 1),
                };
                Ok(caption.project(features))
            }
            (Condition::Nothing(places), _, Some(caption)) => {
                let limit = self.config.text_length();
                if !(1..=limit).contains(&places) {
                    return bad(format!("expected 1 to {limit} ids, got {places}"));
                }
                let last = caption.nothing.val().narrow(0, limit - places, places);
                Ok(caption.project(last.unsqueeze()))
            }
            _ => bad("are not of this model's kind".into()),
        }
    }

    /// One empty cache for each layer, with room for `capacity` tokens.
    fn caches(&self, capacity: usize) -> Vec<KvCache> {
        KvCache::of_layers(self.config.n_layers, capacity)
    }

    /// What image ids, `[rows][n]`, put into the transformer: `[rows, n, width]`.
    fn embed_image(&self, rows: &[&[u32]]) -> Result<Tensor<3>> {
        for row in rows {
            check_ids("image ids", row, self.config.codebook_size)?;
        }
        Ok(self.image_embedding.forward(ids(rows, &self.device())))
    }

    /// The final states of the transformer.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    /// - `cells`: `[batch · seq]`, row after row; none for places of the prefix
    /// - `groups`: of each group of consecutive rows one cache a layer, and how many rows it has; none for whole
    ///   sequences
    fn run(
        &self,
        x: Tensor<3>,
        cells: &[Option<u32>],
        groups: &mut [(&mut [KvCache], usize)],
    ) -> Tensor<3> {
        let [batch, ..] = x.dims();
        let rotation = self.frequencies.rotation(cells, batch, &x.device());
        let mut x = x;
        for (i, block) in self.blocks.iter().enumerate() {
            let mut of_layer = CacheRows::of_layer(groups, i);
            x = block.forward(x, &rotation, &mut of_layer);
        }
        ops::rms_norm(x, self.norm.weight.val(), self.config.norm_epsilon)
    }

    /// Logits of all ids of images after a prompt.
    ///
    /// # Shapes
    /// - `images`: `[rows][positions]`
    /// - returns: `[rows, positions, codebook_size]`
    pub fn whole_logits(&self, prompt: &LlamaGenPrompt, images: &[Vec<u32>]) -> Result<Tensor<3>> {
        let positions = self.config.image_length();
        if let Some(ids) = images.iter().find(|ids| ids.len() != positions) {
            return Err(Error::invalid(
                "image ids",
                format!("expected {positions} ids, got {}", ids.len()),
            ));
        }
        let rows = images.len();
        let [_, length, width] = prompt.prefix.dims();
        let prefix = prompt.prefix.clone().expand([rows, length, width]);
        let before: Vec<&[u32]> = images.iter().map(|ids| &ids[..positions - 1]).collect();
        let x = match positions {
            1 => prefix,
            _ => Tensor::cat(vec![prefix, self.embed_image(&before)?], 1),
        };
        let row = || {
            let image = (0..positions as u32 - 1).map(Some);
            std::iter::repeat_n(None, length).chain(image)
        };
        let cells: Vec<Option<u32>> = (0..rows).flat_map(|_| row()).collect();
        let states = self.run(x, &cells, &mut []);
        Ok(self.head.forward(states.narrow(1, length - 1, positions)))
    }

    /// −ln p of the ids of images after their prompts, row after row: `[rows · positions]`.
    pub fn image_nll(
        &self,
        prompts: &[(&LlamaGenPrompt, usize)],
        images: &[Vec<u32>],
    ) -> Result<Tensor<1>> {
        let mut first = 0;
        let mut nll = Vec::with_capacity(prompts.len());
        for &(prompt, rows) in prompts {
            let images = &images[first..first + rows];
            first += rows;
            let logits = self.whole_logits(prompt, images)?;
            let [rows, positions, codes] = logits.dims();
            let targets: Vec<&[u32]> = images.iter().map(Vec::as_slice).collect();
            let targets = ids(&targets, &self.device()).reshape([rows * positions]);
            nll.push(ops::cross_entropy(
                logits.reshape([rows * positions, codes]),
                targets,
            ));
        }
        Ok(Tensor::cat(nll, 0))
    }
}

/// What an image follows.
#[derive(Clone, Copy, Debug)]
enum Condition<'a> {
    Class(u32),
    Caption(&'a [u32]),
    /// This many places of no caption.
    Nothing(usize),
}

/// The transformer's layers under LLaMA's names, what captions go through, and the head; not the text encoder.
impl Adapt for LlamaGen {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all: Vec<Adaptable<'_>> = Vec::new();
        for block in &mut self.blocks {
            all.extend(block.linears());
        }
        if let Some(caption) = &mut self.caption {
            all.push(Adaptable::whole("caption.in", &mut caption.project_in));
            all.push(Adaptable::whole("caption.out", &mut caption.project_out));
        }
        all.push(Adaptable::whole("head", &mut self.head));
        all
    }
}
