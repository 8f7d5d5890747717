//! Pictures that clients send, and the formats in which they get theirs.

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use impasto::image::{Format, Original};
use impasto::provenance::{Encoding, Policy};

use crate::error::{ApiError, ApiResult};
use crate::{App, blocking};

/// The most pixels of a picture that is worked on.
const MOST_PIXELS: usize = 1 << 25;

/// What is known of a picture that a client sent.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Whether a part of it is transparent.
    pub transparent: bool,
}

/// The bytes of a picture in a text: a data URL, or base64. Other URLs are refused: nothing is fetched for a client.
pub fn from_text(param: &str, text: &str) -> ApiResult<Bytes> {
    let encoded = match text.strip_prefix("data:") {
        Some(rest) => match rest.split_once(";base64,") {
            Some((_, encoded)) => encoded,
            None => return Err(ApiError::invalid(param, "A data URL has to be in base64.")),
        },
        None if text.contains("://") => {
            return Err(ApiError::invalid(
                param,
                "Addresses are not fetched; send a data URL.",
            ));
        }
        None => text,
    };
    let bytes = STANDARD.decode(encoded.trim());
    bytes
        .map(Bytes::from)
        .map_err(|_| ApiError::invalid(param, "The picture is not valid base64."))
}

/// Base64.
pub fn to_text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes a picture to see whether it is one; `param` is what it is called.
pub async fn look(app: &App, param: &'static str, bytes: &Bytes) -> ApiResult<Looked> {
    let original = decode(app, param, bytes).await?;
    Ok(Looked {
        width: original.width(),
        height: original.height(),
        transparent: original.transparent().is_some(),
    })
}

/// Decodes a picture. One at a time: a small file may be a large picture.
pub async fn decode(app: &App, param: &'static str, bytes: &Bytes) -> ApiResult<Original> {
    let turn = app
        .clip_turn
        .clone()
        .acquire_owned()
        .await
        .map_err(ApiError::internal)?;
    let bytes = bytes.clone();
    let decoded = blocking(move || {
        let decoded = Original::decode(&bytes, param);
        drop(turn);
        Ok(decoded)
    });
    // The name in the message is the parameter's.
    let original = decoded
        .await?
        .map_err(|error| ApiError::invalid(param, error.to_string()))?;
    if original.width() * original.height() > MOST_PIXELS {
        let (width, height) = (original.width(), original.height());
        let message =
            format!("The picture is {width}x{height}, expected at most {MOST_PIXELS} pixels.");
        return Err(ApiError::invalid(param, message));
    }
    Ok(original)
}

/// One of our PNGs in another format; what it says of itself is kept.
pub fn convert(
    png: Vec<u8>,
    format: Format,
    quality: u8,
    policy: &Policy,
) -> impasto::Result<Vec<u8>> {
    if format == Format::Png {
        return Ok(png);
    }
    let original = Original::decode(&png, "picture")?;
    policy.encode_again(
        &original.samples(format),
        Encoding { format, quality },
        &png,
    )
}

/// The media type of a format.
pub fn media_type(format: Format) -> &'static str {
    match format {
        Format::Png => "image/png",
        Format::Jpeg => "image/jpeg",
        Format::Webp => "image/webp",
    }
}
