//! Drawing: a canvas in, image ids out, one picture a seed.
//!
//! A picture's random numbers come from its own seed and step, and our products sum in an order that does
//! not depend on the batch, so a picture is the same alone and among others.

mod canvas_model;
pub mod dalle_mini;
pub mod dalle_pytorch;
mod raster;

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::canvas::{Canvas, Caption, Conditioning};
use crate::models::Dalle;
use crate::models::dalle::{DalleBatch, Order, Part, image_part, raster};
use crate::nn::KvCache;
use crate::nn::block::AttentionMask;
use crate::sampling::{Sampler, SamplingOptions};
use crate::{Error, Result};

pub use canvas_model::{Condition, ConditionedModel, FillOptions, InfillModel};
pub use raster::Progress;

/// One picture to draw from words alone.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// The padded caption.
    pub text_ids: Vec<u32>,
    /// Its seed.
    pub seed: u64,
}

/// A canvas to be filled.
#[derive(Clone, Debug)]
pub struct InfillSpec {
    /// What is known; its caption among that.
    pub canvas: Canvas,
    /// The seed of the masked ids.
    pub seed: u64,
}

/// One picture drawn.
#[derive(Clone, Debug)]
pub struct SampledTokens {
    /// Row-major.
    pub image_ids: Vec<u32>,
    /// log p of the masked ids, given the caption and the ids before them, without guidance,
    /// leanings, temperature and cuts, in nats.
    pub log_likelihood: f64,
}

/// Draws all of `drawings` in one batch. `null_caption` stands in for the captions in the
/// unconditional rows of guidance. `progress` gets the tokens done and to do, and may stop the work.
pub fn draw(
    model: &Dalle,
    drawings: &[SampleSpec],
    null_caption: &[u32],
    options: &SamplingOptions,
    order: Order,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<SampledTokens>> {
    let positions = model.config().image_length();
    let fillings: Vec<InfillSpec> = drawings
        .iter()
        .map(|drawing| InfillSpec {
            canvas: Canvas::blank(positions, Caption::Known(drawing.text_ids.clone())),
            seed: drawing.seed,
        })
        .collect();
    let conditioning = Conditioning::Prefix;
    fill(
        model,
        &fillings,
        null_caption,
        options,
        order,
        conditioning,
        progress,
    )
}

/// Fills the masked ids of the canvases, each as it would be alone; see [`draw`].
pub fn fill(
    model: &Dalle,
    fillings: &[InfillSpec],
    null_caption: &[u32],
    options: &SamplingOptions,
    order: Order,
    conditioning: Conditioning,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<SampledTokens>> {
    options.validate()?;
    for filling in fillings {
        filling.canvas.check(model.config())?;
    }
    // Passes and the prefix differ with the number of known ids; rows of one number go together.
    let mut groups = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (row, filling) in fillings.iter().enumerate() {
        let known = leading_known(filling, order, conditioning);
        groups.entry(known).or_default().push(row);
    }
    let mut drawn = vec![None; fillings.len()];
    let mut finished = 0;
    for rows in groups.values() {
        let group: Vec<&InfillSpec> = rows.iter().map(|&row| &fillings[row]).collect();
        let of_group = fill_group(
            model,
            &group,
            null_caption,
            options,
            order,
            conditioning,
            &mut |done, total| {
                let share = finished * total + done * rows.len();
                progress(share / fillings.len(), total)
            },
        )?;
        finished += rows.len();
        for (&row, ids) in rows.iter().zip(of_group) {
            drawn[row] = Some(ids);
        }
    }
    Ok(drawn.into_iter().flatten().collect())
}

/// How many known ids come before the first masked one.
fn leading_known(filling: &InfillSpec, order: Order, conditioning: Conditioning) -> usize {
    let known = &filling.canvas.image_ids;
    conditioning
        .order(&filling.canvas, order, filling.seed)
        .iter()
        .take_while(|&&position| known[position as usize].is_some())
        .count()
}

/// Fills canvases that have the same number of ids before the first masked one.
fn fill_group(
    model: &Dalle,
    fillings: &[&InfillSpec],
    null_caption: &[u32],
    options: &SamplingOptions,
    order: Order,
    conditioning: Conditioning,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<SampledTokens>> {
    let guided = options.needs_unconditional();
    let rows = fillings.len();
    let batch = if guided { 2 * rows } else { rows };
    let mut text_ids = Vec::new();
    for filling in fillings {
        match &filling.canvas.caption {
            Caption::Known(ids) => text_ids.extend_from_slice(ids),
            Caption::Asked => {
                let reason = "expected a known one: a picture and its caption can't both be masked";
                return Err(Error::invalid("caption", reason));
            }
        }
    }
    if guided {
        text_ids.extend(null_caption.repeat(rows));
    }
    let text = Part::Text {
        ids: text_ids,
        start: 0,
    };
    let orders: Vec<Vec<u32>> = fillings
        .iter()
        .map(|filling| conditioning.order(&filling.canvas, order, filling.seed))
        .collect();
    let mut session = Session {
        model,
        caches: model.caches(),
        rows,
        guided,
        batch,
        samplers: fillings
            .iter()
            .map(|filling| Sampler::new(options, filling.seed))
            .collect(),
        canvases: fillings.iter().map(|filling| &filling.canvas).collect(),
        image_ids: fillings
            .iter()
            .map(|filling| {
                let ids = filling.canvas.image_ids.iter();
                ids.map(|id| id.unwrap_or_default()).collect()
            })
            .collect(),
        log_likelihoods: vec![0.0; rows],
    };
    let known = fillings
        .first()
        .map_or(0, |filling| leading_known(filling, order, conditioning));
    if known < model.config().image_length() {
        match (order, conditioning) {
            (Order::Parallel { steps }, Conditioning::Prefix) => {
                session.parallel(text, &orders, known, steps, progress)?;
            }
            _ => session.one_by_one(text, &orders, known, progress)?,
        }
    }
    Ok(session
        .image_ids
        .into_iter()
        .zip(session.log_likelihoods)
        .map(|(image_ids, log_likelihood)| SampledTokens {
            image_ids,
            log_likelihood,
        })
        .collect())
}

/// ln p of whole pictures given one caption, in raster order, in nats.
pub fn log_likelihoods(
    model: &Dalle,
    text_ids: &[u32],
    image_ids: &[Vec<u32>],
) -> Result<Vec<f64>> {
    pair_log_likelihoods(model, &vec![text_ids.to_vec(); image_ids.len()], image_ids)
}

/// ln p of whole pictures given a caption each, in raster order, in nats.
pub fn pair_log_likelihoods(
    model: &Dalle,
    text_ids: &[Vec<u32>],
    image_ids: &[Vec<u32>],
) -> Result<Vec<f64>> {
    /// Pictures in one pass: their logits are all in memory.
    const ROWS: usize = 8;
    let config = model.config();
    let positions = config.image_length();
    let mut likelihoods = Vec::with_capacity(image_ids.len());
    for (pictures, captions) in image_ids.chunks(ROWS).zip(text_ids.chunks(ROWS)) {
        let rows = pictures.len();
        let batch = DalleBatch {
            text_ids: captions.to_vec(),
            image_ids: pictures.to_vec(),
            orders: vec![raster(positions); rows],
            captioned: 0,
        };
        let text = Part::Text {
            ids: batch.text_ids.concat(),
            start: 0,
        };
        let image = image_part(&batch.image_ids, &batch.orders, config.codebook_size, false);
        let states = model.forward(&[text, image], rows, None, AttentionMask::Causal);
        let states = states.narrow(1, config.text_length, positions);
        likelihoods.extend(sums(model.image_nats(states, &batch, rows), rows)?);
    }
    Ok(likelihoods)
}

/// The likelihoods of this many pictures from the nats of all their ids.
fn sums(nats: Tensor<1>, pictures: usize) -> Result<Vec<f64>> {
    let nats: Vec<f32> = nats
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::invalid("likelihood", format!("{e:?}")))?;
    let of_picture = |nats: &[f32]| {
        let sum: f64 = nats.iter().map(|&nats| f64::from(nats)).sum();
        if sum.is_finite() {
            return Ok(-sum);
        }
        Err(Error::NonFinite {
            what: "likelihood",
            detail: format!("{sum}"),
        })
    };
    nats.chunks(nats.len() / pictures).map(of_picture).collect()
}

/// The state of a batch being decoded; the unconditional rows of guidance come after the captioned ones.
struct Session<'a> {
    model: &'a Dalle,
    caches: Vec<KvCache>,
    rows: usize,
    guided: bool,
    batch: usize,
    samplers: Vec<Sampler>,
    canvases: Vec<&'a Canvas>,
    /// The known ones, and those drawn so far.
    image_ids: Vec<Vec<u32>>,
    log_likelihoods: Vec<f64>,
}

impl Session<'_> {
    /// Decodes each row in its own order, one token a pass after the first `known`, which are run in one pass.
    fn one_by_one(
        &mut self,
        text: Part,
        orders: &[Vec<u32>],
        known: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<()> {
        let positions = self.model.config().image_length();
        let mut parts = vec![text, self.inputs(orders, 0..known + 1)];
        for step in known..positions {
            let states = self.model.forward(
                &parts,
                self.batch,
                Some(&mut self.caches),
                AttentionMask::Causal,
            );
            let [_, seq, _] = states.dims();
            let asked: Vec<Vec<u32>> = orders.iter().map(|order| vec![order[step]]).collect();
            self.sample_by_row(states.narrow(1, seq - 1, 1), &asked)?;
            if progress(step + 1, positions).is_break() {
                return Err(Error::Stopped);
            }
            if step + 1 < positions {
                parts = vec![self.inputs(orders, step + 1..step + 2)];
            }
        }
        Ok(())
    }

    /// Each pass predicts several positions at once, all seeing what is known before the pass.
    fn parallel(
        &mut self,
        text: Part,
        orders: &[Vec<u32>],
        known: usize,
        steps: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<()> {
        let positions = self.model.config().image_length();
        let counts = pass_sizes(positions - known, steps);
        // All known ids but the last, which is the input of each pass; the start stands in for it where
        // nothing is known.
        let mut parts = vec![text];
        if known > 0 {
            parts.push(self.inputs(orders, 0..known));
        }
        self.model.forward(
            &parts,
            self.batch,
            Some(&mut self.caches),
            AttentionMask::Causal,
        );
        let mut done = known;
        for count in counts {
            let asked: Vec<Vec<u32>> = orders
                .iter()
                .map(|order| order[done..done + count].to_vec())
                .collect();
            let questions: Vec<Vec<(Option<u32>, u32)>> = orders
                .iter()
                .zip(&asked)
                .map(|(order, asked)| {
                    let previous = done.checked_sub(1).map(|last| order[last]);
                    asked.iter().map(|&target| (previous, target)).collect()
                })
                .collect();
            let questions = self.inputs_by_row(&questions);
            let states = self.model.forward(
                &[questions],
                self.batch,
                Some(&mut self.caches),
                AttentionMask::QueryOnly,
            );
            self.sample_by_row(states, &asked)?;
            // Appended to the cache in order, all but the newest.
            let inputs = self.inputs(orders, done..done + count);
            done += count;
            if progress(done, positions).is_break() {
                return Err(Error::Stopped);
            }
            if done < positions {
                self.model.forward(
                    &[inputs],
                    self.batch,
                    Some(&mut self.caches),
                    AttentionMask::Causal,
                );
            }
        }
        Ok(())
    }

    /// The inputs that predict the places `asked` of each row's order, each from the one before it.
    fn inputs(&self, orders: &[Vec<u32>], asked: std::ops::Range<usize>) -> Part {
        let places: Vec<Vec<(Option<u32>, u32)>> = orders
            .iter()
            .map(|order| {
                asked
                    .clone()
                    .map(|i| (i.checked_sub(1).map(|last| order[last]), order[i]))
                    .collect()
            })
            .collect();
        self.inputs_by_row(&places)
    }

    /// (own, target) positions of every row, with the row's ids.
    fn inputs_by_row(&self, places: &[Vec<(Option<u32>, u32)>]) -> Part {
        let config = self.model.config();
        let (start, nowhere) = (config.codebook_size as u32, config.image_length() as u32);
        let (mut ids, mut own, mut target) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if self.guided { 2 } else { 1 } {
            for (row, places) in places.iter().enumerate() {
                for &(place, asked) in places {
                    ids.push(place.map_or(start, |place| self.image_ids[row][place as usize]));
                    own.push(place.unwrap_or(nowhere));
                    target.push(asked);
                }
            }
        }
        Part::Image { ids, own, target }
    }

    /// Draws an id for each target position of each row from `[batch, asked, width]` states, unless it is known.
    fn sample_by_row(&mut self, states: Tensor<3>, asked: &[Vec<u32>]) -> Result<()> {
        let codes = self.model.config().codebook_size;
        let per_row = asked[0].len();
        let logits: Vec<f32> = self
            .model
            .image_logits(states)
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        for (row, asked) in asked.iter().enumerate() {
            for (i, &position) in asked.iter().enumerate() {
                let of = |row: usize| &logits[(row * per_row + i) * codes..][..codes];
                let canvas = self.canvases[row];
                if canvas.image_ids[position as usize].is_some() {
                    continue;
                }
                let unconditional = self.guided.then(|| of(self.rows + row));
                let sampled = self.samplers[row].sample_leaning(
                    of(row),
                    unconditional,
                    canvas.leanings.get(&position).map(Vec::as_slice),
                    u64::from(position),
                )?;
                self.image_ids[row][position as usize] = sampled.id;
                self.log_likelihoods[row] += sampled.log_prob;
            }
        }
        Ok(())
    }
}

/// How many tokens each pass draws: few while little is known, by a cosine (MaskGIT, arXiv:2202.04200,
/// section 3.3), at least one each.
fn pass_sizes(positions: usize, steps: usize) -> Vec<usize> {
    let steps = steps.clamp(1, positions);
    let mut sizes = Vec::with_capacity(steps);
    let mut known = 0;
    for step in 1..=steps {
        let share = 1.0 - (std::f64::consts::FRAC_PI_2 * step as f64 / steps as f64).cos();
        let least = known + 1;
        let most = positions - (steps - step);
        let goal = if step == steps {
            positions
        } else {
            ((share * positions as f64).round() as usize).clamp(least, most)
        };
        sizes.push(goal - known);
        known = goal;
    }
    sizes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use crate::models::DalleConfig;
    use crate::models::dalle::shuffled;
    use crate::nn::Init;
    use burn::tensor::Device;

    const CODES: usize = 24;
    const LENGTH: usize = 6;

    /// Untrained weights large enough that logits differ by more than rounding does.
    fn model() -> Dalle {
        let config = DalleConfig {
            text_vocab_size: 300,
            text_length: LENGTH,
            codebook_size: CODES,
            grid: 4,
            width: 32,
            n_layers: 2,
            n_heads: 2,
            hidden: 64,
            contrastive_width: None,
        };
        config.init(&mut Init::new(11, &Device::flex()))
    }

    fn drawings(seeds: std::ops::Range<u64>) -> Vec<SampleSpec> {
        seeds
            .map(|seed| SampleSpec {
                text_ids: vec![1, 40 + seed as u32, 50, 2, 0, 0],
                seed,
            })
            .collect()
    }

    fn draw_all(drawings: &[SampleSpec], order: Order) -> Vec<SampledTokens> {
        let null = [1, 2, 0, 0, 0, 0];
        let options = SamplingOptions {
            guidance_scale: 2.0,
            ..SamplingOptions::default()
        };
        draw(&model(), drawings, &null, &options, order, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    /// One seed is one picture, alone, among others, and on any number of threads.
    #[test]
    fn a_picture_does_not_depend_on_its_batch_or_on_threads() {
        for order in [Order::Raster, Order::Parallel { steps: 5 }] {
            let together = draw_all(&drawings(0..8), order);
            for seed in 0..8 {
                let alone = draw_all(&drawings(seed..seed + 1), order);
                assert_eq!(
                    alone[0].image_ids, together[seed as usize].image_ids,
                    "seed {seed}, {order}"
                );
            }
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let again = pool.install(|| draw_all(&drawings(0..8), order));
                for (a, b) in again.iter().zip(&together) {
                    assert_eq!(a.image_ids, b.image_ids, "{threads} threads, {order}");
                }
            }
        }
    }

    /// The log-likelihood that drawing with a cache adds up equals that of one pass without: 1e-3 nats over
    /// 16 tokens leaves room for f32 rounding in two layers, not for a wrong position or a lost key.
    #[test]
    fn cached_drawing_equals_one_pass_without_a_cache() {
        let model = model();
        for order in [Order::Raster, Order::Parallel { steps: 16 }] {
            for (drawn, drawing) in draw_all(&drawings(0..3), order).iter().zip(drawings(0..3)) {
                let visited = match order {
                    Order::Raster => raster(16),
                    Order::Parallel { .. } => {
                        use rand::SeedableRng;
                        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(drawing.seed);
                        rng.set_stream(u64::MAX);
                        shuffled(16, &mut rng)
                    }
                };
                let batch = DalleBatch {
                    text_ids: vec![drawing.text_ids.clone()],
                    image_ids: vec![drawn.image_ids.clone()],
                    orders: vec![visited],
                    captioned: 0,
                };
                let text = Part::Text {
                    ids: drawing.text_ids.clone(),
                    start: 0,
                };
                let image = image_part(&batch.image_ids, &batch.orders, CODES, false);
                let states = model.forward(&[text, image], 1, None, AttentionMask::Causal);
                let nats = model
                    .image_nats(states.narrow(1, LENGTH, 16), &batch, 1)
                    .sum();
                let uncached = -f64::from(nats.into_scalar::<f32>());
                assert!(
                    (uncached - drawn.log_likelihood).abs() < 1e-3,
                    "{uncached} {}",
                    drawn.log_likelihood
                );
            }
        }
    }

    /// Canvases with holes of several sizes and places; number 0 has none.
    fn fillings() -> Vec<InfillSpec> {
        let known: Vec<u32> = (0..16).map(|i| (i * 7 + 3) % CODES as u32).collect();
        let holes: [&[u32]; 5] = [
            &[],
            &[5, 6, 9, 10],
            &[0],
            &[12, 13, 14, 15],
            &[0, 3, 6, 9, 12, 15],
        ];
        drawings(0..5)
            .into_iter()
            .zip(holes)
            .map(|(drawing, hole)| InfillSpec {
                canvas: Canvas::of(&known, Caption::Known(drawing.text_ids))
                    .asking(hole.iter().copied()),
                seed: drawing.seed,
            })
            .collect()
    }

    fn fill_all(
        fillings: &[InfillSpec],
        order: Order,
        conditioning: Conditioning,
    ) -> Vec<SampledTokens> {
        let null = [1, 2, 0, 0, 0, 0];
        let options = SamplingOptions {
            guidance_scale: 2.0,
            ..SamplingOptions::default()
        };
        let progress = &mut |_, _| ControlFlow::Continue(());
        fill(
            &model(),
            fillings,
            &null,
            &options,
            order,
            conditioning,
            progress,
        )
        .unwrap()
    }

    const TELLINGS: [(Order, Conditioning); 3] = [
        (Order::Raster, Conditioning::Prefix),
        (Order::Parallel { steps: 3 }, Conditioning::Prefix),
        (Order::Raster, Conditioning::TeacherForced),
    ];

    #[test]
    fn known_ids_stay_and_a_canvas_does_not_depend_on_its_batch() {
        for (order, conditioning) in TELLINGS {
            let together = fill_all(&fillings(), order, conditioning);
            for (filling, filled) in fillings().iter().zip(&together) {
                for (known, &id) in filling.canvas.image_ids.iter().zip(&filled.image_ids) {
                    assert!(
                        known.is_none_or(|known| known == id),
                        "{order} {conditioning:?}"
                    );
                }
                let alone = fill_all(std::slice::from_ref(filling), order, conditioning);
                assert_eq!(
                    alone[0].image_ids, filled.image_ids,
                    "{order} {conditioning:?}"
                );
            }
            assert_eq!(together[0].log_likelihood, 0.0);
        }
    }

    /// As for whole pictures: what drawing adds up is what one pass without a cache says, 1e-3 for rounding.
    #[test]
    fn likelihoods_of_holes_equal_one_pass_without_a_cache() {
        let model = model();
        for (order, conditioning) in TELLINGS {
            // Parallel passes don't see one another's tokens: theirs is another likelihood.
            let order = match order {
                Order::Parallel { .. } => Order::Parallel { steps: 16 },
                Order::Raster => order,
            };
            for (filled, filling) in fill_all(&fillings(), order, conditioning)
                .iter()
                .zip(fillings())
            {
                let visited = conditioning.order(&filling.canvas, order, filling.seed);
                let Caption::Known(text_ids) = &filling.canvas.caption else {
                    panic!("the caption is known")
                };
                let batch = DalleBatch {
                    text_ids: vec![text_ids.clone()],
                    image_ids: vec![filled.image_ids.clone()],
                    orders: vec![visited.clone()],
                    captioned: 0,
                };
                let text = Part::Text {
                    ids: text_ids.clone(),
                    start: 0,
                };
                let image = image_part(&batch.image_ids, &batch.orders, CODES, false);
                let states = model.forward(&[text, image], 1, None, AttentionMask::Causal);
                let nats: Vec<f32> = model
                    .image_nats(states.narrow(1, LENGTH, 16), &batch, 1)
                    .into_data()
                    .try_into_vec()
                    .unwrap();
                let asked: f64 = visited
                    .iter()
                    .zip(&nats)
                    .filter(|(position, _)| filling.canvas.image_ids[**position as usize].is_none())
                    .map(|(_, &nats)| -f64::from(nats))
                    .sum();
                assert!((asked - filled.log_likelihood).abs() < 1e-3);
                if visited == raster(16) {
                    let all: f64 = nats.iter().map(|&nats| -f64::from(nats)).sum();
                    let image_ids = std::slice::from_ref(&filled.image_ids);
                    let whole = log_likelihoods(&model, text_ids, image_ids).unwrap();
                    assert!((whole[0] - all).abs() < 1e-3);
                }
            }
        }
    }

    /// A leaning of 1,000 nats leaves no doubt, whatever the seed.
    #[test]
    fn leanings_decide_where_they_are_strong() {
        let mut leaning = vec![0.0; CODES];
        leaning[17] = 1e3;
        let mut fillings = fillings();
        for filling in &mut fillings[1..] {
            let hole = filling.canvas.image_ids.iter().position(Option::is_none);
            let hole = hole.unwrap() as u32;
            filling.canvas.leanings.insert(hole, leaning.clone());
        }
        for (order, conditioning) in TELLINGS {
            for (filled, filling) in fill_all(&fillings, order, conditioning)
                .iter()
                .zip(&fillings)
            {
                for &position in filling.canvas.leanings.keys() {
                    assert_eq!(filled.image_ids[position as usize], 17);
                }
            }
        }
        let mut wrong = fillings[1].clone();
        wrong.canvas.leanings.insert(5, vec![0.0; 3]);
        assert!(wrong.canvas.check(model().config()).is_err());
    }

    #[test]
    fn progress_can_stop_the_work() {
        let null = [1, 2, 0, 0, 0, 0];
        let mut calls = 0;
        let stopped = draw(
            &model(),
            &drawings(0..1),
            &null,
            &SamplingOptions::default(),
            Order::Raster,
            &mut |_, _| {
                calls += 1;
                if calls == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert_eq!(calls, 3);
    }

    #[test]
    fn passes_cover_every_position() {
        for positions in [1, 5, 64, 256] {
            for steps in [1, 2, 7, 64, 1000] {
                let sizes = pass_sizes(positions, steps);
                assert_eq!(sizes.iter().sum::<usize>(), positions);
                assert!(
                    sizes.iter().all(|&size| size > 0),
                    "{positions} in {steps}: {sizes:?}"
                );
            }
        }
    }
}
