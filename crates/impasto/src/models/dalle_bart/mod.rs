//! The transformer of DALL·E mini and mega: a BART encoder that reads the caption and a BART decoder that
//! writes the picture's ids (Dayma et al. 2021, github.com/borisdayma/dalle-mini, `model/modeling.py`; BART:
//! arXiv:1910.13461).
//!
//! The published models use one set of the many options of that file, and that set is what is here: learned
//! positions from 0, no biases, NormFormer's order of layer norms (arXiv:2110.09456), GLU with exact GELU,
//! layer norms before products without a scale, an untied head over the image vocabulary and its start.
//!
//! Deviations, none of which changes a number beyond rounding:
//! - a caption is read without its padding (the reference masks it), and those of a batch side by side;
//! - queries, keys and values are one product, so are both halves of the GLU.

mod decode;
mod layers;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub use self::decode::DalleBartState;
use self::layers::{DecoderLayer, EncoderLayer};
use super::ids::{check_ids, ids};
use crate::nn::{Adapt, Adaptable, CacheRows, Embedding, Init, KvCache, LayerNorm, Linear, ops};
use crate::{Error, Result};

/// The sizes of the encoder or of the decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// Layers.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Units of each GLU.
    pub hidden: usize,
}

/// The sizes of a [`DalleBart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DalleBartConfig {
    /// Rows of the text embedding.
    pub text_vocab_size: usize,
    /// The longest caption, its start and end included.
    pub text_length: usize,
    /// Image ids that the decoder knows; the head and the embedding have one row more.
    pub image_vocab_size: usize,
    /// Of those, the ids of the image tokenizer, from 0; only they are drawn.
    pub codebook_size: usize,
    /// The id that the decoder starts with.
    pub start_id: u32,
    /// Image tokens along a side of the picture.
    pub grid: usize,
    /// Width of both residual streams.
    pub width: usize,
    /// Reads the caption.
    pub encoder: StackConfig,
    /// Writes the picture.
    pub decoder: StackConfig,
    /// Whether layer norms before products have a scale too (`force_ln_scale`).
    #[serde(default)]
    pub scaled_norms: bool,
}

impl DalleBartConfig {
    /// Image tokens of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("dalle_bart config", reason));
        let stacks = [("encoder", &self.encoder), ("decoder", &self.decoder)];
        let mut positive = vec![
            ("text_vocab_size".to_owned(), self.text_vocab_size),
            ("image_vocab_size".to_owned(), self.image_vocab_size),
            ("codebook_size".to_owned(), self.codebook_size),
            ("grid".to_owned(), self.grid),
            ("width".to_owned(), self.width),
        ];
        for (name, stack) in stacks {
            positive.push((format!("{name}.n_layers"), stack.n_layers));
            positive.push((format!("{name}.n_heads"), stack.n_heads));
            positive.push((format!("{name}.hidden"), stack.hidden));
        }
        for (name, value) in positive {
            if value == 0 || value > 1 << 20 {
                return bad(format!("{name} is {value}, expected 1 to 2^20"));
            }
        }
        if self.text_length < 3 || self.text_length > 1 << 16 {
            return bad(format!(
                "text_length is {}, expected 3 to 65536",
                self.text_length
            ));
        }
        if self.grid > 1 << 10 || self.encoder.n_layers > 1 << 10 || self.decoder.n_layers > 1 << 10
        {
            return bad("grid or n_layers is above 1024".into());
        }
        for (name, stack) in stacks {
            if !self.width.is_multiple_of(stack.n_heads) {
                return bad(format!(
                    "width {} is not a multiple of the {name}'s {} heads",
                    self.width, stack.n_heads
                ));
            }
        }
        if self.codebook_size > self.image_vocab_size + 1 {
            return bad(format!(
                "codebook_size is {}, expected at most image_vocab_size + 1 = {}",
                self.codebook_size,
                self.image_vocab_size + 1
            ));
        }
        if self.start_id as usize > self.image_vocab_size {
            return bad(format!(
                "start_id is {}, expected at most image_vocab_size = {}",
                self.start_id, self.image_vocab_size
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let (width, of) = (self.width as u64, |n: usize| n as u64);
        let stack = |stack: &StackConfig, matrices: u64| {
            let layer = matrices
                .saturating_mul(width * width)
                .saturating_add(3 * width * of(stack.hidden));
            of(stack.n_layers).saturating_mul(layer)
        };
        let rows = of(self.text_vocab_size)
            + of(self.text_length)
            + 2 * (of(self.image_vocab_size) + 1)
            + of(self.image_length());
        (rows * width)
            .saturating_add(stack(&self.encoder, 4))
            .saturating_add(stack(&self.decoder, 8))
    }

    /// A model with fresh weights (normal with the published models' 0.02).
    pub fn init(&self, init: &mut Init) -> DalleBart {
        let (width, std) = (self.width, 0.02);
        let scaled = self.scaled_norms;
        DalleBart {
            encoder: Encoder {
                embed_tokens: Embedding::new(init, self.text_vocab_size, width, std),
                embed_positions: Embedding::new(init, self.text_length, width, std),
                embedding_norm: LayerNorm::new(init, width),
                layers: (0..self.encoder.n_layers)
                    .map(|_| EncoderLayer::new(init, width, &self.encoder, scaled))
                    .collect(),
                final_norm: layers::PreNorm::new(init, width, scaled),
            },
            decoder: Decoder {
                embed_tokens: Embedding::new(init, self.image_vocab_size + 1, width, std),
                embed_positions: Embedding::new(init, self.image_length(), width, std),
                embedding_norm: LayerNorm::new(init, width),
                layers: (0..self.decoder.n_layers)
                    .map(|_| DecoderLayer::new(init, width, &self.decoder, scaled))
                    .collect(),
                final_norm: layers::PreNorm::new(init, width, scaled),
            },
            head: Linear::new(init, width, self.image_vocab_size + 1, std),
            config: self.clone(),
        }
    }
}

#[derive(Module, Debug)]
struct Encoder {
    embed_tokens: Embedding,
    embed_positions: Embedding,
    embedding_norm: LayerNorm,
    layers: Vec<EncoderLayer>,
    final_norm: layers::PreNorm,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    embed_positions: Embedding,
    embedding_norm: LayerNorm,
    layers: Vec<DecoderLayer>,
    final_norm: layers::PreNorm,
}

/// The transformer.
#[derive(Module, Debug)]
pub struct DalleBart {
    encoder: Encoder,
    decoder: Decoder,
    head: Linear,
    #[module(skip)]
    config: DalleBartConfig,
}

/// The keys and values that each decoder layer computes from an encoded caption. Copies share them.
#[derive(Clone, Debug)]
pub struct CrossAttentionKv {
    /// `[1, heads, tokens, head_width]` each.
    layers: Arc<Vec<(Tensor<4>, Tensor<4>)>>,
}

impl CrossAttentionKv {
    /// Whether both are copies of one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layers, &other.layers)
    }
}

/// Consecutive rows of a batch that share one caption.
#[derive(Clone, Copy, Debug)]
pub struct CaptionRows<'a> {
    /// The caption.
    pub caption: &'a CrossAttentionKv,
    /// How many rows share it.
    pub rows: usize,
}

impl DalleBart {
    /// The sizes.
    pub fn config(&self) -> &DalleBartConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.head.weight.val().device()
    }

    /// One empty cache for each decoder layer.
    pub fn caches(&self) -> Vec<KvCache> {
        KvCache::of_layers(self.config.decoder.n_layers, self.config.image_length())
    }

    /// Encodes a caption: ids without padding, its start and end included.
    pub fn encode(&self, text_ids: &[u32]) -> Result<CrossAttentionKv> {
        Ok(self.encode_all(&[text_ids])?.swap_remove(0))
    }

    /// Encodes captions, each as [`Self::encode`] does, all at once.
    pub fn encode_all(&self, captions: &[&[u32]]) -> Result<Vec<CrossAttentionKv>> {
        let config = &self.config;
        if captions.is_empty() {
            return Err(Error::invalid("text ids", "expected one caption or more"));
        }
        for text_ids in captions {
            if text_ids.is_empty() || text_ids.len() > config.text_length {
                return Err(Error::invalid(
                    "text ids",
                    format!(
                        "expected 1 to {} ids, got {}",
                        config.text_length,
                        text_ids.len()
                    ),
                ));
            }
            check_ids("text ids", text_ids, config.text_vocab_size)?;
        }
        let device = self.device();
        let encoder = &self.encoder;
        // Side by side in one row, so that no padding is needed.
        let flat: Vec<u32> = captions.concat();
        let lengths: Vec<usize> = captions.iter().map(|ids| ids.len()).collect();
        let places: Vec<u32> = lengths
            .iter()
            .flat_map(|&length| 0..length as u32)
            .collect();
        let embedded = encoder.embed_tokens.forward(ids(&[&flat], &device))
            + encoder.embed_positions.forward(ids(&[&places], &device));
        let mut x = encoder.embedding_norm.forward(embedded);
        for layer in &encoder.layers {
            x = layer.forward(x, &lengths);
        }
        let states = encoder.final_norm.forward(x);
        let layers: Vec<(Tensor<4>, Tensor<4>)> = self
            .decoder
            .layers
            .iter()
            .map(|layer| layer.cross_attention_kv(states.clone()))
            .collect();
        let mut first = 0;
        let read = lengths.into_iter().map(|length| {
            let own = |all: &Tensor<4>| all.clone().narrow(2, first, length);
            let layers: Vec<(Tensor<4>, Tensor<4>)> = layers
                .iter()
                .map(|(keys, values)| (own(keys), own(values)))
                .collect();
            first += length;
            CrossAttentionKv {
                layers: Arc::new(layers),
            }
        });
        Ok(read.collect())
    }

    /// The final states of the decoder for `inputs`, rows of equal length whose first ids are at
    /// `position` (0: the start id). With `caches` they continue the cached sequence.
    ///
    /// # Shapes
    /// - `inputs`: `[batch][n]`
    /// - returns: `[batch, n, width]`
    pub fn decode(
        &self,
        inputs: &[Vec<u32>],
        position: usize,
        caption_rows: &[CaptionRows<'_>],
        caches: Option<&mut [KvCache]>,
    ) -> Result<Tensor<3>> {
        let rows = inputs.len();
        let positions = vec![position; rows];
        match caches {
            Some(caches) => {
                self.decode_groups(inputs, &positions, caption_rows, &mut [(caches, rows)])
            }
            None => self.decode_groups(inputs, &positions, caption_rows, &mut []),
        }
    }

    /// [`Self::decode`] of rows that stand at different `positions` and have different caches: those of each group,
    /// and how many rows it has.
    pub(crate) fn decode_groups(
        &self,
        inputs: &[Vec<u32>],
        positions: &[usize],
        caption_rows: &[CaptionRows<'_>],
        groups: &mut [(&mut [KvCache], usize)],
    ) -> Result<Tensor<3>> {
        let config = &self.config;
        let n = inputs.first().map_or(0, Vec::len);
        if n == 0 || inputs.iter().any(|row| row.len() != n) {
            return Err(Error::invalid(
                "image ids",
                "expected rows of one length, 1 or more",
            ));
        }
        let last = positions.iter().copied().max().unwrap_or(0) + n;
        if last > config.image_length() {
            return Err(Error::invalid(
                "image ids",
                format!(
                    "expected at most {} inputs, got {last}",
                    config.image_length()
                ),
            ));
        }
        let conditioned: usize = caption_rows.iter().map(|group| group.rows).sum();
        if conditioned != inputs.len() {
            return Err(Error::invalid(
                "image ids",
                format!("expected {conditioned} rows, got {}", inputs.len()),
            ));
        }
        for row in inputs {
            check_ids("image ids", row, config.image_vocab_size + 1)?;
        }
        let device = self.device();
        let rows: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let places: Vec<Vec<u32>> = positions
            .iter()
            .map(|&position| (position as u32..(position + n) as u32).collect())
            .collect();
        let places: Vec<&[u32]> = places.iter().map(Vec::as_slice).collect();
        let decoder = &self.decoder;
        let embedded = decoder.embed_tokens.forward(ids(&rows, &device))
            + decoder.embed_positions.forward(ids(&places, &device));
        let mut x = decoder.embedding_norm.forward(embedded);
        for (i, layer) in decoder.layers.iter().enumerate() {
            let captions: Vec<(&(Tensor<4>, Tensor<4>), usize)> = caption_rows
                .iter()
                .map(|group| (&group.caption.layers[i], group.rows))
                .collect();
            let mut of_layer = CacheRows::of_layer(groups, i);
            x = layer.forward(x, &captions, &mut of_layer);
        }
        Ok(decoder.final_norm.forward(x))
    }

    /// Logits of what follows each state, over the codebook, the rest of the image vocabulary and the start.
    ///
    /// # Shapes
    /// - `states`: `[.., width]`
    /// - returns: `[.., image_vocab_size + 1]`
    pub fn image_logits<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        self.head.forward(states)
    }

    /// Logits of each id of images given their captions, in raster order.
    ///
    /// # Shapes
    /// - `image_ids`: `[batch][grid²]`, row-major
    /// - returns: `[batch · grid², image_vocab_size + 1]`
    pub fn logits(
        &self,
        image_ids: &[Vec<u32>],
        caption_rows: &[CaptionRows<'_>],
    ) -> Result<Tensor<2>> {
        let positions = self.config.image_length();
        if let Some(row) = image_ids.iter().find(|row| row.len() != positions) {
            return Err(Error::invalid(
                "image ids",
                format!("expected {positions} ids, got {}", row.len()),
            ));
        }
        for row in image_ids {
            check_ids("image ids", row, self.config.codebook_size)?;
        }
        let inputs: Vec<Vec<u32>> = image_ids
            .iter()
            .map(|row| {
                let inputs = row.iter().take(positions - 1);
                std::iter::once(self.config.start_id)
                    .chain(inputs.copied())
                    .collect()
            })
            .collect();
        let states = self.decode(&inputs, 0, caption_rows, None)?;
        let count = image_ids.len() * positions;
        Ok(self.image_logits(states.reshape([count, self.config.width])))
    }

    /// −log p of each id of pictures that follow captions, under the whole image vocabulary, as the models
    /// were trained: `[batch · grid²]`.
    ///
    /// # Shapes
    /// - `image_ids`: `[batch][grid²]`, row-major
    pub fn image_nll(
        &self,
        image_ids: &[Vec<u32>],
        caption_rows: &[CaptionRows<'_>],
    ) -> Result<Tensor<1>> {
        let logits = self.logits(image_ids, caption_rows)?;
        let targets: Vec<i32> = image_ids.iter().flatten().map(|&id| id as i32).collect();
        let count = targets.len();
        let targets =
            Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), &self.device());
        Ok(ops::cross_entropy(logits, targets))
    }
}

impl Adapt for DalleBart {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all = Vec::new();
        for layer in &mut self.encoder.layers {
            all.extend(layer.linears());
        }
        for layer in &mut self.decoder.layers {
            all.extend(layer.linears());
        }
        all.push(Adaptable::whole("head", &mut self.head));
        all
    }
}
