//! Jobs and pictures as they are kept.

use impasto::{Edit, Generate, Vary};
use serde::{Deserialize, Serialize};

use crate::error::JobError;

/// What a job does. The pictures that it works on are files of the data folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    /// Pictures of a prompt.
    Generate {
        /// The request.
        request: Generate,
    },
    /// Parts of a picture drawn anew.
    Edit {
        /// The request; its region counts where there is no mask.
        request: Edit,
        /// Whether there is a mask's file.
        #[serde(default)]
        mask: bool,
    },
    /// Variations of a picture.
    Vary {
        /// The request.
        request: Vary,
    },
}

impl Task {
    /// The task's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Task::Generate { .. } => "generate",
            Task::Edit { .. } => "edit",
            Task::Vary { .. } => "vary",
        }
    }

    /// What the pictures show.
    pub fn prompt(&self) -> &str {
        match self {
            Task::Generate { request } => &request.prompt,
            Task::Edit { request, .. } => request.prompt.as_deref().unwrap_or_default(),
            Task::Vary { request } => request.prompt.as_deref().unwrap_or_default(),
        }
    }

    /// What the pictures move away from.
    pub fn negative_prompt(&self) -> &str {
        match self {
            Task::Generate { request } => request.negative_prompt.as_deref(),
            Task::Edit { request, .. } => request.negative_prompt.as_deref(),
            Task::Vary { request } => request.negative_prompt.as_deref(),
        }
        .unwrap_or_default()
    }

    /// How many times as large finished pictures become.
    pub fn upscale(&self) -> Option<usize> {
        match self {
            Task::Generate { request } => request.upscale,
            Task::Edit { request, .. } => request.upscale,
            Task::Vary { request } => request.upscale,
        }
    }

    /// The seed of the first picture.
    pub fn seed(&self) -> u64 {
        match self {
            Task::Generate { request } => request.seed,
            Task::Edit { request, .. } => request.seed,
            Task::Vary { request } => request.seed,
        }
    }

    /// Pictures that come of it.
    pub fn n(&self) -> usize {
        match self {
            Task::Generate { request } => request.n,
            Task::Edit { request, .. } => request.n,
            Task::Vary { request } => request.n,
        }
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits.
    Queued,
    /// A model works on it.
    Running,
    /// All its pictures are there.
    Done,
    /// It can't be done.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl Status {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// A job as it is kept.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub client: String,
    /// The model's name.
    pub model: String,
    /// What is to be done.
    pub task: Task,
    /// Whether a connection waits for it: it ends with that.
    pub attached: bool,
    /// Where it is.
    pub status: Status,
    /// Seconds since 1970.
    pub created: f64,
    /// When a model began with it.
    pub started: Option<f64>,
    /// When it ended.
    pub finished: Option<f64>,
    /// Why it failed.
    pub error: Option<JobError>,
}

/// A picture as it is kept, and as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Its name: 128 random bits.
    pub id: String,
    /// The job that made it.
    pub job: String,
    /// Its place among the job's pictures.
    pub place: usize,
    /// The model's name.
    pub model: String,
    /// `generate`, `edit` or `vary`.
    pub kind: String,
    /// What it shows.
    pub prompt: String,
    /// Its own seed, as text: JavaScript's numbers have 53 bits.
    pub seed: String,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// The `parameters` text that is in its file.
    pub parameters: String,
    /// ln p of its ids, in nats.
    pub log_likelihood: Option<f64>,
    /// Cosine of picture and prompt, where a CLIP chose.
    pub clip_score: Option<f64>,
    /// Ids that were sampled for it.
    pub tokens: usize,
    /// Whether a person wants to keep it.
    pub favourite: bool,
    /// Seconds since 1970.
    pub created: f64,
}
