//! [`LlamaGen`] in the decoding engine: raster order after a prefix.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Condition, LlamaGen, LlamaGenCondition};
use crate::Result;
use crate::engine::{
    AutoregressiveModel, DecodeState, Input, Prompted, Rewind, Rows, Sizes, TokenNll,
};
use crate::models::row_groups::{CachedRows, RowGroups};
use crate::nn::KvCache;

/// The text id that stands for no caption, as often as the caption beside it has ids.
pub(crate) const NO_CAPTION: u32 = u32::MAX;
/// The text id that stands between the chunks of a caption.
pub(crate) const NEXT_CHUNK: u32 = u32::MAX - 1;

/// What stands before an image.
#[derive(Clone, Debug)]
pub struct LlamaGenPrompt {
    /// `[1, n, width]`.
    pub(super) prefix: Tensor<3>,
}

impl LlamaGenPrompt {
    fn len(&self) -> usize {
        let [_, length, _] = self.prefix.dims();
        length
    }
}

/// Rows after their prefixes.
#[derive(Debug)]
pub struct LlamaGenState {
    /// The last place of each row's prefix, which starts its image: `[rows, 1, width]`.
    starts: Tensor<3>,
    rows: RowGroups,
}

impl DecodeState for LlamaGenState {
    fn select_rows(&mut self, rows: &[usize]) {
        let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let indices = TensorData::new(indices, [rows.len()]);
        let indices = Tensor::<1, Int>::from_data(indices, &self.starts.device());
        self.starts = self.starts.clone().select(0, indices);
        self.rows.select(rows);
    }
}

impl Rewind for LlamaGenState {
    fn rewind(&mut self, inputs: usize) {
        self.rows.rewind(inputs);
    }
}

impl LlamaGen {
    /// What the next inputs of a group of rows put into the transformer: `[rows, n, width]`.
    fn embed_inputs(&self, group: &Rows<'_, LlamaGenState>) -> Result<Tensor<3>> {
        let mut parts = Vec::with_capacity(2);
        let first = group.inputs.first().and_then(|row| row.first());
        if first.is_some_and(|input| input.token.is_none()) {
            parts.push(group.state.starts.clone());
        }
        let id = |input: &Input| input.token.map(|(_, id)| id);
        let rows = group.inputs.iter();
        let ids: Vec<Vec<u32>> = rows
            .map(|row| row.iter().filter_map(id).collect())
            .collect();
        if ids.first().is_some_and(|row| !row.is_empty()) {
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            parts.push(self.embed_image(&ids)?);
        }
        Ok(joined(parts, 1))
    }
}

fn joined(mut parts: Vec<Tensor<3>>, dim: usize) -> Tensor<3> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}

impl AutoregressiveModel for LlamaGen {
    type Prompt = LlamaGenPrompt;
    type State = LlamaGenState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length(),
        }
    }

    fn device(&self) -> Device {
        LlamaGen::device(self)
    }

    /// A class, a caption's ids, or `NO_CAPTION` as often as there are places.
    fn read(&self, text_ids: &[u32]) -> Result<LlamaGenPrompt> {
        let condition = match (&self.config.condition, text_ids) {
            (LlamaGenCondition::Classes { .. }, &[class]) => Condition::Class(class),
            (_, &[NO_CAPTION, ..]) => Condition::Nothing(text_ids.len()),
            _ => Condition::Caption(text_ids),
        };
        let prefix = self.prefix(condition)?;
        Ok(LlamaGenPrompt { prefix })
    }

    /// Each prefix is run once for all of its rows, and neighbours of one length together.
    fn prefill(&self, rows: &[Prompted<'_, LlamaGenPrompt>]) -> Result<LlamaGenState> {
        let mut starts = Vec::with_capacity(rows.len());
        let mut groups = RowGroups::default();
        for neighbours in rows.chunk_by(|a, b| a.prompt.len() == b.prompt.len()) {
            let mut before = Vec::with_capacity(neighbours.len());
            let mut of: Vec<usize> = Vec::new();
            let mut last = 0;
            for (number, group) in neighbours.iter().enumerate() {
                let prefix = &group.prompt.prefix;
                let [_, length, width] = prefix.dims();
                last = length - 1;
                if last > 0 {
                    before.push(prefix.clone().narrow(1, 0, last));
                }
                let start = prefix.clone().narrow(1, last, 1);
                starts.push(start.expand([group.rows, 1, width]));
                of.extend(std::iter::repeat_n(number, group.rows));
            }
            // The start and all image ids but the last follow.
            let mut caches = self.caches(last + self.config.image_length());
            if last > 0 {
                let prefixes = before.len();
                let cells = vec![None; prefixes * last];
                let x = joined(before, 0);
                self.run(x, &cells, &mut [(&mut caches, prefixes)]);
                for cache in &mut caches {
                    cache.select_rows(&of);
                }
            }
            groups.groups.push(CachedRows {
                rows: of.len(),
                caches,
            });
        }
        Ok(LlamaGenState {
            starts: joined(starts, 0),
            rows: groups,
        })
    }

    fn step(&self, groups: &mut [Rows<'_, LlamaGenState>], n_logits: usize) -> Result<Tensor<3>> {
        let mut inputs = Vec::with_capacity(groups.len());
        let mut cells = Vec::new();
        for group in groups.iter() {
            inputs.push(self.embed_inputs(group)?);
            let tokens = group.inputs.iter().flatten().map(|input| input.token);
            cells.extend(tokens.map(|token| token.map(|(position, _)| position)));
        }
        let mut caches: Vec<(&mut [KvCache], usize)> = groups
            .iter_mut()
            .flat_map(|group| &mut group.state.rows.groups)
            .map(|cached| (&mut cached.caches[..], cached.rows))
            .collect();
        let states = self.run(joined(inputs, 0), &cells, &mut caches);
        let [_, length, _] = states.dims();
        Ok(self
            .head
            .forward(states.narrow(1, length - n_logits, n_logits)))
    }

    fn rewindable<'s>(&self, state: &'s mut LlamaGenState) -> Option<&'s mut dyn Rewind> {
        Some(state)
    }

    /// Captions have no likelihood.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, LlamaGenPrompt>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        let prompts: Vec<(&LlamaGenPrompt, usize)> = prompts
            .iter()
            .map(|group| (group.prompt, group.rows))
            .collect();
        Ok(TokenNll {
            text: None,
            text_tokens: 0,
            image: self.image_nll(&prompts, images)?,
        })
    }

    fn image_logits_in(
        &self,
        prompt: &LlamaGenPrompt,
        image_ids: &[u32],
        _order: &[u32],
    ) -> Result<Tensor<2>> {
        let logits = self.whole_logits(prompt, &[image_ids.to_vec()])?;
        let [_, positions, codes] = logits.dims();
        Ok(logits.reshape([positions, codes]))
    }
}
