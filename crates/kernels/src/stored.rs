//! In what numbers keys and values are held between steps of decoding: `f32`, or bfloat16 in half of the memory. What is
//! read is widened, and multiplied and summed as `f32` is.

use crate::attention::Shape;
use crate::bf16::{Half, nearest, widened};
use crate::gemm::skinny::{self, Rows};
use crate::gemm::{Matrix, MatrixMut, Output};
use crate::isa::isa;
use crate::shared::with_scratch;

/// A number that a cache holds: `f32`, or `u16` for the bits of a bfloat16.
pub trait Stored: Product {}

impl Stored for f32 {}
impl Stored for u16 {}

/// A matrix within a slice; see [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<E> View<'_, E> {
    pub(crate) fn transposed(self) -> Self {
        View {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What attention does with them.
pub trait Product: Copy + Send + Sync + 'static {
    /// The nearest one.
    fn nearest(x: f32) -> Self;

    /// `c = a·b` or `c += a·b` on the calling thread: the bits of the product with `b` widened.
    fn product(shape: &Shape, a: Matrix, b: View<'_, Self>, c: MatrixMut, output: Output);
}

impl Product for f32 {
    #[inline(always)]
    fn nearest(x: f32) -> Self {
        x
    }

    fn product(shape: &Shape, a: Matrix, b: View<'_, Self>, c: MatrixMut, output: Output) {
        let b = Matrix::with_strides(b.data, b.rows, b.cols, b.row_stride, b.col_stride);
        shape.product(a, b, c, output);
    }
}

impl Product for u16 {
    #[inline(always)]
    fn nearest(x: f32) -> Self {
        nearest(x)
    }

    fn product(shape: &Shape, a: Matrix, b: View<'_, Self>, c: MatrixMut, output: Output) {
        let (rows, cols) = (b.rows, b.cols);
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * b.row_stride + (cols - 1) * b.col_stride;
            assert!(last < b.data.len(), "matrix within its slice");
        }
        if a.rows() <= skinny::MAX_ROWS && b.col_stride == 1 {
            // SAFETY: the elements lie in the slice, see above, which stays borrowed.
            let b = unsafe { Rows::<Half>::new(b.data.as_ptr().cast(), rows, cols, b.row_stride) };
            return skinny::run(isa(), false, a, &b, c, output);
        }
        with_scratch(rows * cols, |wide| {
            for (row, wide) in wide.chunks_exact_mut(cols.max(1)).enumerate() {
                let start = row * b.row_stride;
                if b.col_stride == 1 {
                    let row = &b.data[start..][..cols];
                    wide.iter_mut()
                        .zip(row)
                        .for_each(|(x, &bits)| *x = widened(bits));
                } else {
                    for (col, x) in wide.iter_mut().enumerate() {
                        *x = widened(b.data[start + col * b.col_stride]);
                    }
                }
            }
            shape.product(a, Matrix::new(wide, rows, cols), c, output);
        });
    }
}
