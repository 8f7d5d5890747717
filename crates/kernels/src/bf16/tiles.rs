//! Factors of a product in bfloat16 as both [`super::Unit`]s read them: tiles of 16 lines and 32 steps, a line being
//! a row of the first factor or a column of the second, zeros at the edges. Panels of 16 lines follow each other,
//! within a panel tile after tile along the steps.
//!
//! A tile of the first factor holds line after line, 32 numbers each. One of the second holds pair after pair of
//! steps: two numbers of the first line, two of the second, and so on. Each is the other's transpose in pairs.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Weights;
use crate::amx::TILE;
use crate::gemm::Matrix;
use crate::gemm::pack::Columns;
use crate::shared::{SharedPtr, with_scratch};
use crate::team;

/// Lines of a tile.
pub(super) const LINES: usize = 16;
/// Steps of a tile.
pub(super) const STEPS: usize = 32;

/// Bytes of a factor, `None` where that is no `usize`.
pub(super) fn bytes(lines: usize, steps: usize) -> Option<usize> {
    lines
        .div_ceil(LINES)
        .checked_mul(steps.div_ceil(STEPS))?
        .checked_mul(TILE)
}

/// A factor in tiles.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    pub(super) bytes: &'a [u8],
    /// Lines that exist.
    pub(super) lines: usize,
    /// Tiles of a panel.
    pub(super) depth: usize,
}

impl<'a> Tiles<'a> {
    /// The factor of this many lines and steps that fills the slice.
    pub(super) fn new(bytes: &'a [u8], lines: usize, steps: usize) -> Self {
        assert_eq!(
            Some(bytes.len()),
            self::bytes(lines, steps),
            "bytes of tiles"
        );
        Self {
            bytes,
            lines,
            depth: steps.div_ceil(STEPS),
        }
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.lines.div_ceil(LINES)
    }

    /// The tiles of a panel from one on.
    pub(super) fn at(&self, panel: usize, tile: usize) -> *const u8 {
        debug_assert!(panel < self.panels() && tile < self.depth);
        // SAFETY: the tile exists, by the length that `new` checked.
        unsafe { self.bytes.as_ptr().add((panel * self.depth + tile) * TILE) }
    }
}

/// Which way the numbers of a tile lie, see the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As in the first factor.
    Lines,
    /// As in the second.
    Pairs,
}

type Block = [__m512i; 16];

/// What tiles are made of: a number for each line and step, in memory that stays borrowed.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    data: Data<'a>,
    pub(super) lines: usize,
    pub(super) steps: usize,
    /// From a line to the next, in elements.
    line_stride: usize,
    /// From a step to the next.
    step_stride: usize,
}

#[derive(Clone, Copy)]
enum Data<'a> {
    Floats(&'a [f32]),
    Halves(&'a [u8]),
    /// Lines that are made up while they are packed; strides mean nothing.
    Columns(&'a dyn Columns),
}

/// Panels that are packed together, so that long rows of memory are read on.
const TOGETHER: usize = 8;

/// Steps that are made up at a time: with [`TOGETHER`], 128 KiB of the L2 cache.
const MADE_UP: usize = 256;

impl<'a> Source<'a> {
    /// The rows of a first factor.
    pub(super) fn rows(x: &Matrix<'a>) -> Self {
        let (data, row_stride, col_stride) = x.parts();
        Self {
            data: Data::Floats(data),
            lines: x.rows(),
            steps: x.cols(),
            line_stride: row_stride,
            step_stride: col_stride,
        }
    }

    /// The columns of a second factor.
    pub(super) fn columns(x: &Matrix<'a>) -> Self {
        Self::rows(&x.transposed())
    }

    /// The columns of a second factor that is made up while it is packed.
    pub(super) fn made_up(x: &'a dyn Columns) -> Self {
        Self {
            data: Data::Columns(x),
            lines: x.len(),
            steps: x.depth(),
            line_stride: 0,
            step_stride: 0,
        }
    }

    /// The columns of a second factor that is in bfloat16 already.
    pub(super) fn weight_columns(w: &Weights<'a>) -> Self {
        Self {
            data: Data::Halves(w.bytes),
            lines: w.outputs,
            steps: w.inputs,
            line_stride: 1,
            step_stride: w.outputs,
        }
    }

    /// The columns of its transpose.
    pub(super) fn weight_rows(w: &Weights<'a>) -> Self {
        Self {
            lines: w.inputs,
            steps: w.outputs,
            line_stride: w.outputs,
            step_stride: 1,
            ..Self::weight_columns(w)
        }
    }

    /// Bytes of its tiles.
    pub(super) fn bytes(&self) -> usize {
        bytes(self.lines, self.steps).expect("no larger than the memory that it came from")
    }

    /// Panels.
    pub(super) fn panels(&self) -> usize {
        self.lines.div_ceil(LINES)
    }

    /// Tiles of a panel.
    pub(super) fn depth(&self) -> usize {
        self.steps.div_ceil(STEPS)
    }

    /// Calls `work` with the factor in tiles.
    ///
    /// # Safety
    /// The processor has what a [`super::Unit`] needs.
    pub(super) unsafe fn with_tiles<R>(
        &self,
        order: Order,
        parallel: bool,
        work: impl FnOnce(Tiles) -> R,
    ) -> R {
        let length = self.bytes();
        with_scratch(length / 4, |memory| {
            // SAFETY: floats are bytes, and any bytes are floats.
            let memory =
                unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), length) };
            // SAFETY: the caller's.
            unsafe { self.pack(order, parallel, memory) };
            work(Tiles::new(memory, self.lines, self.steps))
        })
    }

    /// Writes the factor in tiles.
    ///
    /// # Safety
    /// As for [`Self::with_tiles`].
    pub(super) unsafe fn pack(&self, order: Order, parallel: bool, to: &mut [u8]) {
        assert_eq!(to.len(), self.bytes(), "bytes of tiles");
        let (panels, depth) = (self.panels(), self.depth());
        let target = SharedPtr::new(to.as_mut_ptr());
        let task = |index: usize| {
            let panels = index * TOGETHER..((index + 1) * TOGETHER).min(panels);
            // SAFETY: each task has panels of its own; the processor is the caller's promise.
            unsafe {
                let to = target.get().add(panels.start * depth * TILE);
                self.pack_part(order, panels, 0..depth, to);
            }
        };
        let tasks = panels.div_ceil(TOGETHER);
        if parallel && self.lines * self.steps >= 1 << 15 {
            team::for_each(tasks, task);
        } else {
            (0..tasks).for_each(task);
        }
    }

    /// Writes some tiles of some panels, those of a panel after each other.
    ///
    /// # Safety
    /// As for [`Self::with_tiles`]; panels and tiles exist, and the target has room for them.
    pub(super) unsafe fn pack_part(
        &self,
        order: Order,
        panels: Range<usize>,
        tiles: Range<usize>,
        to: *mut u8,
    ) {
        let (first, count) = (panels.start, tiles.len());
        // SAFETY: the caller's.
        let pack_tile = |panel: usize, tile: usize| unsafe {
            let to = to.add(((panel - first) * count + tile - tiles.start) * TILE);
            self.pack_tile(order, panel * LINES, tile * STEPS, to);
        };
        if let Data::Columns(x) = self.data {
            // SAFETY: the caller's.
            unsafe { pack_made_up(x, panels, tiles, to) }
        } else if self.step_stride == 1 {
            // Lines lie one after the other: each is read on.
            for panel in panels {
                for tile in tiles.clone() {
                    pack_tile(panel, tile);
                }
            }
        } else {
            // Steps do: some panels together are a stretch of each of them.
            for from in panels.clone().step_by(TOGETHER) {
                for tile in tiles.clone() {
                    for panel in from..(from + TOGETHER).min(panels.end) {
                        pack_tile(panel, tile);
                    }
                }
            }
        }
    }

    /// Writes the tile from a line and a step on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_tile(&self, order: Order, line: usize, step: usize, to: *mut u8) {
        let (lines, steps) = (LINES.min(self.lines - line), STEPS.min(self.steps - step));
        let at = line * self.line_stride + step * self.step_stride;
        if let Data::Floats(x) = self.data
            && (lines, steps) == (LINES, STEPS)
        {
            // SAFETY: all elements of a whole tile exist; the target is a tile.
            unsafe {
                let from = x.as_ptr().add(at);
                match order {
                    Order::Lines if self.step_stride == 1 => {
                        return whole_lines(from, self.line_stride, to);
                    }
                    Order::Pairs if self.line_stride == 1 => {
                        return whole_pairs(from, self.step_stride, to);
                    }
                    _ => {}
                }
            }
        }
        // SAFETY: all elements of the source exist, and masked loads touch those only; the target is a tile.
        unsafe {
            let (block, found) = match self.data {
                Data::Floats(x) if self.step_stride == 1 => (
                    float_lines(x.as_ptr().add(at), self.line_stride, lines, steps),
                    Order::Lines,
                ),
                Data::Floats(x) if self.line_stride == 1 => (
                    float_pairs(x.as_ptr().add(at), self.step_stride, lines, steps),
                    Order::Pairs,
                ),
                Data::Floats(x) => {
                    let mut floats = [0.0f32; LINES * STEPS];
                    for i in 0..lines {
                        for p in 0..steps {
                            floats[i * STEPS + p] =
                                x[at + i * self.line_stride + p * self.step_stride];
                        }
                    }
                    let block = float_lines(floats.as_ptr(), STEPS, LINES, STEPS);
                    (block, Order::Lines)
                }
                Data::Halves(x) if self.step_stride == 1 => (
                    half_lines(x.as_ptr().add(2 * at), self.line_stride, lines, steps),
                    Order::Lines,
                ),
                Data::Columns(_) => unreachable!("made up elsewhere"),
                Data::Halves(x) => (
                    half_pairs(x.as_ptr().add(2 * at), self.step_stride, lines, steps),
                    Order::Pairs,
                ),
            };
            let block = if found == order {
                block
            } else {
                transposed(block)
            };
            for (i, line) in block.into_iter().enumerate() {
                _mm512_storeu_si512(to.add(64 * i).cast(), line);
            }
        }
    }
}

/// Writes some tiles of some panels of a second factor that is made up.
///
/// # Safety
/// The processor has what a [`super::Unit`] needs; panels and tiles exist, and the target has room for them.
unsafe fn pack_made_up(x: &dyn Columns, panels: Range<usize>, tiles: Range<usize>, to: *mut u8) {
    let columns = (panels.end * LINES).min(x.len()) - panels.start * LINES;
    let end = (tiles.end * STEPS).min(x.depth());
    with_scratch(panels.len() * LINES * MADE_UP, |made_up| {
        for first in (tiles.start * STEPS..end).step_by(MADE_UP) {
            let steps = MADE_UP.min(end - first);
            x.pack(made_up, LINES, first, steps, panels.start * LINES, columns);
            for index in 0..panels.len() {
                for tile in 0..steps.div_ceil(STEPS) {
                    let from = &made_up[(index * steps + tile * STEPS) * LINES..];
                    // SAFETY: the steps were made up; the target has the tile.
                    unsafe {
                        let at = index * tiles.len() + first / STEPS - tiles.start + tile;
                        let steps = STEPS.min(steps - tile * STEPS);
                        write_pairs(from.as_ptr(), steps, to.add(at * TILE));
                    }
                }
            }
        }
    });
}

/// Writes a tile of steps of 16 numbers each.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn write_pairs(from: *const f32, steps: usize, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        for (i, pair) in float_pairs(from, LINES, LINES, steps)
            .into_iter()
            .enumerate()
        {
            _mm512_storeu_si512(to.add(64 * i).cast(), pair);
        }
    }
}

/// The first `n` of 16.
pub(crate) fn mask16(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// As [`float_lines`] of a whole tile, into the target: most tiles are such ones.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn whole_lines(from: *const f32, stride: usize, to: *mut u8) {
    for i in 0..LINES {
        // SAFETY: the caller's.
        unsafe {
            let at = from.add(i * stride);
            let (low, high) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16)));
            let line = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.add(64 * i).cast(), line);
        }
    }
}

/// As [`float_pairs`] of a whole tile, into the target.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn whole_pairs(from: *const f32, stride: usize, to: *mut u8) {
    let order = interleaving();
    for i in 0..STEPS / 2 {
        // SAFETY: the caller's.
        unsafe {
            let at = from.add(2 * i * stride);
            let (first, second) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(stride)));
            let halves = _mm512_cvtne2ps_pbh(second, first);
            let pair = std::mem::transmute::<__m512bh, __m512i>(halves);
            let pair = _mm512_permutexvar_epi16(order, pair);
            _mm512_storeu_si512(to.add(64 * i).cast(), pair);
        }
    }
}

/// Lines that are contiguous.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn float_lines(at: *const f32, stride: usize, lines: usize, steps: usize) -> Block {
    let masks = (mask16(steps), mask16(steps.saturating_sub(16)));
    let mut block = [_mm512_setzero_si512(); 16];
    for (i, line) in block.iter_mut().enumerate().take(lines) {
        // SAFETY: the caller's; lanes beyond the masks are not read.
        unsafe {
            let at = at.add(i * stride);
            let low = _mm512_maskz_loadu_ps(masks.0, at);
            let high = _mm512_maskz_loadu_ps(masks.1, at.wrapping_add(16));
            *line = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        }
    }
    block
}

/// Steps that are contiguous over the lines.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn float_pairs(at: *const f32, stride: usize, lines: usize, steps: usize) -> Block {
    let mask = mask16(lines);
    let order = interleaving();
    let mut block = [_mm512_setzero_si512(); 16];
    for (i, pair) in block.iter_mut().enumerate().take(steps.div_ceil(2)) {
        // SAFETY: the caller's; lanes beyond the masks are not read.
        unsafe {
            let at = at.add(2 * i * stride);
            let first = _mm512_maskz_loadu_ps(mask, at);
            let both = if 2 * i + 1 < steps { mask } else { 0 };
            let second = _mm512_maskz_loadu_ps(both, at.wrapping_add(stride));
            let halves = _mm512_cvtne2ps_pbh(second, first);
            let halves = std::mem::transmute::<__m512bh, __m512i>(halves);
            *pair = _mm512_permutexvar_epi16(order, halves);
        }
    }
    block
}

/// As [`float_lines`], of bfloat16s.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn half_lines(at: *const u8, stride: usize, lines: usize, steps: usize) -> Block {
    let mask: __mmask32 = if steps >= 32 { !0 } else { (1 << steps) - 1 };
    let mut block = [_mm512_setzero_si512(); 16];
    for (i, line) in block.iter_mut().enumerate().take(lines) {
        // SAFETY: the caller's.
        *line = unsafe { _mm512_maskz_loadu_epi16(mask, at.add(2 * i * stride).cast()) };
    }
    block
}

/// As [`float_pairs`], of bfloat16s.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn half_pairs(at: *const u8, stride: usize, lines: usize, steps: usize) -> Block {
    let mask = mask16(lines);
    let order = interleaving();
    let mut block = [_mm512_setzero_si512(); 16];
    for (i, pair) in block.iter_mut().enumerate().take(steps.div_ceil(2)) {
        // SAFETY: the caller's.
        unsafe {
            let at = at.add(4 * i * stride);
            let first = _mm256_maskz_loadu_epi16(mask, at.cast());
            let both = if 2 * i + 1 < steps { mask } else { 0 };
            let second = _mm256_maskz_loadu_epi16(both, at.wrapping_add(2 * stride).cast());
            let halves = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
            *pair = _mm512_permutexvar_epi16(order, halves);
        }
    }
    block
}

/// Which of 32 halves comes where, to bring the first 16 and the others together in pairs.
#[target_feature(enable = "avx512f")]
pub(crate) fn interleaving() -> __m512i {
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + 16 * (i % 2)) as u16);
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
}

/// 16 lines of 16 words, transposed.
#[target_feature(enable = "avx512f")]
fn transposed(x: Block) -> Block {
    let zero = _mm512_setzero_si512();
    let (mut y, mut z) = ([zero; 16], [zero; 16]);
    for i in 0..8 {
        y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for i in 0..4 {
        z[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
        z[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
        z[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
        z[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
    }
    // Quarter `q` of z[4·i + j] holds word 4·q + j of lines 4·i..4·i + 4.
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(z[j], z[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(z[j], z[4 + j]);
        let low_rest = _mm512_shuffle_i32x4::<0b10_00_10_00>(z[8 + j], z[12 + j]);
        let high_rest = _mm512_shuffle_i32x4::<0b11_01_11_01>(z[8 + j], z[12 + j]);
        y[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_rest);
        y[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_rest);
        y[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_rest);
        y[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_rest);
    }
    y
}
