//! C2PA manifests: signed statements in a file about how it came to be, bound to its bytes by a hash.
//!
//! Source: C2PA Technical Specification 2.2; the crate `c2pa` reads, checks and writes them. Without the feature `c2pa`
//! nothing is signed, and manifests are seen but not checked, which reports say.

use serde::Serialize;

use crate::xmp::SourceType;
use crate::{Error, Result, container};

/// What is signed of a picture.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// How it came to be; none where the signer says only that the file is as it was when it was signed.
    pub origin: Option<SourceType>,
    /// The program and its version: `impasto 0.1.0`.
    pub tool: &'a str,
    /// The model's name.
    pub model: Option<&'a str>,
    /// The model's licence.
    pub licence: Option<&'a str>,
    /// Whether that licence forbids commercial use.
    pub non_commercial: bool,
    /// The picture's seed.
    pub seed: Option<u64>,
}

/// A picture that another was made from.
#[derive(Clone, Debug)]
pub struct Ingredient<'a> {
    /// Its file's bytes.
    pub bytes: &'a [u8],
    /// Its name.
    pub title: &'a str,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestState {
    /// The file has no manifest.
    None,
    /// It has one, and this program was built without what checks it.
    NotChecked,
    /// It has one that can't be read.
    Unreadable,
    /// It has one that does not hold: `problems` says what.
    Invalid,
    /// Signature and hashes hold. Who signed is not known: anyone can make a certificate with any name.
    ValidUnknownSigner,
    /// Signature and hashes hold, and the certificate was issued by one of the authorities that were given.
    ValidTrustedSigner,
}

/// Something in a manifest that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A code of the specification, section 15: `assertion.dataHash.mismatch`.
    pub code: String,
    /// What it means.
    pub explanation: String,
}

/// What a manifest says and what of it holds.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestReport {
    /// What holds.
    pub state: ManifestState,
    /// Bytes of the manifest store.
    pub bytes: usize,
    /// Whom the certificate names.
    pub signer: Option<String>,
    /// Who issued it, as it says itself.
    pub issuer: Option<String>,
    /// The time of the signature, where an authority stated it.
    pub time: Option<String>,
    /// The program that made the claim.
    pub tool: Option<String>,
    /// Actions with their digital source types.
    pub actions: Vec<Action>,
    /// Pictures that this one was made from.
    pub ingredients: Vec<String>,
    /// The model that is named by an impasto manifest, and its licence.
    pub model: Option<serde_json::Value>,
    /// What does not hold.
    pub problems: Vec<Problem>,
}

/// Something that was done to a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// `c2pa.created`, for example.
    pub action: String,
    /// A URI of IPTC's list.
    pub digital_source_type: Option<String>,
}

impl ManifestReport {
    fn new(state: ManifestState, bytes: usize) -> Self {
        ManifestReport {
            state,
            bytes,
            signer: None,
            issuer: None,
            time: None,
            tool: None,
            actions: Vec::new(),
            ingredients: Vec::new(),
            model: None,
            problems: Vec::new(),
        }
    }
}

/// Certificates and their private key, as PEM.
#[derive(Clone)]
pub struct Signer {
    #[cfg_attr(not(feature = "c2pa"), allow(dead_code))]
    certificates: String,
    #[cfg_attr(not(feature = "c2pa"), allow(dead_code))]
    key: String,
    #[cfg(feature = "c2pa")]
    algorithm: c2pa::SigningAlg,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// [`Signer::from_pem`] of one file with the certificates and then the key.
    ///
    /// # Errors
    /// Where there is no key, and see [`Signer::from_pem`].
    pub fn from_one_pem(text: &str) -> Result<Self> {
        let split = text
            .find("-----BEGIN PRIVATE KEY-----")
            .ok_or_else(|| Error::Signer("there is no private key after them".into()))?;
        let (certificates, key) = text.split_at(split);
        Signer::from_pem(certificates, key)
    }
}

/// Whether this program can sign and check manifests: whether it was built with the feature `c2pa`.
pub const fn supported() -> bool {
    cfg!(feature = "c2pa")
}

/// The organisation that a self-made certificate names as its issuer.
pub const SELF_MADE: &str = "impasto self-made certificate";

#[cfg(not(feature = "c2pa"))]
impl Signer {
    /// Takes a chain of certificates, the signer's first, and its private key.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn from_pem(_certificates: &str, _key: &str) -> Result<Self> {
        Err(Error::NoManifests)
    }

    /// A new key with a certificate that nobody vouches for: the chain and the key, as PEM.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn self_made() -> Result<(String, String)> {
        Err(Error::NoManifests)
    }

    /// Signs a file.
    ///
    /// # Errors
    /// Always: see [`supported`].
    pub fn sign(&self, _: &[u8], _: &Claim, _: Option<&Ingredient>) -> Result<Vec<u8>> {
        Err(Error::NoManifests)
    }
}

/// Checks a file's manifest. `anchors` are certificates, as PEM, of authorities to trust.
#[cfg(not(feature = "c2pa"))]
pub fn check(bytes: &[u8], _anchors: Option<&str>) -> ManifestReport {
    match container::manifest_bytes(bytes) {
        0 => ManifestReport::new(ManifestState::None, 0),
        length => ManifestReport::new(ManifestState::NotChecked, length),
    }
}

#[cfg(feature = "c2pa")]
pub use supported::check;

#[cfg(feature = "c2pa")]
mod supported;
#[cfg(all(test, feature = "c2pa"))]
mod tests;
