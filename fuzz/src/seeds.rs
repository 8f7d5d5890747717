//! Whole files, made when they are needed.

use std::io::Write;

use impasto::image::{Format, Image};
use impasto::provenance::{Encoding, Policy, Settings};

/// A few pixels in which rows and columns differ.
pub fn picture(width: usize, height: usize) -> Image {
    let pixels = (0..3 * width * height).map(|i| (i * 29 % 251) as u8);
    Image::new(width, height, pixels.collect()).unwrap()
}

/// A PNG of 16 × 16.
pub fn png() -> Vec<u8> {
    picture(16, 16).encode(Format::Png, 100).unwrap()
}

/// Pictures of the formats that are written, large enough that each has its parts.
pub fn pictures() -> Vec<Vec<u8>> {
    let formats = [Format::Png, Format::Jpeg, Format::Webp];
    formats
        .into_iter()
        .flat_map(|format| {
            [(16, 16), (33, 7)].map(|(w, h)| picture(w, h).encode(format, 80).unwrap())
        })
        .collect()
}

/// Pictures whose files say where they come from: settings, XMP with a label, and the seeds of other formats.
pub fn with_provenance() -> Vec<Vec<u8>> {
    let settings = Settings::parse(
        "a cat\nSteps: 4, Sampler: raster, CFG scale: 1, Seed: 7, Size: 48x40, Model: m, Temperature: 1, \
         Model licence: cc-by-nc-4.0, Version: impasto 0.1.0",
    );
    let settings = settings.unwrap();
    let policy = Policy {
        aigc: Some("someone".into()),
        ..Policy::default()
    };
    let formats = [Format::Png, Format::Jpeg, Format::Webp];
    formats
        .into_iter()
        .map(|format| {
            let encoding = Encoding {
                format,
                quality: 80,
            };
            let written = policy.encode(&picture(48, 40), &settings, encoding);
            written.unwrap().bytes
        })
        .collect()
}

/// Checkpoints of a training and the like: tensors by name.
pub fn safetensors() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"BF16","shape":[],"data_offsets":[32,34]},"d":{"dtype":"U8","shape":[6],"data_offsets":[34,40]},"__metadata__":{"format":"pt"}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend((0..40).map(|i| i as u8 % 60));
    bytes
}

/// A tar of these entries, as `tar --format=ustar` writes it.
pub fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in entries {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(156, b"0");
        put(257, b"ustar\x0000");
        put(148, b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.write_all(&header).unwrap();
        bytes.write_all(content).unwrap();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
