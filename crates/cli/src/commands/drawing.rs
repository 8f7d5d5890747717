//! Candidates of a picture with holes: how `edit` and `complete` draw, rank, write and report them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use impasto::canvas::Conditioning;
use impasto::checkpoint::EMBEDDED_CLIP;
use impasto::edit::{Area, Canvassed, Region};
use impasto::files;
use impasto::image::{Format, MAX_FILE_BYTES, Original};
use impasto::model::Model;
use impasto::models::dalle::Order;
use impasto::observer::Event;
use impasto::provenance::{Encoding, Parent, Settings};
use impasto::rank::Ranker;
use impasto::request::Edit;
use impasto::safety::{Action, Verdict};
use impasto::sampling::SamplingOptions;
use serde::Serialize;

use crate::arguments::{
    FoundUpscaler, LongCaptionFlags, ModelFlags, NO_CLIP, SamplingFlags, UpscaleFlags, find_model,
    random_seed,
};
use crate::failure::Usage;
use crate::provenance::{self, ProvenanceFlags};
use crate::safety::SafetyFlags;
use crate::{outputs, terminal};

/// How candidates are drawn and where they go.
#[derive(Args)]
pub struct DrawingFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Number of candidates; their seeds count up, and the likeliest comes first
    #[arg(short, long = "count", value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    n: u32,
    /// Write only this many candidates, the likeliest [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Also rank tries and candidates by a CLIP's similarity of picture and prompt (sum of both ranks) [default: none]
    #[arg(long, value_name = "NAME|DIR", num_args = 0..=1, default_missing_value = EMBEDDED_CLIP)]
    clip: Option<String>,
    /// Seed of the first candidate [default: random, printed to stderr]
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
    /// Draw each candidate this many times and keep the best [default: 8; 1 for aMUSEd]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    tries: Option<u32>,
    /// Side of the square window that the model sees, in pixels of the picture [default: depends on the thickness of
    /// the hole]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
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
    /// Print one JSON document: paths, seeds, log-likelihoods (nats), windows (pixels), seconds
    #[arg(long)]
    json: bool,
}

/// A picture and the part of it to redraw.
pub struct Task<'a> {
    /// The picture's path, which names the results.
    pub path: &'a Path,
    /// What the name says was done: "edited".
    pub verb: &'static str,
    pub canvassed: Canvassed,
    pub prompt: Option<String>,
}

#[derive(Serialize)]
struct EditReport<'a> {
    model: &'a str,
    prompt: Option<&'a str>,
    sampling: &'a SamplingOptions,
    order: Order,
    conditioning: Conditioning,
    /// x, y, width, height of the rectangle around the mask.
    mask: [usize; 4],
    masked_pixels: usize,
    windows: Vec<[usize; 4]>,
    /// What was found in the prompt.
    safety: &'a [Verdict],
    candidates: Vec<Candidate>,
    seconds: f64,
}

#[derive(Serialize)]
struct Candidate {
    /// None if the candidate was not kept.
    #[serde(serialize_with = "outputs::lossy")]
    path: Option<PathBuf>,
    seed: u64,
    /// None where nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_likelihood: Option<f64>,
    /// The rank criterion: log-likelihood with guidance, or, by a model that captions, that per image id and that of the
    /// prompt per text id.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// The second criterion, if there is a CLIP: cosine of picture and prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    clip_score: Option<f32>,
    tokens: usize,
    /// What was found in it; none if it was not kept.
    safety: Option<Verdict>,
}

/// Prints to stderr what a model that supports raster order only does instead.
pub fn note_conditioning(model: &Model) -> Result<()> {
    if model.generator()?.conditioning() == Conditioning::TeacherForced {
        terminal::note(format_args!(
            "note: {} was trained in raster order only: known ids are forced in that order, and tries under which the ids after a hole are unlikely are rejected",
            model.name()
        ));
    }
    Ok(())
}

impl DrawingFlags {
    /// Loads the model.
    pub fn open(&self) -> Result<Model> {
        self.model.open()
    }

    /// Where the candidates go, checked before any work.
    pub fn plan(&self) -> Result<(outputs::Target, Format)> {
        self.upscale.find()?;
        outputs::plan(self.output.as_deref(), self.format, self.kept())
    }

    fn kept(&self) -> usize {
        self.keep.map_or(self.n, |keep| keep.min(self.n)) as usize
    }

    /// The CLIP that ranks.
    fn ranker(&self, prompt: Option<&str>, model: &Model) -> Result<Option<Ranker>> {
        let (clip, long) = match (&self.clip, prompt) {
            (Some(clip), _) if clip == NO_CLIP => return Ok(None),
            (Some(clip), Some(_)) => (clip.as_str(), self.long.what()),
            (Some(_), None) => {
                return Err(Usage::new(
                    "--clip compares pictures with a prompt, and there is none",
                    "give --prompt, or leave --clip out",
                )
                .into());
            }
            (None, _) => return Ok(None),
        };
        let ranker = Ranker::load(&find_model(clip)?, model.device())?;
        if let Some(prompt) = prompt {
            ranker.check_caption(prompt, long)?;
        }
        Ok(Some(ranker))
    }

    /// Draws the candidates, writes and reports them.
    pub fn draw(
        &self,
        model: &Model,
        task: Task,
        (target, format): (outputs::Target, Format),
    ) -> Result<()> {
        let seed = self.seed.unwrap_or_else(random_seed);
        let policy = self.provenance.policy()?;
        // The manifest names the file that the edit started from.
        let parent = match policy.signer.is_some() {
            true => files::read_at_most(task.path, MAX_FILE_BYTES)?,
            false => Vec::new(),
        };
        let texts: Vec<&str> = task.prompt.as_deref().into_iter().collect();
        let screened = self.safety.screen(&texts)?.with_pictures(model)?;
        let ranker = self.ranker(task.prompt.as_deref(), model)?;
        let enlarging = FoundUpscaler::load(self.upscale.find()?, model.device())?;
        note_conditioning(model)?;
        let Canvassed {
            original,
            mask,
            window,
            ..
        } = task.canvassed;
        if format == Format::Jpeg {
            terminal::note(
                "note: JPEG changes all pixels a little; PNG keeps those that are not drawn",
            );
        } else if format == Format::Webp && original.describe() != "8-bit RGB" {
            terminal::note("note: WebP holds 8-bit RGB; PNG keeps all samples as they are");
        }
        terminal::catch_interrupts()?;
        terminal::note(format_args!("seed: {seed}"));
        let clock = Instant::now();
        let bar = terminal::bar(1, "tokens")?;
        let request = Edit {
            prompt: task.prompt,
            negative_prompt: self.negative.clone(),
            n: self.n as usize,
            sampling: self.sampling.overrides(),
            order: self.order,
            tries: self.tries.map(|tries| tries as usize),
            window: self.window.map(|side| side as usize).or(window),
            long: self.long.what(),
            ranker: ranker.map(Arc::new),
            upscale: enlarging.factor,
            upscaler: enlarging.upscaler.clone(),
            ..Edit::new(original, Region::Mask(mask), seed)
        };
        let outcome = model.run(&request, &mut |event: &Event<'_>| {
            if let Event::Tokens { done, total, .. } = event {
                bar.set_length(*total as u64);
                bar.set_position(*done as u64);
            }
            terminal::go_on()
        });
        bar.finish_and_clear();
        let outcome = outcome?;
        let stem = task.path.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem} {}", task.verb);
        let mut candidates = Vec::with_capacity(outcome.candidates.len());
        let mut refused = None;
        for (rank, candidate) in outcome.candidates.iter().enumerate() {
            let edited = &candidate.edited;
            let mut safety = None;
            let path = if rank < self.kept() {
                let go_on = &mut |_: &Event<'_>| terminal::go_on();
                let mut picture = request.finished(&outcome, candidate, go_on)?;
                let verdict =
                    match screened.guard.checks_pictures() || screened.guard.may_hide_pictures() {
                        true => screened.picture(&picture.picture(), 0, edited.seed)?,
                        false => Verdict::default(),
                    };
                if verdict.action() == Action::Blur {
                    picture = Original::from(&picture.picture().blurred()?);
                }
                let refusal = verdict.refuse("picture");
                let settings = Settings {
                    safety: verdict.record(),
                    ..outcome.settings(
                        &request,
                        candidate,
                        (model.name(), model.licence()),
                        &picture,
                    )
                };
                let encoding = Encoding {
                    format,
                    quality: self.quality,
                };
                let file_name = task.path.file_name().unwrap_or_default().to_string_lossy();
                let parent = policy.signer.is_some().then_some(Parent {
                    bytes: &parent,
                    name: &file_name,
                });
                let settings = enlarging.settings(&settings);
                let written =
                    policy.encode_edit(&picture, &outcome.mask, &settings, encoding, parent)?;
                safety = Some(verdict);
                match refusal {
                    Err(error) => {
                        refused = refused.or(Some(error));
                        None
                    }
                    Ok(()) => {
                        let path = target.write(&written.bytes, &name, edited.seed, format)?;
                        provenance::note(&path, &written.notes);
                        if !self.json {
                            terminal::result(terminal::shown(&path))?;
                        }
                        Some(path)
                    }
                }
            } else {
                None
            };
            candidates.push(Candidate {
                path,
                seed: edited.seed,
                log_likelihood: edited.likelihood.map(|likelihood| likelihood.given),
                score: edited.likelihood.map(|likelihood| likelihood.score),
                clip_score: candidate.clip_score,
                tokens: edited.tokens,
                safety,
            });
        }
        let end = match refused {
            Some(error) => Err(error.into()),
            None => Ok(()),
        };
        if !self.json {
            return end;
        }
        let corners = |area: Area| [area.x, area.y, area.width, area.height];
        terminal::json(&EditReport {
            model: model.name(),
            prompt: request.prompt.as_deref(),
            sampling: &outcome.sampling,
            order: outcome.order,
            conditioning: outcome.conditioning,
            mask: outcome.mask.bounds().map_or([0; 4], corners),
            masked_pixels: outcome.mask.count(),
            windows: outcome.windows.iter().copied().map(corners).collect(),
            safety: &screened.prompts,
            candidates,
            seconds: clock.elapsed().as_secs_f64(),
        })?;
        end
    }
}
