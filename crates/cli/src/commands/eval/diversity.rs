//! `impasto eval diversity`.

use anyhow::Result;
use clap::Args;
use impasto::eval::diversity;
use impasto::models::dalle::Order;
use impasto::observer::Event;

use super::{PromptFlags, SceneFlags, split_name};
use crate::arguments::{ModelFlags, SamplingFlags};
use crate::terminal;

/// See [`super::EvalTask`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Number of prompts
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    prompts: u32,
    /// Pictures of each prompt, one a seed
    #[arg(long, value_name = "K", default_value = "16", value_parser = clap::value_parser!(u32).range(2..=1024))]
    pictures: u32,
    #[command(flatten)]
    kind: PromptFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster, parallel:STEPS or confidence:STEPS [default: the model's own]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
}

/// Draws, compares, reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let options = diversity::Options {
        prompts: flags.prompts as usize,
        pictures: flags.pictures as usize,
        seed: flags.scenes.seed,
        kind: flags.kind.over(&flags.scenes),
        sampling: flags.sampling.over(model.generator()?.sampling()),
        order: flags.order.unwrap_or(model.generator()?.order()),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.prompts), "prompts")?;
    let mut observer = |event: &Event<'_>| {
        if let Event::Items { done, .. } = event {
            bar.set_position(*done as u64);
        }
        terminal::go_on()
    };
    let report = diversity::run(&model, &world, &glyphs, &options, &mut observer);
    bar.finish_and_clear();
    let report = report?;
    if flags.scenes.json {
        return terminal::json(&report);
    }
    let cell = |distance: diversity::Distance| {
        format!(
            "{:.1} [{:.1}, {:.1}]",
            distance.mean, distance.low, distance.high
        )
    };
    terminal::result(format_args!(
        "{} on {} {} prompts of world {}, {} pictures each, seed {}\nmean distance of two pictures drawn  {}\nof two scenes of the same caption    {}\nshare {}",
        report.model,
        report.options.prompts,
        split_name(report.options.kind.split),
        report.world,
        report.options.pictures,
        report.options.seed,
        cell(report.drawn),
        cell(report.scenes),
        report.share.map_or_else(
            || "not known: the scenes do not differ".to_owned(),
            |share| format!("{:.0} %", 100.0 * share)
        ),
    ))
}
