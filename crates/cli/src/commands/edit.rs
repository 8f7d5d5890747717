//! `impasto edit`: holes of a picture drawn anew.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::Result;
use clap::{ArgGroup, Args};
use impasto::canvas::Telling;
use impasto::edit::{self, Area, EditRequest, Mask, damage};
use impasto::files;
use impasto::image::{Format, Original, Picture};
use impasto::models::dalle::Order;
use impasto::pipeline::Pipeline;
use impasto::provenance::{self, Settings};
use impasto::sampling::SamplingOptions;
use serde::Serialize;

use super::generate::random_seed;
use crate::arguments::{ModelFlags, SamplingFlags, prompt};
use crate::failure::Usage;
use crate::{outputs, terminal};

/// Draw parts of a picture anew
///
/// What to draw: --mask, --box, --damaged or --outpaint; without these, where the picture is transparent. All
/// other pixels stay as they are, to the last bit in a PNG.
#[derive(Args)]
#[command(group = ArgGroup::new("where").multiple(false))]
pub struct Arguments {
    /// The picture, of any size
    image: PathBuf,
    /// What the whole picture shall show [default: whatever fits the surroundings]
    #[arg(long, value_name = "TEXT", value_parser = prompt)]
    prompt: Option<String>,
    /// A picture of the same size: drawn where it is transparent, or bright where it has no transparency
    #[arg(long, value_name = "FILE", group = "where")]
    mask: Option<PathBuf>,
    /// Draw what the mask (or the transparency, or the box) would keep, and keep the rest
    #[arg(long, conflicts_with_all = ["damaged", "outpaint"])]
    mask_invert: bool,
    /// Draw this rectangle, in pixels from the top left corner
    #[arg(long = "box", value_name = "X,Y,W,H", group = "where")]
    area: Option<Area>,
    /// Draw scratches and holes of one colour, such as white or #ff00ff [default: the likeliest one]
    #[arg(long, value_name = "COLOUR", group = "where", num_args = 0..=1, require_equals = true,
          default_missing_value = "auto")]
    damaged: Option<DamageColour>,
    /// Draw beyond the picture's sides: pixels by side, such as left=64,top=32
    #[arg(long, value_name = "SIDES", group = "where")]
    outpaint: Option<Sides>,
    /// Also write the mask that is used: white is drawn
    #[arg(long, value_name = "FILE")]
    save_mask: Option<PathBuf>,
    #[command(flatten)]
    drawing: DrawingFlags,
}

/// How candidates are drawn and where they go; shared with `complete`.
#[derive(Args)]
pub struct DrawingFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Candidates; their seeds count up, and the likeliest comes first
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    n: u32,
    /// Write only so many of the candidates, the likeliest [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Seed of the first candidate [default: random, and told]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// raster: token by token; parallel:STEPS: in that many passes, in random order
    #[arg(long, default_value = "raster")]
    order: Order,
    /// Side of the square that is shown to the model at a time, in pixels of the picture [default: by the
    /// thickness of what is drawn]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
    /// Shorten a prompt that is too long for the model instead of refusing it
    #[arg(long)]
    truncate: bool,
    /// A file (which is replaced), or a folder (ending with /) [default: the current folder, under a
    /// name made of the picture's and the seed that is not taken yet]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// png, jpeg or webp [default: by the file's name, else png]
    #[arg(long)]
    format: Option<Format>,
    /// JPEG quality
    #[arg(long, value_name = "Q", default_value = "95",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Print one JSON document: paths, seeds, log-likelihoods (nats), windows (pixels), seconds
    #[arg(long)]
    json: bool,
}

/// Which colour damage has.
#[derive(Clone, Copy)]
enum DamageColour {
    Auto,
    Named([u8; 3]),
}

impl FromStr for DamageColour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NAMES: [(&str, [u8; 3]); 8] = [
            ("white", [255, 255, 255]),
            ("black", [0, 0, 0]),
            ("red", [255, 0, 0]),
            ("green", [0, 255, 0]),
            ("blue", [0, 0, 255]),
            ("yellow", [255, 255, 0]),
            ("magenta", [255, 0, 255]),
            ("cyan", [0, 255, 255]),
        ];
        if text == "auto" {
            return Ok(DamageColour::Auto);
        }
        if let Some((_, colour)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(DamageColour::Named(*colour));
        }
        let number = text
            .strip_prefix('#')
            .filter(|digits| digits.len() == 6)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match number {
            Some(number) => Ok(DamageColour::Named(
                [16, 8, 0].map(|shift| (number >> shift) as u8),
            )),
            None => Err(format!(
                "expected {} or #rrggbb, got \"{text}\"",
                NAMES.map(|(name, _)| name).join(", ")
            )),
        }
    }
}

/// New pixels on each side.
#[derive(Clone, Copy, Default)]
struct Sides {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl FromStr for Sides {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("expected pixels by side such as left=64,top=32, got \"{text}\"");
        let mut sides = Sides::default();
        for part in text.split(',') {
            let (name, pixels) = part.split_once('=').ok_or_else(bad)?;
            let side = match name.trim() {
                "left" => &mut sides.left,
                "top" => &mut sides.top,
                "right" => &mut sides.right,
                "bottom" => &mut sides.bottom,
                _ => return Err(bad()),
            };
            let pixels: usize = pixels.trim().parse().map_err(|_| bad())?;
            if pixels == 0 || *side != 0 {
                return Err(bad());
            }
            *side = pixels;
        }
        Ok(sides)
    }
}

/// A picture and what of it is to be drawn.
pub struct Task<'a> {
    /// The picture's path, which names the results.
    pub path: &'a Path,
    /// What the name says was done: "edited".
    pub verb: &'static str,
    pub original: Original,
    pub mask: Mask,
    pub prompt: Option<String>,
    /// Side of the windows where no flag says it.
    pub window: Option<usize>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    prompt: Option<&'a str>,
    sampling: &'a SamplingOptions,
    order: Order,
    telling: Telling,
    /// x, y, width, height of the rectangle around the mask.
    mask: [usize; 4],
    masked_pixels: usize,
    windows: Vec<[usize; 4]>,
    candidates: Vec<Candidate>,
    seconds: f64,
}

#[derive(Serialize)]
struct Candidate {
    /// None where it was not kept.
    path: Option<PathBuf>,
    seed: u64,
    log_likelihood: f64,
    tokens: usize,
}

/// Reads, draws, writes, tells.
pub fn run(arguments: Arguments) -> Result<()> {
    let planned = arguments.drawing.plan()?;
    if let Some(path) = &arguments.save_mask {
        outputs::check_file(path, None)?;
    }
    let (original, mask, window) = arguments.open()?;
    mask.check(original.width(), original.height())?;
    if let Some(path) = &arguments.save_mask {
        let format = Format::of_path(path)?;
        files::write_atomic(path, &shown(&mask)?.encode(format, 100)?)?;
        terminal::note(format_args!("mask: {}", path.display()));
    }
    let task = Task {
        path: &arguments.image,
        verb: "edited",
        original,
        mask,
        prompt: arguments.prompt,
        window,
    };
    arguments.drawing.draw(task, planned)
}

impl Arguments {
    /// The picture, its mask, and the side of the windows where that is no matter of the mask alone.
    fn open(&self) -> Result<(Original, Mask, Option<usize>)> {
        let original = Original::open(&self.image)?;
        let (width, height) = (original.width(), original.height());
        if let Some(sides) = self.outpaint {
            let extended = original.extended(sides.left, sides.top, sides.right, sides.bottom)?;
            let old = Area {
                x: sides.left,
                y: sides.top,
                width,
                height,
            };
            let mask = Mask::of_area(extended.width(), extended.height(), old)?.inverted();
            // As much as the old picture shows: what is new comes at its scale.
            return Ok((extended, mask, Some(width.min(height))));
        }
        let mask = if let Some(path) = &self.mask {
            Mask::open(path)?
        } else if let Some(area) = self.area {
            Mask::of_area(width, height, area)?
        } else if let Some(colour) = self.damaged {
            let colour = match colour {
                DamageColour::Auto => None,
                DamageColour::Named(colour) => Some(colour),
            };
            let damage = damage::find(&original.picture(), colour)?;
            let [r, g, b] = damage.colour;
            terminal::note(format_args!(
                "damage: #{r:02x}{g:02x}{b:02x}, {} pixels with their rims",
                damage.mask.count()
            ));
            damage.mask
        } else {
            match original.transparent() {
                Some(asked) => Mask {
                    width,
                    height,
                    asked,
                },
                None => {
                    return Err(Usage::new(
                        format!(
                            "{} has no transparency that could say what to draw",
                            self.image.display()
                        ),
                        "pass --mask, --box, --damaged or --outpaint",
                    )
                    .into());
                }
            }
        };
        let mask = if self.mask_invert {
            mask.inverted()
        } else {
            mask
        };
        Ok((original, mask, None))
    }
}

/// The mask as a picture: white is drawn.
fn shown(mask: &Mask) -> Result<Picture> {
    let rgb = mask
        .asked
        .iter()
        .flat_map(|&asked| [if asked { 255 } else { 0 }; 3])
        .collect();
    Ok(Picture::new(mask.width, mask.height, rgb)?)
}

/// Says on stderr what a model without mixed orders can't do.
pub fn telling_of(pipeline: &Pipeline) -> Telling {
    let telling = edit::telling_for(&pipeline.model);
    if telling == Telling::RasterForced {
        terminal::note(format_args!(
            "note: {} was trained in raster order only: known ids are forced in that order, and what follows a hole is only looked at afterwards",
            pipeline.model.config.name
        ));
    }
    telling
}

impl DrawingFlags {
    /// Which model.
    pub fn model(&self) -> &ModelFlags {
        &self.model
    }

    /// Where the candidates go, checked before any work.
    pub fn plan(&self) -> Result<(outputs::Target, Format)> {
        outputs::plan(self.output.as_deref(), self.format, self.kept())
    }

    fn kept(&self) -> usize {
        self.keep.map_or(self.n, |keep| keep.min(self.n)) as usize
    }

    /// Draws the candidates, writes and tells them.
    pub fn draw(&self, task: Task, (target, format): (outputs::Target, Format)) -> Result<()> {
        let pipeline = self.model.load()?;
        let model = &pipeline.model;
        let seed = self.seed.unwrap_or_else(random_seed);
        let request = EditRequest {
            prompt: task.prompt.clone(),
            n: self.n as usize,
            seed,
            sampling: self.sampling.over(&model.config.sampling),
            order: self.order,
            telling: telling_of(&pipeline),
            look_ahead: edit::LOOK_AHEAD,
            window: self.window.map(|side| side as usize).or(task.window),
            truncate: self.truncate,
        };
        if format == Format::Jpeg {
            terminal::note(
                "note: JPEG changes all pixels a little; PNG keeps those that are not drawn",
            );
        } else if format == Format::Webp && task.original.describe() != "8-bit RGB" {
            terminal::note("note: WebP holds 8-bit RGB; PNG keeps all samples as they are");
        }
        terminal::catch_interrupts()?;
        terminal::note(format_args!("seed: {seed}"));
        let clock = Instant::now();
        let bar = terminal::bar(1, "tokens")?;
        let edits = edit::edit(
            model,
            &task.original,
            &task.mask,
            &request,
            &mut |done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if terminal::stop_requested() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        bar.finish_and_clear();
        let edits = edits?;
        let stem = task.path.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem} {}", task.verb);
        let mut candidates = Vec::with_capacity(edits.candidates.len());
        for (rank, candidate) in edits.candidates.iter().enumerate() {
            let path = if rank < self.kept() {
                let mut picture = task.original.clone();
                candidate.apply(&mut picture, &task.mask);
                let settings = Settings {
                    prompt: task.prompt.clone().unwrap_or_default(),
                    seed: candidate.seed,
                    sampling: request.sampling.clone(),
                    order: request.order,
                    steps: candidate.tokens,
                    model: model.config.name.clone(),
                    width: picture.width(),
                    height: picture.height(),
                    clip_score: None,
                    version: provenance::version(),
                };
                let bytes = provenance::encode_samples(
                    &picture.samples(format),
                    format,
                    self.quality,
                    &settings.parameters(),
                )?;
                let path = target.write(&bytes, &name, candidate.seed, format)?;
                if !self.json {
                    terminal::result(path.display())?;
                }
                Some(path)
            } else {
                None
            };
            candidates.push(Candidate {
                path,
                seed: candidate.seed,
                log_likelihood: candidate.log_likelihood,
                tokens: candidate.tokens,
            });
        }
        if !self.json {
            return Ok(());
        }
        let corners = |area: Area| [area.x, area.y, area.width, area.height];
        terminal::json(&Report {
            model: &model.config.name,
            prompt: task.prompt.as_deref(),
            sampling: &request.sampling,
            order: request.order,
            telling: request.telling,
            mask: task.mask.bounds().map_or([0; 4], corners),
            masked_pixels: task.mask.count(),
            windows: edits.windows.iter().copied().map(corners).collect(),
            candidates,
            seconds: clock.elapsed().as_secs_f64(),
        })
    }
}
