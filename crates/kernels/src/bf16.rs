//! Linear layers with weights in bfloat16, read in place: half the memory per token, and a checkpoint's
//! tensor as it lies in its file.
//!
//! The product is that of [`crate::gemm::gemm`] with the weights widened to `f32`, bit for bit.

use crate::gemm::pack::Columns;
use crate::gemm::skinny::{self, Element, Rows};
use crate::gemm::{Into, Matrix, MatrixMut, by_blocks};
use crate::isa::{Isa, isa};
use crate::shared::fresh;
use crate::simd::Vector;

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
    floats
        .iter()
        .flat_map(|x| {
            let bits = x.to_bits();
            let rounded = if x.is_nan() {
                // Quiet, so that the payload's upper bits can't all be zero.
                bits >> 16 | 0x40
            } else {
                (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
            };
            (rounded as u16).to_le_bytes()
        })
        .collect()
}

/// `x·w + bias`, row-major; each element's chain begins with its bias.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(x: Matrix, w: &Weights, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, outputs) = (x.rows(), w.outputs());
    let mut y = fresh(rows * outputs);
    let into = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), outputs, "bias against outputs");
            y.chunks_exact_mut(outputs.max(1))
                .for_each(|row| row.copy_from_slice(bias));
            Into::Add
        }
        None => Into::Overwrite,
    };
    product(x, w, MatrixMut::new(&mut y, rows, outputs), into);
    y
}

/// The weights as floats, `[inputs, outputs]`, row-major.
pub fn widen(w: &Weights) -> Vec<f32> {
    let (pairs, _) = w.bytes.as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| f32::from_bits((u16::from_le_bytes(*pair) as u32) << 16))
        .collect()
}

/// `y = x·w` or `y += x·w` on all threads of the current rayon pool.
///
/// # Panics
/// If the shapes do not match.
pub fn product(x: Matrix, w: &Weights, y: MatrixMut, into: Into) {
    product_with_isa(isa(), x, w, y, into);
}

/// Weights from which a second thread is worth its start.
const PARALLEL_FROM: usize = 1 << 16;

/// [`product`] with a given instruction set, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn product_with_isa(isa: Isa, x: Matrix, w: &Weights, y: MatrixMut, into: Into) {
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
        skinny::run(isa, parallel, x, &w, y, into);
    } else {
        by_blocks(isa, parallel, x, w, y, into);
    }
}

/// How a sweep reads the weights.
struct Half;

impl Element for Half {
    const SIZE: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        unsafe { V::load_bf16(at) }
    }

    #[inline(always)]
    unsafe fn load_first<V: Vector>(at: *const u8, n: usize) -> V {
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
                    *to = f32::from_bits((u16::from_le_bytes(*from) as u32) << 16);
                }
                to[from.len()..].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::gemm_with_isa;
    use crate::gemm::tests::numbers;
    use crate::isa::isas;

    fn widen(bytes: &[u8]) -> Vec<f32> {
        bytes
            .chunks(2)
            .map(|x| f32::from_bits(u32::from_le_bytes([0, 0, x[0], x[1]])))
            .collect()
    }

    #[test]
    fn rounding_takes_the_nearest() {
        let mut x = numbers(1000, 1);
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40]);
        // Ties, to even.
        x.extend([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
        let rounded = widen(&round(&x));
        for (x, y) in x.iter().zip(&rounded) {
            let next = |step: i32| f32::from_bits((y.to_bits() as i32 + (step << 16)) as u32);
            if y.is_finite() && next(1).is_finite() && *y != 0.0 {
                for other in [next(1), next(-1)] {
                    let (x, y, other) = (*x as f64, *y as f64, other as f64);
                    assert!((x - y).abs() <= (x - other).abs(), "{x} {y} {other}");
                }
            }
        }
        assert_eq!(rounded[1000..1004], x[1000..1004]);
        assert!(rounded[1001].is_sign_negative());
        assert_eq!(rounded[1004], f32::INFINITY);
        assert_eq!(rounded[1006..], [1.0, 1.0 + 4.0 / 256.0]);
        assert!(widen(&round(&[f32::from_bits(0x7F80_0001)]))[0].is_nan());
    }

    #[test]
    fn product_equals_that_of_widened_weights_bit_for_bit() {
        for isa in isas() {
            for (rows, inputs, outputs) in [
                (1, 1, 1),
                (1, 9, 70),
                (2, 24, 1060),
                (4, 17, 600),
                (7, 31, 100),
                (2, 65, 17),
                (3, 8, 31),
                (5, 130, 33),
                (8, 100, 1500),
                (16, 300, 31),
                (17, 70, 50),
                (40, 300, 77),
                (3, 0, 5),
            ] {
                let mut bytes = vec![0; 1];
                bytes.extend(round(&numbers(inputs * outputs, 1)));
                let floats = widen(&bytes[1..]);
                let w = Weights::new(inputs, outputs, &bytes[1..]);
                let x = numbers(rows * inputs, 2);
                let x = Matrix::new(&x, rows, inputs);
                for into in [Into::Overwrite, Into::Add] {
                    let start = numbers(rows * outputs, 3);
                    let (mut y, mut expected) = (start.clone(), start);
                    let result = MatrixMut::new(&mut y, rows, outputs);
                    product_with_isa(isa, x, &w, result, into);
                    let result = MatrixMut::new(&mut expected, rows, outputs);
                    gemm_with_isa(isa, x, Matrix::new(&floats, inputs, outputs), result, into);
                    assert_eq!(y, expected, "{isa:?} {rows}x{inputs}x{outputs}");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinities_follow_the_rules() {
        for isa in isas() {
            let w = round(&[1.0, f32::INFINITY, f32::NAN, 0.0]);
            let mut y = [0.0; 4];
            let result = MatrixMut::new(&mut y, 2, 2);
            let x = Matrix::new(&[1.0, 0.0, f32::INFINITY, 1.0], 2, 2);
            product_with_isa(isa, x, &Weights::new(2, 2, &w), result, Into::Overwrite);
            assert!(y[0].is_nan() && y[2].is_nan());
            assert_eq!((y[1], y[3]), (f32::INFINITY, f32::INFINITY));
        }
    }
}
