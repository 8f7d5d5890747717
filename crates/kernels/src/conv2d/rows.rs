//! Convolutions by the tile unit without a matrix of patches.
//!
//! Rows of a picture are rounded to bfloat16 with two channels side by side for each pixel, `[row][pair of channels]
//! [pixel][2]`: 16 pairs of channels under 16 neighbouring pixels are then a tile of the second factor as they lie in
//! memory, and so are those one pixel or one row further, which a patch's other taps are. So a number is rounded and
//! moved once, not once for each tap.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Conv2d;
use super::frame::Framed;
use crate::amx::{self, Shapes, TILE};
use crate::bf16::{Unit, interleaving, mask16};
use crate::isa::caches;
use crate::shared::{SharedPtr, fresh, with_scratch};
use crate::team;

/// Outputs of a tile of the first factor, and pixels of one of the second.
const SIDE: usize = 16;
/// Channels of a tile.
const CHANNELS: usize = 32;
/// Bytes of a pixel's pair of channels.
const PAIR: usize = 4;
/// Tiles of pixels that are computed for some outputs before the next ones.
const TOGETHER: usize = 16;
/// Fewer channels or pixels in a row leave too much of the tiles empty.
const LEAST: usize = 12;

/// Whether convolutions of these sizes go this way.
pub(super) fn pays(unit: Unit, conv: &Conv2d) -> bool {
    unit == Unit::Amx
        && conv.stride == 1
        && conv.inputs >= LEAST
        && conv.output()[1] >= LEAST
        && conv.outputs >= LEAST
}

/// How pictures lie in rows of pairs.
#[derive(Clone, Copy)]
struct Layout {
    /// Pairs of channels, filled up to whole tiles.
    pairs: usize,
    /// Bytes from a pair of channels to the next.
    line: usize,
    /// Bytes from a row to the next.
    row: usize,
}

impl Layout {
    fn new(conv: &Conv2d) -> Self {
        let [_, width] = conv.output();
        let pairs = conv.inputs.next_multiple_of(CHANNELS) / 2;
        // The last tile may reach beyond the frame.
        let pixels = width.next_multiple_of(SIDE) + conv.kernel[1] - 1;
        // Lines an odd number of cache lines apart fall into different sets of the cache.
        let lines = pixels.div_ceil(SIDE) | 1;
        let line = lines * SIDE * PAIR;
        Layout {
            pairs,
            line,
            row: pairs * line,
        }
    }
}

/// What tasks share.
struct Job<'a> {
    x: &'a [f32],
    /// Height and width of the planes of `x`, and where their first pixel lies in the frame.
    size: [usize; 2],
    at: [usize; 2],
    conv: Conv2d,
    layout: Layout,
    /// Tiles of the weights, panel after panel of 16 outputs, within it tap after tap, within it the channels.
    weights: &'a [u8],
    /// Tiles whose rows are 16 times each output's bias.
    bias: &'a [f32],
    /// Where the tiles of a panel's steps lie, from that of the first tap and channels on.
    offsets: &'a [usize],
    y: SharedPtr<f32>,
}

/// The convolution, without padding, of pictures in frames of its height and width.
///
/// # Safety
/// The processor has the tile unit; [`pays`].
pub(super) unsafe fn convolve(
    x: &Framed,
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    let framed = [conv.height, conv.width];
    let filled;
    let (x, size, at) = if x.step == 1 {
        (x.x, x.size, x.at)
    } else {
        filled = x.fill(conv.batch * conv.inputs, framed);
        (&filled[..], framed, [0; 2])
    };
    let [height, width] = conv.output();
    let layout = Layout::new(conv);
    let [kh, kw] = conv.kernel;
    let blocks = layout.pairs / SIDE;
    let panels = conv.outputs.div_ceil(SIDE);
    let steps = kh * kw * blocks;
    let mut offsets = Vec::with_capacity(steps);
    for tap in 0..kh * kw {
        let tap = tap / kw * layout.row + tap % kw * PAIR;
        offsets.extend((0..blocks).map(|block| tap + block * SIDE * layout.line));
    }
    let mut biases = vec![0.0; panels * TILE / 4];
    for (to, bias) in biases
        .chunks_exact_mut(SIDE)
        .zip(bias.into_iter().flatten())
    {
        to.fill(*bias);
    }
    let mut y = fresh(conv.batch * conv.outputs * height * width);
    with_scratch(panels * steps * TILE / 4, |memory| {
        // SAFETY: floats are bytes, and any bytes are floats.
        let memory = unsafe {
            std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), panels * steps * TILE)
        };
        // SAFETY: the caller's; the memory has room for the tiles.
        unsafe { pack_weights(w, conv, blocks, memory) };
        let job = Job {
            x,
            size,
            at,
            conv: *conv,
            layout,
            weights: memory,
            bias: &biases,
            offsets: &offsets,
            y: SharedPtr::new(y.as_mut_ptr()),
        };
        // Some outputs whose weights stay in the L2 cache, and rows that stay there with them.
        let l2 = caches().l2;
        let fitting = (l2 / 2 / (steps * TILE)).max(2) / 2 * 2;
        let parts = panels.div_ceil(fitting);
        let panels_each = panels.div_ceil(parts).next_multiple_of(2);
        let parts = panels.div_ceil(panels_each);
        let fitting = (l2 / 3 / layout.row).saturating_sub(kh - 1).max(1);
        let wanted = 4 * rayon::current_num_threads();
        let shared = height.div_ceil(wanted.div_ceil(conv.batch * parts));
        // Fewer rows would be packed twice as often.
        let rows_each = shared.max(2 * (kh - 1)).min(fitting).min(height);
        let bands = height.div_ceil(rows_each);
        team::for_each(conv.batch * parts * bands, |index| {
            let (picture, index) = (index / (parts * bands), index % (parts * bands));
            let (part, band) = (index / bands, index % bands);
            let panels = part * panels_each..((part + 1) * panels_each).min(panels);
            let rows = band * rows_each..((band + 1) * rows_each).min(height);
            // SAFETY: the caller's; each task has outputs and rows of its own.
            unsafe { job.part(picture, panels, rows) };
        });
    });
    y
}

/// Writes the weights `[outputs, inputs, taps]` in tiles.
///
/// # Safety
/// The processor has what the tile unit needs; the target has room.
unsafe fn pack_weights(w: &[f32], conv: &Conv2d, blocks: usize, to: &mut [u8]) {
    let taps = conv.kernel[0] * conv.kernel[1];
    let panel_bytes = taps * blocks * TILE;
    let panels = conv.outputs.div_ceil(SIDE);
    let target = SharedPtr::new(to.as_mut_ptr());
    team::for_each(panels, |panel| {
        for line in 0..SIDE {
            let output = panel * SIDE + line;
            let of_output = match output < conv.outputs {
                true => &w[output * conv.inputs * taps..][..conv.inputs * taps],
                false => &[],
            };
            for block in 0..blocks {
                let channels = block * CHANNELS..((block + 1) * CHANNELS).min(conv.inputs);
                for tap in 0..taps {
                    let at = panel * panel_bytes + (tap * blocks + block) * TILE + line * 64;
                    // SAFETY: each task has a panel of its own; the caller's.
                    unsafe {
                        let to = target.get().add(at);
                        gather(of_output, channels.clone(), taps, tap, to);
                    }
                }
            }
        }
    });
}

/// Rounds one tap of some channels, at most 32, the rest being zeros.
///
/// # Safety
/// The processor has what the tile unit needs; the target has 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn gather(of_output: &[f32], channels: Range<usize>, taps: usize, tap: usize, to: *mut u8) {
    let mut halves = [_mm512_setzero_ps(); 2];
    for (half, numbers) in halves.iter_mut().enumerate() {
        let first = channels.start + half * SIDE;
        let count = channels.end.saturating_sub(first).min(SIDE);
        if count == 0 || of_output.is_empty() {
            continue;
        }
        let mask = mask16(count);
        let lanes: [i32; SIDE] = std::array::from_fn(|lane| (lane * taps) as i32);
        // SAFETY: lanes within the mask are weights of this output.
        *numbers = unsafe {
            let indices = _mm512_loadu_si512(lanes.as_ptr().cast());
            let from = of_output.as_ptr().add(first * taps + tap);
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, indices, from)
        };
    }
    // SAFETY: the caller's.
    unsafe {
        let line = _mm512_cvtne2ps_pbh(halves[1], halves[0]);
        _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(line));
    }
}

impl Job<'_> {
    /// Some rows of some outputs of a picture.
    ///
    /// # Safety
    /// The processor has the tile unit; no one else has this part of the result.
    unsafe fn part(&self, picture: usize, panels: Range<usize>, rows: Range<usize>) {
        let framed = rows.start..rows.end + self.conv.kernel[0] - 1;
        let bytes = framed.len() * self.layout.row;
        with_scratch(bytes / 4, |memory| {
            let memory = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: the memory is as large as the rows.
            unsafe { self.pack_rows(picture, framed, memory) };
            let [_, width] = self.conv.output();
            let tiles_of_row = width.div_ceil(SIDE);
            let tiles = rows.len() * tiles_of_row;
            let place = |tile: usize| {
                let (row, x) = (tile / tiles_of_row, tile % tiles_of_row * SIDE);
                let from = row * self.layout.row + x * PAIR;
                // SAFETY: within the rows.
                let from = unsafe { memory.add(from).cast_const() };
                (from, (rows.start + row) * width + x, SIDE.min(width - x))
            };
            let work = || {
                for first in (0..tiles).step_by(TOGETHER) {
                    for panel in panels.clone().step_by(2) {
                        let of_panels = 2.min(panels.end - panel);
                        for tile in (first..(first + TOGETHER).min(tiles)).step_by(2) {
                            let columns = [place(tile), place((tile + 1).min(tiles - 1))];
                            let count = 2.min(tiles - tile);
                            // SAFETY: the caller's; the tiles exist.
                            unsafe { self.tiles(picture, panel, of_panels, &columns[..count]) };
                        }
                    }
                }
            };
            // SAFETY: the caller's; the shapes are those that `multiply` takes.
            unsafe { amx::with_tiles(Shapes { depth_bytes: 64 }, work) }
        });
    }

    /// Two panels of outputs under two tiles of pixels, or one: where they lie, their first pixel in the result, and
    /// how many exist.
    ///
    /// # Safety
    /// Tiles are configured; no one else has this part of the result.
    unsafe fn tiles(
        &self,
        picture: usize,
        panel: usize,
        panels: usize,
        columns: &[(*const u8, usize, usize)],
    ) {
        let steps = self.offsets.len();
        let [height, width] = self.conv.output();
        let pixels = height * width;
        let outputs = (panels * SIDE).min(self.conv.outputs - panel * SIDE);
        // What there is only one of stands for two.
        let other = panel + panels - 1;
        let (first, second) = (columns[0], columns[columns.len() - 1]);
        let adjacent = columns.len() == 2
            && first.2 == SIDE
            && second.2 == SIDE
            && second.1 == first.1 + SIDE
            && outputs == 2 * SIDE;
        // SAFETY: panels, tiles and pixels exist.
        unsafe {
            let tile = |panel: usize| self.weights.as_ptr().add(panel * steps * TILE);
            let bias = |panel: usize| self.bias.as_ptr().add(panel * TILE / 4);
            let start = self
                .y
                .get()
                .add((picture * self.conv.outputs + panel * SIDE) * pixels);
            let call = Call {
                bias: [bias(panel), bias(other)],
                a: [tile(panel), tile(other)],
                b: [first.0, second.0],
                line: self.layout.line,
                offsets: self.offsets,
                y: start.add(first.1),
                stride: 4 * pixels,
            };
            if adjacent {
                return multiply(call);
            }
            const WIDTH: usize = 2 * SIDE;
            #[repr(align(64))]
            struct Whole([f32; WIDTH * WIDTH]);
            let mut whole = Whole([0.0; WIDTH * WIDTH]);
            multiply(Call {
                y: whole.0.as_mut_ptr(),
                stride: 4 * WIDTH,
                ..call
            });
            for (number, &(_, pixel, count)) in columns.iter().enumerate() {
                for output in 0..outputs {
                    let from = &whole.0[output * WIDTH + number * SIDE..][..count];
                    let to = start.add(output * pixels + pixel);
                    from.as_ptr().copy_to_nonoverlapping(to, count);
                }
            }
        }
    }

    /// Writes some rows of a framed picture as the [`Layout`] says.
    ///
    /// # Safety
    /// The processor has what the tile unit needs; the target has room for them.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_rows(&self, picture: usize, framed: Range<usize>, to: *mut u8) {
        let ([height, width], [top, left]) = (self.size, self.at);
        let Layout { pairs, line, row } = self.layout;
        let plane = height * width;
        let x = &self.x[picture * self.conv.inputs * plane..][..self.conv.inputs * plane];
        let order = interleaving();
        // SAFETY: masked loads touch numbers of the planes only; the target's lines are `line` bytes.
        unsafe {
            for pair in 0..pairs {
                for (index, y) in framed.clone().enumerate() {
                    let to = to.add(index * row + pair * line);
                    if 2 * pair >= self.conv.inputs || !(top..top + height).contains(&y) {
                        to.write_bytes(0, line);
                        continue;
                    }
                    let from = x[(2 * pair) * plane + (y - top) * width..].as_ptr();
                    let both = 2 * pair + 1 < self.conv.inputs;
                    to.write_bytes(0, left * PAIR);
                    let mut at = left * PAIR;
                    for first in (0..width).step_by(SIDE) {
                        let mask = mask16(width - first);
                        let even = _mm512_maskz_loadu_ps(mask, from.add(first));
                        let odd = if both {
                            _mm512_maskz_loadu_ps(mask, from.add(plane + first))
                        } else {
                            _mm512_setzero_ps()
                        };
                        let halves = _mm512_cvtne2ps_pbh(odd, even);
                        let halves = std::mem::transmute::<__m512bh, __m512i>(halves);
                        let halves = _mm512_permutexvar_epi16(order, halves);
                        // The last one may reach beyond the line.
                        let room = ((line - at) / PAIR).min(SIDE);
                        _mm512_mask_storeu_epi32(to.add(at).cast(), mask16(room), halves);
                        at += room * PAIR;
                    }
                    to.add(at).write_bytes(0, line - at);
                }
            }
        }
    }
}

/// Where a call of the tile unit reads and writes.
#[derive(Clone, Copy)]
struct Call<'a> {
    /// Tiles that the sums begin with.
    bias: [*const f32; 2],
    a: [*const u8; 2],
    b: [*const u8; 2],
    /// Bytes from a row of a tile of the second factor to the next.
    line: usize,
    /// From `b` on, of each step.
    offsets: &'a [usize],
    y: *mut f32,
    /// Bytes from a row of the result to the next.
    stride: usize,
}

/// Products of 2×2 tiles: each number is, step after step, the sum of the even channels' chain and the odd channels',
/// added to what was before.
///
/// # Safety
/// Tiles are configured; all that is named exists.
unsafe fn multiply(call: Call) {
    // SAFETY: the caller's; nothing else is written.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{c0} + {packed}]",
            "tileloadd tmm1, [{c0} + {packed}]",
            "tileloadd tmm2, [{c1} + {packed}]",
            "tileloadd tmm3, [{c1} + {packed}]",
            "2:",
            "mov {c0}, [{offset}]",
            "lea {c1}, [{b1} + {c0}]",
            "add {c0}, {b0}",
            "tileloadd tmm4, [{a0} + {packed}]",
            "tileloadd tmm5, [{a1} + {packed}]",
            "tileloadd tmm6, [{c0} + {line}]",
            "tileloadd tmm7, [{c1} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {offset}, 8",
            "dec {steps}",
            "jnz 2b",
            "mov {c0}, {stride}",
            "shl {c0}, 4",
            "add {c0}, {y}",
            "tilestored [{y} + {stride}], tmm0",
            "tilestored [{y} + {stride} + 64], tmm1",
            "tilestored [{c0} + {stride}], tmm2",
            "tilestored [{c0} + {stride} + 64], tmm3",
            c0 = inout(reg) call.bias[0] => _,
            c1 = inout(reg) call.bias[1] => _,
            a0 = inout(reg) call.a[0] => _,
            a1 = inout(reg) call.a[1] => _,
            b0 = in(reg) call.b[0],
            b1 = in(reg) call.b[1],
            offset = inout(reg) call.offsets.as_ptr() => _,
            steps = inout(reg) call.offsets.len() => _,
            packed = in(reg) 64usize,
            line = in(reg) call.line,
            y = in(reg) call.y,
            stride = in(reg) call.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    }
}
