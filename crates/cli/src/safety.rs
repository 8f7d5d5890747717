//! What is done about prompts and pictures, as flags.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::image::Image;
use impasto::model::Model;
use impasto::safety::{Action, Guard, Mode, Policy, Verdict, load_policy};

use crate::commands::pull;
use crate::terminal;

/// Which policy prompts and pictures are checked by.
#[derive(Args)]
pub struct SafetyFlags {
    /// What is done about prompts and pictures of a category that a person may not want to see: off, flag (say it;
    /// refuse sexual/minors) or refuse
    #[arg(long, value_name = "MODE")]
    safety: Option<Mode>,
    /// A policy: actions and thresholds per category, lists of words, a checker of pictures (docs/trust.md)
    #[arg(long, value_name = "FILE")]
    safety_policy: Option<PathBuf>,
}

impl SafetyFlags {
    /// The policy: the file's, with the mode of --safety for categories that the file does not name.
    pub fn policy(&self, default: Mode) -> Result<Policy> {
        let mut policy = match &self.safety_policy {
            Some(path) => load_policy(path)?,
            None => Policy::of(default),
        };
        policy.mode = self.safety.unwrap_or(policy.mode);
        Ok(policy)
    }

    /// Screens prompts, says what was found, and refuses what is to be refused. For the work on pictures that follows.
    pub fn screen(&self, prompts: &[&str]) -> Result<Screened> {
        let guard = Guard::prompts(self.policy(Mode::Flag)?)?;
        let mut screened = Screened {
            guard,
            prompts: Vec::new(),
        };
        screened.prompts = screened.screen(prompts)?;
        Ok(screened)
    }
}

/// A guard, and what it found in the prompts.
pub struct Screened {
    pub guard: Guard,
    pub prompts: Vec<Verdict>,
}

impl Screened {
    /// Screens other prompts, such as those that a model has written.
    pub fn screen(&self, prompts: &[&str]) -> Result<Vec<Verdict>> {
        let verdicts: Vec<Verdict> = prompts
            .iter()
            .map(|prompt| self.guard.prompt(&[prompt]))
            .collect();
        for verdict in &verdicts {
            verdict.refuse("prompt")?;
            if verdict.action() > Action::Off {
                terminal::note(format_args!("safety: prompt: {}", verdict.summary()));
            }
        }
        Ok(verdicts)
    }

    /// With the checker of pictures that the policy names, on the model's device.
    pub fn with_pictures(self, model: &Model) -> Result<Self> {
        let cache = pull::default_cache().ok();
        let find = |name: &str| impasto::checkpoint::ModelSource::find(name, cache.as_deref());
        Ok(Screened {
            guard: self.guard.with_pictures(model.device(), find)?,
            prompts: self.prompts,
        })
    }

    /// What is found in a picture of the prompt with this number.
    pub fn picture(&self, picture: &Image, prompt: usize, seed: u64) -> Result<Verdict> {
        let nothing = Verdict::default();
        let prompt = self.prompts.get(prompt).unwrap_or(&nothing);
        let mut verdicts = self.guard.pictures(std::slice::from_ref(picture), prompt)?;
        let verdict = verdicts.pop().unwrap_or_default();
        let done = match verdict.action() {
            Action::Off => return Ok(verdict),
            Action::Flag => "",
            Action::Blur => ", blurred",
            Action::Refuse => ", not written",
        };
        terminal::note(format_args!(
            "safety: picture of seed {seed}{done}: {}",
            verdict.summary()
        ));
        Ok(verdict)
    }
}
