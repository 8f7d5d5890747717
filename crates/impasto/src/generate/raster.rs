//! Filling canvases with models that tell pictures in raster order only, as published ones do: all ids in that
//! order, those that are known in their places. Each id is asked once for every picture of a batch.
//!
//! Such a model does not see the known ids behind a hole while it draws the hole. So several tries at one canvas go
//! on side by side, and where known ids follow what was drawn, those tries under which they are unlikely give way
//! to copies of the others: a particle filter (Gordon, Salmond and Smith 1993) whose observations are the known ids,
//! resampled where fewer than half of the tries count (Kong, Liu and Wong 1994).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DrawnIds, Filling};
use crate::canvas::{Canvas, Caption};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Gets the ids of a picture known and to know, with all pictures' ids so far; may stop the work.
pub type Progress<'a> = dyn FnMut(usize, usize, &[Vec<u32>]) -> ControlFlow<()> + 'a;

/// A batch of pictures under way in a model that has read their caption.
pub(super) trait Teller {
    /// Tells each picture's next ids, of equal number, and asks for those behind the last `asked` of them. Before
    /// any is told, the caption counts as one more.
    ///
    /// # Shapes
    /// - returns: logits, `[batch, asked, vocabulary]`; the vocabulary begins with the codes
    fn tell(&mut self, newest: Vec<Vec<u32>>, asked: usize) -> Result<Tensor<3>>;

    /// Goes on with these rows of the batch.
    fn select_rows(&mut self, rows: &[usize]);
}

/// Canvases that go on from `beginning`, one for each seed.
pub(super) fn begun(beginning: &[u32], positions: usize, seeds: &[u64]) -> Result<Vec<Filling>> {
    if beginning.len() >= positions {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected fewer than {positions} ids, got {}",
                beginning.len()
            ),
        ));
    }
    // The teller knows the caption.
    let mut canvas = Canvas::blank(positions, Caption::Asked);
    for (known, &id) in canvas.image_ids.iter_mut().zip(beginning) {
        *known = Some(id);
    }
    let of = |&seed| Filling {
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
    /// How many fillings in a row are tries at the same canvas, which look ahead together.
    pub tries: usize,
}

/// Fills canvases. `begin` makes a teller for so many pictures, and behind them for the same ones without the
/// caption where guidance asks for it.
pub(super) fn fill<T: Teller>(
    sizes: Sizes,
    fillings: &[Filling],
    options: &SamplingOptions,
    mut begin: impl FnMut(usize) -> Result<T>,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    options.validate()?;
    let Sizes {
        positions,
        codes,
        tries,
    } = sizes;
    let same = |tries: &[Filling]| {
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
            format!("expected {tries} fillings of each canvas, one behind the other"),
        ));
    }
    // What is known before anything is asked is told in one pass; rows that agree in its length go together.
    let mut groups = BTreeMap::<usize, Vec<usize>>::new();
    for (row, Filling { canvas, .. }) in fillings.iter().enumerate() {
        canvas.check_picture(positions, codes)?;
        let known = canvas.image_ids.iter().take_while(|id| id.is_some());
        groups.entry(known.count()).or_default().push(row);
    }
    let mut drawn = vec![None; fillings.len()];
    let mut finished = 0;
    for (known, rows) in groups {
        let group: Vec<&Filling> = rows.iter().map(|&row| &fillings[row]).collect();
        let mut batch = Batch::new(&group, options, sizes);
        if known < positions {
            let mut teller = begin(rows.len())?;
            batch.go_on(&mut teller, &mut |done, _, ids| {
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

/// Known ids that are told and weighed in one pass: their logits are all in memory.
const WEIGHED: usize = 16;

/// Canvases with equally many ids in front of the first asked one.
struct Batch<'a> {
    canvases: Vec<&'a Canvas>,
    samplers: Vec<Sampler>,
    guidance: Option<f64>,
    sizes: Sizes,
    /// What is told or drawn so far, of equal length.
    image_ids: Vec<Vec<u32>>,
    log_likelihoods: Vec<f64>,
    /// ln p of the known ids told since the tries were last chosen among.
    weights: Vec<f64>,
    /// One for each canvas's tries.
    choosers: Vec<ChaCha8Rng>,
}

impl<'a> Batch<'a> {
    fn new(fillings: &[&'a Filling], options: &SamplingOptions, sizes: Sizes) -> Self {
        let chooser = |tries: &[&Filling]| {
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

    fn go_on(&mut self, teller: &mut impl Teller, progress: &mut Progress<'_>) -> Result<()> {
        let (mut begun, mut told) = (false, 0);
        while let Some(asked) = self.next_asked() {
            // What is known in front counts for all tries alike.
            let weighs = begun && self.sizes.tries > 1;
            while weighs && told + WEIGHED < asked {
                self.weigh(teller, told..told + WEIGHED)?;
                told += WEIGHED;
            }
            let count = if weighs { asked - told } else { 1 };
            let newest = self.newest(told..asked);
            let mut logits = Logits::of(teller.tell(newest, count)?)?;
            for place in 0..count - 1 {
                self.weigh_all(&logits, place, told + 1 + place)?;
            }
            (begun, told) = (true, asked);
            self.choose(teller, &mut logits, asked);
            self.sample(asked, &logits, count - 1)?;
            let done = asked + 1;
            if progress(done, self.sizes.positions, &self.image_ids).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Writes down what all rows know, up to the next id that one of them asks for.
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

    /// What is to be told of each row, and once more of each without the caption.
    fn newest(&self, places: std::ops::Range<usize>) -> Vec<Vec<u32>> {
        let of = |ids: &Vec<u32>| ids[places.clone()].to_vec();
        let mut newest: Vec<Vec<u32>> = self.image_ids.iter().map(of).collect();
        if self.guidance.is_some() {
            newest.extend(newest.clone());
        }
        newest
    }

    /// Tells ids behind which known ones stand: how likely those are counts for the tries.
    fn weigh(&mut self, teller: &mut impl Teller, places: std::ops::Range<usize>) -> Result<()> {
        let count = places.len();
        let logits = Logits::of(teller.tell(self.newest(places.clone()), count)?)?;
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

    /// Before an id is drawn, the tries under which the known ids so far are unlikely give way to copies of others.
    fn choose(&mut self, teller: &mut impl Teller, logits: &mut Logits, asked: usize) {
        let tries = self.sizes.tries;
        let mut rows: Vec<usize> = (0..self.canvases.len()).collect();
        for (number, random) in self.choosers.iter_mut().enumerate() {
            let all = number * tries..(number + 1) * tries;
            // Only where this canvas asks: what others in the batch ask for must not matter.
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
        teller.select_rows(&rows);
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

    fn drawn(self) -> impl Iterator<Item = DrawnIds> {
        let drawn = self.image_ids.into_iter().zip(self.log_likelihoods);
        drawn.map(|(image_ids, log_likelihood)| DrawnIds {
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

    /// Even places are anything; an odd one is what is in front of it in nine of ten cases.
    struct Pairs {
        told: Vec<Vec<u32>>,
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

    impl Teller for Pairs {
        fn tell(&mut self, newest: Vec<Vec<u32>>, asked: usize) -> Result<Tensor<3>> {
            if self.told.is_empty() {
                self.told = vec![Vec::new(); newest.len()];
            }
            let mut logits = Vec::new();
            for (told, newest) in self.told.iter_mut().zip(&newest) {
                told.extend(newest);
                for position in told.len() + 1 - asked..told.len() + 1 {
                    let before = position.checked_sub(1).map(|last| told[last]);
                    let of = |id| probability(position, before, id).ln();
                    logits.extend((0..CODES).map(of));
                }
            }
            let data = TensorData::new(logits, [newest.len(), asked, CODES]);
            Ok(Tensor::from_data(data, &Device::flex()))
        }

        fn select_rows(&mut self, rows: &[usize]) {
            self.told = rows.iter().map(|&row| self.told[row].clone()).collect();
        }
    }

    fn filled(canvases: &[(Canvas, u64)], tries: usize, guided: bool) -> Vec<DrawnIds> {
        let mut fillings = Vec::new();
        for (canvas, seed) in canvases {
            for attempt in 0..tries as u64 {
                fillings.push(Filling {
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
        let begin = |_| Ok(Pairs { told: Vec::new() });
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
    fn holes_go_with_the_known_ids_behind_them() {
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
                let right = |drawn: &&DrawnIds| drawn.image_ids[position] == id;
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
        let filling = |canvas| Filling { canvas, seed: 1 };
        let other = Canvas::blank(canvas().image_ids.len(), Caption::Asked);
        let fillings = [filling(canvas()), filling(other)];
        let sizes = |tries| Sizes {
            positions: canvas().image_ids.len(),
            codes: CODES,
            tries,
        };
        let options = SamplingOptions::greedy();
        let go = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        let begin = |_| Ok(Pairs { told: Vec::new() });
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
