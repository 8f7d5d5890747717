//! Counters for Prometheus, and whether the server lives and works.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::error::ApiResult;
use crate::records::Status;
use crate::{App, ServeError, Stopping, blocking};

/// Upper bounds of the histogram of jobs' times, in seconds.
const BOUNDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by the first digit of their status.
    answers: [AtomicU64; 6],
    pictures: AtomicU64,
    ended: [AtomicU64; 3],
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
    /// A moving average, for estimates.
    usual: f64,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, status: u16) {
        if let Some(counter) = self.answers.get(usize::from(status / 100)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A picture is listed.
    pub fn drew(&self) {
        self.pictures.fetch_add(1, Ordering::Relaxed);
    }

    /// A job ended, this long after it was submitted.
    pub fn ended(&self, status: Status, seconds: f64) {
        let place = match status {
            Status::Done => 0,
            Status::Failed => 1,
            _ => 2,
        };
        self.ended[place].fetch_add(1, Ordering::Relaxed);
        if status != Status::Done {
            return;
        }
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        for (count, bound) in times.counts.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        times.count += 1;
        times.sum += seconds;
        times.usual = match times.count {
            1 => seconds,
            _ => 0.9 * times.usual + 0.1 * seconds,
        };
    }

    /// After how many seconds a full queue has room again, more or less.
    pub fn retry_after(&self) -> u64 {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        (times.usual.ceil() as u64).clamp(1, 60)
    }
}

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

async fn ready(State(app): State<App>) -> Response {
    let store = app.clone();
    let readable = blocking(move || store.store.count_pictures()).await.is_ok();
    let (status, word) = match (app.stopping(), readable) {
        (Stopping::No, true) => (StatusCode::OK, "ready"),
        (Stopping::No, false) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
        ),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    (status, Json(json!({"status": word}))).into_response()
}

async fn metrics(State(app): State<App>) -> ApiResult<Response> {
    let metrics = app.clone();
    let text = blocking(move || metrics.render()).await?;
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}

impl App {
    fn render(&self) -> Result<String, ServeError> {
        let mut text = String::new();
        let metrics = &self.metrics;
        let mut add = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
            // Writing into a string does not fail.
            let _ = writeln!(
                text,
                "# HELP impasto_{name} {help}\n# TYPE impasto_{name} {kind}"
            );
            for (labels, value) in values {
                let _ = writeln!(text, "impasto_{name}{labels} {value}");
            }
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let answers: Vec<_> = (1..6)
            .map(|digit| {
                (
                    format!("{{status=\"{digit}xx\"}}"),
                    count(&metrics.answers[digit]),
                )
            })
            .collect();
        add(
            "http_responses_total",
            "counter",
            "Answers by status.",
            &answers,
        );
        let ended: Vec<_> = ["done", "failed", "cancelled"]
            .iter()
            .zip(&metrics.ended)
            .map(|(status, counter)| (format!("{{status=\"{status}\"}}"), count(counter)))
            .collect();
        add(
            "jobs_ended_total",
            "counter",
            "Jobs that ended, by how.",
            &ended,
        );
        let one = |value: f64| vec![(String::new(), value)];
        add(
            "jobs_live",
            "gauge",
            "Jobs that wait or run.",
            &one(self.jobs.len() as f64),
        );
        add(
            "jobs_most",
            "gauge",
            "Jobs that may wait or run.",
            &one(self.config.max_queue as f64),
        );
        add(
            "pictures_drawn_total",
            "counter",
            "Pictures that were drawn.",
            &one(count(&metrics.pictures)),
        );
        let (pictures, _) = self.store.count_pictures()?;
        add(
            "pictures",
            "gauge",
            "Pictures that are listed.",
            &one(pictures as f64),
        );
        let label = |id: &str| format!("{{model={}}}", serde_json::Value::from(id));
        let loaded: Vec<_> = self
            .models
            .iter()
            .map(|model| {
                (
                    label(&model.card.id),
                    f64::from(u8::from(model.is_loaded())),
                )
            })
            .collect();
        add(
            "model_loaded",
            "gauge",
            "Whether a model is in memory.",
            &loaded,
        );
        let times = metrics.times.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buckets: Vec<_> = BOUNDS
            .iter()
            .zip(times.counts)
            .map(|(bound, count)| (format!("_bucket{{le=\"{bound}\"}}"), count as f64))
            .collect();
        buckets.push(("_bucket{le=\"+Inf\"}".into(), times.count as f64));
        buckets.push(("_sum".into(), times.sum));
        buckets.push(("_count".into(), times.count as f64));
        add(
            "job_seconds",
            "histogram",
            "From submission to the last picture.",
            &buckets,
        );
        add(
            "start_time_seconds",
            "gauge",
            "When the server started.",
            &one(self.started),
        );
        Ok(text)
    }
}
