//! Tensors as they lie in a file: read only when they are requested, so that no more than one copy is made.

use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::error::Reason;
use crate::{Error, Result, progress};

/// How a file stores a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float with 11 significant bits.
    F16,
    /// 16-bit float with the range of 32 bits.
    Bf16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// A byte that is 0 or 1.
    Bool,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// Whether it is a fraction.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Element::F64 | Element::F32 | Element::F16 | Element::Bf16
        )
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    element: Element,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// From the first element on.
    bytes: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    /// A view into `bytes`, strides in elements; says why it is none.
    pub fn new(
        element: Element,
        shape: Vec<usize>,
        strides: Vec<usize>,
        bytes: &'a [u8],
    ) -> Result<Self, Reason> {
        if shape.len() != strides.len() || shape.len() > 8 {
            return Err(format!(
                "has {} dimensions and {} strides, expected as many, 8 at most",
                shape.len(),
                strides.len()
            )
            .into());
        }
        let out = || {
            format!(
                "of shape {shape:?} reaches beyond its {} bytes",
                bytes.len()
            )
        };
        let mut count = 1usize;
        let mut last = 0usize;
        for (&size, &stride) in shape.iter().zip(&strides) {
            count = count.checked_mul(size).ok_or_else(out)?;
            last = size
                .saturating_sub(1)
                .checked_mul(stride)
                .and_then(|reach| last.checked_add(reach))
                .ok_or_else(out)?;
        }
        let needed = match count {
            0 => 0,
            _ => last
                .checked_add(1)
                .and_then(|elements| elements.checked_mul(element.bytes()))
                .ok_or_else(out)?,
        };
        // A view may show an element many times; more than the whole file is none that anyone saves.
        if needed > bytes.len() || count.saturating_mul(element.bytes()) > bytes.len() {
            return Err(out().into());
        }
        Ok(StoredTensor {
            element,
            shape,
            strides,
            bytes,
        })
    }

    /// `count` of its rows from `start` on.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self, Reason> {
        let (Some(&rows), Some(&stride)) = (self.shape.first(), self.strides.first()) else {
            return Err("is a single number, expected rows".into());
        };
        if start.checked_add(count).is_none_or(|end| end > rows) {
            return Err(format!("has {rows} rows, expected more than {start}").into());
        }
        let first = start
            .saturating_mul(stride)
            .saturating_mul(self.element.bytes());
        let mut shape = self.shape.clone();
        shape[0] = count;
        let bytes = self.bytes.get(first..).unwrap_or_default();
        StoredTensor::new(self.element, shape, self.strides.clone(), bytes)
    }

    /// How its numbers are stored.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its numbers, the last dimension fastest.
    pub fn floats(&self) -> Vec<f32> {
        let width = self.element.bytes();
        let count = self.shape.iter().product();
        if count == 0 {
            return Vec::new();
        }
        progress::took(count * width);
        if self.is_contiguous() {
            return self.all(&self.bytes[..count * width]);
        }
        let mut values = Vec::with_capacity(count);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        for _ in 0..count {
            values.push(self.number(&self.bytes[at * width..(at + 1) * width]));
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        values
    }

    /// Writes its numbers, rows of `length`, as columns of a matrix with `width` columns, from column `start` on.
    pub fn transpose_into(&self, length: usize, matrix: &mut [f32], width: usize, start: usize) {
        let count = self.shape.iter().product::<usize>();
        let bytes = count * self.element.bytes();
        if !self.is_contiguous() || !matches!(self.element, Element::F32 | Element::Bf16) {
            return transpose(&self.floats(), |x| x, length, matrix, width, start);
        }
        progress::took(bytes);
        let bytes = &self.bytes[..bytes];
        match self.element {
            Element::Bf16 => {
                let halves = bytes.as_chunks().0;
                transpose(halves, from_bf16, length, matrix, width, start);
            }
            _ => {
                let words = bytes.as_chunks().0;
                transpose(words, f32::from_le_bytes, length, matrix, width, start);
            }
        }
    }

    /// Whether its numbers lie in their order, without gaps.
    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&size, &stride)| {
                let fits = size == 1 || stride == step;
                step *= size;
                fits
            })
    }

    /// Numbers in a row; those of most files the fast way.
    fn all(&self, bytes: &[u8]) -> Vec<f32> {
        match self.element {
            Element::F32 => each(bytes.as_chunks().0, f32::from_le_bytes),
            Element::F16 => widened(bytes.as_chunks().0),
            Element::Bf16 => each(bytes.as_chunks().0, from_bf16),
            _ => {
                let numbers = bytes.chunks_exact(self.element.bytes());
                numbers.map(|number| self.number(number)).collect()
            }
        }
    }

    fn number(&self, bytes: &[u8]) -> f32 {
        // The length is the element's, by construction.
        let mut wide = [0u8; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let [a, b, c, d, ..] = wide;
        match self.element {
            Element::F64 => f64::from_le_bytes(wide) as f32,
            Element::F32 => f32::from_le_bytes([a, b, c, d]),
            Element::F16 => f16::from_le_bytes([a, b]).to_f32(),
            Element::Bf16 => bf16::from_le_bytes([a, b]).to_f32(),
            Element::I64 => i64::from_le_bytes(wide) as f32,
            Element::I32 => i32::from_le_bytes([a, b, c, d]) as f32,
            Element::I16 => f32::from(i16::from_le_bytes([a, b])),
            Element::I8 => f32::from(a as i8),
            Element::U8 => f32::from(a),
            Element::Bool => f32::from(u8::from(a != 0)),
        }
    }
}

fn from_bf16(half: [u8; 2]) -> f32 {
    bf16::from_le_bytes(half).to_f32()
}

/// Numbers as they are stored as floats, on all threads.
fn each<T: Copy + Sync>(stored: &[T], float: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    stored
        .par_iter()
        .with_min_len(1 << 14)
        .map(|&x| float(x))
        .collect()
}

/// Writes rows of `length` numbers as columns of a matrix with `width` columns, from column `start` on, on all threads;
/// square by square, as one of the two is always walked across memory.
pub fn transpose<T: Copy + Sync>(
    rows: &[T],
    float: impl Fn(T) -> f32 + Sync,
    length: usize,
    matrix: &mut [f32],
    width: usize,
    start: usize,
) {
    const SIDE: usize = 32;
    let count = rows.len() / length.max(1);
    if count == 0 {
        return;
    }
    let squares = matrix.par_chunks_mut(SIDE * width).enumerate();
    squares.for_each(|(square, matrix)| {
        let left = square * SIDE;
        for first in (0..count).step_by(SIDE) {
            for (column, to) in (left..length).zip(matrix.chunks_exact_mut(width)) {
                for row in first..(first + SIDE).min(count) {
                    to[start + row] = float(rows[row * length + column]);
                }
            }
        }
    });
}

/// 16-bit floats as 32-bit ones, on all threads and with the processor's own instructions.
fn widened(halves: &[[u8; 2]]) -> Vec<f32> {
    const AT_ONCE: usize = 4096;
    let mut values = vec![0.0; halves.len()];
    values
        .par_chunks_mut(AT_ONCE)
        .zip(halves.par_chunks(AT_ONCE))
        .for_each(|(values, halves)| {
            // A file's bytes may lie anywhere.
            let mut aligned = [f16::ZERO; AT_ONCE];
            for (to, &from) in aligned.iter_mut().zip(halves) {
                *to = f16::from_le_bytes(from);
            }
            aligned[..values.len()].convert_to_f32_slice(values);
        });
    values
}

/// Refuses a header of a safetensors file that would take many times the file's memory when it is read: of more
/// tensors, or of more dimensions, than any model has.
pub(super) fn check_header(name: &Path, bytes: &[u8]) -> Result<()> {
    const MAX_TENSORS: usize = 1 << 16;
    /// Between numbers, fields and tensors: a tensor of four dimensions has nine.
    const MAX_COMMAS: usize = 16 * MAX_TENSORS;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        // Too short, which the parser says.
        return Ok(());
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some(header) = rest.get(..length) else {
        return Ok(());
    };
    let tensors = header
        .windows(OFFSETS.len())
        .filter(|window| *window == OFFSETS)
        .count();
    let commas = header.iter().filter(|&&byte| byte == b',').count();
    if tensors > MAX_TENSORS || commas > MAX_COMMAS {
        return Err(Error::bad_file(
            name,
            format!("its header names {tensors} tensors, expected at most {MAX_TENSORS}"),
        ));
    }
    Ok(())
}

/// Once a tensor in a header.
const OFFSETS: &[u8] = b"\"data_offsets\"";

/// The tensors of a safetensors file by name; `name` is used in errors.
pub fn safetensors<'a>(name: &Path, bytes: &'a [u8]) -> Result<Vec<(String, StoredTensor<'a>)>> {
    let bad = |reason: Reason| Error::bad_file(name, reason);
    check_header(name, bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        bad(
            format!("not a whole safetensors file ({e}); expected a header and all its tensors")
                .into(),
        )
    })?;
    let mut tensors = Vec::new();
    for (tensor, view) in file.iter() {
        let element = match view.dtype() {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => {
                return Err(bad(format!(
                    "tensor {tensor} has dtype {other:?}, which is not read"
                )
                .into()));
            }
        };
        let shape = view.shape().to_vec();
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        let stored = StoredTensor::new(element, shape, strides, view.data())
            .map_err(|reason| bad(format!("tensor {tensor} {reason}").into()))?;
        tensors.push((tensor.to_owned(), stored));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Rows of every type, in order and in steps, stand as columns between those that were there.
    #[test]
    fn rows_become_columns() {
        let (rows, length, width, start) = (45, 70, 100, 20);
        let numbers: Vec<f32> = (0..rows * length).map(|i| (i % 251) as f32).collect();
        let stored = |element, x: f32| match element {
            Element::F64 => f64::from(x).to_le_bytes().to_vec(),
            Element::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
            _ => x.to_le_bytes().to_vec(),
        };
        let check =
            |element, strides: [usize; 2], bytes: &[u8], of: &dyn Fn(usize, usize) -> f32| {
                let shape = vec![rows, length];
                let tensor = StoredTensor::new(element, shape, strides.to_vec(), bytes).unwrap();
                let mut matrix = vec![-1.0; length * width];
                tensor.transpose_into(length, &mut matrix, width, start);
                for (column, line) in matrix.chunks(width).enumerate() {
                    for (at, &found) in line.iter().enumerate() {
                        let row = at.wrapping_sub(start);
                        let expected = if row < rows { of(row, column) } else { -1.0 };
                        assert_eq!(found, expected, "{element:?}: {column}, {at}");
                    }
                }
            };
        let in_order = |row: usize, column: usize| numbers[row * length + column];
        for element in [Element::F32, Element::F64, Element::F16, Element::Bf16] {
            let bytes: Vec<u8> = numbers.iter().flat_map(|&x| stored(element, x)).collect();
            check(element, [length, 1], &bytes, &in_order);
            let across = |row: usize, column: usize| numbers[column * rows + row];
            check(element, [1, rows], &bytes, &across);
        }
    }
}
