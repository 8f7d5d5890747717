//! Lists of terms as people edit them.
//!
//! A line is a rule; what follows a `#` is a comment. A rule is one or more parts joined by ` + `, all of which have to
//! be near each other, in any order. A part is one or more terms joined by ` | `, one of which has to be there; `@name`
//! is a group, defined by a line `@name = term | term | …`, for all lists. After a rule may follow ` = weight`, from 0 to
//! 1, 1 if there is none.
//!
//! A term is English words, which match with their inflections, or Chinese ones, which match wherever they are. A word
//! with `!` before it matches in this form alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::{Category, Error, Result};

/// A term as it is written.
pub type Term = String;

/// What has to be there for a category.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The category.
    pub category: Category,
    /// Of each part one term.
    pub parts: Vec<Vec<Term>>,
    /// What it adds to the category's score, 0 to 1.
    pub weight: f32,
}

/// Rules, and words that look like terms and are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lists {
    /// The rules of all categories.
    pub rules: Vec<Rule>,
    /// A term within one of these is no find.
    pub allowed: Vec<Term>,
    groups: HashMap<String, Vec<Term>>,
    /// Terms that were taken in so far.
    n_terms: usize,
}

/// The lists that are part of the program.
const EMBEDDED: [(Category, &str); 13] = [
    (Category::Sexual, include_str!("../lists/sexual.txt")),
    (
        Category::SexualMinors,
        include_str!("../lists/sexual-minors.txt"),
    ),
    (Category::Violence, include_str!("../lists/violence.txt")),
    (
        Category::ViolenceGraphic,
        include_str!("../lists/violence-graphic.txt"),
    ),
    (Category::Hate, include_str!("../lists/hate.txt")),
    (
        Category::HateThreatening,
        include_str!("../lists/hate-threatening.txt"),
    ),
    (
        Category::Harassment,
        include_str!("../lists/harassment.txt"),
    ),
    (
        Category::HarassmentThreatening,
        include_str!("../lists/harassment-threatening.txt"),
    ),
    (Category::SelfHarm, include_str!("../lists/self-harm.txt")),
    (
        Category::SelfHarmIntent,
        include_str!("../lists/self-harm-intent.txt"),
    ),
    (
        Category::SelfHarmInstructions,
        include_str!("../lists/self-harm-instructions.txt"),
    ),
    (Category::Illicit, include_str!("../lists/illicit.txt")),
    (
        Category::IllicitViolent,
        include_str!("../lists/illicit-violent.txt"),
    ),
];

/// The longest list that is read, in bytes.
const MOST_BYTES: usize = 1 << 22;
/// The longest line.
const MOST_LINE: usize = 1 << 16;
/// The longest term in bytes: a phrase. To prepare the search takes more than linear time in it.
const MOST_TERM: usize = 256;
/// The most terms of all rules and groups together, each as often as it is named: a group of groups has those of all.
const MOST_TERMS: usize = 1 << 20;

impl Lists {
    /// The lists that are part of the program.
    ///
    /// # Errors
    /// None: a test reads them all.
    pub fn embedded() -> Result<Self> {
        let mut lists = Lists::default();
        lists.define(Path::new("groups.txt"), include_str!("../lists/groups.txt"))?;
        for (category, text) in EMBEDDED {
            lists.add(category, Path::new(category.as_str()), text)?;
        }
        lists.allow(
            Path::new("allowed.txt"),
            include_str!("../lists/allowed.txt"),
        )?;
        Ok(lists)
    }

    /// The embedded lists as files: names and texts.
    pub fn files() -> Vec<(String, &'static str)> {
        let lists = EMBEDDED.iter().map(|(category, text)| {
            let name = category.as_str().replace('/', "-");
            (format!("{name}.txt"), *text)
        });
        let others = [
            ("groups.txt".to_owned(), include_str!("../lists/groups.txt")),
            (
                "allowed.txt".to_owned(),
                include_str!("../lists/allowed.txt"),
            ),
        ];
        lists.chain(others).collect()
    }

    /// Adds a list of a category; `path` is what errors call it.
    ///
    /// # Errors
    /// The line that can't be read.
    pub fn add(&mut self, category: Category, path: &Path, text: &str) -> Result<()> {
        for (number, line) in lines(path, text)? {
            let bad = |reason: String| Error::line(path, number, reason);
            if self.group(line).map_err(bad)? {
                continue;
            }
            let (line, weight) = match line.rsplit_once(" = ") {
                Some((line, weight)) => match weight.trim().parse::<f32>() {
                    Ok(weight) if (0.0..=1.0).contains(&weight) => (line, weight),
                    _ => return Err(bad(format!("the weight is {weight:?}, expected 0 to 1"))),
                },
                None => (line, 1.0),
            };
            let parts = line.split(" + ").map(|part| self.terms(part));
            let parts = parts.collect::<Result<Vec<_>, String>>();
            let parts = parts.map_err(|reason| Error::line(path, number, reason))?;
            self.rules.push(Rule {
                category,
                parts,
                weight,
            });
        }
        Ok(())
    }

    /// Adds a list of harmless words, a term a line.
    ///
    /// # Errors
    /// The line that can't be read.
    pub fn allow(&mut self, path: &Path, text: &str) -> Result<()> {
        for (number, line) in lines(path, text)? {
            let terms = self.terms(line);
            self.allowed
                .extend(terms.map_err(|reason| Error::line(path, number, reason))?);
        }
        Ok(())
    }

    fn define(&mut self, path: &Path, text: &str) -> Result<()> {
        for (number, line) in lines(path, text)? {
            if !self
                .group(line)
                .map_err(|reason| Error::line(path, number, reason))?
            {
                let reason = "expected @name = term | term".to_owned();
                return Err(Error::line(path, number, reason));
            }
        }
        Ok(())
    }

    /// Takes a line in that defines a group; whether it is one.
    fn group(&mut self, line: &str) -> Result<bool, String> {
        let Some((name, terms)) = line
            .strip_prefix('@')
            .and_then(|line| line.split_once(" = "))
            .filter(|(name, _)| !name.contains([' ', '|']))
        else {
            return Ok(false);
        };
        let terms = self.terms(terms)?;
        self.groups
            .entry(name.to_owned())
            .or_default()
            .extend(terms);
        Ok(true)
    }

    fn terms(&mut self, part: &str) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        for term in part.split('|').map(str::trim) {
            if term.len() > MOST_TERM {
                let length = term.len();
                return Err(format!(
                    "a term has {length} bytes, expected {MOST_TERM} at most"
                ));
            }
            let group = match term.strip_prefix('@') {
                Some(name) => match self.groups.get(name) {
                    Some(group) => &group[..],
                    None => return Err(format!("there is no group @{name}")),
                },
                None if term.chars().any(char::is_alphanumeric) => &[term.to_owned()][..],
                None => return Err(format!("expected a term, got {term:?}")),
            };
            self.n_terms += group.len();
            if self.n_terms > MOST_TERMS {
                let reason = "with this line, rules and groups have more than";
                return Err(format!("{reason} {MOST_TERMS} terms"));
            }
            terms.extend_from_slice(group);
        }
        Ok(terms)
    }
}

/// Lines that say something, with their numbers.
fn lines<'a>(path: &Path, text: &'a str) -> Result<Vec<(usize, &'a str)>> {
    if text.len() > MOST_BYTES {
        let reason = format!(
            "is {} bytes long, expected {MOST_BYTES} at most",
            text.len()
        );
        return Err(Error::file(path, reason));
    }
    let mut found = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.len() > MOST_LINE {
            return Err(Error::line(path, number + 1, "is too long".into()));
        }
        if !line.is_empty() {
            found.push((number + 1, line));
        }
    }
    Ok(found)
}

/// Reads a list file.
pub(crate) fn read(path: &PathBuf) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::read(path, source))?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES as u64 {
        return Err(Error::file(
            path,
            format!("expected a text file of {MOST_BYTES} bytes at most"),
        ));
    }
    std::fs::read_to_string(path).map_err(|source| Error::read(path, source))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A few lines would otherwise make more terms than memory holds.
    #[test]
    fn groups_of_groups_do_not_grow_without_end() {
        let mut text = "@a = cat | dog\n".to_owned();
        for _ in 0..60 {
            text += "@a = @a | @a | @a\n";
        }
        let mut lists = Lists::default();
        let error = lists.add(Category::Hate, Path::new("mine.txt"), &text);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("mine.txt") && error.contains("1048576 terms"),
            "{error}"
        );
        let long = format!("child {}小孩", "\"".repeat(40_000));
        for text in [
            long.clone(),
            format!("a + b | {long}"),
            format!("@b = {long}"),
        ] {
            let error = Lists::default().add(Category::Hate, Path::new("a"), &text);
            assert!(error.unwrap_err().to_string().contains("256 at most"));
        }
        // The program's own lists are far below.
        assert!(Lists::embedded().unwrap().n_terms < MOST_TERMS / 16);
    }
}
