//! A run's folder: one training at a time, and what it was started with.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::checkpoints::Checkpoints;
use super::engine::{Event, Observer, ReportEvents};
use super::source::ImageSource;
use crate::error::Hint;
use crate::error::Reason;
use crate::files::{self, FolderLock};
use crate::{Error, Result};

/// The config that a run was started with, defaults filled in.
const CONFIG: &str = "config.json";
/// What its data was.
const DATA: &str = "data.json";

/// Makes a run's folder and keeps other trainings out of it for as long as the result lives; files that a killed
/// run was writing are removed.
pub(super) fn open(dir: &Path) -> Result<FolderLock> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let lock = files::lock(dir)?.ok_or_else(|| {
        Error::bad_file(
            dir,
            "another training is writing into this folder; wait until it is done, or choose another one",
        )
        .with_hint(Hint::OtherOutput)
    })?;
    for folder in ["", "samples", "model", "adapter"] {
        files::clear_stale(&dir.join(folder));
    }
    Ok(lock)
}

/// Writes down what a run is started with; one that is resumed says what is different now.
///
/// # Errors
/// If there are checkpoints of another run, whose config must stay.
pub(super) fn begin<C: Serialize>(
    dir: &Path,
    config: &C,
    source: &dyn ImageSource,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<()> {
    let json = |e: serde_json::Error| Error::invalid("config", Reason::of(e));
    let resolved = serde_json::to_vec_pretty(config).map_err(json)?;
    // As it is read back: a number of 32 bits has more digits when it becomes a value directly.
    let now = serde_json::from_slice(&resolved).map_err(json)?;
    let data = Value::from(source.fingerprint());
    let checkpoints = Checkpoints::list_in(dir)?;
    if !checkpoints.is_empty() {
        if !resume {
            return Err(Error::invalid(
                "output",
                format!("{} holds checkpoints already", dir.display()),
            )
            .with_hint(Hint::Resume));
        }
        let mut differences = Vec::new();
        if let Some(before) = read(&dir.join(CONFIG)) {
            compare("", &before, &now, &mut differences);
        }
        if read(&dir.join(DATA)).is_some_and(|before| before != data) {
            differences.push("the data's pictures or captions are others than before".to_owned());
        }
        if !differences.is_empty() {
            observer.report(Event::Warning(format!(
                "differs from the run so far: {}",
                differences.join("; ")
            )));
        }
    }
    files::write_atomic(dir.join(CONFIG), &resolved)?;
    files::write_atomic(dir.join(DATA), data.to_string().as_bytes())
}

/// What an earlier run left; damaged, it can't be compared with.
fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&files::read(path).ok()?).ok()
}

/// Fields whose values differ, by their names with dots between.
fn compare(name: &str, before: &Value, now: &Value, differences: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
            names.sort();
            names.dedup();
            for field in names {
                let name = match name {
                    "" => field.clone(),
                    name => format!("{name}.{field}"),
                };
                let of = |fields: &serde_json::Map<String, Value>| {
                    fields.get(field).cloned().unwrap_or_default()
                };
                compare(&name, &of(before), &of(now), differences);
            }
        }
        (before, now) if before == now => {}
        (before, now) => differences.push(format!("{name} was {before}, is {now}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named_with_both_values() {
        let before = json!({"run": {"steps": 9, "learning_rate": 0.001}, "validation": 4});
        let now = json!({"run": {"steps": 9, "learning_rate": 0.01}, "from": "a"});
        let mut differences = Vec::new();
        compare("", &before, &now, &mut differences);
        assert_eq!(
            differences,
            [
                "from was null, is \"a\"",
                "run.learning_rate was 0.001, is 0.01",
                "validation was 4, is null",
            ]
        );
    }
}
