//! Settings shared by every training run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::Reason;
use crate::nn::ComputePrecision;
use crate::{Error, Result, files};

/// The part of a training config that does not depend on the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of the weights, the data order and all draws.
    pub seed: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Seconds of training after which the run is to end, if that is before its last step: the learning rate then
    /// follows the share of the time instead of the share of the steps, whichever is larger.
    pub seconds: Option<f64>,
    /// Samples in a forward pass.
    pub batch_size: usize,
    /// Forward passes in a step; their gradients are averaged.
    pub gradient_accumulation: usize,
    /// What turns gradients into steps.
    pub optimizer: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises from 0.
    pub warmup_steps: u64,
    /// Where the cosine ends, as a share of the peak.
    pub final_learning_rate: f64,
    /// AdamW's decay of matrices (vectors, embeddings and positions are not decayed).
    pub weight_decay: f64,
    /// AdamW's β₁.
    pub beta1: f64,
    /// AdamW's β₂.
    pub beta2: f64,
    /// Largest norm of the whole gradient; 0 switches clipping off.
    pub gradient_clip: f64,
    /// Decay of the moving average of the weights, which is what is shipped; 0 switches it off.
    pub ema_decay: f64,
    /// In which type products are computed; weights, optimizer, norms and losses are in f32.
    pub precision: TrainingPrecision,
    /// Recompute cheap operations in the backward pass instead of keeping their results.
    pub gradient_checkpointing: bool,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep_checkpoints: usize,
    /// Where the metrics of a healthy run end; one that ends elsewhere is an error.
    pub expect: BTreeMap<String, Bounds>,
}

/// In which type a training multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainingPrecision {
    /// Everything in f32.
    #[default]
    F32,
    /// Products in bf16; refused where there is none.
    Bf16,
    /// Products in bf16 where both the device and the training have it, else in f32.
    Auto,
}

impl TrainingPrecision {
    /// What it is on `device`, for a training that has mixed precision or none.
    ///
    /// # Errors
    /// If bf16 is requested where there is none.
    pub fn on(self, device: &Device, has_mixed_precision: bool) -> Result<ComputePrecision> {
        match self {
            TrainingPrecision::F32 => Ok(ComputePrecision::F32),
            TrainingPrecision::Bf16 if !has_mixed_precision => Err(Error::invalid(
                "training config",
                "this training has no mixed precision; expected \"precision\": \"f32\"",
            )),
            TrainingPrecision::Bf16 => {
                ComputePrecision::Bf16.check(device)?;
                Ok(ComputePrecision::Bf16)
            }
            TrainingPrecision::Auto => {
                match has_mixed_precision && ComputePrecision::Bf16.check(device).is_ok() {
                    true => Ok(ComputePrecision::Bf16),
                    false => Ok(ComputePrecision::F32),
                }
            }
        }
    }
}

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW for everything.
    #[default]
    AdamW,
    /// Muon for the matrices of transformer blocks, AdamW for the rest.
    Muon,
}

/// Where a metric is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// No lower than this.
    pub at_least: Option<f64>,
    /// No higher than this.
    pub at_most: Option<f64>,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at_least, self.at_most) {
            (Some(low), Some(high)) => write!(f, "between {low} and {high}"),
            (Some(low), None) => write!(f, "at {low} or more"),
            (None, Some(high)) => write!(f, "at {high} or less"),
            (None, None) => write!(f, "anywhere"),
        }
    }
}

impl Bounds {
    /// Whether `value` lies within.
    pub fn hold(&self, value: f64) -> bool {
        // A value that is no number holds nowhere.
        self.at_least.is_none_or(|bound| value >= bound)
            && self.at_most.is_none_or(|bound| value <= bound)
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            seed: 1,
            steps: 10_000,
            seconds: None,
            batch_size: 64,
            gradient_accumulation: 1,
            optimizer: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            warmup_steps: 200,
            final_learning_rate: 0.05,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.95,
            gradient_clip: 1.0,
            ema_decay: 0.999,
            precision: TrainingPrecision::F32,
            gradient_checkpointing: false,
            log_every: 20,
            checkpoint_every: 1000,
            keep_checkpoints: 2,
            expect: BTreeMap::new(),
        }
    }
}

impl RunConfig {
    /// The learning rate of a step: linear warm-up, then half a cosine. `elapsed` is the time trained, in seconds.
    pub fn learning_rate_at(&self, step: u64, elapsed: f64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / span;
        let of_time = self.seconds.map_or(0.0, |seconds| elapsed / seconds);
        let done = done.max(of_time).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.learning_rate * (self.final_learning_rate + (1.0 - self.final_learning_rate) * cosine)
    }

    /// Says which value is impossible.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: Reason| Err(Error::invalid("training config", reason));
        let positive = [
            ("steps", self.steps),
            ("batch_size", self.batch_size as u64),
            ("gradient_accumulation", self.gradient_accumulation as u64),
            ("log_every", self.log_every),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints as u64),
        ];
        for (name, value) in positive {
            if value == 0 {
                return bad(format!("{name} is 0, expected 1 or more").into());
            }
        }
        check_count("batch_size", self.batch_size)?;
        check_count("gradient_accumulation", self.gradient_accumulation)?;
        // Passes are numbered: the last one's samples, too, have to have a number.
        let passes = self.steps.checked_mul(self.gradient_accumulation as u64);
        if passes.is_none_or(|passes| passes > u64::MAX >> 24) {
            return bad(format!(
                "steps is {}, too many for gradient_accumulation {}",
                self.steps, self.gradient_accumulation
            )
            .into());
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return bad(format!(
                "learning_rate is {}, expected a positive number",
                self.learning_rate
            )
            .into());
        }
        if let Some(seconds) = self.seconds
            && !(seconds > 0.0 && seconds.is_finite())
        {
            return bad(format!("seconds is {seconds}, expected a positive number").into());
        }
        let shares = [
            ("final_learning_rate", self.final_learning_rate),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("ema_decay", self.ema_decay),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return bad(format!("{name} is {value}, expected 0 to 1").into());
            }
        }
        if self.weight_decay.is_nan()
            || self.weight_decay < 0.0
            || self.gradient_clip.is_nan()
            || self.gradient_clip < 0.0
        {
            return bad("weight_decay and gradient_clip must not be negative".into());
        }
        Ok(())
    }
}

/// Refuses a number of samples that nobody means.
pub(super) fn check_count(name: &str, count: usize) -> Result<()> {
    if count > 1 << 20 {
        return Err(Error::invalid(
            "training config",
            format!("{name} is {count}, expected at most 2^20"),
        ));
    }
    Ok(())
}

/// Refuses a model that no memory holds, before any is requested.
pub(super) fn check_trainable(what: &str, numbers: u64) -> Result<()> {
    /// A hundred times what one machine trains.
    const MOST: u64 = 1 << 36;
    if numbers > MOST {
        return Err(Error::invalid(
            "training config",
            format!("{what} has {numbers} numbers, expected at most 2^36"),
        ));
    }
    Ok(())
}

/// Reads a config file.
pub fn read<C: DeserializeOwned>(path: &Path) -> Result<C> {
    let text = files::read_to_string(path)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::bad_file(path, Reason::because("not a training config", e)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_training_multiplies_in_what_its_device_has() {
        let device = Device::flex();
        let on = |precision: TrainingPrecision, mixed| precision.on(&device, mixed);
        let best = match impasto_kernels::bf16::unit() {
            Some(_) => ComputePrecision::Bf16,
            None => ComputePrecision::F32,
        };
        assert_eq!(on(TrainingPrecision::Auto, true).unwrap(), best);
        for precision in [TrainingPrecision::Auto, TrainingPrecision::F32] {
            assert_eq!(on(precision, false).unwrap(), ComputePrecision::F32);
        }
        let error = on(TrainingPrecision::Bf16, false).unwrap_err().to_string();
        assert!(error.contains("expected \"precision\": \"f32\""), "{error}");
        assert_eq!(
            on(TrainingPrecision::Bf16, true).is_ok(),
            best == ComputePrecision::Bf16
        );
        let read: TrainingPrecision = serde_json::from_str("\"auto\"").unwrap();
        assert_eq!(read, TrainingPrecision::Auto);
    }

    #[test]
    fn the_learning_rate_follows_the_time_where_that_is_limited() {
        let config = RunConfig {
            steps: 1000,
            seconds: Some(60.0),
            warmup_steps: 10,
            learning_rate: 1.0,
            final_learning_rate: 0.0,
            ..RunConfig::default()
        };
        assert_eq!(config.learning_rate_at(9, 59.0), 1.0);
        assert!((config.learning_rate_at(10, 30.0) - 0.5).abs() < 1e-12);
        assert!(config.learning_rate_at(10, 60.0).abs() < 1e-12);
        assert!(config.learning_rate_at(10, 90.0).abs() < 1e-12);
        // Whichever is further: here the steps.
        assert!(config.learning_rate_at(1000, 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let config = RunConfig {
            steps: 100,
            warmup_steps: 10,
            learning_rate: 1.0,
            ..RunConfig::default()
        };
        assert!((config.learning_rate_at(0, 0.0) - 0.1).abs() < 1e-12);
        assert!((config.learning_rate_at(10, 0.0) - 1.0).abs() < 1e-12);
        assert!((config.learning_rate_at(100, 0.0) - config.final_learning_rate).abs() < 1e-12);
    }
}
