//! Products of factors in tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Unit;
use super::few_rows::{self, Call, Sums};
use super::tiles::{LINES, Order, Source, Tiles, mask16};
use crate::amx::{self, Shapes, TILE};
use crate::gemm::{MatrixMut, Output};
use crate::isa::caches;
use crate::shared::{SharedPtr, with_scratch};
use crate::team;

/// A factor: in tiles, or what tiles are made of.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Tiles(Tiles<'a>),
    Source(Source<'a>),
}

impl Operand<'_> {
    fn lines(&self) -> usize {
        match self {
            Operand::Tiles(tiles) => tiles.lines,
            Operand::Source(source) => source.lines,
        }
    }

    fn panels(&self) -> usize {
        self.lines().div_ceil(LINES)
    }

    /// Tiles of a panel.
    fn depth(&self) -> usize {
        match self {
            Operand::Tiles(tiles) => tiles.depth,
            Operand::Source(source) => source.depth(),
        }
    }

    /// Calls `work` with the whole factor, in tiles if `whole` is so.
    ///
    /// # Safety
    /// The processor has what a [`Unit`] needs.
    unsafe fn with<R>(
        &self,
        order: Order,
        whole: bool,
        parallel: bool,
        work: impl FnOnce(Operand) -> R,
    ) -> R {
        match self {
            // SAFETY: the caller's.
            Operand::Source(source) if whole => unsafe {
                source.with_tiles(order, parallel, |tiles| work(Operand::Tiles(tiles)))
            },
            _ => work(*self),
        }
    }

    /// Calls `work` with some tiles of some panels.
    ///
    /// # Safety
    /// The processor has what a [`Unit`] needs; panels and tiles exist.
    unsafe fn with_piece(
        &self,
        order: Order,
        panels: Range<usize>,
        tiles: Range<usize>,
        work: impl FnOnce(Piece),
    ) {
        match self {
            Operand::Tiles(factor) => work(Piece {
                at: factor.at(panels.start, tiles.start),
                panel: factor.depth * TILE,
            }),
            Operand::Source(source) => {
                let panel = tiles.len() * TILE;
                with_scratch(panels.len() * panel / 4, |memory| {
                    let to = memory.as_mut_ptr().cast::<u8>();
                    // SAFETY: the caller's; the memory is as large as the piece.
                    unsafe { source.pack_part(order, panels, tiles, to) };
                    work(Piece { at: to, panel });
                });
            }
        }
    }
}

/// Some tiles of some panels.
#[derive(Clone, Copy)]
struct Piece {
    /// The first tile.
    at: *const u8,
    /// Bytes from a panel to the next.
    panel: usize,
}

impl Piece {
    fn panel(&self, index: usize) -> *const u8 {
        self.at.wrapping_add(index * self.panel)
    }
}

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
    rows: Range<usize>,
    columns: Range<usize>,
}

/// How a product is cut, in panels and tiles. What is cut where is not seen in the result: each of its numbers is one
/// chain over all tiles.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Panels of the first factor of a task, and tiles of each that are multiplied with all of the task's columns
    /// before the next: they stay in the L2 cache.
    rows: usize,
    tiles: usize,
    /// Panels of the second factor of a task, and how many of them, with as many tiles, are multiplied with all of
    /// the rows before the next: they stay in the L2 cache, too.
    columns: usize,
    together: usize,
}

impl Plan {
    /// The cuts that move the least memory. `threads` is 1 if the product is not to be shared out.
    fn new(threads: usize, rows: usize, columns: usize, depth: usize, l2: usize) -> Self {
        let even = |n: usize| n.next_multiple_of(2).max(2);
        let kept = (l2 / 2 / TILE).max(8);
        let tasks = |each: usize| if threads > 1 { each * threads } else { 1 };
        // All rows in each task: the second factor is read once, and the result once for each cut of the depth.
        let fits = rows * depth <= kept;
        let column_tasks = tasks(if fits { 4 } else { 2 });
        let by_columns = Plan {
            rows: even(rows),
            tiles: (kept / even(rows)).clamp(4, depth.max(4)).min(depth),
            columns: even(columns.div_ceil(column_tasks)),
            together: 0,
        };
        let cuts = depth.div_ceil(by_columns.tiles);
        let moved_by_columns = columns.div_ceil(by_columns.columns) * rows * depth
            + columns * depth
            + 2 * cuts * rows * columns;
        // All columns in each task: the first factor is read once, and the second once for each task.
        let tiles = depth.min(kept / 2).max(1);
        let fitting = kept / tiles;
        let each = rows.div_ceil(tasks(4)).min(fitting / 2 * 2);
        let by_rows = Plan {
            rows: even(each),
            tiles,
            columns: even(columns),
            together: 0,
        };
        let moved_by_rows = rows * depth
            + rows.div_ceil(by_rows.rows) * columns * depth
            + 2 * depth.div_ceil(tiles) * rows * columns;
        let plan = if fits || moved_by_columns <= moved_by_rows {
            by_columns
        } else {
            by_rows
        };
        let together = even(kept / 2 / plan.tiles).min(plan.columns);
        Plan { together, ..plan }
    }

    /// The cuts for few rows of a first factor and a second one in tiles: panels are read once, from end to end.
    fn of_few_rows(threads: usize, columns: usize, depth: usize) -> Self {
        let tasks = if threads > 1 { 4 * threads } else { 1 };
        let columns = columns
            .div_ceil(tasks)
            .next_multiple_of(few_rows::MOST_PANELS);
        Plan {
            rows: 1,
            tiles: depth,
            columns,
            together: columns,
        }
    }
}

/// `y = a·b` or `y += a·b`; the shapes match and none is zero.
///
/// # Safety
/// The unit [can multiply](Unit::multiplies) this number of rows.
pub(super) unsafe fn multiply(
    unit: Unit,
    parallel: bool,
    a: Operand,
    b: Operand,
    y: MatrixMut,
    output: Output,
) {
    // SAFETY: the caller's.
    unsafe { multiply_within(caches().l2, unit, parallel, a, b, y, output) }
}

/// [`multiply`] with an L2 cache of so many bytes a core.
///
/// # Safety
/// The unit [can multiply](Unit::multiplies) this number of rows.
pub(super) unsafe fn multiply_within(
    l2: usize,
    unit: Unit,
    parallel: bool,
    a: Operand,
    b: Operand,
    y: MatrixMut,
    output: Output,
) {
    assert!(
        a.depth() == b.depth() && a.lines() == y.rows && b.lines() == y.cols,
        "shapes were checked"
    );
    let result = Result {
        y: SharedPtr::new(y.data),
        stride: y.row_stride,
        rows: y.rows,
        columns: y.cols,
        load: output == Output::Accumulate,
    };
    let threads = if parallel {
        rayon::current_num_threads()
    } else {
        1
    };
    let (rows, columns, depth) = (a.panels(), b.panels(), a.depth());
    let plan = match (unit, b) {
        (Unit::Amx, Operand::Tiles(_)) if result.rows <= few_rows::MOST => {
            Plan::of_few_rows(threads, columns, depth)
        }
        _ => Plan::new(threads, rows, columns, depth, l2),
    };
    let row_tasks = rows.div_ceil(plan.rows);
    let column_tasks = columns.div_ceil(plan.columns);
    // SAFETY: the unit is the caller's promise; parts are disjoint and lie within the result.
    unsafe {
        // What several tasks need is packed before, the rest by the task that needs it, into its cache.
        a.with(Order::Lines, column_tasks > 1, parallel, |a| {
            b.with(Order::Pairs, row_tasks > 1, parallel, |b| {
                let task = |index: usize| {
                    let (row, column) = (index % row_tasks, index / row_tasks);
                    let part = Part {
                        rows: row * plan.rows..((row + 1) * plan.rows).min(rows),
                        columns: column * plan.columns..((column + 1) * plan.columns).min(columns),
                    };
                    multiply_part(unit, a, b, part, plan, result);
                };
                let tasks = row_tasks * column_tasks;
                if parallel {
                    team::for_each(tasks, task);
                } else {
                    (0..tasks).for_each(task);
                }
            });
        });
    }
}

/// A task.
///
/// # Safety
/// The unit [can multiply](Unit::multiplies) this number of rows; no one else has this part of the result.
unsafe fn multiply_part(
    unit: Unit,
    a: Operand,
    b: Operand,
    part: Part,
    plan: Plan,
    result: Result,
) {
    for first in (0..a.depth()).step_by(plan.tiles) {
        let tiles = first..(first + plan.tiles).min(a.depth());
        let result = Result {
            load: result.load || first > 0,
            ..result
        };
        let with_rows = |a: Piece| {
            for column in part.columns.clone().step_by(plan.together) {
                let columns = column..(column + plan.together).min(part.columns.end);
                let of_columns = columns.clone();
                let with_columns = |b: Piece| {
                    let (rows, depth) = (part.rows.clone(), tiles.len());
                    let part = Part {
                        rows,
                        columns: of_columns,
                    };
                    // SAFETY: the caller's; the pieces have these tiles.
                    unsafe {
                        match unit {
                            Unit::Amx if result.rows <= few_rows::MOST => {
                                with_few_rows(a, b, depth, part, result);
                            }
                            Unit::Amx => with_amx(a, b, depth, part, result),
                            Unit::Avx512Bf16 => with_vectors(a, b, depth, part, result),
                        }
                    }
                };
                // SAFETY: the processor is the caller's promise; panels and tiles exist.
                unsafe { b.with_piece(Order::Pairs, columns, tiles.clone(), with_columns) };
            }
        };
        // SAFETY: as above.
        unsafe { a.with_piece(Order::Lines, part.rows.clone(), tiles.clone(), with_rows) };
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
/// The processor has the unit, the pieces as many tiles of each panel, and the result this part.
unsafe fn with_amx(a: Piece, b: Piece, tiles: usize, part: Part, result: Result) {
    let work = || {
        for row in part.rows.clone().step_by(2) {
            let rows = 2.min(part.rows.end - row);
            for column in part.columns.clone().step_by(2) {
                let columns = 2.min(part.columns.end - column);
                let at = |piece: &Piece, panel: usize, panels: usize| {
                    [0, 1].map(|i| piece.panel(panel + i.min(panels - 1)))
                };
                let place = TileCall {
                    tiles,
                    a: at(&a, row - part.rows.start, rows),
                    b: at(&b, column - part.columns.start, columns),
                    y: [std::ptr::null_mut(); 2],
                    stride: 0,
                    load: result.load,
                };
                // SAFETY: the tiles exist.
                unsafe { result.tiles(place, [row, column], [rows, columns]) };
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

/// As the tile unit multiplies, of all rows of a result of up to [`few_rows::MOST`].
///
/// # Safety
/// The processor has AVX-512, the pieces as many tiles of each panel, and the result this part.
#[target_feature(enable = "avx512f")]
unsafe fn with_few_rows(a: Piece, b: Piece, tiles: usize, part: Part, result: Result) {
    let rows = result.rows;
    let together = few_rows::panels(rows);
    for column in part.columns.clone().step_by(together) {
        let panels = together.min(part.columns.end - column);
        let first = column - part.columns.start;
        let call = Call {
            tiles,
            a: a.panel(0),
            b: std::array::from_fn(|p| b.panel(first + p.min(panels - 1))),
            next: together * b.panel - tiles * TILE,
        };
        let lanes = |p: usize| mask16(result.columns - (column + p) * LINES);
        // SAFETY: the element exists.
        let y = unsafe { result.y.get().add(column * LINES) };
        let mut sums = Sums([[0.0; LINES]; 8]);
        // SAFETY: the caller's; masked lanes are not touched.
        unsafe {
            if result.load {
                for r in 0..rows {
                    for p in 0..panels {
                        let at = y.wrapping_add(r * result.stride + p * LINES);
                        let sum = _mm512_maskz_loadu_ps(lanes(p), at);
                        _mm512_store_ps(sums.0[r * together + p].as_mut_ptr(), sum);
                    }
                }
            }
            call.add(rows, &mut sums);
            for r in 0..rows {
                for p in 0..panels {
                    let at = y.wrapping_add(r * result.stride + p * LINES);
                    let sum = _mm512_load_ps(sums.0[r * together + p].as_ptr());
                    _mm512_mask_storeu_ps(at, lanes(p), sum);
                }
            }
        }
    }
}

/// # Safety
/// The processor has the unit, the pieces as many tiles of each panel, and the result this part.
unsafe fn with_vectors(a: Piece, b: Piece, tiles: usize, part: Part, result: Result) {
    for column in part.columns.clone().step_by(2) {
        let panels = 2.min(part.columns.end - column);
        let columns = result.columns - column * LINES;
        let end = (part.rows.end * LINES).min(result.rows);
        let mut row = part.rows.start * LINES;
        while row < end {
            // Rows of one panel.
            let left = (end - row).min(LINES - row % LINES);
            let run = Run {
                tiles,
                a: a.panel(row / LINES - part.rows.start)
                    .wrapping_add(row % LINES * 64),
                b: b.panel(column - part.columns.start),
                panel: b.panel,
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
