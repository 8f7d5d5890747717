//! Pictures within frames of zeros, so that no later pass has edges to handle.

use std::borrow::Cow;

use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};

/// Planes, and where their pixels lie in a frame of zeros.
pub(super) struct Framed<'a> {
    /// `[planes, height, width]`.
    pub(super) x: &'a [f32],
    /// Height and width.
    pub(super) size: [usize; 2],
    /// Where the first pixel lies.
    pub(super) at: [usize; 2],
    /// From one pixel to the next.
    pub(super) step: usize,
}

/// [`Framed`] with pixels beside each other.
pub(super) struct Dense<'a> {
    /// `[planes, height, width]`.
    pub(super) x: Cow<'a, [f32]>,
    /// Height and width.
    pub(super) size: [usize; 2],
    /// Where the first pixel lies.
    pub(super) at: [usize; 2],
}

impl<'a> Framed<'a> {
    /// Planes with a border of zeros.
    pub(super) fn padded(x: &'a [f32], size: [usize; 2], padding: usize) -> Self {
        Self {
            x,
            size,
            at: [padding; 2],
            step: 1,
        }
    }

    /// The planes in frames of a size; the same slice where nothing changes.
    pub(super) fn fill(&self, planes: usize, framed: [usize; 2]) -> Cow<'a, [f32]> {
        if self.size == framed {
            return Cow::Borrowed(self.x);
        }
        let [height, width] = self.size;
        let area = framed[0] * framed[1];
        let mut out = fresh(planes * area);
        let shared = SharedPtr::new(out.as_mut_ptr());
        for_rows(planes, area, |first, planes| {
            // SAFETY: each task has planes of its own.
            let out = unsafe { rows_mut(shared, first, planes, area) };
            out.fill(0.0);
            let x = &self.x[first * height * width..];
            for (out, x) in out
                .chunks_exact_mut(area)
                .zip(x.chunks_exact(height * width))
            {
                for (row, x) in x.chunks_exact(width).enumerate() {
                    let row = self.at[0] + row * self.step;
                    self.fill_row(&mut out[row * framed[1] + self.at[1]..], x);
                }
            }
        });
        Cow::Owned(out)
    }

    /// The same planes, pixel beside pixel: as they are, or in frames of a size.
    pub(super) fn dense(&self, planes: usize, framed: [usize; 2]) -> Dense<'a> {
        match self.step {
            1 => Dense {
                x: Cow::Borrowed(self.x),
                size: self.size,
                at: self.at,
            },
            _ => Dense {
                x: self.fill(planes, framed),
                size: framed,
                at: [0; 2],
            },
        }
    }

    fn fill_row(&self, to: &mut [f32], x: &[f32]) {
        if self.step == 1 {
            to[..x.len()].copy_from_slice(x);
        } else {
            to.iter_mut()
                .step_by(self.step)
                .zip(x)
                .for_each(|(to, x)| *to = *x);
        }
    }
}
