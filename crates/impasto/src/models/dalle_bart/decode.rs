//! [`DalleBart`] in the decoding engine: raster order, conditioned on an encoded caption.

use burn::tensor::{Device, Tensor};

use super::{CaptionRows, CrossAttentionKv, DalleBart};
use crate::Result;
use crate::engine::{AutoregressiveModel, DecodeState, Prompted, Rewind, Rows, Sizes, TokenNll};
use crate::nn::KvCache;

/// Rows of images under their captions.
#[derive(Debug)]
pub struct DalleBartState {
    /// Of each row.
    captions: Vec<CrossAttentionKv>,
    caches: Vec<KvCache>,
    /// Inputs that were run, the start included.
    n_inputs: usize,
}

impl DecodeState for DalleBartState {
    fn select_rows(&mut self, rows: &[usize]) {
        self.captions = rows.iter().map(|&row| self.captions[row].clone()).collect();
        for cache in &mut self.caches {
            cache.select_rows(rows);
        }
    }
}

impl Rewind for DalleBartState {
    fn rewind(&mut self, inputs: usize) {
        for cache in &mut self.caches {
            cache.rewind(inputs);
        }
        self.n_inputs -= inputs;
    }
}

fn caption_rows<'a>(prompts: &[Prompted<'a, CrossAttentionKv>]) -> Vec<CaptionRows<'a>> {
    let rows = prompts.iter().map(|group| CaptionRows {
        caption: group.prompt,
        rows: group.rows,
    });
    rows.collect()
}

impl AutoregressiveModel for DalleBart {
    type Prompt = CrossAttentionKv;
    type State = DalleBartState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn device(&self) -> Device {
        DalleBart::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<CrossAttentionKv> {
        self.encode(text_ids)
    }

    fn prefill(&self, rows: &[Prompted<'_, CrossAttentionKv>]) -> Result<DalleBartState> {
        let captions = rows
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt.clone(), group.rows));
        Ok(DalleBartState {
            captions: captions.collect(),
            caches: self.caches(),
            n_inputs: 0,
        })
    }

    fn step(&self, groups: &mut [Rows<'_, DalleBartState>], n_logits: usize) -> Result<Tensor<3>> {
        let (mut inputs, mut positions) = (Vec::new(), Vec::new());
        let mut captions: Vec<CrossAttentionKv> = Vec::new();
        for group in groups.iter_mut() {
            for row in group.inputs {
                let ids = row.iter().map(|input| match input.token {
                    Some((_, id)) => id,
                    None => self.config.start_id,
                });
                inputs.push(ids.collect::<Vec<u32>>());
                positions.push(group.state.n_inputs);
            }
            captions.extend_from_slice(&group.state.captions);
            group.state.n_inputs += group.inputs.first().map_or(0, Vec::len);
        }
        // Neighbours of one caption attend to it together.
        let mut rows: Vec<CaptionRows<'_>> = Vec::new();
        for caption in &captions {
            match rows.last_mut() {
                Some(group) if group.caption.is_same(caption) => group.rows += 1,
                _ => rows.push(CaptionRows { caption, rows: 1 }),
            }
        }
        let mut caches: Vec<(&mut [KvCache], usize)> = groups
            .iter_mut()
            .map(|group| (&mut group.state.caches[..], group.inputs.len()))
            .collect();
        let states = self.decode_groups(&inputs, &positions, &rows, &mut caches)?;
        let [_, length, _] = states.dims();
        Ok(self.image_logits(states.narrow(1, length - n_logits, n_logits)))
    }

    fn rewindable<'s>(&self, state: &'s mut DalleBartState) -> Option<&'s mut dyn Rewind> {
        Some(state)
    }

    /// Captions themselves have no likelihood: the model only reads them.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, CrossAttentionKv>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        Ok(TokenNll {
            text: None,
            text_tokens: 0,
            image: self.image_nll(images, &caption_rows(prompts))?,
        })
    }

    fn image_logits_in(
        &self,
        prompt: &CrossAttentionKv,
        image_ids: &[u32],
        _order: &[u32],
    ) -> Result<Tensor<2>> {
        let prompt = Prompted { prompt, rows: 1 };
        self.logits(&[image_ids.to_vec()], &caption_rows(&[prompt]))
    }
}
