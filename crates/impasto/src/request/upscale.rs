//! Finished pictures enlarged, as a part of other requests.

use crate::image::Original;
use crate::observer::{GeneratedImage, Observer};
use crate::upscale::{MAX_FACTOR, Upscale, Upscaler};
use crate::{Error, Result};

/// A factor, and what enlarges.
type Enlarging<'a> = (Option<usize>, Option<&'a Upscaler>);

/// Returns an error that names the invalid field.
pub fn check(factor: Option<usize>, upscaler: Option<&Upscaler>) -> Result<()> {
    match (factor, upscaler) {
        (Some(factor), _) if !(1..=MAX_FACTOR).contains(&factor) => Err(Error::invalid(
            "upscale",
            format!("expected 1 to {MAX_FACTOR}, got {factor}"),
        )),
        (Some(_), None) => Err(Error::invalid("upscale", "expected an upscaler, got none")),
        _ => Ok(()),
    }
}

/// Enlarges an image, where that was requested.
pub fn enlarge(
    image: &mut GeneratedImage,
    enlarging: Enlarging<'_>,
    observer: &mut dyn Observer,
) -> Result<()> {
    if let (Some(factor), Some(upscaler)) = enlarging {
        image.picture = upscaler.enlarge(&image.picture, factor, observer)?;
    }
    Ok(())
}

/// A picture in its own samples, enlarged where that was requested.
pub fn enlarged(
    picture: Original,
    enlarging: Enlarging<'_>,
    observer: &mut dyn Observer,
) -> Result<Original> {
    let (Some(_), Some(upscaler)) = enlarging else {
        return Ok(picture);
    };
    let request = Upscale {
        factor: enlarging.0,
        ..Upscale::new(picture)
    };
    Ok(upscaler.run(&request, observer)?.image)
}
