//! What a prompt asks for, by categories, and what is done about it.
//!
//! [`Filter`] finds the terms of editable lists in English and Chinese text, also in disguise: other alphabets, digits
//! for letters, spaces, invisible characters. [`Policy`] says per category what follows. Both know nothing of models.
//!
//! ```
//! use impasto_safety::{Category, Filter};
//!
//! let filter = Filter::embedded()?;
//! let found = filter.screen("a photo of a n.a.k.е.d woman");
//! assert_eq!(found.score(Category::Sexual), 1.0);
//! assert_eq!(filter.screen("the station of Scunthorpe").matches, []);
//! # Ok::<(), impasto_safety::Error>(())
//! ```

mod category;
mod chinese;
mod filter;
mod fold;
mod forms;
mod hit;
mod lists;
mod policy;
mod words;

use std::path::{Path, PathBuf};

pub use category::{Action, Category};
pub use filter::{Filter, Match, Screening};
pub use hit::Disguise;
pub use lists::{Lists, Rule, Term};
pub use policy::{Mode, PicturePolicy, Policy, WordPolicy};

/// What can be wrong with lists and policies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file can't be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The terms can't be searched for.
    #[error("lists: {0}")]
    Lists(String),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn file(path: &Path, reason: impl Into<String>) -> Self {
        Error::File {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    fn line(path: &Path, line: usize, reason: String) -> Self {
        Error::file(path, format!("line {line}: {reason}"))
    }

    fn read(path: &Path, source: std::io::Error) -> Self {
        Error::Read {
            path: path.to_owned(),
            source,
        }
    }
}
