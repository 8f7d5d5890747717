//! `impasto train`: the trainings, each from one config file.

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use impasto::families::ModelFiles;
use impasto::observer::{self, Observer, TrainingEvent};
use impasto::train::{
    SourceConfig, clip, config, dalle, fine_tune, image_tokenizer, text_tokenizer,
};
use impasto::{Error, files};
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::arguments::{DeviceFlags, find_model};
use crate::terminal::{self, note};

/// Train a text tokenizer, an image tokenizer, a transformer, a CLIP
///
/// A model needs the two tokenizers first, then the transformer (dalle). Ctrl-C writes a checkpoint and stops; --resume
/// continues exactly from there.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: TrainingKind,
}

#[derive(Subcommand)]
enum TrainingKind {
    /// Train a text tokenizer on captions
    TextTokenizer(RunFlags),
    /// Train an image tokenizer on pictures
    ImageTokenizer(RunFlags),
    /// Train the transformer with both tokenizers, and write the complete model
    Dalle(DalleFlags),
    /// Train a CLIP, which ranks and searches pictures by words
    Clip(RunFlags),
}

#[derive(Args)]
struct DalleFlags {
    #[command(flatten)]
    run: RunFlags,
    /// Continue training this model with its tokenizers, whole or, with "lora" in the config, by an adapter: impasto's
    /// own, DALL·E mini or DALLE-pytorch
    #[arg(long, value_name = "NAME|DIR")]
    from: Option<String>,
}

impl DalleFlags {
    /// The model that is fine-tuned, if the config is one for that, and its name: a published one, or any by LoRA.
    fn fine_tuned(&self) -> Result<Option<(ModelFiles, String)>> {
        /// What the configs of both kinds have.
        #[derive(Deserialize)]
        struct Common {
            from: Option<String>,
            #[serde(default)]
            lora: Option<serde_json::Value>,
        }
        let config: Common = config::read(&self.run.config)?;
        let Some(from) = self.from.clone().or(config.from) else {
            return Ok(None);
        };
        let model = ModelFiles::find(&find_model(&from)?)?;
        let tunes = !model.is_native() || config.lora.is_some();
        Ok(tunes.then_some((model, from)))
    }
}

#[derive(Args)]
struct RunFlags {
    /// Training config, JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for checkpoints, metrics and the result
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Continue from the last checkpoint in --out
    #[arg(long)]
    resume: bool,
    /// Leave these pictures of your own data out: a list of paths or SHA-256 sums, one a line, as `data dedup --exclude`
    /// writes it
    #[arg(long, value_name = "LIST")]
    exclude: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlags,
}

impl RunFlags {
    /// Puts --exclude into a config's data.
    fn leave_out(&self, data: &mut SourceConfig) -> Result<()> {
        if let Some(list) = &self.exclude {
            data.exclude(list)?;
        }
        Ok(())
    }
}

/// Trains.
pub fn run(arguments: Arguments) -> Result<()> {
    let (TrainingKind::TextTokenizer(flags)
    | TrainingKind::ImageTokenizer(flags)
    | TrainingKind::Dalle(DalleFlags { run: flags, .. })
    | TrainingKind::Clip(flags)) = &arguments.what;
    std::fs::create_dir_all(&flags.out).map_err(Error::io("create", &flags.out))?;
    files::check_writable(&flags.out)?;
    let (file, out, resume) = (&flags.config, flags.out.as_path(), flags.resume);
    let mut report = TrainingReport::default();
    let path = match &arguments.what {
        TrainingKind::TextTokenizer(_) => {
            let mut config: text_tokenizer::TextTokenizerTrainingConfig = config::read(file)?;
            flags.leave_out(&mut config.data)?;
            start(flags)?;
            text_tokenizer::run(&config, out, &mut report)
        }
        TrainingKind::ImageTokenizer(_) => {
            let mut config: image_tokenizer::ImageTokenizerTrainingConfig = config::read(file)?;
            flags.leave_out(&mut config.data)?;
            let device = start(flags)?;
            image_tokenizer::run(&config, out, &device, resume, &mut report)
        }
        TrainingKind::Dalle(dalle) => match dalle.fine_tuned()? {
            Some((model, from)) => {
                let mut config: fine_tune::FineTuneConfig = config::read(file)?;
                config.from = Some(from);
                flags.leave_out(&mut config.data)?;
                let device = start(flags)?;
                fine_tune::run(&config, &model, out, &device, resume, &mut report)
            }
            None => {
                let mut config: dalle::DalleTrainingConfig = config::read(file)?;
                if dalle.from.is_some() {
                    config.from.clone_from(&dalle.from);
                }
                flags.leave_out(&mut config.data)?;
                let device = start(flags)?;
                dalle::run(&config, out, &device, resume, &mut report)
            }
        },
        TrainingKind::Clip(_) => {
            let mut config: clip::ClipTrainingConfig = config::read(file)?;
            flags.leave_out(&mut config.data)?;
            let device = start(flags)?;
            clip::run(&config, out, &device, resume, &mut report)
        }
    };
    if let Some(bar) = &report.bar {
        bar.finish_and_clear();
    }
    let path = path.map_err(|error| report.explain(error, out))?;
    terminal::result(terminal::shown(&path))
}

fn start(flags: &RunFlags) -> Result<impasto::device::Device> {
    let device = flags.device.select()?;
    terminal::catch_interrupts()?;
    Ok(device)
}

/// Shows the progress of the run: a bar on a terminal, a line now and then elsewhere.
#[derive(Default)]
struct TrainingReport {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    checkpoint: bool,
}

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl TrainingReport {
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    /// Whether it is time for another line.
    fn due(&mut self) -> bool {
        let due = self
            .last_line
            .is_none_or(|line| line.elapsed() >= LINE_EVERY);
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }

    /// An interrupted run says how to continue it.
    fn explain(&self, error: Error, out: &Path) -> anyhow::Error {
        if matches!(error, Error::Stopped) && self.checkpoint {
            self.line(&format!(
                "checkpoint written; --resume --out {} goes on from it",
                out.display()
            ));
        }
        error.into()
    }

    fn step(&mut self, step: u64, steps: u64, text: &str, left: Duration) -> Result<()> {
        if stderr().is_terminal() {
            if self.bar.is_none() {
                self.bar = Some(terminal::bar(steps, "steps")?);
            }
            if let Some(bar) = &self.bar {
                bar.set_position(step);
                bar.set_message(format!("{text} "));
            }
        } else if self.due() || step == steps {
            let left = Duration::from_secs(left.as_secs());
            note(format_args!("step {step}/{steps}, {text}, {left:?} left"));
        }
        Ok(())
    }
}

impl Observer for TrainingReport {
    fn event(&mut self, event: &observer::Event<'_>) -> ControlFlow<()> {
        if let observer::Event::Training(event) = event {
            self.show(event);
        }
        ControlFlow::Continue(())
    }

    fn stop(&self) -> bool {
        terminal::stop_requested()
    }
}

impl TrainingReport {
    fn show(&mut self, event: &TrainingEvent) {
        match event {
            TrainingEvent::Resumed { step } => self.line(&format!("resumed after {step} steps")),
            TrainingEvent::Step {
                step,
                steps,
                loss,
                samples_per_second,
                operations_per_second,
                remaining,
            } => {
                let mut text = format!("loss {loss:.4}, {samples_per_second:.0} samples/s");
                // Small models on a CPU: next to nothing.
                if let Some(rate) = operations_per_second.filter(|&rate| rate >= 1e11) {
                    text += &format!(", {:.1} TFLOP/s", rate / 1e12);
                }
                if let Err(error) = self
                    .step(*step, *steps, &text, *remaining)
                    .context("progress can't be shown")
                {
                    self.line(&format!("warning: {error:#}"));
                }
            }
            TrainingEvent::Metrics { step, values } => {
                let values: Vec<String> = values
                    .iter()
                    .map(|(name, value)| format!("{name} {value:.4}"))
                    .collect();
                self.line(&format!("after {step} steps: {}", values.join(", ")));
            }
            TrainingEvent::Checkpoint { step, path } => {
                self.checkpoint = true;
                self.line(&format!("checkpoint of step {step}: {}", path.display()));
            }
            TrainingEvent::Note(text) => self.line(text),
            TrainingEvent::Warning(text) => self.line(&format!("warning: {text}")),
            TrainingEvent::Preparing(text) => {
                if self.due() {
                    self.line(text);
                }
            }
        }
    }
}
