//! Seeded damage to files: the same number gives the same damage everywhere.

/// SplitMix64 (Steele et al. 2014): small, and the same on every machine.
pub struct Random(u64);

impl Random {
    /// A stream for one input of one reader.
    pub fn new(name: &str, number: u64) -> Self {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(name ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        match end {
            0 => 0,
            _ => (self.next() % end as u64) as usize,
        }
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A place in a file: half of them near its start or its end, where the structure is.
    fn place(&mut self, length: usize) -> usize {
        match self.below(4) {
            0 => self.below(length.min(512)),
            1 => length - self.below(length.min(2048)).min(length),
            _ => self.below(length),
        }
        .min(length.saturating_sub(1))
    }
}

/// Sizes that readers get wrong.
const NUMBERS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "255",
    "65536",
    "1000000",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "6000000000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "-0.0",
    "0.5",
    "1e-320",
];

/// Values in the place of others.
const VALUES: [&str; 14] = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[[[[[[]]]]]]",
    "[0]",
    "{\"a\":0}",
    "\"a b\"",
    "NaN",
    "\u{feff}",
];

/// Damages a file; `others` are whole files of the same kind, parts of which may come in.
pub fn damaged(seed: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let rounds = 1 + random.below(4);
    for _ in 0..rounds {
        if bytes.is_empty() {
            bytes = seed.to_vec();
        }
        if bytes.is_empty() {
            return bytes;
        }
        let text = bytes.len() < 1 << 20 && std::str::from_utf8(&bytes).is_ok();
        if text && !random.once_in(3) {
            change_text(&mut bytes, random);
        } else {
            change_bytes(&mut bytes, others, random);
        }
    }
    // Half of them get checksums and lengths that fit, so that what is after these is reached.
    if random.once_in(2) {
        repair(&mut bytes);
    }
    bytes
}

fn change_bytes(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let length = bytes.len();
    let at = random.place(length);
    let count = 1 + random.below(64);
    let end = (at + count).min(length);
    match random.below(10) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next() as u8,
        3 => {
            let value = *random.pick(&[0xff, 0x7f, 0x80, 0x10, 0]);
            let end = (at + 1 + random.below(8)).min(length);
            bytes[at..end].fill(value);
        }
        4 => {
            let number: u64 = random
                .pick(&[
                    "0",
                    "1",
                    "65536",
                    "2147483648",
                    "4294967295",
                    "9223372036854775807",
                ])
                .parse()
                .unwrap_or_default();
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let width = *random.pick(&[2, 4, 8]);
            let number = match random.once_in(2) {
                true => &little[..width],
                false => &big[8 - width..],
            };
            for (byte, &value) in bytes[at..].iter_mut().zip(number) {
                *byte = value;
            }
        }
        5 => drop(bytes.drain(at..end)),
        6 => {
            let part = bytes[at..end].to_vec();
            let times = *random.pick(&[1, 1, 1, 2, 16]);
            let to = random.place(length);
            bytes.splice(to..to, part.repeat(times));
        }
        7 => {
            let part: Vec<u8> = (0..count.min(16)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, part);
        }
        8 => {
            let other = match others.is_empty() {
                true => bytes.clone(),
                false => random.pick(others).clone(),
            };
            if !other.is_empty() {
                let from = random.place(other.len());
                let part = &other[from..(from + 16 * count).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
        }
        _ => {
            let to = random.place(length);
            bytes.swap(at, to);
        }
    }
}

/// A piece of text as JSON, YAML and tables have it.
fn tokens(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() && tokens.len() < 20_000 {
        let start = at;
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at = (at + 1).min(bytes.len());
            }
            byte if byte.is_ascii_alphanumeric() || b"-+._".contains(&byte) => {
                while at < bytes.len()
                    && (bytes[at].is_ascii_alphanumeric() || b"-+._".contains(&bytes[at]))
                {
                    at += 1;
                }
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            _ => at += 1,
        }
        tokens.push((start, at));
    }
    tokens
}

fn change_text(bytes: &mut Vec<u8>, random: &mut Random) {
    let tokens = tokens(bytes);
    if tokens.is_empty() {
        bytes.clear();
        return;
    }
    let (start, end) = *random.pick(&tokens);
    let numbers: Vec<&(usize, usize)> = tokens
        .iter()
        .filter(|&&(start, _)| bytes[start].is_ascii_digit() || bytes[start] == b'-')
        .collect();
    match random.below(9) {
        0..=2 if !numbers.is_empty() => {
            let &&(start, end) = random.pick(&numbers);
            let number = *random.pick(&NUMBERS);
            bytes.splice(start..end, number.bytes());
        }
        3 => drop(bytes.drain(start..end)),
        4 => {
            let value = *random.pick(&VALUES);
            bytes.splice(start..end, value.bytes());
        }
        5 => {
            let (from, to) = *random.pick(&tokens);
            let part = bytes[from..to].to_vec();
            bytes.splice(start..end, part);
        }
        6 => {
            // A line, or all of a short file, several times.
            let line_start = bytes[..start]
                .iter()
                .rposition(|&b| b == b'\n')
                .map_or(0, |at| at + 1);
            let line_end = bytes[start..].iter().position(|&b| b == b'\n');
            let line_end = line_end.map_or(bytes.len(), |at| start + at + 1);
            let line = bytes[line_start..line_end.min(line_start + 4096)].to_vec();
            let times = *random.pick(&[1, 1, 2, 50]);
            bytes.splice(line_end..line_end, line.repeat(times));
        }
        7 => {
            let (open, close) =
                *random.pick(&[("[", "]"), ("{\"a\":", "}"), ("\"", "\""), ("(", ")")]);
            let depth = *random.pick(&[1, 2, 200, 20_000]);
            let part = [
                open.repeat(depth).as_bytes(),
                &bytes[start..end],
                close.repeat(depth).as_bytes(),
            ]
            .concat();
            bytes.splice(start..end, part);
        }
        _ => {
            let odd = *random.pick(&[
                "\u{0}", "\u{202e}", "é", "龟", "\r\n", "\t", ",", ":", "\\", "%", "#", "&a *a",
            ]);
            bytes.splice(start..start, odd.bytes());
        }
    }
}

fn repair(bytes: &mut [u8]) {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        repair_png(bytes);
    } else if bytes.starts_with(b"PK\x03\x04") {
        repair_zip(bytes);
    } else if bytes.get(257..262) == Some(b"ustar") {
        repair_tar(bytes);
    } else if bytes.get(8) == Some(&b'{') {
        repair_safetensors(bytes);
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let part = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(part.try_into().ok()?) as usize)
}

/// The checksum of PNG, zip and gzip.
pub fn crc(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

fn repair_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(chunk) = bytes.get(at + 4..at.saturating_add(8).saturating_add(length)) else {
            return;
        };
        let sum = crc(chunk).to_be_bytes();
        at += 8 + length;
        match bytes.get_mut(at..at + 4) {
            Some(place) => place.copy_from_slice(&sum),
            None => return,
        }
        at += 4;
    }
}

/// Checksums of the entries that the directory names, where they are where it says.
fn repair_zip(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .windows(4)
        .position(|part| part == b"PK\x01\x02")
    {
        at += found;
        let place = |bytes: &[u8], offset: usize| number(bytes, at + offset);
        if let (Some(size), Some(local)) = (place(bytes, 20), place(bytes, 42)) {
            let names = |bytes: &[u8]| {
                let short = |at: usize| {
                    bytes
                        .get(at..at + 2)
                        .map(|part| usize::from(u16::from_le_bytes([part[0], part[1]])))
                };
                Some(short(local.checked_add(26)?)? + short(local.checked_add(28)?)?)
            };
            let sum = names(bytes).and_then(|names| {
                let start = local.checked_add(30 + names)?;
                bytes.get(start..start.checked_add(size)?).map(crc)
            });
            if let Some(sum) = sum {
                for place in [at + 16, local + 14] {
                    if let Some(place) = bytes.get_mut(place..place + 4) {
                        place.copy_from_slice(&sum.to_le_bytes());
                    }
                }
            }
        }
        at += 4;
    }
}

fn repair_tar(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512) {
        if &header[257..262] == b"ustar" {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// The header's length where its last brace is, as far as that can be guessed.
fn repair_safetensors(bytes: &mut [u8]) {
    let header = &bytes[8..bytes.len().min(8 + (1 << 16))];
    if let Some(end) = header.windows(2).position(|part| part == b"}}") {
        let mut length = end + 2;
        while header.get(length) == Some(&b' ') {
            length += 1;
        }
        bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    }
}
