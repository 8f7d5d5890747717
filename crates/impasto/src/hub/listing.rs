//! What a repository holds, as the hub's API lists it.

use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use ureq::Agent;

use super::Hub;
use super::registry::{Checksum, Source, known};
use crate::error::Reason;
use crate::{Error, Result};

/// A listing is small; a server that sends more than this does not speak our protocol.
const LONGEST_LISTING: u64 = 16 << 20;

/// A file of a repository.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub name: String,
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
}

impl Listed {
    /// What it is called among the blobs: as Python's client does, by its checksum.
    pub fn blob_name(&self) -> String {
        match &self.checksum {
            Some(Checksum::Sha256(sum) | Checksum::GitBlob(sum)) => sum.clone(),
            None => self.name.replace('/', "--"),
        }
    }
}

/// A repository at a revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub licence: Option<String>,
    files: Vec<Listed>,
}

/// Why there is no listing.
pub(super) enum Failure {
    /// The hub said no: asking the cache instead would hide it.
    Refused(Error),
    /// Nobody answered.
    NoAnswer(Reason),
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Card {
    license: Option<serde_json::Value>,
    license_name: Option<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: Option<u64>,
}

/// Asks the hub.
pub(super) fn read(
    agent: &Agent,
    hub: &Hub,
    repo: &str,
    revision: &str,
) -> Result<Listing, Failure> {
    let revision = revision.replace('/', "%2F");
    let address = format!(
        "{}/api/models/{repo}/revision/{revision}?blobs=true",
        hub.endpoint
    );
    let mut request = agent.get(&address);
    if let Some(token) = &hub.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request
        .call()
        .map_err(|error| Failure::NoAnswer(Reason::of(error)))?;
    let status = answer.status().as_u16();
    let refused = |reason: Reason| Failure::Refused(unreachable(repo, reason));
    match status {
        200 => {}
        401 | 403 | 404 => {
            let advice = if hub.token.is_some() {
                "the token does not open it, or there is no such model or revision"
            } else {
                "there is no such model or revision, or it wants a token (HF_TOKEN) and its licence accepted"
            };
            return Err(refused(
                format!("{} answers {status}: {advice}", hub.endpoint).into(),
            ));
        }
        _ => return Err(Failure::NoAnswer(format!("status {status}").into())),
    }
    let mut text = String::new();
    answer
        .body_mut()
        .as_reader()
        .take(LONGEST_LISTING)
        .read_to_string(&mut text)
        .map_err(|error| Failure::NoAnswer(Reason::of(error)))?;
    parse(&text).map_err(|reason| refused(Reason::because(&hub.endpoint, reason)))
}

/// An [`Error::Unreachable`].
pub(super) fn unreachable(what: &str, reason: impl Into<Reason>) -> Error {
    Error::Unreachable {
        what: what.to_owned(),
        reason: reason.into(),
    }
}

fn parse(text: &str) -> Result<Listing, Reason> {
    let answer: Answer = serde_json::from_str(text)
        .map_err(|error| Reason::because("the answer is no listing of a model", error))?;
    if !is_hash(&answer.sha, 40) {
        return Err(format!("the listing's commit is {:?}", answer.sha).into());
    }
    let mut files = Vec::new();
    for sibling in answer.siblings {
        let name = sibling.rfilename;
        // The names become paths in the cache.
        let inside = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !inside || name.contains(['\\', ':', '?', '#', '%', '\0']) {
            return Err(format!("the listing names a file {name:?}").into());
        }
        let (size, checksum) = match (sibling.lfs, sibling.blob) {
            (Some(lfs), _) => (
                lfs.size.or(sibling.size),
                Some((lfs.sha256, 64, Checksum::Sha256 as fn(String) -> Checksum)),
            ),
            (None, Some(blob)) => (
                sibling.size,
                Some((blob, 40, Checksum::GitBlob as fn(String) -> Checksum)),
            ),
            (None, None) => (sibling.size, None),
        };
        let checksum = match checksum {
            Some((sum, length, _)) if !is_hash(&sum, length) => {
                return Err(format!("{name}: the listing's checksum is {sum:?}").into());
            }
            Some((sum, _, kind)) => Some(kind(sum)),
            None => None,
        };
        files.push(Listed {
            name,
            size,
            checksum,
        });
    }
    let licence = answer.card.and_then(|card| {
        let named = card.license.as_ref().and_then(|value| value.as_str());
        match (named, card.license_name) {
            (Some("other") | None, Some(name)) => Some(name),
            (named, _) => named.map(str::to_owned),
        }
    });
    Ok(Listing {
        commit: answer.sha,
        licence,
        files,
    })
}

fn is_hash(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What stands beside weights and is small: configs, vocabularies.
const COMPANIONS: [&str; 14] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt.gz",
    "config.yaml",
    "model.yaml",
    "generation_config.json",
];

/// Weights in the order in which we like them: formats that hold nothing but tensors first.
const WEIGHTS: [&[&str]; 5] = [
    &["model.safetensors"],
    &["open_clip_model.safetensors"],
    &["flax_model.msgpack"],
    &["pytorch_model.bin"],
    &["open_clip_pytorch_model.bin"],
];

/// What names the parts of a pipeline of diffusers.
const PIPELINE: &str = "model_index.json";
/// The files of aMUSEd's, which are those of [`super::registry`]'s entries.
const AMUSED: &str = "amused/amused-512";

impl Listing {
    /// The files to bring: the wanted ones, or what a model that we don't know needs.
    pub fn choose(&self, repo: &str, wanted: Option<&[String]>) -> Result<Vec<&Listed>> {
        let find = |name: &str| self.files.iter().find(|file| file.name == name);
        if let Some(wanted) = wanted {
            return wanted
                .iter()
                .map(|names| {
                    names.split('|').find_map(find).ok_or_else(|| {
                        let here = self.names();
                        unreachable(
                            repo,
                            format!("expected a file {names} at this revision, found {here}"),
                        )
                    })
                })
                .collect();
        }
        if find(PIPELINE).is_some()
            && let Some(Source::Hub { files, .. }) = known(AMUSED).map(|entry| &entry.source)
        {
            // A fine-tune of it; of other pipelines the parts have other names.
            return self.choose(repo, Some(files));
        }
        let mut chosen: Vec<&Listed> = COMPANIONS.iter().filter_map(|name| find(name)).collect();
        let weights = WEIGHTS
            .iter()
            .find_map(|names| {
                names
                    .iter()
                    .map(|name| find(name))
                    .collect::<Option<Vec<_>>>()
            })
            .or_else(|| self.any_weights());
        match weights {
            Some(weights) => {
                chosen.extend(weights);
                Ok(chosen)
            }
            None => Err(unreachable(
                repo,
                format!(
                    "expected weights (safetensors, msgpack, bin, pt), found {}",
                    self.names()
                ),
            )),
        }
    }

    /// Weights under no usual name: all safetensors of the top folder, else all of PyTorch's.
    fn any_weights(&self) -> Option<Vec<&Listed>> {
        [&["safetensors"][..], &["pt", "bin", "ckpt"]]
            .into_iter()
            .find_map(|endings| {
                let found: Vec<&Listed> = self
                    .files
                    .iter()
                    .filter(|file| !file.name.contains('/'))
                    .filter(|file| {
                        file.name
                            .rsplit_once('.')
                            .is_some_and(|(_, ending)| endings.contains(&ending))
                    })
                    .collect();
                (!found.is_empty()).then_some(found)
            })
    }

    fn names(&self) -> String {
        const SHOWN: usize = 12;
        let mut names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let names = names.join(", ");
        match more {
            0 => names,
            _ => format!("{names} and {more} more"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn listing(files: &[&str]) -> Listing {
        let siblings: Vec<String> = files
            .iter()
            .map(|name| format!(r#"{{"rfilename":{}}}"#, serde_json::json!(name)))
            .collect();
        let siblings = siblings.join(",");
        parse(&format!(r#"{{"sha":"{COMMIT}","siblings":[{siblings}]}}"#)).unwrap()
    }

    /// Those of the parts, in 16 bits where there are such.
    #[test]
    fn a_pipeline_has_the_files_of_its_parts() {
        let mut files = vec![
            "README.md",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.fp16.safetensors",
            "transformer/diffusion_pytorch_model.safetensors",
            "vqvae/config.json",
            "vqvae/diffusion_pytorch_model.safetensors",
        ];
        let chosen = |files: &[&str]| -> Result<Vec<String>> {
            let listing = listing(files);
            let chosen = listing.choose("a/b", None)?;
            Ok(chosen.iter().map(|file| file.name.clone()).collect())
        };
        let names = chosen(&files).unwrap();
        assert_eq!(names.len(), 12, "{names:?}");
        assert!(names.contains(&"transformer/diffusion_pytorch_model.fp16.safetensors".to_owned()));
        assert!(names.contains(&"vqvae/diffusion_pytorch_model.safetensors".to_owned()));
        // Another pipeline.
        files.retain(|name| !name.starts_with("vqvae/"));
        let error = chosen(&files).unwrap_err().to_string();
        assert!(error.contains("vqvae/config.json"), "{error}");
    }

    #[test]
    fn safe_weights_come_before_pickled_ones() {
        let listing = listing(&[
            "README.md",
            "pytorch_model.bin",
            "model.safetensors",
            "config.json",
        ]);
        let names: Vec<&str> = listing
            .choose("a/b", None)
            .unwrap()
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
    }

    #[test]
    fn a_repository_without_weights_is_refused() {
        let error = listing(&["README.md"]).choose("a/b", None).unwrap_err();
        assert!(error.to_string().contains("found README.md"), "{error}");
    }

    #[test]
    fn a_listing_can_not_point_outside_the_cache() {
        for name in ["../x", "/etc/passwd", "a/../../b", "", "a\\b"] {
            let name = serde_json::json!(name);
            let text = format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":{name}}}]}}"#);
            assert!(parse(&text).is_err(), "{name}");
        }
        let text = format!(
            r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"a","blobId":"../../../x"}}]}}"#
        );
        assert!(parse(&text).is_err());
        assert!(parse(r#"{"sha":"../x","siblings":[]}"#).is_err());
    }
}
