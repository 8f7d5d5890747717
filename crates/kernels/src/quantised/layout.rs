//! How quantised weights lie in memory, and how they get there: see the layout in [`super`].

use rayon::prelude::*;

use crate::gemm::Matrix;
use crate::gemm::pack::Columns;
use crate::shared::SharedPtr;
use crate::vector::vectorised;

/// Inputs that share a scale.
pub const GROUP: usize = 32;

/// Inputs of a block.
pub(super) const BLOCK: usize = 64;

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;

/// Bytes of a block's scales, and of each line after them.
pub(super) const LINE: usize = 64;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Eight bits: every weight is off by at most its group's largest magnitude / 252.
    Int8,
    /// Four bits: in the mean square over a group, weights are off by at most its largest magnitude / 13.9,
    /// and by about half of that for normally distributed weights.
    Int4,
}

impl Format {
    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        LINE + match self {
            Format::Int8 => BLOCK * PANEL,
            Format::Int4 => BLOCK * PANEL / 2,
        }
    }

    /// Bytes of quantised weights, `None` where that is no `usize`.
    pub fn bytes(self, inputs: usize, outputs: usize) -> Option<usize> {
        inputs
            .div_ceil(BLOCK)
            .checked_mul(self.block_bytes())?
            .checked_mul(outputs.div_ceil(PANEL))
    }
}

/// Quantised weights within a slice.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    format: Format,
    inputs: usize,
    outputs: usize,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// Weights that fill the slice; what the bytes say is not looked at (any bytes are some weights).
    ///
    /// # Panics
    /// If the slice has not [`Format::bytes`].
    pub fn new(format: Format, inputs: usize, outputs: usize, bytes: &'a [u8]) -> Self {
        assert_eq!(
            Some(bytes.len()),
            format.bytes(inputs, outputs),
            "bytes of {inputs}x{outputs} weights in {format:?}"
        );
        Self {
            format,
            inputs,
            outputs,
            bytes,
        }
    }

    /// Bits.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether all scales are finite; weights that were quantised have no others.
    pub fn scales_are_finite(&self) -> bool {
        self.bytes
            .chunks_exact(self.format.block_bytes())
            .all(|block| {
                let (scales, _) = block[..LINE].as_chunks::<2>();
                scales
                    .iter()
                    .all(|scale| u16::from_le_bytes(*scale) & 0x7F80 != 0x7F80)
            })
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Inputs with those that fill the last block up.
    pub(super) fn padded_inputs(&self) -> usize {
        self.inputs.next_multiple_of(BLOCK)
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.inputs.div_ceil(BLOCK) * self.format.block_bytes()
    }

    fn block(&self, panel: usize, block: usize) -> &'a [u8] {
        let size = self.format.block_bytes();
        &self.bytes[panel * self.panel_bytes() + block * size..][..size]
    }

    /// The weights as floats, `[inputs, outputs]`, row-major.
    pub fn dequantise(&self) -> Vec<f32> {
        let mut w = vec![0.0; self.inputs * self.outputs];
        let shared = SharedPtr::new(w.as_mut_ptr());
        (0..self.outputs.div_ceil(PANEL))
            .into_par_iter()
            .for_each(|panel| {
                let columns = PANEL.min(self.outputs - panel * PANEL);
                let mut lines = [0.0; BLOCK * PANEL];
                for block in 0..self.inputs.div_ceil(BLOCK) {
                    decode(&mut lines, self.block(panel, block), self.format);
                    for (i, line) in lines.chunks_exact(PANEL).enumerate() {
                        let input = block * BLOCK + i;
                        if input < self.inputs {
                            let at = input * self.outputs + panel * PANEL;
                            // SAFETY: within the matrix; each task has columns of its own.
                            let to = unsafe {
                                std::slice::from_raw_parts_mut(shared.get().add(at), columns)
                            };
                            to.copy_from_slice(&line[..columns]);
                        }
                    }
                }
            });
        w
    }
}

/// For products with many rows, which unpack panels once for all of them.
impl Columns for Weights<'_> {
    fn len(&self) -> usize {
        self.outputs
    }

    fn depth(&self) -> usize {
        self.inputs
    }

    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize) {
        let mut lines = [0.0; BLOCK * PANEL];
        for panel in j0 / PANEL..(j0 + cols).div_ceil(PANEL) {
            // What the panel has of the wanted columns, from lane `from` on.
            let from = j0.saturating_sub(panel * PANEL);
            let first = panel * PANEL + from - j0;
            let count = (PANEL - from).min(cols - first);
            for block in k0 / BLOCK..(k0 + kc).div_ceil(BLOCK) {
                decode(&mut lines, self.block(panel, block), self.format);
                let start = (block * BLOCK).max(k0);
                for input in start..((block + 1) * BLOCK).min(k0 + kc) {
                    let line = &lines[(input - block * BLOCK) * PANEL..][from..][..count];
                    let mut done = 0;
                    while done < count {
                        let (to, lane) = ((first + done) / width, (first + done) % width);
                        let run = (width - lane).min(count - done);
                        target[(to * kc + input - k0) * width + lane..][..run]
                            .copy_from_slice(&line[done..][..run]);
                        done += run;
                    }
                }
            }
        }
        let rest = cols % width;
        if rest > 0 {
            target[cols / width * kc * width..][..kc * width]
                .chunks_exact_mut(width)
                .for_each(|step| step[rest..].fill(0.0));
        }
    }
}

/// A block as floats, `[BLOCK, PANEL]`.
fn decode(lines: &mut [f32; BLOCK * PANEL], block: &[u8], format: Format) {
    match format {
        Format::Int8 => decode_int8(lines, block),
        Format::Int4 => decode_int4(lines, block),
    }
}

#[inline(always)]
fn scales(block: &[u8], group: usize) -> [f32; PANEL] {
    let (pairs, _) = block[group * 2 * PANEL..].as_chunks::<2>();
    std::array::from_fn(|j| f32::from_bits((u16::from_le_bytes(pairs[j]) as u32) << 16))
}

vectorised! {
    fn decode_int8(lines: &mut [f32; BLOCK * PANEL], block: &[u8]) {
        let _ = FUSED;
        for group in 0..2 {
            let scales = scales(block, group);
            for step in 8 * group..8 * group + 8 {
                let from: &[u8; LINE] = block[LINE * (1 + step)..].first_chunk().expect("whole block");
                let to = &mut lines[4 * PANEL * step..][..4 * PANEL];
                for i in 0..4 {
                    for j in 0..PANEL {
                        to[i * PANEL + j] = (from[4 * j + i] as i32 - 128) as f32 * scales[j];
                    }
                }
            }
        }
    }
}

vectorised! {
    fn decode_int4(lines: &mut [f32; BLOCK * PANEL], block: &[u8]) {
        let _ = FUSED;
        for group in 0..2 {
            let scales = scales(block, group);
            for step in 4 * group..4 * group + 4 {
                let from: &[u8; LINE] = block[LINE * (1 + step)..].first_chunk().expect("whole block");
                let to = &mut lines[8 * PANEL * step..][..8 * PANEL];
                for i in 0..4 {
                    for j in 0..PANEL {
                        let byte = from[4 * j + i] as i32;
                        to[i * PANEL + j] = ((byte & 15) - 8) as f32 * scales[j];
                        to[(4 + i) * PANEL + j] = ((byte >> 4) - 8) as f32 * scales[j];
                    }
                }
            }
        }
    }
}

/// A weight that is NaN or infinite, which no scale can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Its input.
    pub input: usize,
    /// Its output.
    pub output: usize,
}

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { input, output } = self;
        write!(
            f,
            "the weight of input {input}, output {output} is not finite"
        )
    }
}

impl std::error::Error for NotFinite {}

/// Quantises weights `[inputs, outputs]` into bytes for [`Weights`].
///
/// # Errors
/// The first weight that is not finite, by output, then by input.
pub fn quantise(w: Matrix, format: Format) -> Result<Vec<u8>, NotFinite> {
    let (inputs, outputs) = (w.rows(), w.cols());
    let finite = |input: usize| {
        (0..outputs).fold(true, |finite, output| {
            finite & w.at(input, output).is_finite()
        })
    };
    if !(0..inputs).into_par_iter().all(finite) {
        let places = (0..outputs).flat_map(|output| (0..inputs).map(move |input| (input, output)));
        for (input, output) in places {
            if !w.at(input, output).is_finite() {
                return Err(NotFinite { input, output });
            }
        }
    }
    let len = format.bytes(inputs, outputs).expect("smaller than floats");
    let mut bytes = vec![0; len];
    let panel_bytes = len / outputs.div_ceil(PANEL).max(1);
    bytes
        .par_chunks_exact_mut(panel_bytes.max(1))
        .enumerate()
        .for_each(|(panel, bytes)| {
            for (block, bytes) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
                quantise_block(bytes, format, |i, j| {
                    let (input, output) = (block * BLOCK + i, panel * PANEL + j);
                    if input < inputs && output < outputs {
                        w.at(input, output)
                    } else {
                        0.0
                    }
                });
            }
        });
    Ok(bytes)
}

fn quantise_block(bytes: &mut [u8], format: Format, w: impl Fn(usize, usize) -> f32) {
    let (scales, lines) = bytes.split_at_mut(LINE);
    for j in 0..PANEL {
        for group in 0..2 {
            let first = group * GROUP;
            let weights: [f32; GROUP] = std::array::from_fn(|i| w(first + i, j));
            let (scale, q) = match format {
                Format::Int8 => int8(&weights),
                Format::Int4 => int4(&weights),
            };
            scales[(group * PANEL + j) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
            for (i, q) in q.into_iter().enumerate() {
                let input = first + i;
                match format {
                    Format::Int8 => lines[input / 4 * LINE + 4 * j + input % 4] = (q + 128) as u8,
                    Format::Int4 => {
                        lines[input / 8 * LINE + 4 * j + input % 4] |=
                            ((q + 8) as u8) << (input % 8 / 4 * 4);
                    }
                }
            }
        }
    }
}

/// The magnitude of the weight that has the largest, with its sign.
fn extreme(weights: &[f32; GROUP]) -> f32 {
    weights
        .iter()
        .fold(0.0, |a: f32, &b| if b.abs() > a.abs() { b } else { a })
}

/// Scale (the bits of a bfloat16) and integers in −127..=127. The scale is rounded up, so that the largest
/// weight fits.
fn int8(weights: &[f32; GROUP]) -> (u16, [i32; GROUP]) {
    let bits = (extreme(weights).abs() / 127.0).to_bits();
    let scale = (bits.div_ceil(1 << 16)) as u16;
    (scale, round(weights, value(scale), -127, 127))
}

/// Scale and integers in −8..=7: of some scales around that of the largest weight, and of the best
/// multiples of their integers, that with the least squared error.
fn int4(weights: &[f32; GROUP]) -> (u16, [i32; GROUP]) {
    let extreme = extreme(weights);
    let mut best = (f64::INFINITY, 0, [0; GROUP]);
    let mut try_scale = |scale: f32| {
        let bits = nearest(scale);
        let q = round(weights, value(bits), -8, 7);
        let error = weights
            .iter()
            .zip(q)
            .map(|(&w, q)| (w as f64 - q as f64 * value(bits) as f64).powi(2))
            .sum::<f64>();
        if error < best.0 {
            best = (error, bits, q);
        }
        q
    };
    for steps in [7.0, -8.0, 7.5, -7.5, -7.0, 8.0, 8.5, -8.5, 9.0, -9.0] {
        let q = try_scale(extreme / steps);
        // The scale that fits these integers best.
        let (mut products, mut squares) = (0.0, 0.0);
        for (&w, q) in weights.iter().zip(q) {
            products += w as f64 * q as f64;
            squares += (q * q) as f64;
        }
        if squares > 0.0 {
            try_scale((products / squares) as f32);
        }
    }
    (best.1, best.2)
}

fn round(weights: &[f32; GROUP], scale: f32, low: i32, high: i32) -> [i32; GROUP] {
    if scale == 0.0 {
        return [0; GROUP];
    }
    // Adding 1.5·2²³ rounds to the nearest integer, ties to even, without a call into the C library. What overflows,
    // or is NaN from a scale that did, stays within bounds.
    const ROUND: f32 = 12_582_912.0;
    let (low, high) = (low as f32, high as f32);
    weights.map(|w| ((w / scale).clamp(low, high) + ROUND - ROUND) as i32)
}

/// The float of a bfloat16's bits.
fn value(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The bits of the nearest bfloat16 of a finite number that is far from the largest.
fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}
