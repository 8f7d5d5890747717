//! `impasto bench`: how fast this machine is, and how much of it is used.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use impasto::bench::{
    BenchPart, BenchReport, Figure, Options, Painter, PictureOptions, pictures, run as measure,
};
use impasto::checkpoint::WeightFormat;

use crate::failure::Usage;
use crate::terminal;

/// Measure the speed of loading, decoding, CLIP and training on the CPU
///
/// Uses random weights in published sizes. The last column is the share of the machine's limit, measured in the same
/// run: of the memory bandwidth (median) for tokens, of the peak rate of multiply-adds in the same precision for
/// everything else.
#[derive(Args)]
pub struct Arguments {
    /// What to measure [default: everything]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    what: Vec<Part>,
    /// Weight precision for loading, decoding, CLIP and training (f32 and bf16)
    #[arg(long, value_delimiter = ',', value_name = "FORMAT", default_values = ["f32", "bf16", "int8"])]
    precision: Vec<WeightFormat>,
    /// Tokens per run of decoding
    #[arg(long, value_name = "N", default_value = "33", value_parser = clap::value_parser!(u16).range(4..=256))]
    tokens: u16,
    /// Runs of everything else; the median is reported
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// CPU threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Measure whole pictures on this device, from caption to pixels: cpu, cuda, vulkan, metal, tch-cuda or tch
    #[arg(long, value_name = "NAME", conflicts_with = "tokens")]
    pictures_on: Option<String>,
    /// With --pictures-on: which models draw [default: both]
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "MODEL",
        requires = "pictures_on"
    )]
    painter: Vec<Drawer>,
    /// With --pictures-on: numbers of pictures that are drawn together
    #[arg(long, value_delimiter = ',', value_name = "N", requires = "pictures_on", default_values = ["1", "8"],
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pictures: Vec<u16>,
    /// With --pictures-on: as many layers, but narrow ones; on a GPU that is what a token costs the host
    #[arg(long, requires = "pictures_on")]
    narrow: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Load,
    Decode,
    Prefill,
    Pixels,
    Clip,
    Training,
}

#[derive(Clone, Copy, ValueEnum)]
enum Drawer {
    DalleMini,
    Janus,
}

impl From<Drawer> for Painter {
    fn from(drawer: Drawer) -> Self {
        match drawer {
            Drawer::DalleMini => Painter::DalleMini,
            Drawer::Janus => Painter::Janus,
        }
    }
}

impl From<Part> for BenchPart {
    fn from(part: Part) -> Self {
        match part {
            Part::Load => BenchPart::Load,
            Part::Decode => BenchPart::Decode,
            Part::Prefill => BenchPart::Prefill,
            Part::Pixels => BenchPart::Pixels,
            Part::Clip => BenchPart::Clip,
            Part::Training => BenchPart::Training,
        }
    }
}

/// Measures and reports.
pub fn run(arguments: Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .context("the thread pool can't be started")?;
    }
    if let Some(device) = &arguments.pictures_on {
        return arguments.draw(device);
    }
    let what = match arguments.what[..] {
        [] => BenchPart::ALL.to_vec(),
        ref parts => parts.iter().map(|&part| part.into()).collect(),
    };
    let options = Options {
        what,
        formats: arguments.precision,
        tokens: arguments.tokens.into(),
        runs: arguments.runs.into(),
    };
    terminal::catch_interrupts()?;
    let report = measure(&options, &mut |figure| {
        terminal::note(line(figure));
        terminal::go_on()
    })?;
    if arguments.json {
        return terminal::json(&report);
    }
    terminal::result(table(&report))
}

impl Arguments {
    /// Measures whole pictures; each figure is printed at once.
    fn draw(&self, device: &str) -> Result<()> {
        if !self.what.is_empty() {
            return Err(Usage::new(
                "--pictures-on and --what measure different things",
                "leave one of them out",
            )
            .into());
        }
        let (device, description) = impasto::device::select(device)?;
        terminal::note(format_args!("device: {description}"));
        let painters = match self.painter[..] {
            [] => vec![Painter::DalleMini, Painter::Janus],
            ref drawers => drawers.iter().map(|&drawer| drawer.into()).collect(),
        };
        let options = PictureOptions {
            painters,
            formats: self.precision.clone(),
            batches: self.pictures.iter().map(|&n| n.into()).collect(),
            runs: self.runs.into(),
            narrow: self.narrow,
        };
        terminal::catch_interrupts()?;
        let figures = pictures(&options, &device, &mut |figure| {
            terminal::note(line(figure));
            terminal::go_on()
        })?;
        match self.json {
            true => terminal::json(&figures),
            false => terminal::result(figures.iter().map(line).collect::<Vec<_>>().join("\n")),
        }
    }
}

fn line(figure: &Figure) -> String {
    let share = match (figure.bound, figure.fraction) {
        (Some(bound), Some(fraction)) => format!("{:>5.0} % of {bound}", 100.0 * fraction),
        _ => String::new(),
    };
    format!(
        "{:<26} {:<5} {:>5} {:>10.2} ms a {:<11} {:>9.2} /s {share}",
        figure.model,
        figure.precision.to_string(),
        figure.batch,
        1000.0 * figure.seconds,
        figure.unit,
        figure.per_second,
    )
}

fn table(report: &BenchReport) -> String {
    let (kernels, peaks) = (&report.kernels, &report.peaks);
    let mut text = format!(
        "impasto {}, {}, {} threads\nkernels: f32 {}, bf16 {}, int8 {}\nmost: memory {:.1} GB/s, f32 {:.0} GFLOP/s",
        report.version,
        report.cpu.as_deref().unwrap_or("unknown processor"),
        report.threads,
        kernels.floats,
        kernels.halves,
        kernels.integers,
        report.bandwidth / 1e9,
        peaks.f32 / 1e9,
    );
    for (name, peak) in [("bf16", peaks.bf16), ("int8", peaks.int8)] {
        if let Some(peak) = peak {
            text += &format!(", {name} {:.0}", peak / 1e9);
        }
    }
    if let Some(bytes) = report.peak_memory_bytes {
        text += &format!(", peak memory {:.0} MiB", bytes as f64 / f64::from(1 << 20));
    }
    text += &format!("\n{:<26} {:<5} {:>5}", "model", "bits", "batch");
    for figure in &report.figures {
        text += "\n";
        text += line(figure).trim_end();
    }
    text
}
