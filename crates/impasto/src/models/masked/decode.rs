//! [`MaskedNet`]s in the decoding engine: every pass sees the whole picture with its masked ids, so that any order is one
//! that it knows, and nothing but the ids is kept between passes.
//!
//! The likelihood of a picture is that of drawing it in a fixed order, in [`LIKELIHOOD_PASSES`] passes whose ids don't see
//! each other: a lower bound of the likelihood one id at a time (Uria et al. 2014, arXiv:1310.1757; Hoogeboom et al.
//! 2022, arXiv:2110.02037), which would take as many passes as there are ids.

use std::fmt::Debug;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Masked, MaskedNet, logits};
use crate::engine::{
    AutoregressiveModel, DecodeState, Input, MaskSchedule, ParallelPasses, Prompted, Rows, Sizes,
    TokenNll, pass_sizes,
};
use crate::models::dalle::shuffled;
use crate::nn::ops;
use crate::random::RandomStream;
use crate::{Error, Result};

/// Passes of a likelihood, and of an image's logits in an order; of nets that draw in one pass there is one.
pub const LIKELIHOOD_PASSES: usize = 4;

/// A row of a batch.
#[derive(Clone, Debug)]
struct Row {
    /// Its prompt, by number.
    prompt: usize,
    /// Row-major.
    image_ids: Vec<Option<u32>>,
    /// Of what the net is shown where it draws in one pass.
    seed: u64,
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
pub struct MaskedState<P> {
    prompts: Vec<P>,
    rows: Vec<Row>,
    /// How many passes come after the next one, if it is one that is counted.
    left: Option<usize>,
}

impl<P: Debug + Send> DecodeState for MaskedState<P> {
    fn select_rows(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
    }
}

/// A picture to run: a row with its newest ids, and what is predicted.
struct Pass {
    row: Row,
    targets: Vec<u32>,
}

/// Logits of passes whose rows' prompts are among these.
fn run<M: MaskedNet>(net: &M, passes: &[(&MaskedState<M::Prompt>, Pass)]) -> Result<Tensor<3>> {
    let masked: Vec<Masked<'_, M::Prompt>> = passes
        .iter()
        .map(|(state, pass)| Masked {
            prompt: &state.prompts[pass.row.prompt],
            image_ids: &pass.row.image_ids,
            targets: &pass.targets,
            left: state.left,
            seed: pass.row.seed,
        })
        .collect();
    logits(net, &masked)
}

/// The logits of all ids of an image, row-major, each from the ids of the passes before its own: `[positions, codes]`.
fn logits_in<M: MaskedNet>(
    net: &M,
    prompt: &M::Prompt,
    image_ids: &[u32],
    order: &[u32],
) -> Result<Tensor<2>> {
    let format = net.format();
    let (positions, codes) = (format.sizes.positions, format.sizes.codebook_size);
    if image_ids.len() != positions || order.len() != positions {
        return Err(Error::invalid(
            "image ids",
            format!("expected {positions} ids, got {}", image_ids.len()),
        ));
    }
    let passes = match format.masked_at_start {
        Some(_) => 1,
        None => LIKELIHOOD_PASSES,
    };
    let mut known: Vec<Option<u32>> = vec![None; positions];
    let mut found = Vec::new();
    let mut first = 0;
    for count in pass_sizes(positions, passes) {
        let targets = &order[first..first + count];
        first += count;
        let of_pass = logits(net, &[Masked::new(prompt, &known, targets)])?;
        found.push(of_pass.reshape([count, codes]));
        for &position in targets {
            known[position as usize] = Some(image_ids[position as usize]);
        }
    }
    Ok(Tensor::cat(found, 0))
}

impl<M: MaskedNet> AutoregressiveModel for M {
    type Prompt = M::Prompt;
    type State = MaskedState<M::Prompt>;

    fn sizes(&self) -> Sizes {
        self.format().sizes
    }

    fn device(&self) -> Device {
        self.weights_device()
    }

    fn read(&self, text_ids: &[u32]) -> Result<M::Prompt> {
        self.prompt_of(text_ids)
    }

    fn prefill(&self, rows: &[Prompted<'_, M::Prompt>]) -> Result<MaskedState<M::Prompt>> {
        let positions = self.format().sizes.positions;
        let prompts = rows.iter().map(|group| group.prompt.clone()).collect();
        let of = |(prompt, group): (usize, &Prompted<'_, M::Prompt>)| {
            let row = Row {
                prompt,
                image_ids: vec![None; positions],
                seed: 0,
            };
            std::iter::repeat_n(row, group.rows)
        };
        Ok(MaskedState {
            prompts,
            rows: rows.iter().enumerate().flat_map(of).collect(),
            left: None,
        })
    }

    fn seed(&self, seeds: &[u64], state: &mut MaskedState<M::Prompt>) {
        for (row, &seed) in state.rows.iter_mut().zip(seeds) {
            row.seed = seed;
        }
    }

    fn step(
        &self,
        groups: &mut [Rows<'_, MaskedState<M::Prompt>>],
        n_logits: usize,
    ) -> Result<Tensor<3>> {
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
        let passes: Vec<(&MaskedState<M::Prompt>, Pass)> = passes
            .into_iter()
            .flat_map(|(state, passes)| passes.into_iter().map(move |pass| (state, pass)))
            .collect();
        let logits = run(self, &passes)?;
        let codes = self.format().sizes.codebook_size;
        Ok(logits.reshape([passes.len() / n_logits.max(1), n_logits, codes]))
    }

    fn parallel_passes(&self) -> Option<&dyn ParallelPasses<MaskedState<M::Prompt>>> {
        Some(self)
    }

    /// See the module's documentation.
    fn token_nll(
        &self,
        prompts: &[Prompted<'_, M::Prompt>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        let positions = self.format().sizes.positions;
        // The same order for all: likelihoods are compared.
        let order = shuffled(positions, &mut RandomStream::Order.of(0));
        let mut places = vec![0i32; positions];
        for (place, &position) in order.iter().enumerate() {
            places[position as usize] = place as i32;
        }
        let of_rows = prompts
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt, group.rows));
        let device = self.weights_device();
        let mut nll = Vec::with_capacity(images.len());
        for (prompt, image_ids) in of_rows.zip(images) {
            let logits = logits_in(self, prompt, image_ids, &order)?;
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

    /// Each id given those of the passes before its own, see [`LIKELIHOOD_PASSES`].
    fn image_logits_in(
        &self,
        prompt: &M::Prompt,
        image_ids: &[u32],
        order: &[u32],
    ) -> Result<Tensor<2>> {
        logits_in(self, prompt, image_ids, order)
    }
}

impl<M: MaskedNet> ParallelPasses<MaskedState<M::Prompt>> for M {
    fn append(&self, inputs: &[Vec<Input>], state: &mut MaskedState<M::Prompt>) -> Result<()> {
        for (row, inputs) in state.rows.iter_mut().zip(inputs) {
            inputs.iter().for_each(|input| row.put(input));
        }
        Ok(())
    }

    fn query(
        &self,
        inputs: &[Vec<Input>],
        state: &mut MaskedState<M::Prompt>,
    ) -> Result<Tensor<3>> {
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
        run(self, &passes)
    }

    fn announce(&self, left: usize, state: &mut MaskedState<M::Prompt>) {
        state.left = Some(left);
    }

    /// That of the config for whole pictures; linear where some ids are known, as `AmusedInpaintPipeline` sets it.
    fn mask_schedule(&self, known: usize) -> MaskSchedule {
        match known {
            0 => self.format().schedule,
            _ => MaskSchedule::Linear,
        }
    }
}
