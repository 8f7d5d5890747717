//! [`Amused`] in the decoding engine: every pass sees the whole picture with its masked ids, so that any order is one
//! that it knows, and nothing but the ids is kept between passes.
//!
//! The likelihood of a picture is that of drawing it in a fixed order, in [`LIKELIHOOD_PASSES`] passes whose ids don't see
//! each other: a lower bound of the likelihood one id at a time (Uria et al. 2014, arXiv:1310.1757; Hoogeboom et al.
//! 2022, arXiv:2110.02037), which would take as many passes as there are ids.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Amused, AmusedPrompt, Masked};
use crate::engine::{
    AutoregressiveModel, DecodeState, Input, MaskSchedule, ParallelPasses, Prompted, Rows, Sizes,
    TokenNll, pass_sizes,
};
use crate::models::dalle::shuffled;
use crate::nn::ops;
use crate::random::RandomStream;
use crate::{Error, Result};

/// Passes of a likelihood, and of an image's logits in an order.
pub const LIKELIHOOD_PASSES: usize = 4;

/// A row of a batch.
#[derive(Clone, Debug)]
struct Row {
    /// Its prompt, by number.
    prompt: usize,
    /// Row-major.
    image_ids: Vec<Option<u32>>,
}

impl Row {
    fn put(&mut self, input: &Input) {
        if let Some((position, id)) = input.token {
            self.image_ids[position as usize] = Some(id);
        }
    }
}

/// What is known of each row.
#[derive(Debug)]
pub struct AmusedState {
    prompts: Vec<AmusedPrompt>,
    rows: Vec<Row>,
}

impl DecodeState for AmusedState {
    fn select_rows(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
    }
}

/// A picture to run: a row with its newest ids, and what is predicted.
struct Pass {
    row: Row,
    targets: Vec<u32>,
}

impl Amused {
    /// Logits of passes whose rows' prompts are among these.
    fn run(&self, passes: &[(&AmusedState, Pass)]) -> Result<Tensor<3>> {
        let masked: Vec<Masked<'_>> = passes
            .iter()
            .map(|(state, pass)| Masked {
                prompt: &state.prompts[pass.row.prompt],
                image_ids: &pass.row.image_ids,
                targets: &pass.targets,
            })
            .collect();
        self.logits(&masked)
    }

    /// The logits of all ids of an image, row-major, each from the ids of the passes before its own: `[positions, codes]`.
    fn logits_in(
        &self,
        prompt: &AmusedPrompt,
        image_ids: &[u32],
        order: &[u32],
    ) -> Result<Tensor<2>> {
        let (positions, codes) = (self.config.image_length(), self.config.codebook_size);
        if image_ids.len() != positions || order.len() != positions {
            return Err(Error::invalid(
                "image ids",
                format!("expected {positions} ids, got {}", image_ids.len()),
            ));
        }
        let mut known: Vec<Option<u32>> = vec![None; positions];
        let mut logits = Vec::new();
        let mut first = 0;
        for count in pass_sizes(positions, LIKELIHOOD_PASSES) {
            let targets = &order[first..first + count];
            first += count;
            let of_pass = self.logits(&[Masked {
                prompt,
                image_ids: &known,
                targets,
            }])?;
            logits.push(of_pass.reshape([count, codes]));
            for &position in targets {
                known[position as usize] = Some(image_ids[position as usize]);
            }
        }
        Ok(Tensor::cat(logits, 0))
    }
}

impl AutoregressiveModel for Amused {
    type Prompt = AmusedPrompt;
    type State = AmusedState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.config.image_length(),
            codebook_size: self.config.codebook_size,
            text_length: self.config.text.length,
        }
    }

    fn device(&self) -> Device {
        Amused::device(self)
    }

    fn read(&self, text_ids: &[u32]) -> Result<AmusedPrompt> {
        self.read_prompt(text_ids)
    }

    fn prefill(&self, rows: &[Prompted<'_, AmusedPrompt>]) -> Result<AmusedState> {
        let prompts = rows.iter().map(|group| group.prompt.clone()).collect();
        let of = |(prompt, group): (usize, &Prompted<'_, AmusedPrompt>)| {
            let row = Row {
                prompt,
                image_ids: vec![None; self.config.image_length()],
            };
            std::iter::repeat_n(row, group.rows)
        };
        Ok(AmusedState {
            prompts,
            rows: rows.iter().enumerate().flat_map(of).collect(),
        })
    }

    fn step(&self, groups: &mut [Rows<'_, AmusedState>], n_logits: usize) -> Result<Tensor<3>> {
        let mut passes = Vec::new();
        for group in groups.iter_mut() {
            let mut of_group = Vec::new();
            for (row, inputs) in group.state.rows.iter_mut().zip(group.inputs) {
                let first = inputs.len().saturating_sub(n_logits);
                for (number, input) in inputs.iter().enumerate() {
                    row.put(input);
                    if number >= first {
                        of_group.push(Pass {
                            row: row.clone(),
                            targets: vec![input.target],
                        });
                    }
                }
            }
            passes.push((&*group.state, of_group));
        }
        let passes: Vec<(&AmusedState, Pass)> = passes
            .into_iter()
            .flat_map(|(state, passes)| passes.into_iter().map(move |pass| (state, pass)))
            .collect();
        let logits = self.run(&passes)?;
        let codes = self.config.codebook_size;
        Ok(logits.reshape([passes.len() / n_logits.max(1), n_logits, codes]))
    }

    fn parallel_passes(&self) -> Option<&dyn ParallelPasses<AmusedState>> {
        Some(self)
    }

    /// See the module's documentation.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, AmusedPrompt>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        let positions = self.config.image_length();
        // The same order for all: likelihoods are compared.
        let order = shuffled(positions, &mut RandomStream::Order.of(0));
        let mut places = vec![0i32; positions];
        for (place, &position) in order.iter().enumerate() {
            places[position as usize] = place as i32;
        }
        let of_rows = prompts
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt, group.rows));
        let device = Amused::device(self);
        let mut nll = Vec::with_capacity(images.len());
        for (prompt, image_ids) in of_rows.zip(images) {
            let logits = self.logits_in(prompt, image_ids, &order)?;
            let targets: Vec<i32> = order
                .iter()
                .map(|&position| image_ids[position as usize] as i32)
                .collect();
            let of =
                |values| Tensor::<1, Int>::from_data(TensorData::new(values, [positions]), &device);
            let of_order = ops::cross_entropy(logits, of(targets));
            nll.push(of_order.select(0, of(places.clone())));
        }
        Ok(TokenNll {
            text: None,
            text_tokens: 0,
            image: Tensor::cat(nll, 0),
        })
    }

    /// Each id given those of the passes before its own, [`LIKELIHOOD_PASSES`] of them.
    fn image_logits_in(
        &self,
        prompt: &AmusedPrompt,
        image_ids: &[u32],
        order: &[u32],
    ) -> Result<Tensor<2>> {
        self.logits_in(prompt, image_ids, order)
    }
}

impl ParallelPasses<AmusedState> for Amused {
    fn append(&self, inputs: &[Vec<Input>], state: &mut AmusedState) -> Result<()> {
        for (row, inputs) in state.rows.iter_mut().zip(inputs) {
            inputs.iter().for_each(|input| row.put(input));
        }
        Ok(())
    }

    fn query(&self, inputs: &[Vec<Input>], state: &mut AmusedState) -> Result<Tensor<3>> {
        let mut passes = Vec::with_capacity(inputs.len());
        for (row, inputs) in state.rows.iter().zip(inputs) {
            let mut row = row.clone();
            if inputs.iter().any(|input| input.token != inputs[0].token) {
                return Err(Error::invalid("inputs", "expected queries of one context"));
            }
            inputs.iter().take(1).for_each(|input| row.put(input));
            passes.push((
                &*state,
                Pass {
                    row,
                    targets: inputs.iter().map(|input| input.target).collect(),
                },
            ));
        }
        self.run(&passes)
    }

    /// That of the config for whole pictures; linear where some ids are known, as `AmusedInpaintPipeline` sets it.
    fn mask_schedule(&self, known: usize) -> MaskSchedule {
        match known {
            0 => self.config.schedule,
            _ => MaskSchedule::Linear,
        }
    }
}
