//! Packing: panels of `MR` rows or `NR` columns, step after step of `k`, zeros at the edges.

use super::Matrix;
use super::tile::Tile;

/// Packs `rows` rows of A from `i0` and `kc` columns from `k0` into panels `[panel][step][MR]`.
pub(super) fn rows<T: Tile>(
    target: &mut [f32],
    a: Matrix,
    i0: usize,
    rows: usize,
    k0: usize,
    kc: usize,
) {
    pack(target, T::MR, a, i0, rows, k0, kc);
}

/// What can be packed as `B`.
pub(crate) trait Columns: Sync {
    /// Columns.
    fn len(&self) -> usize;
    /// Rows, the length of the chains.
    fn depth(&self) -> usize;
    /// Packs `kc` rows from `k0` and `cols` columns from `j0` into panels `[panel][step][width]`.
    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize);
}

impl Columns for Matrix<'_> {
    fn len(&self) -> usize {
        self.cols
    }

    fn depth(&self) -> usize {
        self.rows
    }

    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize) {
        pack(target, width, self.transposed(), j0, cols, k0, kc);
    }
}

/// Packs rows `i0..i0 + rows`, columns `k0..k0 + kc` into panels of `width` rows.
fn pack(target: &mut [f32], width: usize, x: Matrix, i0: usize, rows: usize, k0: usize, kc: usize) {
    let panels = rows.div_ceil(width);
    debug_assert!(target.len() >= panels * width * kc);
    let source = &x.data[i0 * x.row_stride + k0 * x.col_stride..];
    if x.row_stride == 1 {
        // Neighbours of a step are contiguous. Some steps at a time: as many streams as the processor follows, and a
        // panel's part of them is written in order. Each step begins in another page, where the processor does not
        // look ahead by itself, so that the next ones are prefetched meanwhile.
        let whole = rows / width;
        for first in (0..kc).step_by(STREAMS) {
            let steps = first..kc.min(first + STREAMS);
            for panel in 0..panels {
                let count = width.min(rows - panel * width);
                for p in steps.clone() {
                    let at = p * x.col_stride + panel * width;
                    let from = &source[at..][..count];
                    let to = &mut target[(panel * kc + p) * width..][..width];
                    if panel < whole {
                        copy(to, from);
                    } else {
                        let (to, pad) = to.split_at_mut(count);
                        to.copy_from_slice(from);
                        pad.fill(0.0);
                    }
                    prefetch(source, at + STREAMS * x.col_stride, width);
                }
            }
        }
    } else {
        for panel in 0..panels {
            let from = &source[panel * width * x.row_stride..];
            let to = &mut target[panel * kc * width..][..kc * width];
            let rows = width.min(rows - panel * width);
            if x.col_stride == 1 {
                transpose(to, width, from, x.row_stride, rows, kc);
            } else {
                for p in 0..kc {
                    for i in 0..rows {
                        to[p * width + i] = from[i * x.row_stride + p * x.col_stride];
                    }
                }
            }
            if rows < width {
                for p in 0..kc {
                    to[p * width + rows..(p + 1) * width].fill(0.0);
                }
            }
        }
    }
}

/// Steps that are packed at a time.
pub(crate) const STREAMS: usize = 8;

/// Prefetches some floats from an index on, which may lie outside.
#[inline(always)]
pub(crate) fn prefetch(x: &[f32], from: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..count).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and any address may be prefetched.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(from + at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, from, count);
}

/// Copies some multiple of four floats without a call to `memcpy`.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to, to_rest) = to.as_chunks_mut::<4>();
    let (from, from_rest) = from.as_chunks::<4>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// `to[p · width + i] = from[i · stride + p]`.
pub(crate) fn transpose(
    to: &mut [f32],
    width: usize,
    from: &[f32],
    stride: usize,
    rows: usize,
    kc: usize,
) {
    let mut i = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // Steps outside would walk over the target in order; rows outside read each source line whole.
        while i + 4 <= rows {
            assert!(
                (i + 3) * stride + kc <= from.len()
                    && i + 4 <= width
                    && kc * width + i + 4 <= to.len() + width
            );
            let mut p = 0;
            while p + 4 <= kc {
                // SAFETY: SSE is part of x86-64; the block lies within both slices, see above.
                unsafe {
                    let at = from.as_ptr().add(i * stride + p);
                    let mut r0 = _mm_loadu_ps(at);
                    let mut r1 = _mm_loadu_ps(at.add(stride));
                    let mut r2 = _mm_loadu_ps(at.add(2 * stride));
                    let mut r3 = _mm_loadu_ps(at.add(3 * stride));
                    _MM_TRANSPOSE4_PS(&mut r0, &mut r1, &mut r2, &mut r3);
                    let at = to.as_mut_ptr().add(p * width + i);
                    _mm_storeu_ps(at, r0);
                    _mm_storeu_ps(at.add(width), r1);
                    _mm_storeu_ps(at.add(2 * width), r2);
                    _mm_storeu_ps(at.add(3 * width), r3);
                }
                p += 4;
            }
            while p < kc {
                for r in i..i + 4 {
                    to[p * width + r] = from[r * stride + p];
                }
                p += 1;
            }
            i += 4;
        }
    }
    while i < rows {
        for (p, &x) in from[i * stride..][..kc].iter().enumerate() {
            to[p * width + i] = x;
        }
        i += 1;
    }
}
