//! `impasto doctor`: what this machine and this program have.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use impasto::data::scenes::Sources;
use impasto::doctor::{Diagnosis, Places, examine};

use crate::commands::pull;
use crate::terminal;

/// Print a summary of this program and this machine, for bug reports
///
/// Version, processor and kernels, memory, working devices, models, fonts; for each missing part, what needs it and how
/// to install it. Contains no user name, host name or token; the home folder is written as ~.
#[derive(Args)]
pub struct Arguments {
    /// Where to look for checkpoint folders
    #[arg(long, value_name = "DIR", default_value = "models")]
    models: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Collects and prints.
pub fn run(arguments: Arguments) -> Result<()> {
    let diagnosis = examine(&Places {
        home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
        cache: pull::default_cache().ok(),
        models: arguments.models,
        sources: Sources::default(),
    });
    if arguments.json {
        return terminal::json(&diagnosis);
    }
    terminal::result(page(&diagnosis).trim_end())
}

fn page(diagnosis: &Diagnosis) -> String {
    let mut page = Page::default();
    let program = &diagnosis.program;
    page.row("program", format!("impasto {}", program.version));
    page.row("target", &program.target);
    page.row("features", list(&program.features));
    if program.debug_assertions {
        page.row("build", "debug: build with --release");
    }
    let machine = &diagnosis.machine;
    page.row("system", &machine.system);
    page.row("processor", machine.cpu.as_deref().unwrap_or("unknown"));
    page.row(
        "threads",
        format!("{} of {}", machine.threads, machine.cpus),
    );
    page.row("memory", memory(diagnosis));
    let kernels = &diagnosis.kernels;
    page.row(
        "kernels",
        format!(
            "{}, bf16: {}, int8 and int4: {}",
            kernels.floats, kernels.halves, kernels.integers
        ),
    );
    page.row("extensions", list(&kernels.extensions));
    for device in &diagnosis.devices {
        let state = match (&device.answer, &device.reason) {
            (Some(answer), _) if device.bf16 => format!("{answer}, bf16"),
            (Some(answer), _) => answer.clone(),
            (None, reason) => format!("no: {}", reason.as_deref().unwrap_or_default()),
        };
        page.row(&format!("device {}", device.name), state);
    }
    for model in &diagnosis.models {
        let state = match &model.error {
            None => format!("{} ({})", model.name, model.kind),
            Some(error) => format!("{} can't be used: {error}", model.name),
        };
        page.row("model", state);
    }
    match &diagnosis.cache {
        None => page.row("cache", "no home folder to keep pulled models in"),
        Some(cache) => {
            page.row(
                "cache",
                format!(
                    "{}, {}, {} others",
                    cache.folder,
                    size(cache.bytes),
                    cache.others
                ),
            );
            for model in &cache.models {
                page.row("pulled", format!("{}, {}", model.name, size(model.bytes)));
            }
        }
    }
    for world in &diagnosis.worlds {
        let needs = match world.needs.is_empty() {
            true => String::new(),
            false => format!(" (needs {})", world.needs.join(", ")),
        };
        let state = if world.usable { "usable" } else { "not usable" };
        page.row(&format!("world {}", world.name), format!("{state}{needs}"));
    }
    if !diagnosis.missing.is_empty() {
        page.text += "\nmissing:\n";
    }
    for part in &diagnosis.missing {
        page.text += &format!(
            "- {}\n  needed for {}\n  {}\n",
            part.what, part.needed_for, part.how
        );
    }
    page.text
}

fn memory(diagnosis: &Diagnosis) -> String {
    let machine = &diagnosis.machine;
    let parts = [
        machine.memory_bytes.map(size),
        machine
            .available_bytes
            .map(|bytes| format!("{} available", size(bytes))),
        machine
            .limit_bytes
            .map(|bytes| format!("limited to {}", size(bytes))),
    ];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    match known.is_empty() {
        true => "unknown".to_owned(),
        false => known.join(", "),
    }
}

fn list<T: AsRef<str>>(all: &[T]) -> String {
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Lines of `name value`.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn row(&mut self, name: &str, value: impl AsRef<str>) {
        self.text += &format!("{name:<15} {}\n", value.as_ref());
    }
}
