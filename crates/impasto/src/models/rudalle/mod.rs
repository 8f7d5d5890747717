//! The transformer of ruDALL-E (github.com/ai-forever/ru-dalle, `rudalle/dalle/model.py`, `transformer.py`,
//! `image_attention.py`; Malevich, Emojich, Surrealist, Kandinsky): one sequence of the caption, filled up to its longest,
//! and the picture's ids in raster order, with CogView's norms behind each part (arXiv:2105.13290).
//!
//! Two versions of it were published, which differ in three places and in no tensor, see [`RuDalleVersion`].
//!
//! Deviations, none of which changes a number beyond rounding:
//! - scores of what is hidden are −∞ and not −10,000, and no largest score is subtracted before (`cogview_pb_relax`);
//! - the head over the joint vocabulary is two, one over words and one over codes: a position predicts one of both.

mod decode;
mod layers;
mod masks;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

pub use self::decode::{RuDalleState, RuDalleTokens};
use self::layers::Layer;
pub use self::masks::{MaskKind, RuDalleVersion};
use super::ids::ids;
use super::pairs::{PairNet, damped, grid_positions, padded};
use super::visibility::Visibility;
use crate::nn::{Adapt, Adaptable, Embedding, Init, KvCache, LayerNorm, Linear, ops};
use crate::{Error, Result};

/// What begins a caption; the text tokenizer's, which the reference fixes.
pub const BEGIN: u32 = 2;
/// What ends a caption, likewise.
pub const END: u32 = 3;

/// The sizes and options of a [`RuDalle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuDalleConfig {
    /// Which version of the architecture (`hf_version`).
    pub version: RuDalleVersion,
    /// Ids of words, 0 among them, which fills captions up: `vocab_size` without one padding id for each place.
    pub text_vocab_size: usize,
    /// The longest caption, begin and end included (`text_seq_length`).
    pub text_length: usize,
    /// Codes of the image tokenizer (`image_vocab_size`).
    pub codebook_size: usize,
    /// Image tokens along a side of the picture (`image_tokens_per_dim`).
    pub grid: usize,
    /// Width of the residual stream (`hidden_size`).
    pub width: usize,
    /// Layers (`num_layers`).
    pub n_layers: usize,
    /// Attention heads (`num_attention_heads`).
    pub n_heads: usize,
    /// A layer norm behind each part too (`cogview_sandwich_layernorm`).
    pub sandwich_norm: bool,
}

impl RuDalleConfig {
    /// Image tokens of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Tokens before the picture: the caption, after a start in version 2.
    pub fn prefix_length(&self) -> usize {
        match self.version {
            RuDalleVersion::V2 => self.text_length + 1,
            RuDalleVersion::V3 => self.text_length,
        }
    }

    /// Words of a caption and its padding that are predicted: all after the first token.
    pub fn predicted_text(&self) -> usize {
        self.prefix_length() - 1
    }

    /// Rows of the text embedding: after the words one padding id for each place.
    pub fn text_rows(&self) -> usize {
        self.text_vocab_size + self.text_length
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("rudalle config", reason));
        for (name, value, least, most) in [
            // The marks are 0 to 3.
            ("text_vocab_size", self.text_vocab_size, 4, 1 << 20),
            ("text_length", self.text_length, 3, 1 << 14),
            ("codebook_size", self.codebook_size, 1, 1 << 20),
            ("grid", self.grid, 1, 1 << 8),
            ("width", self.width, 1, 1 << 16),
            ("n_layers", self.n_layers, 1, 1 << 10),
            ("n_heads", self.n_heads, 1, 1 << 10),
        ] {
            if !(least..=most).contains(&value) {
                return bad(format!("{name} is {value}, expected {least} to {most}"));
            }
        }
        if !self.width.is_multiple_of(self.n_heads) {
            return bad(format!(
                "width {} is not a multiple of n_heads {}",
                self.width, self.n_heads
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let width = of(self.width);
        let rows = 2 * (of(self.text_rows()) + of(self.codebook_size));
        let positions = of(self.text_length) + 1 + 2 * of(self.grid);
        (rows + positions) * width + of(self.n_layers) * 12 * width * width
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> RuDalle {
        let (width, std) = (self.width, 0.02);
        RuDalle {
            text_embedding: Embedding::new(init, self.text_rows(), width, std),
            image_embedding: Embedding::new(init, self.codebook_size, width, std),
            text_positions: Embedding::new(init, self.text_length + 1, width, std),
            image_rows: Embedding::new(init, self.grid, width, std),
            image_columns: Embedding::new(init, self.grid, width, std),
            layers: (0..self.n_layers)
                .map(|_| Layer::new(init, width, self.n_heads, self.sandwich_norm))
                .collect(),
            norm: LayerNorm::new(init, width),
            head_norm: LayerNorm::new(init, width),
            text_head: Linear::with_bias(init, width, self.text_rows(), std),
            image_head: Linear::with_bias(init, width, self.codebook_size, std),
            config: self.clone(),
        }
    }
}

/// The transformer.
#[derive(Module, Debug)]
pub struct RuDalle {
    text_embedding: Embedding,
    image_embedding: Embedding,
    /// `[text_length + 1, width]`; the last one has no place in version 3.
    text_positions: Embedding,
    image_rows: Embedding,
    image_columns: Embedding,
    layers: Vec<Layer>,
    norm: LayerNorm,
    /// The first part of the head, right after the other norm.
    head_norm: LayerNorm,
    text_head: Linear,
    image_head: Linear,
    #[module(skip)]
    config: RuDalleConfig,
}

impl RuDalle {
    /// The sizes.
    pub fn config(&self) -> &RuDalleConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.norm.weight.val().device()
    }

    /// Runs the text part of captions, each given as its ids without padding.
    ///
    /// # Shapes
    /// - returns: the states of the whole text part, `[batch, prefix_length, width]`; the last one predicts the first
    ///   image id
    pub fn prefill(&self, captions: &[Vec<u32>]) -> Result<(Tensor<3>, RuDalleTokens)> {
        if captions.is_empty() {
            return Err(Error::invalid("text ids", "expected one caption or more"));
        }
        let words = captions.iter().map(|caption| self.tokens_of(caption));
        let words: Vec<Vec<u32>> = words.collect::<Result<_>>()?;
        let capacity = self.config.prefix_length() + self.config.image_length();
        let mut tokens = RuDalleTokens {
            caches: KvCache::of_layers(self.config.n_layers, capacity),
            n_image: 0,
        };
        let n = self.config.prefix_length();
        let places = self.text_positions.weight.val().narrow(0, 0, n);
        let x = self.text_embedding.forward(self.row_ids(&words)) + places.unsqueeze::<3>();
        let states = self.run(x, &mut tokens, |_| Visibility::Causal);
        Ok((states, tokens))
    }

    /// Runs the next image ids, rows of equal length.
    ///
    /// # Shapes
    /// - `image_ids`: `[batch][n]`
    /// - returns: `[batch, n, width]`
    pub fn step(&self, image_ids: &[Vec<u32>], tokens: &mut RuDalleTokens) -> Result<Tensor<3>> {
        let n = self.check_next(image_ids, tokens.n_image)?;
        let (config, device) = (&self.config, self.device());
        let places = [tokens.n_image, n, config.grid];
        let x = self.image_embedding.forward(self.row_ids(image_ids))
            + grid_positions(&self.image_rows, &self.image_columns, places);
        let total = config.prefix_length() + tokens.n_image + n;
        let (text, grid) = (config.text_length, config.grid);
        let states = self.run(x, tokens, |kind| {
            Visibility::new([n, total], &device, |from, to| {
                kind.sees([from, to], text, grid)
            })
        });
        tokens.n_image += n;
        Ok(states)
    }

    /// The states after all layers and the norm. `visible` says what each kind of layer sees.
    fn run(
        &self,
        x: Tensor<3>,
        tokens: &mut RuDalleTokens,
        visible: impl Fn(MaskKind) -> Visibility,
    ) -> Tensor<3> {
        let mut known: Vec<(MaskKind, Visibility)> = Vec::with_capacity(3);
        let mut x = damped(x);
        for (i, (layer, cache)) in self.layers.iter().zip(&mut tokens.caches).enumerate() {
            let kind = MaskKind::of_layer(i, self.config.n_layers, self.config.version);
            let of_kind = match known.iter().find(|(it, _)| *it == kind) {
                Some((_, visible)) => visible.clone(),
                None => {
                    let visible = visible(kind);
                    known.push((kind, visible.clone()));
                    visible
                }
            };
            x = layer.forward(x, &of_kind, cache);
        }
        self.norm.forward(x)
    }

    /// The start of version 2, the caption and its padding, which has an id of its own for each place.
    fn tokens_of(&self, caption: &[u32]) -> Result<Vec<u32>> {
        let config = &self.config;
        let words = padded(caption, config.text_vocab_size, config.text_length)?;
        let start = match config.version {
            RuDalleVersion::V2 => Some(BEGIN),
            RuDalleVersion::V3 => None,
        };
        Ok(start.into_iter().chain(words).collect())
    }

    fn row_ids(&self, rows: &[Vec<u32>]) -> Tensor<2, Int> {
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        ids(&rows, &self.device())
    }

    /// Logits of the code that follows a state.
    ///
    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., codebook_size]`
    pub fn image_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.image_head.forward(self.head_norm.forward(states))
    }

    /// Logits of the word that follows a state, padding included.
    ///
    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., text_rows]`
    pub fn text_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.text_head.forward(self.head_norm.forward(states))
    }

    /// Logits of the image ids that follow captions, one pair after the other: `[batch · grid², codebook_size]`.
    pub fn logits(&self, captions: &[Vec<u32>], image_ids: &[Vec<u32>]) -> Result<Tensor<2>> {
        let (_, states) = self.run_pairs(captions, image_ids)?;
        let rows = captions.len() * self.config.image_length();
        Ok(self.image_logits(states.reshape([rows, self.config.width])))
    }

    /// −ln p of each word of captions after the first, of their padding, and of each id of the images that follow, one
    /// pair after the other: `[batch · predicted_text]` and `[batch · grid²]`.
    pub fn nll(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<1>, Tensor<1>)> {
        let (prefix, states) = self.run_pairs(captions, image_ids)?;
        let words = captions.iter().map(|caption| {
            let tokens = self.tokens_of(caption)?;
            Ok(tokens[1..].to_vec())
        });
        let words: Vec<Vec<u32>> = words.collect::<Result<_>>()?;
        let prefix = prefix.narrow(1, 0, self.config.predicted_text());
        Ok((
            self.text_nll(prefix, &words),
            self.image_nll(states, image_ids),
        ))
    }

    /// What the training of the reference counts: −ln p of words and of image ids, `[batch · …]` each. The training of
    /// version 3 takes the first id of an image for a word.
    ///
    /// # Errors
    /// Also where that id is none of a word.
    pub fn training_nll(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<1>, Tensor<1>)> {
        if self.config.version == RuDalleVersion::V2 {
            return self.nll(captions, image_ids);
        }
        let (prefix, states) = self.run_pairs(captions, image_ids)?;
        let mut words = Vec::with_capacity(captions.len());
        let mut codes = Vec::with_capacity(image_ids.len());
        for (caption, image) in captions.iter().zip(image_ids) {
            let rows = self.config.text_rows();
            let (first, others) = (image[0], image[1..].to_vec());
            if first as usize >= rows {
                return Err(Error::invalid(
                    "image ids",
                    format!(
                        "the training of this version takes the first one for a word: expected one below {rows}, got {first}"
                    ),
                ));
            }
            let tokens = self.tokens_of(caption)?;
            words.push(tokens[1..].iter().copied().chain([first]).collect());
            codes.push(others);
        }
        let others = self.config.image_length() - 1;
        if others == 0 {
            let reason = "this version is trained on pictures of two ids or more";
            return Err(Error::invalid("image ids", reason));
        }
        Ok((
            self.text_nll(prefix, &words),
            self.image_nll(states.narrow(1, 1, others), &codes),
        ))
    }

    fn text_nll(&self, states: Tensor<3>, words: &[Vec<u32>]) -> Tensor<1> {
        let [batch, n, width] = states.dims();
        let logits = self.text_logits(states.reshape([batch * n, width]));
        ops::cross_entropy(logits, self.targets(words))
    }

    fn image_nll(&self, states: Tensor<3>, codes: &[Vec<u32>]) -> Tensor<1> {
        let [batch, n, width] = states.dims();
        let logits = self.image_logits(states.reshape([batch * n, width]));
        ops::cross_entropy(logits, self.targets(codes))
    }
}

impl Adapt for RuDalle {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all = Vec::new();
        for layer in &mut self.layers {
            all.extend(layer.linears());
        }
        all.push(Adaptable::whole("text_head", &mut self.text_head));
        all.push(Adaptable::whole("image_head", &mut self.image_head));
        all
    }
}
