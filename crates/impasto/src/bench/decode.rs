//! Drawing, token by token.

use std::ops::ControlFlow;
use std::time::Instant;

use impasto_kernels::machine;

use super::sizes::{bart_config, linear_sizes, own_config, random, streamed};
use super::{Bench, BenchPart, LEAST_READ, MOST_READ, Of, READINGS, median};
use crate::checkpoint::WeightFormat;
use crate::engine::{AutoregressiveModel, Batch, SampleSpec, fill_in, request_of};
use crate::models::dalle::Order;
use crate::nn::Init;
use crate::observer::{Event, Observer};
use crate::sampling::SamplingOptions;
use crate::{Error, Result};

/// What is drawn: the model's sizes in words, in what its weights are, how many pictures.
type Subject<'a> = (&'a str, WeightFormat, usize);

impl Bench<'_> {
    /// The figures of a run of drawing that reports each token and reads `bytes` for one.
    fn drawn(
        &mut self,
        (model, precision, batch): Subject<'_>,
        bytes: f64,
        work: impl FnOnce(&mut (dyn FnMut() -> ControlFlow<()> + Send)) -> Result<()>,
    ) -> Result<()> {
        let (before, tokens) = (self.readings.len(), self.options.tokens);
        let read = (bytes as usize).clamp(LEAST_READ / 8, MOST_READ);
        self.readings.extend(machine::bandwidths(READINGS, read));
        let mut stamps = Vec::with_capacity(tokens);
        let begin = Instant::now();
        stopped(work(&mut || {
            stamps.push(Instant::now());
            if stamps.len() < tokens {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        }))?;
        self.readings.extend(machine::bandwidths(READINGS, read));
        let bandwidth = median(self.readings[before..].to_vec());
        let of = |unit, bytes| Of {
            what: BenchPart::Decode,
            model,
            precision,
            batch,
            unit,
            count: batch as f64,
            bytes,
            operations: None,
        };
        if let [first, ..] = stamps[..] {
            let seconds = first.duration_since(begin).as_secs_f64();
            self.record(of("first token", None), seconds)?;
        }
        let times = stamps
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]).as_secs_f64());
        let seconds = median(times.collect());
        self.record(of("token", Some((bytes, bandwidth))), seconds)
    }

    pub(super) fn own_decode(&mut self, format: WeightFormat) -> Result<()> {
        let config = own_config();
        let model = random(config.init(&mut Init::empty(&self.device)), format);
        let weights = streamed(
            &linear_sizes(&model, |name| name != "text_head.weight"),
            format,
        );
        for (pictures, guidance) in [(1, 1.0), (1, 3.0), (8, 1.0), (8, 3.0)] {
            let (rows, name) = if guidance == 1.0 {
                (pictures, "Dalle 12 x 768")
            } else {
                (2 * pictures, "Dalle 12 x 768, guided")
            };
            let known = config.text_length + self.options.tokens / 2;
            let bytes = weights + cached(rows, config.n_layers, known, config.width, format);
            let drawings: Vec<SampleSpec> = (0..pictures)
                .map(|seed| SampleSpec {
                    text_ids: (3..3 + config.text_length as u32).collect(),
                    seed: seed as u64,
                })
                .collect();
            let null = vec![3; config.text_length];
            self.drawn((name, format, pictures), bytes, |token| {
                let observer = &mut |_: &Event<'_>| token();
                let sampling = sampling(guidance);
                draw(&model, &drawings, &null, &sampling, observer)
            })?;
        }
        Ok(())
    }

    pub(super) fn bart_decode(&mut self, format: WeightFormat) -> Result<()> {
        let config = bart_config();
        let model = random(config.init(&mut Init::empty(&self.device)), format);
        let sizes = linear_sizes(&model, |name| {
            !name.starts_with("encoder") && !name.contains("key_value")
        });
        let weights = streamed(&sizes, format);
        let text_ids: Vec<u32> = (3..20).collect();
        for pictures in [1, 8] {
            let known = text_ids.len() + self.options.tokens / 2;
            let bytes = weights
                + cached(
                    2 * pictures,
                    config.decoder.n_layers,
                    known,
                    config.width,
                    format,
                );
            let specs: Vec<SampleSpec> = (0..pictures as u64)
                .map(|seed| SampleSpec {
                    text_ids: text_ids.clone(),
                    seed,
                })
                .collect();
            self.drawn(("DALL·E mini, guided", format, pictures), bytes, |token| {
                let observer = &mut |_: &Event<'_>| token();
                let sampling = sampling(3.0);
                draw(&model, &specs, &[0, 2], &sampling, observer)
            })?;
        }
        Ok(())
    }
}

/// Draws an id of each image a pass: how many drafts of random weights are right says nothing.
fn draw<M: AutoregressiveModel>(
    model: &M,
    specs: &[SampleSpec],
    unconditional: &[u32],
    sampling: &SamplingOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    let unconditional = |_: &[u32]| unconditional.to_vec();
    let request = request_of(model, specs, &unconditional, sampling, Order::Raster)?;
    fill_in(Batch::new(model).without_drafts(), &request, observer).map(drop)
}

/// Bytes of keys and values of `known` tokens.
fn cached(rows: usize, layers: usize, known: usize, width: usize, format: WeightFormat) -> f64 {
    (2 * rows * layers * known * width * format.cache_width()) as f64
}

fn sampling(guidance_scale: f32) -> SamplingOptions {
    SamplingOptions {
        guidance_scale,
        temperature: 1.0,
        top_k: None,
        top_p: None,
    }
}

/// Being stopped is how a run of some tokens ends.
fn stopped<T>(drawn: Result<T>) -> Result<()> {
    match drawn {
        Ok(_) | Err(Error::Stopped) => Ok(()),
        Err(error) => Err(error),
    }
}
