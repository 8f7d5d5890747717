//! `impasto eval`: how much of what was asked is in the pictures.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use impasto::Error;
use impasto::checkpoint::EMBEDDED_CLIP;
use impasto::data::scenes::{Glyphs, Language};
use impasto::eval::run::{Clips, Options, Report, run as evaluate};
use impasto::eval::scenes::{Accuracy, Tally};
use impasto::eval::{edits, likelihood, retrieval};
use impasto::image::Picture;
use impasto::models::dalle::Order;
use impasto::rank::Ranker;

use crate::arguments::{DeviceFlags, ModelFlags, SamplingFlags, WorldFlags, find_model};
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
    /// Hide things of held-out composed scenes and draw them again, caption the scenes, vary them
    Edits(EditsFlags),
    /// Let a CLIP find held-out composed scenes by their captions, and the captions by the scenes
    Retrieval(RetrievalFlags),
    /// How likely the model finds held-out composed scenes and their captions, in nats a token
    Likelihood(LikelihoodFlags),
}

#[derive(Args)]
struct LikelihoodFlags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    world: WorldFlags,
    /// Held-out scenes, one caption each
    #[arg(long, value_name = "N", default_value = "500",
          value_parser = clap::value_parser!(u32).range(1..))]
    scenes: u32,
    /// Seed of the scenes
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Language of the captions
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageName,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
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
    /// Draw so many pictures of each prompt, and judge the one that a CLIP finds nearest to it
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    best_of: u32,
    /// The CLIP that chooses
    #[arg(long, value_name = "NAME|DIR", default_value = EMBEDDED_CLIP)]
    clip: String,
    /// Another CLIP, that compares the pictures with their prompts: the mean cosine is told
    #[arg(long, value_name = "NAME|DIR")]
    judge: Option<String>,
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

#[derive(Args)]
struct EditsFlags {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    world: WorldFlags,
    /// Held-out scenes, one hole and one caption each
    #[arg(long, value_name = "N", default_value = "200",
          value_parser = clap::value_parser!(u32).range(1..))]
    scenes: u32,
    /// How many of them are varied
    #[arg(long, value_name = "N", default_value = "25")]
    varied: u32,
    /// Seed of the scenes, their holes and the pictures
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Language of the captions that are given
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageName,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster, or parallel:STEPS
    #[arg(long, default_value = "raster")]
    order: Order,
    /// Also write each scene, its hole, and it drawn both ways, as one picture into this folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RetrievalFlags {
    /// The CLIP
    #[arg(long, value_name = "NAME|DIR", default_value = EMBEDDED_CLIP)]
    clip: String,
    #[command(flatten)]
    device: DeviceFlags,
    #[command(flatten)]
    world: WorldFlags,
    /// Held-out scenes, each with a caption of its own
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    scenes: u32,
    /// Seed of the scenes
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Language of the captions
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageName,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LanguageName {
    English,
    Chinese,
}

impl From<LanguageName> for Language {
    fn from(name: LanguageName) -> Self {
        match name {
            LanguageName::English => Language::English,
            LanguageName::Chinese => Language::Chinese,
        }
    }
}

/// Draws, judges, tells.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Scenes(flags) => scenes(flags),
        What::Edits(flags) => edits(flags),
        What::Retrieval(flags) => retrieve(&flags),
        What::Likelihood(flags) => likelihoods(flags),
    }
}

/// Makes the folder for pictures, before any work.
fn prepare(folder: Option<&PathBuf>) -> Result<()> {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        impasto::files::check_writable(folder)?;
    }
    Ok(())
}

/// Writes the pictures with their captions beside them.
fn write(folder: &std::path::Path, shown: &[(String, Picture)]) -> Result<()> {
    for (number, (caption, picture)) in shown.iter().enumerate() {
        let bytes = picture.encode(impasto::image::Format::Png, 100)?;
        impasto::files::write_atomic(folder.join(format!("{number:05}.png")), &bytes)?;
        let text = format!("{caption}\n");
        impasto::files::write_atomic(folder.join(format!("{number:05}.txt")), text.as_bytes())?;
    }
    Ok(())
}

fn scenes(flags: ScenesFlags) -> Result<()> {
    prepare(flags.pictures.as_ref())?;
    let (world, sources) = flags.world.open()?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let pipeline = flags.model.load()?;
    let options = Options {
        prompts: flags.prompts as usize,
        best_of: flags.best_of as usize,
        seed: flags.seed,
        language: flags.language.into(),
        sampling: flags.sampling.over(&pipeline.model.config.sampling),
        order: flags.order,
    };
    let load = |clip: &str| -> Result<Ranker> {
        Ok(Ranker::load(&find_model(clip)?, &pipeline.model.device)?)
    };
    let chooser = (flags.best_of > 1).then(|| load(&flags.clip)).transpose()?;
    let judge = flags.judge.as_deref().map(load).transpose()?;
    let clips = Clips {
        chooser: chooser.as_ref(),
        judge: judge.as_ref(),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.prompts), "pictures")?;
    let mut shown = Vec::new();
    let report = evaluate(
        &pipeline,
        &world,
        &glyphs,
        &options,
        clips,
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
        write(folder, &shown)?;
    }
    if flags.json {
        return terminal::json(&report);
    }
    terminal::result(table(&report))
}

fn edits(flags: EditsFlags) -> Result<()> {
    prepare(flags.pictures.as_ref())?;
    let (world, sources) = flags.world.open()?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let pipeline = flags.model.load()?;
    let options = edits::Options {
        scenes: flags.scenes as usize,
        varied: flags.varied as usize,
        seed: flags.seed,
        language: flags.language.into(),
        sampling: flags.sampling.over(&pipeline.model.config.sampling),
        order: flags.order,
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(1, "steps")?;
    let mut shown = Vec::new();
    let report = edits::run(
        &pipeline,
        &world,
        &glyphs,
        &options,
        &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            if terminal::stop_requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
        &mut |caption, pictures| {
            if flags.pictures.is_some() {
                shown.push((
                    caption.to_owned(),
                    Picture::grid(pictures, pictures.len(), 2),
                ));
            }
        },
    );
    bar.finish_and_clear();
    let report = report?;
    if let Some(folder) = &flags.pictures {
        let shown: Vec<(String, Picture)> = shown
            .into_iter()
            .map(|(caption, picture)| Ok((caption, picture?)))
            .collect::<Result<_>>()?;
        write(folder, &shown)?;
    }
    if flags.json {
        return terminal::json(&report);
    }
    terminal::result(edits_table(&report))
}

fn retrieve(flags: &RetrievalFlags) -> Result<()> {
    let source = find_model(&flags.clip)?;
    let (world, sources) = flags.world.open()?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let ranker = Ranker::load(&source, &flags.device.select()?)?;
    let report = retrieval::run(
        &ranker,
        &world,
        &glyphs,
        flags.scenes as usize,
        flags.seed,
        flags.language.into(),
    )?;
    if flags.json {
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

fn likelihoods(flags: LikelihoodFlags) -> Result<()> {
    let (world, sources) = flags.world.open()?;
    let glyphs = Glyphs::load(&world, &sources)?;
    let pipeline = flags.model.open()?;
    let options = likelihood::Options {
        scenes: flags.scenes as usize,
        seed: flags.seed,
        language: flags.language.into(),
    };
    terminal::catch_interrupts()?;
    let bar = terminal::bar(u64::from(flags.scenes), "scenes")?;
    let report = likelihood::run(
        pipeline.as_ref(),
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
    );
    bar.finish_and_clear();
    let report = report?;
    if flags.json {
        return terminal::json(&report);
    }
    let text = report.text_nats_per_token.map_or_else(
        || "not told".to_owned(),
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

/// Holes, captions and variations, one below the other.
fn edits_table(report: &edits::Report) -> String {
    let options = &report.options;
    let mut text = format!(
        "{} on {} held-out scenes of world {}, seed {}, {}, guidance {}; holes take {:.0} % of the picture\n",
        report.model,
        options.scenes,
        report.world,
        options.seed,
        options.order,
        options.sampling.guidance_scale,
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

/// A share with its interval.
fn cell(accuracy: Accuracy) -> String {
    if accuracy.asked == 0 {
        return "not asked".to_owned();
    }
    format!(
        "{:.1} % [{:.1}, {:.1}]",
        100.0 * accuracy.accuracy,
        100.0 * accuracy.low,
        100.0 * accuracy.high
    )
}

/// The report as a table; the settings stand above it.
fn table(report: &Report) -> String {
    let options = &report.options;
    let sampling = &options.sampling;
    let best = report.chosen_by.as_ref().map_or_else(String::new, |clip| {
        format!(", the best of {} by {clip}", options.best_of)
    });
    let mut text = format!(
        "{} on {} held-out prompts of world {}, seed {}, {}, guidance {}, temperature {}, top-k {}, top-p {}{best}\n",
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
            let cell = cell(column[row].1);
            text += &format!("{cell:>24}");
        }
        text.push('\n');
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
