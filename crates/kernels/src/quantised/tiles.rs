//! Products of rounded activations by tiles of Intel AMX, 16 rows and 16 outputs at a time. A block's lines are what
//! the instruction reads as they stand; integers of a group are summed exactly, and scaled and added up as the other
//! instruction sets do, so that the results are the same bits.

use std::arch::x86_64::*;

use super::integers::{Integers, TILE_ROWS};
use super::layout::{Format, LINE, PANEL, Weights};
use super::products::{Out, PanelCall, for_panels};
use crate::amx::{self, Shapes};

/// Bytes of a row of activations that a tile has: a group.
const DEPTH: usize = 32;

/// How far above their values the weights' integers stand.
pub(super) fn offset(format: Format) -> i32 {
    match format {
        Format::Int8 => 128,
        Format::Int4 => 8,
    }
}

/// The product, of any number of rows; the integers' offset is [`offset`].
///
/// # Safety
/// [`amx::has_int8`].
pub(super) unsafe fn multiply(parallel: bool, x: Integers, w: &Weights, out: Out) {
    debug_assert_eq!((x.rows, x.inputs), (out.rows, w.padded_inputs()));
    for_panels(parallel, w, out, TILE_ROWS, false, |row, panels, place| {
        let rows = TILE_ROWS.min(x.rows - row);
        let groups = x.inputs / DEPTH;
        let args = Rows {
            words: x.words[row * x.stride..].as_ptr(),
            stride: 4 * x.stride,
            starts: x.starts[row * groups..].as_ptr(),
            scales: x.scales[row * groups..].as_ptr(),
            groups,
            rows,
        };
        let shapes = Shapes {
            depth_bytes: DEPTH as u16,
        };
        let work = || {
            for index in 0..panels {
                let place = place.panel(index);
                // SAFETY: the caller's; the rows and the panel exist.
                unsafe {
                    match w.format() {
                        Format::Int8 => args.run::<false>(place),
                        Format::Int4 => args.run::<true>(place),
                    }
                }
            }
        };
        // SAFETY: the caller's; the shapes are those that `sums` takes.
        unsafe { amx::with_tiles(shapes, work) };
        rows
    });
}

/// Rows of rounded activations, up to [`TILE_ROWS`]; there is memory of that many rows of words.
struct Rows {
    words: *const i32,
    /// Bytes from a row of words to the next.
    stride: usize,
    starts: *const i32,
    scales: *const f32,
    groups: usize,
    rows: usize,
}

/// The integer sums of the two groups of a block, and of the next block: a page together, as loads wait for earlier
/// stores whose addresses are whole pages away.
#[repr(align(4096))]
struct Sums([[[[i32; PANEL]; TILE_ROWS]; 2]; 2]);

/// Weights of a block, unpacked.
#[repr(align(64))]
struct Bytes {
    groups: [[u8; DEPTH * PANEL]; 2],
}

impl Rows {
    /// The product with a panel.
    ///
    /// # Safety
    /// Tiles are configured; rows and panel exist.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn run<const INT4: bool>(&self, place: PanelCall) {
        let columns: __mmask16 = match place.columns {
            n @ 0..PANEL => (1 << n) - 1,
            _ => !0,
        };
        let mut y = [_mm512_setzero_ps(); TILE_ROWS];
        let mut sums = Sums([[[[0; PANEL]; TILE_ROWS]; 2]; 2]);
        // SAFETY: the caller's; masked lanes are not touched.
        unsafe {
            if place.load {
                for (r, y) in y.iter_mut().enumerate().take(self.rows) {
                    *y = _mm512_maskz_loadu_ps(columns, place.y.add(r * place.stride));
                }
            }
            // The tiles are one block ahead of the scaling, so that both go on at the same time.
            self.sums::<INT4>(place, 0, &mut sums.0[0]);
            for block in 0..place.blocks {
                if block + 1 < place.blocks {
                    self.sums::<INT4>(place, block + 1, &mut sums.0[(block + 1) % 2]);
                }
                place.look_ahead::<crate::simd::Avx512>(block);
                let scales = place.weights.add(block * block_bytes(INT4));
                for (half, sums) in sums.0[block % 2].iter().enumerate() {
                    let scale = bf16s(scales.add(half * 2 * PANEL));
                    let group = 2 * block + half;
                    if self.rows == TILE_ROWS {
                        self.scale::<TILE_ROWS>(&mut y, sums, scale, group);
                    } else {
                        self.scale::<0>(&mut y, sums, scale, group);
                    }
                }
            }
            for (r, y) in y.into_iter().enumerate().take(self.rows) {
                _mm512_mask_storeu_ps(place.y.add(r * place.stride), columns, y);
            }
        }
    }

    /// Adds a group's scaled sums to the result; `ROWS` is how many there are, or zero.
    ///
    /// # Safety
    /// The processor has AVX-512, and the group exists.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn scale<const ROWS: usize>(
        &self,
        y: &mut [__m512; TILE_ROWS],
        sums: &[[i32; PANEL]; TILE_ROWS],
        scale: __m512,
        group: usize,
    ) {
        let rows = if ROWS == 0 { self.rows } else { ROWS };
        for (r, y) in y.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller's.
            unsafe {
                let at = r * self.groups + group;
                let start = _mm512_set1_epi32(*self.starts.add(at));
                let sum = _mm512_load_si512(sums[r].as_ptr().cast());
                let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, start));
                let x_scale = _mm512_set1_ps(*self.scales.add(at));
                *y = _mm512_fmadd_ps(x_scale, _mm512_mul_ps(dot, scale), *y);
            }
        }
    }

    /// The integer sums of a block's groups.
    ///
    /// # Safety
    /// Tiles are configured; the block exists.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn sums<const INT4: bool>(
        &self,
        place: PanelCall,
        block: usize,
        sums: &mut [[[i32; PANEL]; TILE_ROWS]; 2],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let lines = place.weights.add(block * block_bytes(INT4) + LINE);
            let x = self.words.cast::<u8>().add(2 * block * DEPTH);
            let mut bytes = std::mem::MaybeUninit::<Bytes>::uninit();
            let w = if INT4 {
                let to = (&raw mut (*bytes.as_mut_ptr()).groups).cast::<u8>();
                unpack(lines, to);
                to.cast_const()
            } else {
                lines
            };
            std::arch::asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x} + {stride} + 32]",
                "tileloadd tmm7, [{w} + {line} + 512]",
                "tdpbsud tmm1, tmm5, tmm7",
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + 1024], tmm1",
                x = in(reg) x,
                stride = in(reg) self.stride,
                w = in(reg) w,
                line = in(reg) LINE,
                to = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

/// Bytes of a block.
const fn block_bytes(int4: bool) -> usize {
    LINE + if int4 { 2 } else { 4 } * DEPTH * PANEL / 2
}

/// 16 bfloat16s.
#[target_feature(enable = "avx512f")]
unsafe fn bf16s(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    let wide = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
}

/// A block's eight lines of pairs of nibbles as sixteen lines of bytes.
#[target_feature(enable = "avx512f")]
unsafe fn unpack(lines: *const u8, to: *mut u8) {
    let nibble = _mm512_set1_epi32(0x0F0F_0F0F);
    for line in 0..8 {
        // SAFETY: the caller's.
        unsafe {
            let x = _mm512_loadu_si512(lines.add(line * LINE).cast());
            let low = _mm512_and_si512(x, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi32::<4>(x), nibble);
            _mm512_storeu_si512(to.add(2 * line * LINE).cast(), low);
            _mm512_storeu_si512(to.add((2 * line + 1) * LINE).cast(), high);
        }
    }
}
