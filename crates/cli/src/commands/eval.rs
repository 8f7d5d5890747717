//! `impasto eval`: how much of what was asked is in the pictures.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use impasto::Error;
use impasto::data::scenes::{Glyphs, Language};
use impasto::eval::run::{Options, Report, run as evaluate};
use impasto::eval::scenes::Tally;
use impasto::models::dalle::Order;

use crate::arguments::{ModelFlags, SamplingFlags, WorldFlags};
use crate::terminal;

/// Measure a model
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Draw held-out composed scenes; object, colour, count, place and background are judged by a detector
    Scenes(ScenesFlags),
}

#[derive(Args)]
struct ScenesFlags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    world: WorldFlags,
    /// Held-out prompts, one picture each
    #[arg(long, value_name = "N", default_value = "200",
          value_parser = clap::value_parser!(u32).range(1..))]
    prompts: u32,
    /// Seed of the prompts and of the pictures
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Language of the prompts
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageName,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster, or parallel:STEPS
    #[arg(long, default_value = "raster")]
    order: Order,
    /// Also write the pictures, and their captions beside them, into this folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LanguageName {
    English,
    Chinese,
}

/// Draws, judges, tells.
pub fn run(arguments: Arguments) -> Result<()> {
    let What::Scenes(flags) = arguments.what;
    if let Some(folder) = &flags.pictures {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        impasto::files::check_writable(folder)?;
    }
    let (world, sources) = flags.world.open()?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let pipeline = flags.model.load()?;
    let options = Options {
        prompts: flags.prompts as usize,
        seed: flags.seed,
        language: match flags.language {
            LanguageName::English => Language::English,
            LanguageName::Chinese => Language::Chinese,
        },
        sampling: flags.sampling.over(&pipeline.model.config.sampling),
        order: flags.order,
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.prompts), "pictures")?;
    let mut shown = Vec::new();
    let report = evaluate(
        &pipeline,
        &world,
        &glyphs,
        &options,
        &mut |done, _| {
            bar.set_position(done as u64);
            if terminal::stop_requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
        &mut |caption, picture| {
            if flags.pictures.is_some() {
                shown.push((caption.to_owned(), picture.clone()));
            }
        },
    );
    bar.finish_and_clear();
    let report = report?;
    if let Some(folder) = &flags.pictures {
        for (number, (caption, picture)) in shown.iter().enumerate() {
            let bytes = picture.encode(impasto::image::Format::Png, 100)?;
            impasto::files::write_atomic(folder.join(format!("{number:05}.png")), &bytes)?;
            let text = format!("{caption}\n");
            impasto::files::write_atomic(folder.join(format!("{number:05}.txt")), text.as_bytes())?;
        }
    }
    if flags.json {
        return terminal::json(&report);
    }
    terminal::result(table(&report))
}

/// The report as a table; the settings stand above it.
fn table(report: &Report) -> String {
    let options = &report.options;
    let sampling = &options.sampling;
    let mut text = format!(
        "{} on {} held-out prompts of world {}, seed {}, {}, guidance {}, temperature {}, top-k {}, top-p {}\n",
        report.model,
        options.prompts,
        report.world,
        options.seed,
        options.order,
        sampling.guidance_scale,
        sampling.temperature,
        sampling
            .top_k
            .map_or_else(|| "off".to_owned(), |k| k.to_string()),
        sampling
            .top_p
            .map_or_else(|| "off".to_owned(), |p| p.to_string()),
    );
    text += &format!(
        "{:<12}{:>24}{:>24}{:>24}\n",
        "", "drawn", "reconstructed", "rendered"
    );
    let columns = [&report.drawn, &report.reconstructed, &report.rendered].map(Tally::rows);
    for row in 0..columns[0].len() {
        text += &format!("{:<12}", columns[0][row].0);
        for column in &columns {
            let accuracy = column[row].1;
            let cell = if accuracy.asked == 0 {
                "not asked".to_owned()
            } else {
                format!(
                    "{:.1} % [{:.1}, {:.1}]",
                    100.0 * accuracy.accuracy,
                    100.0 * accuracy.low,
                    100.0 * accuracy.high
                )
            };
            text += &format!("{cell:>24}");
        }
        text.push('\n');
    }
    text + &format!(
        "reconstruction: PSNR {:.2} dB, SSIM {:.4}, codebook usage {:.1} %",
        report.reconstruction_psnr,
        report.reconstruction_ssim,
        100.0 * report.code_usage
    )
}
