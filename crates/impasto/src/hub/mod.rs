//! Published models on this machine: known names, downloads that resume and are checked, a cache that is
//! enough without a network.
//!
//! A repository's files are listed by the hub's API (`GET /api/models/{repo}/revision/{revision}?blobs=true`)
//! and read from `/{repo}/resolve/{commit}/{file}`. The cache has the layout of Python's `huggingface_hub`
//! (`models--{owner}--{name}/{blobs,refs,snapshots}`), so that what either has pulled serves both. Beside
//! it stands our own record of each pulled commit, which says what belongs to it without asking the hub.
//!
//! Everything is data to us: nothing that was downloaded is ever executed.

mod cache;
mod download;
mod listing;
mod registry;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use crate::checkpoint::ModelSource;
use crate::error::Hint;
use crate::observer::{NoObserver, Observer};
use crate::{Error, Result};

pub use registry::{Known, Source, known, registry};

use cache::{Record, RecordedFile, Repository};
use download::Download;

/// The licence that was recorded when a folder was pulled into a cache.
pub fn recorded_licence(folder: &Path) -> Option<String> {
    cache::record_of(folder)?.licence
}

/// Whether a licence's name says that it is for non-commercial use.
pub fn forbids_commerce(licence: &str) -> bool {
    let licence = licence.to_ascii_lowercase();
    licence.contains("non-commercial")
        || licence.contains("noncommercial")
        || licence.split(['-', '_', ' ']).any(|part| part == "nc")
}

/// Where the published models are, and where they are kept.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The hub's address, `https://huggingface.co` or a mirror's.
    pub endpoint: String,
    /// The folder of the cache; made when something is pulled.
    pub cache: PathBuf,
    /// The user's access token, for models that are not open to everyone. It is sent to the hub alone,
    /// never on to where the hub redirects.
    pub token: Option<String>,
    /// Whether the network must not be asked.
    pub offline: bool,
}

/// A model that is here now.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pulled {
    /// The name that was requested.
    pub name: String,
    /// The folder with its files.
    #[serde(serialize_with = "crate::files::lossy")]
    pub folder: PathBuf,
    /// The commit that they are of; none where the publisher has no commits.
    pub commit: Option<String>,
    /// Its licence as published, where that is known.
    pub licence: Option<String>,
    /// Its files' names.
    pub files: Vec<String>,
    /// Bytes that came over the network now; 0 where all was here.
    pub downloaded_bytes: u64,
    /// Why the network was not asked, where it was not.
    pub note: Option<String>,
    /// Files that came without a checksum to hold them against.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
}

/// Attempts on one file in which nothing came, before giving up.
const ATTEMPTS: u32 = 4;

impl Hub {
    /// Brings a model here, or finds it here: a name of the [`registry`], or a repository `owner/name`.
    ///
    /// # Errors
    /// Where the name is none, the hub has no such model or does not answer and the cache has not got it,
    /// what comes is not what the hub promised, or the cache can't be written.
    pub fn pull(&self, name: &str, revision: &str, observer: &mut dyn Observer) -> Result<Pulled> {
        match known(name) {
            Some(entry) => match &entry.source {
                Source::Hub { repo, files } => {
                    self.pull_repository(entry.name, repo, revision, Some(files), observer)
                }
                Source::Addresses { files } => self.pull_addresses(entry, files, observer),
            },
            None if is_repository(name) => {
                self.pull_repository(name, name, revision, None, observer)
            }
            None => Err(unknown(name)),
        }
    }

    fn pull_repository(
        &self,
        name: &str,
        repo: &str,
        revision: &str,
        wanted: Option<&[String]>,
        observer: &mut dyn Observer,
    ) -> Result<Pulled> {
        check_revision(revision)?;
        let repository = Repository::new(&self.cache, repo);
        if self.offline {
            return repository
                .found(revision, wanted)?
                .map(|record| pulled(name, &repository, record, 0, None))
                .ok_or_else(|| not_here(name, "the network must not be asked (offline)"));
        }
        let agent = agent(&self.endpoint);
        let listing = match listing::read(&agent, self, repo, revision) {
            Ok(listing) => listing,
            Err(listing::Failure::Refused(error)) => return Err(error),
            // A model that is here serves without the hub.
            Err(listing::Failure::NoAnswer(reason)) => {
                return match repository.found(revision, wanted)? {
                    Some(record) => {
                        let note = format!("{} does not answer ({reason})", self.endpoint);
                        Ok(pulled(name, &repository, record, 0, Some(note)))
                    }
                    None => {
                        let reason = format!("{} does not answer ({reason})", self.endpoint);
                        Err(not_here(name, &reason))
                    }
                };
            }
        };
        let chosen = listing.choose(repo, wanted)?;
        let unchecked: Vec<String> = chosen
            .iter()
            .filter(|file| file.checksum.is_none())
            .map(|file| file.name.clone())
            .collect();
        let total = chosen.iter().filter_map(|file| file.size).sum();
        let mut record = Record {
            commit: listing.commit.clone(),
            licence: known(name)
                .map(|entry| entry.licence.to_owned())
                .or_else(|| listing.licence.clone()),
            files: Vec::new(),
        };
        let mut downloaded = 0;
        for file in chosen {
            let blob = repository.blob(&file.blob_name());
            downloaded += Download {
                agent: &agent,
                address: format!(
                    "{}/{repo}/resolve/{}/{}",
                    self.endpoint, listing.commit, file.name
                ),
                token: self.token.as_deref(),
                name: &file.name,
                size: file.size,
                checksum: file.checksum.as_ref(),
                attempts: ATTEMPTS,
            }
            .to(&blob, total, observer)?;
            repository.link(&listing.commit, &file.name, &blob)?;
            record.files.push(RecordedFile::of(&file.name, &blob)?);
        }
        repository.remember(revision, &record)?;
        Ok(Pulled {
            unchecked,
            ..pulled(name, &repository, record, downloaded, None)
        })
    }

    fn pull_addresses(
        &self,
        entry: &Known,
        files: &[registry::Address],
        observer: &mut dyn Observer,
    ) -> Result<Pulled> {
        let repository = Repository::new(&self.cache, entry.name);
        let wanted: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        if let Some(record) = repository.found(registry::NO_COMMITS, Some(&wanted))? {
            return Ok(pulled(entry.name, &repository, record, 0, None));
        }
        if self.offline {
            return Err(not_here(
                entry.name,
                "the network must not be asked (offline)",
            ));
        }
        let https = files.iter().all(|file| file.url.starts_with("https://"));
        let agent = agent(if https { "https://" } else { "" });
        let mut record = Record {
            commit: registry::NO_COMMITS.to_owned(),
            licence: Some(entry.licence.to_owned()),
            files: Vec::new(),
        };
        let mut downloaded = 0;
        for file in files {
            let blob = repository.blob(&file.blob_name());
            downloaded += Download {
                agent: &agent,
                address: file.url.clone(),
                token: None,
                name: &file.name,
                size: None,
                checksum: file.checksum().as_ref(),
                attempts: ATTEMPTS,
            }
            .to(&blob, entry.bytes, observer)?;
            repository.link(&record.commit, &file.name, &blob)?;
            record.files.push(RecordedFile::of(&file.name, &blob)?);
        }
        repository.remember(registry::NO_COMMITS, &record)?;
        Ok(pulled(entry.name, &repository, record, downloaded, None))
    }
}

fn pulled(
    name: &str,
    repository: &Repository,
    record: Record,
    downloaded_bytes: u64,
    note: Option<String>,
) -> Pulled {
    Pulled {
        name: name.to_owned(),
        folder: repository.snapshot(&record.commit),
        commit: (record.commit != registry::NO_COMMITS).then_some(record.commit),
        licence: record.licence,
        files: record.files.into_iter().map(|file| file.name).collect(),
        downloaded_bytes,
        note,
        unchecked: Vec::new(),
    }
}

/// A client that gives up on a silent server but lets a long file take its time.
/// From an endpoint that is reached by https, no redirect leads to one that is not.
fn agent(endpoint: &str) -> Agent {
    Agent::config_builder()
        .https_only(endpoint.starts_with("https://"))
        .http_status_as_error(false)
        .timeout_resolve(Some(Duration::from_secs(15)))
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .user_agent(concat!("impasto/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// The model of that name that was pulled into `cache`, without asking the network; none where it is no name of a
/// published model.
///
/// # Errors
/// [`Error::NotPulled`] where the name is known and the model is not there.
pub fn find_pulled(name: &str, cache: &Path) -> Result<Option<ModelSource>> {
    let entry = known(name);
    if entry.is_none() && !is_repository(name) {
        return Ok(None);
    }
    let hub = Hub {
        endpoint: String::new(),
        cache: cache.to_owned(),
        token: None,
        offline: true,
    };
    let folder = |name: &str| match hub.pull(name, "main", &mut NoObserver) {
        Ok(pulled) => Ok(Some(pulled.folder)),
        // A folder that is not there looks like a repository too.
        Err(Error::Unreachable { .. }) if entry.is_none() => Ok(None),
        Err(Error::Unreachable { .. }) => Err(Error::NotPulled {
            name: name.to_owned(),
        }),
        Err(error) => Err(error),
    };
    let Some(path) = folder(name)? else {
        return Ok(None);
    };
    let needed = entry.map_or(&[][..], |entry| &entry.needs);
    let needs = needed.iter().map(|name| folder(name));
    Ok(Some(ModelSource::Published {
        path,
        needs: needs.filter_map(Result::transpose).collect::<Result<_>>()?,
    }))
}

/// Whether `name` has the form `owner/name` of a repository, of the characters that the hub allows.
pub fn is_repository(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let good = |part: &&str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    parts.len() == 2 && parts.iter().all(good)
}

/// A branch, a tag or a commit, which becomes part of addresses and of paths in the cache.
fn check_revision(revision: &str) -> Result<()> {
    let good = !revision.is_empty()
        && revision.len() <= 128
        && !revision.starts_with(['.', '/', '-'])
        && !revision.contains("..")
        && revision
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    if good {
        return Ok(());
    }
    Err(Error::invalid(
        "revision",
        format!("expected a branch, a tag or a commit, got {revision:?}"),
    ))
}

fn unknown(name: &str) -> Error {
    let nearest = registry()
        .iter()
        .flat_map(|entry| {
            std::iter::once(entry.name).chain(entry.aliases.iter().map(String::as_str))
        })
        .map(|known| (edit_distance(known, name), known))
        .min();
    let advice = match nearest {
        Some((distance, known)) if distance <= 1 + name.len() / 3 => {
            format!("did you mean {known}?")
        }
        _ => "expected a known name or a repository owner/name".to_owned(),
    };
    let reason = format!("{name:?} is not known; {advice}");
    Error::invalid("model", reason).with_hint(Hint::ListPublished)
}

/// Levenshtein's distance.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above.min(row[j]) + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

fn not_here(name: &str, reason: &str) -> Error {
    Error::Unreachable {
        what: name.to_owned(),
        reason: format!("{reason}, and the cache has not got it whole").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_never_left_for_http() {
        // Refused before anything is sent.
        let asked = agent("https://hub").get("http://127.0.0.1:9/").call();
        assert!(
            matches!(asked, Err(ureq::Error::RequireHttpsOnly(_))),
            "{asked:?}"
        );
    }

    #[test]
    fn repositories_are_distinguished_from_paths() {
        for good in ["openai/clip-vit-base-patch32", "a/b", "A_1/b.c-d"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in [
            "a", "a/b/c", "/a", "a/", "../a", "a/..", "a/.b", "a b/c", "ä/b",
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn revisions_stay_inside_the_cache() {
        assert!(check_revision("main").is_ok() && check_revision("refs/pr/1").is_ok());
        for bad in ["", "..", "a/../b", "/etc", "-x", "a b"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_name_is_guessed() {
        let message = unknown("openai/clip-vit-base-patch3").to_string();
        assert!(
            message.contains("did you mean openai/clip-vit-base-patch32?"),
            "{message}"
        );
        assert_eq!(unknown("zzz").hint(), Some(Hint::ListPublished));
    }
}
