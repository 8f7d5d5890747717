//! [`Janus`] in the decoding engine: raster order after a prompt, and texts after a conversation.

use burn::tensor::{Device, Tensor};

use super::{ANSWER_LENGTH, Janus, check_ids};
use crate::engine::{
    AutoregressiveModel, DecodeState, Prompted, Rewind, Rows, Sizes, TextModel, TextSizes, TokenNll,
};
use crate::models::row_groups::{CachedRows, RowGroups};
use crate::nn::KvCache;
use crate::{Error, Result};

/// Rows after their prompts.
#[derive(Debug)]
pub struct JanusState {
    /// The text id that starts each row's image.
    starts: Vec<u32>,
    rows: RowGroups,
}

impl DecodeState for JanusState {
    fn select_rows(&mut self, rows: &[usize]) {
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
        self.rows.select(rows);
    }
}

impl Rewind for JanusState {
    fn rewind(&mut self, inputs: usize) {
        self.rows.rewind(inputs);
    }
}

/// What is said before an answer.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// In order.
    pub parts: Vec<Part>,
}

/// A part of a [`Conversation`].
// A handful each: their size is of no consequence.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Part {
    /// Text ids.
    Text(Vec<u32>),
    /// What the transformer sees of a picture, by [`Janus::see`]: `[1, patches, width]`.
    Image(Tensor<3>),
}

impl Janus {
    fn check_prompt(&self, text_ids: &[u32]) -> Result<()> {
        let limit = self.config.text_length;
        if text_ids.len() < 2 || text_ids.len() > limit {
            let reason = format!("expected 2 to {limit} ids, got {}", text_ids.len());
            return Err(Error::invalid("text ids", reason));
        }
        check_ids("text ids", text_ids, self.config.text_vocab_size)
    }

    /// What the next inputs of a group of rows put into the transformer: `[rows, n, width]`.
    fn embed_inputs(&self, group: &Rows<'_, JanusState>) -> Result<Tensor<3>> {
        let mut parts = Vec::with_capacity(2);
        let starts = |row: &Vec<crate::engine::Input>| row.first().map(|input| input.token);
        if group.inputs.first().and_then(starts) == Some(None) {
            let starts: Vec<&[u32]> = group.state.starts.chunks(1).collect();
            parts.push(self.embed_text(&starts)?);
        }
        let ids: Vec<Vec<u32>> = group
            .inputs
            .iter()
            .map(|row| {
                row.iter()
                    .filter_map(|input| input.token)
                    .map(|(_, id)| id)
                    .collect()
            })
            .collect();
        if ids.first().is_some_and(|row: &Vec<u32>| !row.is_empty()) {
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            parts.push(self.embed_image(&ids)?);
        }
        Ok(joined(parts, 1))
    }

    /// Runs inputs of rows with caches, after what these hold.
    fn extend(&self, x: Tensor<3>, states: &mut [&mut JanusState]) -> Tensor<3> {
        let [_, n, _] = x.dims();
        let mut positions = Vec::new();
        let mut groups: Vec<(&mut [KvCache], usize)> = Vec::new();
        for cached in states.iter_mut().flat_map(|state| &mut state.rows.groups) {
            let start = cached.length() as u32;
            for _ in 0..cached.rows {
                positions.extend(start..start + n as u32);
            }
            groups.push((&mut cached.caches[..], cached.rows));
        }
        self.run(x, &positions, &mut groups)
    }
}

fn joined(mut parts: Vec<Tensor<3>>, dim: usize) -> Tensor<3> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}

impl AutoregressiveModel for Janus {
    /// The prompt's ids, the start of the image at their end.
    type Prompt = Vec<u32>;
    type State = JanusState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text_length,
        }
    }

    fn device(&self) -> Device {
        Janus::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<Vec<u32>> {
        self.check_prompt(text_ids)?;
        Ok(text_ids.to_vec())
    }

    /// Each prompt is run once for all of its rows, and neighbours of one length together: a prompt and the one of
    /// nothing beside it share a pass over the weights.
    fn prefill(&self, rows: &[Prompted<'_, Vec<u32>>]) -> Result<JanusState> {
        let mut state = JanusState {
            starts: Vec::new(),
            rows: RowGroups::default(),
        };
        for neighbours in rows.chunk_by(|a, b| a.prompt.len() == b.prompt.len()) {
            let mut before: Vec<&[u32]> = Vec::with_capacity(neighbours.len());
            let mut of: Vec<usize> = Vec::new();
            for (number, group) in neighbours.iter().enumerate() {
                self.check_prompt(group.prompt)?;
                let (start, ids) = group.prompt.split_last().unwrap_or((&0, &[]));
                before.push(ids);
                of.extend(std::iter::repeat_n(number, group.rows));
                state.starts.extend(std::iter::repeat_n(*start, group.rows));
            }
            let length = before.first().map_or(0, |ids| ids.len());
            // The start and all image ids but the last follow.
            let mut caches = self.caches(length + self.config.image_length());
            let places: Vec<u32> = before.iter().flat_map(|_| 0..length as u32).collect();
            let x = self.embed_text(&before)?;
            self.run(x, &places, &mut [(&mut caches, before.len())]);
            for cache in &mut caches {
                cache.select_rows(&of);
            }
            state.rows.groups.push(CachedRows {
                rows: of.len(),
                caches,
            });
        }
        Ok(state)
    }

    fn step(&self, groups: &mut [Rows<'_, JanusState>], n_logits: usize) -> Result<Tensor<3>> {
        let inputs: Vec<Tensor<3>> = groups
            .iter()
            .map(|group| self.embed_inputs(group))
            .collect::<Result<_>>()?;
        let mut states: Vec<&mut JanusState> =
            groups.iter_mut().map(|group| &mut *group.state).collect();
        let states = self.extend(joined(inputs, 0), &mut states);
        let [_, length, _] = states.dims();
        Ok(self.image_logits(states.narrow(1, length - n_logits, n_logits)))
    }

    fn rewindable<'s>(&self, state: &'s mut JanusState) -> Option<&'s mut dyn Rewind> {
        Some(state)
    }

    /// Texts of prompts have a template around them, and no likelihood of their own.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, Vec<u32>>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        let prompts: Vec<(&[u32], usize)> = prompts
            .iter()
            .map(|group| (group.prompt.as_slice(), group.rows))
            .collect();
        Ok(TokenNll {
            text: None,
            text_tokens: 0,
            image: self.image_nll(&prompts, images)?,
        })
    }

    fn image_logits_in(
        &self,
        prompt: &Vec<u32>,
        image_ids: &[u32],
        _order: &[u32],
    ) -> Result<Tensor<2>> {
        let logits = self.whole_logits(prompt, &[image_ids.to_vec()])?;
        let [_, positions, codes] = logits.dims();
        Ok(logits.reshape([positions, codes]))
    }
}

impl TextModel for Janus {
    type Seen = Conversation;

    fn text_sizes(&self) -> TextSizes {
        let config = &self.config;
        TextSizes {
            vocabulary: config.text_vocab_size,
            length: ANSWER_LENGTH,
            ends: config.end_id..config.end_id + 1,
            never: Vec::new(),
            ends_at_length: false,
            first_stream: 0,
        }
    }

    /// An answer in a conversation, after its first ids.
    fn begin_text(
        &self,
        conversation: Option<&Conversation>,
        prefix: &[u32],
    ) -> Result<(JanusState, Tensor<2>)> {
        let parts = conversation.map_or(&[][..], |conversation| &conversation.parts);
        let mut x = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            match part {
                Part::Text(ids) if ids.is_empty() => {}
                Part::Text(ids) => x.push(self.embed_text(&[ids])?),
                Part::Image(seen) => x.push(seen.clone()),
            }
        }
        if !prefix.is_empty() {
            x.push(self.embed_text(&[prefix])?);
        }
        if x.is_empty() {
            return Err(Error::invalid("text ids", "expected a conversation"));
        }
        let x = joined(x, 1);
        let [_, length, _] = x.dims();
        let capacity = length - prefix.len() + ANSWER_LENGTH;
        if capacity > self.config.max_positions {
            let limit = self.config.max_positions.saturating_sub(ANSWER_LENGTH);
            return Err(Error::CaptionTooLong {
                tokens: length - prefix.len(),
                limit,
                caption: "the question with its picture".to_owned(),
            });
        }
        let mut state = JanusState {
            starts: vec![0],
            rows: RowGroups {
                groups: vec![CachedRows {
                    rows: 1,
                    caches: self.caches(capacity),
                }],
            },
        };
        let states = self.extend(x, &mut [&mut state]);
        Ok((state, self.next_text_logits(states)))
    }

    fn step_text(&self, ids: &[u32], _place: usize, state: &mut JanusState) -> Result<Tensor<2>> {
        let rows: Vec<&[u32]> = ids.chunks(1).collect();
        let x = self.embed_text(&rows)?;
        let states = self.extend(x, &mut [state]);
        Ok(self.next_text_logits(states))
    }
}

impl Janus {
    /// Logits of the text id after each row's last state.
    fn next_text_logits(&self, states: Tensor<3>) -> Tensor<2> {
        let [rows, length, _] = states.dims();
        let logits = self.text_logits(states.narrow(1, length - 1, 1));
        logits.reshape([rows, self.config.text_vocab_size])
    }
}
