//! The transformer of DALLE-pytorch (github.com/lucidrains/DALLE-pytorch, `dalle_pytorch.py`, `transformer.py`):
//! one sequence of a start, the caption filled up to its longest, and the picture's ids, in raster order.
//!
//! All options of its constructor that change the mathematics are here but `sparse` attention, which is
//! DeepSpeed's. What its options for speed compute (`optimize_for_inference`, caches) is the same.
//!
//! Deviations, none of which changes a number beyond rounding:
//! - the head over the joint vocabulary is two, one over words and one over codes: a position predicts one of both;
//! - attention along rows, columns and in windows sees the same keys, found by their places;
//! - text is generated one id at a time as the model was trained to: after the start, and shifted where `shift_tokens` is.
//!   The original's `generate_texts` leaves both out.

mod attention;
mod clip;
mod decode;
mod layers;
mod shift;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use self::layers::{Layer, LayerState};
use super::ids::{check_ids, ids};
use super::pairs::{PairNet, damped, grid_positions, padded};
use crate::engine::DecodeState;
use crate::nn::{Adapt, Adaptable, Embedding, Init, LayerNorm, Linear, ops};
use crate::{Error, Result};

pub use attention::AttentionKind;
pub use clip::{DallePytorchClip, DallePytorchClipConfig, DallePytorchTower};
pub use decode::DallePytorchState;

/// The sizes and options of a [`DallePytorch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DallePytorchConfig {
    /// Ids of words (`num_text_tokens`), 0 among them, which fills captions up.
    pub text_vocab_size: usize,
    /// The longest caption (`text_seq_len`).
    pub text_length: usize,
    /// Codes of the image tokenizer.
    pub codebook_size: usize,
    /// Image tokens along a side of the picture.
    pub grid: usize,
    /// Width of the residual stream (`dim`).
    pub width: usize,
    /// Layers (`depth`).
    pub n_layers: usize,
    /// Attention heads (`heads`).
    pub n_heads: usize,
    /// Their width (`dim_head`).
    pub head_width: usize,
    /// What each layer's attention sees, from the first layer on and again from the beginning (`attn_types`).
    pub attention: Vec<AttentionKind>,
    /// Two streams that are changed in turns, and their mean in the end (`reversible`).
    pub reversible: bool,
    /// The last states are divided by their largest number (`stable`).
    pub stable: bool,
    /// A layer norm after each part too (`sandwich_norm`).
    pub sandwich_norm: bool,
    /// Some channels come from the tokens before and above (`shift_tokens`).
    pub shift_tokens: bool,
    /// Channels of each head that are turned by the place (`rotary_emb`); 0 is learned positions instead.
    pub rotary_width: usize,
}

impl DallePytorchConfig {
    /// Image tokens of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// The start and the caption.
    pub fn prefix_length(&self) -> usize {
        self.text_length + 1
    }

    /// Rows of the text embedding: after the words one padding id for each position.
    pub fn text_rows(&self) -> usize {
        self.text_vocab_size + self.text_length
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("dalle_pytorch config", reason));
        let positive = [
            ("text_vocab_size", self.text_vocab_size, 1 << 20),
            ("text_length", self.text_length, 1 << 14),
            ("codebook_size", self.codebook_size, 1 << 20),
            ("grid", self.grid, 1 << 10),
            ("width", self.width, 1 << 16),
            ("n_layers", self.n_layers, 1 << 10),
            ("n_heads", self.n_heads, 1 << 10),
            ("head_width", self.head_width, 1 << 12),
        ];
        for (name, value, most) in positive {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if self.attention.is_empty() {
            return bad("attention is empty, expected one kind or more".into());
        }
        if !self.rotary_width.is_multiple_of(2) || self.rotary_width > self.head_width {
            return bad(format!(
                "rotary_width is {}, expected an even number up to head_width {}",
                self.rotary_width, self.head_width
            ));
        }
        if self.shift_tokens && self.width < 4 {
            return bad(format!("width is {}, expected 4 or more", self.width));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let width = of(self.width);
        let attention = 4 * width * of(self.n_heads) * of(self.head_width);
        let layer = attention + 12 * width * width;
        let rows = 2 * (of(self.text_rows()) + of(self.codebook_size)) * width;
        let places = of(self.prefix_length()) + of(self.image_length());
        let positions = match self.rotary_width {
            0 => (of(self.prefix_length()) + 2 * of(self.grid)) * width,
            rotary => places * of(rotary),
        };
        rows + of(self.n_layers) * layer + positions
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> DallePytorch {
        let width = self.width;
        let learned = self.rotary_width == 0;
        let positions = self.prefix_length() + self.image_length();
        let kinds = self.attention.iter().cycle();
        DallePytorch {
            text_embedding: Embedding::new(init, self.text_rows(), width, 0.02),
            image_embedding: Embedding::new(init, self.codebook_size, width, 0.02),
            text_positions: learned
                .then(|| Embedding::new(init, self.prefix_length(), width, 0.02)),
            image_rows: learned.then(|| Embedding::new(init, self.grid, width, 0.02)),
            image_columns: learned.then(|| Embedding::new(init, self.grid, width, 0.02)),
            rotary: (!learned).then(|| init.normal([positions, self.rotary_width], 1.0)),
            layers: kinds
                .take(self.n_layers)
                .map(|&kind| Layer::new(init, &self.into(), kind))
                .collect(),
            norm: LayerNorm::new(init, width),
            text_head: Linear::with_bias(init, width, self.text_rows(), 0.02),
            image_head: Linear::with_bias(init, width, self.codebook_size, 0.02),
            config: self.clone(),
        }
    }
}

/// The transformer.
#[derive(Module, Debug)]
pub struct DallePytorch {
    text_embedding: Embedding,
    image_embedding: Embedding,
    /// One of each place of the start and the caption.
    text_positions: Option<Embedding>,
    image_rows: Option<Embedding>,
    image_columns: Option<Embedding>,
    /// `[prefix + image, rotary_width]`: by which angle a channel is turned at a place; the same one twice for
    /// the two channels of a pair.
    rotary: Option<Param<Tensor<2>>>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    text_head: Linear,
    image_head: Linear,
    #[module(skip)]
    config: DallePytorchConfig,
}

/// The per-layer caches of a batch of sequences, and how many tokens they hold.
#[derive(Clone, Debug)]
pub struct PairState {
    layers: Vec<LayerState>,
    /// Text tokens so far, the start included.
    n_text: usize,
    /// Image tokens so far.
    n_image: usize,
}

impl DecodeState for PairState {
    fn select_rows(&mut self, rows: &[usize]) {
        for layer in &mut self.layers {
            layer.select_rows(rows);
        }
    }
}

impl PairState {
    /// Image tokens so far.
    pub fn n_image(&self) -> usize {
        self.n_image
    }
}

impl DallePytorch {
    /// The sizes.
    pub fn config(&self) -> &DallePytorchConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.text_head.weight.val().device()
    }

    /// The state before the first token.
    pub fn empty_state(&self) -> PairState {
        let states = self.layers.iter().map(|_| LayerState::new(&self.config));
        PairState {
            layers: states.collect(),
            n_text: 0,
            n_image: 0,
        }
    }

    /// Runs the text part of captions, each given as its ids without padding.
    ///
    /// # Shapes
    /// - returns: the states of the start and the whole text part, `[batch, 1 + text_length, width]`
    pub fn prefill(&self, captions: &[Vec<u32>]) -> Result<(Tensor<3>, PairState)> {
        if captions.is_empty() {
            return Err(Error::invalid("text ids", "expected one caption or more"));
        }
        let words = captions.iter().map(|caption| self.padded(caption));
        let words: Vec<Vec<u32>> = words.collect::<Result<_>>()?;
        let mut state = self.empty_state();
        let states = self.step_text(&words, &mut state)?;
        Ok((states, state))
    }

    /// Runs the next text tokens, rows of equal length: the start, which is 0, and ids of the text embedding.
    ///
    /// # Shapes
    /// - `words`: `[batch][n]`
    /// - returns: their states, `[batch, n, width]`
    pub fn step_text(&self, words: &[Vec<u32>], state: &mut PairState) -> Result<Tensor<3>> {
        let config = &self.config;
        let n = words.first().map_or(0, Vec::len);
        if n == 0 || words.iter().any(|row| row.len() != n) {
            let reason = "expected rows of one length, 1 or more";
            return Err(Error::invalid("text ids", reason));
        }
        if state.n_image > 0 || state.n_text + n > config.prefix_length() {
            return Err(Error::invalid(
                "text ids",
                format!(
                    "expected {} at most, and no picture before them, got {}",
                    config.prefix_length(),
                    state.n_text + n
                ),
            ));
        }
        for row in words {
            check_ids("text ids", row, config.text_rows())?;
        }
        let mut x = self.text_embedding.forward(self.row_ids(words));
        if let Some(positions) = &self.text_positions {
            let positions = positions.weight.val().narrow(0, state.n_text, n);
            x = x + positions.unsqueeze::<3>();
        }
        let states = self.forward(x, state, true);
        state.n_text += n;
        Ok(states)
    }

    /// The start, the caption and its padding, which has an id of its own for each position, also where a caption
    /// contains the id 0.
    fn padded(&self, caption: &[u32]) -> Result<Vec<u32>> {
        let config = &self.config;
        let words = padded(caption, config.text_vocab_size, config.text_length)?;
        Ok(std::iter::once(0).chain(words).collect())
    }

    fn row_ids(&self, rows: &[Vec<u32>]) -> Tensor<2, Int> {
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        ids(&rows, &self.device())
    }

    /// Runs the next image ids, rows of equal length.
    ///
    /// # Shapes
    /// - `image_ids`: `[batch][n]`
    /// - returns: `[batch, n, width]`
    pub fn step(&self, image_ids: &[Vec<u32>], state: &mut PairState) -> Result<Tensor<3>> {
        let config = &self.config;
        if state.n_text != config.prefix_length() {
            let reason = "expected the whole caption before a picture";
            return Err(Error::invalid("image ids", reason));
        }
        let n = self.check_next(image_ids, state.n_image)?;
        let mut x = self.image_embedding.forward(self.row_ids(image_ids));
        if let (Some(rows), Some(columns)) = (&self.image_rows, &self.image_columns) {
            x = x + grid_positions(rows, columns, [state.n_image, n, config.grid]);
        }
        let states = self.forward(x, state, false);
        state.n_image += n;
        Ok(states)
    }

    fn forward(&self, x: Tensor<3>, state: &mut PairState, is_text: bool) -> Tensor<3> {
        let [_, n, _] = x.dims();
        let x = match self.config.stable {
            true => damped(x),
            false => x,
        };
        let start = match is_text {
            true => state.n_text,
            false => state.n_text + state.n_image,
        };
        let turn = self.rotary.as_ref().map(|angles| {
            let angles = angles.val().narrow(0, start, n);
            attention::RotaryAngles::new(angles)
        });
        let place = layers::TokenPlaces {
            is_text,
            n_before: state.n_image,
            grid: self.config.grid,
            prefix: self.config.prefix_length(),
            turn: turn.as_ref(),
        };
        if self.config.reversible {
            let (mut first, mut second) = (x.clone(), x);
            for (layer, layer_state) in self.layers.iter().zip(&mut state.layers) {
                first = first + layer.attend(second.clone(), &place, layer_state);
                second = second + layer.feed(first.clone(), &place, layer_state);
            }
            return (first + second).mul_scalar(0.5);
        }
        let mut x = x;
        for (layer, layer_state) in self.layers.iter().zip(&mut state.layers) {
            x = x.clone() + layer.attend(x, &place, layer_state);
            x = x.clone() + layer.feed(x, &place, layer_state);
        }
        x
    }

    fn finished<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        let states = match self.config.stable {
            true => states.clone() / states.max_dim(D - 1).detach(),
            false => states,
        };
        self.norm.forward(states)
    }

    /// Logits of the code that follows a state.
    ///
    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., codebook_size]`
    pub fn image_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.image_head.forward(self.finished(states))
    }

    /// Logits of the word that follows a state, padding included.
    ///
    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., text_vocab_size + text_length]`
    pub fn text_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.text_head.forward(self.finished(states))
    }

    /// Logits of each word of the captions and their padding, and of each id of the images that follow, one
    /// pair after the other: `[batch · text_length, text_vocab_size + text_length]` and `[batch · grid², codebook_size]`.
    pub fn logits(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let config = &self.config;
        let (text, image) = (config.text_length, config.image_length());
        let (prefix, states) = self.run_pairs(captions, image_ids)?;
        let batch = captions.len();
        let rows = |states: Tensor<3>, count: usize| states.reshape([count, config.width]);
        Ok((
            self.text_logits(rows(prefix.narrow(1, 0, text), batch * text)),
            self.image_logits(rows(states, batch * image)),
        ))
    }

    /// −ln p of each word of captions, of their padding, and of each id of the images that follow, as the model was
    /// trained, one pair after the other: `[batch · text_length]` and `[batch · grid²]`.
    pub fn nll(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<1>, Tensor<1>)> {
        let (text_logits, image_logits) = self.logits(captions, image_ids)?;
        let words = captions.iter().map(|caption| {
            let words = self.padded(caption)?;
            Ok(words[1..].to_vec())
        });
        let words: Vec<Vec<u32>> = words.collect::<Result<_>>()?;
        Ok((
            ops::cross_entropy(text_logits, self.targets(&words)),
            ops::cross_entropy(image_logits, self.targets(image_ids)),
        ))
    }

    /// The model for training: the angles of places are no weights.
    pub fn for_training(mut self) -> Self {
        self.rotary = self.rotary.map(|angles| angles.set_require_grad(false));
        self
    }
}

impl Adapt for DallePytorch {
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
