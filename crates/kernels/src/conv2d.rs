//! 2-D convolution of `[batch, channels, height, width]` and its gradients, as matrix products whose
//! second factor, the patches of the picture, exists only panel by panel while it is packed.
//!
//! Pictures are first copied into a frame of zeros, so that packing has no edges to look after. The
//! input's gradient is a convolution too: of the output's gradient, spread out by the stride, with the
//! weights turned round. (For a stride of two that multiplies many zeros; such layers are few.)

use std::borrow::Cow;

use rayon::prelude::*;

use crate::gemm::pack::{Columns, transpose};
use crate::gemm::{Into, Matrix, MatrixMut, gemm_packing};
use crate::shared::{SharedPtr, for_rows, fresh, rows_mut, with_scratch};
use crate::vector::{sum_by, vectorised};

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

/// Output pixels that a task computes.
const PIXELS: usize = 512;

/// The output, `[batch, outputs, ..]`; `w` is `[outputs, inputs, kernel..]`.
pub fn forward(x: &[f32], w: &[f32], bias: Option<&[f32]>, conv: &Conv2d) -> Vec<f32> {
    conv.check();
    assert_eq!(
        x.len(),
        conv.batch * conv.inputs * conv.height * conv.width,
        "input"
    );
    assert_eq!(w.len(), conv.outputs * conv.taps(), "weight");
    let at = [conv.padding; 2];
    let framed = [
        conv.height + 2 * conv.padding,
        conv.width + 2 * conv.padding,
    ];
    let planes = conv.batch * conv.inputs;
    let x = frame(x, planes, [conv.height, conv.width], framed, at, 1);
    convolve(&x, framed, w, bias, conv)
}

/// [`forward`] of pictures that have their frame.
fn convolve(
    x: &[f32],
    framed: [usize; 2],
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv2d,
) -> Vec<f32> {
    let (pixels, outputs) = (conv.pixels(), conv.outputs);
    let mut y = fresh(conv.batch * outputs * pixels);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs, "bias against outputs");
        y.chunks_exact_mut(pixels.max(1))
            .zip(bias.iter().cycle())
            .for_each(|(plane, &bias)| plane.fill(bias));
    }
    let into = if bias.is_some() {
        Into::Add
    } else {
        Into::Overwrite
    };
    let shared = SharedPtr::new(y.as_mut_ptr());
    let size = conv.inputs * framed[0] * framed[1];
    let parts = pixels.div_ceil(PIXELS);
    let task = |index: usize| {
        let (picture, first) = (index / parts, index % parts * PIXELS);
        let count = PIXELS.min(pixels - first);
        let patches = Patches::new(&x[picture * size..][..size], framed, conv, first, count);
        let weights = Matrix::new(w, outputs, conv.taps());
        // SAFETY: each task has pixels of its own, and they lie within the output.
        let part = unsafe {
            let start = shared.get().add(picture * outputs * pixels + first);
            MatrixMut::from_raw(start, outputs, count, pixels)
        };
        gemm_packing(weights, &patches, part, into);
    };
    (0..conv.batch * parts)
        .into_par_iter()
        .with_max_len(1)
        .for_each(task);
    y
}

/// The input's gradient.
pub fn backward_input(dy: &[f32], w: &[f32], conv: &Conv2d) -> Vec<f32> {
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
    let framed = [conv.height + kh - 1, conv.width + kw - 1];
    let at = [kh - 1 - conv.padding, kw - 1 - conv.padding];
    let planes = conv.batch * conv.outputs;
    let dy = frame(dy, planes, [height, width], framed, at, conv.stride);
    let back = Conv2d {
        inputs: conv.outputs,
        outputs: conv.inputs,
        height: framed[0],
        width: framed[1],
        stride: 1,
        padding: 0,
        ..*conv
    };
    convolve(&dy, framed, &turned, None, &back)
}

/// Taps whose gradients a task computes, for all outputs.
const TAPS: usize = 96;

/// The weight's gradient: for each element one chain over all pixels of all pictures.
pub fn backward_weight(x: &[f32], dy: &[f32], conv: &Conv2d) -> Vec<f32> {
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
    let x = frame(
        x,
        planes,
        [conv.height, conv.width],
        framed,
        [conv.padding; 2],
        1,
    );
    let mut dw = vec![0.0; outputs * taps];
    let shared = SharedPtr::new(dw.as_mut_ptr());
    let size = conv.inputs * framed[0] * framed[1];
    let task = |index: usize| {
        let first = index * TAPS;
        let count = TAPS.min(taps - first);
        for picture in 0..conv.batch {
            let patches = Patches::new(&x[picture * size..][..size], framed, conv, 0, pixels);
            let columns = Taps {
                patches,
                first,
                count,
            };
            let dy = Matrix::new(&dy[picture * outputs * pixels..], outputs, pixels);
            // SAFETY: each task has taps of its own, and they lie within the gradient.
            let part =
                unsafe { MatrixMut::from_raw(shared.get().add(first), outputs, count, taps) };
            gemm_packing(dy, &columns, part, Into::Add);
        }
    };
    (0..taps.div_ceil(TAPS))
        .into_par_iter()
        .with_max_len(1)
        .for_each(task);
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
            *sum = sum_by(pixels, |i| x[i]);
        }
    }
}

/// Planes within larger ones of zeros, from `at` on, `step` apart; the same slice where nothing changes.
fn frame<'a>(
    x: &'a [f32],
    planes: usize,
    size: [usize; 2],
    framed: [usize; 2],
    at: [usize; 2],
    step: usize,
) -> Cow<'a, [f32]> {
    if size == framed {
        return Cow::Borrowed(x);
    }
    let [height, width] = size;
    let area = framed[0] * framed[1];
    let mut out = fresh(planes * area);
    let shared = SharedPtr::new(out.as_mut_ptr());
    for_rows(planes, area, |first, planes| {
        // SAFETY: each task has planes of its own.
        let out = unsafe { rows_mut(shared, first, planes, area) };
        out.fill(0.0);
        let x = &x[first * height * width..];
        for (out, x) in out
            .chunks_exact_mut(area)
            .zip(x.chunks_exact(height * width))
        {
            for (row, x) in x.chunks_exact(width).enumerate() {
                let to = &mut out[(at[0] + row * step) * framed[1] + at[1]..];
                if step == 1 {
                    to[..width].copy_from_slice(x);
                } else {
                    to.iter_mut()
                        .step_by(step)
                        .zip(x)
                        .for_each(|(to, x)| *to = *x);
                }
            }
        }
    });
    Cow::Owned(out)
}

/// The matrix of patches of one picture, `[taps, output pixels]`: tap (channel, row, column of the
/// kernel) under pixel.
#[derive(Clone, Copy)]
struct Patches<'a> {
    picture: &'a [f32],
    framed: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    taps: usize,
    /// Width of the output.
    width: usize,
    first: usize,
    count: usize,
}

impl<'a> Patches<'a> {
    /// Those under `count` pixels from `first` on.
    fn new(
        picture: &'a [f32],
        framed: [usize; 2],
        conv: &Conv2d,
        first: usize,
        count: usize,
    ) -> Self {
        let (kernel, stride, taps) = (conv.kernel, conv.stride, conv.taps());
        let whole = kernel == [1, 1] && stride == 1;
        let patches = Self {
            picture,
            framed,
            kernel,
            stride,
            taps,
            // Without neighbours the picture is one long row.
            width: if whole {
                conv.pixels()
            } else {
                conv.output()[1]
            },
            first,
            count,
        };
        if whole {
            Self {
                framed: [1, framed[0] * framed[1]],
                ..patches
            }
        } else {
            patches
        }
    }

    /// Where in the picture a tap lies under the first pixel.
    fn tap(&self, tap: usize) -> usize {
        let [kh, kw] = self.kernel;
        let (channel, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        (channel * self.framed[0] + ky) * self.framed[1] + kx
    }

    /// Calls `run(from, start, len)` for every run of pixels `from..from + len` (counted from `first`)
    /// that lies in one row: it begins at `start` in the picture, plus the tap's place.
    fn runs(
        &self,
        mut from: usize,
        count: usize,
        limit: usize,
        mut run: impl FnMut(usize, usize, usize),
    ) {
        let end = from + count;
        while from < end {
            let pixel = self.first + from;
            let (y, x) = (pixel / self.width, pixel % self.width);
            let len = (self.width - x).min(end - from).min(limit - from % limit);
            run(from, (y * self.framed[1] + x) * self.stride, len);
            from += len;
        }
    }
}

impl Columns for Patches<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn depth(&self) -> usize {
        self.taps
    }

    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize) {
        debug_assert_eq!(j0 % width, 0);
        // Runs outside: they are the same for all taps.
        self.runs(j0, cols, width, |from, start, len| {
            let (panel, lane) = ((from - j0) / width, (from - j0) % width);
            let panel = &mut target[panel * kc * width..][..kc * width];
            for p in 0..kc {
                let source = &self.picture[self.tap(k0 + p) + start..];
                let to = &mut panel[p * width + lane..][..len];
                if self.stride == 1 {
                    copy(to, &source[..len]);
                } else {
                    let source = source.iter().step_by(self.stride);
                    to.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                }
            }
        });
        let rest = cols % width;
        if rest > 0 {
            let panel = &mut target[cols / width * kc * width..][..kc * width];
            panel
                .chunks_exact_mut(width)
                .for_each(|step| step[rest..].fill(0.0));
        }
    }
}

/// Copies some floats, most often a multiple of eight, without a call to `memcpy`.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let (from, from_rest) = from.as_chunks::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// The patches the other way round, `[output pixels, taps]`, some taps of them.
struct Taps<'a> {
    patches: Patches<'a>,
    first: usize,
    count: usize,
}

impl Columns for Taps<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn depth(&self) -> usize {
        self.patches.count
    }

    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize) {
        // Panel by panel: a line of pixels for each tap, then turned.
        with_scratch(width * kc, |lines| {
            for (index, panel) in target.chunks_exact_mut(kc * width).enumerate() {
                let from = index * width;
                if from >= cols {
                    break;
                }
                let taps = width.min(cols - from);
                self.patches.runs(k0, kc, usize::MAX, |first, start, len| {
                    for (i, line) in lines.chunks_exact_mut(kc).enumerate().take(taps) {
                        let tap = self.patches.tap(self.first + j0 + from + i);
                        let source = &self.patches.picture[tap + start..];
                        let to = &mut line[first - k0..][..len];
                        if self.patches.stride == 1 {
                            copy(to, &source[..len]);
                        } else {
                            let source = source.iter().step_by(self.patches.stride);
                            to.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                        }
                    }
                });
                transpose(panel, width, lines, kc, taps, kc);
                if taps < width {
                    panel
                        .chunks_exact_mut(width)
                        .for_each(|step| step[taps..].fill(0.0));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    /// Output, and gradients of input, weight and bias, by the definition in `f64`.
    fn reference(x: &[f32], w: &[f32], bias: &[f32], dy: &[f32], c: &Conv2d) -> [Vec<f64>; 4] {
        let ([oh, ow], [kh, kw]) = (c.output(), c.kernel);
        let mut y = vec![0.0; c.batch * c.outputs * oh * ow];
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let mut db = vec![0.0; c.outputs];
        for n in 0..c.batch {
            for o in 0..c.outputs {
                for oy in 0..oh {
                    for ox in 0..ow {
                        let at = ((n * c.outputs + o) * oh + oy) * ow + ox;
                        y[at] += bias[o] as f64;
                        db[o] += dy[at] as f64;
                        for i in 0..c.inputs {
                            for ky in 0..kh {
                                for kx in 0..kw {
                                    let iy = (oy * c.stride + ky).wrapping_sub(c.padding);
                                    let ix = (ox * c.stride + kx).wrapping_sub(c.padding);
                                    if iy >= c.height || ix >= c.width {
                                        continue;
                                    }
                                    let ax = ((n * c.inputs + i) * c.height + iy) * c.width + ix;
                                    let aw = ((o * c.inputs + i) * kh + ky) * kw + kx;
                                    y[at] += x[ax] as f64 * w[aw] as f64;
                                    dx[ax] += dy[at] as f64 * w[aw] as f64;
                                    dw[aw] += dy[at] as f64 * x[ax] as f64;
                                }
                            }
                        }
                    }
                }
            }
        }
        [y, dx, dw, db]
    }

    fn close(what: &str, x: &[f32], exact: &[f64], conv: &Conv2d) {
        assert_eq!(x.len(), exact.len());
        for (x, exact) in x.iter().zip(exact) {
            // Chains of up to some thousand products of numbers below one.
            let tolerance = 5e-5 + 5e-6 * exact.abs();
            assert!(
                (*x as f64 - exact).abs() < tolerance,
                "{what} of {conv:?}: {x} {exact}"
            );
        }
    }

    #[test]
    fn output_and_gradients_equal_the_plain_ones() {
        for (batch, inputs, outputs, height, width, kernel, stride, padding) in [
            (1, 1, 1, 1, 1, [1, 1], 1, 0),
            (2, 3, 5, 7, 9, [3, 3], 1, 1),
            (2, 20, 33, 16, 16, [3, 3], 1, 1),
            (1, 17, 13, 33, 40, [3, 3], 1, 1),
            (3, 40, 35, 8, 8, [1, 1], 1, 0),
            (2, 5, 7, 12, 14, [4, 4], 2, 1),
            (2, 5, 7, 11, 13, [3, 3], 2, 1),
            (1, 4, 6, 9, 9, [5, 3], 1, 2),
            (1, 4, 6, 9, 9, [3, 3], 3, 0),
            (2, 6, 8, 10, 10, [2, 2], 2, 0),
        ] {
            let conv = Conv2d {
                batch,
                inputs,
                outputs,
                height,
                width,
                kernel,
                stride,
                padding,
            };
            let [oh, ow] = conv.output();
            let x = numbers(batch * inputs * height * width, 1);
            let w = numbers(outputs * inputs * kernel[0] * kernel[1], 2);
            let bias = numbers(outputs, 3);
            let dy = numbers(batch * outputs * oh * ow, 4);
            let [y, dx, dw, db] = reference(&x, &w, &bias, &dy, &conv);
            close("output", &forward(&x, &w, Some(&bias), &conv), &y, &conv);
            close(
                "input's gradient",
                &backward_input(&dy, &w, &conv),
                &dx,
                &conv,
            );
            close(
                "weight's gradient",
                &backward_weight(&x, &dy, &conv),
                &dw,
                &conv,
            );
            close("bias's gradient", &backward_bias(&dy, &conv), &db, &conv);
        }
    }

    #[test]
    fn a_picture_alone_equals_the_picture_in_a_batch_on_any_threads() {
        let conv = Conv2d {
            batch: 3,
            inputs: 30,
            outputs: 20,
            height: 25,
            width: 26,
            kernel: [3, 3],
            stride: 1,
            padding: 1,
        };
        let size = conv.inputs * conv.height * conv.width;
        let (x, w) = (numbers(3 * size, 1), numbers(conv.outputs * conv.taps(), 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let y = forward(&x, &w, None, &conv);
                let dw = backward_weight(&x, &y, &conv);
                (backward_input(&y, &w, &conv), dw, y)
            })
        };
        let all = run(1);
        assert_eq!(run(2), all);
        let one = forward(&x[size..2 * size], &w, None, &Conv2d { batch: 1, ..conv });
        assert_eq!(one, all.2[one.len()..2 * one.len()]);
    }
}
