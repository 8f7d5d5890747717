//! Fills canvases with models that support raster order only, as published ones do: known ids are forced at their
//! positions (teacher forcing). Each id is predicted once for every image of a batch.
//!
//! Such a model does not see the known ids after a hole while it fills the hole. So several tries at one canvas run
//! in parallel, and where known ids follow sampled ones, the tries under which they are unlikely are replaced by
//! copies of the others: a particle filter (Gordon, Salmond and Smith 1993) whose observations are the known ids,
//! resampled where fewer than half of the tries count (Kong, Liu and Wong 1994).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{InfillSpec, SampledTokens};
use crate::canvas::{Canvas, Caption};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Receives the number of ids done and in total for one image, and all images' ids so far; may stop the work.
pub type Progress<'a> = dyn FnMut(usize, usize, &[Vec<u32>]) -> ControlFlow<()> + 'a;

/// A batch of images being decoded by a model that is conditioned on their caption.
pub(super) trait StepModel {
    /// Runs each image's next ids, of equal number, and returns the logits after the last `n_logits` of them. In the
    /// first call the caption counts as one more id.
    ///
    /// # Shapes
    /// - returns: logits, `[batch, n_logits, vocabulary]`; the vocabulary starts with the codes
    fn step(&mut self, new_ids: Vec<Vec<u32>>, n_logits: usize) -> Result<Tensor<3>>;

    /// Keeps these rows of the batch, in this order.
    fn select_rows(&mut self, rows: &[usize]);
}

/// Canvases whose first ids are `prefix_ids`, one for each seed.
pub(super) fn with_prefix(
    prefix_ids: &[u32],
    positions: usize,
    seeds: &[u64],
) -> Result<Vec<InfillSpec>> {
    if prefix_ids.len() >= positions {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected fewer than {positions} ids, got {}",
                prefix_ids.len()
            ),
        ));
    }
    // The model has the caption already.
    let mut canvas = Canvas::blank(positions, Caption::Asked);
    for (known, &id) in canvas.image_ids.iter_mut().zip(prefix_ids) {
        *known = Some(id);
    }
    let of = |&seed| InfillSpec {
        canvas: canvas.clone(),
        seed,
    };
    Ok(seeds.iter().map(of).collect())
}

/// What a model's canvases have in common.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Places of a picture.
    pub positions: usize,
    /// Ids of the image tokenizer.
    pub codes: usize,
    /// How many consecutive canvases are tries at the same one, which are resampled together.
    pub tries: usize,
}

/// Fills canvases. `begin` starts a [`StepModel`] for this many images, followed by the same number without the
/// caption where guidance needs them.
pub(super) fn fill<T: StepModel>(
    sizes: Sizes,
    fillings: &[InfillSpec],
    options: &SamplingOptions,
    mut begin: impl FnMut(usize) -> Result<T>,
    progress: &mut Progress<'_>,
) -> Result<Vec<SampledTokens>> {
    options.validate()?;
    let Sizes {
        positions,
        codes,
        tries,
    } = sizes;
    let same = |tries: &[InfillSpec]| {
        tries
            .iter()
            .all(|filling| filling.canvas == tries[0].canvas)
    };
    if tries == 0
        || !fillings
            .chunks(tries)
            .all(|chunk| chunk.len() == tries && same(chunk))
    {
        return Err(Error::invalid(
            "tries",
            format!("expected {tries} consecutive fillings of each canvas"),
        ));
    }
    // The known prefix of a canvas is run in one pass; rows with prefixes of equal length share a batch.
    let mut groups = BTreeMap::<usize, Vec<usize>>::new();
    for (row, InfillSpec { canvas, .. }) in fillings.iter().enumerate() {
        canvas.check_picture(positions, codes)?;
        let known = canvas.image_ids.iter().take_while(|id| id.is_some());
        groups.entry(known.count()).or_default().push(row);
    }
    let mut drawn = vec![None; fillings.len()];
    let mut finished = 0;
    for (known, rows) in groups {
        let group: Vec<&InfillSpec> = rows.iter().map(|&row| &fillings[row]).collect();
        let mut batch = Batch::new(&group, options, sizes);
        if known < positions {
            let mut model = begin(rows.len())?;
            batch.run(&mut model, &mut |done, _, ids| {
                let share = finished * positions + done * rows.len();
                progress(share / fillings.len(), positions, ids)
            })?;
        }
        finished += rows.len();
        for (&row, ids) in rows.iter().zip(batch.drawn()) {
            drawn[row] = Some(ids);
        }
    }
    Ok(drawn.into_iter().flatten().collect())
}

/// Known ids that are run and weighed in one pass: their logits are all in memory.
const WEIGHED: usize = 16;

/// Canvases with equally many ids before the first masked one.
struct Batch<'a> {
    canvases: Vec<&'a Canvas>,
    samplers: Vec<Sampler>,
    guidance: Option<f64>,
    sizes: Sizes,
    /// The ids so far, known or sampled, of equal length.
    image_ids: Vec<Vec<u32>>,
    log_likelihoods: Vec<f64>,
    /// ln p of the known ids since the last resampling.
    weights: Vec<f64>,
    /// One for each canvas's tries.
    choosers: Vec<ChaCha8Rng>,
}

impl<'a> Batch<'a> {
    fn new(fillings: &[&'a InfillSpec], options: &SamplingOptions, sizes: Sizes) -> Self {
        let chooser = |tries: &[&InfillSpec]| {
            let mut random = ChaCha8Rng::seed_from_u64(tries[0].seed);
            // Ids have streams from 0 on, what else is drawn the last ones.
            random.set_stream(u64::MAX - 3);
            random
        };
        let guidance = options.needs_unconditional();
        Batch {
            canvases: fillings.iter().map(|filling| &filling.canvas).collect(),
            samplers: fillings
                .iter()
                .map(|filling| Sampler::new(options, filling.seed))
                .collect(),
            guidance: guidance.then(|| f64::from(options.guidance_scale)),
            sizes,
            image_ids: fillings
                .iter()
                .map(|filling| {
                    let ids = filling.canvas.image_ids.iter();
                    ids.map_while(|&id| id).collect()
                })
                .collect(),
            log_likelihoods: vec![0.0; fillings.len()],
            weights: vec![0.0; fillings.len()],
            choosers: fillings.chunks(sizes.tries).map(chooser).collect(),
        }
    }

    fn run(&mut self, model: &mut impl StepModel, progress: &mut Progress<'_>) -> Result<()> {
        let (mut begun, mut fed) = (false, 0);
        while let Some(asked) = self.next_asked() {
            // The known prefix has the same weight for all tries.
            let weighs = begun && self.sizes.tries > 1;
            while weighs && fed + WEIGHED < asked {
                self.weigh(model, fed..fed + WEIGHED)?;
                fed += WEIGHED;
            }
            let count = if weighs { asked - fed } else { 1 };
            let new_ids = self.new_ids(fed..asked);
            let mut logits = Logits::of(model.step(new_ids, count)?)?;
            for place in 0..count - 1 {
                self.weigh_all(&logits, place, fed + 1 + place)?;
            }
            (begun, fed) = (true, asked);
            self.choose(model, &mut logits, asked);
            self.sample(asked, &logits, count - 1)?;
            let done = asked + 1;
            if progress(done, self.sizes.positions, &self.image_ids).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Appends the ids that all rows know, up to the next position that is masked in one of them.
    fn next_asked(&mut self) -> Option<usize> {
        loop {
            let next = self.image_ids.first().map_or(0, Vec::len);
            if next == self.sizes.positions {
                return None;
            }
            let known: Option<Vec<u32>> = self
                .canvases
                .iter()
                .map(|canvas| canvas.image_ids[next])
                .collect();
            let Some(known) = known else {
                return Some(next);
            };
            for (ids, id) in self.image_ids.iter_mut().zip(known) {
                ids.push(id);
            }
        }
    }

    /// The next input ids of each row, and once more of each without the caption.
    fn new_ids(&self, places: std::ops::Range<usize>) -> Vec<Vec<u32>> {
        let of = |ids: &Vec<u32>| ids[places.clone()].to_vec();
        let mut newest: Vec<Vec<u32>> = self.image_ids.iter().map(of).collect();
        if self.guidance.is_some() {
            newest.extend(newest.clone());
        }
        newest
    }

    /// Runs ids that are followed by known ones, whose likelihood is added to the weights of the tries.
    fn weigh(&mut self, model: &mut impl StepModel, places: std::ops::Range<usize>) -> Result<()> {
        let count = places.len();
        let logits = Logits::of(model.step(self.new_ids(places.clone()), count)?)?;
        for place in 0..count {
            self.weigh_all(&logits, place, places.start + 1 + place)?;
        }
        Ok(())
    }

    fn weigh_all(&mut self, logits: &Logits, place: usize, position: usize) -> Result<()> {
        for row in 0..self.canvases.len() {
            self.weigh_row(row, logits, place, position)?;
        }
        Ok(())
    }

    /// Adds how likely a row's known id is to its weight, with guidance as ids are drawn with.
    fn weigh_row(
        &mut self,
        row: usize,
        logits: &Logits,
        place: usize,
        position: usize,
    ) -> Result<()> {
        let id = self.image_ids[row][position] as usize;
        let mut nats = log_prob(logits.at(row, place), id);
        if let Some(scale) = self.guidance {
            let alone = log_prob(logits.at(self.canvases.len() + row, place), id);
            nats = alone + (nats - alone) * scale;
        }
        if !nats.is_finite() {
            return Err(Error::NonFinite {
                what: "logits",
                detail: format!("ln p of id {id} at position {position} is {nats}"),
            });
        }
        self.weights[row] += nats;
        Ok(())
    }

    /// Before an id is sampled, replaces the tries under which the known ids so far are unlikely by copies of others.
    fn choose(&mut self, model: &mut impl StepModel, logits: &mut Logits, asked: usize) {
        let tries = self.sizes.tries;
        let mut rows: Vec<usize> = (0..self.canvases.len()).collect();
        for (number, random) in self.choosers.iter_mut().enumerate() {
            let all = number * tries..(number + 1) * tries;
            // Only where this canvas is masked: the masks of others in the batch must not matter.
            if self.canvases[all.start].image_ids[asked].is_some() {
                continue;
            }
            let shares = shares(&self.weights[all.clone()]);
            let counting = 1.0 / shares.iter().map(|share| share * share).sum::<f64>();
            if counting < tries as f64 / 2.0 {
                let chosen = systematic(&shares, random.random());
                for (row, source) in rows[all.clone()].iter_mut().zip(chosen) {
                    *row = all.start + source;
                }
                self.weights[all].fill(0.0);
            }
        }
        if rows.iter().enumerate().all(|(row, &source)| row == source) {
            return;
        }
        self.image_ids = rows
            .iter()
            .map(|&row| self.image_ids[row].clone())
            .collect();
        self.log_likelihoods = rows.iter().map(|&row| self.log_likelihoods[row]).collect();
        if self.guidance.is_some() {
            let alone: Vec<usize> = rows.iter().map(|row| rows.len() + row).collect();
            rows.extend(alone);
        }
        model.select_rows(&rows);
        logits.rows = rows;
    }

    /// The id at `position` of every row: the known one, or one drawn from the row's logits.
    fn sample(&mut self, position: usize, logits: &Logits, place: usize) -> Result<()> {
        let (rows, codes) = (self.canvases.len(), self.sizes.codes);
        for row in 0..rows {
            let canvas = self.canvases[row];
            if let Some(id) = canvas.image_ids[position] {
                self.image_ids[row].push(id);
                if self.sizes.tries > 1 {
                    self.weigh_row(row, logits, place, position)?;
                }
                continue;
            }
            let of = |row: usize| &logits.at(row, place)[..codes];
            let unconditional = self.guidance.map(|_| of(rows + row));
            let leaning = canvas.leanings.get(&(position as u32)).map(Vec::as_slice);
            let drawn = self.samplers[row].sample_leaning(
                of(row),
                unconditional,
                leaning,
                position as u64,
            )?;
            self.image_ids[row].push(drawn.id);
            // Of the whole vocabulary, as in training.
            self.log_likelihoods[row] += log_prob(logits.at(row, place), drawn.id as usize);
        }
        Ok(())
    }

    fn drawn(self) -> impl Iterator<Item = SampledTokens> {
        let drawn = self.image_ids.into_iter().zip(self.log_likelihoods);
        drawn.map(|(image_ids, log_likelihood)| SampledTokens {
            image_ids,
            log_likelihood,
        })
    }
}

/// Logits on the host.
struct Logits {
    values: Vec<f32>,
    /// Where each row of the batch has its own.
    rows: Vec<usize>,
    places: usize,
    vocabulary: usize,
}

impl Logits {
    fn of(logits: Tensor<3>) -> Result<Self> {
        let [rows, places, vocabulary] = logits.dims();
        let values = logits
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        Ok(Logits {
            values,
            rows: (0..rows).collect(),
            places,
            vocabulary,
        })
    }

    fn at(&self, row: usize, place: usize) -> &[f32] {
        let start = (self.rows[row] * self.places + place) * self.vocabulary;
        &self.values[start..start + self.vocabulary]
    }
}

/// Weights as shares of one, from their logarithms.
fn shares(logarithms: &[f64]) -> Vec<f64> {
    let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = logarithms
        .iter()
        .map(|logarithm| (logarithm - largest).exp());
    let weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// As many indices as there are shares, each about as often as its share says: systematic resampling (Carpenter,
/// Clifford and Fearnhead 1999), from one number below 1.
fn systematic(shares: &[f64], uniform: f64) -> Vec<usize> {
    let count = shares.len();
    let (mut index, mut reached) = (0, shares[0]);
    let ticks = (0..count).map(|tick| (tick as f64 + uniform) / count as f64);
    ticks
        .map(|tick| {
            while tick >= reached && index + 1 < count {
                index += 1;
                reached += shares[index];
            }
            index
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use burn::tensor::{Device, TensorData};

    const CODES: usize = 6;

    /// Even places are anything; an odd one repeats the id before it in nine of ten cases.
    struct Pairs {
        ids: Vec<Vec<u32>>,
    }

    fn probability(position: usize, before: Option<u32>, id: usize) -> f32 {
        match before {
            Some(before) if position % 2 == 1 => match before as usize == id {
                true => 0.9,
                false => 0.1 / (CODES - 1) as f32,
            },
            _ => 1.0 / CODES as f32,
        }
    }

    impl StepModel for Pairs {
        fn step(&mut self, new_ids: Vec<Vec<u32>>, n_logits: usize) -> Result<Tensor<3>> {
            if self.ids.is_empty() {
                self.ids = vec![Vec::new(); new_ids.len()];
            }
            let mut logits = Vec::new();
            for (row, new) in self.ids.iter_mut().zip(&new_ids) {
                row.extend(new);
                for position in row.len() + 1 - n_logits..row.len() + 1 {
                    let before = position.checked_sub(1).map(|last| row[last]);
                    let of = |id| probability(position, before, id).ln();
                    logits.extend((0..CODES).map(of));
                }
            }
            let data = TensorData::new(logits, [new_ids.len(), n_logits, CODES]);
            Ok(Tensor::from_data(data, &Device::flex()))
        }

        fn select_rows(&mut self, rows: &[usize]) {
            self.ids = rows.iter().map(|&row| self.ids[row].clone()).collect();
        }
    }

    fn filled(canvases: &[(Canvas, u64)], tries: usize, guided: bool) -> Vec<SampledTokens> {
        let mut fillings = Vec::new();
        for (canvas, seed) in canvases {
            for attempt in 0..tries as u64 {
                fillings.push(InfillSpec {
                    canvas: canvas.clone(),
                    seed: seed * 1000 + attempt,
                });
            }
        }
        let options = SamplingOptions {
            guidance_scale: if guided { 2.0 } else { 1.0 },
            temperature: 1.0,
            top_k: None,
            top_p: None,
        };
        let sizes = Sizes {
            positions: canvases[0].0.image_ids.len(),
            codes: CODES,
            tries,
        };
        let begin = |_| Ok(Pairs { ids: Vec::new() });
        let go = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        fill(sizes, &fillings, &options, begin, go).unwrap()
    }

    /// Three pairs whose second id is known; more known ids than are weighed at a time follow, and one more pair.
    fn canvas() -> Canvas {
        let mut ids = vec![0, 4, 0, 2, 0, 5];
        ids.extend([1; 2 * WEIGHED + 4]);
        ids.extend([0, 3, 1, 1]);
        let last = ids.len() as u32 - 4;
        Canvas::of(&ids, Caption::Asked).asking([0, 2, 4, last])
    }

    /// For each hole 5 % of the canvases have no try with the right id ((5 / 6)^16), and one in ten tries with a wrong
    /// one stays; without looking ahead one in six is right. (Of 100 seeds, with 4 standard errors on each side.)
    #[test]
    fn holes_fit_the_known_ids_after_them() {
        let canvas = canvas();
        let canvases: Vec<(Canvas, u64)> = (0..100).map(|seed| (canvas.clone(), seed)).collect();
        for (tries, guided, range) in [
            (16, false, 0.7..1.0),
            (16, true, 0.7..1.0),
            (1, false, 0.02..0.32),
        ] {
            let drawn = filled(&canvases, tries, guided);
            // The last pair is chosen by the whole picture's likelihood, not here.
            for (position, id) in [(0, 4), (2, 2), (4, 5)] {
                let right = |drawn: &&SampledTokens| drawn.image_ids[position] == id;
                let share = drawn.iter().filter(right).count() as f64 / drawn.len() as f64;
                assert!(range.contains(&share), "{tries} {position}: {share}");
            }
            for drawn in &drawn {
                let known = canvas.image_ids.iter().zip(&drawn.image_ids);
                assert!(
                    known
                        .into_iter()
                        .all(|(known, id)| known.is_none_or(|known| known == *id))
                );
                // Four ids that might be anything.
                let expected = -4.0 * (CODES as f64).ln();
                assert!((drawn.log_likelihood - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_canvas_is_filled_alone_as_among_others() {
        // Each asks for ids that the others know.
        let other = canvas().asking([5, 9, 12]);
        let canvases = [(canvas(), 7), (other, 8), (canvas(), 9)];
        let together = filled(&canvases, 4, true);
        for (number, alone) in canvases.chunks(1).enumerate() {
            let alone = filled(alone, 4, true);
            for (alone, among) in alone.iter().zip(&together[4 * number..]) {
                assert_eq!(alone.image_ids, among.image_ids);
            }
        }
    }

    #[test]
    fn tries_have_one_canvas() {
        let filling = |canvas| InfillSpec { canvas, seed: 1 };
        let other = Canvas::blank(canvas().image_ids.len(), Caption::Asked);
        let fillings = [filling(canvas()), filling(other)];
        let sizes = |tries| Sizes {
            positions: canvas().image_ids.len(),
            codes: CODES,
            tries,
        };
        let options = SamplingOptions::greedy();
        let go = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        let begin = |_| Ok(Pairs { ids: Vec::new() });
        assert!(fill(sizes(1), &fillings, &options, begin, go).is_ok());
        for tries in [0, 2, 3] {
            let filled = fill(sizes(tries), &fillings, &options, begin, go);
            assert!(filled.is_err(), "{tries}");
        }
    }

    #[test]
    fn resampling_keeps_shares() {
        assert_eq!(systematic(&[0.25; 4], 0.5), [0, 1, 2, 3]);
        assert_eq!(systematic(&[0.0, 0.5, 0.0, 0.5], 0.3), [1, 1, 3, 3]);
        assert_eq!(systematic(&[1.0, 0.0], 0.999), [0, 0]);
        assert_eq!(systematic(&[0.0, 1.0], 0.0), [1, 1]);
        let shares = shares(&[-1000.0, -1000.0 + 3f64.ln()]);
        assert!((shares[1] - 0.75).abs() < 1e-12);
    }
}
