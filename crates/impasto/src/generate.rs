//! Drawing: text ids in, image ids out, one picture a seed.
//!
//! A picture's random numbers come from its own seed and step, and our products sum in an order that does
//! not depend on the batch, so a picture is the same alone and among others.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::models::Dalle;
use crate::models::dalle::{Order, Part, raster, shuffled};
use crate::nn::KvCache;
use crate::nn::block::Sight;
use crate::sampling::{Sampler, SamplingOptions};
use crate::{Error, Result};

/// One picture to draw.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// The padded caption.
    pub text_ids: Vec<u32>,
    /// Its seed.
    pub seed: u64,
}

/// One picture drawn.
#[derive(Clone, Debug)]
pub struct DrawnIds {
    /// Row-major.
    pub image_ids: Vec<u32>,
    /// log p of the ids given the caption, without guidance, temperature and cuts, in nats.
    pub log_likelihood: f64,
}

/// Draws all of `drawings` in one batch. `null_caption` stands in for the captions where guidance asks
/// what the picture would be without. `progress` gets the tokens done and to do, and may stop the work.
pub fn draw(
    model: &Dalle,
    drawings: &[Drawing],
    null_caption: &[u32],
    options: &SamplingOptions,
    order: Order,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<DrawnIds>> {
    options.validate()?;
    let config = model.config();
    let length = config.text_length;
    if let Some(drawing) = drawings
        .iter()
        .find(|drawing| drawing.text_ids.len() != length)
    {
        return Err(Error::invalid(
            "text ids",
            format!("expected {length} ids, got {}", drawing.text_ids.len()),
        ));
    }
    let guided = options.needs_unconditional();
    let rows = drawings.len();
    let batch = if guided { 2 * rows } else { rows };
    let samplers = drawings
        .iter()
        .map(|drawing| Sampler::new(options, drawing.seed))
        .collect();
    let mut session = Session {
        model,
        caches: model.caches(),
        rows,
        guided,
        batch,
        samplers,
        image_ids: vec![vec![0; config.image_length()]; rows],
        log_likelihoods: vec![0.0; rows],
    };
    let mut text_ids: Vec<u32> = drawings
        .iter()
        .flat_map(|drawing| drawing.text_ids.iter().copied())
        .collect();
    if guided {
        text_ids.extend(null_caption.repeat(rows));
    }
    let text = Part::Text {
        ids: text_ids,
        start: 0,
    };
    match order {
        Order::Raster => session.raster(text, progress)?,
        Order::Parallel { steps } => session.parallel(text, drawings, steps, progress)?,
    }
    Ok(session
        .image_ids
        .into_iter()
        .zip(session.log_likelihoods)
        .map(|(image_ids, log_likelihood)| DrawnIds {
            image_ids,
            log_likelihood,
        })
        .collect())
}

/// The state of a batch under way; guided rows stand behind the captioned ones.
struct Session<'a> {
    model: &'a Dalle,
    caches: Vec<KvCache>,
    rows: usize,
    guided: bool,
    batch: usize,
    samplers: Vec<Sampler>,
    image_ids: Vec<Vec<u32>>,
    log_likelihoods: Vec<f64>,
}

impl Session<'_> {
    fn raster(
        &mut self,
        text: Part,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<()> {
        let positions = self.model.config().image_length();
        let order = raster(positions);
        let mut parts = vec![text, self.inputs(&[(None, order[0])])];
        for (step, &position) in order.iter().enumerate() {
            let states =
                self.model
                    .forward(&parts, self.batch, Some(&mut self.caches), Sight::Causal);
            let [_, seq, _] = states.dims();
            self.sample(states.narrow(1, seq - 1, 1), &[position])?;
            if progress(step + 1, positions).is_break() {
                return Err(Error::Stopped);
            }
            if let Some(&next) = order.get(step + 1) {
                parts = vec![self.inputs(&[(Some(position), next)])];
            }
        }
        Ok(())
    }

    /// Each pass asks for several positions at once, all seeing what is known before the pass.
    fn parallel(
        &mut self,
        text: Part,
        drawings: &[Drawing],
        steps: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<()> {
        use rand::SeedableRng;
        let positions = self.model.config().image_length();
        // One order for the batch would tie pictures together: a row's order comes from its own seed.
        let orders: Vec<Vec<u32>> = drawings
            .iter()
            .map(|drawing| {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(drawing.seed);
                rng.set_stream(u64::MAX);
                shuffled(positions, &mut rng)
            })
            .collect();
        let counts = pass_sizes(positions, steps);
        // What has been drawn but is not in the cache yet: the last id, or the start.
        self.model
            .forward(&[text], self.batch, Some(&mut self.caches), Sight::Causal);
        let mut done = 0;
        for count in counts {
            let asked: Vec<Vec<u32>> = orders
                .iter()
                .map(|order| order[done..done + count].to_vec())
                .collect();
            let previous: Vec<Option<u32>> = orders
                .iter()
                .map(|order| done.checked_sub(1).map(|last| order[last]))
                .collect();
            let questions: Vec<Vec<(Option<u32>, u32)>> = asked
                .iter()
                .zip(&previous)
                .map(|(asked, &previous)| asked.iter().map(|&target| (previous, target)).collect())
                .collect();
            let questions = self.inputs_by_row(&questions);
            let states = self.model.forward(
                &[questions],
                self.batch,
                Some(&mut self.caches),
                Sight::Questions,
            );
            self.sample_by_row(states, &asked)?;
            done += count;
            if progress(done, positions).is_break() {
                return Err(Error::Stopped);
            }
            if done < positions {
                // Told in order into the cache, all but the newest.
                let told: Vec<Vec<(Option<u32>, u32)>> = asked
                    .iter()
                    .zip(&previous)
                    .map(|(asked, &previous)| {
                        let own = std::iter::once(previous)
                            .chain(asked.iter().map(|&position| Some(position)));
                        own.zip(asked.iter().copied()).collect()
                    })
                    .collect();
                let told = self.inputs_by_row(&told);
                self.model
                    .forward(&[told], self.batch, Some(&mut self.caches), Sight::Causal);
            }
        }
        Ok(())
    }

    /// The same (own, target) positions in every row, with each row's ids.
    fn inputs(&self, places: &[(Option<u32>, u32)]) -> Part {
        self.inputs_by_row(&vec![places.to_vec(); self.rows])
    }

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

    fn sample(&mut self, states: Tensor<3>, asked: &[u32]) -> Result<()> {
        let asked = vec![asked.to_vec(); self.rows];
        self.sample_by_row(states, &asked)
    }

    /// Draws an id for each asked position of each row from `[batch, asked, width]` states.
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
                let unconditional = self.guided.then(|| of(self.rows + row));
                let sampled =
                    self.samplers[row].sample(of(row), unconditional, u64::from(position))?;
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
    use crate::models::dalle::{DalleBatch, image_part};
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

    fn drawings(seeds: std::ops::Range<u64>) -> Vec<Drawing> {
        seeds
            .map(|seed| Drawing {
                text_ids: vec![1, 40 + seed as u32, 50, 2, 0, 0],
                seed,
            })
            .collect()
    }

    fn draw_all(drawings: &[Drawing], order: Order) -> Vec<DrawnIds> {
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
                let told = match order {
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
                    orders: vec![told],
                    captioned: 0,
                };
                let text = Part::Text {
                    ids: drawing.text_ids.clone(),
                    start: 0,
                };
                let image = image_part(&batch.image_ids, &batch.orders, CODES, false);
                let states = model.forward(&[text, image], 1, None, Sight::Causal);
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
