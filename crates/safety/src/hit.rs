//! Terms where they were found.

use serde::Serialize;

/// How a term was written in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disguise {
    /// Invisible characters, or marks on letters.
    Hidden,
    /// Letters that look like others.
    Lookalike,
    /// Digits and signs for letters.
    Leet,
    /// Something between the letters.
    Spaced,
    /// Letters more often than they belong.
    Repeated,
    /// Words without spaces.
    Joined,
}

/// A term at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hit {
    /// Which term.
    pub term: usize,
    /// The first letter.
    pub start: usize,
    /// The one after the last.
    pub end: usize,
    /// How it was written.
    pub disguise: Option<Disguise>,
}
