//! Pictures in memory and in files.

mod bicubic;
pub mod metrics;
mod original;

use std::fmt;
use std::io::Cursor;
use std::path::Path;
use std::str::FromStr;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits};
use impasto_resize::Layout;

use crate::error::Reason;
use crate::{Error, Result, files};

pub use bicubic::Filter;
/// What a pixel of [`Samples`] consists of.
pub use image::ExtendedColorType as SampleKind;
pub(crate) use original::Planes;
#[cfg(test)]
pub(crate) use original::tests::kinds as original_kinds;
pub use original::{Original, Samples};

/// The largest side that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// The most pixels that are decoded: telephones take 108 million.
const MAX_PIXELS: u64 = 1 << 27;
/// The most bytes of decoded pixels: the most pixels of 8-bit colours with transparency, half of them of 16-bit ones.
const MAX_DECODED_BYTES: u64 = 512 << 20;
/// The largest picture file that is read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// An 8-bit sRGB picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Row after row, three bytes a pixel.
    pub rgb: Vec<u8>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

/// A file format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lossless.
    #[default]
    Png,
    /// Lossy, with a quality.
    Jpeg,
    /// Lossless.
    Webp,
}

impl Format {
    /// The usual file name extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::Webp => "webp",
        }
    }

    /// By a path's extension.
    pub fn of_path(path: &Path) -> Result<Self> {
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        extension.parse().map_err(|_| {
            Error::bad_file(
                path,
                format!("the extension is \"{extension}\", expected png, jpg or webp"),
            )
        })
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "png" => Ok(Format::Png),
            "jpeg" | "jpg" => Ok(Format::Jpeg),
            "webp" => Ok(Format::Webp),
            _ => Err(Error::invalid(
                "format",
                format!("expected png, jpeg or webp, got \"{text}\""),
            )),
        }
    }
}

impl Image {
    /// A picture of given pixels; `rgb` has three bytes for each.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let expected = width
            .checked_mul(height)
            .and_then(|area| area.checked_mul(3));
        if expected != Some(rgb.len()) || rgb.is_empty() {
            let reason = format!(
                "{width}x{height} pixels take 3 bytes each, got {} bytes",
                rgb.len()
            );
            return Err(Error::invalid("picture", reason));
        }
        Ok(Image { width, height, rgb })
    }

    /// One colour everywhere.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Image {
            width,
            height,
            rgb: colour.repeat(width * height),
        }
    }

    /// Reads a picture file; see [`Image::decode`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Image::decode(&read_bounded(path)?, path)
    }

    /// Decodes a PNG, JPEG, WebP, GIF, BMP or TIFF, turned as its EXIF says, transparent parts on white; of an animation
    /// the first picture. `name` is used in errors. Pictures beyond 16,384 pixels a side, 2²⁷ pixels or 512 MiB in all
    /// are refused before their pixels are read.
    pub fn decode(bytes: &[u8], name: impl AsRef<Path>) -> Result<Self> {
        let (image, _) = decode_image(bytes, name.as_ref())?;
        if image.color().has_alpha() {
            return Ok(Image::flattened(&image));
        }
        // In place, where its pixels are ours: a large one is there once.
        let (width, height) = (image.width() as usize, image.height() as usize);
        let rgb = image.into_rgb8().into_raw();
        Ok(Image { width, height, rgb })
    }

    /// An image on white.
    fn flattened(image: &DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if !image.color().has_alpha() {
            return Image {
                width,
                height,
                rgb: image.to_rgb8().into_raw(),
            };
        }
        let mut rgb = Vec::with_capacity(3 * width * height);
        let converted;
        let pixels = match image.as_rgba8() {
            Some(pixels) => pixels,
            None => {
                converted = image.to_rgba8();
                &converted
            }
        };
        for pixel in pixels.pixels() {
            let [r, g, b, alpha] = pixel.0.map(u32::from);
            rgb.extend(
                [r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8),
            );
        }
        Image { width, height, rgb }
    }

    /// The bytes of a file. `quality` from 1 to 100 counts for JPEG only.
    pub fn encode(&self, format: Format, quality: u8) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        let colour = image::ExtendedColorType::Rgb8;
        match format {
            Format::Png => image::codecs::png::PngEncoder::new(&mut bytes)
                .write_image(&self.rgb, width, height, colour),
            Format::Jpeg => JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100))
                .write_image(&self.rgb, width, height, colour),
            Format::Webp => image::codecs::webp::WebPEncoder::new_lossless(&mut bytes)
                .write_image(&self.rgb, width, height, colour),
        }
        .map_err(|e| {
            Error::invalid("picture", format!("{width}x{height} can't be encoded: {e}"))
        })?;
        Ok(bytes)
    }

    /// The middle square, scaled to `size` × `size`.
    pub fn fit_square(&self, size: usize) -> Result<Self> {
        let side = self.width.min(self.height);
        let left = (self.width - side) / 2;
        let top = (self.height - side) / 2;
        let mut rgb = Vec::with_capacity(3 * side * side);
        for row in top..top + side {
            let start = 3 * (row * self.width + left);
            rgb.extend_from_slice(&self.rgb[start..start + 3 * side]);
        }
        Image {
            width: side,
            height: side,
            rgb,
        }
        .resize(size, size)
    }

    /// Scaled with a Lanczos-3 filter.
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let layout = Layout {
            channels: 3,
            wide: false,
        };
        let sides = [self.width, self.height];
        let rgb = impasto_resize::lanczos(&self.rgb, layout, sides, [width, height])
            .map_err(|e| Error::invalid("picture", Reason::of(e)))?;
        Ok(Image { width, height, rgb })
    }

    /// Channel after channel, −1..1.
    pub fn to_chw(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rgb.len());
        for channel in 0..3 {
            values.extend(
                self.rgb
                    .iter()
                    .skip(channel)
                    .step_by(3)
                    .map(|&v| f32::from(v) / 127.5 - 1.0),
            );
        }
        values
    }

    /// The inverse of [`Image::to_chw`]; values beyond −1..1 are cut off, others than numbers refused.
    pub fn from_chw(values: &[f32], width: usize, height: usize) -> Result<Self> {
        let expected = width
            .checked_mul(height)
            .and_then(|area| area.checked_mul(3));
        if expected != Some(values.len()) {
            let reason = format!(
                "{width}x{height} pixels take 3 values each, got {} values",
                values.len()
            );
            return Err(Error::invalid("pixels", reason));
        }
        let area = width * height;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFinite {
                what: "pixel",
                detail: format!("{} at value {at}", values[at]),
            });
        }
        let mut rgb = vec![0; 3 * area];
        for channel in 0..3 {
            for (i, &value) in values[channel * area..(channel + 1) * area]
                .iter()
                .enumerate()
            {
                rgb[3 * i + channel] = ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
            }
        }
        Ok(Image { width, height, rgb })
    }

    /// Pictures of one size side by side, `columns` a row, `gap` white pixels between them.
    pub fn grid(pictures: &[Image], columns: usize, gap: usize) -> Result<Self> {
        let Some(first) = pictures.first() else {
            return Err(Error::invalid("grid", "expected 1 or more pictures, got 0"));
        };
        let columns = columns.clamp(1, pictures.len());
        let rows = pictures.len().div_ceil(columns);
        let width = columns * first.width + (columns - 1) * gap;
        let height = rows * first.height + (rows - 1) * gap;
        let mut grid = Image::filled(width, height, [255; 3]);
        for (i, picture) in pictures.iter().enumerate() {
            if (picture.width, picture.height) != (first.width, first.height) {
                return Err(Error::invalid(
                    "grid",
                    format!(
                        "picture {i} is {}x{}, the first is {}x{}",
                        picture.width, picture.height, first.width, first.height
                    ),
                ));
            }
            let left = (i % columns) * (first.width + gap);
            let top = (i / columns) * (first.height + gap);
            for row in 0..picture.height {
                let to = 3 * ((top + row) * width + left);
                let from = 3 * row * picture.width;
                grid.rgb[to..to + 3 * picture.width]
                    .copy_from_slice(&picture.rgb[from..from + 3 * picture.width]);
            }
        }
        Ok(grid)
    }
}

/// A picture file as it is, upright, with its colour profile; see [`Image::decode`] for what is refused.
fn decode_image(bytes: &[u8], name: &Path) -> Result<(DynamicImage, Option<Vec<u8>>)> {
    let bad = |reason: Reason| Error::bad_file(name, reason);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| bad(Reason::because("not a picture", e)))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(most_bytes(bytes));
    reader.limits(limits);
    let format = reader.format().filter(|format| READ.contains(format));
    let Some(format) = format else {
        let found = foreign(bytes).map_or("not a picture", |found| found);
        return Err(bad(format!(
            "{found}: expected PNG, JPEG or WebP (or GIF, BMP or TIFF)"
        )
        .into()));
    };
    if format == ImageFormat::WebP {
        webp_chunks_fit(bytes).map_err(bad)?;
    }
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(bad(
            "not a whole picture: the JPEG ends before its last pixel".into(),
        ));
    }
    let unreadable = |e: image::ImageError| bad(Reason::because("not a whole picture", e));
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(bad(format!(
            "is {width}x{height} pixels, expected 1 to {MAX_PIXELS} pixels in all"
        )
        .into()));
    }
    let decoded = decoder.total_bytes();
    if decoded > MAX_DECODED_BYTES {
        return Err(bad(format!(
            "is {width}x{height} pixels that take {decoded} bytes, expected at most {MAX_DECODED_BYTES}"
        ).into()));
    }
    if u64::from(width) * u64::from(height) > most_pixels(format, bytes.len() as u64) {
        return Err(bad(format!(
            "not a whole picture: {width}x{height} pixels are more than {} bytes can hold",
            bytes.len()
        )
        .into()));
    }
    // A profile that can't be read is as good as none: colours are taken as sRGB.
    let profile = decoder.icc_profile().ok().flatten();
    let orientation = decoder.orientation().map_err(unreadable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    image.apply_orientation(orientation);
    Ok((image, profile))
}

/// What is read.
const READ: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// The usual extension of a picture file by its first bytes; none where it is none that is read.
pub(crate) fn extension_of(bytes: &[u8]) -> Option<&'static str> {
    let format = image::guess_format(bytes).ok()?;
    let extensions = READ.contains(&format).then(|| format.extensions_str())?;
    extensions.first().copied()
}

/// What a file is by its first bytes, if it is one of the pictures that are not read.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    // Of an ISO media file, the brand.
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(match bytes.get(8..12)? {
            b"avif" | b"avis" => "is an AVIF, which is not read",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                "is a HEIC, which is not read"
            }
            _ => "is a video or another media file",
        });
    }
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    [
        (&b"\xff\x0a"[..], "is a JPEG XL, which is not read"),
        (b"\0\0\0\x0cJXL ", "is a JPEG XL, which is not read"),
        (b"\0\0\0\x0cjP  ", "is a JPEG 2000, which is not read"),
        (b"8BPS", "is a PSD, which is not read"),
        (b"%PDF", "is a PDF, not a picture"),
        (b"<svg", "is an SVG, which is not read"),
        (b"<?xml", "is an XML file such as SVG, which is not read"),
        (b"\0\0\x01\0", "is an ICO, which is not read"),
        (b"qoif", "is a QOI, which is not read"),
    ]
    .into_iter()
    .find_map(|(magic, name)| starts(magic).then_some(name))
}

/// The most pixels that a file of this many bytes can have: a file that states more would cost their memory before it
/// turned out that they are not there.
fn most_pixels(format: ImageFormat, bytes: u64) -> u64 {
    let of_a_byte = match format {
        // Deflate's copies of 258 bytes take two bits; eight pixels of a bit are a byte.
        ImageFormat::Png => 1032 * 8,
        // A block of 64 pixels takes a bit at least.
        ImageFormat::Jpeg => 64 * 8,
        // A run of 255 takes two bytes; what is after the last one is left out.
        ImageFormat::Bmp => 4096,
        // LZW's longest strings, of codes of 12 bits.
        ImageFormat::Gif => 4096,
        // One colour costs nothing in WebP, white lines next to nothing in TIFF.
        _ => return u64::MAX,
    };
    bytes.saturating_mul(of_a_byte)
}

/// The most memory that a file's decoder may take: for its pixels, 16 bits of four channels each, and for what else it
/// has. In a PNG the latter is compressed, and a little of it could become very much.
fn most_bytes(bytes: &[u8]) -> u64 {
    /// Ten times a large colour profile.
    const BESIDES: u64 = 16 << 20;
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    let side = |at: usize| {
        let number = bytes.get(at..at + 4)?;
        Some(u64::from(u32::from_be_bytes(number.try_into().ok()?)))
    };
    let pixels = match (bytes.starts_with(SIGNATURE), side(16), side(20)) {
        (true, Some(width), Some(height)) => width.saturating_mul(height),
        _ => MAX_PIXELS,
    };
    pixels.saturating_mul(8).min(MAX_DECODED_BYTES) + BESIDES + bytes.len() as u64
}

/// Says which chunk of a WebP is longer than the file: the decoder would make room for all of it before it read.
fn webp_chunks_fit(bytes: &[u8]) -> Result<(), Reason> {
    // `RIFF`, the length of all, `WEBP`.
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length > behind.len() {
            return Err(format!(
                "not a whole picture: its chunk {} has {length} bytes, the file has {} more",
                head[..4].escape_ascii(),
                behind.len()
            )
            .into());
        }
        rest = behind.get(length + length % 2..).unwrap_or_default();
    }
    Ok(())
}

/// A file's bytes, unless there are more than any picture needs.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    files::read_at_most(path, MAX_FILE_BYTES)
}

/// Whether a JPEG's pixels are followed by its end marker. The decoder fills what is missing with grey and
/// says nothing, so a download that broke off would be trained on.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    // Segments before the first scan are skipped whole: a thumbnail in them has an end of its own.
    let mut at = 2;
    while let Some(&[0xff, kind, high, low]) = bytes.get(at..at + 4) {
        match kind {
            START_OF_SCAN => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            // Fill bytes.
            0xff => at += 1,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    false
}

#[cfg(test)]
mod tests;
