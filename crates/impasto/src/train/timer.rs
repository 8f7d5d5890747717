//! The time of trainings that are to end after some seconds instead of after some steps.

use std::time::{Duration, Instant};

use burn::tensor::TensorData;

use super::config::RunConfig;
use crate::error::Reason;
use crate::models::parameters::Parameters;
use crate::{Error, Result};

/// The file of a checkpoint that keeps the time.
pub(super) const FILE: &str = "timer";

/// The time trained, of runs that are to end after some time.
pub(super) struct Timer {
    limit: Option<f64>,
    /// Of earlier starts of the run, in seconds.
    before: f64,
    started: Instant,
}

impl Timer {
    pub fn new(config: &RunConfig) -> Self {
        Timer {
            limit: config.seconds,
            before: 0.0,
            started: Instant::now(),
        }
    }

    pub fn start(&mut self) {
        self.started = Instant::now();
    }

    pub fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    pub fn is_up(&self) -> bool {
        self.limit.is_some_and(|limit| self.elapsed() >= limit)
    }

    /// Until the end of the time, if that is before the end of the steps.
    pub fn remaining(&self, of_steps: Duration) -> Duration {
        match self.limit {
            None => of_steps,
            Some(limit) => of_steps.min(Duration::from_secs_f64((limit - self.elapsed()).max(0.0))),
        }
    }

    pub fn state(&self) -> Option<(String, Parameters)> {
        self.limit?;
        let elapsed = TensorData::new(vec![self.elapsed() as f32], [1]);
        Some((FILE.to_owned(), [("elapsed".to_owned(), elapsed)].into()))
    }

    pub fn restore(&mut self, state: Option<Parameters>) -> Result<()> {
        let Some(data) = state.and_then(|mut state| state.remove("elapsed")) else {
            return Ok(());
        };
        let seconds = data.try_to_vec::<f32>();
        let seconds = seconds.map_err(|e| Error::invalid("checkpoint", Reason::of(e)))?;
        self.before = seconds.first().copied().unwrap_or_default().into();
        Ok(())
    }
}
