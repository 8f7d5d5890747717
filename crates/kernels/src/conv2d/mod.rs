//! 2-D convolution of `[batch, channels, height, width]` and its gradients, as matrix products whose
//! second factor, the patches of the picture, exists only panel by panel while it is packed. Intel's tile unit reads patches
//! in place.
//!
//! Kernels of 3×3 over many channels go by Winograd's way instead, but not in bfloat16: its transforms would lose most
//! of the eight bits, and units that multiply bfloat16s are quicker than a quarter of the multiplications. Pictures are first copied into a frame
//! of zeros, so that no later pass has edges to handle. The
//! input's gradient is a convolution too: of the output's gradient, spread out by the stride, with the
//! weights turned round. (For a stride of two that multiplies many zeros; such layers are few.)

mod frame;
mod patches;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(test)]
mod tests;
mod winograd;

use crate::bf16::{self, Unit};
use crate::gemm::{Matrix, MatrixMut, Output, gemm_packing};
use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};
use crate::team;
use crate::vector::{sum_of, vectorised};
use frame::Framed;
use patches::{Patches, Taps};

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Pictures.
    pub batch: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Height of the input.
    pub height: usize,
    /// Width of the input.
    pub width: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Steps between outputs, in both directions.
    pub stride: usize,
    /// Zeros around the input, smaller than the kernel.
    pub padding: usize,
}

impl Conv2d {
    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let [kh, kw] = self.kernel;
        let side =
            |size: usize, kernel: usize| (size + 2 * self.padding - kernel) / self.stride + 1;
        [side(self.height, kh), side(self.width, kw)]
    }

    fn check(&self) {
        let [kh, kw] = self.kernel;
        assert!(
            kh > 0 && kw > 0 && self.stride > 0,
            "kernel and stride are at least one"
        );
        assert!(
            self.padding < kh.min(kw),
            "padding is smaller than the kernel"
        );
        let (height, width) = (
            self.height + 2 * self.padding,
            self.width + 2 * self.padding,
        );
        assert!(
            height >= kh && width >= kw,
            "the kernel fits into the padded picture"
        );
    }

    fn taps(&self) -> usize {
        self.inputs * self.kernel[0] * self.kernel[1]
    }

    fn pixels(&self) -> usize {
        let [height, width] = self.output();
        height * width
    }
}

/// Most output pixels that a task computes.
const PIXELS: usize = 512;
/// Fewest, where there would be fewer tasks than threads otherwise.
const FEWEST_PIXELS: usize = 32;

/// The output, `[batch, outputs, ..]`; `w` is `[outputs, inputs, kernel..]`.
pub fn forward(x: &[f32], w: &[f32], bias: Option<&[f32]>, conv: &Conv2d) -> Vec<f32> {
    forward_with(None, x, w, bias, conv)
}

/// [`forward`] with pictures and weights rounded to bfloat16, and sums in `f32`.
///
/// # Panics
/// If this processor lacks the unit.
pub fn forward_bf16(
    unit: Unit,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    forward_with(Some(unit), x, w, bias, conv)
}

fn forward_with(
    unit: Option<Unit>,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    conv.check();
    let size = [conv.height, conv.width];
    assert_eq!(
        x.len(),
        conv.batch * conv.inputs * size[0] * size[1],
        "input"
    );
    assert_eq!(w.len(), conv.outputs * conv.taps(), "weight");
    let x = Framed::padded(x, size, conv.padding);
    let framed = Conv2d {
        height: conv.height + 2 * conv.padding,
        width: conv.width + 2 * conv.padding,
        padding: 0,
        ..*conv
    };
    convolve(unit, &x, w, bias, &framed)
}

/// Outputs from which a unit of bfloat16s is quicker: it computes 16 at a time.
const LEAST_OUTPUTS: usize = 16;

/// The convolution, without padding, of pictures in frames of its height and width.
fn convolve(
    unit: Option<Unit>,
    x: &Framed,
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    if let Some(bias) = bias {
        assert_eq!(bias.len(), conv.outputs, "bias against outputs");
    }
    match unit {
        #[cfg(target_arch = "x86_64")]
        Some(unit) if rows::pays(unit, conv) => {
            assert!(
                unit.is_available(),
                "{unit:?} is not offered by this processor"
            );
            // SAFETY: the unit is available.
            unsafe { rows::convolve(x, w, bias, conv) }
        }
        Some(unit) if conv.outputs >= LEAST_OUTPUTS => {
            let weights = Matrix::new(w, conv.outputs, conv.taps());
            bf16::with_packed(unit, weights, |weights| {
                convolve_patches(x, bias, conv, |patches, part, output| {
                    weights.multiply(patches, part, output);
                })
            })
        }
        _ if winograd::pays(conv) => winograd::convolve(x, w, bias, conv),
        _ => convolve_directly(x, w, bias, conv),
    }
}

/// [`convolve`] in `f32`, by the definition.
fn convolve_directly(x: &Framed, w: &[f32], bias: Option<&[f32]>, conv: &Conv2d) -> Vec<f32> {
    let weights = Matrix::new(w, conv.outputs, conv.taps());
    convolve_patches(x, bias, conv, |patches, part, output| {
        gemm_packing(weights, patches, part, output);
    })
}

/// [`convolve`] as products of the weights with patches.
fn convolve_patches(
    x: &Framed,
    bias: Option<&[f32]>,
    conv: &Conv2d,
    multiply: impl Fn(&Patches, MatrixMut, Output) + Sync,
) -> Vec<f32> {
    let framed = [conv.height, conv.width];
    let x = x.fill(conv.batch * conv.inputs, framed);
    let (pixels, outputs) = (conv.pixels(), conv.outputs);
    let mut y = fresh(conv.batch * outputs * pixels);
    if let Some(bias) = bias {
        y.chunks_exact_mut(pixels.max(1))
            .zip(bias.iter().cycle())
            .for_each(|(plane, &bias)| plane.fill(bias));
    }
    let output = if bias.is_some() {
        Output::Accumulate
    } else {
        Output::Overwrite
    };
    let shared = SharedPtr::new(y.as_mut_ptr());
    let size = conv.inputs * framed[0] * framed[1];
    let threads = rayon::current_num_threads();
    let each = match conv.batch * pixels.div_ceil(PIXELS) < threads {
        true => pixels.div_ceil(threads).next_multiple_of(FEWEST_PIXELS),
        false => PIXELS,
    };
    let each = each.min(PIXELS);
    let parts = pixels.div_ceil(each);
    let task = |index: usize| {
        let (picture, first) = (index / parts, index % parts * each);
        let count = each.min(pixels - first);
        let patches = Patches::new(&x[picture * size..][..size], framed, conv, first, count);
        // SAFETY: each task has pixels of its own, and they lie within the output.
        let part = unsafe {
            let start = shared.get().add(picture * outputs * pixels + first);
            MatrixMut::from_raw(start, outputs, count, pixels)
        };
        multiply(&patches, part, output);
    };
    team::for_each(conv.batch * parts, task);
    y
}

/// The input's gradient.
pub fn backward_input(dy: &[f32], w: &[f32], conv: &Conv2d) -> Vec<f32> {
    backward_input_with(None, dy, w, conv)
}

/// [`backward_input`] with both factors rounded to bfloat16.
///
/// # Panics
/// If this processor lacks the unit.
pub fn backward_input_bf16(unit: Unit, dy: &[f32], w: &[f32], conv: &Conv2d) -> Vec<f32> {
    backward_input_with(Some(unit), dy, w, conv)
}

fn backward_input_with(unit: Option<Unit>, dy: &[f32], w: &[f32], conv: &Conv2d) -> Vec<f32> {
    conv.check();
    let [height, width] = conv.output();
    let [kh, kw] = conv.kernel;
    assert_eq!(
        dy.len(),
        conv.batch * conv.outputs * height * width,
        "output's gradient"
    );
    // [inputs, outputs, kernel], turned by half a turn.
    let mut turned = vec![0.0; w.len()];
    let area = kh * kw;
    for o in 0..conv.outputs {
        for i in 0..conv.inputs {
            let from = &w[(o * conv.inputs + i) * area..][..area];
            let to = &mut turned[(i * conv.outputs + o) * area..][..area];
            to.iter_mut()
                .zip(from.iter().rev())
                .for_each(|(to, from)| *to = *from);
        }
    }
    let dy = Framed {
        x: dy,
        size: [height, width],
        at: [kh - 1 - conv.padding, kw - 1 - conv.padding],
        step: conv.stride,
    };
    let back = Conv2d {
        inputs: conv.outputs,
        outputs: conv.inputs,
        height: conv.height + kh - 1,
        width: conv.width + kw - 1,
        stride: 1,
        padding: 0,
        ..*conv
    };
    convolve(unit, &dy, &turned, None, &back)
}

/// Taps whose gradients a task computes, for all outputs.
const TAPS: usize = 96;

/// The weight's gradient: for each element one chain over all pixels of all pictures.
pub fn backward_weight(x: &[f32], dy: &[f32], conv: &Conv2d) -> Vec<f32> {
    backward_weight_with(None, x, dy, conv)
}

/// [`backward_weight`] with both factors rounded to bfloat16.
///
/// # Panics
/// If this processor lacks the unit.
pub fn backward_weight_bf16(unit: Unit, x: &[f32], dy: &[f32], conv: &Conv2d) -> Vec<f32> {
    backward_weight_with(Some(unit), x, dy, conv)
}

fn backward_weight_with(unit: Option<Unit>, x: &[f32], dy: &[f32], conv: &Conv2d) -> Vec<f32> {
    conv.check();
    let (pixels, outputs, taps) = (conv.pixels(), conv.outputs, conv.taps());
    assert_eq!(
        x.len(),
        conv.batch * conv.inputs * conv.height * conv.width,
        "input"
    );
    assert_eq!(dy.len(), conv.batch * outputs * pixels, "output's gradient");
    let framed = [
        conv.height + 2 * conv.padding,
        conv.width + 2 * conv.padding,
    ];
    let planes = conv.batch * conv.inputs;
    let size = [conv.height, conv.width];
    let x = Framed::padded(x, size, conv.padding).fill(planes, framed);
    let mut dw = vec![0.0; outputs * taps];
    let shared = SharedPtr::new(dw.as_mut_ptr());
    let size = conv.inputs * framed[0] * framed[1];
    // Of a picture, some taps.
    let columns = |picture: usize, index: usize| {
        let first = index * TAPS;
        Taps {
            patches: Patches::new(&x[picture * size..][..size], framed, conv, 0, pixels),
            first,
            count: TAPS.min(taps - first),
        }
    };
    let gradient = |picture: usize| Matrix::new(&dy[picture * outputs * pixels..], outputs, pixels);
    // SAFETY: each task has taps of its own, and they lie within the gradient.
    let part = |columns: &Taps| unsafe {
        let start = shared.get().add(columns.first);
        MatrixMut::from_raw(start, outputs, columns.count, taps)
    };
    let tasks = taps.div_ceil(TAPS);
    match unit {
        Some(unit) => {
            for picture in 0..conv.batch {
                bf16::with_packed(unit, gradient(picture), |dy| {
                    team::for_each(tasks, |index| {
                        let columns = columns(picture, index);
                        dy.multiply(&columns, part(&columns), Output::Accumulate);
                    });
                });
            }
        }
        None => team::for_each(tasks, |index| {
            for picture in 0..conv.batch {
                let columns = columns(picture, index);
                gemm_packing(
                    gradient(picture),
                    &columns,
                    part(&columns),
                    Output::Accumulate,
                );
            }
        }),
    }
    dw
}

/// The bias's gradient: the sum of each channel, picture after picture.
pub fn backward_bias(dy: &[f32], conv: &Conv2d) -> Vec<f32> {
    let pixels = conv.pixels();
    let mut sums = fresh(conv.batch * conv.outputs);
    let shared = SharedPtr::new(sums.as_mut_ptr());
    for_rows(sums.len(), pixels, |first, rows| {
        // SAFETY: each task has sums of its own.
        let sums = unsafe { rows_mut(shared, first, rows, 1) };
        plane_sums(sums, &dy[first * pixels..][..rows * pixels], pixels);
    });
    let mut db = vec![0.0; conv.outputs];
    for sums in sums.chunks_exact(conv.outputs.max(1)) {
        db.iter_mut().zip(sums).for_each(|(total, x)| *total += x);
    }
    db
}

vectorised! {
    fn plane_sums(sums: &mut [f32], x: &[f32], pixels: usize) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(pixels)) {
            *sum = sum_of(x, |x| x);
        }
    }
}
