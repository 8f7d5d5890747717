//! `metrics.jsonl`, one line per logged step, and its plot.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde_json::Value;

use crate::error::Reason;
use crate::{Error, Result, files};

/// A run's metrics file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens `metrics.jsonl` for going on after `step` steps: later lines are dropped.
    pub fn open(run_dir: &Path, step: u64) -> Result<Self> {
        let path = run_dir.join("metrics.jsonl");
        let kept: String = match files::read_to_string(&path) {
            Ok(text) => text
                .lines()
                .filter(|line| {
                    let step_of = |line: &str| {
                        serde_json::from_str::<Value>(line)
                            .ok()?
                            .get("step")?
                            .as_u64()
                    };
                    step_of(line).is_some_and(|logged| logged <= step)
                })
                .map(|line| format!("{line}\n"))
                .collect(),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(error),
        };
        files::write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::io("write", &path))?;
        Ok(MetricsFile { path, file })
    }

    /// Adds a line.
    pub fn log(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        for (name, value) in values {
            line.insert(name.clone(), (*value).into());
        }
        let line = Value::Object(line).to_string();
        writeln!(self.file, "{line}").map_err(Error::io("write", &self.path))
    }

    /// Draws every metric over the steps into `loss.svg`, one panel each.
    pub fn plot(&self, run_dir: &Path) -> Result<()> {
        let text = files::read_to_string(&self.path)?;
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for line in text.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(line) else {
                continue;
            };
            let Some(step) = line.get("step").and_then(Value::as_f64) else {
                continue;
            };
            for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
                if let Some(value) = value.as_f64() {
                    series.entry(name.clone()).or_default().push((step, value));
                }
            }
        }
        series.retain(|_, points| points.len() > 1);
        if series.is_empty() {
            return Ok(());
        }
        let svg = draw(&series).map_err(|reason| Error::invalid("plot", reason))?;
        files::write_atomic(run_dir.join("loss.svg"), svg.as_bytes())
    }
}

/// One panel a metric, 640 × 160 each.
fn draw(series: &BTreeMap<String, Vec<(f64, f64)>>) -> Result<String, Reason> {
    let text = |e: &dyn std::fmt::Display| Reason::from(e.to_string());
    let mut svg = String::new();
    {
        let size = (640, 160 * series.len() as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|e| text(&e))?;
        let panels = root.split_evenly((series.len(), 1));
        for (panel, (name, points)) in panels.iter().zip(series) {
            let last = points.last().map_or(1.0, |point| point.0);
            let low = points
                .iter()
                .map(|point| point.1)
                .fold(f64::INFINITY, f64::min);
            let high = points
                .iter()
                .map(|point| point.1)
                .fold(f64::NEG_INFINITY, f64::max);
            let margin = ((high - low) * 0.05).max(1e-9);
            let mut chart = ChartBuilder::on(panel)
                .margin(6)
                .caption(name, ("sans-serif", 14))
                .x_label_area_size(18)
                .y_label_area_size(56)
                .build_cartesian_2d(points[0].0..last, low - margin..high + margin)
                .map_err(|e| text(&e))?;
            chart
                .configure_mesh()
                .disable_mesh()
                .y_labels(4)
                .draw()
                .map_err(|e| text(&e))?;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), &BLUE))
                .map_err(|e| text(&e))?;
        }
        root.present().map_err(|e| text(&e))?;
    }
    Ok(svg)
}
