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

mod transforms;

use super::Conv2d;
use super::frame::Framed;
use crate::gemm::{Matrix, MatrixMut, Output, gemm_serial};
use crate::isa::{Isa, isa};
use crate::shared::{SharedPtr, fresh, with_scratch};
use crate::simd::with;
use crate::team;
use transforms::{Inputs, LANES, Outputs, Run, line_length, transform_kernels};

/// Outputs of a tile, in each direction.
const OUT: usize = 4;
/// Inputs of a tile, in each direction.
const IN: usize = OUT + 2;
/// Positions of a transformed tile.
const POSITIONS: usize = IN * IN;

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

/// The output, `[batch, outputs, ..]`, of a convolution without padding; `w` is `[outputs, inputs, 3, 3]`.
pub(super) fn convolve(x: &Framed, w: &[f32], bias: Option<&[f32]>, conv: &Conv2d) -> Vec<f32> {
    // SAFETY: `isa` has looked.
    unsafe { convolve_with(isa(), x, w, bias, conv) }
}

/// [`convolve`] with transforms of an instruction set.
///
/// # Safety
/// The processor has it.
pub(super) unsafe fn convolve_with(
    isa: Isa,
    x: &Framed,
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    let (inputs, outputs) = (conv.inputs, conv.outputs);
    let [height, width] = conv.output();
    let all = Tiles {
        across: width.div_ceil(OUT),
        per_picture: height.div_ceil(OUT) * width.div_ceil(OUT),
    };
    let x = x.dense(conv.batch * inputs, [conv.height, conv.width]);
    let area = x.size[0] * x.size[1];
    let kernels = kernels(w, inputs, outputs);
    let mut y = fresh(conv.batch * outputs * height * width);
    let out = SharedPtr::new(y.as_mut_ptr());
    let tiles = conv.batch * all.per_picture;
    // Whole panels of the widest tile of a product.
    let strip = STRIP / (POSITIONS * (inputs + outputs));
    let strip = strip.next_multiple_of(2 * LANES).max(4 * LANES);
    for first in (0..tiles).step_by(strip) {
        let count = strip.min(tiles - first);
        // Whole registers; what is beyond the strip's tiles is some numbers that no output takes.
        let padded = count.next_multiple_of(LANES);
        let runs = all.runs(first, count);
        let of_inputs = apart(inputs * padded);
        let of_outputs = apart(outputs * padded);
        with_scratch(POSITIONS * (of_inputs + of_outputs), |memory| {
            let (transformed, products) = memory.split_at_mut(POSITIONS * of_inputs);
            let to = SharedPtr::new(transformed.as_mut_ptr());
            team::for_each(inputs, |channel| {
                with_scratch((IN + 1) * line_length(all.across), |lines| {
                    // SAFETY: the instruction set is the caller's promise; each task has a channel of its own.
                    unsafe {
                        with(
                            isa,
                            Inputs {
                                planes: &x.x[channel * area..],
                                from_picture: inputs * area,
                                size: x.size,
                                at: x.at,
                                runs: &runs,
                                lines,
                                to: to.get().add(channel * padded),
                                stride: of_inputs,
                            },
                        );
                    }
                });
            });
            let transformed = &*transformed;
            let to = SharedPtr::new(products.as_mut_ptr());
            team::for_each(POSITIONS, |position| {
                let kernels = &kernels[position * apart(outputs * inputs)..];
                let inner = &transformed[position * of_inputs..];
                // SAFETY: each task has a position of its own.
                let product = unsafe {
                    let at = to.get().add(position * of_outputs);
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
                // SAFETY: the instruction set is the caller's promise; each task has a channel of its own.
                unsafe {
                    with(
                        isa,
                        Outputs {
                            from: products[channel * padded..].as_ptr(),
                            stride: of_outputs,
                            bias: bias.map_or(0.0, |bias| bias[channel]),
                            runs: &runs,
                            planes: SharedPtr::new(out.get().add(channel * height * width)),
                            to_picture: outputs * height * width,
                            size: [height, width],
                        },
                    );
                }
            });
        });
    }
    y
}

/// The stride of positions that have this many floats each. Neighbouring positions start in different sets of the caches,
/// since a tile writes one number to every position.
fn apart(floats: usize) -> usize {
    floats.next_multiple_of(LANES) + LANES
}

/// How many tiles there are.
struct Tiles {
    /// Beside each other.
    across: usize,
    per_picture: usize,
}

impl Tiles {
    /// Some tiles from one on.
    fn runs(&self, first: usize, count: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut done = 0;
        while done < count {
            let (picture, tile) = (
                (first + done) / self.per_picture,
                (first + done) % self.per_picture,
            );
            let (row, column) = (tile / self.across, tile % self.across);
            let tiles = (self.across - column).min(count - done);
            runs.push(Run {
                picture,
                y: row * OUT,
                x: column * OUT,
                first: done,
                tiles,
            });
            done += tiles;
        }
        runs
    }
}

/// The transformed kernels, `[outputs, inputs]` for each position, [`apart`].
fn kernels(w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let stride = apart(outputs * inputs);
    let mut out = fresh(POSITIONS * stride);
    let to = SharedPtr::new(out.as_mut_ptr());
    team::for_each(outputs, |output| {
        let mut lanes = [[0.0; LANES]; POSITIONS];
        let w = w[output * inputs * 9..][..inputs * 9].as_chunks::<9>().0;
        for (group, w) in w.chunks(LANES).enumerate() {
            transform_kernels(w, &mut lanes);
            for (position, lanes) in lanes.iter().enumerate() {
                let at = position * stride + output * inputs + group * LANES;
                // SAFETY: each task has an output of its own.
                unsafe {
                    let to = to.get().add(at);
                    if w.len() == LANES {
                        // Without a call to `memcpy`.
                        to.cast::<[f32; LANES]>().write_unaligned(*lanes);
                    } else {
                        to.copy_from_nonoverlapping(lanes.as_ptr(), w.len());
                    }
                }
            }
        }
    });
    out
}
