//! The models that the world has published and that impasto reads, by name: `registry.json`.

use std::sync::OnceLock;

use serde::Deserialize;

/// What a file's bytes have to hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of the content (large files), hexadecimal.
    Sha256(String),
    /// SHA-1 of git's blob: `blob {length}\0` before the content (small files), hexadecimal.
    GitBlob(String),
}

/// In place of a commit, where the publisher has none.
pub(super) const NO_COMMITS: &str = "published";

/// A published model.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What it is called here: its repository's name, where it has one.
    pub name: &'static str,
    /// Shorter names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is, in a few words.
    pub what: &'static str,
    /// The licence of the weights.
    pub licence: &'static str,
    /// Whether that licence allows commercial use.
    pub commercial: bool,
    /// About how much is downloaded, bytes.
    pub bytes: u64,
    /// Other names of the registry that it does not run without.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Where its files are.
    pub source: Source,
}

/// Where a model's files are.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// In a repository of the hub.
    Hub {
        /// The repository, `owner/name`.
        repo: String,
        /// The files; `a|b` is the first of them that is there.
        files: Vec<String>,
    },
    /// Each at an address of its own.
    Addresses {
        /// The files.
        files: Vec<Address>,
    },
}

/// A file that stands outside the hub.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Its name in the model's folder.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Its SHA-256, hexadecimal, where its publisher gives one.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl Address {
    pub(super) fn checksum(&self) -> Option<Checksum> {
        self.sha256.clone().map(Checksum::Sha256)
    }

    pub(super) fn blob_name(&self) -> String {
        self.sha256.clone().unwrap_or_else(|| self.name.clone())
    }
}

/// All of them.
pub fn registry() -> &'static [Known] {
    static REGISTRY: OnceLock<Vec<Known>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        // The file is part of the program and a test reads it.
        serde_json::from_str(include_str!("registry.json")).unwrap_or_default()
    })
}

/// The one of that name or alias.
pub fn known(name: &str) -> Option<&'static Known> {
    registry()
        .iter()
        .find(|entry| entry.name == name || entry.aliases.iter().any(|alias| alias == name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_whole() {
        let entries: Vec<Known> = serde_json::from_str(include_str!("registry.json")).unwrap();
        assert!(entries.len() >= 10);
        let mut names = std::collections::HashSet::new();
        for entry in &entries {
            let all = std::iter::once(entry.name).chain(entry.aliases.iter().map(String::as_str));
            for name in all {
                assert!(names.insert(name.to_owned()), "{name} stands there twice");
            }
            assert!(entry.bytes > 1_000_000, "{}", entry.name);
            for needed in &entry.needs {
                assert!(known(needed).is_some(), "{} needs {needed}", entry.name);
            }
            let count = match &entry.source {
                Source::Hub { repo, files } => {
                    assert!(crate::hub::is_repository(repo), "{repo}");
                    files.len()
                }
                Source::Addresses { files } => {
                    for file in files {
                        assert!(file.url.starts_with("https://"), "{}", file.url);
                        let sum = file.sha256.as_deref().unwrap_or_default();
                        assert!(sum.is_empty() || sum.len() == 64, "{}", file.url);
                    }
                    files.len()
                }
            };
            assert!(count > 0, "{}", entry.name);
        }
    }
}
