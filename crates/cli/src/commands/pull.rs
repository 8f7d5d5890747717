//! `impasto pull`: published models into the cache.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use impasto::hub::{Hub, Known, forbids_commerce, registry};
use impasto::observer::{DownloadProgress, Event};
use indicatif::ProgressBar;

use crate::failure::Usage;
use crate::terminal;

/// Download a published model: resumable, verified, usable offline
#[derive(Args)]
pub struct Arguments {
    /// A known name (see --list), or a repository owner/name on the hub
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List the known models with licence and size
    #[arg(long, conflicts_with = "name")]
    list: bool,
    /// Branch, tag or commit of the repository
    #[arg(long, default_value = "main", value_name = "NAME")]
    revision: String,
    /// Cache folder [default: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; shared with Python's
    /// huggingface_hub]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Address of the hub or of a mirror [default: $HF_ENDPOINT, else https://huggingface.co]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Use the cache only, without network access
    #[arg(long)]
    offline: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Pulls. Names the folder on stdout.
pub fn run(arguments: Arguments) -> Result<()> {
    let Some(name) = &arguments.name else {
        return list(arguments.json);
    };
    let hub = Hub {
        endpoint: endpoint(arguments.endpoint.clone())?,
        cache: match arguments.cache.clone() {
            Some(cache) => cache,
            None => default_cache()?,
        },
        token: variable("HF_TOKEN"),
        offline: arguments.offline || variable("HF_HUB_OFFLINE").is_some_and(|value| value == "1"),
    };
    let entry = impasto::hub::known(name);
    let names = entry.map_or_else(Vec::new, |entry| entry.needs.clone());
    let mut pulled = Vec::new();
    for name in std::iter::once(name.clone()).chain(names) {
        if let Some(entry) = impasto::hub::known(&name) {
            terminal::note(format_args!("{}: {}", entry.name, describe(entry)));
        }
        let mut bars = Bars::new()?;
        let mut show = |event: &Event<'_>| {
            if let Event::Download(progress) = event {
                bars.show(progress);
            }
            terminal::go_on()
        };
        let done = hub.pull(&name, revision(&name, &arguments), &mut show)?;
        bars.clear();
        if let Some(note) = &done.note {
            terminal::note(format_args!("note: {note}; the cached model is used"));
        }
        if !done.unchecked.is_empty() {
            terminal::note(format_args!(
                "warning: the hub states no checksum of {}; what came can't be checked",
                done.unchecked.join(", ")
            ));
        }
        if let Some(licence) = &done.licence
            && forbids_commerce(licence)
        {
            terminal::note(format_args!(
                "note: the licence of {name}, {licence}, forbids commercial use"
            ));
        }
        pulled.push(done);
    }
    if arguments.json {
        return terminal::json(&pulled);
    }
    for done in pulled {
        terminal::result(terminal::shown(&done.folder))?;
    }
    Ok(())
}

/// Models that the named one needs are taken at their newest revision.
fn revision<'a>(name: &str, arguments: &'a Arguments) -> &'a str {
    match &arguments.name {
        Some(asked) if asked == name => &arguments.revision,
        _ => "main",
    }
}

fn list(json: bool) -> Result<()> {
    if json {
        return terminal::json(&registry());
    }
    for entry in registry() {
        let aliases = entry.aliases.join(", ");
        terminal::result(format_args!(
            "{}\t{aliases}\t{}",
            entry.name,
            describe(entry)
        ))?;
    }
    Ok(())
}

fn describe(entry: &Known) -> String {
    let mut text = format!(
        "{}; licence {}, {:.1} GB",
        entry.what,
        entry.licence,
        entry.bytes as f64 / 1e9
    );
    if !entry.commercial {
        text.push_str(", no commercial use");
    }
    if !entry.needs.is_empty() {
        text.push_str(&format!("; needs {}", entry.needs.join(", ")));
    }
    text
}

fn endpoint(given: Option<String>) -> Result<String> {
    let endpoint = given
        .or_else(|| variable("HF_ENDPOINT"))
        .unwrap_or_else(|| "https://huggingface.co".to_owned());
    if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        return Err(Usage::new(
            format!("endpoint {endpoint:?}: expected an address that starts with https://"),
            "pass --endpoint https://…, or unset HF_ENDPOINT",
        )
        .into());
    }
    Ok(endpoint.trim_end_matches('/').to_owned())
}

/// Where pulled models are kept.
pub fn default_cache() -> Result<PathBuf> {
    if let Some(cache) = variable("HF_HUB_CACHE") {
        return Ok(cache.into());
    }
    let home = match variable("HF_HOME") {
        Some(home) => PathBuf::from(home),
        None => std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .context("no home folder to keep models in; pass --cache DIR")?
            .join(".cache/huggingface"),
    };
    Ok(home.join("hub"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A progress bar per file; without a terminal, a line every ten seconds at most.
struct Bars {
    bar: ProgressBar,
    file: String,
    started: Instant,
    printed: Instant,
    first: u64,
}

impl Bars {
    fn new() -> Result<Self> {
        let bar = terminal::bytes_bar()?;
        let now = Instant::now();
        Ok(Bars {
            bar,
            file: String::new(),
            started: now,
            printed: now,
            first: 0,
        })
    }

    fn show(&mut self, progress: &DownloadProgress) {
        if self.file != progress.file {
            self.file.clone_from(&progress.file);
            self.bar.reset();
            self.bar.set_message(progress.file.clone());
            (self.started, self.printed, self.first) =
                (Instant::now(), Instant::now(), progress.bytes);
        }
        if let Some(total) = progress.file_bytes {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.bytes);
        if self.bar.is_hidden() && self.printed.elapsed() >= Duration::from_secs(10) {
            self.printed = Instant::now();
            let rate = (progress.bytes - self.first.min(progress.bytes)) as f64
                / self.started.elapsed().as_secs_f64();
            let left = match progress.file_bytes {
                Some(total) if rate > 0.0 => {
                    let seconds = (total.saturating_sub(progress.bytes)) as f64 / rate;
                    format!(" of {:.1} MB, {seconds:.0}s left", total as f64 / 1e6)
                }
                _ => String::new(),
            };
            terminal::note(format_args!(
                "{}: {:.1} MB{left}, {:.1} MB/s",
                self.file,
                progress.bytes as f64 / 1e6,
                rate / 1e6
            ));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_that_forbid_commerce_are_known_by_their_names() {
        for licence in ["cc-by-nc-4.0", "CC BY NC", "some-non-commercial-licence"] {
            assert!(forbids_commerce(licence), "{licence}");
        }
        for licence in ["mit", "apache-2.0", "cc-by-4.0", "bsd-3-clause-clear"] {
            assert!(!forbids_commerce(licence), "{licence}");
        }
    }
}
