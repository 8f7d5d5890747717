//! How a failure is reported: `error: …` on one line, `hint: …` where there is something to do about it.

use std::io::{self, Write};
use std::process::ExitCode;

use impasto::Error;
use impasto::error::{Hint, LocatedFile};
use impasto::safety::Category;

use crate::terminal::{STOPPED, harmless};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

/// Arguments that are fine one by one but not together, or not here.
#[derive(Debug)]
pub struct Usage {
    message: String,
    hint: Option<String>,
}

impl Usage {
    /// A usage error with what to do about it.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Usage {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// Prints an error of the work and returns its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output has seen enough (`impasto … | head`).
    let closed = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        return ExitCode::SUCCESS;
    }
    if let Some(Error::Stopped) = error.downcast_ref() {
        print_to_stderr("stopped", None);
        return ExitCode::from(STOPPED);
    }
    let (code, hint) = match error.downcast_ref::<Usage>() {
        Some(usage) => (WRONG_USAGE, usage.hint.clone()),
        None => {
            let error: Option<&Error> = error.downcast_ref();
            let code = match error {
                // A name that is fine, but not here.
                Some(Error::NotPulled { .. }) => WRONG_USAGE,
                _ => FAILED,
            };
            (code, error.and_then(hint))
        }
    };
    print_to_stderr(&format!("error: {}", message(error)), hint.as_deref());
    ExitCode::from(code)
}

/// Prints what clap found, in our form; prints help and version as they are.
pub fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let asked = !error.use_stderr();
        // Nothing is left to be done if even this can't be printed.
        let _ = error.print();
        return ExitCode::from(if asked { 0 } else { WRONG_USAGE });
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let message = one_line(paragraphs.next().unwrap_or_default());
    let tip = paragraphs.find_map(|paragraph| {
        let tip = paragraph.trim().strip_prefix("tip:")?;
        Some(one_line(tip))
    });
    let hint = tip.unwrap_or_else(|| "pass --help to see what can be given".to_owned());
    print_to_stderr(&message, Some(&hint));
    ExitCode::from(WRONG_USAGE)
}

/// An error with its causes, each printed once: library errors include their source themselves.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What can be done about an error of the library.
fn hint(error: &Error) -> Option<String> {
    let hint = match error.inner() {
        Error::Io { source, action, .. } => match source.kind() {
            io::ErrorKind::StorageFull => "free some space, or choose another place to write to",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "change the permissions, or choose another place"
            }
            io::ErrorKind::NotFound if *action == "read" => "check the spelling of the path",
            _ => return error.hint().map(in_flags),
        },
        Error::Refused { category, .. } if *category == Category::SexualMinors => {
            "where that is wrong, reword it, or let a --safety-policy say what is done (docs/trust.md)"
        }
        Error::Refused { .. } => {
            "--safety flag draws it and says so; --safety off looks at nothing"
        }
        _ => return error.hint().map(in_flags),
    };
    Some(hint.to_owned())
}

/// A hint in this command's words.
fn in_flags(hint: Hint) -> String {
    match hint {
        Hint::Do(text) => text,
        Hint::Truncate => "shorten it, or pass --truncate; a CLIP or T5 text encoder also reads it with --chunks".to_owned(),
        Hint::Pull(name) => format!("impasto pull {name} brings it"),
        Hint::ListPublished => "impasto pull --list shows the known names".to_owned(),
        Hint::Resume => {
            "pass --resume to go on from the last checkpoint, or choose another --out".to_owned()
        }
        Hint::OtherOutput => "choose another --out".to_owned(),
        Hint::OtherIndex => "pass --index with a place of its own".to_owned(),
        Hint::WithImageTokenizer => {
            "import it with --image-tokenizer and the published VQGAN's folder, and train what that wrote"
                .to_owned()
        }
        Hint::Locate { file, install } => {
            let flag = match file {
                LocatedFile::Font => "--font FILE",
                LocatedFile::Cldr => "--cldr FOLDER",
                LocatedFile::Art => "--art FOLDER",
            };
            format!("{install}, or pass {flag}")
        }
        _ => "see --help".to_owned(),
    }
}

fn print_to_stderr(line: &str, hint: Option<&str>) {
    let mut stderr = io::stderr().lock();
    // A closed stderr leaves only the exit code to report it.
    let _ = writeln!(stderr, "{}", harmless(line));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {}", harmless(hint));
    }
}
