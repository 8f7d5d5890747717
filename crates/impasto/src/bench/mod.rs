//! How fast this machine draws, decodes pixels, encodes pictures and trains, with random weights in published
//! sizes, and which share of what the machine can do at most that is.
//!
//! Decoding is bound by how fast memory is read, so its share is of the measured bandwidth: all weights once a token,
//! and the keys and values of what was drawn. As many bytes are read for comparison, as a large cache may hold a part
//! of them. Everything else is bound by multiply-adds, so its share is of the measured peak of them in that precision;
//! operations are counted as the plain algorithm has them: convolutions by Winograd's way do with fewer, and may seem
//! to exceed the peak.
//!
//! What else runs on the machine slows both a token and the reading of memory, so that the bandwidth is measured
//! before and after each run of tokens and both are medians.

mod decode;
mod load;
mod passes;
mod pictures;
mod sizes;

pub use pictures::{Painter, PictureOptions, pictures};
pub(crate) use sizes::linear_sizes;

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use impasto_kernels::machine;
use serde::{Deserialize, Serialize};

use crate::checkpoint::WeightFormat;
use crate::doctor::{self, Kernels};
use crate::nn::ComputePrecision;
use crate::nn::ops::packed::convolves_in_bf16;
use crate::{Error, Result};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchPart {
    /// From files to a model that can be run.
    Load,
    /// Drawing ids, token by token.
    Decode,
    /// Reading what is known before the first id is drawn, all of it at once.
    Prefill,
    /// Ids to pixels.
    Pixels,
    /// Pictures to CLIP's space.
    Clip,
    /// A step of training.
    Training,
    /// Whole pictures on any device: [`pictures`] alone measures them.
    Pictures,
}

impl BenchPart {
    /// Those of [`run`].
    pub const ALL: [Self; 6] = [
        Self::Load,
        Self::Decode,
        Self::Prefill,
        Self::Pixels,
        Self::Clip,
        Self::Training,
    ];
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which parts.
    pub what: Vec<BenchPart>,
    /// In what weights are held; pixels and training in f32 and bf16 alone.
    pub formats: Vec<WeightFormat>,
    /// Decoding: tokens of each run, the first of which is the prefill's.
    pub tokens: usize,
    /// Everything else: runs, after one that does not count.
    pub runs: usize,
}

/// One measured speed.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of which part.
    pub what: BenchPart,
    /// The model's sizes in words.
    pub model: String,
    /// In what its weights are.
    pub precision: WeightFormat,
    /// Pictures at a time.
    pub batch: usize,
    /// What the time is of.
    pub unit: &'static str,
    /// Its median, in seconds.
    pub seconds: f64,
    /// Tokens, pictures or steps a second, of all pictures together.
    pub per_second: f64,
    /// What the machine could do at most: "bandwidth" or "operations".
    pub bound: Option<&'static str>,
    /// The share of that.
    pub fraction: Option<f64>,
}

/// The most operations a second, two for each multiply-add, of numbers in registers.
#[derive(Clone, Debug, Serialize)]
pub struct Peaks {
    /// In `f32`.
    pub f32: f64,
    /// In bfloat16, where the processor multiplies it.
    pub bf16: Option<f64>,
    /// Of bytes, where the processor has instructions for them.
    pub int8: Option<f64>,
}

impl Peaks {
    pub(crate) fn measure() -> Self {
        Peaks {
            f32: machine::operations(),
            bf16: machine::bf16_operations(),
            int8: machine::int8_operations(),
        }
    }

    /// Of products with weights in a format.
    pub(crate) fn of(&self, format: WeightFormat) -> f64 {
        let own = match format {
            WeightFormat::F32 => None,
            WeightFormat::Bf16 => self.bf16,
            WeightFormat::Int8 | WeightFormat::Int4 => self.int8,
        };
        own.unwrap_or(self.f32)
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Of the library.
    pub version: &'static str,
    /// Threads of the pool.
    pub threads: usize,
    /// The processor's name, where the system reports it.
    pub cpu: Option<String>,
    /// What the kernels run on.
    pub kernels: Kernels,
    /// Bytes a second, of the sizes that were read; of 256 MiB where nothing was decoded.
    pub bandwidth: f64,
    /// The most operations a second.
    pub peaks: Peaks,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Peak memory of the process, where the system reports it.
    pub peak_memory_bytes: Option<u64>,
}

/// Measures on the CPU. `progress` gets each figure when it is known.
pub fn run(
    options: &Options,
    progress: &mut dyn FnMut(&Figure) -> ControlFlow<()>,
) -> Result<BenchReport> {
    if options.tokens < 4 || options.runs == 0 {
        return Err(Error::invalid(
            "bench",
            "expected 4 tokens or more and 1 run or more",
        ));
    }
    let mut bench = Bench {
        device: Device::flex(),
        options,
        readings: Vec::new(),
        peaks: Peaks::measure(),
        figures: Vec::new(),
        progress,
    };
    for what in &options.what {
        match what {
            BenchPart::Pictures => {
                return Err(Error::invalid(
                    "bench",
                    "whole pictures are measured alone, expected no other part",
                ));
            }
            BenchPart::Load => bench.loads()?,
            BenchPart::Decode => {
                for &format in &options.formats {
                    bench.own_decode(format)?;
                    bench.bart_decode(format)?;
                }
            }
            BenchPart::Prefill => {
                for &format in &options.formats {
                    bench.prefill(format)?;
                }
            }
            BenchPart::Pixels => {
                for format in [WeightFormat::F32, WeightFormat::Bf16] {
                    let can = format.is_f32() || convolves_in_bf16(&bench.device);
                    if options.formats.contains(&format) && can {
                        bench.pixels(format)?;
                    }
                }
            }
            BenchPart::Clip => {
                for &format in &options.formats {
                    bench.clip(format)?;
                }
            }
            BenchPart::Training => {
                for precision in [ComputePrecision::F32, ComputePrecision::Bf16] {
                    let format = match precision {
                        ComputePrecision::F32 => WeightFormat::F32,
                        ComputePrecision::Bf16 => WeightFormat::Bf16,
                    };
                    if options.formats.contains(&format) && precision.check(&bench.device).is_ok() {
                        bench.training(precision)?;
                    }
                }
            }
        }
    }
    if bench.readings.is_empty() {
        bench.readings = machine::bandwidths(READINGS, LEAST_READ);
    }
    Ok(BenchReport {
        version: env!("CARGO_PKG_VERSION"),
        threads: rayon::current_num_threads(),
        cpu: doctor::cpu(),
        kernels: doctor::kernels(),
        bandwidth: median(bench.readings),
        peaks: bench.peaks,
        figures: bench.figures,
        peak_memory_bytes: peak_memory(),
    })
}

/// Passes of reading between two measurements.
const READINGS: usize = 5;

/// Bytes that are read where no figure says how many.
const LEAST_READ: usize = 256 << 20;

/// Bytes that are read at most: memory that models leave, and more than any cache holds.
const MOST_READ: usize = 2 << 30;

/// `VmHWM` of Linux.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

struct Bench<'a> {
    device: Device,
    options: &'a Options,
    /// Bandwidths, as they were measured before and after the runs of tokens.
    readings: Vec<f64>,
    peaks: Peaks,
    figures: Vec<Figure>,
    progress: &'a mut dyn FnMut(&Figure) -> ControlFlow<()>,
}

/// What a figure is of.
struct Of<'a> {
    what: BenchPart,
    model: &'a str,
    precision: WeightFormat,
    batch: usize,
    unit: &'static str,
    /// How many units the time is of.
    count: f64,
    /// Bytes that are read at least, and the bandwidth meanwhile.
    bytes: Option<(f64, f64)>,
    /// Operations.
    operations: Option<f64>,
}

impl Bench<'_> {
    fn record(&mut self, of: Of<'_>, seconds: f64) -> Result<()> {
        let (bound, fraction) = match (of.bytes, of.operations) {
            (Some((bytes, bandwidth)), _) => (Some("bandwidth"), Some(bytes / seconds / bandwidth)),
            (None, Some(count)) => (
                Some("operations"),
                Some(count / seconds / self.peaks.of(of.precision)),
            ),
            (None, None) => (None, None),
        };
        let figure = Figure {
            what: of.what,
            model: of.model.to_owned(),
            precision: of.precision,
            batch: of.batch,
            unit: of.unit,
            seconds,
            per_second: of.count / seconds,
            bound,
            fraction,
        };
        let flow = (self.progress)(&figure);
        self.figures.push(figure);
        match flow {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// The median time of some runs, after one that does not count.
    fn timed(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        let mut times = Vec::with_capacity(self.options.runs);
        for _ in 0..self.options.runs {
            let begin = Instant::now();
            work()?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(median(times))
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_middle_time_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
