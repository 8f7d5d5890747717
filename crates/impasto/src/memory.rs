//! The most memory that drawing takes, from a model's sizes, the formats of its weights and the number of pictures: for
//! `model info`, before a weight is read.
//!
//! The parts were measured (resident memory of the whole program, Linux, two threads); the tests have the figures. What
//! is not counted is small or not ours: the pages of a file that the system keeps while nobody needs the memory.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};

use crate::checkpoint::WeightFormat;
use crate::{Error, Result};

/// The program itself: its code as far as it runs, threads, text tokenizer.
const PROGRAM: u64 = 26 << 20;
/// Pictures of a batch; more are drawn batch after batch.
pub const BATCH: u64 = 16;
/// What the allocator keeps at most of earlier batches: larger blocks are given back.
const KEPT: u64 = 8 << 20;
/// Activations of the image tokenizer that live at once, as multiples of the widest: inputs, outputs and what a
/// convolution is unfolded to.
const DECODING: f64 = 4.5;
/// Activations of a transformer's block that live at once, as multiples of its residual stream.
const BLOCK: u64 = 12;

/// What drawing is done with.
#[derive(Clone, Copy, Debug)]
pub struct SamplingMemory {
    /// Numbers in linear layers of the transformer, which can be packed.
    pub linear: u64,
    /// All other numbers of the transformer, and those of the image tokenizer: always in 32 bits.
    pub plain: u64,
    /// In what the linear layers are in memory.
    pub format: WeightFormat,
    /// Bytes of weights that stay in memory in the place where they were found: files used in place, weights in the
    /// program.
    pub in_place: u64,
    /// Keys and values of a sequence: numbers of all layers and of all positions that are decoded, both of them; those
    /// of 16 bits count half.
    pub cache: u64,
    /// Numbers of the residual stream of a caption: its tokens times the width.
    pub caption: u64,
    /// Whether each picture takes a second, unconditional sequence.
    pub guided: bool,
    /// The image tokenizer's widest activation of one picture: channels times pixels.
    pub widest: u64,
    /// Pixels of a picture.
    pub pixels: u64,
}

impl SamplingMemory {
    /// Bytes at the peak, for this many pictures in one command.
    pub fn peak(&self, pictures: u64) -> u64 {
        let batch = pictures.clamp(1, BATCH);
        let sequences = batch * if self.guided { 2 } else { 1 };
        let caches = 4 * self.cache * sequences;
        let block = 4 * BLOCK * self.caption * sequences;
        let kept = match pictures > BATCH {
            true => (caches / 4).min(KEPT),
            false => 0,
        };
        // Pictures are decoded one at a time, when the caches are gone; they are there until they are written.
        let decoding = (DECODING * 4.0 * self.widest as f64) as u64;
        let finished = 3 * self.pixels * batch;
        PROGRAM + self.weights() + (caches + block + kept).max(decoding) + finished
    }

    /// Bytes of the weights in memory.
    fn weights(&self) -> u64 {
        // A scale in 32 bits for each 32 numbers or so.
        let linear = match self.format {
            WeightFormat::F32 => 4 * self.linear,
            WeightFormat::Bf16 => 2 * self.linear,
            WeightFormat::Int8 => self.linear + self.linear / 8,
            WeightFormat::Int4 => self.linear / 2 + self.linear / 8,
        };
        linear + 4 * self.plain + self.in_place
    }
}

/// In what a weight file has its numbers, and how many bytes each format takes, the largest first: "f16", "bf16", "f32",
/// "int8 and int4" where packed.
///
/// # Errors
/// If the file is no safetensors.
pub fn stored_formats(name: &Path, bytes: &[u8]) -> Result<Vec<(&'static str, u64)>> {
    let file = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::bad_file(name, format!("not a whole safetensors file ({e})")))?;
    let mut formats: Vec<(&'static str, u64)> = Vec::new();
    for (_, tensor) in file.1.tensors() {
        let format = match tensor.dtype {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::U8 | Dtype::I8 => "packed",
            _ => "others",
        };
        let (start, end) = tensor.data_offsets;
        let size = (end - start) as u64;
        match formats.iter_mut().find(|(known, _)| *known == format) {
            Some((_, total)) => *total += size,
            None => formats.push((format, size)),
        }
    }
    formats.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    Ok(formats)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: f64 = (1 << 20) as f64;

    /// Peaks in MiB as the system counts them (`ru_maxrss` of `impasto generate -n N --device cpu`, two threads).
    #[test]
    fn estimates_are_within_a_tenth_of_what_was_measured() {
        // impasto-mini: 6 x 192 over 32 + 64 tokens, weights in f32 out of 9.7 MiB of f16 in the program.
        let mini = SamplingMemory {
            linear: 0,
            plain: 3_475_200 + 1_619_448,
            format: WeightFormat::F32,
            in_place: 10_189_296,
            cache: 2 * 6 * 96 * 192,
            caption: 32 * 192,
            guided: true,
            widest: 64 * 64 * 64,
            pixels: 64 * 64,
        };
        // DALL-E mini's sizes: 12 + 12 x 1024, a VQGAN of 128 channels at 256 px, without its encoder.
        let dalle_mini = SamplingMemory {
            linear: 0,
            plain: 437_833_712 + 46_709_891,
            format: WeightFormat::F32,
            in_place: 0,
            cache: 2 * 12 * 256 * 1024,
            caption: 64 * 1024,
            guided: true,
            widest: 128 * 256 * 256,
            pixels: 256 * 256,
        };
        // The smallest that the tests have.
        let tiny = SamplingMemory {
            linear: 0,
            plain: 90_000 + 250_000,
            format: WeightFormat::F32,
            in_place: 0,
            cache: 2 * 3 * 16 * 36,
            caption: 24 * 36,
            guided: true,
            widest: 32 * 8 * 8,
            pixels: 8 * 8,
        };
        for (drawing, pictures, measured) in [
            (&mini, 1, 58.6),
            (&mini, 16, 92.4),
            (&mini, 64, 101.9),
            (&mini, 256, 105.8),
            (&dalle_mini, 1, 2014.3),
            (&dalle_mini, 4, 2069.3),
            (&dalle_mini, 16, 2643.3),
            (&tiny, 1, 27.4),
            (&tiny, 16, 27.9),
        ] {
            let estimate = drawing.peak(pictures) as f64 / MIB;
            let error = estimate / measured - 1.0;
            assert!(
                error.abs() < 0.1,
                "{pictures}: {estimate:.1} MiB for {measured}"
            );
        }
    }

    #[test]
    fn packed_weights_take_their_bytes() {
        let peak = |format| {
            let drawing = SamplingMemory {
                linear: 1 << 30,
                plain: 0,
                format,
                in_place: 0,
                cache: 0,
                caption: 0,
                guided: false,
                widest: 0,
                pixels: 0,
            };
            (drawing.peak(1) - PROGRAM) as f64 / f64::from(1 << 30)
        };
        assert_eq!(peak(WeightFormat::F32), 4.0);
        assert_eq!(peak(WeightFormat::Bf16), 2.0);
        assert!((1.0..1.2).contains(&peak(WeightFormat::Int8)));
        assert!((0.5..0.7).contains(&peak(WeightFormat::Int4)));
    }

    #[test]
    fn a_file_says_its_formats() {
        let header = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([0; 16]);
        let formats = stored_formats(Path::new("a"), &bytes).unwrap();
        assert_eq!(formats, [("f16", 12), ("f32", 4)]);
        assert!(stored_formats(Path::new("a"), &bytes[..20]).is_err());
    }
}
