//! The two towers, and the block that both are made of.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use super::{Activation, ClipImageConfig, ClipTextConfig, TowerConfig};
use crate::nn::layer_norm::EPSILON;
use crate::nn::recorded::{self, Recorded};
use crate::nn::{Embedding, Init, LayerNorm, Linear, heads, ops};
use crate::{Error, Result};

/// Pictures to embeddings.
#[derive(Module, Debug)]
pub struct ImageTower {
    pub(super) patch_embedding: Linear,
    pub(super) class_embedding: Param<Tensor<1>>,
    pub(super) position_embedding: Param<Tensor<2>>,
    pub(super) pre_norm: LayerNorm,
    pub(super) blocks: Vec<Block>,
    pub(super) post_norm: LayerNorm,
    pub(super) projection: Linear,
}

impl ImageTower {
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`
    /// - returns: `[batch, projection_width]`
    pub fn forward(&self, pixels: Tensor<4>, config: &ClipImageConfig) -> Tensor<2> {
        let mut x = self.embed(pixels, config);
        for block in &self.blocks {
            x = block.forward(x, false);
        }
        self.project(x)
    }

    /// [`Self::forward`] of one picture, and the attention of each block.
    pub(super) fn attended(
        &self,
        pixels: Tensor<4>,
        config: &ClipImageConfig,
    ) -> (Tensor<2>, Vec<Recorded>) {
        let (x, recorded) = attended(&self.blocks, self.embed(pixels, config), false);
        (self.project(x), recorded)
    }

    /// The class token and the patches: `[batch, 1 + patches, width]`.
    fn embed(&self, pixels: Tensor<4>, config: &ClipImageConfig) -> Tensor<3> {
        let batch = pixels.dims()[0];
        let patch = config.patch_size;
        let width = config.tower.width;
        let patches = in_patches(pixels, patch);
        let class = self.class_embedding.val().reshape([1, 1, width]);
        let tokens = Tensor::cat(
            vec![
                class.expand([batch, 1, width]),
                self.patch_embedding.forward(patches),
            ],
            1,
        );
        self.pre_norm
            .forward(tokens + self.position_embedding.val().unsqueeze())
    }

    /// The embeddings of pictures with these final states: those of the class token.
    fn project(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, _, width] = x.dims();
        let class = x.narrow(1, 0, 1).reshape([batch, width]);
        self.projection.forward(self.post_norm.forward(class))
    }
}

/// Square pictures in patches, of each all numbers: channel, row, column.
///
/// # Shapes
/// - `pixels`: `[batch, channels, size, size]`
/// - returns: `[batch, patches, channels · patch²]`
pub fn in_patches(pixels: Tensor<4>, patch: usize) -> Tensor<3> {
    let [batch, channels, size, _] = pixels.dims();
    let side = size / patch;
    pixels
        .reshape([batch, channels, side, patch, side, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, side * side, channels * patch * patch])
}

/// Captions to embeddings.
#[derive(Module, Debug)]
pub struct TextTower {
    pub(super) token_embedding: Embedding,
    pub(super) position_embedding: Param<Tensor<2>>,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: LayerNorm,
    pub(super) projection: Linear,
}

impl TextTower {
    /// See [`super::Clip::encode_text`].
    pub fn forward(&self, text_ids: &[Vec<u32>], config: &ClipTextConfig) -> Result<Tensor<2>> {
        let ends = ends(text_ids, config)?;
        let length = ends.iter().max().map_or(0, |end| end + 1);
        // A caption that ends earlier is filled with any id: nothing before sees it.
        let mut x = self.embed(text_ids, length);
        for block in &self.blocks {
            x = block.forward(x, true);
        }
        Ok(self.project(x, &ends))
    }

    /// [`Self::forward`] of one caption, the attention of each block up to the caption's end, and the place of its end.
    pub(super) fn attended(
        &self,
        text_ids: &[u32],
        config: &ClipTextConfig,
    ) -> Result<(Tensor<2>, Vec<Recorded>, usize)> {
        let end = end(text_ids, config)?;
        let x = self.embed(&[text_ids.to_vec()], end + 1);
        let (x, recorded) = attended(&self.blocks, x, true);
        Ok((self.project(x, &[end]), recorded, end))
    }

    /// What text-to-image models read of captions: the states of all ids before the last block, padding included, and
    /// the embeddings (`hidden_states[-2]` and `text_embeds` of transformers' `CLIPTextModelWithProjection`).
    ///
    /// # Shapes
    /// - `text_ids`: `[batch][n]`, of one length
    /// - returns: `[batch, n, width]` and `[batch, projection_width]`
    pub fn states(
        &self,
        text_ids: &[Vec<u32>],
        config: &ClipTextConfig,
    ) -> Result<(Tensor<3>, Tensor<2>)> {
        let ends = ends(text_ids, config)?;
        let length = text_ids.first().map_or(0, Vec::len);
        if text_ids.iter().any(|ids| ids.len() != length) {
            return Err(Error::invalid(
                "text ids",
                "expected captions of one length",
            ));
        }
        let mut x = self.embed(text_ids, length);
        let mut before_last = x.clone();
        for block in &self.blocks {
            before_last = x.clone();
            x = block.forward(x, true);
        }
        Ok((before_last, self.project(x, &ends)))
    }

    /// What it makes of one caption in chunks of `config.length` ids each, padding included: the states of all chunks one
    /// after the other, and the embedding of the first, which stands for the caption as a whole (as AUTOMATIC1111's
    /// `FrozenCLIPEmbedderWithCustomWords` has it).
    ///
    /// # Shapes
    /// - `text_ids`: `[chunks · config.length]`
    /// - returns: `[1, chunks · config.length, width]` and `[1, projection_width]`
    pub fn chunks(
        &self,
        text_ids: &[u32],
        config: &ClipTextConfig,
    ) -> Result<(Tensor<3>, Tensor<2>)> {
        let (found, length) = (text_ids.len(), config.length);
        if found == 0 || !found.is_multiple_of(length) {
            return Err(Error::invalid(
                "text ids",
                format!("expected {length} ids, padding included, for each chunk, got {found}"),
            ));
        }
        let rows: Vec<Vec<u32>> = text_ids.chunks(length).map(<[u32]>::to_vec).collect();
        let (states, embeddings) = self.states(&rows, config)?;
        let [.., width] = states.dims();
        let states = states.reshape([1, found, width]);
        Ok((states, embeddings.narrow(0, 0, 1)))
    }

    /// The first `length` ids of each caption, with any id where there are fewer: `[batch, length, width]`.
    fn embed(&self, text_ids: &[Vec<u32>], length: usize) -> Tensor<3> {
        let ids: Vec<i32> = text_ids
            .iter()
            .flat_map(|ids| (0..length).map(|i| ids.get(i).map_or(0, |&id| id as i32)))
            .collect();
        let device = self.position_embedding.val().device();
        let data = TensorData::new(ids, [text_ids.len(), length]);
        let ids = Tensor::<2, Int>::from_data(data, &device);
        let positions = self.position_embedding.val().narrow(0, 0, length);
        self.token_embedding.forward(ids) + positions.unsqueeze()
    }

    /// The embeddings of captions that end at these places of the final states.
    fn project(&self, x: Tensor<3>, ends: &[usize]) -> Tensor<2> {
        let [batch, length, width] = x.dims();
        let places: Vec<i32> = ends
            .iter()
            .enumerate()
            .map(|(row, end)| (row * length + end) as i32)
            .collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [batch]), &x.device());
        let ends = x.reshape([batch * length, width]).select(0, places);
        self.projection.forward(self.final_norm.forward(ends))
    }
}

/// Where each caption ends; one or more that the model can read.
fn ends(text_ids: &[Vec<u32>], config: &ClipTextConfig) -> Result<Vec<usize>> {
    if text_ids.is_empty() {
        return Err(Error::invalid(
            "captions",
            "expected 1 or more to be encoded, got 0",
        ));
    }
    text_ids.iter().map(|ids| end(ids, config)).collect()
}

/// The place of a caption's end, once the caption is one that the model can read.
fn end(ids: &[u32], config: &ClipTextConfig) -> Result<usize> {
    let bad = |reason: String| Err(Error::invalid("text ids", reason));
    if ids.len() > config.length {
        return bad(format!(
            "are {}, the model reads up to {}",
            ids.len(),
            config.length
        ));
    }
    let vocabulary = config.vocab_size;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return bad(format!("expected ids below {vocabulary}, got {id}"));
    }
    match config.end_of_text.position(ids) {
        Some(end) => Ok(end),
        None => bad(format!(
            "have no end; expected {:?} among {} ids",
            config.end_of_text,
            ids.len()
        )),
    }
}

/// One layer: attention and an MLP, each after a normalisation and added to its input.
#[derive(Module, Debug)]
pub struct Block {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention_out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    #[module(skip)]
    n_heads: usize,
    #[module(skip)]
    activation: Activation,
}

/// Makes blocks.
pub struct Blocks;

impl Blocks {
    /// All fresh blocks of a tower.
    pub fn fresh(init: &mut Init, tower: &TowerConfig, activation: Activation) -> Vec<Block> {
        Blocks::with_epsilon(init, tower, activation, EPSILON)
    }

    /// The same with another number added to the variances in the norms.
    pub fn with_epsilon(
        init: &mut Init,
        tower: &TowerConfig,
        activation: Activation,
        epsilon: f64,
    ) -> Vec<Block> {
        let &TowerConfig {
            width,
            n_layers,
            n_heads,
            hidden,
        } = tower;
        let std = (width as f64).powf(-0.5);
        // What writes into the residual stream starts smaller the more layers do.
        let residual_std = std * (2.0 * n_layers as f64).powf(-0.5);
        let inner_std = (2.0 * width as f64).powf(-0.5);
        (0..n_layers)
            .map(|_| Block {
                attention_norm: LayerNorm::with_epsilon(init, width, epsilon),
                qkv: Linear::with_bias(init, width, 3 * width, std),
                attention_out: Linear::with_bias(init, width, width, residual_std),
                mlp_norm: LayerNorm::with_epsilon(init, width, epsilon),
                up: Linear::with_bias(init, width, hidden, inner_std),
                down: Linear::with_bias(init, hidden, width, residual_std),
                n_heads,
                activation,
            })
            .collect()
    }
}

impl Block {
    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    pub fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        self.with(x, |query, key, value| {
            (ops::attention(query, key, value, causal), ())
        })
        .0
    }

    /// The layer with this attention, and what it returns beside its result, `[batch, heads, seq, head_width]`.
    fn with<T>(
        &self,
        x: Tensor<3>,
        attention: impl FnOnce(Tensor<4>, Tensor<4>, Tensor<4>) -> (Tensor<4>, T),
    ) -> (Tensor<3>, T) {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        let (seen, more) = attention(q, k, v);
        let x = x + self.attention_out.forward(heads::join(seen));
        let inner = self.up.forward(self.mlp_norm.forward(x.clone()));
        let inner = match self.activation {
            Activation::QuickGelu => ops::quick_gelu(inner),
            Activation::Gelu => ops::gelu(inner),
        };
        (x + self.down.forward(inner), more)
    }
}

/// The states after these blocks, and the attention of each with the leaf that its gradient is taken of.
fn attended(blocks: &[Block], mut x: Tensor<3>, causal: bool) -> (Tensor<3>, Vec<Recorded>) {
    let mut all = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (next, recorded) = block.with(x, |query, key, value| {
            recorded::attention(query, key, value, causal, true)
        });
        x = next;
        all.push(recorded);
    }
    (x, all)
}
