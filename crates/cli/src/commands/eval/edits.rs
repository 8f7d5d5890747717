//! `impasto eval edits`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::EMBEDDED_CLIP;
use impasto::eval::edits;
use impasto::eval::scenes::Accuracy;
use impasto::image::Image;
use impasto::models::dalle::Order;
use impasto::rank::Ranker;

use super::{SceneFlags, cell, prepare, write};
use crate::arguments::{ModelFlags, SamplingFlags, find_model};
use crate::terminal;

/// See [`super::What`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Held-out scenes, one hole and one caption each
    #[arg(long = "scenes", value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Number of scenes to vary
    #[arg(long, value_name = "N", default_value = "25")]
    varied: u32,
    /// CLIP that also ranks the tries of each hole
    #[arg(long, value_name = "NAME|DIR", num_args = 0..=1, default_missing_value = EMBEDDED_CLIP)]
    clip: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster, parallel:STEPS or confidence:STEPS [default: the model's own]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
    /// Also write each scene, its hole and both results, as one picture, into this folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
}

/// Hides, draws, captions, varies, reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    prepare(flags.pictures.as_ref())?;
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let options = edits::Options {
        scenes: flags.count as usize,
        varied: flags.varied as usize,
        seed: flags.scenes.seed,
        language: flags.scenes.language.into(),
        sampling: flags.sampling.over(model.generator()?.sampling()),
        order: flags.order.unwrap_or(model.generator()?.order()),
    };
    let ranker = flags
        .clip
        .as_deref()
        .map(|clip| -> Result<Ranker> { Ok(Ranker::load(&find_model(clip)?, model.device())?) });
    let ranker = ranker.transpose()?;
    terminal::catch_interrupts()?;
    let bar = terminal::bar(1, "steps")?;
    let mut shown = Vec::new();
    let report = edits::run(
        &model,
        &world,
        &glyphs,
        &options,
        ranker.as_ref(),
        &mut terminal::items(&bar),
        &mut |caption, pictures| {
            if flags.pictures.is_some() {
                shown.push((caption.to_owned(), Image::grid(pictures, pictures.len(), 2)));
            }
        },
    );
    bar.finish_and_clear();
    let report = report?;
    if let Some(folder) = &flags.pictures {
        let shown: Vec<(String, Image)> = shown
            .into_iter()
            .map(|(caption, picture)| Ok((caption, picture?)))
            .collect::<Result<_>>()?;
        write(folder, &shown)?;
    }
    if flags.scenes.json {
        return terminal::json(&report);
    }
    terminal::result(table(&report))
}

/// Holes, captions and variations, one below the other.
fn table(report: &edits::EditsReport) -> String {
    let options = &report.options;
    let mut text = format!(
        "{} on {} held-out scenes of world {}, seed {}, {}, guidance {}{}; holes take {:.0} % of the picture\n",
        report.model,
        options.scenes,
        report.world,
        options.seed,
        options.order,
        options.sampling.guidance_scale,
        report
            .chosen_by
            .as_ref()
            .map_or_else(String::new, |clip| format!(", the best also by {clip}")),
        100.0 * report.hole_share,
    );
    let ways = [
        ("known first", &report.known_first),
        ("raster forced", &report.raster_forced),
        ("known first, best", &report.known_first_best),
        ("raster forced, best", &report.raster_forced_best),
        ("reconstructed", &report.reconstructed),
    ];
    text += &format!("{:<24}", "");
    for (name, _) in ways {
        text += &format!("{name:>22}");
    }
    type Row = (&'static str, fn(&edits::Holes) -> Accuracy);
    let rows: [Row; 4] = [
        ("thing in the hole", |holes| holes.object),
        ("in its colour", |holes| holes.colour),
        ("count in the picture", |holes| holes.picture.count),
        ("all of the caption", |holes| holes.picture.all),
    ];
    for (name, accuracy) in rows {
        text += &format!("\n{name:<24}");
        for (_, holes) in ways {
            text += &format!("{:>22}", cell(accuracy(holes)));
        }
    }
    text += &format!(
        "\npixels outside unchanged: {} of {}\n",
        report.outside_unchanged.right, report.outside_unchanged.asked
    );
    let captions = &report.captions;
    text += &format!(
        "captions: things {}, colours {}, word for word {}",
        cell(captions.object),
        cell(captions.colour),
        cell(captions.exact)
    );
    for variety in &report.varieties {
        text += &format!(
            "\nvary --strength {:<4}: distance {:.1} [{:.1}, {:.1}]",
            variety.strength, variety.distance, variety.low, variety.high
        );
    }
    text
}
