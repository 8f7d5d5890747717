//! `impasto generate`: prompts in, pictures out.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::image::{Format, Picture};
use impasto::models::dalle::Order;
use impasto::pipeline::{Drawn, GenerateRequest, Pipeline, Timings};
use impasto::provenance::{self, Settings};
use impasto::sampling::SamplingOptions;
use serde::Serialize;

use crate::arguments::{ModelFlags, SamplingFlags, prompt};
use crate::{outputs, preview, terminal};

/// Draw pictures of what the prompts say
///
/// Each picture's settings are written into its file. The same seed draws the same picture on the same
/// device, whatever the number of threads and of pictures.
#[derive(Args)]
pub struct Arguments {
    /// What to draw; each prompt is drawn on its own
    #[arg(required = true, value_name = "PROMPT", value_parser = prompt)]
    prompts: Vec<String>,
    #[command(flatten)]
    model: ModelFlags,
    /// Pictures of each prompt; their seeds count up
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,
    /// Seed of the first picture of each prompt [default: random, and told]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster: token by token, best; parallel:STEPS: all tokens in that many passes, faster
    #[arg(long, default_value = "raster")]
    order: Order,
    /// Shorten a prompt that is too long for the model instead of refusing it
    #[arg(long)]
    truncate: bool,
    /// A file (which is replaced), or a folder (ending with /) [default: the current folder, under a
    /// name made of prompt and seed that is not taken yet]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// One picture of all pictures
    #[arg(long)]
    grid: bool,
    /// png, jpeg or webp [default: by the file's name, else png]
    #[arg(long)]
    format: Option<Format>,
    /// JPEG quality
    #[arg(long, value_name = "Q", default_value = "95",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Show the pictures in the terminal too
    #[arg(long)]
    preview: bool,
    /// Print one JSON document: paths, seeds, log-likelihoods (nats), timings (seconds)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    sampling: &'a SamplingOptions,
    order: Order,
    pictures: Vec<ReportedPicture>,
    timings: Timings,
}

#[derive(Serialize)]
struct ReportedPicture {
    /// The grid's where all pictures are in one.
    path: PathBuf,
    prompt: String,
    seed: u64,
    log_likelihood: f64,
}

/// Draws, writes and tells.
pub fn run(arguments: Arguments) -> Result<()> {
    let n = arguments.n as usize;
    let files = if arguments.grid {
        1
    } else {
        n * arguments.prompts.len()
    };
    let (target, format) = outputs::plan(arguments.output.as_deref(), arguments.format, files)?;
    let protocol = arguments.preview.then(preview::detect).transpose()?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let pipeline = arguments.model.load()?;
    terminal::catch_interrupts()?;
    terminal::note(format_args!("seed: {seed}"));
    let config = &pipeline.model.config;
    let sampling = arguments.sampling.over(&config.sampling);
    // All prompts before any work: the last one being too long should not cost the others' time.
    for prompt in &arguments.prompts {
        let length = config.dalle.text_length;
        pipeline
            .model
            .text
            .encode_caption(prompt, length, arguments.truncate)?;
    }

    let tokens = config.dalle.image_length() * n * arguments.prompts.len();
    let bar = terminal::bar(tokens as u64, "tokens")?;
    let mut timings = Timings::default();
    let mut reported = Vec::new();
    let mut cells = Vec::new();
    for (at, prompt) in arguments.prompts.iter().enumerate() {
        let before = (at * tokens / arguments.prompts.len()) as u64;
        let request = GenerateRequest {
            prompt: prompt.clone(),
            n,
            seed,
            sampling: sampling.clone(),
            order: arguments.order,
            truncate: arguments.truncate,
        };
        let (drawn, took) = pipeline.generate(&request, &mut |progress| {
            bar.set_position(before + progress.done as u64);
            if terminal::stop_requested() {
                bar.finish_and_clear();
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        add(&mut timings, &took);
        for drawn in drawn {
            let mut path = PathBuf::new();
            if !arguments.grid {
                let text = settings(&pipeline, &request, prompt, &drawn).parameters();
                let bytes = provenance::encode(&drawn.picture, format, arguments.quality, &text)?;
                path = target.write(&bytes, prompt, drawn.seed, format)?;
                // Told at once: what is there stays there if a later prompt fails or is stopped.
                if !arguments.json {
                    bar.suspend(|| terminal::result(path.display()))?;
                }
            }
            reported.push(ReportedPicture {
                path,
                prompt: prompt.clone(),
                seed: drawn.seed,
                log_likelihood: drawn.log_likelihood,
            });
            cells.push((drawn, request.clone()));
        }
    }
    bar.finish_and_clear();

    let pictures: Vec<Picture> = cells
        .iter()
        .map(|(drawn, _)| drawn.picture.clone())
        .collect();
    let columns = if arguments.prompts.len() > 1 && n > 1 {
        n
    } else {
        pictures.len().isqrt().max(1) + usize::from(!is_square(pictures.len()))
    };
    if arguments.grid
        && let Some((first, request)) = cells.first()
    {
        let picture = Picture::grid(&pictures, columns, 2)?;
        let prompts = arguments.prompts.join("\n");
        let mut settings = settings(&pipeline, request, &prompts, first);
        (settings.width, settings.height) = (picture.width, picture.height);
        let text = settings.parameters();
        let bytes = provenance::encode(&picture, format, arguments.quality, &text)?;
        let path = target.write(&bytes, &arguments.prompts[0], first.seed, format)?;
        if !arguments.json {
            terminal::result(path.display())?;
        }
        for picture in &mut reported {
            picture.path.clone_from(&path);
        }
    }
    if let Some(protocol) = protocol {
        preview::show(&Picture::grid(&pictures, columns, 2)?, protocol)?;
    }
    if arguments.json {
        return terminal::json(&Report {
            model: &config.name,
            sampling: &sampling,
            order: arguments.order,
            pictures: reported,
            timings,
        });
    }
    Ok(())
}

/// What is written into a picture's file.
fn settings(
    pipeline: &Pipeline,
    request: &GenerateRequest,
    prompt: &str,
    drawn: &Drawn,
) -> Settings {
    Settings {
        prompt: prompt.to_owned(),
        seed: drawn.seed,
        sampling: request.sampling.clone(),
        order: request.order,
        steps: match request.order {
            Order::Raster => drawn.image_ids.len(),
            Order::Parallel { steps } => steps.min(drawn.image_ids.len()),
        },
        model: pipeline.model.config.name.clone(),
        width: drawn.picture.width,
        height: drawn.picture.height,
        version: provenance::version(),
    }
}

/// Loading counts once, the rest for each prompt.
fn add(all: &mut Timings, one: &Timings) {
    all.load = one.load;
    all.text += one.text;
    all.decode += one.decode;
    all.pixels += one.pixels;
}

fn is_square(number: usize) -> bool {
    number.isqrt().pow(2) == number
}

/// 32 bits from the system's randomness, short enough to be typed again.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
