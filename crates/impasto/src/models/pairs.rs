//! Transformers over one sequence of a caption and an image's ids in raster order: DALLE-pytorch, ruDALL-E. How they
//! run in the decoding engine, and whole.

use burn::tensor::{Device, Tensor};

use super::ids::{check_ids, ids};
use crate::engine::{DecodeState, Input, Prompted, Rows, Sizes, TokenNll};
use crate::nn::Embedding;
use crate::{Error, Result};

/// Rows of images after their captions.
#[derive(Debug)]
pub struct PairRows<S> {
    /// What is kept of the tokens so far.
    pub(super) tokens: S,
    /// The captions' last states, which predict the first ids: `[rows, 1, width]`; none while a text is generated.
    pub(super) captions: Option<Tensor<3>>,
}

impl<S: DecodeState> DecodeState for PairRows<S> {
    fn select_rows(&mut self, rows: &[usize]) {
        self.tokens.select_rows(rows);
        self.captions = self.captions.take().map(|captions| {
            let parts = rows.iter().map(|&row| captions.clone().narrow(0, row, 1));
            Tensor::cat(parts.collect(), 0)
        });
    }
}

/// Such a transformer.
pub(super) trait PairNet {
    /// What is kept of the tokens so far.
    type Tokens: DecodeState;

    /// What its images have in common.
    fn pair_sizes(&self) -> Sizes;

    /// Where the weights are.
    fn weights_device(&self) -> Device;

    /// The states of the whole text part of captions without padding, `[batch, text, width]`; the last one predicts the
    /// first image id.
    fn run_captions(&self, captions: &[Vec<u32>]) -> Result<(Tensor<3>, Self::Tokens)>;

    /// The states of the next image ids, `[batch][n]` → `[batch, n, width]`.
    fn run_image(&self, image_ids: &[Vec<u32>], tokens: &mut Self::Tokens) -> Result<Tensor<3>>;

    /// Logits of the image id that follows a state, `[batch, n, width]` → `[batch, n, codebook_size]`.
    fn logits_after(&self, states: Tensor<3>) -> Tensor<3>;

    /// −ln p of the text part and of image ids, one pair after the other, and how many text ids there are in it.
    fn pair_nll(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<1>, usize, Tensor<1>)>;

    /// Starts rows: each caption is run once for all of its rows.
    fn start_rows(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<PairRows<Self::Tokens>> {
        let captions: Vec<Vec<u32>> = rows.iter().map(|group| group.prompt.clone()).collect();
        let (prefix, mut tokens) = self.run_captions(&captions)?;
        let of: Vec<usize> = rows
            .iter()
            .enumerate()
            .flat_map(|(caption, group)| std::iter::repeat_n(caption, group.rows))
            .collect();
        tokens.select_rows(&of);
        let last = last_of(prefix);
        let parts = of.iter().map(|&caption| last.clone().narrow(0, caption, 1));
        let captions = Some(Tensor::cat(parts.collect(), 0));
        Ok(PairRows { tokens, captions })
    }

    /// The states after the inputs of one group.
    fn run_rows(&self, group: &mut Rows<'_, PairRows<Self::Tokens>>) -> Result<Tensor<3>> {
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
            states.push(self.run_image(&ids, &mut group.state.tokens)?);
        }
        Ok(joined(states, 1))
    }

    /// The next logits of all groups. They are run one after the other: what a token attends to depends on its place.
    fn step_rows(
        &self,
        groups: &mut [Rows<'_, PairRows<Self::Tokens>>],
        n_logits: usize,
    ) -> Result<Tensor<3>> {
        let mut logits = Vec::with_capacity(groups.len());
        for group in groups {
            let states = self.run_rows(group)?;
            let [_, length, _] = states.dims();
            logits.push(self.logits_after(states.narrow(1, length - n_logits, n_logits)));
        }
        Ok(joined(logits, 0))
    }

    /// −ln p of images under their captions, and of the captions with their padding, as the training counted it.
    fn rows_nll(
        &self,
        prompts: &[Prompted<'_, Vec<u32>>],
        images: &[Vec<u32>],
    ) -> Result<TokenNll> {
        let captions: Vec<Vec<u32>> = prompts
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt.clone(), group.rows))
            .collect();
        let (text, text_tokens, image) = self.pair_nll(&captions, images)?;
        Ok(TokenNll {
            text: Some(text),
            text_tokens,
            image,
        })
    }

    /// The states of the text part of whole pairs, `[batch, text, width]`, and those that predict their image ids,
    /// `[batch, positions, width]`.
    fn run_pairs(
        &self,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
    ) -> Result<(Tensor<3>, Tensor<3>)> {
        let sizes = self.pair_sizes();
        let bad = |reason: String| Error::invalid("image ids", reason);
        if captions.len() != image_ids.len() {
            let (expected, found) = (captions.len(), image_ids.len());
            return Err(bad(format!(
                "expected those of {expected} pictures, got {found}"
            )));
        }
        for row in image_ids {
            if row.len() != sizes.positions {
                let (expected, found) = (sizes.positions, row.len());
                return Err(bad(format!("expected {expected} ids, got {found}")));
            }
            check_ids("image ids", row, sizes.codebook_size)?;
        }
        let (prefix, mut tokens) = self.run_captions(captions)?;
        let mut states = vec![last_of(prefix.clone())];
        if sizes.positions > 1 {
            let inputs: Vec<Vec<u32>> = image_ids
                .iter()
                .map(|row| row[..sizes.positions - 1].to_vec())
                .collect();
            states.push(self.run_image(&inputs, &mut tokens)?);
        }
        Ok((prefix, joined(states, 1)))
    }

    /// Refuses image ids that can't come next, rows of equal length after `n_before` others; their number.
    fn check_next(&self, image_ids: &[Vec<u32>], n_before: usize) -> Result<usize> {
        let sizes = self.pair_sizes();
        let bad = |reason: String| Error::invalid("image ids", reason);
        let n = image_ids.first().map_or(0, Vec::len);
        if n == 0 || image_ids.iter().any(|row| row.len() != n) {
            return Err(bad("expected rows of one length, 1 or more".into()));
        }
        if n_before + n > sizes.positions {
            let (most, found) = (sizes.positions, n_before + n);
            return Err(bad(format!("expected {most} at most, got {found}")));
        }
        for row in image_ids {
            check_ids("image ids", row, sizes.codebook_size)?;
        }
        Ok(n)
    }

    /// Rows of ids as a tensor of one row, to be compared with logits: `[Σ ids]`.
    fn targets(&self, rows: &[Vec<u32>]) -> Tensor<1, burn::tensor::Int> {
        let all = rows.concat();
        ids(&[&all], &self.weights_device()).reshape([all.len()])
    }
}

/// Sums of the embeddings of rows and of columns of `n` places of an image from `first` on: `[1, n, width]`.
pub(super) fn grid_positions(
    rows: &Embedding,
    columns: &Embedding,
    [first, n, grid]: [usize; 3],
) -> Tensor<3> {
    let device = rows.weight.val().device();
    let of = |place: fn(usize, usize) -> usize| {
        let places: Vec<u32> = (first..first + n)
            .map(|at| place(at, grid) as u32)
            .collect();
        ids(&[&places], &device)
    };
    rows.forward(of(|at, grid| at / grid)) + columns.forward(of(|at, grid| at % grid))
}

/// As it is, with a tenth of its gradient (CogView, arXiv:2105.13290, section 2.4).
pub(super) fn damped(x: Tensor<3>) -> Tensor<3> {
    if !x.is_autodiff() {
        return x;
    }
    let still = x.clone().detach();
    still.clone() + (x - still).mul_scalar(0.1)
}

/// `captions` filled up to `length`: the padding has an id of its own for each position, which follow the words of the
/// vocabulary, also where a caption contains the id 0.
pub(super) fn padded(caption: &[u32], vocab_size: usize, length: usize) -> Result<Vec<u32>> {
    if caption.len() > length {
        let found = caption.len();
        return Err(Error::invalid(
            "text ids",
            format!("expected {length} ids or fewer, got {found}"),
        ));
    }
    check_ids("text ids", caption, vocab_size)?;
    let words = (0..length).map(|place| match caption.get(place) {
        None | Some(0) => (vocab_size + place) as u32,
        Some(&id) => id,
    });
    Ok(words.collect())
}

fn last_of(states: Tensor<3>) -> Tensor<3> {
    let [_, length, _] = states.dims();
    states.narrow(1, length - 1, 1)
}

fn joined(mut parts: Vec<Tensor<3>>, dim: usize) -> Tensor<3> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}
