//! Where a picture came from: what its file says of itself, and what its pixels do.
//!
//! - [`watermark`]: an invisible mark in the pixels, found by a key.
//! - [`label`]: a visible one.
//! - [`xmp`]: how the picture came to be, in the words of IPTC and of China's standard.
//! - [`manifest`]: the same, signed and bound to the file (C2PA; feature `c2pa`).
//! - [`container`]: where these stand in PNG, JPEG and WebP files.
//!
//! The crate knows no models, so that it builds in seconds; `impasto::provenance` puts the parts together.

pub mod container;
pub mod label;
pub mod manifest;
pub mod watermark;
pub mod xmp;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is of another format.
    #[error("is no PNG, JPEG or WebP file")]
    Format,
    /// The file is not whole.
    #[error("is damaged: it has no pixels")]
    Damaged,
    /// A JPEG segment holds 64 KiB.
    #[error("has no room for the XMP packet: a JPEG holds 65504 bytes (PNG holds more)")]
    TooLong,
    /// A WebP without a header for additional data.
    #[error("is a plain WebP, which holds no XMP")]
    Plain,
    /// Certificates or a key that can't be used.
    #[error("the certificates and the private key can't be used to sign: {0}")]
    Signer(String),
    /// What the manifest's library says.
    #[error("no C2PA manifest can be written: {0}")]
    Manifest(String),
    /// The feature `c2pa` is off.
    #[error("this program was built without C2PA")]
    NoManifests,
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
