//! Unpacks gzip (RFC 1952, RFC 1951), in which OpenAI published its merges; one small file, so that clarity
//! counts and speed does not.

/// Begins every gzip file that uses the one method there is.
pub const MAGIC: &[u8] = &[0x1f, 0x8b, 8];

/// The bytes of the first member, unless they are more than `limit`.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let ended = || "not a whole gzip file".to_owned();
    let flags = *bytes.get(3).ok_or_else(ended)?;
    let mut at = 10;
    // FEXTRA, FNAME, FCOMMENT, FHCRC
    if flags & 4 != 0 {
        let length = bytes.get(at..at + 2).ok_or_else(ended)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let text = bytes.get(at..).ok_or_else(ended)?;
            at += 1 + text.iter().position(|&byte| byte == 0).ok_or_else(ended)?;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    let mut bits = Bits {
        bytes: bytes.get(at..).ok_or_else(ended)?,
        at: 0,
    };
    let unpacked = inflate(&mut bits, limit)?;
    let tail = bits.bytes.get(bits.at.div_ceil(8)..).unwrap_or(&[]);
    let sizes = tail.get(..8).ok_or_else(ended)?;
    let crc = u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]);
    let size = u32::from_le_bytes([sizes[4], sizes[5], sizes[6], sizes[7]]);
    if size != unpacked.len() as u32 || crc != crc32(&unpacked) {
        return Err("a damaged gzip file: its checksum differs".into());
    }
    Ok(unpacked)
}

struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Result<usize, String> {
        let mut value = 0;
        for i in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or("not a whole gzip file")?;
            value |= usize::from(byte >> (self.at % 8) & 1) << i;
            self.at += 1;
        }
        Ok(value)
    }
}

/// A canonical Huffman code: how many codes each length has, and the symbols in order.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[length] += 1;
        }
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
        symbols.sort_by_key(|&symbol| (lengths[symbol], symbol));
        Code { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<usize, String> {
        let (mut code, mut first, mut index) = (0usize, 0usize, 0usize);
        for length in 1..16 {
            code |= bits.take(1)?;
            let count = self.counts[length];
            if code < first + count {
                // An overfull code would reach below its first.
                let place = code.checked_sub(first).map(|place| index + place);
                let symbol = place.and_then(|place| self.symbols.get(place));
                return symbol.copied().ok_or_else(damaged);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(damaged())
    }
}

fn damaged() -> String {
    "a damaged gzip file".into()
}

fn inflate(bits: &mut Bits<'_>, limit: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    loop {
        let last = bits.take(1)? == 1;
        let (literals, distances) = match bits.take(2)? {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let length = bits.take(16)?;
                if bits.take(16)? != length ^ 0xffff {
                    return Err(damaged());
                }
                for _ in 0..length {
                    out.push(bits.take(8)? as u8);
                }
                if out.len() > limit {
                    return Err(too_large(limit));
                }
                if last {
                    return Ok(out);
                }
                continue;
            }
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                (Code::new(&lengths), Code::new(&[5; 30]))
            }
            2 => dynamic(bits)?,
            _ => return Err(damaged()),
        };
        loop {
            if out.len() > limit {
                return Err(too_large(limit));
            }
            match literals.read(bits)? {
                literal @ 0..=255 => out.push(literal as u8),
                256 => break,
                symbol => {
                    let (length, distance) = (length(bits, symbol)?, distance(bits, &distances)?);
                    let from = out.len().checked_sub(distance).ok_or_else(damaged)?;
                    for i in from..from + length {
                        out.push(out[i]);
                    }
                }
            }
        }
        if last {
            return Ok(out);
        }
    }
}

fn too_large(limit: usize) -> String {
    format!("a gzip file of more than {limit} bytes")
}

fn length(bits: &mut Bits<'_>, symbol: usize) -> Result<usize, String> {
    Ok(match symbol {
        257..=264 => symbol - 254,
        265..=284 => {
            let extra = (symbol - 261) / 4;
            (((symbol - 265) % 4 + 4) << extra) + 3 + bits.take(extra)?
        }
        285 => 258,
        _ => return Err(damaged()),
    })
}

fn distance(bits: &mut Bits<'_>, distances: &Code) -> Result<usize, String> {
    Ok(match distances.read(bits)? {
        symbol @ 0..=3 => symbol + 1,
        symbol @ 4..=29 => {
            let extra = symbol / 2 - 1;
            ((symbol % 2 + 2) << extra) + 1 + bits.take(extra)?
        }
        _ => return Err(damaged()),
    })
}

/// The two codes of a block, which are coded themselves.
fn dynamic(bits: &mut Bits<'_>) -> Result<(Code, Code), String> {
    const ORDER: [usize; 19] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    let literals = bits.take(5)? + 257;
    let distances = bits.take(5)? + 1;
    let count = bits.take(4)? + 4;
    let mut lengths = [0; 19];
    for &place in &ORDER[..count] {
        lengths[place] = bits.take(3)?;
    }
    let code = Code::new(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.read(bits)? {
            16 => {
                let last = *lengths.last().ok_or_else(damaged)?;
                (last, 3 + bits.take(2)?)
            }
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(length, times));
    }
    if lengths.len() != literals + distances {
        return Err(damaged());
    }
    let (literals, distances) = lengths.split_at(literals);
    Ok((Code::new(literals), Code::new(distances)))
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
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
        assert!(unpack(PACKED, 10).unwrap_err().contains("more than 10"));
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
