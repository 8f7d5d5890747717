//! The transforms of tiles and of kernels, of which a register holds as many as it has lanes.

use super::{IN, OUT, POSITIONS};
use crate::shared::SharedPtr;
use crate::simd::{Kernel, Vector};
use crate::vector::{multiply_add, vectorised};

/// Most lanes of a register.
pub(super) const LANES: usize = 16;

/// Tiles beside each other in a picture.
pub(super) struct Run {
    /// Of the batch.
    pub picture: usize,
    /// Where the first tile's outputs begin.
    pub y: usize,
    pub x: usize,
    /// The first tile's number in its strip.
    pub first: usize,
    pub tiles: usize,
}

/// Floats of a line of [`Inputs::lines`] that runs of this many tiles need.
pub(super) fn line_length(tiles: usize) -> usize {
    // Registers are read whole, once more for what a tile shares with the next. Lines are not a page apart.
    OUT * tiles.next_multiple_of(LANES) + 2 * LANES
}

/// Transforms the tiles of a channel.
pub(super) struct Inputs<'a> {
    /// The channel's plane of each picture: from one to the next, pixels of height and width.
    pub planes: &'a [f32],
    pub from_picture: usize,
    pub size: [usize; 2],
    /// Zeros before the first row and column.
    pub at: [usize; 2],
    pub runs: &'a [Run],
    /// `IN + 1` lines of [`line_length`].
    pub lines: &'a mut [f32],
    /// Where the first tile's first position goes, and from one position to the next.
    pub to: *mut f32,
    pub stride: usize,
}

impl Kernel for Inputs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let [height, width] = self.size;
        let length = self.lines.len() / (IN + 1);
        let (lines, zeros) = self.lines.split_at_mut(IN * length);
        zeros.fill(0.0);
        for run in self.runs {
            let plane = &self.planes[run.picture * self.from_picture..][..height * width];
            // Columns of the run, and those among them that the plane has.
            let columns = OUT * (run.tiles - 1) + IN;
            let before = self.at[1].saturating_sub(run.x).min(columns);
            let end = (width + self.at[1])
                .saturating_sub(run.x)
                .clamp(before, columns);
            let rows: [*const f32; IN] = std::array::from_fn(|i| {
                let row = (run.y + i).wrapping_sub(self.at[0]);
                if row < height && before < end {
                    plane[row * width + run.x + before - self.at[1]..][..end - before].as_ptr()
                } else {
                    zeros.as_ptr()
                }
            });
            assert!(
                columns + V::LANES <= length
                    && OUT * run.tiles.next_multiple_of(V::LANES) + OUT <= length
            );
            // SAFETY: the processor is the caller's promise; rows have these columns, and lines are longer by a register.
            unsafe {
                for column in (before..end).step_by(V::LANES) {
                    let mut x = [V::splat(0.0); IN];
                    for (x, row) in x.iter_mut().zip(rows) {
                        *x = load(row.add(column - before), end - column);
                    }
                    for (i, x) in transform_inputs(x).into_iter().enumerate() {
                        x.store(lines.as_mut_ptr().add(i * length + column));
                    }
                }
            }
            for line in lines.chunks_exact_mut(length) {
                line[..before].fill(0.0);
                line[end..columns].fill(0.0);
            }
            for tile in (0..run.tiles).step_by(V::LANES) {
                let count = run.tiles - tile;
                for (i, line) in lines.chunks_exact(length).enumerate() {
                    // SAFETY: as above; the caller has room for these tiles.
                    unsafe {
                        let at = line.as_ptr().add(OUT * tile);
                        let ([a, b, c, d], [e, f, ..]) =
                            (V::load_fourths(at), V::load_fourths(at.add(OUT)));
                        let to = self.to.add(i * IN * self.stride + run.first + tile);
                        for (j, x) in transform_inputs([a, b, c, d, e, f]).into_iter().enumerate() {
                            store(x, to.add(j * self.stride), count);
                        }
                    }
                }
            }
        }
    }
}

/// The first `count` lanes; `load_first` takes a moment to make up which those are.
///
/// # Safety
/// The processor has the register, and the lanes may be read.
#[inline(always)]
unsafe fn load<V: Vector>(at: *const f32, count: usize) -> V {
    // SAFETY: the caller's.
    unsafe {
        match count < V::LANES {
            true => V::load_first(at, count),
            false => V::load(at),
        }
    }
}

/// # Safety
/// The processor has the register, and the lanes may be written.
#[inline(always)]
unsafe fn store<V: Vector>(x: V, at: *mut f32, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        match count < V::LANES {
            true => x.store_first(at, count),
            false => x.store(at),
        }
    }
}

/// Transforms the products of a channel back.
pub(super) struct Outputs<'a> {
    /// The first tile's first position, and from one position to the next.
    pub from: *const f32,
    pub stride: usize,
    pub bias: f32,
    pub runs: &'a [Run],
    /// The channel's plane of the first picture, from one picture's to the next, and its height and width.
    pub planes: SharedPtr<f32>,
    pub to_picture: usize,
    pub size: [usize; 2],
}

impl Kernel for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let [height, width] = self.size;
        for run in self.runs {
            for tile in (0..run.tiles).step_by(V::LANES) {
                let count = run.tiles - tile;
                // SAFETY: the processor and the products are the caller's promise.
                let lines = unsafe {
                    // Loops, as closures are not compiled for the register where they are many.
                    let zero = V::splat(0.0);
                    let from = self.from.add(run.first + tile);
                    let mut half = [[zero; IN]; OUT];
                    for j in 0..IN {
                        let mut column = [zero; IN];
                        for (i, x) in column.iter_mut().enumerate() {
                            *x = load(from.add((i * IN + j) * self.stride), count);
                        }
                        let column = transform_outputs(column);
                        for i in 0..OUT {
                            half[i][j] = column[i];
                        }
                    }
                    let bias = V::splat(self.bias);
                    let mut lines = [[zero; OUT]; OUT];
                    for i in 0..OUT {
                        let line = transform_outputs(half[i]);
                        for j in 0..OUT {
                            lines[i][j] = line[j].plus(bias);
                        }
                    }
                    lines
                };
                let x = run.x + OUT * tile;
                let columns = (OUT * V::LANES).min(OUT * count).min(width - x);
                for (i, line) in lines.into_iter().enumerate().take(height - run.y) {
                    // SAFETY: these pixels exist, and the caller lets no one else have them.
                    unsafe {
                        let at = run.picture * self.to_picture + (run.y + i) * width + x;
                        let to = self.planes.get().add(at);
                        if columns == OUT * V::LANES {
                            V::store_fourths(line, to);
                        } else {
                            let mut whole = [0.0; OUT * LANES];
                            V::store_fourths(line, whole.as_mut_ptr());
                            to.copy_from_nonoverlapping(whole.as_ptr(), columns);
                        }
                    }
                }
            }
        }
    }
}

const ROOT: f32 = std::f32::consts::SQRT_2;
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// # Safety
/// The processor has the registers.
#[inline(always)]
unsafe fn transform_inputs<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
    // SAFETY: the caller's.
    unsafe {
        let (even, odd) = (
            V::splat(-0.5).multiply_add(c, e),
            V::splat(ROOT).multiply_add(d, V::splat(-HALF_ROOT).times(b)),
        );
        let (far_even, far_odd) = (
            V::splat(-2.0).multiply_add(c, e),
            V::splat(HALF_ROOT).multiply_add(d, V::splat(-ROOT).times(b)),
        );
        [
            V::splat(-2.5).multiply_add(c, a.plus(e)),
            even.plus(odd),
            even.minus(odd),
            far_even.plus(far_odd),
            far_even.minus(far_odd),
            V::splat(-2.5).multiply_add(d, b.plus(f)),
        ]
    }
}

/// # Safety
/// The processor has the registers.
#[inline(always)]
unsafe fn transform_outputs<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; OUT] {
    // SAFETY: the caller's.
    unsafe {
        let (even, far_even) = (b.plus(c), d.plus(e));
        let (odd, far_odd) = (b.minus(c), d.minus(e));
        [
            a.plus(even).plus(far_even),
            V::splat(HALF_ROOT).multiply_add(far_odd, V::splat(ROOT).times(odd)),
            V::splat(0.5).multiply_add(far_even, V::splat(2.0).times(even)),
            V::splat(0.5 * HALF_ROOT)
                .multiply_add(far_odd, V::splat(2.0 * ROOT).times(odd))
                .plus(f),
        ]
    }
}

vectorised! {
    /// The transforms of some kernels of 3×3, side by side.
    pub(super) fn transform_kernels(w: &[[f32; 9]], out: &mut [[f32; LANES]; POSITIONS]) {
        let mut kernels = [[0.0; LANES]; 9];
        for (lane, w) in w.iter().enumerate().take(LANES) {
            for (kernels, w) in kernels.iter_mut().zip(w) {
                kernels[lane] = *w;
            }
        }
        for lane in 0..LANES {
            let one = |[a, b, c]: [f32; 3]| {
                let times = multiply_add::<FUSED>;
                let (even, odd) = (times(2.0, c, a) * (1.0 / 6.0), b * (ROOT / 6.0));
                let (far_even, far_odd) = (times(0.5, c, a) * (-2.0 / 3.0), b * (-HALF_ROOT / 1.5));
                [a, even + odd, even - odd, far_even + far_odd, far_even - far_odd, c]
            };
            let columns: [[f32; IN]; 3] =
                std::array::from_fn(|j| one(std::array::from_fn(|i| kernels[3 * i + j][lane])));
            for i in 0..IN {
                for (j, x) in one(columns.map(|column| column[i])).into_iter().enumerate() {
                    out[i * IN + j][lane] = x;
                }
            }
        }
    }
}
