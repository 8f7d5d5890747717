//! `impasto eval scenes`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::eval::run::{Clips, Options, ScenesReport, run as evaluate};
use impasto::models::dalle::Order;
use impasto::observer::Event;
use impasto::rank::Ranker;

use super::{PromptFlags, SceneFlags, cell, prepare, split_name, write};
use crate::arguments::{ChoosingClip, ModelFlags, SamplingFlags, find_model};
use crate::terminal;

/// See [`super::What`].
#[derive(Args)]
pub(super) struct Flags {
    #[command(flatten)]
    scenes: SceneFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Number of prompts, one picture each
    #[arg(long, value_name = "N", default_value = "200",
          value_parser = clap::value_parser!(u32).range(1..))]
    prompts: u32,
    #[command(flatten)]
    kind: PromptFlags,
    /// Draw this many pictures per prompt, and judge the one that `generate --best-of` keeps
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    best_of: u32,
    #[command(flatten)]
    clip: ChoosingClip,
    /// Second CLIP: print the mean cosine of its embeddings of pictures and prompts
    #[arg(long, value_name = "NAME|DIR")]
    judge: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster, parallel:STEPS or confidence:STEPS [default: the model's own]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
    /// Also write the pictures with their captions into this folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
}

/// Draws, judges, reports.
pub(super) fn run(flags: &Flags) -> Result<()> {
    prepare(flags.pictures.as_ref())?;
    let (world, glyphs) = flags.scenes.open()?;
    let model = flags.model.open()?;
    let options = Options {
        prompts: flags.prompts as usize,
        best_of: flags.best_of as usize,
        seed: flags.scenes.seed,
        kind: flags.kind.over(&flags.scenes),
        sampling: flags.sampling.over(model.generator()?.sampling()),
        order: flags.order.unwrap_or(model.generator()?.order()),
    };
    let load =
        |clip: &str| -> Result<Ranker> { Ok(Ranker::load(&find_model(clip)?, model.device())?) };
    let chooser = match flags.best_of {
        1 => None,
        _ => flags.clip.find()?.load(&model)?,
    };
    let judge = flags.judge.as_deref().map(load).transpose()?;
    let clips = Clips {
        chooser: chooser.as_ref(),
        judge: judge.as_ref(),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.prompts), "pictures")?;
    let mut shown = Vec::new();
    let report = evaluate(
        &model,
        &world,
        &glyphs,
        &options,
        clips,
        &mut |event: &Event<'_>| {
            if let Event::Items { done, .. } = event {
                bar.set_position(*done as u64);
            }
            terminal::go_on()
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
        write(folder, &shown)?;
    }
    if flags.scenes.json {
        return terminal::json(&report);
    }
    terminal::result(table(&report))
}

/// The report as a table; the settings stand above it.
fn table(report: &ScenesReport) -> String {
    let options = &report.options;
    let sampling = &options.sampling;
    let best = report.choice.as_ref().map_or_else(String::new, |choice| {
        format!(
            ", the best of {} by {}",
            options.best_of,
            choice.by.join(" and ")
        )
    });
    let mut text = format!(
        "{} on {} {} prompts of world {}, seed {}, {}, guidance {}, temperature {}, top-k {}, top-p {}{best}\n",
        report.model,
        options.prompts,
        split_name(options.kind.split),
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
    let mut columns = vec![
        ("drawn", report.drawn.rows()),
        ("reconstructed", report.reconstructed.rows()),
        ("rendered", report.rendered.rows()),
    ];
    if let Some(choice) = &report.choice {
        columns.insert(0, ("the first", choice.first.rows()));
    }
    text += &format!("{:<12}", "");
    for (name, _) in &columns {
        text += &format!("{name:>24}");
    }
    text.push('\n');
    for row in 0..columns[0].1.len() {
        text += &format!("{:<12}", columns[0].1[row].0);
        for (_, column) in &columns {
            let cell = cell(column[row].1);
            text += &format!("{cell:>24}");
        }
        text.push('\n');
    }
    if let Some(choice) = &report.choice {
        text += &format!(
            "the choice mends {} pictures and spoils {}; all is right in one of {} at least: {}\n",
            choice.mended,
            choice.spoilt,
            options.best_of,
            cell(choice.any)
        );
    }
    if let Some((judge, cosine)) = &report.judged_by {
        text += &format!("{judge} finds picture and prompt at a mean cosine of {cosine:.4}\n");
    }
    text + &format!(
        "reconstruction: PSNR {:.2} dB, SSIM {:.4}, codebook usage {:.1} %",
        report.reconstruction_psnr,
        report.reconstruction_ssim,
        100.0 * report.code_usage
    )
}
