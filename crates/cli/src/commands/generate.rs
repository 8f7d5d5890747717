//! `impasto generate`: prompts in, pictures out.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use impasto::explain::page;
use impasto::files;
use impasto::image::{Format, Image};
use impasto::model::Model;
use impasto::models::dalle::Order;
use impasto::observer::Event;
use impasto::provenance::{Encoding, Policy, Settings};
use impasto::request::{Explain, Generate, GeneratedImage, Timings};
use impasto::safety::{Action, Verdict};
use impasto::sampling::SamplingOptions;
use impasto::text::clip::LongCaption;
use serde::Serialize;

use super::explain::explained;
use super::words::Finishing;
use crate::arguments::{
    ChoosingClip, Enlarging, FoundClip, FoundUpscaler, LongCaptionFlags, ModelFlags, SamplingFlags,
    UpscaleFlags, prompt, random_seed,
};
use crate::failure::Usage;
use crate::provenance::{self, ProvenanceFlags};
use crate::safety::{SafetyFlags, Screened};
use crate::{outputs, preview, terminal};

/// Draw pictures from prompts
///
/// The settings are stored in each picture file. The same seed draws the same picture on the same device, for any
/// number of threads and pictures.
#[derive(Args)]
pub struct Arguments {
    /// What to draw; each prompt gets its own pictures
    #[arg(required_unless_present = "text_only", value_name = "PROMPT", value_parser = prompt)]
    prompts: Vec<String>,
    #[command(flatten)]
    model: ModelFlags,
    /// Number of pictures per prompt; their seeds count up
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,
    /// Let the model complete each prompt in its own words before drawing
    #[arg(long)]
    finish: bool,
    /// Print completed prompts (without a prompt: whole captions by the model) and draw nothing
    #[arg(long, conflicts_with_all = ["finish", "best_of", "begin_with", "output", "grid", "format", "preview"])]
    text_only: bool,
    /// Draw this many pictures per prompt and keep the best, as the model says where it captions, and a CLIP
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    best_of: Option<u32>,
    #[command(flatten)]
    clip: ChoosingClip,
    /// Seed of the first picture of each prompt [default: random, printed to stderr]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// What guidance leads away from [default: the model's caption of nothing in particular]
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Decoding order. raster: token by token, best quality; parallel:STEPS: all tokens in that many passes, faster;
    /// confidence:STEPS: likewise, the most confident tokens first [default: raster; confidence:12 for aMUSEd]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
    #[command(flatten)]
    long: LongCaptionFlags,
    /// Picture whose upper rows the new pictures start with
    #[arg(long, value_name = "IMAGE")]
    begin_with: Option<PathBuf>,
    /// Number of its rows of ids to keep [default: seven of sixteen]
    #[arg(long, value_name = "N", requires = "begin_with",
          value_parser = clap::value_parser!(u16).range(1..))]
    begin_rows: Option<u16>,
    #[command(flatten)]
    upscale: UpscaleFlags,
    /// Output file (replaced if it exists), or a folder (ending with /) [default: a new file in the current folder,
    /// named after prompt and seed]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// Name files in a folder by their seeds only, without the prompt
    #[arg(long)]
    plain_names: bool,
    /// Write one image grid
    #[arg(long)]
    grid: bool,
    /// With --grid: decode all pictures as one, so that tiles blend seamlessly
    #[arg(long, requires = "grid")]
    seamless: bool,
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
    /// Also show the pictures in the terminal, during drawing and when they are finished
    #[arg(long)]
    preview: bool,
    /// Also write a page beside each picture that shows which patches each word shaped: NAME.explain.html
    #[arg(long, conflicts_with_all = ["grid", "text_only"])]
    explain: bool,
    /// Print one JSON document: paths, seeds, log-likelihoods (nats), timings (seconds)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct GenerateReport<'a> {
    model: &'a str,
    sampling: &'a SamplingOptions,
    order: Order,
    /// What was found in each prompt.
    safety: &'a [Verdict],
    pictures: Vec<ReportedPicture>,
    timings: Timings,
}

#[derive(Serialize)]
struct ReportedPicture {
    /// None if it was refused.
    #[serde(serialize_with = "outputs::lossy")]
    path: Option<PathBuf>,
    prompt: String,
    seed: u64,
    log_likelihood: f64,
    /// The page of --explain.
    #[serde(
        serialize_with = "outputs::lossy",
        skip_serializing_if = "Option::is_none"
    )]
    page: Option<PathBuf>,
    /// −ln p(prompt | picture) per text id, if the model had a say in which is best.
    #[serde(skip_serializing_if = "Option::is_none")]
    caption_nats: Option<f64>,
    /// Cosine of picture and prompt, if a CLIP had a say.
    #[serde(skip_serializing_if = "Option::is_none")]
    clip_score: Option<f32>,
    /// What was found in it.
    safety: Verdict,
}

/// A picture that was drawn and where it is written.
struct Made {
    prompt: String,
    image: GeneratedImage,
    /// The grid's path, if there is one; none if it was refused.
    path: Option<PathBuf>,
    /// The page that explains it.
    page: Option<PathBuf>,
    safety: Verdict,
}

/// Everything about a run that is validated before the first picture.
struct Work<'a> {
    arguments: &'a Arguments,
    model: &'a Model,
    /// One for each prompt.
    requests: Vec<Generate>,
    sampling: SamplingOptions,
    order: Order,
    enlarging: Enlarging,
    target: outputs::Target,
    format: Format,
    policy: Policy,
    screened: Screened,
}

/// White pixels between the pictures of a grid.
const GAP: usize = 2;

/// Pictures of a seamless grid.
const MAX_SEAMLESS: usize = 64;

/// Rows of ids between two previews.
const PREVIEWED_ROWS: usize = 2;

/// Draws, writes and reports.
pub fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.text_only {
        return arguments.print_result();
    }
    let files = if arguments.grid {
        1
    } else {
        arguments.n as usize * arguments.prompts.len()
    };
    let (target, format) = outputs::plan(arguments.output.as_deref(), arguments.format, files)?;
    let mut screen = arguments.preview.then(preview::Screen::new).transpose()?;
    arguments.check_seamless()?;
    let policy = arguments.provenance.policy()?;
    let chooser = arguments.chooser()?;
    let upscaler = arguments.upscale.find()?;
    let texts: Vec<&str> = arguments.prompts.iter().map(String::as_str).collect();
    let mut screened = arguments.safety.screen(&texts)?;
    let model = arguments.model.open()?;
    let enlarging = FoundUpscaler::load(upscaler, model.device())?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    if arguments.finish {
        let finishing = Finishing::new(&model, &arguments.sampling, seed)?;
        for prompt in &mut arguments.prompts {
            *prompt = finishing.finished(prompt)?;
        }
        let texts: Vec<&str> = arguments.prompts.iter().map(String::as_str).collect();
        screened.prompts = screened.screen(&texts)?;
    }
    let screened = screened.with_pictures(&model)?;
    if arguments.seamless && screened.guard.may_hide_pictures() {
        return Err(Usage::new(
            "--seamless decodes all pictures as one, and the policy may blur or refuse one of them",
            "leave --seamless out, or use another policy",
        )
        .into());
    }
    let ranker = chooser.map(|clip| clip.load(&model)).transpose()?.flatten();
    let ranker = ranker.map(Arc::new);
    let prefix_ids = arguments.prefix_ids(&model)?;
    let requests = arguments.prompts.iter().map(|prompt| Generate {
        n: arguments.n as usize,
        best_of: arguments.best_of.map(|drawn| drawn as usize),
        negative_prompt: arguments.negative.clone(),
        sampling: arguments.sampling.overrides(),
        order: arguments.order,
        long: arguments.long(),
        prefix_ids: prefix_ids.clone(),
        ranker: ranker.clone(),
        upscale: enlarging.factor,
        upscaler: enlarging.upscaler.clone(),
        ..Generate::new(prompt, seed)
    });
    let work = Work {
        requests: requests.collect(),
        arguments: &arguments,
        sampling: arguments.sampling.over(model.generator()?.sampling()),
        order: arguments.order.unwrap_or(model.generator()?.order()),
        model: &model,
        enlarging: enlarging.clone(),
        target,
        format,
        policy,
        screened,
    };
    // All prompts before any work: the last one being too long should not cost the others' time.
    for request in &work.requests {
        request.check_prompt(&model)?;
    }
    terminal::catch_interrupts()?;
    terminal::note(format_args!("seed: {seed}"));

    let (mut made, timings) = work.draw(screen.as_mut())?;
    if arguments.grid {
        work.write_grid(&mut made)?;
    }
    if arguments.explain {
        work.write_explanations(&mut made)?;
    }
    if let Some(screen) = &mut screen {
        let shown = shown(&made);
        if !shown.is_empty() {
            screen.show(&work.grid(&shown)?)?;
        }
    }
    let refused = made
        .iter()
        .find_map(|made| made.safety.refuse("picture").err());
    if arguments.json {
        terminal::json(&work.report(made, timings))?;
    }
    match refused {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

impl Arguments {
    /// The texts of --text-only.
    fn print_result(&self) -> Result<()> {
        let model = self.model.open()?;
        let seed = self.seed.unwrap_or_else(random_seed);
        terminal::note(format_args!("seed: {seed}"));
        let nothing = [String::new()];
        let prompts = match self.prompts.is_empty() {
            true => &nothing[..],
            false => &self.prompts,
        };
        let finishing = Finishing::new(&model, &self.sampling, seed)?;
        finishing.print(prompts, self.n as usize, self.json)
    }

    /// The ids that every picture starts with.
    fn prefix_ids(&self, model: &Model) -> Result<Vec<u32>> {
        let Some(path) = &self.begin_with else {
            return Ok(Vec::new());
        };
        let grid = model.grid();
        // What OpenAI used: 14 rows of 32.
        let rows = self.begin_rows.map_or(grid * 7 / 16, usize::from);
        if rows >= grid {
            return Err(Usage::new(
                format!("--begin-rows {rows} leaves nothing of {grid} rows to draw"),
                format!("take 1 to {} rows", grid - 1),
            )
            .into());
        }
        let mut ids = model.encode(&Image::open(path)?)?;
        ids.truncate(rows * grid);
        Ok(ids)
    }

    /// The model's own words are never too long.
    fn long(&self) -> LongCaption {
        match self.finish {
            true => LongCaption::Truncate,
            false => self.long.what(),
        }
    }

    /// A seamless picture becomes large: what the decoder needs for it grows with its size.
    fn check_seamless(&self) -> Result<()> {
        let pictures = self.n as usize * self.prompts.len();
        if self.seamless && pictures > MAX_SEAMLESS {
            return Err(Usage::new(
                format!("--seamless decodes {pictures} pictures at once, expected {MAX_SEAMLESS} or fewer"),
                "draw fewer, or leave --seamless out",
            )
            .into());
        }
        Ok(())
    }

    /// The CLIP that has a say for --best-of.
    fn chooser(&self) -> Result<Option<FoundClip>> {
        match self.best_of {
            None => Ok(None),
            Some(drawn) if drawn < self.n => Err(Usage::new(
                format!(
                    "--best-of {drawn} draws fewer pictures than --count {} keeps",
                    self.n
                ),
                "draw as many as are kept, or more",
            )
            .into()),
            Some(_) => Ok(Some(self.clip.find()?)),
        }
    }
}

impl Work<'_> {
    /// Draws all prompts. Pictures are written as soon as the model has made them, unless they go into a grid or the
    /// best of a prompt's are kept.
    fn draw(&self, mut screen: Option<&mut preview::Screen>) -> Result<(Vec<Made>, Timings)> {
        let tokens = self.model.grid().pow(2);
        let drawn: usize = self.requests.iter().map(Generate::sampled).sum();
        let bar = terminal::bar((tokens * drawn) as u64, "tokens")?;
        let mut timings = Timings::default();
        let mut made = Vec::new();
        let mut before = 0;
        // What may have to be hidden is not shown while it is drawn.
        let may_show = !self.screened.guard.may_hide_pictures();
        for (number, request) in self.requests.iter().enumerate() {
            let mut failure = Ok(());
            let outcome = self.model.run(request, &mut |event: &Event<'_>| {
                let shown = match event {
                    Event::Tokens {
                        done, image_ids, ..
                    } => {
                        bar.set_position((before + done) as u64);
                        match &mut screen {
                            Some(screen) if may_show => {
                                bar.suspend(|| self.show_partial(screen, image_ids))
                            }
                            _ => Ok(()),
                        }
                    }
                    Event::Image(image) => bar.suspend(|| {
                        // In the place of the preview stand the paths, and the whole pictures below them.
                        if let Some(screen) = &mut screen {
                            screen.clear()?;
                        }
                        made.push(self.made(number, &request.prompt, image)?);
                        Ok(())
                    }),
                    _ => Ok(()),
                };
                failure = shown;
                // What is finished is written before the work is stopped.
                let finished = matches!(event, Event::Image(_));
                if !finished && terminal::stop_requested() || failure.is_err() {
                    bar.finish_and_clear();
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            failure?;
            let took = outcome?.timings;
            before += tokens * request.sampled();
            // Loading counts once, the rest for each prompt.
            timings.load = took.load;
            timings.text += took.text;
            timings.decode += took.decode;
            timings.pixels += took.pixels;
        }
        bar.finish_and_clear();
        Ok((made, timings))
    }

    /// A picture, written where it is not a part of a grid. Its path is printed at once: it stays there if a later
    /// prompt fails or is stopped.
    fn made(&self, number: usize, prompt: &str, image: &GeneratedImage) -> Result<Made> {
        let safety = self.screened.picture(&image.picture, number, image.seed)?;
        let mut image = image.clone();
        image.picture = safety.shown(image.picture)?;
        let mut path = None;
        if !self.arguments.grid && safety.action() < Action::Refuse {
            let settings = Settings {
                safety: safety.record(),
                ..self.settings(prompt, &image, &image.picture)
            };
            let written = self.write(&image.picture, prompt, &settings)?;
            self.print_result(&written)?;
            path = Some(written);
        }
        Ok(Made {
            prompt: prompt.to_owned(),
            image,
            path,
            page: None,
            safety,
        })
    }

    /// The preview of the pictures so far, every [`PREVIEWED_ROWS`] rows.
    fn show_partial(
        &self,
        screen: &mut preview::Screen,
        image_ids: &[&[Option<u32>]],
    ) -> Result<()> {
        let known = |ids: &&[Option<u32>]| ids.iter().flatten().count();
        let known = image_ids.first().map_or(0, known);
        let (step, all) = (PREVIEWED_ROWS * self.model.grid(), self.model.grid().pow(2));
        // Passes of several ids are few: each is shown.
        let due = self.order != Order::Raster || known.is_multiple_of(step);
        if known == 0 || known == all || !due {
            return Ok(());
        }
        let mut pictures = Vec::with_capacity(image_ids.len());
        for ids in image_ids {
            pictures.extend(self.model.decode_partial(ids)?);
        }
        if pictures.is_empty() {
            return Ok(());
        }
        let columns = nearly_square(pictures.len());
        screen.show(&Image::grid(&pictures, columns, GAP)?)
    }

    /// One image grid: a row per prompt if there are several pictures of each, else nearly square.
    fn grid(&self, made: &[&Made]) -> Result<Image> {
        let pictures: Vec<Image> = made.iter().map(|made| made.image.picture.clone()).collect();
        let columns = if self.arguments.prompts.len() > 1 && self.arguments.n > 1 {
            self.arguments.n as usize
        } else {
            nearly_square(pictures.len())
        };
        if self.arguments.seamless {
            let ids: Vec<&[u32]> = made.iter().map(|made| &made.image.image_ids[..]).collect();
            let columns = (columns..ids.len())
                .find(|columns| ids.len().is_multiple_of(*columns))
                .unwrap_or(ids.len());
            let grid = self.model.decode_seamless(&ids, columns)?;
            return match (self.enlarging.factor, &self.enlarging.upscaler) {
                (Some(factor), Some(upscaler)) => {
                    let go_on = &mut |_: &Event<'_>| terminal::go_on();
                    Ok(upscaler.enlarge(&grid, factor, go_on)?)
                }
                _ => Ok(grid),
            };
        }
        Ok(Image::grid(&pictures, columns, GAP)?)
    }

    /// The pages of --explain, after all pictures: they take longer.
    fn write_explanations(&self, made: &mut [Made]) -> Result<()> {
        for made in made {
            // The page shows the picture as it was drawn: none of what is hidden.
            let Some(picture) = made
                .path
                .as_ref()
                .filter(|_| made.safety.action() < Action::Blur)
            else {
                continue;
            };
            let request = Explain {
                prompt: made.prompt.clone(),
                long: self.arguments.long(),
                image_ids: made.image.image_ids.clone(),
                ..Explain::default()
            };
            let outcome = explained(self.model, &request)?;
            let html = page(self.model, &outcome.explanation, &outcome.picture)?;
            let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
            let path = match &self.target {
                // Beside a file that the user named, and that is replaced, too.
                outputs::Target::File(_) => {
                    let path = picture.with_extension("explain.html");
                    files::write_atomic(&path, html.as_bytes())?;
                    path
                }
                outputs::Target::Folder(folder) => {
                    outputs::write_new(folder, &stem, "explain.html", html.as_bytes())?
                }
            };
            self.print_result(&path)?;
            made.page = Some(path);
        }
        Ok(())
    }

    fn write_grid(&self, made: &mut [Made]) -> Result<()> {
        let shown = shown(made);
        let Some(first) = shown.first() else {
            return Ok(());
        };
        let grid = self.grid(&shown)?;
        let prompts = self.arguments.prompts.join("\n");
        let settings = self.settings(&prompts, &first.image, &grid);
        let path = self.write(&grid, &first.prompt, &settings)?;
        self.print_result(&path)?;
        for made in made {
            made.path = (made.safety.action() < Action::Refuse).then(|| path.clone());
        }
        Ok(())
    }

    /// Writes a picture with the settings that say how it was made.
    fn write(&self, picture: &Image, prompt: &str, settings: &Settings) -> Result<PathBuf> {
        let encoding = Encoding {
            format: self.format,
            quality: self.arguments.quality,
        };
        let settings = self.enlarging.settings(settings);
        let written = self.policy.encode(picture, &settings, encoding)?;
        let name = match self.arguments.plain_names {
            true => "picture",
            false => prompt,
        };
        let path = self
            .target
            .write(&written.bytes, name, settings.seed, self.format)?;
        provenance::note(&path, &written.notes);
        Ok(path)
    }

    /// The path on stdout, unless a whole document follows there.
    fn print_result(&self, path: &Path) -> Result<()> {
        if self.arguments.json {
            return Ok(());
        }
        terminal::result(terminal::shown(path))
    }

    /// What is written into the file of `picture`, which shows `drawn`.
    fn settings(&self, prompt: &str, drawn: &GeneratedImage, picture: &Image) -> Settings {
        let (model, sampling) = (self.model.name(), &self.sampling);
        Settings {
            negative_prompt: self.arguments.negative.clone(),
            licence: self.model.licence().map(str::to_owned),
            ..Settings::of_generated(model, prompt, drawn, sampling, (self.order, picture))
        }
    }

    fn report(&self, made: Vec<Made>, timings: Timings) -> GenerateReport<'_> {
        let picture = |made: Made| ReportedPicture {
            path: made.path,
            prompt: made.prompt,
            seed: made.image.seed,
            log_likelihood: made.image.log_likelihood,
            page: made.page,
            caption_nats: made.image.caption_nats,
            clip_score: made.image.clip_score,
            safety: made.safety,
        };
        GenerateReport {
            model: self.model.name(),
            sampling: &self.sampling,
            order: self.order,
            safety: &self.screened.prompts,
            pictures: made.into_iter().map(picture).collect(),
            timings,
        }
    }
}

/// Those that may be seen.
fn shown(made: &[Made]) -> Vec<&Made> {
    let may = |made: &&Made| made.safety.action() < Action::Refuse;
    made.iter().filter(may).collect()
}

/// Columns of a grid that has about as many rows.
fn nearly_square(pictures: usize) -> usize {
    let root = pictures.isqrt();
    root + usize::from(root * root < pictures)
}
