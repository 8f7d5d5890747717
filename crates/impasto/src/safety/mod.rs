//! What prompts ask for and pictures show, and what is done about it.
//!
//! [`Guard`] puts a [`Policy`] into practice: prompts by lists ([`impasto_safety`]), pictures by a published checker
//! ([`crate::import::safety`]) or by concepts in a CLIP's space ([`concepts`]), whose thresholds [`calibration`] finds.
//! A score is always returned. What is refused is an error or a finding, never a black picture.

mod blur;
pub mod calibration;
pub mod concepts;
mod pictures;

use std::path::Path;

use burn::tensor::Device;
pub use impasto_safety::{
    Action, Category, Disguise, Filter, Lists, Match, Mode, PicturePolicy, Policy, Screening,
    WordPolicy,
};
use serde::Serialize;

use crate::checkpoint::ModelSource;
use crate::error::Reason;
use crate::image::Image;
use crate::{Error, Result};
use concepts::ConceptChecker;
pub use pictures::{Checker, PictureChecker, PictureScores};

/// The library's error of one of lists and policies.
fn own(error: impasto_safety::Error) -> Error {
    match error {
        impasto_safety::Error::Read { path, source } => Error::io("read", path)(source),
        impasto_safety::Error::File { path, reason } => Error::bad_file(path, reason),
        other => Error::invalid("safety policy", Reason::of(other)),
    }
}

/// Reads a policy's file.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn load_policy(path: &Path) -> Result<Policy> {
    Policy::load(path).map_err(own)
}

/// A category that something belongs to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The category.
    pub category: Category,
    /// What is done about it.
    pub action: Action,
    /// Its score, 0 to 1.
    pub score: f32,
    /// What was found: words of a prompt, a concept or a label of a checker.
    pub reason: String,
}

/// What a guard says of a prompt or of a picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// What was found, the strictest first.
    pub findings: Vec<Finding>,
    /// The scores of all categories that were looked at.
    pub scores: std::collections::BTreeMap<Category, f32>,
}

impl Verdict {
    /// The strictest thing to do.
    pub fn action(&self) -> Action {
        self.findings
            .first()
            .map_or(Action::Off, |finding| finding.action)
    }

    /// Returns the error that a refusal is; `what` is refused.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse(&self, what: &'static str) -> Result<()> {
        match self.findings.first() {
            Some(finding) if finding.action == Action::Refuse => Err(Error::Refused {
                what,
                category: finding.category,
                score: finding.score,
                reason: finding.reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// One line of all findings; empty if there are none.
    pub fn summary(&self) -> String {
        let findings = self.findings.iter();
        let each = findings.map(|finding| {
            let Finding {
                category,
                score,
                reason,
                ..
            } = finding;
            format!("{category} {score:.2} ({reason})")
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// What was found in a picture, for its [`Settings`](crate::provenance::Settings).
    pub fn record(&self) -> Option<String> {
        let findings = self.findings.iter();
        let each = findings.map(|finding| {
            let blurred = match finding.action {
                Action::Blur => " blurred",
                _ => "",
            };
            format!("{} {:.2}{blurred}", finding.category, finding.score)
        });
        let each = each.collect::<Vec<_>>().join("; ");
        (!each.is_empty()).then_some(each)
    }

    /// A picture as the verdict lets it be seen.
    ///
    /// # Errors
    /// Where it has no pixels.
    pub fn shown(&self, picture: Image) -> Result<Image> {
        match self.action() {
            Action::Blur => picture.blurred(),
            _ => Ok(picture),
        }
    }

    /// With what was found elsewhere of the same picture, such as in its prompt.
    fn and(mut self, other: &Verdict) -> Self {
        for finding in &other.findings {
            match self
                .findings
                .iter_mut()
                .find(|own| own.category == finding.category)
            {
                Some(own) if own.score >= finding.score => {}
                Some(own) => *own = finding.clone(),
                None => self.findings.push(finding.clone()),
            }
        }
        sort(&mut self.findings);
        self
    }
}

fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| b.action.cmp(&a.action).then(b.score.total_cmp(&a.score)));
}

/// A policy at work.
#[derive(Debug)]
pub struct Guard {
    policy: Policy,
    filter: Filter,
    pictures: Option<Box<dyn PictureChecker>>,
}

impl Guard {
    /// A guard of prompts alone.
    ///
    /// # Errors
    /// Where a list of the policy can't be read.
    pub fn prompts(policy: Policy) -> Result<Self> {
        Ok(Guard {
            filter: policy.filter().map_err(own)?,
            policy,
            pictures: None,
        })
    }

    /// A guard of prompts and, where the policy has a checker or concepts, of pictures; `find` finds the models that
    /// it names.
    ///
    /// # Errors
    /// Where a list, a checker or a file of concepts can't be read.
    pub fn open(
        policy: Policy,
        device: &Device,
        find: impl Fn(&str) -> Result<ModelSource>,
    ) -> Result<Self> {
        Guard::prompts(policy)?.with_pictures(device, find)
    }

    /// A guard of prompts that also looks at pictures, where the policy asks for it; see [`Guard::open`].
    ///
    /// # Errors
    /// Where a checker or a file of concepts can't be read.
    pub fn with_pictures(
        mut self,
        device: &Device,
        find: impl Fn(&str) -> Result<ModelSource>,
    ) -> Result<Self> {
        let policy = &self.policy;
        self.pictures = match (&policy.pictures.checker, &policy.pictures.concepts) {
            _ if policy.is_off() => None,
            (Some(name), _) => {
                let source = find(name)?;
                let folder = source.folder().unwrap_or(Path::new(name));
                Some(Box::new(Checker::load(folder, policy, device)?))
            }
            (None, Some(path)) => Some(Box::new(ConceptChecker::load(path, device, find)?)),
            (None, None) => None,
        };
        Ok(self)
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether pictures are looked at.
    pub fn checks_pictures(&self) -> bool {
        self.pictures.is_some()
    }

    /// Whether a picture may be blurred or refused once it is finished, so that parts of it should not be shown before.
    pub fn may_hide_pictures(&self) -> bool {
        let mut actions = Category::ALL
            .into_iter()
            .map(|category| self.policy.action(category));
        match self.checks_pictures() {
            true => actions.any(|action| action >= Action::Blur),
            // Those of a prompt of such a category.
            false => actions.any(|action| action == Action::Blur),
        }
    }

    /// What is found in texts that belong together; negative prompts don't count, as they lead away from their words.
    pub fn prompt(&self, texts: &[&str]) -> Verdict {
        if self.policy.is_off() {
            return Verdict::default();
        }
        let screening = self.filter.screen(&texts.join("\n"));
        let findings = self.policy.decide(&screening).into_iter();
        let findings = findings.map(|(category, action, score)| {
            let matches = screening.matches.iter();
            let of_category = matches.filter(|found| found.category == category);
            // What stands in the prompt, not how the list has it.
            let texts = of_category.map(|found| format!("{:?}", found.text));
            let mut texts: Vec<String> = texts.collect();
            texts.dedup();
            texts.truncate(3);
            Finding {
                category,
                action,
                score,
                reason: texts.join(", "),
            }
        });
        Verdict {
            findings: findings.collect(),
            scores: screening.scores,
        }
    }

    /// What is found in each picture; with what was found in their prompt, whose pictures may have to be blurred for it.
    ///
    /// # Errors
    /// Where a picture can't be scaled.
    pub fn pictures(&self, pictures: &[Image], prompt: &Verdict) -> Result<Vec<Verdict>> {
        let blurred = Verdict {
            findings: prompt
                .findings
                .iter()
                .filter(|finding| finding.action == Action::Blur)
                .cloned()
                .collect(),
            scores: Default::default(),
        };
        let Some(checker) = &self.pictures else {
            return Ok(vec![blurred; pictures.len()]);
        };
        let scores = checker.check(pictures)?;
        Ok(scores
            .into_iter()
            .map(|scores| self.verdict(&scores).and(&blurred))
            .collect())
    }

    fn verdict(&self, scores: &[PictureScores]) -> Verdict {
        let mut verdict = Verdict::default();
        for score in scores {
            let highest = verdict.scores.entry(score.category).or_insert(0.0);
            *highest = highest.max(score.score);
            let flagged = match score.flagged {
                Some(flagged) => flagged,
                None => self.policy.is_flagged(score.category, score.score),
            };
            let action = self.policy.action(score.category);
            if !flagged || action == Action::Off {
                continue;
            }
            verdict.findings.push(Finding {
                category: score.category,
                action,
                score: score.score,
                reason: score.reason.clone(),
            });
        }
        sort(&mut verdict.findings);
        verdict
    }
}
