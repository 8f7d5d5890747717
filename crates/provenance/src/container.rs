//! What stands beside the pixels in PNG, JPEG and WebP files: found, added and removed without touching the pixels.
//!
//! Sources: PNG (W3C, third edition) 5.3; JPEG (ITU-T T.81) B.1.1; WebP container (RFC 9649) 2; XMP part 3 (Adobe, 2020)
//! 1.1.3 to 1.1.5 for where XMP goes; C2PA 2.1, A.3 to A.5 for where manifests go.

use std::ops::Range;

use crate::{Error, Result};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const PNG_XMP: &[u8] = b"XML:com.adobe.xmp\0";
const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const JPEG_MORE_XMP: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
const JPEG_EXIF: &[u8] = b"Exif\0\0";
const APP1: u8 = 0xe1;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    Webp,
}

/// What a part of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Settings and other texts.
    Text,
    /// Exif.
    Exif,
    /// XMP.
    Xmp,
    /// IPTC and comments.
    Other,
    /// A C2PA manifest store.
    Manifest,
    /// Pixels, and what is needed to show them.
    Pixels,
}

impl Part {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Text => "text",
            Part::Exif => "Exif",
            Part::Xmp => "XMP",
            Part::Other => "comments",
            Part::Manifest => "C2PA manifest",
            Part::Pixels => "pixels",
        }
    }
}

struct Segment {
    part: Part,
    /// Four letters, or a JPEG marker as the last byte.
    tag: [u8; 4],
    /// With its header.
    whole: Range<usize>,
    /// Without it.
    payload: Range<usize>,
}

impl Container {
    /// By a file's first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(PNG) {
            Some(Container::Png)
        } else if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
            Some(Container::Jpeg)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Container::Webp)
        } else {
            None
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Container::Png => "image/png",
            Container::Jpeg => "image/jpeg",
            Container::Webp => "image/webp",
        }
    }

    /// The parts, up to the first that is damaged. Each is there; parts need not be adjacent.
    fn segments(self, bytes: &[u8]) -> Vec<Segment> {
        match self {
            Container::Png => png_segments(bytes),
            Container::Jpeg => jpeg_segments(bytes),
            Container::Webp => webp_segments(bytes),
        }
    }
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok()
}

fn png_segments(bytes: &[u8]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut at = PNG.len();
    while let (Some(length), Some(tag)) = (four(bytes, at), four(bytes, at + 4)) {
        let start = at + 8;
        let end = start.saturating_add(u32::from_be_bytes(length) as usize);
        let Some(payload) = bytes.get(start..end).filter(|_| bytes.len() >= end + 4) else {
            break;
        };
        let part = match &tag {
            b"iTXt" if payload.starts_with(PNG_XMP) => Part::Xmp,
            b"tEXt" | b"zTXt" | b"iTXt" => Part::Text,
            b"eXIf" => Part::Exif,
            b"caBX" => Part::Manifest,
            _ => Part::Pixels,
        };
        segments.push(Segment {
            part,
            tag,
            whole: at..end + 4,
            payload: start..end,
        });
        at = end + 4;
        if &tag == b"IEND" {
            break;
        }
    }
    segments
}

fn jpeg_segments(bytes: &[u8]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        // Fill bytes, and the pixels.
        if marker == 0xff {
            at += 1;
            continue;
        }
        if marker == 0xda {
            break;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        let Some(payload) = bytes.get(at + 4..end) else {
            break;
        };
        let part = match marker {
            APP1 if payload.starts_with(JPEG_EXIF) => Part::Exif,
            APP1 if payload.starts_with(JPEG_XMP) || payload.starts_with(JPEG_MORE_XMP) => {
                Part::Xmp
            }
            // JUMBF, which C2PA is in.
            0xeb if payload.starts_with(b"JP") => Part::Manifest,
            0xed | 0xfe => Part::Other,
            _ => Part::Pixels,
        };
        segments.push(Segment {
            part,
            tag: [0, 0, 0, marker],
            whole: at..end,
            payload: at + 4..end,
        });
        at = end;
    }
    segments
}

fn webp_segments(bytes: &[u8]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut at = 12;
    while let (Some(tag), Some(length)) = (four(bytes, at), four(bytes, at + 4)) {
        let start = at + 8;
        let length = u32::from_le_bytes(length) as usize;
        let Some(end) = start.checked_add(length).filter(|&end| end <= bytes.len()) else {
            break;
        };
        let padded = (end + length % 2).min(bytes.len());
        let part = match &tag {
            b"EXIF" => Part::Exif,
            b"XMP " => Part::Xmp,
            b"C2PA" => Part::Manifest,
            _ => Part::Pixels,
        };
        segments.push(Segment {
            part,
            tag,
            whole: at..padded,
            payload: start..end,
        });
        at = padded;
    }
    segments
}

/// The XMP packet of a file. None where there is none, or it is compressed, which XMP forbids.
pub fn read_xmp(bytes: &[u8]) -> Option<&str> {
    let container = Container::of(bytes)?;
    let segments = container.segments(bytes);
    let segment = segments.iter().find(|segment| segment.part == Part::Xmp)?;
    let payload = &bytes[segment.payload.clone()];
    let packet = match container {
        Container::Png => {
            // Compression flag and method, language, translated keyword.
            let (flags, rest) = payload[PNG_XMP.len()..].split_at_checked(2)?;
            let mut texts = rest.splitn(3, |&byte| byte == 0);
            (flags[0] == 0).then(|| texts.nth(2))??
        }
        Container::Jpeg => payload.strip_prefix(JPEG_XMP)?,
        Container::Webp => payload,
    };
    std::str::from_utf8(packet).ok()
}

/// Bytes of a file's C2PA manifest store, or 0.
pub fn manifest_bytes(bytes: &[u8]) -> usize {
    let Some(container) = Container::of(bytes) else {
        return 0;
    };
    let segments = container.segments(bytes).into_iter();
    let manifests = segments.filter(|segment| segment.part == Part::Manifest);
    manifests.map(|segment| segment.payload.len()).sum()
}

/// A file with an XMP packet in the place of its own.
///
/// # Errors
/// Where the file is none of the formats or damaged, or its format can't hold the packet.
pub fn with_xmp(bytes: &[u8], packet: &str) -> Result<Vec<u8>> {
    let container = Container::of(bytes).ok_or(Error::Format)?;
    let bytes = without(bytes, container, |part| part == Part::Xmp)?;
    let segments = container.segments(&bytes);
    match container {
        Container::Png => {
            let first = segments.iter().find(|segment| &segment.tag == b"IDAT");
            let at = first.ok_or(Error::Damaged)?.whole.start;
            let mut payload = PNG_XMP.to_vec();
            payload.extend([0; 4]);
            payload.extend(packet.as_bytes());
            let mut chunk = (payload.len() as u32).to_be_bytes().to_vec();
            chunk.extend(b"iTXt");
            chunk.extend(payload);
            chunk.extend(crc(&chunk[4..]).to_be_bytes());
            Ok(inserted(&bytes, at, &chunk))
        }
        Container::Jpeg => {
            // After JFIF and Exif, which come first.
            let before = segments
                .iter()
                .take_while(|segment| segment.tag[3] == 0xe0 || segment.part == Part::Exif);
            let at = before.last().map_or(2, |segment| segment.whole.end);
            let length = 2 + JPEG_XMP.len() + packet.len();
            let length = u16::try_from(length).map_err(|_| Error::TooLong)?;
            let mut segment = vec![0xff, APP1];
            segment.extend(length.to_be_bytes());
            segment.extend(JPEG_XMP);
            segment.extend(packet.as_bytes());
            Ok(inserted(&bytes, at, &segment))
        }
        Container::Webp => {
            let extended = segments.iter().find(|segment| &segment.tag == b"VP8X");
            let flags = extended.ok_or(Error::Plain)?.payload.start;
            let mut bytes = bytes;
            *bytes.get_mut(flags).ok_or(Error::Damaged)? |= XMP_FLAG;
            bytes.extend(b"XMP ");
            bytes.extend((packet.len() as u32).to_le_bytes());
            bytes.extend(packet.as_bytes());
            if packet.len() % 2 == 1 {
                bytes.push(0);
            }
            resize_riff(&mut bytes);
            Ok(bytes)
        }
    }
}

/// Flags of VP8X.
const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;

fn resize_riff(bytes: &mut [u8]) {
    let length = (bytes.len() - 8) as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
}

fn inserted(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    [&bytes[..at], new, &bytes[at..]].concat()
}

/// A file without what it says of itself, and the names of what was removed: texts, Exif (the orientation stays), XMP,
/// IPTC, comments, C2PA manifests. Pixels and colour profiles stay as they are.
///
/// # Errors
/// Where the file is none of the formats.
pub fn stripped(bytes: &[u8]) -> Result<(Vec<u8>, Vec<&'static str>)> {
    let container = Container::of(bytes).ok_or(Error::Format)?;
    let segments = container.segments(bytes);
    let mut names: Vec<&str> = segments
        .iter()
        .filter(|segment| segment.part != Part::Pixels)
        .map(|segment| segment.part.name())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok((
        without(bytes, container, |part| part != Part::Pixels)?,
        names,
    ))
}

fn without(bytes: &[u8], container: Container, removed: impl Fn(Part) -> bool) -> Result<Vec<u8>> {
    let segments = container.segments(bytes);
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let mut flags = 0;
    for segment in &segments {
        if !removed(segment.part) {
            continue;
        }
        kept.extend(&bytes[at..segment.whole.start]);
        at = segment.whole.end;
        let orientation = match segment.part {
            Part::Exif => orientation(container, &bytes[segment.payload.clone()]),
            _ => None,
        };
        match (orientation, segment.part) {
            (Some(value), _) => kept.extend(exif_of(container, value)),
            (None, Part::Exif) => flags |= EXIF_FLAG,
            (None, Part::Xmp) => flags |= XMP_FLAG,
            _ => {}
        }
    }
    kept.extend(&bytes[at..]);
    if container == Container::Webp {
        let segments = container.segments(&kept);
        let extended = segments.iter().find(|segment| &segment.tag == b"VP8X");
        if let Some(at) = extended.map(|segment| segment.payload.start)
            && let Some(byte) = kept.get_mut(at)
        {
            *byte &= !flags;
        }
        resize_riff(&mut kept);
    }
    Ok(kept)
}

/// The orientation of an Exif block, where it turns the picture.
fn orientation(container: Container, payload: &[u8]) -> Option<u16> {
    let tiff = payload.strip_prefix(JPEG_EXIF).unwrap_or(payload);
    let _ = container;
    let big = match tiff.get(..4)? {
        b"MM\0\x2a" => true,
        b"II\x2a\0" => false,
        _ => return None,
    };
    let two = |at: usize| -> Option<u16> {
        let pair: [u8; 2] = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big {
            u16::from_be_bytes(pair)
        } else {
            u16::from_le_bytes(pair)
        })
    };
    let offset = four(tiff, 4)?;
    let directory = if big {
        u32::from_be_bytes(offset)
    } else {
        u32::from_le_bytes(offset)
    } as usize;
    (0..usize::from(two(directory)?)).find_map(|i| {
        let entry = directory + 2 + 12 * i;
        let value = (two(entry)? == 0x0112).then(|| two(entry + 8))??;
        (2..=8).contains(&value).then_some(value)
    })
}

/// A segment with an Exif block of an orientation alone.
fn exif_of(container: Container, orientation: u16) -> Vec<u8> {
    let mut tiff = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    tiff.extend(orientation.to_be_bytes());
    tiff.extend([0; 6]);
    match container {
        Container::Png => {
            let mut chunk = (tiff.len() as u32).to_be_bytes().to_vec();
            chunk.extend(b"eXIf");
            chunk.extend(tiff);
            chunk.extend(crc(&chunk[4..]).to_be_bytes());
            chunk
        }
        Container::Jpeg => {
            let length = (2 + JPEG_EXIF.len() + tiff.len()) as u16;
            [&[0xff, APP1], &length.to_be_bytes()[..], JPEG_EXIF, &tiff].concat()
        }
        Container::Webp => {
            let mut chunk = b"EXIF".to_vec();
            chunk.extend((tiff.len() as u32).to_le_bytes());
            chunk.extend(tiff);
            chunk
        }
    }
}

/// CRC-32 of a PNG chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
    use image::{
        ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader, metadata::Orientation,
    };
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Files of each format with an Exif block of an orientation.
    fn files(orientation: u16) -> [Vec<u8>; 3] {
        let tiff = exif_of(Container::Webp, orientation)[8..].to_vec();
        let pixels: Vec<u8> = (0..16 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
        macro_rules! file {
            ($encoder:expr) => {{
                let mut bytes = Vec::new();
                let mut encoder = $encoder(&mut bytes);
                encoder.set_exif_metadata(tiff.clone()).unwrap();
                encoder
                    .write_image(&pixels, 16, 8, ExtendedColorType::Rgb8)
                    .unwrap();
                bytes
            }};
        }
        [
            file!(PngEncoder::new),
            file!(JpegEncoder::new),
            file!(WebPEncoder::new_lossless),
        ]
    }

    fn decode(bytes: &[u8]) -> (Vec<u8>, Orientation, Option<Vec<u8>>) {
        let reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .unwrap();
        let mut decoder = reader.into_decoder().unwrap();
        let orientation = decoder.orientation().unwrap();
        let xmp = decoder.xmp_metadata().unwrap();
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).unwrap();
        (pixels, orientation, xmp)
    }

    #[test]
    fn xmp_is_added_and_removed_and_pixels_and_orientation_stay() {
        for orientation in [1, 6] {
            for file in files(orientation) {
                let (pixels, turned, _) = decode(&file);
                for packet in ["<x>odd</x>", "<x>a packet of even length</x>"] {
                    let marked = with_xmp(&with_xmp(&file, "another").unwrap(), packet).unwrap();
                    assert_eq!(read_xmp(&marked), Some(packet));
                    let (same, still, xmp) = decode(&marked);
                    assert_eq!((&same, still), (&pixels, turned));
                    assert_eq!(xmp.as_deref(), Some(packet.as_bytes()));
                    let (bare, names) = stripped(&marked).unwrap();
                    assert_eq!(names, ["Exif", "XMP"]);
                    assert_eq!(decode(&bare), (pixels.clone(), turned, None));
                    let left = if orientation == 1 {
                        Vec::new()
                    } else {
                        vec!["Exif"]
                    };
                    assert_eq!(stripped(&bare).unwrap().1, left);
                }
            }
        }
    }

    #[test]
    fn what_a_jpeg_can_not_hold_is_refused() {
        let [_, jpeg, _] = files(1);
        assert!(matches!(
            with_xmp(&jpeg, &"x".repeat(66_000)),
            Err(Error::TooLong)
        ));
        assert!(matches!(with_xmp(b"no picture", "x"), Err(Error::Format)));
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(kind in 0usize..3, at: usize, value: u8, cut: usize) {
            let mut bytes = with_xmp(&files(6)[kind], "<x/>").unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut % 40);
            let _ = (read_xmp(&bytes), manifest_bytes(&bytes), stripped(&bytes), with_xmp(&bytes, "y"));
        }
    }
}
