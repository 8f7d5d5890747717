//! `impasto eval likelihood`.

use anyhow::Result;
use clap::Args;
use impasto::eval::likelihood;
use impasto::observer::Event;

use super::SceneFlags;
use crate::arguments::ModelFlags;
use crate::terminal;

/// See [`super::What`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Held-out scenes, one caption each
    #[arg(long = "scenes", value_name = "N", default_value = "500", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

/// Measures and reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let options = likelihood::Options {
        scenes: flags.count as usize,
        seed: flags.scenes.seed,
        language: flags.scenes.language.into(),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.count), "scenes")?;
    let report = likelihood::run(&model, &world, &glyphs, &options, &mut |event: &Event<
        '_,
    >| {
        if let Event::Items { done, .. } = event {
            bar.set_position(*done as u64);
        }
        terminal::go_on()
    });
    bar.finish_and_clear();
    let report = report?;
    if flags.scenes.json {
        return terminal::json(&report);
    }
    let text = report.text_nats_per_token.map_or_else(
        || "not modelled".to_owned(),
        |nats| format!("{nats:.4} nats a token of {}", report.text_tokens),
    );
    terminal::result(format_args!(
        "{} on {} held-out scenes of world {}, seed {}\nimage {:.4} nats a token of {}\ntext  {text}",
        report.model,
        report.options.scenes,
        report.world,
        report.options.seed,
        report.image_nats_per_token,
        report.image_tokens,
    ))
}
