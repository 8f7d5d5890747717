//! The one error type of the library: lowercase messages that name the thing, what was expected and
//! what was found. The command line adds a hint line where there is something to do about it.

use std::path::{Path, PathBuf};

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
        reason: String,
    },
    /// A value given by the user is out of its range or does not fit another one.
    #[error("{what}: {reason}")]
    Invalid {
        /// The value's name.
        what: &'static str,
        /// What was expected and what was found.
        reason: String,
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
        hint: String,
    },
    /// A number that must be finite is not.
    #[error("non-finite {what}: {detail}")]
    NonFinite {
        /// Which number: "logits", "loss", "weight".
        what: &'static str,
        /// Where it was found.
        detail: String,
    },
    /// The device asked for is not in this build or does not answer.
    #[error("device {device}: {reason}")]
    Device {
        /// The device's name as the user gave it.
        device: String,
        /// Why it can't be used.
        reason: String,
    },
    /// Something that is to come over the network does not.
    #[error("{what}: {reason}")]
    Unreachable {
        /// The model or the file.
        what: String,
        /// Why it does not.
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
        if let Error::Io { path, .. } | Error::BadFile { path, .. } | Error::Missing { path, .. } =
            self
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
    pub fn bad_file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::BadFile {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Invalid {
            what,
            reason: reason.into(),
        }
    }

    /// What the user can do about it, if there is something more to say than the message does.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Missing { hint, .. } => Some(hint.clone()),
            Error::CaptionTooLong { .. } => Some("shorten it, or pass --truncate".into()),
            _ => None,
        }
    }
}
