//! Convolution with kernels of 3×3 and a stride of one by Winograd's minimal filtering F(4×4, 3×3) (Lavin
//! & Gray 2016): tiles of 6×6 inputs and the kernels are transformed, multiplied position by position as
//! 36 matrix products over the channels, and transformed back to 4×4 outputs: a quarter of the
//! multiplications.
//!
//! The transforms interpolate at 0, ±√2, ±1/√2 and infinity, where the paper takes 0, ±1, ±2 and infinity:
//! that halves the rounding errors. They are about twice those of the direct way in the root mean square (a
//! test holds the bound). A NaN or an infinity spreads over its tiles. The order of all sums depends on the
//! channels only, so the crate's promise of invariance holds.
//!
//! Pictures are worked through in strips of tiles whose transforms stay in the last cache; the threads
//! share each strip's three steps.

use super::Conv2d;
use super::frame::Framed;
use crate::gemm::pack::transpose;
use crate::gemm::{Matrix, MatrixMut, Output, gemm_serial};
use crate::shared::{SharedPtr, fresh, with_scratch};
use crate::team;
use crate::vector::{multiply_add, vectorised};

/// Outputs of a tile, in each direction.
const OUT: usize = 4;
/// Inputs of a tile, in each direction.
const IN: usize = OUT + 2;
/// Positions of a transformed tile.
const POSITIONS: usize = IN * IN;
/// Tiles that are transformed side by side.
const LANES: usize = 16;

/// Floats of a strip's transforms: 4 MiB of the last cache.
const STRIP: usize = 1 << 20;

/// Whether this is the quicker way. It looks at one picture's sizes only: a batch must not change the
/// result.
pub(super) fn pays(conv: &Conv2d) -> bool {
    let [height, width] = conv.output();
    let tiles = height.div_ceil(OUT) * width.div_ceil(OUT);
    // Few channels spend their time in the tiles' transforms; few tiles in those of the kernels, the more
    // so where these leave the cache. And tiles should be mostly outputs that exist.
    let least = if conv.inputs * conv.outputs <= 1 << 14 {
        16
    } else {
        49
    };
    conv.kernel == [3, 3]
        && conv.stride == 1
        && conv.inputs >= 32
        && conv.outputs >= 32
        && tiles >= least
        && 4 * height * width >= 3 * tiles * OUT * OUT
}

/// Height and width of the frame that pictures need.
fn frame(conv: &Conv2d) -> [usize; 2] {
    conv.output()
        .map(|side| side.div_ceil(OUT) * OUT + IN - OUT)
}

/// The output, `[batch, outputs, ..]`, of a convolution without padding; `w` is `[outputs, inputs, 3, 3]`.
pub(super) fn convolve(x: &Framed, w: &[f32], bias: Option<&[f32]>, conv: &Conv2d) -> Vec<f32> {
    let (inputs, outputs) = (conv.inputs, conv.outputs);
    let [height, width] = conv.output();
    let framed = frame(conv);
    let x = x.fill(conv.batch * inputs, framed);
    let all = Tiles {
        across: width.div_ceil(OUT),
        per_picture: height.div_ceil(OUT) * width.div_ceil(OUT),
    };
    let kernels = kernels(w, inputs, outputs);
    let mut y = fresh(conv.batch * outputs * height * width);
    let out = SharedPtr::new(y.as_mut_ptr());
    let tiles = conv.batch * all.per_picture;
    let strip = (STRIP / (POSITIONS * (inputs + outputs)) / LANES * LANES).max(4 * LANES);
    for first in (0..tiles).step_by(strip) {
        let count = strip.min(tiles - first);
        // Whole groups of lanes; what is beyond the strip's tiles is some numbers that no output takes.
        let padded = count.next_multiple_of(LANES);
        let places: Vec<TileCorner> = (first..first + count).map(|i| all.place(i)).collect();
        with_scratch(POSITIONS * (inputs + outputs) * padded, |memory| {
            let (transformed, products) = memory.split_at_mut(POSITIONS * inputs * padded);
            let to = SharedPtr::new(transformed.as_mut_ptr());
            team::for_each(inputs, |channel| {
                let mut lanes = [[0.0; LANES]; POSITIONS];
                for (group, places) in places.chunks(LANES).enumerate() {
                    all.for_runs(places, |lane, place, run| {
                        let plane = (place.picture * inputs + channel) * framed[0] * framed[1];
                        let corner = plane + place.y * framed[1] + place.x;
                        for i in 0..IN {
                            let line = &x[corner + i * framed[1]..][..OUT * (run - 1) + IN];
                            let to = &mut lanes[i * IN..][..IN].as_flattened_mut()[lane..];
                            transpose(to, LANES, line, OUT, run, IN);
                        }
                    });
                    transform_inputs(&mut lanes);
                    for (position, lanes) in lanes.iter().enumerate() {
                        let at = (position * inputs + channel) * padded + group * LANES;
                        // SAFETY: each task has a channel of its own.
                        unsafe { to.get().add(at).cast::<[f32; LANES]>().write(*lanes) };
                    }
                }
            });
            let transformed = &*transformed;
            let to = SharedPtr::new(products.as_mut_ptr());
            team::for_each(POSITIONS, |position| {
                let kernels = &kernels[position * outputs * inputs..];
                let inner = &transformed[position * inputs * padded..];
                // SAFETY: each task has a position of its own.
                let product = unsafe {
                    let at = to.get().add(position * outputs * padded);
                    MatrixMut::from_raw(at, outputs, padded, padded)
                };
                gemm_serial(
                    Matrix::new(kernels, outputs, inputs),
                    Matrix::new(inner, inputs, padded),
                    product,
                    Output::Overwrite,
                );
            });
            let products = &*products;
            team::for_each(outputs, |channel| {
                let bias = bias.map_or(0.0, |bias| bias[channel]);
                let mut lanes = [[0.0; LANES]; POSITIONS];
                for (group, places) in places.chunks(LANES).enumerate() {
                    for (position, lanes) in lanes.iter_mut().enumerate() {
                        let at = (position * outputs + channel) * padded + group * LANES;
                        lanes.copy_from_slice(&products[at..][..LANES]);
                    }
                    transform_outputs(&mut lanes, bias);
                    all.for_runs(places, |lane, place, run| {
                        let plane = (place.picture * outputs + channel) * height * width;
                        let columns = (OUT * run).min(width - place.x);
                        for i in 0..OUT.min(height - place.y) {
                            // SAFETY: these pixels exist; each task has a channel of its own.
                            let to = unsafe {
                                let at = plane + (place.y + i) * width + place.x;
                                std::slice::from_raw_parts_mut(out.get().add(at), columns)
                            };
                            let lines = &lanes[i * IN..][..OUT].as_flattened()[lane..];
                            let whole = columns / OUT;
                            transpose(to, OUT, lines, LANES, OUT, whole);
                            for column in whole * OUT..columns {
                                to[column] = lines[column % OUT * LANES + column / OUT];
                            }
                        }
                    });
                }
            });
        });
    }
    y
}

/// Where a tile lies: the corner of its outputs, and of its inputs in the frame.
struct TileCorner {
    picture: usize,
    y: usize,
    x: usize,
}

/// How many tiles there are.
struct Tiles {
    /// Beside each other.
    across: usize,
    per_picture: usize,
}

impl Tiles {
    /// Calls `work(index, place, count)` for all runs of tiles beside each other.
    fn for_runs(&self, places: &[TileCorner], mut work: impl FnMut(usize, &TileCorner, usize)) {
        let mut done = 0;
        while let Some(place) = places.get(done) {
            let run = (self.across - place.x / OUT).min(places.len() - done);
            work(done, place, run);
            done += run;
        }
    }

    fn place(&self, index: usize) -> TileCorner {
        let (picture, tile) = (index / self.per_picture, index % self.per_picture);
        TileCorner {
            picture,
            y: tile / self.across * OUT,
            x: tile % self.across * OUT,
        }
    }
}

/// The transformed kernels, `[POSITIONS, outputs, inputs]`.
fn kernels(w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let mut out = fresh(POSITIONS * outputs * inputs);
    let to = SharedPtr::new(out.as_mut_ptr());
    team::for_each(outputs, |output| {
        let mut lanes = [[0.0; LANES]; POSITIONS];
        for first in (0..inputs).step_by(LANES) {
            let count = LANES.min(inputs - first);
            let w = &w[(output * inputs + first) * 9..][..count * 9];
            for (lane, w) in w.as_chunks::<9>().0.iter().enumerate() {
                for (i, w) in w.iter().enumerate() {
                    lanes[i / 3 * IN + i % 3][lane] = *w;
                }
            }
            transform_kernels(&mut lanes);
            for (position, lanes) in lanes.iter().enumerate() {
                let at = (position * outputs + output) * inputs + first;
                // SAFETY: each task has an output of its own.
                let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(at), count) };
                to.copy_from_slice(&lanes[..count]);
            }
        }
    });
    out
}

/// Applies `one` to the first `take` lines of columns, then of rows, and puts its results in their place.
#[inline(always)]
fn both_ways<const TAKE: usize, const GIVE: usize>(
    lanes: &mut [[f32; LANES]; POSITIONS],
    one: impl Fn([f32; TAKE]) -> [f32; GIVE],
) {
    for j in 0..TAKE {
        let mut results = [[0.0; LANES]; GIVE];
        for lane in 0..LANES {
            let line = one(std::array::from_fn(|i| lanes[i * IN + j][lane]));
            for i in 0..GIVE {
                results[i][lane] = line[i];
            }
        }
        for i in 0..GIVE {
            lanes[i * IN + j] = results[i];
        }
    }
    for i in 0..GIVE {
        let mut results = [[0.0; LANES]; GIVE];
        for lane in 0..LANES {
            let line = one(std::array::from_fn(|j| lanes[i * IN + j][lane]));
            for j in 0..GIVE {
                results[j][lane] = line[j];
            }
        }
        for j in 0..GIVE {
            lanes[i * IN + j] = results[j];
        }
    }
}

const ROOT: f32 = std::f32::consts::SQRT_2;
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;

vectorised! {
    fn transform_inputs(lanes: &mut [[f32; LANES]; POSITIONS]) {
        both_ways(lanes, |[a, b, c, d, e, f]: [f32; 6]| {
            let times = multiply_add::<FUSED>;
            let (even, odd) = (times(-0.5, c, e), times(ROOT, d, -HALF_ROOT * b));
            let (far_even, far_odd) = (times(-2.0, c, e), times(HALF_ROOT, d, -ROOT * b));
            [
                times(-2.5, c, a + e),
                even + odd,
                even - odd,
                far_even + far_odd,
                far_even - far_odd,
                times(-2.5, d, b + f),
            ]
        });
    }
}

vectorised! {
    fn transform_kernels(lanes: &mut [[f32; LANES]; POSITIONS]) {
        both_ways(lanes, |[a, b, c]: [f32; 3]| {
            let times = multiply_add::<FUSED>;
            let (even, odd) = (times(2.0, c, a) * (1.0 / 6.0), b * (ROOT / 6.0));
            let (far_even, far_odd) = (times(0.5, c, a) * (-2.0 / 3.0), b * (-HALF_ROOT / 1.5));
            [a, even + odd, even - odd, far_even + far_odd, far_even - far_odd, c]
        });
    }
}

vectorised! {
    fn transform_outputs(lanes: &mut [[f32; LANES]; POSITIONS], bias: f32) {
        both_ways(lanes, |[a, b, c, d, e, f]: [f32; 6]| {
            let times = multiply_add::<FUSED>;
            let (even, far_even) = (b + c, d + e);
            let (odd, far_odd) = (b - c, d - e);
            [
                a + even + far_even,
                times(HALF_ROOT, far_odd, ROOT * odd),
                times(0.5, far_even, 2.0 * even),
                times(0.5 * HALF_ROOT, far_odd, 2.0 * ROOT * odd) + f,
            ]
        });
        for i in 0..OUT {
            for j in 0..OUT {
                for lane in &mut lanes[i * IN + j] {
                    *lane += bias;
                }
            }
        }
    }
}
