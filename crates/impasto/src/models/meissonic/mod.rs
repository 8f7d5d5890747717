//! Meissonic (Bai et al. 2024, arXiv:2410.08261): masked image ids as [`super::Amused`], in a transformer with positions
//! whose first layers keep the caption and the picture in streams of their own (Esser et al. 2024, arXiv:2403.03206).
//! Monetico is one without down-sampling; Di\[M\]O (Zhu et al. 2025, arXiv:2503.15457) one that draws in one pass from
//! random ids between masks.
//!
//! Source: `Transformer2DModel` of github.com/viiika/Meissonic (`src/transformer.py`) over diffusers 0.33, and
//! `CLIPTextModelWithProjection` of transformers. The image tokenizer is [`super::taming_vqgan`] without attention.
//!
//! Deviations, none of which changes a number beyond rounding: queries, keys and values are one product; the outputs that
//! make queries and keys are sorted so that rotated pairs are halves of a head; what depends on the caption alone is
//! computed once, not in each pass.

mod layers;

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use self::layers::{DoubleLayer, Pass, SingleLayer};
use super::clip::{ClipTextConfig, TextTower};
use super::masked::layers::{Downsample, Of, STD, Upsample, embedded, predicted, sinusoids};
use super::masked::{MaskedFormat, MaskedNet};
use crate::engine::{MaskSchedule, Sizes};
use crate::nn::rope::Rotation;
use crate::nn::{Adapt, Adaptable, Embedding, Init, Linear, RmsNorm, ops};
use crate::{Error, Result};

/// Width of each number among the conditions, and of the number of the pass.
const NUMBER_WIDTH: usize = 256;
/// Numbers among the conditions.
const NUMBERS: usize = 5;
/// Added to mean squares and variances in the norms.
const EPSILON: f64 = 1e-6;
/// The base of the rotary frequencies.
const ROTARY_BASE: f64 = 10_000.0;
/// What the number of passes left is multiplied with before it becomes sines and cosines.
const TIME_SCALE: f32 = 1000.0;
/// Passes of a drawing (`Pipeline`'s `num_inference_steps`).
pub const STEPS: usize = 48;

/// The sizes of a [`Meissonic`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeissonicConfig {
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
    /// Whether the transformer sees squares of two by two ids as one token: Meissonic does, Monetico does not.
    pub halved: bool,
    /// Widths of the parts of a head that turn with nothing, with the row and with the column.
    pub head_widths: [usize; 3],
    /// Attention heads.
    pub n_heads: usize,
    /// Layers with streams of their own for caption and picture.
    pub n_double_layers: usize,
    /// Layers after them, over both as one sequence.
    pub n_single_layers: usize,
    /// How many ids each pass keeps of a picture that is drawn from nothing.
    pub schedule: MaskSchedule,
    /// Of a model that draws in one pass (Di\[M\]O): the share of the ids that are masked in it, the others being random
    /// codes. None for one that starts with masks alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_at_start: Option<f64>,
}

impl MeissonicConfig {
    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_widths
            .iter()
            .fold(0usize, |sum, &width| sum.saturating_add(width))
    }

    /// Width of the transformer.
    pub fn width(&self) -> usize {
        self.n_heads.saturating_mul(self.head_width())
    }

    /// Image ids of a picture.
    pub fn image_length(&self) -> usize {
        self.grid * self.grid
    }

    /// Returns an error that names the invalid field.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("meissonic config", reason));
        self.text.validate()?;
        for (name, value, most) in [
            ("codebook_size", self.codebook_size, 1 << 20),
            ("embedding_rows", self.embedding_rows, 1 << 20),
            ("picture_size", self.picture_size, 1 << 20),
            ("n_heads", self.n_heads, 1 << 10),
            ("n_double_layers", self.n_double_layers, 1 << 10),
            ("n_single_layers", self.n_single_layers, 1 << 10),
            ("grid", self.grid, 1 << 10),
        ] {
            if value == 0 || value > most {
                return bad(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        let widths = self.head_widths;
        if widths
            .iter()
            .any(|width| !width.is_multiple_of(2) || *width > 1 << 12)
            || self.head_width() == 0
        {
            return bad(format!(
                "head_widths is {widths:?}, expected even numbers up to 4096, not all 0"
            ));
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
        let width = self.width();
        if self.text.projection_width != width {
            return bad(format!(
                "text.projection_width is {}, expected the transformer's width {width}",
                self.text.projection_width
            ));
        }
        if let Some(share) = self.masked_at_start
            && !(share > 0.0 && share <= 1.0)
        {
            return bad(format!(
                "masked_at_start is {share}, expected more than 0, up to 1"
            ));
        }
        Ok(())
    }

    /// How many numbers the model has, norms and biases left out; for refusing sizes before any memory is taken.
    pub fn parameters(&self) -> u64 {
        let of = |n: usize| n as u64;
        let product = |a: usize, b: usize| of(a).saturating_mul(of(b));
        let width = self.width();
        let square = product(width, width);
        // Of each stream: attention, MLP, six modulations.
        let double = square.saturating_mul(2 * (4 + 8 + 6));
        // Attention and MLP with one product behind both, three modulations.
        let single = square.saturating_mul(3 + 4 + 5 + 3);
        let conditions = NUMBERS * NUMBER_WIDTH + self.text.projection_width;
        of(self.n_double_layers)
            .saturating_mul(double)
            .saturating_add(of(self.n_single_layers).saturating_mul(single))
            .saturating_add(product(self.embedding_rows + self.codebook_size, width))
            .saturating_add(product(conditions + NUMBER_WIDTH, width))
            .saturating_add(product(self.text.tower.width, width))
            // Four of the conditions, four around the transformer.
            .saturating_add(square.saturating_mul(8))
            .saturating_add(self.text.parameters())
    }

    /// A model with fresh weights.
    pub fn init(&self, init: &mut Init) -> Meissonic {
        let width = self.width();
        let conditions = NUMBERS * NUMBER_WIDTH + self.text.projection_width;
        Meissonic {
            text: self.text.init(init),
            caption: Linear::with_bias(init, self.text.tower.width, width, STD),
            caption_norm: RmsNorm::new(init, width),
            condition_in: Linear::new(init, conditions, width, STD),
            condition_out: Linear::new(init, width, width, STD),
            pooled_in: Linear::with_bias(init, width, width, STD),
            pooled_out: Linear::with_bias(init, width, width, STD),
            time_in: Linear::with_bias(init, NUMBER_WIDTH, width, STD),
            time_out: Linear::with_bias(init, width, width, STD),
            embedding: Embedding::new(init, self.embedding_rows, width, STD),
            embedding_norm: RmsNorm::new(init, width),
            embedding_out: Linear::new(init, width, width, STD),
            downsample: self.halved.then(|| Downsample::new(init, width, EPSILON)),
            norm_in: RmsNorm::new(init, width),
            project_in: Linear::new(init, width, width, STD),
            doubles: (0..self.n_double_layers)
                .map(|_| DoubleLayer::new(init, self))
                .collect(),
            singles: (0..self.n_single_layers)
                .map(|_| SingleLayer::new(init, self))
                .collect(),
            norm_out: RmsNorm::new(init, width),
            project_out: Linear::new(init, width, width, STD),
            upsample: self.halved.then(|| Upsample::new(init, width, EPSILON)),
            head_in: Linear::new(init, width, width, STD),
            head_norm: RmsNorm::new(init, width),
            head: Linear::new(init, width, self.codebook_size, STD),
            config: self.clone(),
        }
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct Meissonic {
    text: TextTower,
    caption: Linear,
    caption_norm: RmsNorm,
    condition_in: Linear,
    condition_out: Linear,
    pooled_in: Linear,
    pooled_out: Linear,
    time_in: Linear,
    time_out: Linear,
    embedding: Embedding,
    embedding_norm: RmsNorm,
    embedding_out: Linear,
    downsample: Option<Downsample>,
    norm_in: RmsNorm,
    project_in: Linear,
    doubles: Vec<DoubleLayer>,
    singles: Vec<SingleLayer>,
    norm_out: RmsNorm,
    project_out: Linear,
    upsample: Option<Upsample>,
    head_in: Linear,
    head_norm: RmsNorm,
    head: Linear,
    #[module(skip)]
    config: MeissonicConfig,
}

/// What the net computes of a caption once.
#[derive(Clone, Debug)]
pub struct MeissonicPrompt {
    /// The caption's tokens, `[1, text, width]`.
    states: Tensor<3>,
    /// What the caption as a whole and the size of the picture add to the condition of every layer, `[1, width]`.
    condition: Tensor<2>,
}

impl MeissonicPrompt {
    /// Of the caption, in tokens.
    fn length(&self) -> usize {
        let [_, length, _] = self.states.dims();
        length
    }
}

/// Tensors of prompts, once for each row.
fn repeated<const D: usize>(
    rows: &[Of<'_, MeissonicPrompt>],
    of: impl Fn(&MeissonicPrompt) -> &Tensor<D>,
) -> Tensor<D> {
    let parts = rows.iter().map(|group| {
        let tensor = of(group.prompt).clone();
        let mut shape = tensor.dims();
        shape[0] = group.rows;
        tensor.expand(shape)
    });
    Tensor::cat(parts.collect(), 0)
}

impl Meissonic {
    /// The sizes.
    pub fn config(&self) -> &MeissonicConfig {
        &self.config
    }

    /// What CLIP's text tower makes of captions; see [`TextTower::states`].
    ///
    /// # Shapes
    /// - `text_ids`: `[batch][text]`, of one length
    /// - returns: `[batch, text, text.tower.width]` and `[batch, text.projection_width]`
    pub fn read_text(&self, text_ids: &[Vec<u32>]) -> Result<(Tensor<3>, Tensor<2>)> {
        self.text.states(text_ids, &self.config.text)
    }

    /// The rotations of caption and picture, one sequence: the caption's tokens stand at 0, the picture's in their row
    /// and column (`_prepare_latent_image_ids`).
    fn rotation(&self, text: usize, tokens: usize, device: &Device) -> Rotation {
        let side = tokens.isqrt().max(1);
        let caption = std::iter::repeat_n([0, 0, 0], text);
        let picture = (0..tokens).map(|at| [0, (at / side) as u32, (at % side) as u32]);
        let places: Vec<[u32; 3]> = caption.chain(picture).collect();
        Rotation::of_axes(&places, self.config.head_widths, ROTARY_BASE, device)
    }
}

impl MaskedNet for Meissonic {
    type Prompt = MeissonicPrompt;

    fn format(&self) -> MaskedFormat {
        MaskedFormat {
            sizes: Sizes {
                positions: self.config.image_length(),
                codebook_size: self.config.codebook_size,
                text_length: self.config.text.length,
            },
            mask_id: self.config.mask_id,
            schedule: self.config.schedule,
            steps: STEPS,
            masked_at_start: self.config.masked_at_start,
        }
    }

    fn weights_device(&self) -> Device {
        self.norm_in.weight.val().device()
    }

    fn prompt_of(&self, text_ids: &[u32]) -> Result<MeissonicPrompt> {
        let (states, embedding) = self.text.chunks(text_ids, &self.config.text)?;
        let states = self.caption.forward(states);
        let numbers = super::amused::conditions(self.config.picture_size);
        let numbers = sinusoids(&numbers, NUMBER_WIDTH, &self.weights_device());
        let condition = Tensor::cat(vec![embedding, numbers], 1);
        let condition = silu(self.condition_in.forward(condition));
        let condition = self.condition_out.forward(condition);
        let condition = silu(self.pooled_in.forward(condition));
        Ok(MeissonicPrompt {
            states: ops::rms_norm(states, self.caption_norm.weight.val(), EPSILON),
            condition: self.pooled_out.forward(condition),
        })
    }

    fn states(
        &self,
        ids: Tensor<2, Int>,
        rows: &[Of<'_, MeissonicPrompt>],
        left: &[usize],
    ) -> Tensor<3> {
        // Caption and picture are one sequence: captions of as many chunks go together.
        let groups = rows.chunk_by(|a, b| a.prompt.length() == b.prompt.length());
        let mut first = 0;
        let mut parts: Vec<Tensor<3>> = groups
            .map(|group| {
                let count: usize = group.iter().map(|of| of.rows).sum();
                let ids = ids.clone().narrow(0, first, count);
                let found = self.states_of(ids, group, &left[first..first + count]);
                first += count;
                found
            })
            .collect();
        match parts.len() {
            1 => parts.remove(0),
            _ => Tensor::cat(parts, 0),
        }
    }

    fn head(&self, states: Tensor<3>) -> Tensor<3> {
        predicted(
            states,
            (&self.head_in, &self.head_norm, &self.head),
            EPSILON,
        )
    }
}

impl Meissonic {
    /// [`MaskedNet::states`] of prompts of one length.
    fn states_of(
        &self,
        ids: Tensor<2, Int>,
        rows: &[Of<'_, MeissonicPrompt>],
        left: &[usize],
    ) -> Tensor<3> {
        let device = self.weights_device();
        let parts = (&self.embedding, &self.embedding_norm, &self.embedding_out);
        let mut x = embedded(ids, parts, EPSILON);
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(x);
        }
        x = ops::rms_norm(x, self.norm_in.weight.val(), EPSILON);
        x = self.project_in.forward(x);
        let mut text = repeated(rows, |prompt| &prompt.states);

        // A model that draws in one pass sees no number: its authors' cut 1000 · 0.5 to an integer too early.
        let one_pass = self.config.masked_at_start.is_some();
        let time = |&left: &usize| match one_pass {
            true => 0.0,
            false => left as f32 * TIME_SCALE,
        };
        let times = left
            .iter()
            .map(|left| sinusoids(&[time(left)], NUMBER_WIDTH, &device));
        let times = silu(self.time_in.forward(Tensor::cat(times.collect(), 0)));
        let condition = repeated(rows, |prompt| &prompt.condition);
        let condition = silu(self.time_out.forward(times) + condition);

        let [_, tokens, width] = x.dims();
        let [_, text_length, _] = text.dims();
        let pass = Pass {
            condition,
            rotation: self.rotation(text_length, tokens, &device),
            ones: Tensor::ones([width], &device),
            zeros: Tensor::zeros([width], &device),
        };
        for layer in &self.doubles {
            (text, x) = layer.forward(text, x, &pass);
        }
        // Both as one sequence, the caption first.
        let mut joint = Tensor::cat(vec![text, x], 1);
        for layer in &self.singles {
            joint = layer.forward(joint, &pass);
        }
        let x = joint.narrow(1, text_length, tokens);
        let x = ops::rms_norm(x, self.norm_out.weight.val(), EPSILON);
        let x = self.project_out.forward(x);
        match &self.upsample {
            Some(upsample) => upsample.forward(x),
            None => x,
        }
    }
}

/// The transformer's layers; not the text tower.
impl Adapt for Meissonic {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let doubles = self.doubles.iter_mut().flat_map(DoubleLayer::linears);
        let singles = self.singles.iter_mut().flat_map(SingleLayer::linears);
        doubles.chain(singles).collect()
    }
}
