//! Whether a device computes what the CPU computes: every operation, every family's model, training and drawing, on
//! the same random inputs on both.
//!
//! The CPU (Burn's Flex backend with our kernels, which have goldens of their own) is the reference. Models are tiny
//! and made in place, so no file is needed. A check's error is relative to the norm of the reference, its tolerance
//! stands in [`tolerance()`]. A panic of a backend fails its check alone.

mod check;
mod compare;
mod drawing;
mod inference;
mod llamagen;
mod masked;
mod models;
mod ops;
mod rudalle;
mod tolerance;
mod training;
mod upscaler;
mod weights;

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Instant;

use burn::tensor::{DType, Device};
use serde::{Serialize, Serializer};

use crate::{Error, Result, panics};
use check::{Check, Room};
use compare::{Compared, Values};

pub use tolerance::{Kind, tolerance};

/// What the device computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits everywhere.
    F32,
    /// 32 bits, but factors of products rounded to 10 bits of mantissa, as NVIDIA's tensor cores can: the
    /// computation of [`Precision::F32`], judged by what such products can reach.
    Tf32,
    /// Inputs, weights and results in bfloat16, against the CPU in 32 bits with the same (rounded) inputs.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::ALL
            .into_iter()
            .find(|precision| precision.to_string() == text);
        named.ok_or_else(|| {
            Error::invalid(
                "precision",
                format!("expected f32, tf32 or bf16, got \"{text}\""),
            )
        })
    }
}

/// Which checks to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Precisions; bf16 is skipped on devices that can't compute in it, and runs operations at their larger shapes.
    pub precisions: Vec<Precision>,
    /// Only checks whose names contain this.
    pub only: Option<String>,
    /// Seed of all inputs and weights.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            precisions: vec![Precision::F32, Precision::Bf16],
            only: None,
            seed: 0,
        }
    }
}

/// One check in one precision.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// "group/what".
    pub name: String,
    /// Sizes of inputs or model.
    pub shapes: String,
    /// What the device computed in.
    pub precision: Precision,
    /// Relative to the reference; none where there is no number (a panic, a NaN, another shape).
    pub error: Option<f64>,
    /// What the error may be.
    pub tolerance: f64,
    /// Whether it is.
    #[serde(rename = "result", serialize_with = "ok_or_fail")]
    pub passed: bool,
    /// Time on the device, with reading the result back; a first use includes compiling kernels.
    pub milliseconds: f64,
    /// What is wrong, or which part has the largest error.
    pub detail: Option<String>,
}

fn ok_or_fail<S: Serializer>(passed: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *passed { "ok" } else { "FAIL" })
}

/// Checks that were not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// Why.
    pub reason: String,
}

/// What came of all checks.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTestReport {
    /// Of the library.
    pub version: &'static str,
    /// Seed of all inputs and weights.
    pub seed: u64,
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that were not run.
    pub skipped: Vec<Skipped>,
    /// All that were run, in order.
    pub outcomes: Vec<Outcome>,
}

impl SelfTestReport {
    /// `N passed, N failed, N skipped (why)`.
    pub fn summary(&self) -> String {
        let skipped: usize = self.skipped.iter().map(|skipped| skipped.count).sum();
        let mut text = format!(
            "{} passed, {} failed, {skipped} skipped",
            self.passed, self.failed
        );
        if skipped > 0 {
            let reasons: Vec<&str> = self
                .skipped
                .iter()
                .map(|skipped| skipped.reason.as_str())
                .collect();
            text += &format!(" ({})", reasons.join("; "));
        }
        text
    }
}

/// Runs the checks on `device`. `progress` gets each outcome when it is known, and may stop the work
/// ([`Error::Stopped`]).
pub fn run(
    options: &Options,
    device: &Device,
    progress: &mut dyn FnMut(&Outcome) -> ControlFlow<()>,
) -> Result<SelfTestReport> {
    let all = [
        ops::checks(),
        inference::checks(),
        models::checks(),
        drawing::checks(),
        training::checks(),
    ];
    run_checks(
        all.into_iter().flatten().collect(),
        options,
        device,
        progress,
    )
}

fn run_checks(
    checks: Vec<Check>,
    options: &Options,
    device: &Device,
    progress: &mut dyn FnMut(&Outcome) -> ControlFlow<()>,
) -> Result<SelfTestReport> {
    if options.precisions.is_empty() {
        return Err(Error::invalid("precision", "expected one or more"));
    }
    let count = checks.len();
    let selected: Vec<Check> = checks
        .into_iter()
        .filter(|check| {
            let only = options.only.as_deref();
            only.is_none_or(|only| check.name.contains(only))
        })
        .collect();
    if selected.is_empty() {
        let only = options.only.as_deref().unwrap_or_default();
        return Err(Error::invalid(
            "only",
            format!("none of the names of {count} checks contains \"{only}\""),
        ));
    }
    let mut report = SelfTestReport {
        version: env!("CARGO_PKG_VERSION"),
        seed: options.seed,
        passed: 0,
        failed: 0,
        skipped: Vec::new(),
        outcomes: Vec::new(),
    };
    let has_bf16 = device.supports_dtype(DType::BF16);
    for check in &selected {
        for outcome in judge(check, options, device, has_bf16, &mut report.skipped) {
            match outcome.passed {
                true => report.passed += 1,
                false => report.failed += 1,
            }
            let flow = progress(&outcome);
            report.outcomes.push(outcome);
            if flow.is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    Ok(report)
}

/// Numbers of a result that is judged in bf16, at least. Each of a few may be the difference of numbers that are much
/// larger, of which bf16 keeps no digit; among many the others outweigh it.
const LEAST_IN_BF16: usize = 512;

/// Runs one check in all precisions.
fn judge(
    check: &Check,
    options: &Options,
    device: &Device,
    has_bf16: bool,
    skipped: &mut Vec<Skipped>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let is_asked = |precision| options.precisions.contains(&precision);
    let (f32s, bf16s): (Vec<Precision>, Vec<Precision>) = Precision::ALL
        .into_iter()
        .filter(|&precision| is_asked(precision))
        .partition(|&precision| precision != Precision::Bf16);
    for precisions in [f32s, bf16s] {
        let Some(&first) = precisions.first() else {
            continue;
        };
        if first == Precision::Bf16 {
            if !check.bf16 {
                continue;
            }
            if !has_bf16 {
                skip(skipped, "the device does not compute in bf16");
                continue;
            }
        }
        // Both sides draw the same numbers: streams come from the seed and the name alone.
        let room = |device: &Device, is_reference: bool| {
            Room::new(
                device,
                first,
                is_reference,
                options.seed,
                &format!("{} {}", check.name, check.shapes),
            )
        };
        let reference = computed(|| (check.compute)(&mut room(&Device::flex(), true)));
        if first == Precision::Bf16
            && let Ok(values) = &reference
            && values.first_count() < LEAST_IN_BF16
        {
            continue;
        }
        let start = Instant::now();
        let found = computed(|| {
            let values = (check.compute)(&mut room(device, false))?;
            let synced = device.sync();
            synced.map_err(|error| Error::invalid("device", format!("{error:?}")))?;
            Ok(values)
        });
        let milliseconds = start.elapsed().as_secs_f64() * 1000.0;
        for precision in precisions {
            outcomes.push(outcome(check, precision, &reference, &found, milliseconds));
        }
    }
    outcomes
}

/// The values, or one line about the error or the panic.
fn computed(work: impl FnOnce() -> Result<Values>) -> Result<Values, String> {
    match panics::catch(work) {
        Ok(result) => result.map_err(|error| panics::one_line(&error.to_string())),
        Err(caught) => Err(caught.to_string()),
    }
}

fn skip(skipped: &mut Vec<Skipped>, reason: &str) {
    match skipped.iter_mut().find(|known| known.reason == reason) {
        Some(known) => known.count += 1,
        None => skipped.push(Skipped {
            count: 1,
            reason: reason.to_owned(),
        }),
    }
}

fn outcome(
    check: &Check,
    precision: Precision,
    reference: &Result<Values, String>,
    found: &Result<Values, String>,
    milliseconds: f64,
) -> Outcome {
    let limit = tolerance(check.kind, precision);
    let compared = match (reference, found) {
        (Err(message), _) => Compared::failed(format!("the reference failed: {message}")),
        (_, Err(message)) => Compared::failed(message.clone()),
        (Ok(reference), Ok(found)) => compare::compare(reference, found),
    };
    let passed = compared.error.is_some_and(|error| error <= limit);
    let mut detail = compared.detail.filter(|_| compared.error != Some(0.0));
    if precision == Precision::F32
        && !passed
        && let Some(error) = compared.error
        && error <= tolerance(check.kind, Precision::Tf32)
    {
        let known = detail.map(|detail| detail + "; ").unwrap_or_default();
        detail = Some(known + "within tf32's tolerance: the device may round factors of products");
    }
    Outcome {
        name: check.name.clone(),
        shapes: check.shapes.clone(),
        precision,
        error: compared.error,
        tolerance: limit,
        passed,
        milliseconds,
        detail,
    }
}

#[cfg(test)]
mod tests;
