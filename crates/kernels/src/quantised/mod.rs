//! Linear layers with weights in eight or four bits, `y = x·W`, for reading less memory per token.
//!
//! Weights are quantised by groups of [`GROUP`] along the inputs, symmetrically, with one scale per group
//! and output: as in llama.cpp's Q8_0 and Q4_0 formats, but with scales in bfloat16 and outputs interleaved
//! for whole registers. There are two ways to multiply, see [`Activations`]: both read the weights once for
//! all rows, and both keep the crate's promise of invariance.
//!
//! # Layout
//! Little endian, stable (it stands in checkpoints), made for being mapped from a file: the length is a
//! multiple of 64 bytes, and nothing straddles a multiple of 64. Reading is quickest when the beginning is
//! aligned to 64 bytes, and right with any alignment.
//!
//! - Panels of 16 outputs follow each other, the last one filled up with zeros.
//! - A panel is a sequence of blocks of 64 inputs, the last one filled up with zeros.
//! - A block begins with 64 bytes of scales, bfloat16: 16 (one an output) for the first 32 inputs, 16 for
//!   the others. Scales are finite.
//! - [`Format::Int8`]: 16 lines of 64 bytes. Line `l` holds inputs `4·l..4·l + 4`: byte `4·j + i` is output
//!   `j`, input `4·l + i`, as `q + 128` with `q` in −127..=127.
//! - [`Format::Int4`]: 8 lines of 64 bytes. Line `l` holds inputs `8·l..8·l + 8`: byte `4·j + i` has output
//!   `j`, input `8·l + i` in its lower four bits and input `8·l + 4 + i` in its upper four, as `q + 8` with
//!   `q` in −8..=7.
//! - The weight is `q · scale`, rounded to `f32`.
//!
//! So eight bits take 8.5 bits a weight, four bits 4.5.

mod integers;
mod layout;
mod products;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use layout::{Format, GROUP, NotFinite, Weights, quantise};

use crate::gemm::{Matrix, MatrixMut, Output, by_blocks, skinny};
use crate::isa::{Isa, isa};
use crate::shared::{SharedPtr, fresh};

/// In what numbers the activations are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// As they are. The product is that of [`crate::gemm::gemm`] with [`Weights::dequantise`]d weights, bit
    /// for bit; NaN and infinities follow the rules of floating point.
    Float,
    /// Rounded to eight bits by groups of [`GROUP`] along the inputs, each row for itself, with a scale of
    /// the largest magnitude / 127. Products within a group are integers, so they are exact, and the same
    /// on every instruction set.
    ///
    /// Every activation is moved by at most its group's largest magnitude / 254; the rounding errors are as
    /// good as independent, so that an output of normally distributed inputs is moved by about 0.6 % of its
    /// standard deviation. A NaN or an infinity makes the whole row's results NaN.
    Int8,
}

/// `x·w + bias`, row-major; each element's chain begins with its bias.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(x: Matrix, w: &Weights, bias: Option<&[f32]>, activations: Activations) -> Vec<f32> {
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
    let result = MatrixMut::new(&mut y, rows, outputs);
    product(x, w, result, output, activations);
    y
}

/// `y = x·w` or `y += x·w` on all threads of the current rayon pool. Allocates nothing once every thread
/// has had its first call of such a size.
///
/// # Panics
/// If the shapes do not match.
pub fn product(x: Matrix, w: &Weights, y: MatrixMut, output: Output, activations: Activations) {
    if activations == Activations::Int8 && tiles_pay(w.format(), x.rows()) && has_tiles() {
        product_with_tiles(x, w, y, output);
    } else {
        product_with_isa(isa(), x, w, y, output, activations);
    }
}

/// Bytes of weights from which a second thread is worth its start.
const PARALLEL_FROM: usize = 1 << 17;

/// Whether tiles are quicker: for four bits, which vectors unpack for every eight rows and tiles for every sixteen.
/// With eight bits, scaling every group of 32 takes what tiles gain.
fn tiles_pay(format: Format, rows: usize) -> bool {
    format == Format::Int4 && (16..=64).contains(&rows)
}

/// Whether tiles of Intel AMX can multiply integers on this processor, and the system lets them be used.
pub fn has_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        crate::amx::has_int8()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// [`product`] of [`Activations::Int8`] by tiles of Intel AMX, for tests and measurements. The integers are summed
/// exactly there, too, so that the results are the same bits.
///
/// # Panics
/// If this processor lacks them.
pub fn product_with_tiles(x: Matrix, w: &Weights, y: MatrixMut, output: Output) {
    assert!(has_tiles(), "tiles are not offered by this processor");
    let Some((parallel, out)) = prepare(&x, w, &y, output) else {
        return;
    };
    #[cfg(target_arch = "x86_64")]
    integers::with_integers(
        x,
        w.padded_inputs(),
        tiles::offset(w.format()),
        integers::Arrangement::Rows,
        |integers| {
            // SAFETY: the processor has tiles.
            unsafe { tiles::multiply(parallel, integers, w, out) };
        },
    );
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (parallel, out);
}

/// Whether several threads are worth it, and where the result goes; nothing where it is empty.
fn prepare(
    x: &Matrix,
    w: &Weights,
    y: &MatrixMut,
    output: Output,
) -> Option<(bool, products::Out)> {
    assert_eq!(x.cols(), w.inputs(), "columns of x against inputs");
    assert_eq!(
        (x.rows(), w.outputs()),
        (y.rows, y.cols),
        "shape of the result"
    );
    if y.rows == 0 || y.cols == 0 {
        return None;
    }
    let work = w.bytes().len() * x.rows();
    let parallel = rayon::current_num_threads() > 1 && work >= PARALLEL_FROM;
    let out = products::Out {
        y: SharedPtr::new(y.data),
        stride: y.row_stride,
        rows: y.rows,
        load: output == Output::Accumulate,
    };
    Some((parallel, out))
}

/// [`product`] with a given instruction set, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn product_with_isa(
    isa: Isa,
    x: Matrix,
    w: &Weights,
    y: MatrixMut,
    output: Output,
    activations: Activations,
) {
    assert!(
        isa.is_available(),
        "{isa:?} is not offered by this processor"
    );
    let Some((parallel, out)) = prepare(&x, w, &y, output) else {
        return;
    };
    match activations {
        Activations::Float if x.rows() > skinny::MAX_ROWS && w.inputs() > 0 => {
            by_blocks(isa, parallel, x, w, y, output);
        }
        Activations::Float => products::with_floats(isa, parallel, x, w, out),
        Activations::Int8 => {
            let (isa, offset) = products::for_integers(isa, w.format());
            let arrangement = integers::Arrangement::Turns(products::rows_together(isa));
            integers::with_integers(x, w.padded_inputs(), offset, arrangement, |integers| {
                products::with_integers(isa, parallel, integers, w, out);
            });
        }
    }
}
