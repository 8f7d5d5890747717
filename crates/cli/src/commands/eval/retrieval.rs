//! `impasto eval retrieval`.

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::EMBEDDED_CLIP;
use impasto::eval::retrieval;
use impasto::rank::Ranker;

use super::SceneFlags;
use crate::arguments::{DeviceFlags, find_model};
use crate::terminal;

/// See [`super::What`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    /// The CLIP
    #[arg(long, value_name = "NAME|DIR", default_value = EMBEDDED_CLIP)]
    clip: String,
    #[command(flatten)]
    device: DeviceFlags,
    /// Held-out scenes, each with a caption of its own
    #[arg(long = "scenes", value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

/// Looks for each, reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    let source = find_model(&flags.clip)?;
    let (world, glyphs) = flags.scenes.open()?;
    let ranker = Ranker::load(&source, &flags.device.select()?)?;
    let report = retrieval::run(
        &ranker,
        &world,
        &glyphs,
        flags.count as usize,
        flags.scenes.seed,
        flags.scenes.language.into(),
    )?;
    if flags.scenes.json {
        return terminal::json(&report);
    }
    let mut text = format!(
        "{} on {} held-out scenes of world {}, seed {}",
        report.clip, report.scenes, report.world, report.seed
    );
    for (name, recall) in [
        ("pictures by captions", report.text_to_image),
        ("captions by pictures", report.image_to_text),
    ] {
        text += &format!("\n{name:<24}");
        for (rank, share) in report.ranks.iter().zip(recall.at) {
            text += &format!("R@{rank} {:.1} %  ", 100.0 * share);
        }
    }
    terminal::result(text.trim_end())
}
