//! From a request to a job, and waiting for it.

use std::sync::Arc;

use axum::body::Bytes;
use impasto::request::Request;

use crate::error::{ApiError, ApiResult, JobError};
use crate::jobs::{Job, JobState};
use crate::models::Hosted;
use crate::records::{JobRecord, Status, Task};
use crate::{App, Stopping, blocking, log};

/// Images that the model samples for one job.
pub const MOST_IMAGES: usize = 64;

/// A job to be.
#[derive(Debug)]
pub struct Submission {
    /// Whose.
    pub client: String,
    /// Which model.
    pub model: Arc<Hosted>,
    /// What.
    pub task: Task,
    /// The pictures that it works on.
    pub inputs: Vec<(&'static str, Bytes)>,
    /// Whether it ends with the connection that asks for it.
    pub attached: bool,
    /// Partial pictures that a stream has to get.
    pub partials: usize,
}

/// Puts a job into the queue: it is on the disk when this returns.
pub async fn submit(app: &App, submission: Submission) -> ApiResult<Arc<Job>> {
    let Submission {
        client,
        model,
        task,
        inputs,
        attached,
        partials,
    } = submission;
    if app.stopping() != Stopping::No {
        return Err(ApiError::stopping());
    }
    check(&task)?;
    check_upscale(app, &task)?;
    let verdict = app.guard.prompt(&[task.prompt()]);
    verdict
        .refuse("prompt")
        .map_err(|error| ApiError::from(JobError::of(&error)))?;
    let record = JobRecord {
        id: crate::random_id(),
        client,
        model: model.card.id.clone(),
        task,
        attached,
        status: Status::Queued,
        created: log::now(),
        started: None,
        finished: None,
        error: None,
    };
    let job = Job::new(record, partials);
    if !app.jobs.admit(&job) {
        return Err(ApiError::overloaded(app.metrics.retry_after()));
    }
    let (shared, kept) = (app.clone(), job.clone());
    // A handler whose client hangs up is dropped here; what was begun is finished all the same.
    let added = blocking(move || {
        let inputs: Vec<(&str, &[u8])> = inputs
            .iter()
            .map(|(name, bytes)| (*name, &bytes[..]))
            .collect();
        let added = shared.store.add_job(&kept.record, &inputs);
        match added {
            Ok(()) => model.push(kept),
            Err(_) => shared.jobs.remove(&kept.record.id),
        }
        added
    });
    added.await?;
    Ok(job)
}

/// What of a task can be refused without the model.
fn check(task: &Task) -> ApiResult<()> {
    let invalid = |error: impasto::Error| -> ApiError { JobError::of(&error).into() };
    let empty = || ApiError::invalid("prompt", "The prompt is empty.");
    let (n, param) = match task {
        Task::Generate { request } => {
            if request.prompt.trim().is_empty() {
                return Err(empty());
            }
            // The CLIP is loaded when it is needed.
            if request.best_of.is_some_and(|best_of| best_of < request.n) {
                return Err(ApiError::invalid("best_of", "best_of is less than n."));
            }
            let alone = impasto::Generate {
                best_of: None,
                upscale: None,
                ..request.clone()
            };
            alone.validate().map_err(invalid)?;
            match request.best_of {
                Some(best_of) => (best_of, "best_of"),
                None => (request.n, "n"),
            }
        }
        Task::Edit { request, .. } => {
            request.sampling.validate().map_err(invalid)?;
            if request
                .prompt
                .as_ref()
                .is_some_and(|prompt| prompt.trim().is_empty())
            {
                return Err(empty());
            }
            if request.tries.is_some_and(|tries| tries == 0 || tries > 16) {
                return Err(ApiError::invalid("tries", "tries is not between 1 and 16."));
            }
            (request.n, "n")
        }
        Task::Vary { request } => {
            request.sampling.validate().map_err(invalid)?;
            if !(0.0..=1.0).contains(&request.strength) {
                return Err(ApiError::invalid(
                    "strength",
                    "strength is not between 0 and 1.",
                ));
            }
            if request
                .prompt
                .as_ref()
                .is_some_and(|prompt| prompt.trim().is_empty())
            {
                return Err(empty());
            }
            (request.n, "n")
        }
    };
    if n == 0 || n > MOST_IMAGES {
        return Err(ApiError::invalid(
            param,
            format!("{param} is not between 1 and {MOST_IMAGES}."),
        ));
    }
    Ok(())
}

/// Factors by which clients may have pictures enlarged.
pub const FACTORS: [usize; 2] = [2, 4];

/// Whether finished pictures can be enlarged.
fn check_upscale(app: &App, task: &Task) -> ApiResult<()> {
    let reason = match task.upscale() {
        None => return Ok(()),
        Some(factor) if !FACTORS.contains(&factor) => "upscale is not 2 or 4.",
        Some(_) if app.upscaler.is_none() => {
            "This server enlarges no pictures: it has no upscaler (impasto serve --upscaler)."
        }
        Some(_) => return Ok(()),
    };
    Err(ApiError::invalid("upscale", reason))
}

/// A job that somebody waits for: it is cancelled when the one who waits goes away.
#[derive(Debug)]
pub struct Attached {
    app: App,
    /// The job.
    pub job: Arc<Job>,
}

impl Attached {
    /// From now on.
    pub fn new(app: App, job: Arc<Job>) -> Self {
        Attached { app, job }
    }

    /// Waits for its end.
    pub async fn finished(&self) -> ApiResult<JobState> {
        finished(&self.job).await
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.job.state().status.is_over() {
            self.app.cancel(&self.job);
        }
    }
}

/// Waits for the end of a job.
pub async fn finished(job: &Job) -> ApiResult<JobState> {
    let mut watched = job.watch();
    let state = watched.wait_for(|state| state.status.is_over()).await;
    let state = state.map_err(ApiError::internal)?.clone();
    match state.status {
        Status::Done => Ok(state),
        _ => Err(ending(&state)),
    }
}

/// Why a job that is over has no pictures.
pub fn ending(state: &JobState) -> ApiError {
    state.error.clone().map_or_else(
        || {
            let error = JobError {
                code: "cancelled".into(),
                message: "The job was cancelled.".into(),
                param: None,
            };
            error.into()
        },
        ApiError::from,
    )
}
