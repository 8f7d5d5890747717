//! The one error type of the library: lowercase messages that name the thing, what was expected and what was found. An
//! error has a kind, and a hint where there is something to do about it. Both are data: a command words a hint with its
//! flags, a server with its fields.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// What kind of thing went wrong: what decides an exit code or a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A value that was given: a request, a config, a name.
    Input,
    /// A file: it can't be read or written, or is damaged.
    File,
    /// The device: it is not there, or does not answer.
    Device,
    /// Something that is not on this machine and could come over the network.
    Network,
    /// Nothing: the work was stopped on request.
    Stopped,
    /// Nothing: a safety policy refuses it.
    Refused,
    /// The program itself, or the numbers that it computes.
    Internal,
}

/// What can be done about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Something outside of the program.
    Do(String),
    /// Let the caption be cut.
    Truncate,
    /// Pull this published model.
    Pull(String),
    /// See which published models are known.
    ListPublished,
    /// Resume the training, or write into another folder.
    Resume,
    /// Write into another folder.
    OtherOutput,
    /// Give the index a folder of its own.
    OtherIndex,
    /// Import the model together with its image tokenizer.
    WithImageTokenizer,
    /// Install something, or say where it is.
    Locate {
        /// What it is.
        file: LocatedFile,
        /// How to install it.
        install: &'static str,
    },
}

/// Files that are looked for where systems put them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocatedFile {
    /// A colour emoji font.
    Font,
    /// CLDR's annotations.
    Cldr,
    /// The art packs.
    Art,
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Hint::Do(text)
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Hint::Do(text.to_owned())
    }
}

/// Why something went wrong: what was expected and what was found, and the error that it follows from. On one line:
/// control characters, which names from files may have, are written out.
#[derive(Debug)]
pub struct Reason {
    text: String,
    cause: Option<Cause>,
}

/// An error of any kind.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Reason {
    /// What an error says, which stays the cause.
    pub fn of(cause: impl Into<Cause>) -> Self {
        Self::because("", cause)
    }

    /// `text`, and the error that it follows from.
    pub fn because(text: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Reason {
            text: text.into(),
            cause: Some(cause.into()),
        }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Reason { text, cause: None }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (&self.cause, self.text.is_empty()) {
            (None, _) => Cow::Borrowed(&self.text[..]),
            (Some(cause), true) => cause.to_string().into(),
            (Some(cause), false) => format!("{}: {cause}", self.text).into(),
        };
        f.write_str(&without_controls(text))
    }
}

impl std::error::Error for Reason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// What can go wrong in the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file's content is not what its name or place promises.
    #[error("{path}: {reason}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        #[source]
        reason: Reason,
    },
    /// A value given by the user is out of its range or does not fit another one.
    #[error("{what}: {reason}")]
    Invalid {
        /// The value's name.
        what: &'static str,
        /// What was expected and what was found.
        #[source]
        reason: Reason,
    },
    /// A caption has more tokens than the model reads.
    #[error("caption has {tokens} tokens but the model reads {limit}: \"{caption}\"")]
    CaptionTooLong {
        /// The caption's tokens.
        tokens: usize,
        /// The model's limit.
        limit: usize,
        /// The caption, shortened.
        caption: String,
    },
    /// Something that has to be installed is missing.
    #[error("{what} not found at {path}", path = path.display())]
    Missing {
        /// What it is.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// How to get it.
        hint: Hint,
    },
    /// Another error, with what can be done about it.
    #[error("{error}")]
    Hinted {
        /// The error.
        #[source]
        error: Box<Error>,
        /// What can be done.
        hint: Hint,
    },
    /// A number that must be finite is not.
    #[error("non-finite {what}: {detail}")]
    NonFinite {
        /// Which number: "logits", "loss", "weight".
        what: &'static str,
        /// Where it was found.
        detail: String,
    },
    /// The device requested is not in this build or does not answer.
    #[error("device {device}: {reason}")]
    Device {
        /// The device's name as the user gave it.
        device: String,
        /// Why it can't be used.
        #[source]
        reason: Reason,
    },
    /// A published model is not on this machine.
    #[error("model {name} is not here")]
    NotPulled {
        /// Its name.
        name: String,
    },
    /// Something that is to come over the network does not.
    #[error("{what}: {reason}")]
    Unreachable {
        /// The model or the file.
        what: String,
        /// Why it does not.
        #[source]
        reason: Reason,
    },
    /// A safety policy refuses a prompt or a picture.
    #[error("{what}: refused as {category} ({score:.2}): {reason}")]
    Refused {
        /// What is refused: "prompt", "picture".
        what: &'static str,
        /// The category.
        category: impasto_safety::Category,
        /// Its score.
        score: f32,
        /// What was found.
        reason: String,
    },
    /// The work was stopped on request.
    #[error("stopped")]
    Stopped,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Names a file in the folder `from` as the same in `to`: files are written under another name before they get theirs.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        if let Error::Hinted { error, .. } = self {
            error.rename(from, to);
        } else if let Error::Io { path, .. }
        | Error::BadFile { path, .. }
        | Error::Missing { path, .. } = self
            && let Ok(rest) = path.strip_prefix(from)
        {
            *path = to.join(rest);
        }
    }

    /// An [`Error::Io`] builder for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }

    /// An [`Error::BadFile`].
    pub fn bad_file(path: impl AsRef<Path>, reason: impl Into<Reason>) -> Self {
        Error::BadFile {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: &'static str, reason: impl Into<Reason>) -> Self {
        Error::Invalid {
            what,
            reason: reason.into(),
        }
    }

    /// The same error with what can be done about it.
    pub fn with_hint(self, hint: Hint) -> Self {
        Error::Hinted {
            error: Box::new(self),
            hint,
        }
    }

    /// The error itself, without hints around it.
    pub fn inner(&self) -> &Self {
        match self {
            Error::Hinted { error, .. } => error.inner(),
            other => other,
        }
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        match self.inner() {
            Error::Invalid { .. } | Error::CaptionTooLong { .. } => ErrorKind::Input,
            Error::Io { .. } | Error::BadFile { .. } | Error::Missing { .. } => ErrorKind::File,
            Error::Device { .. } => ErrorKind::Device,
            Error::NotPulled { .. } | Error::Unreachable { .. } => ErrorKind::Network,
            Error::Stopped => ErrorKind::Stopped,
            Error::Refused { .. } => ErrorKind::Refused,
            Error::NonFinite { .. } | Error::Hinted { .. } => ErrorKind::Internal,
        }
    }

    /// What it is about: the file, or the name of the value.
    pub fn subject(&self) -> String {
        match self.inner() {
            Error::Io { path, .. } | Error::BadFile { path, .. } | Error::Missing { path, .. } => {
                path.display().to_string()
            }
            Error::Invalid { what, .. }
            | Error::NonFinite { what, .. }
            | Error::Refused { what, .. } => (*what).to_owned(),
            Error::CaptionTooLong { .. } => "caption".to_owned(),
            Error::Device { device, .. } => device.clone(),
            Error::NotPulled { name } => name.clone(),
            Error::Unreachable { what, .. } => what.clone(),
            Error::Stopped | Error::Hinted { .. } => String::new(),
        }
    }

    /// What can be done about it, if there is something more to say than the message does.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Error::Hinted { hint, .. } | Error::Missing { hint, .. } => Some(hint.clone()),
            Error::CaptionTooLong { .. } => Some(Hint::Truncate),
            Error::NotPulled { name } => Some(Hint::Pull(name.clone())),
            _ => None,
        }
    }
}

/// One line of text: what would move the cursor, or break the line, is written as its escape.
fn without_controls(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = text.chars().map(|letter| match letter.is_control() {
        true => letter.escape_debug().to_string(),
        false => letter.to_string(),
    });
    escaped.collect::<String>().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_in_files_do_not_break_lines() {
        let error = Error::bad_file("a.safetensors", "unexpected tensors: \"a\nb\u{1b}[2J\"");
        let expected = "a.safetensors: unexpected tensors: \"a\\nb\\u{1b}[2J\"";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn hints_leave_kind_subject_and_message_as_they_are() {
        let plain = || Error::invalid("seed", "expected a number");
        let hinted = plain().with_hint(Hint::Resume);
        assert_eq!(hinted.to_string(), plain().to_string());
        assert_eq!(hinted.kind(), ErrorKind::Input);
        assert_eq!(hinted.subject(), "seed");
        assert_eq!((hinted.hint(), plain().hint()), (Some(Hint::Resume), None));
    }

    #[test]
    fn causes_are_kept() {
        use std::error::Error as _;
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::io("read", "a.png")(missing);
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.source().is_some() && error.with_hint(Hint::Resume).source().is_some());
        let not_json = serde_json::from_str::<u8>("x").unwrap_err();
        let text = not_json.to_string();
        let error = Error::bad_file("a.json", Reason::because("not a config", not_json));
        assert_eq!(error.to_string(), format!("a.json: not a config: {text}"));
        let reason = error.source().unwrap();
        assert!(reason.source().unwrap().is::<serde_json::Error>());
    }
}
