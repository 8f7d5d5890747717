//! `impasto eval likelihood`.

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::WeightFormat;
use impasto::eval::likelihood;
use impasto::model::Model;
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
    /// Also compare the predictions of image tokens with this model's: the same model in more bits. Both are in memory
    #[arg(long, value_name = "NAME|DIR")]
    against: Option<String>,
    /// Precision of the model of --against [default: as stored]
    #[arg(long, value_name = "FORMAT", requires = "against")]
    against_precision: Option<WeightFormat>,
}

impl Flags {
    /// The reference, on the device of the model.
    fn reference(&self, model: &Model) -> Result<Option<Model>> {
        let Some(against) = &self.against else {
            return Ok(None);
        };
        let device = model.device();
        let found = self
            .model
            .open_beside(against, self.against_precision, device);
        found.map(Some)
    }
}

/// Measures and reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let reference = flags.reference(&model)?;
    let options = likelihood::Options {
        scenes: flags.count as usize,
        seed: flags.scenes.seed,
        language: flags.scenes.language.into(),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.count), "scenes")?;
    let mut watch = |event: &Event<'_>| {
        if let Event::Items { done, .. } = event {
            bar.set_position(*done as u64);
        }
        terminal::go_on()
    };
    let report = likelihood::run(
        &model,
        reference.as_ref(),
        &world,
        &glyphs,
        &options,
        &mut watch,
    );
    bar.finish_and_clear();
    let report = report?;
    if flags.scenes.json {
        return terminal::json(&report);
    }
    let text = report.text_nats_per_token.map_or_else(
        || "not modelled".to_owned(),
        |nats| {
            let (tokens, perplexity) = (report.text_tokens, nats.exp());
            format!("{nats:.4} nats a token of {tokens}, perplexity {perplexity:.3}")
        },
    );
    let against = report.against.as_ref().map_or_else(String::new, |found| {
        format!(
            "\nfrom {} {:.5} nats a token of Kullback-Leibler divergence (99 % below {:.5}), the same likeliest code in {:.2} %",
            found.reference,
            found.divergence,
            found.divergence_99,
            100.0 * found.agreement
        )
    });
    terminal::result(format_args!(
        "{} on {} held-out scenes of world {}, seed {}\nimage {:.4} nats a token of {}\ntext  {text}{against}",
        report.model,
        report.options.scenes,
        report.world,
        report.options.seed,
        report.image_nats_per_token,
        report.image_tokens,
    ))
}
