//! `impasto selftest`: whether a device computes what the CPU computes.

use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use impasto::Error;
use impasto::selftest::{Options, Outcome, Precision, SelfTestReport, run as check};
use serde::Serialize;

use crate::arguments::DeviceFlags;
use crate::terminal;

/// Compare the results of a device with the CPU's
///
/// Runs every operation with its gradients, a tiny model of every family, training steps and drawing on the device and
/// on the CPU, with the same random inputs and weights; needs no files. Prints one line per check: relative error,
/// tolerance, and time on the device. The exit code is 0 if no check failed.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    device: DeviceFlags,
    /// f32; tf32 (f32 with the tolerance of rounded factors); bf16 (skipped if the device does not support it); or all
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "FORMAT",
        default_values = ["f32", "bf16"]
    )]
    precision: Vec<Choice>,
    /// Run only checks whose names contain this text, such as ops/, conv or training/dalle
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Seed of inputs, weights and sampling
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Choice {
    F32,
    Tf32,
    Bf16,
    All,
}

impl Choice {
    fn precisions(self) -> Vec<Precision> {
        match self {
            Choice::F32 => vec![Precision::F32],
            Choice::Tf32 => vec![Precision::Tf32],
            Choice::Bf16 => vec![Precision::Bf16],
            Choice::All => Precision::ALL.to_vec(),
        }
    }
}

#[derive(Serialize)]
struct Document {
    device: String,
    #[serde(flatten)]
    report: SelfTestReport,
}

/// Checks and prints.
pub fn run(arguments: Arguments) -> Result<()> {
    let (device, description) = arguments.device.select_described()?;
    let options = Options {
        precisions: arguments
            .precision
            .iter()
            .flat_map(|choice| choice.precisions())
            .collect(),
        only: arguments.only,
        seed: arguments.seed,
    };
    terminal::catch_interrupts()?;
    // Printed before the first check: what is refused prints nothing.
    let mut header = Some(HEADER);
    let mut written = Ok(());
    let checked = check(&options, &device, &mut |outcome| {
        if arguments.json {
            terminal::note(line(outcome));
        } else {
            // As it is known: a run that is cut still says what it found.
            let header = header.take().map(|header| format!("{header}\n"));
            written = terminal::result(header.unwrap_or_default() + &line(outcome));
        }
        match written {
            Ok(()) => terminal::go_on(),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let report = match (checked, written) {
        (Err(Error::Stopped), Err(error)) => return Err(error),
        (checked, _) => checked?,
    };
    let (failed, summary) = (report.failed, report.summary());
    if arguments.json {
        let device = description;
        terminal::json(&Document { device, report })?;
    } else {
        terminal::result(&summary)?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(anyhow!("1 check failed")),
        _ => Err(anyhow!("{failed} checks failed")),
    }
}

const HEADER: &str =
    "result  check                         precision   error  allowed          ms  sizes";

fn line(outcome: &Outcome) -> String {
    let result = if outcome.passed { "ok" } else { "FAIL" };
    let error = match outcome.error {
        Some(0.0) => "0".to_owned(),
        Some(error) => format!("{error:.1e}"),
        None => "-".to_owned(),
    };
    let allowed = match outcome.tolerance {
        0.0 => "0".to_owned(),
        tolerance => format!("{tolerance:.0e}"),
    };
    let detail = match &outcome.detail {
        Some(detail) if !outcome.passed => format!("  ({detail})"),
        _ => String::new(),
    };
    format!(
        "{result:<6}  {:<30} {:<7} {error:>8} {allowed:>8} {:>11.1}  {}{detail}",
        outcome.name, outcome.precision, outcome.milliseconds, outcome.shapes
    )
}
