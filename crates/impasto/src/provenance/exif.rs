//! The one EXIF tag that carries settings: UserComment, in a TIFF block of two directories.
//!
//! Source: Exif 3.0 (CIPA DC-008), sections 4.5.2 (directories) and 4.6.6 (UserComment). Written as
//! AUTOMATIC1111 writes it (through piexif): big-endian TIFF, `UNICODE\0`, UTF-16 in the same order.
//! Hand-assembled because it is thirty lines and the crates that do it rewrite whole files.

/// In the main directory: where the Exif directory begins.
const EXIF_DIRECTORY: u16 = 0x8769;
/// In the Exif directory.
const USER_COMMENT: u16 = 0x9286;

const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

const UTF_16: &[u8; 8] = b"UNICODE\0";
const ASCII: &[u8; 8] = b"ASCII\0\0\0";

/// A TIFF block with `comment` in its UserComment.
pub(super) fn user_comment(comment: &str) -> Vec<u8> {
    let mut value = UTF_16.to_vec();
    value.extend(comment.encode_utf16().flat_map(u16::to_be_bytes));
    // Header, then directories of one entry: a count, 12 bytes an entry, the next directory's offset.
    const HEADER: u32 = 8;
    const DIRECTORY: u32 = 2 + 12 + 4;
    let mut tiff = b"MM\0\x2a".to_vec();
    tiff.extend(HEADER.to_be_bytes());
    directory(&mut tiff, EXIF_DIRECTORY, LONG, 1, HEADER + DIRECTORY);
    let offset = HEADER + 2 * DIRECTORY;
    directory(
        &mut tiff,
        USER_COMMENT,
        UNDEFINED,
        value.len() as u32,
        offset,
    );
    tiff.extend(value);
    tiff
}

fn directory(tiff: &mut Vec<u8>, tag: u16, kind: u16, count: u32, value: u32) {
    tiff.extend(1u16.to_be_bytes());
    tiff.extend(tag.to_be_bytes());
    tiff.extend(kind.to_be_bytes());
    tiff.extend(count.to_be_bytes());
    tiff.extend(value.to_be_bytes());
    tiff.extend(0u32.to_be_bytes());
}

/// The UserComment of a TIFF block of either byte order, if there is one that can be read.
pub(super) fn read_user_comment(block: &[u8]) -> Option<String> {
    // Some writers leave JPEG's marker before the block.
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let tiff = Tiff {
        bytes: block,
        big_endian: match block.get(..4)? {
            b"MM\0\x2a" => true,
            b"II\x2a\0" => false,
            _ => return None,
        },
    };
    let exif = tiff.find(tiff.u32(4)?, EXIF_DIRECTORY)?;
    let comment = tiff.find(tiff.u32(exif + 8)?, USER_COMMENT)?;
    let (length, offset) = (tiff.u32(comment + 4)?, tiff.u32(comment + 8)?);
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    let value = block.get(start..end)?;
    let (coding, text) = value.split_at_checked(8)?;
    if coding == ASCII {
        let text = text.split(|&byte| byte == 0).next()?;
        return String::from_utf8(text.to_vec()).ok();
    }
    if coding != UTF_16 {
        return None;
    }
    let (text, big_endian) = match text {
        [0xfe, 0xff, text @ ..] => (text, true),
        [0xff, 0xfe, text @ ..] => (text, false),
        _ => (text, tiff.big_endian),
    };
    let units: Vec<u16> = text
        .chunks_exact(2)
        .map(|pair| {
            let pair = [pair[0], pair[1]];
            if big_endian {
                u16::from_be_bytes(pair)
            } else {
                u16::from_le_bytes(pair)
            }
        })
        .collect();
    String::from_utf16(&units).ok()
}

struct Tiff<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Tiff<'_> {
    fn u16(&self, at: u32) -> Option<u16> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn u32(&self, at: u32) -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// Where the entry with `tag` begins in the directory at `directory`.
    fn find(&self, directory: u32, tag: u16) -> Option<u32> {
        let entries = self.u16(directory)?;
        (0..u32::from(entries))
            .filter_map(|entry| directory.checked_add(2 + 12 * entry))
            // Offsets near the end of the range would overflow when a field of the entry is added.
            .filter(|&entry| entry < u32::MAX - 12)
            .find(|&entry| self.u16(entry) == Some(tag))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that piexif 1.1.3 writes for the comment "ab", which is what A1111 calls.
    #[test]
    fn the_block_is_what_a1111_writes() {
        let expected = [
            b"MM\0\x2a\0\0\0\x08".as_slice(),
            b"\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0",
            b"\0\x01\x92\x86\0\x07\0\0\0\x0c\0\0\0\x2c\0\0\0\0",
            b"UNICODE\0\0a\0b",
        ]
        .concat();
        assert_eq!(user_comment("ab"), expected);
    }

    #[test]
    fn little_endian_ascii_and_marked_comments_are_read() {
        let block = |coding: &[u8], text: &[u8]| {
            let length = (coding.len() + text.len()) as u32;
            [
                b"Exif\0\0II\x2a\0\x08\0\0\0".as_slice(),
                b"\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0",
                b"\x01\0\x86\x92\x07\0",
                &length.to_le_bytes(),
                b"\x2c\0\0\0\0\0\0\0",
                coding,
                text,
            ]
            .concat()
        };
        let read = |coding, text| read_user_comment(&block(coding, text));
        assert_eq!(read(ASCII, b"ab\0").as_deref(), Some("ab"));
        assert_eq!(read(UTF_16, b"a\0b\0").as_deref(), Some("ab"));
        assert_eq!(read(UTF_16, b"\xfe\xff\0a").as_deref(), Some("a"));
        assert_eq!(read(b"JIS\0\0\0\0\0", b"ab"), None);
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,60}") {
            prop_assert_eq!(read_user_comment(&user_comment(&text)), Some(text));
        }

        #[test]
        fn a_damaged_block_never_panics(
            at in 0usize..60, value: u8, other in 0usize..60, second: u8, cut in 0usize..60,
        ) {
            let mut block = user_comment("a turtle");
            block[at] = value;
            block[other] = second;
            let _ = read_user_comment(&block);
            block.truncate(cut);
            let _ = read_user_comment(&block);
        }
    }
}
