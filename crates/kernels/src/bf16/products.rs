//! Products of factors in tiles.

use std::arch::x86_64::*;

use super::Unit;
use super::tiles::{LINES, Tiles};
use crate::amx::{self, Shapes, TILE};
use crate::gemm::{MatrixMut, Output};
use crate::shared::SharedPtr;
use crate::team;

/// Tiles of a panel that a pass of the tile unit takes: with two panels of the second factor, 32 KiB of the L1 cache.
const PASS: usize = 16;

/// Panels of the first factor of a task: with [`PASS`], half a MiB of the L2 cache.
const MOST_PANELS: usize = 32;

/// The result, and where a task's part of it begins.
#[derive(Clone, Copy)]
struct Result {
    y: SharedPtr<f32>,
    stride: usize,
    rows: usize,
    columns: usize,
    load: bool,
}

/// Panels of the first and of the second factor.
struct Part {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

/// `y = a·b` or `y += a·b`; the shapes match and none is zero.
///
/// # Safety
/// The unit is available.
pub(super) unsafe fn multiply(
    unit: Unit,
    parallel: bool,
    a: Tiles,
    b: Tiles,
    y: MatrixMut,
    output: Output,
) {
    assert!(
        a.depth == b.depth && a.lines == y.rows && b.lines == y.cols,
        "shapes were checked"
    );
    let result = Result {
        y: SharedPtr::new(y.data),
        stride: y.row_stride,
        rows: y.rows,
        columns: y.cols,
        load: output == Output::Accumulate,
    };
    let tasks = if parallel {
        4 * rayon::current_num_threads()
    } else {
        1
    };
    // Pairs of panels; tasks have as many columns as they can, so that the second factor is read once.
    let (row_pairs, column_pairs) = (a.panels().div_ceil(2), b.panels().div_ceil(2));
    let rows_each = row_pairs.min(MOST_PANELS / 2);
    let row_tasks = row_pairs.div_ceil(rows_each);
    let rows_each = row_pairs.div_ceil(row_tasks);
    let column_tasks = tasks.div_ceil(row_tasks).min(column_pairs);
    let columns_each = column_pairs.div_ceil(column_tasks);
    let column_tasks = column_pairs.div_ceil(columns_each);
    let task = |index: usize| {
        let (row, column) = (index % row_tasks, index / row_tasks);
        let part = Part {
            rows: 2 * row * rows_each..(2 * (row + 1) * rows_each).min(a.panels()),
            columns: 2 * column * columns_each..(2 * (column + 1) * columns_each).min(b.panels()),
        };
        // SAFETY: the unit is the caller's promise; parts are disjoint and lie within the result.
        unsafe {
            match unit {
                Unit::Amx => with_amx(a, b, part, result),
                Unit::Avx512Bf16 => with_vectors(a, b, part, result),
            }
        }
    };
    let tasks = row_tasks * column_tasks;
    if parallel {
        team::for_each(tasks, task);
    } else {
        (0..tasks).for_each(task);
    }
}

/// Where a call of the tile unit reads and writes; the second ones are not touched where there are none.
#[derive(Clone, Copy)]
struct TileCall {
    tiles: usize,
    a: [*const u8; 2],
    b: [*const u8; 2],
    /// The result of the first and of the second rows.
    y: [*mut f32; 2],
    /// Bytes from a row of the result to the next.
    stride: usize,
    load: bool,
}

/// # Safety
/// The processor has the unit, and the result this part.
unsafe fn with_amx(a: Tiles, b: Tiles, part: Part, result: Result) {
    // Few rows: their tiles stay in the cache, and the result need not come and go.
    let pass = if part.rows.len() <= 4 { a.depth } else { PASS };
    let work = || {
        for first in (0..a.depth).step_by(pass) {
            let tiles = pass.min(a.depth - first);
            let load = result.load || first > 0;
            for column in part.columns.clone().step_by(2) {
                let columns = 2.min(part.columns.end - column);
                for row in part.rows.clone().step_by(2) {
                    let rows = 2.min(part.rows.end - row);
                    let at = |factor: &Tiles, panel: usize, panels: usize| {
                        [0, 1].map(|i| factor.at(panel + i.min(panels - 1), first))
                    };
                    let place = TileCall {
                        tiles,
                        a: at(&a, row, rows),
                        b: at(&b, column, columns),
                        y: [std::ptr::null_mut(); 2],
                        stride: 0,
                        load,
                    };
                    // SAFETY: the tiles exist.
                    unsafe { result.tiles(place, [row, column], [rows, columns]) };
                }
            }
        }
    };
    // SAFETY: the caller's; the shapes are those that `multiply_tiles` takes.
    unsafe { amx::with_tiles(Shapes { depth_bytes: 64 }, work) }
}

impl Result {
    /// Computes up to 2×2 tiles of the result, in place if they are whole.
    ///
    /// # Safety
    /// Tiles are configured; the factors' tiles exist; no one else has these rows and columns.
    unsafe fn tiles(&self, place: TileCall, [row, column]: [usize; 2], panels: [usize; 2]) {
        let (row, column) = (row * LINES, column * LINES);
        let rows = (panels[0] * LINES).min(self.rows - row);
        let columns = (panels[1] * LINES).min(self.columns - column);
        // SAFETY: the rows and columns exist.
        unsafe {
            let y = self.y.get().add(row * self.stride + column);
            if rows == panels[0] * LINES && columns == panels[1] * LINES {
                let place = TileCall {
                    y: [y, y.wrapping_add(LINES * self.stride)],
                    stride: 4 * self.stride,
                    ..place
                };
                return multiply_tiles(place, panels);
            }
            const WIDTH: usize = 2 * LINES;
            #[repr(align(64))]
            struct Whole([f32; WIDTH * WIDTH]);
            let mut whole = Whole([0.0; WIDTH * WIDTH]);
            let lines = whole.0.as_mut_ptr();
            if place.load {
                for i in 0..rows {
                    let to = lines.add(i * WIDTH);
                    y.add(i * self.stride).copy_to_nonoverlapping(to, columns);
                }
            }
            let place = TileCall {
                y: [lines, lines.add(LINES * WIDTH)],
                stride: 4 * WIDTH,
                ..place
            };
            multiply_tiles(place, panels);
            for i in 0..rows {
                let to = y.add(i * self.stride);
                lines.add(i * WIDTH).copy_to_nonoverlapping(to, columns);
            }
        }
    }
}

/// Products of up to 2×2 tiles: each number is, tile after tile of 32 steps, the sum of the even steps' chain and the
/// odd steps', added to what it was.
///
/// # Safety
/// Tiles are configured; all that is named exists.
unsafe fn multiply_tiles(place: TileCall, panels: [usize; 2]) {
    macro_rules! multiply {
        (
            $([$sum:literal, $y:literal])*; $([$a:literal, $from_a:literal])*; $([$b:literal, $from_b:literal])*;
            $([$to:literal, $of:literal, $with:literal])*
        ) => {
            // SAFETY: the caller's; nothing else is written.
            unsafe {
                std::arch::asm!(
                    // Not all of them have second rows.
                    "/* {y1} */",
                    "test {load:e}, {load:e}",
                    "jz 2f",
                    $(concat!("tileloadd tmm", $sum, ", ", $y),)*
                    "jmp 3f",
                    "2:",
                    $(concat!("tilezero tmm", $sum),)*
                    "3:",
                    $(concat!("tileloadd tmm", $a, ", [{", $from_a, "} + {line}]"),)*
                    $(concat!("tileloadd tmm", $b, ", [{", $from_b, "} + {line}]"),)*
                    $(concat!("tdpbf16ps tmm", $to, ", tmm", $of, ", tmm", $with),)*
                    "add {a0}, 1024",
                    "add {a1}, 1024",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {tiles}",
                    "jnz 3b",
                    $(concat!("tilestored ", $y, ", tmm", $sum),)*
                    load = in(reg) place.load as u32,
                    tiles = inout(reg) place.tiles => _,
                    a0 = inout(reg) place.a[0] => _,
                    a1 = inout(reg) place.a[1] => _,
                    b0 = inout(reg) place.b[0] => _,
                    b1 = inout(reg) place.b[1] => _,
                    y0 = in(reg) place.y[0],
                    y1 = in(reg) place.y[1],
                    line = in(reg) 64usize,
                    stride = in(reg) place.stride,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                )
            }
        };
    }
    match panels {
        [1, 1] => multiply!(
            ["0", "[{y0} + {stride}]"]; ["4", "a0"]; ["6", "b0"]; ["0", "4", "6"]
        ),
        [1, _] => multiply!(
            ["0", "[{y0} + {stride}]"] ["1", "[{y0} + {stride} + 64]"];
            ["4", "a0"]; ["6", "b0"] ["7", "b1"];
            ["0", "4", "6"] ["1", "4", "7"]
        ),
        [_, 1] => multiply!(
            ["0", "[{y0} + {stride}]"] ["2", "[{y1} + {stride}]"];
            ["4", "a0"] ["5", "a1"]; ["6", "b0"];
            ["0", "4", "6"] ["2", "5", "6"]
        ),
        _ => multiply!(
            ["0", "[{y0} + {stride}]"] ["1", "[{y0} + {stride} + 64]"]
            ["2", "[{y1} + {stride}]"] ["3", "[{y1} + {stride} + 64]"];
            ["4", "a0"] ["5", "a1"]; ["6", "b0"] ["7", "b1"];
            ["0", "4", "6"] ["1", "4", "7"] ["2", "5", "6"] ["3", "5", "7"]
        ),
    }
}

/// # Safety
/// The processor has the unit, and the result this part.
unsafe fn with_vectors(a: Tiles, b: Tiles, part: Part, result: Result) {
    for column in part.columns.clone().step_by(2) {
        let panels = 2.min(part.columns.end - column);
        let columns = result.columns - column * LINES;
        let end = (part.rows.end * LINES).min(result.rows);
        let mut row = part.rows.start * LINES;
        while row < end {
            // Rows of one panel.
            let left = (end - row).min(LINES - row % LINES);
            let run = Run {
                tiles: a.depth,
                a: a.at(row / LINES, 0).wrapping_add(row % LINES * 64),
                b: b.at(column, 0),
                panel: b.depth * TILE,
                // SAFETY: the element exists.
                y: unsafe { result.y.get().add(row * result.stride + column * LINES) },
                stride: result.stride,
                columns,
                load: result.load,
            };
            // SAFETY: the caller's.
            row += unsafe {
                match (left, panels) {
                    (1, 1) => run.sums::<1, 1>(),
                    (1, _) => run.sums::<1, 2>(),
                    (2 | 3, 1) => run.sums::<2, 1>(),
                    (2 | 3, _) => run.sums::<2, 2>(),
                    (4..8, 1) => run.sums::<4, 1>(),
                    (4..8, _) => run.sums::<4, 2>(),
                    (_, 1) => run.sums::<8, 1>(),
                    _ => run.sums::<8, 2>(),
                }
            };
        }
    }
}

/// Where products of vectors read and write.
#[derive(Clone, Copy)]
struct Run {
    tiles: usize,
    a: *const u8,
    b: *const u8,
    /// Bytes from a panel of the second factor to the next.
    panel: usize,
    y: *mut f32,
    stride: usize,
    /// Columns from the first one on.
    columns: usize,
    load: bool,
}

impl Run {
    /// Computes `R` rows of `P` panels: each number is a chain over all steps. Returns `R`.
    ///
    /// # Safety
    /// The processor has the unit; the tiles exist; no one else has these rows and columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn sums<const R: usize, const P: usize>(self) -> usize {
        let masks: [__mmask16; P] =
            std::array::from_fn(|p| match self.columns.saturating_sub(p * LINES) {
                n @ 0..16 => (1 << n) - 1,
                _ => !0,
            });
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        // SAFETY: the caller's; masked lanes are not touched.
        unsafe {
            if self.load {
                for (r, row) in sums.iter_mut().enumerate() {
                    for (p, sum) in row.iter_mut().enumerate() {
                        let at = self.y.wrapping_add(r * self.stride + p * LINES);
                        *sum = _mm512_maskz_loadu_ps(masks[p], at);
                    }
                }
            }
            for tile in 0..self.tiles {
                let (a, b) = (self.a.add(tile * TILE), self.b.add(tile * TILE));
                for pair in 0..16 {
                    let w: [__m512bh; P] = std::array::from_fn(|p| {
                        let at = b.add(p * self.panel + 64 * pair);
                        std::mem::transmute(_mm512_loadu_si512(at.cast()))
                    });
                    for (r, row) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(*a.add(64 * r + 4 * pair).cast::<i32>());
                        let x = std::mem::transmute::<__m512i, __m512bh>(x);
                        for (sum, w) in row.iter_mut().zip(w) {
                            *sum = _mm512_dpbf16_ps(*sum, x, w);
                        }
                    }
                }
            }
            for (r, row) in sums.into_iter().enumerate() {
                for (p, sum) in row.into_iter().enumerate() {
                    let at = self.y.wrapping_add(r * self.stride + p * LINES);
                    _mm512_mask_storeu_ps(at, masks[p], sum);
                }
            }
        }
        R
    }
}
