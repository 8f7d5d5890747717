//! Weights of linear layers in fewer bits: tensors `[inputs, outputs]` whose memory holds what the kernels read
//! ([`impasto_kernels::bf16`], [`impasto_kernels::quantised`]).
//!
//! They exist on the CPU and for inference only, and [`super::linear`] is the one operation that takes them;
//! what holds a weight does not know in which format it is. Rows of bfloat16 are Burn's own; for panels of bfloat16
//! (where the processor multiplies them), eight and four bits the tensor's type says what its memory is, with a layout
//! that is ours, and Burn's operations refuse it.

use std::fmt;
use std::str::FromStr;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::quantization::{QuantScheme, QuantValue};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Shape, Tensor, TensorData};
use impasto_kernels::gemm::Matrix;
use impasto_kernels::{self as kernels, bf16, quantised};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Reason;
use crate::{Error, Result};

/// In what numbers the weights of linear layers are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with 8 significant ones.
    Bf16,
    /// 8 bits and a scale for 32 of them: 8.5 bits a weight.
    Int8,
    /// 4 bits and a scale for 32 of them: 4.5 bits a weight.
    Int4,
}

impl WeightFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Int8, Self::Int4];

    /// Whether it is plain floats.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// Bytes of a matrix of weights, `None` where that is no `usize`.
    pub fn bytes(self, [inputs, outputs]: [usize; 2]) -> Option<usize> {
        let plain = |width: usize| inputs.checked_mul(outputs)?.checked_mul(width);
        match self {
            Self::F32 => plain(4),
            Self::Bf16 => plain(2),
            Self::Int8 => quantised::Format::Int8.bytes(inputs, outputs),
            Self::Int4 => quantised::Format::Int4.bytes(inputs, outputs),
        }
    }

    /// Bytes of a number of the keys and values that decoding caches; see [`cache_type`].
    pub fn cache_width(self) -> usize {
        if self.is_f32() { 4 } else { 2 }
    }

    fn quantised(self) -> Option<quantised::Format> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::Int8 => Some(quantised::Format::Int8),
            Self::Int4 => Some(quantised::Format::Int4),
        }
    }

    fn dtype(self) -> DType {
        let scheme = |value| DType::QFloat(QuantScheme::default().with_value(value));
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Int8 => scheme(QuantValue::Q8S),
            Self::Int4 => scheme(QuantValue::Q4S),
        }
    }

    /// The format of a weight; `None` for types that no weight of ours has.
    pub fn of(weight: &Tensor<2>) -> Option<Self> {
        Self::of_type(weight.dtype())
    }

    fn of_type(dtype: DType) -> Option<Self> {
        if dtype == panels() {
            return Some(Self::Bf16);
        }
        Self::ALL.into_iter().find(|format| format.dtype() == dtype)
    }
}

/// The type of weights in [`bf16::Panels`], which nothing else of ours has.
fn panels() -> DType {
    DType::QFloat(QuantScheme::default().with_value(QuantValue::Q8F))
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for WeightFormat {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| format!("expected f32, bf16, int8 or int4, got \"{text}\"").into())
    }
}

/// Whether packed weights can be used on `device`.
pub fn can_hold(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether a net in bfloat16 is wholly in it on `device`, norms, embeddings and what passes between its layers among
/// them, as PyTorch has it.
pub fn computes_in_bf16(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "tch")]
        DispatchDevice::LibTorch(_) => true,
        _ => false,
    }
}

/// Whether a weight is held in fewer bits than `f32`.
pub fn is_packed(weight: &Tensor<2>) -> bool {
    can_hold(&weight.device()) && WeightFormat::of(weight).is_some_and(|format| !format.is_f32())
}

/// The type in which decoding caches keys and values that a product with `weight` made, `made` of its own: bfloat16 where
/// the weights are packed, which reads half as much at every token. Their digits are as many as those of bf16 weights, as
/// in PyTorch's caches of a model in bfloat16.
pub fn cache_type(weight: &Tensor<2>, made: DType) -> DType {
    match is_packed(weight) {
        true => DType::BF16,
        false => made,
    }
}

/// Whether the kernels attend to caches of these keys and values.
pub(super) fn can_attend_to<'a>(mut stored: impl Iterator<Item = &'a Tensor<4>>) -> bool {
    let Some(first) = stored.next().map(Tensor::dtype) else {
        return true;
    };
    let is_known = matches!(first, DType::F32 | DType::BF16);
    is_known && stored.all(|one| one.dtype() == first && can_hold(&one.device()))
}

/// The memory of weights `[inputs, outputs]`, row-major, in `format`.
///
/// # Errors
/// If a weight is not finite.
pub fn pack(
    values: &[f32],
    [inputs, outputs]: [usize; 2],
    format: WeightFormat,
) -> Result<Vec<u8>> {
    let not_finite = |detail: String| Error::NonFinite {
        what: "weight",
        detail,
    };
    match format.quantised() {
        None if format.is_f32() => Ok(bytemuck::cast_slice(values).to_vec()),
        None => match first_not_finite(values) {
            Some(at) => Err(not_finite(values[at].to_string())),
            None => Ok(bf16::round(values)),
        },
        Some(format) => quantised::quantise(Matrix::new(values, inputs, outputs), format)
            .map_err(|e| not_finite(e.to_string())),
    }
}

/// Where the first number is that is none.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    const AT_ONCE: usize = 1 << 14;
    // A part without an exit in its middle is many numbers at a time.
    let finite = |part: &[f32]| part.iter().fold(true, |all, value| all & value.is_finite());
    let parts = values.par_chunks(AT_ONCE);
    let part = AT_ONCE * parts.position_first(|part| !finite(part))?;
    let within = values[part..].iter().position(|value| !value.is_finite())?;
    Some(part + within)
}

/// The weights that [`pack`] wrote, as floats.
pub fn unpack(bytes: &[u8], [inputs, outputs]: [usize; 2], format: WeightFormat) -> Vec<f32> {
    match format.quantised() {
        None if format.is_f32() => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        None => bf16::widen(&bf16::Weights::new(inputs, outputs, bytes)),
        Some(format) => quantised::Weights::new(format, inputs, outputs, bytes).dequantise(),
    }
}

/// Whether what [`pack`] did not write is some finite weights. The length has to be right.
pub fn is_sound(bytes: &[u8], [inputs, outputs]: [usize; 2], format: WeightFormat) -> bool {
    match format.quantised() {
        None => true,
        Some(format) => quantised::Weights::new(format, inputs, outputs, bytes).scales_are_finite(),
    }
}

/// A packed weight's memory: shared bytes in place, else a copy that begins where lines of the cache do. Bfloat16 is
/// always copied where the processor multiplies it: into panels.
pub enum Memory<'a> {
    /// Of the program or of a mapped file.
    Shared(bytes::Bytes),
    /// Of this call.
    Lent(&'a [u8]),
}

impl Memory<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Memory::Shared(bytes) => bytes,
            Memory::Lent(bytes) => bytes,
        }
    }
}

const LINE: usize = 64;

/// Weights `[inputs, outputs]` on the CPU, packed in `format`.
///
/// # Panics
/// If the bytes are not as many as `format` takes, or the format is `F32`.
pub fn weight(memory: Memory<'_>, shape: [usize; 2], format: WeightFormat) -> Tensor<2> {
    assert!(!format.is_f32(), "a packed format");
    let length = memory.bytes().len();
    assert_eq!(Some(length), format.bytes(shape), "bytes of the weight");
    let [inputs, outputs] = shape;
    // Where panels are longer than memory can be, rows are not and do.
    let in_panels = match format {
        WeightFormat::Bf16 if bf16::unit().is_some() => bf16::Panels::bytes(inputs, outputs),
        _ => None,
    };
    let dtype = if in_panels.is_some() {
        panels()
    } else {
        format.dtype()
    };
    let (bytes, start) = match (in_panels, memory) {
        (Some(length), memory) => aligned(length, |to| {
            let rows = bf16::Weights::new(inputs, outputs, memory.bytes());
            bf16::Panels::pack(&rows, to);
        }),
        (None, Memory::Shared(bytes)) => (Bytes::from_shared(bytes, AllocationProperty::File), 0),
        (None, Memory::Lent(bytes)) => aligned(length, |to| to.copy_from_slice(bytes)),
    };
    // Offsets count elements, which are bytes for the formats that have none of their own.
    let start = match dtype {
        DType::BF16 => start / 2,
        _ => start,
    };
    let strides = vec![outputs as isize, 1];
    let layout = Layout::new(Shape::from(shape), strides, start);
    Tensor::from_primitive::<Flex>(FlexTensor::new(bytes, layout, dtype))
}

/// [`weight`] of numbers, which are packed where they stay if that can be.
///
/// # Errors
/// If one is not finite.
pub fn weight_of(values: &[f32], shape: [usize; 2], format: WeightFormat) -> Result<Tensor<2>> {
    let in_rows = format == WeightFormat::Bf16 && bf16::unit().is_none();
    if in_rows && first_not_finite(values).is_none() {
        return Ok(table_of(values, shape));
    }
    let bytes = pack(values, shape, format)?;
    Ok(weight(Memory::Lent(&bytes), shape, format))
}

/// [`table`] of finite numbers.
pub fn table_of(values: &[f32], shape: [usize; 2]) -> Tensor<2> {
    rows_in_bf16(
        aligned(2 * values.len(), |to| bf16::round_into(values, to)),
        shape,
    )
}

/// A table `[rows, width]` in bfloat16, row by row on every processor: its rows are looked up, not multiplied.
///
/// # Panics
/// If the bytes are not two for each number.
pub fn table(memory: Memory<'_>, shape: [usize; 2]) -> Tensor<2> {
    let length = memory.bytes().len();
    let format = WeightFormat::Bf16;
    assert_eq!(Some(length), format.bytes(shape), "bytes of the table");
    let (bytes, start) = match memory {
        Memory::Shared(bytes) => (Bytes::from_shared(bytes, AllocationProperty::File), 0),
        Memory::Lent(bytes) => aligned(length, |to| to.copy_from_slice(bytes)),
    };
    rows_in_bf16((bytes, start), shape)
}

/// Rows that begin at a byte.
fn rows_in_bf16((bytes, start): (Bytes, usize), shape: [usize; 2]) -> Tensor<2> {
    let layout = Layout::new(Shape::from(shape), vec![shape[1] as isize, 1], start / 2);
    let tensor = FlexTensor::new(bytes, layout, WeightFormat::Bf16.dtype());
    Tensor::from_primitive::<Flex>(tensor)
}

/// Memory that begins where a line of the cache does, and how many bytes lie before it.
fn aligned(length: usize, fill: impl FnOnce(&mut [u8])) -> (Bytes, usize) {
    let mut bytes = vec![0u8; length + LINE];
    let start = bytes.as_ptr().align_offset(LINE).min(LINE);
    fill(&mut bytes[start..start + length]);
    (Bytes::from_elems(bytes), start)
}

/// Calls `read` with a packed weight's memory, as [`pack`] writes it.
pub fn with_bytes<T>(weight: &Tensor<2>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let tensor = weight.clone().try_into_primitive::<Flex>().ok()?;
    Some(match Packed::of(&tensor)? {
        Packed::Panels(panels) => read(&panels.unpack()),
        Packed::Rows { bytes, .. } => read(bytes),
        Packed::Quantised(weights) => read(weights.bytes()),
    })
}

/// A packed weight's numbers.
pub fn numbers(weight: &Tensor<2>) -> TensorData {
    let shape = weight.dims();
    let format = WeightFormat::of(weight).unwrap_or_default();
    let values = with_bytes(weight, |bytes| unpack(bytes, shape, format)).unwrap_or_default();
    TensorData::new(values, shape)
}

/// What the memory of a packed weight is.
enum Packed<'a> {
    /// Bfloat16, row by row.
    Rows {
        bytes: &'a [u8],
        weights: bf16::Weights<'a>,
    },
    /// Bfloat16 as the processor multiplies it.
    Panels(bf16::Panels<'a>),
    /// Eight or four bits.
    Quantised(quantised::Weights<'a>),
}

impl<'a> Packed<'a> {
    /// `None` where it is not packed. Its elements are contiguous.
    fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let format = WeightFormat::of_type(tensor.dtype()).filter(|format| !format.is_f32())?;
        let layout = tensor.layout();
        let [inputs, outputs] = layout.shape().dims();
        // A packed weight was made with as many bytes, see `weight`.
        let memory = |start: usize, length: Option<usize>| {
            &tensor.bytes()[start..][..length.unwrap_or_default()]
        };
        let start = layout.start_offset();
        Some(match format.quantised() {
            Some(quantised) => {
                let bytes = memory(start, format.bytes([inputs, outputs]));
                Packed::Quantised(quantised::Weights::new(quantised, inputs, outputs, bytes))
            }
            None if tensor.dtype() == panels() => {
                let bytes = memory(start, bf16::Panels::bytes(inputs, outputs));
                Packed::Panels(bf16::Panels::new(inputs, outputs, bytes))
            }
            None => {
                let bytes = memory(2 * start, format.bytes([inputs, outputs]));
                let weights = bf16::Weights::new(inputs, outputs, bytes);
                Packed::Rows { bytes, weights }
            }
        })
    }
}

/// `x · w + bias` with a packed weight, `None` where it is none. Activations go into the products with eight and
/// four bits as eight bits themselves, each row for itself: half of the processor's work, and what is lost is
/// less than by the weights' four bits (figures: docs/quantisation.md). They go into products with bfloat16 as
/// bfloat16 where the processor multiplies that.
pub(super) fn forward(x: Matrix, w: &FlexTensor, bias: Option<&[f32]>) -> Option<Vec<f32>> {
    Some(match Packed::of(w)? {
        Packed::Panels(panels) => bf16::forward_panels(x, &panels, bias),
        Packed::Rows { weights, .. } if bf16::unit().is_some() => {
            bf16::gemm(x, bf16::Factor::Weights(weights), bias)
        }
        Packed::Rows { weights, .. } => bf16::forward(x, &weights, bias),
        Packed::Quantised(weights) => {
            quantised::forward(x, &weights, bias, quantised::Activations::Int8)
        }
    })
}

/// The gradient of a product's input with a packed weight, `None` where it is none. Weights that the processor does
/// not multiply as they are are unpacked for it, one at a time.
pub(super) fn backward_input(dy: Matrix, w: &FlexTensor) -> Option<Vec<f32>> {
    let values = match Packed::of(w)? {
        Packed::Rows { weights, .. } if bf16::unit().is_some() => {
            return Some(bf16::gemm(dy, bf16::Factor::Transposed(weights), None));
        }
        Packed::Rows { weights, .. } => bf16::widen(&weights),
        Packed::Panels(panels) => {
            let bytes = panels.unpack();
            let weights = bf16::Weights::new(panels.inputs(), panels.outputs(), &bytes);
            return Some(bf16::gemm(dy, bf16::Factor::Transposed(weights), None));
        }
        Packed::Quantised(weights) => weights.dequantise(),
    };
    let [inputs, outputs] = w.layout().shape().dims();
    let w = Matrix::new(&values, inputs, outputs);
    Some(kernels::linear::backward_input(dy, w))
}

/// The gradient of the weight of a product that was computed in bfloat16, `None` where it was not.
pub(super) fn backward_weight(x: Matrix, dy: Matrix, w: &FlexTensor) -> Option<Vec<f32>> {
    (w.dtype() == DType::BF16 && bf16::unit().is_some())
        .then(|| bf16::gemm(x.transposed(), bf16::Factor::Floats(dy), None))
}

/// A convolution's kernels in bf16 as numbers, and what multiplies them; nothing where they are f32. Their elements
/// are contiguous.
pub(super) fn kernels_in_bf16(w: &FlexTensor) -> Option<(bf16::Unit, Vec<f32>)> {
    if w.dtype() != DType::BF16 {
        return None;
    }
    let (start, length) = (w.layout().start_offset(), w.layout().num_elements());
    let bytes = &w.bytes()[2 * start..][..2 * length];
    let numbers = bf16::widen(&bf16::Weights::new(1, length, bytes));
    bf16::unit().map(|unit| (unit, numbers))
}

/// Tiles of bfloat16s, where the processor has them. Attention and the convolutions of pictures that are drawn are in
/// bf16 with these alone: packing costs more than AVX-512 BF16 brings.
pub(super) fn matrix_unit() -> Option<bf16::Unit> {
    bf16::unit().filter(|unit| *unit == bf16::Unit::Amx)
}

/// Whether convolutions on `device` are quicker in bf16.
pub fn convolves_in_bf16(device: &Device) -> bool {
    can_hold(device) && matrix_unit().is_some()
}

/// Whether a weight is one of a computation in bf16 that the kernels can multiply with.
pub(crate) fn is_in_bf16<const D: usize>(weight: &Tensor<D>) -> bool {
    weight.dtype() == DType::BF16 && super::is_cpu(&weight.device()) && bf16::unit().is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nn::ops;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_packed_product_is_near_that_of_its_floats() {
        // The largest error of an output in units of its standard deviation.
        for (format, tolerance) in [
            (WeightFormat::Bf16, 0.02),
            (WeightFormat::Int8, 0.06),
            (WeightFormat::Int4, 0.5),
        ] {
            for [inputs, outputs] in [[64, 48], [96, 17], [200, 130]] {
                let w = numbers(inputs * outputs, 1);
                let bytes = pack(&w, [inputs, outputs], format).unwrap();
                let packed = weight(Memory::Lent(&bytes), [inputs, outputs], format);
                assert!(is_packed(&packed));
                assert_eq!(packed.dims(), [inputs, outputs]);
                assert_eq!(with_bytes(&packed, <[u8]>::to_vec), Some(bytes.clone()));
                let x = tensor(numbers(3 * inputs, 2), [1, 3, inputs]);
                let bias = tensor(numbers(outputs, 3), [outputs]);
                let exact =
                    ops::linear(x.clone(), tensor(w, [inputs, outputs]), Some(bias.clone()));
                let found = ops::linear(x, packed, Some(bias));
                assert_eq!(found.dims(), [1, 3, outputs]);
                let deviation = (inputs as f32).sqrt() / 3.0;
                for (found, exact) in values(found).into_iter().zip(values(exact)) {
                    let error = (found - exact).abs() / deviation;
                    assert!(error < tolerance, "{format}: off by {error}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_alone_and_among_others() {
        let shape = [128, 96];
        for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int4] {
            let bytes = pack(&numbers(128 * 96, 1), shape, format).unwrap();
            let packed = weight(Memory::Lent(&bytes), shape, format);
            for rows in [2, 7, 40] {
                let x = tensor(numbers(rows * 128, 2), [rows, 128]);
                let all = values(ops::linear(x.clone(), packed.clone(), None));
                for row in [0, rows - 1] {
                    let alone = ops::linear(x.clone().narrow(0, row, 1), packed.clone(), None);
                    assert_eq!(
                        values(alone),
                        all[row * 96..][..96],
                        "{format}, {rows} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn shared_memory_is_used_in_place() {
        let shape = [64, 32];
        let bytes = pack(&numbers(64 * 32, 1), shape, WeightFormat::Int8).unwrap();
        let bytes = bytes::Bytes::from(bytes);
        let packed = weight(Memory::Shared(bytes.clone()), shape, WeightFormat::Int8);
        let place = with_bytes(&packed, |found| found.as_ptr());
        assert_eq!(place, Some(bytes.as_ptr()));
    }

    #[test]
    fn the_first_number_that_is_none_is_found() {
        let mut values = vec![1.0; 40_000];
        assert_eq!(first_not_finite(&values), None);
        for at in [39_999, 20_000, 16_384, 16_383, 0] {
            values[at] = f32::INFINITY;
            assert_eq!(first_not_finite(&values), Some(at));
        }
        assert_eq!(first_not_finite(&[]), None);
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut w = numbers(64 * 16, 1);
        w[70] = f32::NAN;
        for format in [WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Int4] {
            assert!(pack(&w, [64, 16], format).is_err(), "{format}");
        }
        let mut bytes = pack(&numbers(64 * 16, 1), [64, 16], WeightFormat::Int8).unwrap();
        assert!(is_sound(&bytes, [64, 16], WeightFormat::Int8));
        // The first scale becomes an infinity.
        bytes[..2].copy_from_slice(&[0x80, 0x7F]);
        assert!(!is_sound(&bytes, [64, 16], WeightFormat::Int8));
    }
}
