//! Unpacks gzip, in which OpenAI published its merges.

use crate::error::Reason;
use std::io::Read;

use flate2::read::GzDecoder;

/// Begins every gzip file that uses the one method there is.
pub const MAGIC: &[u8] = &[0x1f, 0x8b, 8];

/// The bytes of the first member, unless they are more than `limit`.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, Reason> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes)
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|e| Reason::because("not a whole gzip file", e))?;
    if unpacked.len() > limit {
        return Err(format!("a gzip file of more than {limit} bytes").into());
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// "hello hello hello hello\n", packed by gzip -9: a block of fixed codes with a repetition.
    const PACKED: &[u8] = &[
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9,
        0x57, 0xc8, 0x40, 0x27, 0xb9, 0x00, 0x00, 0x88, 0x59, 0x0b, 0x18, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn a_packed_file_is_unpacked_and_a_damaged_one_refused() {
        assert_eq!(unpack(PACKED, 100).unwrap(), b"hello hello hello hello\n");
        assert!(
            unpack(PACKED, 10)
                .unwrap_err()
                .to_string()
                .contains("more than 10")
        );
        for end in 0..PACKED.len() {
            assert!(unpack(&PACKED[..end], 100).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&[MAGIC, &bytes].concat(), 1 << 16);
        }
    }
}
