//! Janus and Janus-Pro (Wu et al. 2024, arXiv:2410.13848; Chen et al. 2025, arXiv:2501.17811): one LLaMA reads text ids,
//! image ids and what a vision encoder makes of a picture, and predicts text ids by one head and image ids by another.
//!
//! Sources: `modeling_janus.py` of transformers 5.24 and `janus/models/modeling_vlm.py` of github.com/deepseek-ai/Janus.
//! The image tokenizer is LlamaGen's VQ-16: [`super::taming_vqgan`] with normalised codes.
//!
//! Deviations, none of which changes a number beyond rounding: queries, keys and values are one product, so are both
//! halves of the SwiGLU.

mod decode;
mod vision;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::decode::{Conversation, JanusState, Part};
pub use self::vision::{VisionConfig, VisionEncoder};
use super::ids::{check_ids, ids};
use crate::nn::llama::{Frequencies, LlamaBlock};
use crate::nn::{
    Adapt, Adaptable, CacheRows, Embedding, Init, KvCache, Linear, RmsNorm, VocabularyEmbedding,
    ops,
};
use crate::{Error, Result};

/// The sizes of a [`Janus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JanusConfig {
    /// Rows of the text embedding.
    pub text_vocab_size: usize,
    /// The longest prompt of a picture, with its template; what the cache has room for.
    pub text_length: usize,
    /// The longest sequence.
    pub max_positions: usize,
    /// The id that ends a text.
    pub end_id: u32,
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
    /// Width of an image id's embedding.
    pub code_width: usize,
    /// Image ids along a side of a picture.
    pub grid: usize,
    /// Linear layers between the image ids' embeddings and the transformer.
    pub image_aligner_depth: usize,
    /// What sees pictures.
    pub vision: VisionConfig,
}

/// Ids of the longest answer, as in the published examples (`max_new_tokens`).
pub const ANSWER_LENGTH: usize = 512;

impl JanusConfig {
    /// Image ids of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("janus config", reason));
        for (name, value) in [
            ("text_vocab_size", self.text_vocab_size),
            ("max_positions", self.max_positions),
            ("width", self.width),
            ("hidden", self.hidden),
            ("n_heads", self.n_heads),
            ("codebook_size", self.codebook_size),
            ("code_width", self.code_width),
        ] {
            if value == 0 || value > 1 << 20 {
                return bad(format!("{name} is {value}, expected 1 to 2^20"));
            }
        }
        for (name, value) in [
            ("n_layers", self.n_layers),
            ("grid", self.grid),
            ("image_aligner_depth", self.image_aligner_depth),
        ] {
            if value == 0 || value > 1 << 10 {
                return bad(format!("{name} is {value}, expected 1 to 1024"));
            }
        }
        if !self.width.is_multiple_of(2 * self.n_heads) {
            return bad(format!(
                "width {} is not an even multiple of {} heads",
                self.width, self.n_heads
            ));
        }
        let longest = self.text_length + self.image_length();
        if self.text_length < 3 || longest > self.max_positions {
            return bad(format!(
                "text_length is {}, expected 3 or more, and with {} image ids at most max_positions = {}",
                self.text_length,
                self.image_length(),
                self.max_positions
            ));
        }
        if self.end_id as usize >= self.text_vocab_size {
            return bad(format!(
                "end_id is {}, expected less than text_vocab_size = {}",
                self.end_id, self.text_vocab_size
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
        self.vision.validate()
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let (width, hidden) = (of(self.width), of(self.hidden));
        let square = width.saturating_mul(width);
        let layer = (4 * square).saturating_add(3 * width * hidden);
        let texts = 2 * of(self.text_vocab_size) * width;
        let codes = of(self.codebook_size) * (of(self.code_width) + width);
        let deeper = |depth: usize| of(depth - 1).saturating_mul(square);
        let aligners = of(self.code_width) * width
            + deeper(self.image_aligner_depth)
            + of(self.vision.width) * width
            + deeper(self.vision.aligner_depth);
        of(self.n_layers)
            .saturating_mul(layer)
            .saturating_add(texts)
            .saturating_add(codes)
            .saturating_add(aligners)
            .saturating_add(square)
            .saturating_add(self.vision.parameters())
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Janus {
        let (width, std) = (self.width, 0.02);
        Janus {
            text_embedding: VocabularyEmbedding::new(init, self.text_vocab_size, width, std),
            blocks: (0..self.n_layers)
                .map(|_| LlamaBlock::new(init, width, self.n_heads, self.hidden, self.norm_epsilon))
                .collect(),
            norm: RmsNorm::new(init, width),
            text_head: Linear::new(init, width, self.text_vocab_size, std),
            image_embedding: Embedding::new(init, self.codebook_size, self.code_width, std),
            image_aligner: Aligner::new(init, self.code_width, width, self.image_aligner_depth),
            image_head: ImageHead {
                inner: Linear::with_bias(init, width, width, std),
                out: Linear::with_bias(init, width, self.codebook_size, std),
            },
            vision: self.vision.init(init),
            vision_aligner: Aligner::new(init, self.vision.width, width, self.vision.aligner_depth),
            frequencies: Frequencies::new(width / self.n_heads, self.rope_base),
            config: self.clone(),
        }
    }
}

/// Linear layers with GELUs between them, into the transformer's width.
#[derive(Module, Debug)]
struct Aligner {
    layers: Vec<Linear>,
}

impl Aligner {
    fn new(init: &mut Init, inputs: usize, width: usize, depth: usize) -> Self {
        let layer =
            |i: usize| Linear::with_bias(init, if i == 0 { inputs } else { width }, width, 0.02);
        Aligner {
            layers: (0..depth).map(layer).collect(),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mut x = x;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(if i == 0 { x } else { ops::gelu(x) });
        }
        x
    }
}

/// The head of image ids.
#[derive(Module, Debug)]
struct ImageHead {
    inner: Linear,
    out: Linear,
}

/// The model.
#[derive(Module, Debug)]
pub struct Janus {
    text_embedding: VocabularyEmbedding,
    blocks: Vec<LlamaBlock>,
    norm: RmsNorm,
    text_head: Linear,
    image_embedding: Embedding,
    image_aligner: Aligner,
    image_head: ImageHead,
    vision: VisionEncoder,
    vision_aligner: Aligner,
    #[module(skip)]
    frequencies: Frequencies,
    #[module(skip)]
    config: JanusConfig,
}

impl Janus {
    /// The sizes.
    pub fn config(&self) -> &JanusConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.norm.weight.val().device()
    }

    /// One empty cache for each layer, with room for `capacity` tokens.
    fn caches(&self, capacity: usize) -> Vec<KvCache> {
        KvCache::of_layers(self.config.n_layers, capacity)
    }

    /// What text ids, `[rows][n]`, put into the transformer: `[rows, n, width]`.
    fn embed_text(&self, rows: &[&[u32]]) -> Result<Tensor<3>> {
        for row in rows {
            check_ids("text ids", row, self.config.text_vocab_size)?;
        }
        Ok(self.text_embedding.forward(ids(rows, &self.device())))
    }

    /// What image ids, `[rows][n]`, put into the transformer: `[rows, n, width]`.
    fn embed_image(&self, rows: &[&[u32]]) -> Result<Tensor<3>> {
        for row in rows {
            check_ids("image ids", row, self.config.codebook_size)?;
        }
        let codes = self.image_embedding.forward(ids(rows, &self.device()));
        Ok(self.image_aligner.forward(codes))
    }

    /// What pictures put into the transformer.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, size, size]` in −1..1
    /// - returns: the vision encoder's features, `[batch, patches, vision.width]`, and these aligned, `[.., width]`
    pub fn see(&self, pixels: Tensor<4>) -> (Tensor<3>, Tensor<3>) {
        let features = self.vision.forward(pixels);
        (features.clone(), self.vision_aligner.forward(features))
    }

    /// The final states of the transformer.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    /// - `positions`: `[batch · seq]`, row after row
    /// - `groups`: of each group of consecutive rows one cache a layer, and how many rows it has; none for whole
    ///   sequences
    fn run(
        &self,
        x: Tensor<3>,
        positions: &[u32],
        groups: &mut [(&mut [KvCache], usize)],
    ) -> Tensor<3> {
        let [batch, ..] = x.dims();
        let rotation = self.frequencies.rotation(positions, batch, &x.device());
        let mut x = x;
        for (i, block) in self.blocks.iter().enumerate() {
            let mut of_layer = CacheRows::of_layer(groups, i);
            x = block.forward(x, &rotation, &mut of_layer);
        }
        ops::rms_norm(x, self.norm.weight.val(), self.config.norm_epsilon)
    }

    /// Logits of the image id after each state.
    ///
    /// # Shapes
    /// - `states`: `[batch, seq, width]`
    /// - returns: `[batch, seq, codebook_size]`
    pub fn image_logits(&self, states: Tensor<3>) -> Tensor<3> {
        let inner = ops::gelu(self.image_head.inner.forward(states));
        self.image_head.out.forward(inner)
    }

    /// Logits of the text id after each state: `[batch, seq, text_vocab_size]`.
    pub fn text_logits(&self, states: Tensor<3>) -> Tensor<3> {
        self.text_head.forward(states)
    }

    /// Logits of all ids of images after a prompt, whose last id starts them.
    ///
    /// # Shapes
    /// - `images`: `[rows][positions]`
    /// - returns: `[rows, positions, codebook_size]`
    pub fn whole_logits(&self, prompt: &[u32], images: &[Vec<u32>]) -> Result<Tensor<3>> {
        let positions = self.config.image_length();
        if let Some(ids) = images.iter().find(|ids| ids.len() != positions) {
            return Err(Error::invalid(
                "image ids",
                format!("expected {positions} ids, got {}", ids.len()),
            ));
        }
        let rows = images.len();
        let text = self.embed_text(&vec![prompt; rows])?;
        let before: Vec<&[u32]> = images.iter().map(|ids| &ids[..positions - 1]).collect();
        let x = match positions {
            1 => text,
            _ => Tensor::cat(vec![text, self.embed_image(&before)?], 1),
        };
        let places: Vec<u32> = (0..rows)
            .flat_map(|_| 0..(prompt.len() + positions - 1) as u32)
            .collect();
        let states = self.run(x, &places, &mut []);
        Ok(self.image_logits(states.narrow(1, prompt.len() - 1, positions)))
    }

    /// −ln p of the ids of images after their prompts, row after row: `[rows · positions]`.
    pub fn image_nll(&self, prompts: &[(&[u32], usize)], images: &[Vec<u32>]) -> Result<Tensor<1>> {
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

/// The transformer's layers under LLaMA's names, the head of image ids and what image ids go through; neither the head
/// of text ids nor the vision encoder, which have no part in pictures.
impl Adapt for Janus {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all: Vec<Adaptable<'_>> = Vec::new();
        for block in &mut self.blocks {
            all.extend(block.linears());
        }
        for layer in &mut self.image_aligner.layers {
            all.push(Adaptable::whole("image_aligner", layer));
        }
        all.push(Adaptable::whole(
            "image_head.inner",
            &mut self.image_head.inner,
        ));
        all.push(Adaptable::whole("image_head.out", &mut self.image_head.out));
        all
    }
}
