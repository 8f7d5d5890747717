//! [`DallePytorch`] in the decoding engine: raster order after the caption, and texts alone.

use burn::tensor::{Device, Tensor};

use super::{DallePytorch, PairState};
use crate::engine::{
    AutoregressiveModel, DecodeState, Input, Prompted, Rows, Sizes, TextModel, TextSizes, TokenNll,
};
use crate::{Error, Result};

/// Rows of images after their captions.
#[derive(Debug)]
pub struct DallePytorchState {
    pairs: PairState,
    /// The captions' last states, which predict the first ids: `[rows, 1, width]`; none while a text is generated.
    captions: Option<Tensor<3>>,
}

impl DecodeState for DallePytorchState {
    fn select_rows(&mut self, rows: &[usize]) {
        self.pairs.select_rows(rows);
        self.captions = self.captions.take().map(|captions| {
            let parts = rows.iter().map(|&row| captions.clone().narrow(0, row, 1));
            Tensor::cat(parts.collect(), 0)
        });
    }
}

impl DallePytorch {
    /// The states after the inputs of one group.
    fn run(&self, group: &mut Rows<'_, DallePytorchState>) -> Result<Tensor<3>> {
        let ids = |row: &Vec<Input>| -> Vec<u32> {
            let tokens = row.iter().filter_map(|input| input.token);
            tokens.map(|(_, id)| id).collect()
        };
        let ids: Vec<Vec<u32>> = group.inputs.iter().map(ids).collect();
        let starts = group.inputs.first().map_or(0, Vec::len) - ids.first().map_or(0, Vec::len);
        let mut states = Vec::with_capacity(2);
        if starts > 0 {
            let captions = group.state.captions.clone();
            states.push(captions.ok_or_else(|| {
                Error::invalid("image ids", "expected a whole caption before an image")
            })?);
        }
        if ids.first().is_some_and(|row| !row.is_empty()) {
            states.push(self.step(&ids, &mut group.state.pairs)?);
        }
        Ok(match states.len() {
            1 => states.remove(0),
            _ => Tensor::cat(states, 1),
        })
    }
}

impl AutoregressiveModel for DallePytorch {
    /// The caption without padding.
    type Prompt = Vec<u32>;
    type State = DallePytorchState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn device(&self) -> Device {
        DallePytorch::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<Vec<u32>> {
        self.padded(text_ids)?;
        Ok(text_ids.to_vec())
    }

    fn prefill(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<DallePytorchState> {
        let captions: Vec<Vec<u32>> = rows.iter().map(|group| group.prompt.clone()).collect();
        let (prefix, mut pairs) = DallePytorch::prefill(self, &captions)?;
        // Each caption is run once for all of its rows.
        let of: Vec<usize> = rows
            .iter()
            .enumerate()
            .flat_map(|(caption, group)| std::iter::repeat_n(caption, group.rows))
            .collect();
        pairs.select_rows(&of);
        let last = prefix.narrow(1, self.config.text_length, 1);
        let parts = of.iter().map(|&caption| last.clone().narrow(0, caption, 1));
        let captions = Some(Tensor::cat(parts.collect(), 0));
        Ok(DallePytorchState { pairs, captions })
    }

    /// Groups are run one after the other: what a token attends to depends on its place.
    fn step(
        &self,
        groups: &mut [Rows<'_, DallePytorchState>],
        n_logits: usize,
    ) -> Result<Tensor<3>> {
        let mut logits = Vec::with_capacity(groups.len());
        for group in groups {
            let states = self.run(group)?;
            let [_, length, _] = states.dims();
            logits.push(self.image_logits(states.narrow(1, length - n_logits, n_logits)));
        }
        Ok(match logits.len() {
            1 => logits.remove(0),
            _ => Tensor::cat(logits, 0),
        })
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
        let captions: Vec<Vec<u32>> = prompts
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt.clone(), group.rows))
            .collect();
        let (text, image) = self.nll(&captions, images)?;
        Ok(TokenNll {
            text: Some(text),
            text_tokens: self.config.text_length * captions.len(),
            image,
        })
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
            pairs,
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
        let states = DallePytorch::step_text(self, &rows, &mut state.pairs)?;
        let logits = self.text_logits(states);
        Ok(logits.reshape([ids.len(), self.config.text_rows()]))
    }
}
