//! Lines on stderr, one a request and one a failure: `time level key=value …`, or JSON.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static QUIET: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(false);

/// How much is logged, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// One JSON object a line.
    pub json: bool,
    /// Failures alone, without a line for each request.
    pub quiet: bool,
}

/// Takes effect for the whole process.
pub fn set(options: LogOptions) {
    QUIET.store(options.quiet, Ordering::Relaxed);
    JSON.store(options.json, Ordering::Relaxed);
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// A request that was answered. What clients send (prompts, keys, queries) is not logged.
pub fn request(method: &str, path: &str, status: u16, seconds: f64, client: &str, id: &str) {
    if QUIET.load(Ordering::Relaxed) {
        return;
    }
    let line = match JSON.load(Ordering::Relaxed) {
        true => serde_json::json!({
            "time": now(), "level": "info", "method": method, "path": path, "status": status,
            "seconds": seconds, "client": client, "request": id,
        })
        .to_string(),
        false => format!(
            "{:.3} info {method} {path} status={status} seconds={seconds:.3} client={client} request={id}",
            now()
        ),
    };
    write(&line);
}

/// Something that a client requested failed, and not by the client's fault.
pub fn error(message: impl Display) {
    say("error", &message.to_string());
}

/// Something that whoever runs the server wants to know.
pub fn note(message: impl Display) {
    if !QUIET.load(Ordering::Relaxed) {
        say("info", &message.to_string());
    }
}

fn say(level: &str, message: &str) {
    let message: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = match JSON.load(Ordering::Relaxed) {
        true => serde_json::json!({"time": now(), "level": level, "message": message}).to_string(),
        false => format!("{:.3} {level} {message}", now()),
    };
    write(&line);
}

fn write(line: &str) {
    // A closed stderr is no reason to stop serving.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
