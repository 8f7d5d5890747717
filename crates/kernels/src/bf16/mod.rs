//! Linear layers in bfloat16, in two ways.
//!
//! - [`forward`] and [`product`] read [`Weights`] in place, a checkpoint's tensor as it lies in its file, and take the
//!   other factor in `f32`: half the memory per token. The product is that of [`crate::gemm::gemm`] with the weights
//!   widened to `f32`, bit for bit.
//! - [`Panels`] are weights in the order that a [`Unit`] reads, where the processor has one that multiplies
//!   bfloat16s. The other factor is rounded to bfloat16 as well, products are exact, and sums are `f32`: several
//!   times as quick from some rows on. [`gemm`] is such a product of two matrices in `f32`, for training.
//!
//! Each unit keeps the crate's promise of invariance, but they sum in different orders, so that their results agree
//! only up to rounding. Numbers below 2⁻¹²⁶ count as zero in both.

#[cfg(target_arch = "x86_64")]
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod products;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod unit;

#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::{interleaving, mask16};
pub use unit::{
    Factor, Panels, Unit, forward_panels, gemm, gemm_with_unit, multiply, multiply_with_unit, unit,
};
pub(crate) use unit::{gemm_serial, with_packed};

use rayon::prelude::*;

use crate::gemm::pack::Columns;
use crate::gemm::skinny::{self, Element, Rows};
use crate::gemm::{Matrix, MatrixMut, Output, by_blocks};
use crate::isa::{Isa, isa};
use crate::shared::fresh;
use crate::simd::Vector;
use crate::vector::vectorised;

/// Weights `[inputs, outputs]`, row-major, two bytes each, little endian, with any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    bytes: &'a [u8],
    inputs: usize,
    outputs: usize,
}

impl<'a> Weights<'a> {
    /// Weights that fill the slice.
    ///
    /// # Panics
    /// If the slice has another length.
    pub fn new(inputs: usize, outputs: usize, bytes: &'a [u8]) -> Self {
        assert_eq!(
            Some(bytes.len()),
            inputs
                .checked_mul(outputs)
                .and_then(|len| len.checked_mul(2)),
            "bytes of {inputs}x{outputs} weights in bfloat16"
        );
        Self {
            bytes,
            inputs,
            outputs,
        }
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// The nearest bfloat16s, ties to even, two bytes each, little endian. NaN stays NaN.
pub fn round(floats: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * floats.len()];
    round_into(floats, &mut bytes);
    bytes
}

/// [`round`] into memory that is there, on all threads of the current rayon pool.
///
/// # Panics
/// If there are not two bytes for each number.
pub fn round_into(floats: &[f32], bytes: &mut [u8]) {
    const AT_ONCE: usize = 1 << 14;
    assert_eq!(
        bytes.len(),
        2 * floats.len(),
        "bytes of the rounded numbers"
    );
    let parts = bytes.par_chunks_mut(2 * AT_ONCE);
    parts
        .zip(floats.par_chunks(AT_ONCE))
        .for_each(|(bytes, floats)| round_part(bytes, floats));
}

vectorised! {
    fn round_part(bytes: &mut [u8], floats: &[f32]) {
        let _ = FUSED;
        let (pairs, _) = bytes.as_chunks_mut::<2>();
        for (pair, &x) in pairs.iter_mut().zip(floats) {
            *pair = nearest(x).to_le_bytes();
        }
    }
}

/// The bits of the nearest bfloat16; see [`round`].
#[inline(always)]
pub(crate) fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() {
        // Quiet, so that the payload's upper bits can't all be zero.
        bits >> 16 | 0x40
    } else {
        (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    };
    rounded as u16
}

/// The number of which these are the bits.
#[inline(always)]
pub(crate) fn widened(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// `x·w + bias`, row-major; each element's chain begins with its bias.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(x: Matrix, w: &Weights, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, outputs) = (x.rows(), w.outputs());
    let mut y = fresh(rows * outputs);
    let output = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), outputs, "bias against outputs");
            y.chunks_exact_mut(outputs.max(1))
                .for_each(|row| row.copy_from_slice(bias));
            Output::Accumulate
        }
        None => Output::Overwrite,
    };
    product(x, w, MatrixMut::new(&mut y, rows, outputs), output);
    y
}

/// The weights as floats, `[inputs, outputs]`, row-major.
pub fn widen(w: &Weights) -> Vec<f32> {
    let (pairs, _) = w.bytes.as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| widened(u16::from_le_bytes(*pair)))
        .collect()
}

/// `y = x·w` or `y += x·w` on all threads of the current rayon pool.
///
/// # Panics
/// If the shapes do not match.
pub fn product(x: Matrix, w: &Weights, y: MatrixMut, output: Output) {
    product_with_isa(isa(), x, w, y, output);
}

/// Weights from which a second thread is worth its start.
const PARALLEL_FROM: usize = 1 << 16;

/// [`product`] with a given instruction set, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn product_with_isa(isa: Isa, x: Matrix, w: &Weights, y: MatrixMut, output: Output) {
    assert!(
        isa.is_available(),
        "{isa:?} is not offered by this processor"
    );
    assert_eq!(x.cols(), w.inputs, "columns of x against inputs");
    assert_eq!(
        (x.rows(), w.outputs),
        (y.rows, y.cols),
        "shape of the result"
    );
    if y.rows == 0 || y.cols == 0 {
        return;
    }
    let work = w.inputs * w.outputs * x.rows();
    let parallel = rayon::current_num_threads() > 1 && work >= PARALLEL_FROM;
    if x.rows() <= skinny::MAX_ROWS || w.inputs == 0 {
        // SAFETY: the elements lie in the slice, which stays borrowed.
        let w = unsafe { Rows::<Half>::new(w.bytes.as_ptr(), w.inputs, w.outputs, w.outputs) };
        skinny::run(isa, parallel, x, &w, y, output);
    } else {
        by_blocks(isa, parallel, x, w, y, output);
    }
}

/// How a sweep reads bfloat16s.
pub(crate) struct Half;

impl Element for Half {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_bf16(at) }
    }

    #[inline(always)]
    unsafe fn load_first<V: Vector>(at: *const u8, n: usize) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_bf16_first(at, n) }
    }
}

/// For products with many rows, which widen panels once for all of them.
impl Columns for Weights<'_> {
    fn len(&self) -> usize {
        self.outputs
    }

    fn depth(&self) -> usize {
        self.inputs
    }

    fn pack(&self, target: &mut [f32], width: usize, k0: usize, kc: usize, j0: usize, cols: usize) {
        for p in 0..kc {
            let row = &self.bytes[2 * ((k0 + p) * self.outputs + j0)..][..2 * cols];
            let (row, _) = row.as_chunks::<2>();
            for (panel, from) in row.chunks(width).enumerate() {
                let to = &mut target[(panel * kc + p) * width..][..width];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = widened(u16::from_le_bytes(*from));
                }
                to[from.len()..].fill(0.0);
            }
        }
    }
}
