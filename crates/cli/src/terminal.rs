//! What a person at the terminal sees and presses: notes, progress bars, Ctrl-C.

use std::fmt::Display;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::STOPPED;

/// A line for people, on stderr.
pub fn note(line: impl Display) {
    // A closed stderr is no reason to stop working.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line of result, on stdout.
pub fn result(line: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// One JSON document, on stdout.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    result(serde_json::to_string_pretty(value)?)
}

/// A bar with rate and remaining time on stderr; nothing is drawn where that is no terminal.
pub fn bar(total: u64, unit: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template =
        format!("{{msg}}{{wide_bar}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left ");
    bar.set_style(ProgressStyle::with_template(&template)?);
    Ok(bar)
}

static STOP: AtomicBool = AtomicBool::new(false);

/// From here on the first Ctrl-C asks the work to stop cleanly, the second ends the program at once.
pub fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(STOPPED.into());
        }
    })
    .context("interrupts can't be caught")
}

/// Whether Ctrl-C was pressed.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// [`stop_requested`] as the library's observers say it.
pub fn go_on() -> ControlFlow<()> {
    if stop_requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
