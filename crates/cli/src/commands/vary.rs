//! `impasto vary`: variations of a picture.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use impasto::canvas::Conditioning;
use impasto::edit::Choice;
use impasto::image::{Format, Image};
use impasto::models::dalle::Order;
use impasto::observer::Event;
use impasto::provenance::{Encoding, Settings};
use impasto::request::{GeneratedImage, Vary};
use impasto::safety::{Action, Verdict};
use impasto::sampling::SamplingOptions;
use serde::Serialize;

use super::drawing::note_conditioning;
use crate::arguments::{
    FoundUpscaler, LongCaptionFlags, ModelFlags, SamplingFlags, UpscaleFlags, prompt, random_seed,
};
use crate::provenance::{self, ProvenanceFlags};
use crate::safety::SafetyFlags;
use crate::{outputs, terminal};

/// Draw variations of a picture: redraw a share of its ids
#[derive(Args)]
pub struct Arguments {
    /// The picture; cropped to its centre square
    image: PathBuf,
    /// Prompt [default: none; new ids are drawn to fit the kept ones]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    /// Share of ids to redraw: 0 is the picture's reconstruction, 1 an entirely new picture
    #[arg(long, value_name = "SHARE", default_value = "0.5", allow_negative_numbers = true,
          value_parser = strength)]
    strength: f64,
    /// Which ids to redraw
    #[arg(long, value_enum, default_value = "random")]
    choose: ChoiceName,
    #[command(flatten)]
    model: ModelFlags,
    /// Number of variations; their seeds count up
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,
    /// Seed of the first one [default: random, printed to stderr]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// What guidance leads away from [default: the model's caption of nothing in particular]
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Decoding order. raster: token by token; parallel:STEPS: in that many passes, in random order; confidence:STEPS:
    /// likewise, the most confident tokens first [default: raster; confidence:12 for aMUSEd]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
    /// Draw each variation this many times and keep the likeliest [default: 1; 8 for models that support raster order
    /// only]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    tries: Option<u32>,
    #[command(flatten)]
    long: LongCaptionFlags,
    #[command(flatten)]
    upscale: UpscaleFlags,
    /// Output file (replaced if it exists), or a folder (ending with /) [default: a new file in the current folder,
    /// named after the picture and the seed]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// png, jpeg or webp [default: by the extension of the output file, else png]
    #[arg(long)]
    format: Option<Format>,
    /// JPEG quality
    #[arg(long, value_name = "Q", default_value = "95",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    #[command(flatten)]
    provenance: ProvenanceFlags,
    #[command(flatten)]
    safety: SafetyFlags,
    /// Print one JSON document: paths, seeds, log-likelihoods (nats), seconds
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ChoiceName {
    /// Random ones
    Random,
    /// Preferably those that the model is less certain of
    Entropy,
}

#[derive(Serialize)]
struct VaryReport<'a> {
    model: &'a str,
    prompt: Option<&'a str>,
    strength: f64,
    choice: Choice,
    sampling: &'a SamplingOptions,
    order: Order,
    conditioning: Conditioning,
    /// What was found in the prompt.
    safety: &'a [Verdict],
    variations: Vec<Variation>,
    seconds: f64,
}

#[derive(Serialize)]
struct Variation {
    /// None if it was refused.
    #[serde(serialize_with = "outputs::lossy")]
    path: Option<PathBuf>,
    seed: u64,
    log_likelihood: f64,
    /// What was found in it.
    safety: Verdict,
}

fn strength(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("expected a number from 0 to 1, got \"{text}\"")),
    }
}

/// Reads, draws, writes, reports.
pub fn run(arguments: Arguments) -> Result<()> {
    let n = arguments.n as usize;
    let (target, format) = outputs::plan(arguments.output.as_deref(), arguments.format, n)?;
    let policy = arguments.provenance.policy()?;
    let picture = Image::open(&arguments.image)?;
    let upscaler = arguments.upscale.find()?;
    let texts: Vec<&str> = arguments.prompt.as_deref().into_iter().collect();
    let screened = arguments.safety.screen(&texts)?;
    let model = arguments.model.open()?;
    let screened = screened.with_pictures(&model)?;
    note_conditioning(&model)?;
    let enlarging = FoundUpscaler::load(upscaler, model.device())?;
    let request = Vary {
        prompt: arguments.prompt.clone(),
        negative_prompt: arguments.negative.clone(),
        choice: match arguments.choose {
            ChoiceName::Random => Choice::Random,
            ChoiceName::Entropy => Choice::Entropy,
        },
        n,
        sampling: arguments.sampling.overrides(),
        order: arguments.order,
        tries: arguments.tries.map(|tries| tries as usize),
        long: arguments.long.what(),
        upscale: enlarging.factor,
        upscaler: enlarging.upscaler.clone(),
        ..Vary::new(
            picture,
            arguments.strength,
            arguments.seed.unwrap_or_else(random_seed),
        )
    };
    let generator = model.generator()?;
    let sampling = request.sampling.over(generator.sampling());
    let order = request.order.unwrap_or(generator.order());
    terminal::catch_interrupts()?;
    terminal::note(format_args!("seed: {}", request.seed));
    let clock = Instant::now();
    let bar = terminal::bar((n * model.grid().pow(2)) as u64, "tokens")?;
    let stem = arguments.image.file_stem().unwrap_or_default();
    let name = format!("{} varied", stem.to_string_lossy());
    let sampled = (request.strength * model.grid().pow(2) as f64).round() as usize;
    let write = |image: &GeneratedImage| -> Result<Variation> {
        let safety = screened.picture(&image.picture, 0, image.seed)?;
        let mut image = image.clone();
        image.picture = safety.shown(image.picture)?;
        let settings = Settings {
            steps: sampled,
            safety: safety.record(),
            licence: model.licence().map(str::to_owned),
            negative_prompt: request.negative_prompt.clone(),
            ..Settings::of_generated(
                model.name(),
                request.prompt.as_deref().unwrap_or_default(),
                &image,
                &sampling,
                (order, &image.picture),
            )
        };
        let quality = arguments.quality;
        let settings = enlarging.settings(&settings);
        let written = policy.encode(&image.picture, &settings, Encoding { format, quality })?;
        let mut path = None;
        if safety.action() < Action::Refuse {
            let place = target.write(&written.bytes, &name, image.seed, format)?;
            provenance::note(&place, &written.notes);
            if !arguments.json {
                terminal::result(terminal::shown(&place))?;
            }
            path = Some(place);
        }
        Ok(Variation {
            path,
            seed: image.seed,
            log_likelihood: image.log_likelihood,
            safety,
        })
    };
    let mut variations = Vec::with_capacity(n);
    let mut failure = Ok(());
    let outcome = model.run(&request, &mut |event: &Event<'_>| {
        match event {
            Event::Tokens { done, .. } => bar.set_position(*done as u64),
            // Written when it is finished: what is stopped later keeps it.
            Event::Image(image) => match bar.suspend(|| write(image)) {
                Ok(variation) => {
                    variations.push(variation);
                    return ControlFlow::Continue(());
                }
                Err(error) => {
                    failure = Err(error);
                    return ControlFlow::Break(());
                }
            },
            _ => {}
        }
        terminal::go_on()
    });
    bar.finish_and_clear();
    failure?;
    let outcome = outcome?;
    let refused = variations
        .iter()
        .find_map(|one| one.safety.refuse("picture").err());
    if arguments.json {
        terminal::json(&VaryReport {
            model: model.name(),
            prompt: request.prompt.as_deref(),
            strength: request.strength,
            choice: request.choice,
            sampling: &outcome.sampling,
            order: outcome.order,
            conditioning: outcome.conditioning,
            safety: &screened.prompts,
            variations,
            seconds: clock.elapsed().as_secs_f64(),
        })?;
    }
    match refused {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
