//! [`Dalle`] in the decoding engine: any order, parallel passes, texts before and after images.

use burn::tensor::{Device, Tensor};

use super::{Dalle, DalleBatch, Part, image_part, raster};
use crate::engine::{
    AutoregressiveModel, DecodeState, Input, ParallelPasses, Prompted, Rewind, Rows, Sizes,
    TextModel, TextSizes, TokenNll,
};
use crate::models::row_groups::{CachedRows, RowGroups};
use crate::nn::KvCache;
use crate::nn::block::AttentionMask;
use crate::text::{BOS, EOS, PAD};
use crate::{Error, Result};

/// Keys and values of rows, and the captions that they start with.
#[derive(Debug)]
pub struct DalleState {
    /// The captions, `[rows, length]`, until they are run together with the first inputs; only of rows whose captions
    /// have one length.
    pending: Option<Vec<u32>>,
    rows: RowGroups,
}

impl DecodeState for DalleState {
    fn select_rows(&mut self, rows: &[usize]) {
        self.rows.select(rows);
    }
}

impl Rewind for DalleState {
    fn rewind(&mut self, inputs: usize) {
        self.rows.rewind(inputs);
    }
}

impl DalleState {
    /// Rows that share caches.
    fn new(pending: Option<Vec<u32>>, rows: usize, caches: Vec<KvCache>) -> Self {
        DalleState {
            pending,
            rows: RowGroups {
                groups: vec![CachedRows { rows, caches }],
            },
        }
    }

    fn text(&mut self) -> Option<Part> {
        let ids = self.pending.take()?;
        Some(Part::Text { ids, start: 0 })
    }

    /// The caches, and how many rows each have.
    fn caches(&mut self) -> impl Iterator<Item = (&mut [KvCache], usize)> {
        let groups = self.rows.groups.iter_mut();
        groups.map(|group| (&mut group.caches[..], group.rows))
    }
}

impl Dalle {
    /// Inputs of rows as a part of the sequence.
    fn image_inputs<'a>(&self, rows: impl IntoIterator<Item = &'a Vec<Input>>) -> Part {
        let (start, nowhere) = (
            self.config.codebook_size as u32,
            self.config.image_length() as u32,
        );
        let (mut ids, mut own, mut target) = (Vec::new(), Vec::new(), Vec::new());
        for input in rows.into_iter().flatten() {
            let (position, id) = input.token.unwrap_or((nowhere, start));
            ids.push(id);
            own.push(position);
            target.push(input.target);
        }
        Part::Image { ids, own, target }
    }
}

impl AutoregressiveModel for Dalle {
    /// The caption, padded where the net's texts are.
    type Prompt = Vec<u32>;
    type State = DalleState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn device(&self) -> Device {
        Dalle::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<Vec<u32>> {
        let (found, limit) = (text_ids.len(), self.config.text_length);
        let expected = match self.config.padded_text {
            true if found != limit => format!("{limit} ids, padding included"),
            false if !(2..=limit).contains(&found) => format!("2 to {limit} ids"),
            _ => return Ok(text_ids.to_vec()),
        };
        Err(Error::invalid(
            "text ids",
            format!("expected {expected}, got {found}"),
        ))
    }

    fn prefill(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<DalleState> {
        let same_length = |a: &Prompted<_>, b: &Prompted<_>| {
            let length = |group: &Prompted<'_, Vec<u32>>| group.prompt.len();
            length(a) == length(b)
        };
        let mut states = rows.chunk_by(same_length).map(|neighbours| {
            let captions = neighbours
                .iter()
                .map(|group| group.prompt.repeat(group.rows));
            let captions = captions.collect::<Vec<_>>().concat();
            let count = neighbours.iter().map(|group| group.rows).sum();
            DalleState::new(Some(captions), count, self.caches())
        });
        let Some(mut state) = states.next() else {
            return Ok(DalleState::new(None, 0, self.caches()));
        };
        for mut other in states {
            self.read_text(&mut state);
            self.read_text(&mut other);
            state.rows.groups.append(&mut other.rows.groups);
        }
        Ok(state)
    }

    fn step(&self, groups: &mut [Rows<'_, DalleState>], n_logits: usize) -> Result<Tensor<3>> {
        let batch = groups.iter().map(|group| group.inputs.len()).sum();
        let mut parts = Vec::with_capacity(2);
        if let [only] = &mut *groups {
            parts.extend(only.state.text());
        }
        parts.push(self.image_inputs(groups.iter().flat_map(|group| group.inputs)));
        let mut caches: Vec<(&mut [KvCache], usize)> = groups
            .iter_mut()
            .flat_map(|group| group.state.caches())
            .collect();
        let states = self.forward_groups(&parts, batch, &mut caches, AttentionMask::Causal);
        let [_, length, _] = states.dims();
        Ok(self.image_logits(states.narrow(1, length - n_logits, n_logits)))
    }

    fn parallel_passes(&self) -> Option<&dyn ParallelPasses<DalleState>> {
        Some(self)
    }

    fn nll_rows(&self) -> usize {
        8
    }

    fn rewindable<'s>(&self, state: &'s mut DalleState) -> Option<&'s mut dyn Rewind> {
        Some(state)
    }

    fn token_nll(
        &self,
        prompts: &[Prompted<'_, Vec<u32>>],
        images: &[Vec<u32>],
        with_text: bool,
    ) -> Result<TokenNll> {
        let captions = prompts
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt.clone(), group.rows));
        let captions: Vec<Vec<u32>> = captions.collect();
        let mut images = images;
        let mut parts = Vec::new();
        for captions in captions.chunk_by(|a, b| a.len() == b.len()) {
            let (these, others) = images.split_at(captions.len());
            parts.push(self.nll_of_length(captions, these, with_text));
            images = others;
        }
        Ok(TokenNll {
            text: with_text.then(|| joined(parts.iter().filter_map(|nll| nll.text.clone()))),
            text_tokens: parts.iter().map(|nll| nll.text_tokens).sum(),
            image: joined(parts.into_iter().map(|nll| nll.image)),
        })
    }

    fn image_logits_in(
        &self,
        prompt: &Vec<u32>,
        image_ids: &[u32],
        order: &[u32],
    ) -> Result<Tensor<2>> {
        let text = Part::Text {
            ids: prompt.clone(),
            start: 0,
        };
        let (positions, codes) = (self.config.image_length(), self.config.codebook_size);
        let image = image_part(&[image_ids.to_vec()], &[order.to_vec()], codes, false);
        let states = self
            .forward(&[text, image], 1, None, AttentionMask::Causal)
            .narrow(1, prompt.len(), positions);
        Ok(self.image_logits(states).reshape([positions, codes]))
    }
}

/// One after the other.
fn joined(parts: impl Iterator<Item = Tensor<1>>) -> Tensor<1> {
    let mut parts: Vec<Tensor<1>> = parts.collect();
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    }
}

impl Dalle {
    /// Runs the captions of rows that have caches of one length, if they are not run yet.
    fn read_text(&self, state: &mut DalleState) {
        let Some(text) = state.text() else { return };
        for (caches, rows) in state.caches() {
            let text = std::slice::from_ref(&text);
            self.forward(text, rows, Some(caches), AttentionMask::Causal);
        }
    }

    /// [`AutoregressiveModel::token_nll`] of captions of one length.
    fn nll_of_length(
        &self,
        captions: &[Vec<u32>],
        images: &[Vec<u32>],
        with_text: bool,
    ) -> TokenNll {
        let (rows, positions) = (images.len(), self.config.image_length());
        let batch = DalleBatch {
            text_ids: captions.to_vec(),
            image_ids: images.to_vec(),
            orders: vec![raster(positions); rows],
            captioned: 0,
        };
        let text = Part::Text {
            ids: batch.text_ids.concat(),
            start: 0,
        };
        let codes = self.config.codebook_size;
        let image = image_part(&batch.image_ids, &batch.orders, codes, false);
        let states = self.forward(&[text, image], rows, None, AttentionMask::Causal);
        let length = captions.first().map_or(0, Vec::len);
        let (mut text, mut text_tokens) = (None, 0);
        if with_text {
            let states = states.clone().narrow(1, 0, length);
            let (nll, counted) = self.text_nll(states, captions);
            text = Some(nll);
            text_tokens = counted.into_iter().filter(|&counts| counts).count();
        }
        TokenNll {
            text,
            text_tokens,
            image: self.image_nll(states.narrow(1, length, positions), &batch, rows),
        }
    }
}

impl ParallelPasses<DalleState> for Dalle {
    fn append(&self, inputs: &[Vec<Input>], state: &mut DalleState) -> Result<()> {
        let mut parts: Vec<Part> = state.text().into_iter().collect();
        if inputs.first().is_some_and(|row| !row.is_empty()) {
            parts.push(self.image_inputs(inputs));
        }
        if !parts.is_empty() {
            let mut caches: Vec<_> = state.caches().collect();
            self.forward_groups(&parts, inputs.len(), &mut caches, AttentionMask::Causal);
        }
        Ok(())
    }

    fn query(&self, inputs: &[Vec<Input>], state: &mut DalleState) -> Result<Tensor<3>> {
        let mut first = 0;
        let states = state.caches().map(|(caches, rows)| {
            let part = self.image_inputs(&inputs[first..first + rows]);
            first += rows;
            self.forward(&[part], rows, Some(caches), AttentionMask::QueryOnly)
        });
        let mut states: Vec<Tensor<3>> = states.collect();
        let states = match states.len() {
            1 => states.remove(0),
            _ => Tensor::cat(states, 0),
        };
        Ok(self.image_logits(states))
    }
}

impl TextModel for Dalle {
    type Seen = [u32];

    fn text_sizes(&self) -> TextSizes {
        TextSizes {
            vocabulary: self.config.text_vocab_size,
            length: self.config.text_length - 1,
            ends: EOS..EOS + 1,
            never: vec![PAD, BOS],
            ends_at_length: true,
            first_stream: 1,
        }
    }

    fn begin_text(
        &self,
        image_ids: Option<&[u32]>,
        prefix: &[u32],
    ) -> Result<(DalleState, Tensor<2>)> {
        let codes = self.config.codebook_size;
        let mut parts = Vec::with_capacity(2);
        if let Some(image_ids) = image_ids {
            let order = raster(self.config.image_length());
            parts.push(image_part(&[image_ids.to_vec()], &[order], codes, true));
        }
        parts.push(Part::Text {
            ids: [&[BOS], prefix].concat(),
            start: 0,
        });
        let mut caches = self.caches();
        let states = self.forward(&parts, 1, Some(&mut caches), AttentionMask::Causal);
        let logits = self.next_text_logits(states);
        Ok((DalleState::new(None, 1, caches), logits))
    }

    fn step_text(&self, ids: &[u32], place: usize, state: &mut DalleState) -> Result<Tensor<2>> {
        let part = Part::Text {
            ids: ids.to_vec(),
            // After the start.
            start: place + 1,
        };
        let mut caches: Vec<_> = state.caches().collect();
        let states = self.forward_groups(&[part], ids.len(), &mut caches, AttentionMask::Causal);
        Ok(self.next_text_logits(states))
    }
}

impl Dalle {
    /// Logits of the text id after each row's last state.
    fn next_text_logits(&self, states: Tensor<3>) -> Tensor<2> {
        let [rows, length, _] = states.dims();
        let last = self.text_logits(states.narrow(1, length - 1, 1));
        last.reshape([rows, self.config.text_vocab_size])
    }
}
