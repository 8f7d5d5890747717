//! The patches of a picture as the second factor of a product, packed as they are made up.

use super::Conv2d;
use crate::gemm::pack::{Columns, STREAMS, prefetch, transpose};
use crate::shared::with_scratch;

/// The matrix of patches of one picture, `[taps, output pixels]`: tap (channel, row, column of the
/// kernel) under pixel.
#[derive(Clone, Copy)]
pub(super) struct Patches<'a> {
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
    pub(super) fn new(
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
        let mut runs = Vec::with_capacity(cols.div_ceil(width) + cols / self.width + 2);
        self.runs(j0, cols, width, |from, start, len| {
            let (panel, lane) = ((from - j0) / width, (from - j0) % width);
            runs.push((panel * kc * width + lane, start, len));
        });
        // Some taps at a time, each a stream of memory that is read on; the next ones are prefetched meanwhile.
        let place = |p: usize| if p < kc { self.tap(k0 + p) } else { 0 };
        let mut next: [usize; STREAMS] = std::array::from_fn(place);
        for first in (0..kc).step_by(STREAMS) {
            let taps = next;
            next = std::array::from_fn(|i| place(first + STREAMS + i));
            for &(at, start, len) in &runs {
                for (i, tap) in taps.iter().enumerate().take(kc - first) {
                    let source = &self.picture[tap + start..];
                    let to = &mut target[at + (first + i) * width..][..len];
                    if self.stride == 1 {
                        copy(to, &source[..len]);
                        prefetch(self.picture, next[i] + start, len);
                    } else {
                        let source = source.iter().step_by(self.stride);
                        to.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
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
    // A panel's width of bfloat16s.
    if let (Ok(to), Ok(from)) = (<&mut [f32; 16]>::try_from(&mut *to), from.try_into()) {
        let from: &[f32; 16] = from;
        *to = *from;
        return;
    }
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
pub(super) struct Taps<'a> {
    pub(super) patches: Patches<'a>,
    pub(super) first: usize,
    pub(super) count: usize,
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
