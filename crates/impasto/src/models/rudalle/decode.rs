//! [`RuDalle`] in the decoding engine: raster order after the caption.

use burn::tensor::{Device, Tensor};

use super::RuDalle;
use crate::Result;
use crate::engine::{AutoregressiveModel, DecodeState, Prompted, Rows, Sizes, TokenNll};
use crate::models::pairs::{PairNet, PairRows};
use crate::nn::KvCache;

/// The caches of a batch of sequences, and how many image tokens they hold.
#[derive(Clone, Debug)]
pub struct RuDalleTokens {
    pub(super) caches: Vec<KvCache>,
    pub(super) n_image: usize,
}

impl DecodeState for RuDalleTokens {
    fn select_rows(&mut self, rows: &[usize]) {
        for cache in &mut self.caches {
            cache.select_rows(rows);
        }
    }
}

/// Rows of images after their captions.
pub type RuDalleState = PairRows<RuDalleTokens>;

impl PairNet for RuDalle {
    type Tokens = RuDalleTokens;

    fn pair_sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn weights_device(&self) -> Device {
        RuDalle::device(self)
    }

    fn run_captions(&self, captions: &[Vec<u32>]) -> Result<(Tensor<3>, RuDalleTokens)> {
        RuDalle::prefill(self, captions)
    }

    fn run_image(&self, image_ids: &[Vec<u32>], tokens: &mut RuDalleTokens) -> Result<Tensor<3>> {
        RuDalle::step(self, image_ids, tokens)
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
        Ok((text, self.config.predicted_text() * captions.len(), image))
    }
}

impl AutoregressiveModel for RuDalle {
    /// The caption without padding.
    type Prompt = Vec<u32>;
    type State = RuDalleState;

    fn sizes(&self) -> Sizes {
        self.pair_sizes()
    }

    fn device(&self) -> Device {
        RuDalle::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<Vec<u32>> {
        self.tokens_of(text_ids)?;
        Ok(text_ids.to_vec())
    }

    fn prefill(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<RuDalleState> {
        self.start_rows(rows)
    }

    fn step(&self, groups: &mut [Rows<'_, RuDalleState>], n_logits: usize) -> Result<Tensor<3>> {
        self.step_rows(groups, n_logits)
    }

    fn nll_rows(&self) -> usize {
        1
    }

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
        self.logits(std::slice::from_ref(prompt), &[image_ids.to_vec()])
    }
}
