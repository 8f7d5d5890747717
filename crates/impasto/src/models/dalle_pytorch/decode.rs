//! [`DallePytorch`] in the decoding engine: raster order after the caption, and texts alone.

use burn::tensor::{Device, Tensor};

use super::{DallePytorch, PairState};
use crate::engine::{AutoregressiveModel, Prompted, Rows, Sizes, TextModel, TextSizes, TokenNll};
use crate::models::pairs::{PairNet, PairRows};
use crate::{Error, Result};

/// Rows of images after their captions.
pub type DallePytorchState = PairRows<PairState>;

impl PairNet for DallePytorch {
    type Tokens = PairState;

    fn pair_sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn weights_device(&self) -> Device {
        DallePytorch::device(self)
    }

    fn run_captions(&self, captions: &[Vec<u32>]) -> Result<(Tensor<3>, PairState)> {
        DallePytorch::prefill(self, captions)
    }

    fn run_image(&self, image_ids: &[Vec<u32>], pairs: &mut PairState) -> Result<Tensor<3>> {
        DallePytorch::step(self, image_ids, pairs)
    }

    fn logits_after(&self, states: Tensor<3>) -> Tensor<3> {
        self.image_logits(states)
    }

    fn pair_nll(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<1>, usize, Tensor<1>)> {
        let (text, image) = self.nll(captions, image_ids)?;
        Ok((text, self.config.text_length * captions.len(), image))
    }
}

impl AutoregressiveModel for DallePytorch {
    /// The caption without padding.
    type Prompt = Vec<u32>;
    type State = DallePytorchState;

    fn sizes(&self) -> Sizes {
        self.pair_sizes()
    }

    fn device(&self) -> Device {
        DallePytorch::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<Vec<u32>> {
        self.padded(text_ids)?;
        Ok(text_ids.to_vec())
    }

    fn prefill(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<DallePytorchState> {
        self.start_rows(rows)
    }

    fn step(
        &self,
        groups: &mut [Rows<'_, DallePytorchState>],
        n_logits: usize,
    ) -> Result<Tensor<3>> {
        self.step_rows(groups, n_logits)
    }

    fn nll_rows(&self) -> usize {
        1
    }

    /// That of a caption counts its padding, as the training did.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, Vec<u32>>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        self.rows_nll(prompts, images)
    }

    fn image_logits_in(
        &self,
        prompt: &Vec<u32>,
        image_ids: &[u32],
        _order: &[u32],
    ) -> Result<Tensor<2>> {
        let (_, logits) = self.logits(std::slice::from_ref(prompt), &[image_ids.to_vec()])?;
        Ok(logits)
    }
}

impl TextModel for DallePytorch {
    type Seen = [u32];

    /// Texts end with a padding id.
    fn text_sizes(&self) -> TextSizes {
        let config = &self.config;
        TextSizes {
            vocabulary: config.text_rows(),
            length: config.text_length,
            ends: config.text_vocab_size as u32..config.text_rows() as u32,
            // The start.
            never: vec![0],
            ends_at_length: false,
            first_stream: 0,
        }
    }

    fn begin_text(
        &self,
        image_ids: Option<&[u32]>,
        prefix: &[u32],
    ) -> Result<(DallePytorchState, Tensor<2>)> {
        if image_ids.is_some() {
            let reason = "the model predicts texts before images, not after them";
            return Err(Error::invalid("image ids", reason));
        }
        let mut pairs = self.empty_state();
        let states = self.step_text(&[[&[0], prefix].concat()], &mut pairs)?;
        let last = states.narrow(1, prefix.len(), 1);
        let logits = self.text_logits(last).reshape([1, self.config.text_rows()]);
        let state = DallePytorchState {
            tokens: pairs,
            captions: None,
        };
        Ok((state, logits))
    }

    fn step_text(
        &self,
        ids: &[u32],
        _place: usize,
        state: &mut DallePytorchState,
    ) -> Result<Tensor<2>> {
        let rows: Vec<Vec<u32>> = ids.iter().map(|&id| vec![id]).collect();
        let states = DallePytorch::step_text(self, &rows, &mut state.tokens)?;
        let logits = self.text_logits(states);
        Ok(logits.reshape([ids.len(), self.config.text_rows()]))
    }
}
