//! aMUSEd (Patil et al. 2024, arXiv:2401.01808), a small Muse (Chang et al. 2023, arXiv:2301.00704): a U-ViT without
//! positions predicts all masked image ids at once from the known ones and from what CLIP's text tower makes of a caption.
//!
//! Source: `UVit2DModel` of diffusers 0.42 (`models/unets/uvit_2d.py`), `AmusedPipeline`, and `CLIPTextModelWithProjection`
//! of transformers. The image tokenizer is [`super::taming_vqgan`] without attention.
//!
//! Deviations, none of which changes a number beyond rounding: queries, keys and values are one product, so are keys and
//! values of each attention to the caption, and both halves of the gated MLP; convolutions of one position, and
//! those of two by two, are products; and what depends on the caption alone (its keys and values, the scales and shifts
//! of the norms) is computed once, not in each pass.

mod layers;

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use self::layers::{Block, BlockPrompt, LayerPrompt, TransformerLayer};
use super::clip::{ClipTextConfig, TextTower};
use super::masked::layers::{Downsample, Of, Upsample, embedded, part, predicted, sinusoids};
use super::masked::{MaskedFormat, MaskedNet};
use crate::engine::{MaskSchedule, Sizes};
use crate::nn::{Adapt, Adaptable, Embedding, Init, Linear, RmsNorm, ops};
use crate::{Error, Result};

/// The sizes of an [`Amused`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmusedConfig {
    /// What reads captions.
    pub text: ClipTextConfig,
    /// Ids of the image tokenizer.
    pub codebook_size: usize,
    /// Rows of the image ids' embedding: those of the codes, that of the mask, and unused ones.
    pub embedding_rows: usize,
    /// The row that stands for a masked id.
    pub mask_id: u32,
    /// Image ids along a side of a picture.
    pub grid: usize,
    /// Side of a picture in pixels, one of the conditions.
    pub picture_size: usize,
    /// Width of the image ids' embedding.
    pub embedding_width: usize,
    /// Width of the blocks before and after the transformer.
    pub block_width: usize,
    /// Attention heads of these blocks.
    pub block_heads: usize,
    /// How many blocks there are before the transformer, and after it.
    pub n_blocks: usize,
    /// Whether the transformer sees squares of two by two ids as one token: aMUSEd-512 does, aMUSEd-256 does not.
    pub halved: bool,
    /// Width of the transformer.
    pub width: usize,
    /// Units of each gated MLP.
    pub hidden: usize,
    /// Layers of the transformer.
    pub n_layers: usize,
    /// Attention heads of the transformer.
    pub n_heads: usize,
    /// Width of each number among the conditions.
    pub number_width: usize,
    /// Added to mean squares in the norms.
    pub norm_epsilon: f64,
    /// How many ids each pass keeps of a picture that is drawn from nothing.
    pub schedule: MaskSchedule,
}

/// The numbers among the conditions: both sides of the picture, where it was cut out of a larger one, and its aesthetic
/// score (`AmusedPipeline`'s defaults of `micro_conditioning_crop_coord` and `micro_conditioning_aesthetic_score`).
pub(super) fn conditions(picture_size: usize) -> [f32; 5] {
    let size = picture_size as f32;
    [size, size, 0.0, 0.0, 6.0]
}

impl AmusedConfig {
    /// Image ids of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("amused config", reason));
        self.text.validate()?;
        for (name, value) in [
            ("codebook_size", self.codebook_size),
            ("embedding_rows", self.embedding_rows),
            ("picture_size", self.picture_size),
            ("embedding_width", self.embedding_width),
            ("block_width", self.block_width),
            ("block_heads", self.block_heads),
            ("width", self.width),
            ("hidden", self.hidden),
            ("n_heads", self.n_heads),
            ("number_width", self.number_width),
        ] {
            if value == 0 || value > 1 << 20 {
                return bad(format!("{name} is {value}, expected 1 to 2^20"));
            }
        }
        for (name, value) in [
            ("n_layers", self.n_layers),
            ("n_blocks", self.n_blocks),
            ("grid", self.grid),
        ] {
            if value == 0 || value > 1 << 10 {
                return bad(format!("{name} is {value}, expected 1 to 1024"));
            }
        }
        for (what, width, heads) in [
            ("width", self.width, self.n_heads),
            ("block_width", self.block_width, self.block_heads),
        ] {
            if !width.is_multiple_of(heads) {
                return bad(format!("{what} {width} is not a multiple of {heads} heads"));
            }
        }
        if self.halved && !self.grid.is_multiple_of(2) {
            return bad(format!("grid is {}, expected an even one", self.grid));
        }
        let rows = self.embedding_rows;
        if rows <= self.codebook_size {
            return bad(format!(
                "embedding_rows is {rows}, expected more than the codebook's {}",
                self.codebook_size
            ));
        }
        if !(self.codebook_size..rows).contains(&(self.mask_id as usize)) {
            return bad(format!(
                "mask_id is {}, expected one of the rows from {} on, of {rows}",
                self.mask_id, self.codebook_size
            ));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return bad(format!(
                "norm_epsilon is {}, expected between 0 and 1",
                self.norm_epsilon
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let product = |a: usize, b: usize| of(a).saturating_mul(of(b));
        let (width, block) = (self.width, self.block_width);
        let square = product(width, width);
        // Self-attention and the one to the caption, three modulations, the MLP.
        let layer = (8 + 6) * square + 3 * product(width, self.hidden);
        // Both attentions, the MLP of the convolution, and its modulation.
        let blocks = (8 + 8) * product(block, block) + 2 * product(width, block);
        let images = product(
            self.embedding_rows + self.codebook_size,
            self.embedding_width,
        );
        let conditions = product(self.text.projection_width + 5 * self.number_width, width);
        of(self.n_layers)
            .saturating_mul(layer)
            .saturating_add((2 * of(self.n_blocks)).saturating_mul(blocks))
            .saturating_add(images)
            .saturating_add(2 * product(self.embedding_width, block))
            .saturating_add(2 * product(width, block))
            .saturating_add(conditions.saturating_add(square))
            .saturating_add(product(self.text.tower.width, width))
            .saturating_add(self.text.parameters())
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Amused {
        let (width, block, std) = (self.width, self.block_width, 0.02);
        let blocks = |init: &mut Init| (0..self.n_blocks).map(|_| Block::new(init, self)).collect();
        let conditions = self.text.projection_width + 5 * self.number_width;
        Amused {
            text: self.text.init(init),
            caption: Linear::new(init, self.text.tower.width, width, std),
            caption_norm: RmsNorm::new(init, width),
            condition_in: Linear::new(init, conditions, width, std),
            condition_out: Linear::new(init, width, width, std),
            embedding: Embedding::new(init, self.embedding_rows, self.embedding_width, std),
            embedding_norm: RmsNorm::new(init, self.embedding_width),
            embedding_out: Linear::new(init, self.embedding_width, block, std),
            downsample: self
                .halved
                .then(|| Downsample::new(init, block, self.norm_epsilon)),
            before: blocks(init),
            norm_in: RmsNorm::new(init, block),
            project_in: Linear::new(init, block, width, std),
            layers: (0..self.n_layers)
                .map(|_| TransformerLayer::new(init, self))
                .collect(),
            norm_out: RmsNorm::new(init, width),
            project_out: Linear::new(init, width, block, std),
            after: blocks(init),
            upsample: self
                .halved
                .then(|| Upsample::new(init, block, self.norm_epsilon)),
            head_in: Linear::new(init, block, self.embedding_width, std),
            head_norm: RmsNorm::new(init, self.embedding_width),
            head: Linear::new(init, self.embedding_width, self.codebook_size, std),
            config: self.clone(),
        }
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Amused {
    text: TextTower,
    caption: Linear,
    caption_norm: RmsNorm,
    condition_in: Linear,
    condition_out: Linear,
    embedding: Embedding,
    embedding_norm: RmsNorm,
    embedding_out: Linear,
    downsample: Option<Downsample>,
    before: Vec<Block>,
    norm_in: RmsNorm,
    project_in: Linear,
    layers: Vec<TransformerLayer>,
    norm_out: RmsNorm,
    project_out: Linear,
    after: Vec<Block>,
    upsample: Option<Upsample>,
    head_in: Linear,
    head_norm: RmsNorm,
    head: Linear,
    #[module(skip)]
    config: AmusedConfig,
}

/// What the net computes of a caption once: the keys and values of every attention to it, and the scales and shifts of
/// every adaptive norm.
#[derive(Clone, Debug)]
pub struct AmusedPrompt {
    before: Vec<BlockPrompt>,
    layers: Vec<LayerPrompt>,
    after: Vec<BlockPrompt>,
}

impl Amused {
    /// The sizes.
    pub fn config(&self) -> &AmusedConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.norm_in.weight.val().device()
    }

    /// What CLIP's text tower makes of captions; see [`TextTower::states`].
    ///
    /// # Shapes
    /// - `text_ids`: `[batch][text]`, of one length
    /// - returns: `[batch, text, text.tower.width]` and `[batch, text.projection_width]`
    pub fn read_text(&self, text_ids: &[Vec<u32>]) -> Result<(Tensor<3>, Tensor<2>)> {
        self.text.states(text_ids, &self.config.text)
    }

    /// What the net computes of a caption, padding included: `text.length` ids, or as many for each of its chunks.
    pub fn read_prompt(&self, text_ids: &[u32]) -> Result<AmusedPrompt> {
        let (states, embedding) = self.text.chunks(text_ids, &self.config.text)?;
        let states = self.normal(&self.caption_norm, self.caption.forward(states));
        let numbers = conditions(self.config.picture_size);
        let numbers = sinusoids(&numbers, self.config.number_width, &self.device());
        let condition = Tensor::cat(vec![embedding, numbers], 1);
        let condition = silu(self.condition_in.forward(condition));
        let condition = silu(self.condition_out.forward(condition));
        let read = |blocks: &[Block]| {
            let read = blocks.iter().map(|block| block.read(&states, &condition));
            read.collect()
        };
        Ok(AmusedPrompt {
            before: read(&self.before),
            layers: self
                .layers
                .iter()
                .map(|layer| layer.read(&states, &condition))
                .collect(),
            after: read(&self.after),
        })
    }

    fn normal(&self, norm: &RmsNorm, x: Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x, norm.weight.val(), self.config.norm_epsilon)
    }
}

impl MaskedNet for Amused {
    type Prompt = AmusedPrompt;

    fn format(&self) -> MaskedFormat {
        MaskedFormat {
            sizes: Sizes {
                positions: self.config.image_length(),
                codebook_size: self.config.codebook_size,
                text_length: self.config.text.length,
            },
            mask_id: self.config.mask_id,
            schedule: self.config.schedule,
            // It does not get the number of a pass.
            steps: 1,
            masked_at_start: None,
        }
    }

    fn weights_device(&self) -> Device {
        self.device()
    }

    fn prompt_of(&self, text_ids: &[u32]) -> Result<AmusedPrompt> {
        self.read_prompt(text_ids)
    }

    fn states(
        &self,
        ids: Tensor<2, Int>,
        rows: &[Of<'_, AmusedPrompt>],
        _left: &[usize],
    ) -> Tensor<3> {
        let parts = (&self.embedding, &self.embedding_norm, &self.embedding_out);
        let mut x = embedded(ids, parts, self.config.norm_epsilon);
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(x);
        }
        for (i, block) in self.before.iter().enumerate() {
            x = block.forward(x, &part(rows, |prompt| &prompt.before[i]));
        }
        x = self.project_in.forward(self.normal(&self.norm_in, x));
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &part(rows, |prompt| &prompt.layers[i]));
        }
        x = self.project_out.forward(self.normal(&self.norm_out, x));
        for (i, block) in self.after.iter().enumerate() {
            x = block.forward(x, &part(rows, |prompt| &prompt.after[i]));
        }
        match &self.upsample {
            Some(upsample) => upsample.forward(x),
            None => x,
        }
    }

    fn head(&self, states: Tensor<3>) -> Tensor<3> {
        let parts = (&self.head_in, &self.head_norm, &self.head);
        predicted(states, parts, self.config.norm_epsilon)
    }
}

/// The blocks and the transformer's layers; not the text tower, which was not trained with them.
impl Adapt for Amused {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all: Vec<Adaptable<'_>> = Vec::new();
        for block in &mut self.before {
            all.extend(block.linears());
        }
        for layer in &mut self.layers {
            all.extend(layer.linears());
        }
        for block in &mut self.after {
            all.extend(block.linears());
        }
        all
    }
}
