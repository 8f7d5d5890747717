//! What the engine needs of a net.

use std::fmt::Debug;

use burn::tensor::{Device, Tensor};

use super::confidence::MaskSchedule;
use crate::Result;

/// What all images of a net have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Positions of an image: its image ids.
    pub positions: usize,
    /// Ids of the image tokenizer. Logits may have more columns after these; they are never sampled.
    pub codebook_size: usize,
    /// The longest caption in text ids, as the text tokenizer of the family counts them.
    pub text_length: usize,
}

/// One input of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Position and image id of the token that is put in; none at the start of the image.
    pub token: Option<(u32, u32)>,
    /// The position that the net predicts from it. For nets in raster order it is the position after the token's.
    pub target: u32,
}

/// Consecutive rows of a batch that are conditioned on one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Prompted<'a, P> {
    /// What the net computed of the caption.
    pub prompt: &'a P,
    /// How many rows.
    pub rows: usize,
}

/// Rows that have run the same number of inputs, with their state and their next inputs.
#[derive(Debug)]
pub struct Rows<'a, S> {
    /// The next inputs of each row, of equal number.
    pub inputs: &'a [Vec<Input>],
    /// What the net keeps of the inputs before.
    pub state: &'a mut S,
}

/// What a net keeps of the inputs that rows have run: keys and values.
pub trait DecodeState: Debug + Send {
    /// Keeps these rows, in this order and as often as they are named.
    fn select_rows(&mut self, rows: &[usize]);
}

/// Rows whose last inputs can be taken back.
pub trait Rewind {
    /// Takes back the last inputs of every row, not the start of the image.
    fn rewind(&mut self, inputs: usize);
}

/// −ln p of the tokens of pairs, in nats.
#[derive(Clone, Debug)]
pub struct TokenNll {
    /// Of the text ids, row after row; none for nets that do not model the text. Zero for padding that is not modelled.
    pub text: Option<Tensor<1>>,
    /// Text ids that count, over all rows.
    pub text_tokens: usize,
    /// Of the image ids in raster order, row after row: `[rows · positions]`.
    pub image: Tensor<1>,
}

/// A transformer that predicts image ids, one after the other, under a prompt.
pub trait AutoregressiveModel: Debug + Send + Sync {
    /// What it computes of a caption once, for all rows and steps.
    type Prompt: Clone + Debug + Send + Sync;
    /// What it keeps of rows.
    type State: DecodeState;

    /// Sizes of its images.
    fn sizes(&self) -> Sizes;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// Reads a caption.
    fn read(&self, text_ids: &[u32]) -> Result<Self::Prompt>;

    /// Starts rows.
    fn prefill(&self, rows: &[Prompted<'_, Self::Prompt>]) -> Result<Self::State>;

    /// Says the seeds of the rows that [`Self::prefill`] has started, to nets that draw from random ids.
    fn seed(&self, _seeds: &[u64], _state: &mut Self::State) {}

    /// Runs the next inputs of all groups' rows, and returns the logits after the last `n_logits` inputs of each row.
    /// Several groups may be run together once each of them has been run alone, and with the same number of inputs.
    ///
    /// # Shapes
    /// - returns: `[Σ rows, n_logits, vocabulary]`; the vocabulary starts with the codebook
    fn step(&self, groups: &mut [Rows<'_, Self::State>], n_logits: usize) -> Result<Tensor<3>>;

    /// The net as one that predicts any position at any time, several in one pass; none if it knows raster order only.
    fn parallel_passes(&self) -> Option<&dyn ParallelPasses<Self::State>> {
        None
    }

    /// The rows as ones whose inputs can be taken back, so that ids can be drafted; none if they are not, or if an input
    /// changes the logits after the ones before it.
    fn rewindable<'s>(&self, _state: &'s mut Self::State) -> Option<&'s mut dyn Rewind> {
        None
    }

    /// Images whose likelihood is computed in one pass: all their logits are in memory.
    fn nll_rows(&self) -> usize {
        4
    }

    /// −ln p of images under their captions, and `with_text` of the captions, where the net models them.
    ///
    /// # Shapes
    /// - `images`: `[rows][positions]`, row-major
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, Self::Prompt>],
        images: &[Vec<u32>],
        with_text: bool,
    ) -> Result<TokenNll>;

    /// Logits of every image id under the prompt and the ids before it, in the order of `order`: that of positions for
    /// nets of [`Self::parallel_passes`], raster order for others.
    ///
    /// # Shapes
    /// - returns: `[positions, vocabulary]`
    fn image_logits_in(
        &self,
        prompt: &Self::Prompt,
        image_ids: &[u32],
        order: &[u32],
    ) -> Result<Tensor<2>>;
}

/// Nets trained on any order (σ-GPT, arXiv:2404.09562), or on masked ids (MaskGIT, arXiv:2202.04200): several positions
/// are predicted from one context.
pub trait ParallelPasses<S> {
    /// Adds inputs to the context, without logits.
    fn append(&self, inputs: &[Vec<Input>], state: &mut S) -> Result<()>;

    /// Logits of all targets, each from the context and its own input alone; the context stays as it is.
    ///
    /// # Shapes
    /// - returns: `[rows, inputs, vocabulary]`
    fn query(&self, inputs: &[Vec<Input>], state: &mut S) -> Result<Tensor<3>>;

    /// Says how many passes of [`Order::Confidence`](crate::models::dalle::Order) come after the one of the next
    /// [`Self::query`], to nets that see that number.
    fn announce(&self, _left: usize, _state: &mut S) {}

    /// How the share of masked ids falls over the passes of [`Order::Confidence`](crate::models::dalle::Order), for
    /// images of which this many ids are known beforehand.
    fn mask_schedule(&self, _known: usize) -> MaskSchedule {
        MaskSchedule::Cosine
    }
}

/// What texts of a net have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSizes {
    /// Columns of the logits.
    pub vocabulary: usize,
    /// The longest text in ids, those that [`TextModel::begin_text`] puts in front not counted, the end counted.
    pub length: usize,
    /// Ids that end a text.
    pub ends: std::ops::Range<u32>,
    /// Ids that are never generated.
    pub never: Vec<u32>,
    /// Whether the last place is the end's.
    pub ends_at_length: bool,
    /// The random stream of the first id.
    pub first_stream: u64,
}

/// A net that also predicts text ids.
pub trait TextModel: AutoregressiveModel {
    /// What texts follow: the ids of an image, or a conversation.
    type Seen: ?Sized;

    /// Sizes of its texts.
    fn text_sizes(&self) -> TextSizes;

    /// Starts one row: after what is seen where anything is, and after the first ids of the text.
    ///
    /// # Shapes
    /// - returns: the state, and the logits of the next id, `[1, vocabulary]`
    fn begin_text(
        &self,
        seen: Option<&Self::Seen>,
        prefix: &[u32],
    ) -> Result<(Self::State, Tensor<2>)>;

    /// Runs the next id of each row, which is number `place` of the text.
    ///
    /// # Shapes
    /// - returns: logits of the id after it, `[rows, vocabulary]`
    fn step_text(&self, ids: &[u32], place: usize, state: &mut Self::State) -> Result<Tensor<2>>;
}
