//! Drafts of the ids to come, so that one pass over the weights samples several.
//!
//! Speculative Jacobi decoding (arXiv:2410.01699) without its random acceptance: an id is a function of its logits and
//! of its position's random number, so a draft is right where that function gives it again, and the image has the ids
//! and the likelihood that it has without drafts, to the last bit. Where a draft was wrong, what was sampled after it is
//! the draft of the next pass.

/// Ids that are drafted at most.
const MOST: usize = 16;

/// What another input of a row adds to the time of a pass, as a share of that of a pass with one. Measured on int8
/// weights of 28 million and of 1.4 billion parameters, guided, on two cores with AVX-512: 0.10 to 0.14. Passes that are
/// bound by memory alone have less.
const COST: f64 = 0.12;

/// How much the newest draft counts in the share of right ones.
const NEWEST: f64 = 0.2;

/// Drafts for one image.
#[derive(Debug)]
pub(super) struct Drafts {
    /// What was sampled after a wrong draft, by position.
    ids: Vec<Option<u32>>,
    /// Positions of a row of the grid; zero where it is not square.
    side: usize,
    /// The share of right ones among the last drafts.
    right: f64,
    /// The shares of the last ids that were to the left already, and above.
    shares: [f64; 2],
}

impl Drafts {
    pub fn new(positions: usize) -> Self {
        let side = positions.isqrt();
        Drafts {
            ids: vec![None; positions],
            side: if side * side == positions { side } else { 0 },
            right: 0.5,
            shares: [0.5; 2],
        }
    }

    /// How many ids the next pass should sample at once.
    pub fn count(&self, left: usize) -> usize {
        // The expected number of ids, each as likely right as the last ones were, by the time.
        let (mut best, mut most, mut ids, mut all_right) = (1, 0.0, 0.0, 1.0);
        for count in 1..=left.clamp(1, MOST) {
            ids += all_right;
            all_right *= self.right;
            let rate = ids / (1.0 + COST * (count - 1) as f64);
            if rate > most {
                (best, most) = (count, rate);
            }
        }
        best
    }

    /// The draft for a position: what was sampled there after a wrong draft, else the neighbour that was right more often;
    /// `before` are the ids of the image so far and the drafts for the positions before it.
    pub fn guess(&self, position: usize, before: &[Option<u32>]) -> u32 {
        let [left, above] = self.neighbours(position, before);
        let (first, second) = match self.shares[0] >= self.shares[1] {
            true => (left, above),
            false => (above, left),
        };
        self.ids[position].or(first).or(second).unwrap_or_default()
    }

    /// The ids to the left and above.
    fn neighbours(&self, position: usize, before: &[Option<u32>]) -> [Option<u32>; 2] {
        let back = |steps: usize| before[position.checked_sub(steps)?];
        let above = match self.side {
            0 => None,
            side => back(side),
        };
        [back(1), above]
    }

    /// Keeps what was sampled after a wrong draft.
    pub fn keep(&mut self, position: usize, id: u32) {
        self.ids[position] = Some(id);
    }

    /// Learns whether a draft was right from the id that was sampled; `before` are the ids of the image.
    pub fn observe(&mut self, draft: u32, position: usize, id: u32, before: &[Option<u32>]) {
        let learn = |share: &mut f64, is_right: bool| {
            *share += NEWEST * (f64::from(u8::from(is_right)) - *share);
        };
        learn(&mut self.right, draft == id);
        let neighbours = self.neighbours(position, before);
        for (share, neighbour) in self.shares.iter_mut().zip(neighbours) {
            learn(share, neighbour == Some(id));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::Result;
    use crate::canvas::{Canvas, Conditioning};
    use crate::engine::{
        AutoregressiveModel, Batch, DecodeState, FillRequest, Prompted, Rewind, Rows, SampleSpec,
        Sizes, TokenNll, fill_in, request_of,
    };
    use crate::models::dalle::Order;
    use crate::observer::Event;
    use crate::sampling::SamplingOptions;

    /// Passes of a request with drafts, and without; the images and their likelihoods have to be the same to the last
    /// bit.
    fn passes<M: AutoregressiveModel>(
        model: &M,
        request: &FillRequest<M::Prompt>,
    ) -> (usize, usize) {
        let run = |batch: Batch<'_, M>| {
            let mut passes = 0;
            let mut observer = |_: &Event<'_>| {
                passes += 1;
                std::ops::ControlFlow::Continue(())
            };
            let images = fill_in(batch, request, &mut observer).unwrap();
            (images, passes)
        };
        let (drafted, fewer) = run(Batch::new(model));
        let (one_by_one, passes) = run(Batch::new(model).without_drafts());
        assert_eq!(drafted, one_by_one);
        (fewer, passes)
    }

    /// Images of a net by drafts are those without, alone of a caption and around known ids.
    pub(crate) fn drafts_change_nothing<M: AutoregressiveModel>(
        model: &M,
        text_ids: &[u32],
        unconditional: &[u32],
    ) {
        let drafts = SamplingOptions {
            temperature: 0.7,
            top_p: Some(0.9),
            ..SamplingOptions::greedy()
        };
        let guided = SamplingOptions {
            guidance_scale: 3.0,
            ..drafts.clone()
        };
        for (seed, sampling) in [drafts, guided, SamplingOptions::greedy()]
            .iter()
            .enumerate()
        {
            let spec = SampleSpec {
                text_ids: text_ids.to_vec(),
                seed: seed as u64,
            };
            let of_no_caption = |_: &[u32]| unconditional.to_vec();
            let mut request =
                request_of(model, &[spec], &of_no_caption, sampling, Order::Raster).unwrap();
            let (fewer, passes_without) = passes(model, &request);
            assert!(fewer <= passes_without);
            let Sizes {
                positions,
                codebook_size,
                ..
            } = model.sizes();
            let whole: Vec<u32> = (0..positions).map(|i| (i % codebook_size) as u32).collect();
            let known = (0..positions as u32).filter(|at| at % 5 > 1);
            request.rows[0].canvas = Canvas::of(&whole).masked(known).into();
            request.options.conditioning = match model.parallel_passes() {
                Some(_) => Conditioning::Prefix,
                None => Conditioning::TeacherForced,
            };
            passes(model, &request);
        }
    }

    /// A net without weights that repeats the id before in 19 of 20 cases.
    #[derive(Debug)]
    struct Repeats;

    #[derive(Debug)]
    struct Seen(Vec<Vec<u32>>);

    const REPEATED: usize = 8;

    impl DecodeState for Seen {
        fn select_rows(&mut self, rows: &[usize]) {
            self.0 = rows.iter().map(|&row| self.0[row].clone()).collect();
        }
    }

    impl Rewind for Seen {
        fn rewind(&mut self, inputs: usize) {
            for row in &mut self.0 {
                row.truncate(row.len() - inputs);
            }
        }
    }

    impl AutoregressiveModel for Repeats {
        type Prompt = ();
        type State = Seen;

        fn sizes(&self) -> Sizes {
            Sizes {
                positions: 144,
                codebook_size: REPEATED,
                text_length: 1,
            }
        }

        fn device(&self) -> Device {
            Device::flex()
        }

        fn read(&self, _text_ids: &[u32]) -> Result<()> {
            Ok(())
        }

        fn prefill(&self, rows: &[Prompted<'_, ()>]) -> Result<Seen> {
            Ok(Seen(vec![
                Vec::new();
                rows.iter().map(|group| group.rows).sum()
            ]))
        }

        fn step(&self, groups: &mut [Rows<'_, Seen>], n_logits: usize) -> Result<Tensor<3>> {
            let mut logits = Vec::new();
            let mut rows = 0;
            for group in groups {
                for (seen, inputs) in group.state.0.iter_mut().zip(group.inputs) {
                    for (number, input) in inputs.iter().enumerate() {
                        let before = input.token.map(|(_, id)| id);
                        seen.extend(before);
                        if number + n_logits < inputs.len() {
                            continue;
                        }
                        logits.extend((0..REPEATED as u32).map(|id| match before {
                            Some(before) if before == id => 0.95f32.ln(),
                            _ => (0.05 / (REPEATED - 1) as f32).ln(),
                        }));
                    }
                    rows += 1;
                }
            }
            let data = TensorData::new(logits, [rows, n_logits, REPEATED]);
            Ok(Tensor::from_data(data, &Device::flex()))
        }

        fn rewindable<'s>(&self, state: &'s mut Seen) -> Option<&'s mut dyn Rewind> {
            Some(state)
        }

        fn token_nll(
            &self,
            _prompts: &[Prompted<'_, ()>],
            _images: &[Vec<u32>],
            _with_text: bool,
        ) -> Result<TokenNll> {
            unreachable!("no test asks for it")
        }

        fn image_logits_in(
            &self,
            _prompt: &(),
            _image_ids: &[u32],
            _order: &[u32],
        ) -> Result<Tensor<2>> {
            unreachable!("no test asks for it")
        }
    }

    /// What repeats itself takes half of the passes or less.
    #[test]
    fn what_can_be_guessed_takes_fewer_passes() {
        let mut sums = (0, 0);
        for seed in 0..10 {
            let sampling = SamplingOptions {
                temperature: 1.0,
                ..SamplingOptions::greedy()
            };
            let spec = SampleSpec {
                text_ids: Vec::new(),
                seed,
            };
            let none = |_: &[u32]| Vec::new();
            let request = request_of(&Repeats, &[spec], &none, &sampling, Order::Raster).unwrap();
            let (fewer, passes) = passes(&Repeats, &request);
            sums = (sums.0 + fewer, sums.1 + passes);
        }
        assert_eq!(sums.1, 10 * 144);
        assert!(2 * sums.0 < sums.1, "{sums:?}");
    }

    #[test]
    fn as_many_are_drafted_as_are_worth_their_time() {
        let mut drafts = Drafts::new(256);
        // 1, 1.5 / 1.12 = 1.34, 1.75 / 1.24 = 1.41, 1.875 / 1.36 = 1.38.
        assert_eq!(drafts.count(100), 3);
        assert_eq!(drafts.count(2), 2);
        let before = [None; 256];
        (0..100).for_each(|_| drafts.observe(1, 0, 2, &before));
        assert_eq!(drafts.count(100), 1);
        (0..100).for_each(|_| drafts.observe(1, 0, 1, &before));
        assert_eq!((drafts.count(100), drafts.count(1)), (MOST, 1));
    }

    #[test]
    fn what_was_sampled_is_drafted_before_what_stands_beside_it() {
        let mut drafts = Drafts::new(9);
        let mut before = vec![None; 9];
        assert_eq!(drafts.guess(0, &before), 0);
        before[..4].copy_from_slice(&[Some(5), Some(6), Some(7), Some(8)]);
        assert_eq!(drafts.guess(1, &before[..1]), 5);
        assert_eq!(drafts.guess(4, &before), 8);
        // It was the one above.
        drafts.observe(8, 4, 6, &before);
        assert_eq!(drafts.guess(4, &before), 6);
        drafts.keep(4, 3);
        assert_eq!(drafts.guess(4, &before), 3);
        // Not a square: only what is to the left.
        assert_eq!(Drafts::new(8).guess(4, &before), 8);
    }
}
