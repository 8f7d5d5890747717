//! Products by instructions that multiply bfloat16s.

use std::marker::PhantomData;
use std::sync::OnceLock;

use super::Weights;
use crate::gemm::pack::Columns;
use crate::gemm::{Matrix, MatrixMut, Output};
use crate::shared::{SharedPtr, for_rows, fresh, rows_mut};

#[cfg(target_arch = "x86_64")]
use super::{
    few_rows,
    products::{self, Operand},
    tiles::{self, Order, Source, Tiles},
};

/// Instructions that multiply bfloat16s and sum in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// AVX-512 BF16: each sum is one chain over all inputs, odd ones before even ones.
    Avx512Bf16,
    /// Intel AMX: for each 32 inputs the sum of the even ones and that of the odd ones, added to what was before. Few
    /// rows are multiplied by vectors in the same order.
    Amx,
}

impl Unit {
    /// Whether this processor has it, and the system lets it be used.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            match self {
                Unit::Avx512Bf16 => {
                    is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512bf16")
                }
                Unit::Amx => crate::amx::has_bf16(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// Whether it multiplies quicker than `f32` is multiplied. Intel's cores begin a product of pairs by AVX-512 BF16 every
    /// second cycle and two of `f32` every cycle (measured: 172 against 351 GFLOP/s on two of them), and most that have it
    /// have AMX as well, unless a virtual machine hides that.
    fn is_quick(self) -> bool {
        match self {
            Unit::Avx512Bf16 => !crate::isa::is_intel(),
            Unit::Amx => true,
        }
    }

    /// Whether this processor can compute the unit's products of this number of rows. [`Unit::Amx`] computes those of few
    /// rows with AVX-512, to the same bits, so that they need no AMX.
    pub fn multiplies(self, rows: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Unit::Amx && rows <= few_rows::MOST && Unit::Avx512Bf16.is_available() {
            return true;
        }
        let _ = rows;
        self.is_available()
    }

    /// All of this processor, quick or not.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Unit::Amx, Unit::Avx512Bf16];
        all.retain(|unit| unit.is_available());
        all
    }
}

const NO_UNIT: &str = "a processor that multiplies bfloat16s";

/// The best unit of this processor, found once; none where none is quicker than `f32`.
pub fn unit() -> Option<Unit> {
    static UNIT: OnceLock<Option<Unit>> = OnceLock::new();
    *UNIT.get_or_init(|| Unit::all().into_iter().find(|unit| unit.is_quick()))
}

/// Weights `[inputs, outputs]` in the order that every [`Unit`] reads.
///
/// Panels of 16 outputs follow each other, the last one filled up with zeros; a panel is a sequence of pairs of
/// inputs, filled up with zeros to a multiple of 16 pairs, and a pair 64 bytes: two inputs' weights of the first
/// output, two of the second, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    bytes: &'a [u8],
    inputs: usize,
    outputs: usize,
}

/// Outputs of a panel.
const PANEL: usize = 16;
/// Inputs to a multiple of which a panel is filled up.
const DEPTH: usize = 32;

impl<'a> Panels<'a> {
    /// Bytes of such weights, `None` where that is no `usize`.
    pub fn bytes(inputs: usize, outputs: usize) -> Option<usize> {
        inputs
            .div_ceil(DEPTH)
            .checked_mul(DEPTH)?
            .checked_mul(outputs.div_ceil(PANEL))?
            .checked_mul(2 * PANEL)
    }

    /// Weights that fill the slice.
    ///
    /// # Panics
    /// If the slice has not [`Self::bytes`].
    pub fn new(inputs: usize, outputs: usize, bytes: &'a [u8]) -> Self {
        assert_eq!(
            Some(bytes.len()),
            Self::bytes(inputs, outputs),
            "bytes of {inputs}x{outputs} weights in panels of bfloat16"
        );
        Self {
            bytes,
            inputs,
            outputs,
        }
    }

    /// Writes weights in this order.
    ///
    /// # Panics
    /// If the slice has not [`Self::bytes`], or the processor has no [`Unit`].
    pub fn pack(w: &Weights, to: &mut [u8]) {
        assert!(!Unit::all().is_empty(), "{NO_UNIT}");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has a unit.
        unsafe {
            Source::weight_columns(w).pack(Order::Pairs, true, to);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (w, to);
    }

    /// The weights row by row, as [`Weights`] has them.
    pub fn unpack(&self) -> Vec<u8> {
        let mut to = vec![0; 2 * self.inputs * self.outputs];
        let panel_bytes = self.inputs.next_multiple_of(DEPTH) * 2 * PANEL;
        for (input, row) in to.chunks_exact_mut((2 * self.outputs).max(1)).enumerate() {
            let (row, _) = row.as_chunks_mut::<2>();
            for (panel, to) in row.chunks_mut(PANEL).enumerate() {
                let pair = panel * panel_bytes + input / 2 * 4 * PANEL;
                for (column, to) in to.iter_mut().enumerate() {
                    let at = pair + 4 * column + 2 * (input % 2);
                    *to = [self.bytes[at], self.bytes[at + 1]];
                }
            }
        }
        to
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

/// `x·w + bias`, row-major; each element's sum begins with its bias.
///
/// # Panics
/// If the shapes do not match, or the processor has no [`unit()`].
pub fn forward_panels(x: Matrix, w: &Panels, bias: Option<&[f32]>) -> Vec<f32> {
    with_bias(x.rows(), w.outputs, bias, |y, output| {
        multiply(x, w, y, output);
    })
}

/// `a·b`, both rounded to bfloat16, plus `bias`.
///
/// # Panics
/// If the shapes do not match, or the processor has no [`unit()`].
pub fn gemm(a: Matrix, b: Factor, bias: Option<&[f32]>) -> Vec<f32> {
    let columns = b.shape().1;
    with_bias(a.rows(), columns, bias, |y, output| {
        gemm_with_unit(best(), a, b, y, output);
    })
}

fn best() -> Unit {
    unit().expect(NO_UNIT)
}

/// A result that begins with a bias.
fn with_bias(
    rows: usize,
    columns: usize,
    bias: Option<&[f32]>,
    work: impl FnOnce(MatrixMut, Output),
) -> Vec<f32> {
    let mut y = fresh(rows * columns);
    let output = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), columns, "bias against outputs");
            let shared = SharedPtr::new(y.as_mut_ptr());
            for_rows(rows, columns, |first, rows| {
                // SAFETY: each task has rows of its own.
                let part = unsafe { rows_mut(shared, first, rows, columns) };
                part.chunks_exact_mut(columns.max(1))
                    .for_each(|row| row.copy_from_slice(bias));
            });
            Output::Accumulate
        }
        None => Output::Overwrite,
    };
    work(MatrixMut::new(&mut y, rows, columns), output);
    y
}

/// `y = x·w` or `y += x·w` with `x` rounded to bfloat16, on all threads of the current rayon pool.
///
/// # Panics
/// If the shapes do not match, or the processor has no [`unit()`].
pub fn multiply(x: Matrix, w: &Panels, y: MatrixMut, output: Output) {
    multiply_with_unit(best(), x, w, y, output);
}

/// Multiply-adds from which a second thread is worth its start.
const PARALLEL_FROM: usize = 1 << 17;

/// [`multiply`] with a given unit, for tests and measurements.
///
/// # Panics
/// If this processor lacks it.
pub fn multiply_with_unit(unit: Unit, x: Matrix, w: &Panels, y: MatrixMut, output: Output) {
    assert_eq!(x.cols(), w.inputs, "columns of x against inputs");
    #[cfg(target_arch = "x86_64")]
    let second = Operand::Tiles(Tiles::new(w.bytes, w.outputs, w.inputs));
    #[cfg(not(target_arch = "x86_64"))]
    let second = ();
    run(unit, true, x, (w.inputs, w.outputs), second, y, output);
}

/// The second factor of [`gemm`].
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// A matrix in `f32`, rounded.
    Floats(Matrix<'a>),
    /// Weights in bfloat16.
    Weights(Weights<'a>),
    /// Their transpose.
    Transposed(Weights<'a>),
}

impl Factor<'_> {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize) {
        match self {
            Factor::Floats(x) => (x.rows(), x.cols()),
            Factor::Weights(w) => (w.inputs, w.outputs),
            Factor::Transposed(w) => (w.outputs, w.inputs),
        }
    }
}

/// `y = a·b` or `y += a·b`, both factors rounded to bfloat16, with a given unit.
///
/// # Panics
/// If the shapes do not match, or this processor lacks the unit.
pub fn gemm_with_unit(unit: Unit, a: Matrix, b: Factor, y: MatrixMut, output: Output) {
    gemm_on(unit, true, a, b, y, output);
}

/// [`gemm_with_unit`] of two matrices in `f32` on the calling thread alone; for callers that are parallel themselves.
pub(crate) fn gemm_serial(unit: Unit, a: Matrix, b: Matrix, y: MatrixMut, output: Output) {
    gemm_on(unit, false, a, Factor::Floats(b), y, output);
}

fn gemm_on(unit: Unit, parallel: bool, a: Matrix, b: Factor, y: MatrixMut, output: Output) {
    #[cfg(target_arch = "x86_64")]
    let second = Operand::Source(match &b {
        Factor::Floats(x) => Source::columns(x),
        Factor::Weights(w) => Source::weight_columns(w),
        Factor::Transposed(w) => Source::weight_rows(w),
    });
    #[cfg(not(target_arch = "x86_64"))]
    let second = ();
    run(unit, parallel, a, b.shape(), second, y, output);
}

/// A first factor, rounded and packed once for many products.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    #[cfg(target_arch = "x86_64")]
    tiles: Tiles<'a>,
    unit: Unit,
    rows: usize,
    depth: usize,
    memory: PhantomData<&'a [u8]>,
}

/// Calls `work` with a first factor, packed on all threads of the current rayon pool.
///
/// # Panics
/// If this processor lacks the unit.
pub(crate) fn with_packed<R>(unit: Unit, a: Matrix, work: impl FnOnce(Packed) -> R) -> R {
    assert!(
        unit.is_available(),
        "{unit:?} is not offered by this processor"
    );
    let (rows, depth) = (a.rows(), a.cols());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the unit is available.
    unsafe {
        Source::rows(&a).with_tiles(Order::Lines, true, |tiles| {
            work(Packed {
                tiles,
                unit,
                rows,
                depth,
                memory: PhantomData,
            })
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    work(Packed {
        unit,
        rows,
        depth,
        memory: PhantomData,
    })
}

impl Packed<'_> {
    /// `y = a·b` or `y += a·b` with a `b` that is made up while it is rounded and packed, on the calling thread alone.
    pub(crate) fn multiply(&self, b: &impl Columns, y: MatrixMut, output: Output) {
        assert_eq!(
            (self.rows, self.depth, b.len()),
            (y.rows, b.depth(), y.cols),
            "shapes of the factors against the result's"
        );
        if y.rows == 0 || y.cols == 0 {
            return;
        }
        if self.depth == 0 {
            return y.clear(output);
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the unit is available.
        unsafe {
            let (a, b) = (
                Operand::Tiles(self.tiles),
                Operand::Source(Source::made_up(b)),
            );
            products::multiply(self.unit, false, a, b, y, output);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("{:?} is on x86-64", self.unit);
    }
}

#[cfg(target_arch = "x86_64")]
type SecondFactor<'a> = Operand<'a>;
#[cfg(not(target_arch = "x86_64"))]
type SecondFactor<'a> = ();

/// The product with a second factor of `inner` rows and `columns` columns.
fn run(
    unit: Unit,
    parallel: bool,
    a: Matrix,
    (inner, columns): (usize, usize),
    b: SecondFactor,
    y: MatrixMut,
    output: Output,
) {
    assert!(
        unit.multiplies(a.rows()),
        "{unit:?} is not offered by this processor"
    );
    assert_eq!(a.cols(), inner, "columns of A against rows of B");
    assert_eq!((a.rows(), columns), (y.rows, y.cols), "shape of the result");
    if y.rows == 0 || y.cols == 0 {
        return;
    }
    if inner == 0 {
        return y.clear(output);
    }
    let work = a.rows() * inner * columns;
    let parallel = parallel && rayon::current_num_threads() > 1 && work >= PARALLEL_FROM;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the unit can multiply this number of rows, as was asserted above.
    unsafe {
        products::multiply(
            unit,
            parallel,
            Operand::Source(Source::rows(&a)),
            b,
            y,
            output,
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (parallel, b);
}

#[cfg(target_arch = "x86_64")]
const _: () = assert!(PANEL == tiles::LINES && DEPTH == tiles::STEPS);
