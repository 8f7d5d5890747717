//! What a picture file says of its origin, and what of that holds.

use impasto_provenance::container;
use impasto_provenance::manifest::{self, ManifestReport, ManifestState};
use impasto_provenance::watermark::{Key, Part, THRESHOLD, detect_keys};
use impasto_provenance::xmp::Statement;
use serde::Serialize;

use super::read_parameters;
use crate::Result;
use crate::image::Image;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Keys of watermarks.
    pub keys: Vec<Key>,
    /// Certificates of authorities that are trusted, as PEM.
    pub anchors: Option<String>,
}

impl Default for VerifyOptions {
    /// The public key, and no authority.
    fn default() -> Self {
        VerifyOptions {
            keys: vec![Key::public()],
            anchors: None,
        }
    }
}

/// What a file says, and what of it holds. Settings, XMP and labels are texts that anyone can write and remove; a
/// manifest binds what it says to the file and to whoever signed it; a watermark says that the key was used.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The text `parameters`.
    pub parameters: Option<String>,
    /// What the XMP says.
    pub xmp: Option<Statement>,
    /// The C2PA manifest.
    pub manifest: ManifestReport,
    /// For each key, whether its watermark is there. Empty where the picture is too small to say.
    pub watermarks: Vec<FoundWatermark>,
}

/// The search for one key.
#[derive(Clone, Debug, Serialize)]
pub struct FoundWatermark {
    /// The key's name.
    pub key: String,
    /// Whether the score reaches the threshold.
    pub found: bool,
    /// −log10 of a bound on the probability of such a picture without the key.
    pub score: f64,
    /// Where `found` begins.
    pub threshold: f64,
    /// Left, top, width and height of the part of the original that the picture is, in shares of it; none for the whole.
    pub part: Option<[f64; 4]>,
}

impl Verified {
    /// Whether something that the file claims does not hold.
    pub fn is_wrong(&self) -> bool {
        matches!(
            self.manifest.state,
            ManifestState::Invalid | ManifestState::Unreadable
        )
    }
}

/// Looks at a file. `name` is how errors call it.
///
/// # Errors
/// Where it is no picture, or not a whole one.
pub fn verify(bytes: &[u8], name: &str, options: &VerifyOptions) -> Result<Verified> {
    let image = Image::decode(bytes, name)?;
    let found = detect_keys(image.width, image.height, &image.rgb, &options.keys);
    let part = |part: Part| [part.left, part.top, part.width, part.height];
    let watermarks = options.keys.iter().zip(found.unwrap_or_default());
    Ok(Verified {
        width: image.width,
        height: image.height,
        parameters: read_parameters(bytes),
        xmp: container::read_xmp(bytes).map(Statement::read),
        manifest: manifest::check(bytes, options.anchors.as_deref()),
        watermarks: watermarks
            .map(|(key, found)| FoundWatermark {
                key: key.name().to_owned(),
                found: found.found(),
                score: found.score,
                threshold: THRESHOLD,
                part: found.part.filter(|_| found.found()).map(part),
            })
            .collect(),
    })
}
