//! What a person at the terminal sees and presses: notes, progress bars, Ctrl-C.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use impasto::observer::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line for people, on stderr.
pub fn note(line: impl Display) {
    // A closed stderr is no reason to stop working.
    let _ = writeln!(io::stderr().lock(), "{}", harmless(&line.to_string()));
}

/// A line of result, on stdout.
pub fn result(line: impl Display) -> Result<()> {
    Ok(writeln!(
        io::stdout().lock(),
        "{}",
        harmless(&line.to_string())
    )?)
}

/// A part of a line of result, on stdout at once.
pub fn part(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{}", harmless(text))?;
    Ok(stdout.flush()?)
}

/// One JSON document, on stdout.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = String::new();
    for letter in serde_json::to_string_pretty(value)?.chars() {
        // JSON itself escapes only those below a space; all of them are within its strings.
        match is_harmful(letter) {
            true => text += &format!("\\u{:04x}", u32::from(letter)),
            false => text.push(letter),
        }
    }
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Whether a terminal may take a letter as a command, or show what follows it in another order than it has: names of
/// files and words of models come from anywhere.
fn is_harmful(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        letter => letter.is_control(),
    }
}

/// Text with harmful letters written out.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_harmful(letter) {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
    }
    Cow::Owned(safe)
}

/// A path within a line: line breaks and tabs, which end lines and columns, are written out as well.
pub fn shown(path: &Path) -> impl Display + '_ {
    struct Shown<'a>(&'a Path);
    impl Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&in_line(&self.0.to_string_lossy()))
        }
    }
    Shown(path)
}

/// Text within a line; see [`shown`].
pub fn in_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\t', "\\t")
}

/// A bar with rate and remaining time on stderr; nothing is drawn where that is no terminal.
pub fn bar(total: u64, unit: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template =
        format!("{{msg}}{{wide_bar}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left ");
    bar.set_style(ProgressStyle::with_template(&template)?);
    Ok(bar)
}

/// One of bytes; how many there are is said later.
pub fn bytes_bar() -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left ",
    )?);
    Ok(bar)
}

/// Exit code of work that was stopped, as shells report an interrupt.
pub const STOPPED: u8 = 130;

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

/// Shows on a bar how many items are done, until Ctrl-C.
pub fn items(bar: &ProgressBar) -> impl FnMut(&Event<'_>) -> ControlFlow<()> + Send {
    |event| {
        if let Event::Items { done, total } = event {
            bar.set_length(*total as u64);
            bar.set_position(*done as u64);
        }
        go_on()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_written_out() {
        for (text, expected) in [
            ("a red cat\n\t红色的猫 é", "a red cat\n\t红色的猫 é"),
            ("\u{1b}[2Ja\u{7}", "\\u{1b}[2Ja\\u{7}"),
            ("a\rb\u{9b}31m\u{7f}", "a\\rb\\u{9b}31m\\u{7f}"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
        ] {
            assert_eq!(harmless(text), expected);
        }
        assert_eq!(shown(Path::new("a\nb\tc.png")).to_string(), "a\\nb\\tc.png");
    }
}
