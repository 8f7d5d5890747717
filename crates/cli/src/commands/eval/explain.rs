//! `impasto eval explain`.

use anyhow::Result;
use clap::Args;
use impasto::eval::explain;
use impasto::explain::{Method, load_clip};

use super::{SceneFlags, cell};
use crate::arguments::{ModelFlags, find_model};
use crate::terminal;

/// See [`super::EvalTask`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Held-out scenes, one caption each
    #[arg(long = "scenes", value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Scenes of these for the deletion and insertion of patches
    #[arg(long, value_name = "N", default_value = "50")]
    erased: u32,
    /// Measure this method only; may be given several times [default: all that the model can do]
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<Method>,
    /// Also measure where this CLIP looks for the thing's name: an embedded or a pulled one, or a folder or file
    #[arg(long, value_name = "NAME|DIR")]
    clip: Option<String>,
}

/// Measures and reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let methods = match flags.methods.is_empty() {
        false => flags.methods.clone(),
        true => {
            let all = Method::ALL.into_iter();
            all.filter(|method| method.check(&model).is_ok()).collect()
        }
    };
    let clip = match &flags.clip {
        Some(clip) => Some(load_clip(&find_model(clip)?, model.device())?),
        None => None,
    };
    let options = explain::Options {
        scenes: flags.count as usize,
        erased: flags.erased as usize,
        seed: flags.scenes.seed,
        language: flags.scenes.language.into(),
        methods,
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(1, "scenes")?;
    let report = explain::run(
        &model,
        clip.as_ref(),
        &world,
        &glyphs,
        &options,
        &mut terminal::items(&bar),
    );
    bar.finish_and_clear();
    let report = report?;
    if flags.scenes.json {
        return terminal::json(&report);
    }
    let mut text = format!(
        "{} on {} held-out scenes of world {}, seed {}: {} things, whose boxes take {:.1} % of the patches; {} scenes erased\n{:<20}{:>22}{:>8}{:>11}{:>10}{:>11}",
        report.model,
        report.options.scenes,
        report.world,
        report.options.seed,
        report.things,
        100.0 * report.box_share,
        report.options.erased.min(report.options.scenes),
        "",
        "pointing game",
        "IoU",
        "threshold",
        "deletion",
        "insertion",
    );
    for method in &report.methods {
        text += &format!(
            "\n{:<20}{:>22}{:>8.3}{:>11.2}{:>10}{:>11}",
            method.method,
            cell(method.pointing),
            method.iou,
            method.threshold,
            area(method.deletion_auc),
            area(method.insertion_auc),
        );
    }
    terminal::result(text)
}

fn area(area: Option<f64>) -> String {
    area.map_or_else(|| "-".to_owned(), |area| format!("{area:.3}"))
}
