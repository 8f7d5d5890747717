//! Pictures of one request, drawn batch after batch.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{GenerateRequest, GeneratedImage, Progress, Timings};
use crate::generate::{self, SampledTokens};
use crate::models::ImageTokenizer;
use crate::models::dalle::Order;
use crate::{Error, Result};

/// Pictures drawn in one batch.
const BATCH: usize = 16;

/// What a request has taken so far.
pub(super) struct Batches<'a> {
    request: &'a GenerateRequest,
    timings: Timings,
    clock: Instant,
}

impl<'a> Batches<'a> {
    /// Starts with the request's words; `load` is how long loading took.
    pub fn begin(request: &'a GenerateRequest, load: Duration) -> Result<Self> {
        if request.n == 0 {
            return Err(Error::invalid("n", "expected 1 or more pictures, got 0"));
        }
        Ok(Batches {
            request,
            timings: Timings {
                load: load.as_secs_f64(),
                ..Timings::default()
            },
            clock: Instant::now(),
        })
    }

    /// Refuses an order that `family` does not know.
    pub fn in_raster_order(self, family: &str) -> Result<Self> {
        match self.request.order {
            Order::Raster => Ok(self),
            order => Err(Error::invalid(
                "order",
                format!("{family} draws in raster order, got {order}"),
            )),
        }
    }

    /// The words are read: `draw` draws the ids of a picture for each seed.
    pub fn draw(
        mut self,
        image: &ImageTokenizer,
        mut draw: impl FnMut(&[u64], &mut generate::Progress<'_>) -> Result<Vec<SampledTokens>>,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<GeneratedImage>, Timings)> {
        self.timings.text = self.lap();
        let n = self.request.n;
        let positions = image.config().grid().pow(2);
        let mut drawn = Vec::with_capacity(n);
        for first in (0..n).step_by(BATCH) {
            let rows = BATCH.min(n - first);
            let seeds: Vec<u64> = (first..first + rows)
                .map(|i| self.request.seed.wrapping_add(i as u64))
                .collect();
            let ids = draw(&seeds, &mut |done, _, image_ids| {
                progress(Progress {
                    done: first * positions + done * rows,
                    total: positions * n,
                    image_ids,
                })
            })?;
            self.timings.decode += self.lap();
            let image_ids: Vec<Vec<u32>> = ids.iter().map(|ids| ids.image_ids.clone()).collect();
            let pictures = image.decode(&image_ids)?;
            self.timings.pixels += self.lap();
            for ((picture, ids), seed) in pictures.into_iter().zip(ids).zip(seeds) {
                drawn.push(GeneratedImage {
                    picture,
                    seed,
                    image_ids: ids.image_ids,
                    log_likelihood: ids.log_likelihood,
                });
            }
        }
        Ok((drawn, self.timings))
    }

    /// Seconds since the last one.
    fn lap(&mut self) -> f64 {
        std::mem::replace(&mut self.clock, Instant::now())
            .elapsed()
            .as_secs_f64()
    }
}
