//! Burn's tensors as the kernels' views, and back.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use impasto_kernels::gemm::Matrix;

/// A new tensor of these floats.
pub(in super::super) fn tensor(floats: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(floats),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// The tensor with its elements contiguous, the same one where they are.
pub(in super::super) fn contiguous(x: &FlexTensor) -> FlexTensor {
    if x.is_contiguous() {
        x.clone()
    } else {
        x.to_contiguous()
    }
}

/// A contiguous tensor's elements.
pub(in super::super) fn floats(x: &FlexTensor) -> &[f32] {
    let start = x.layout().start_offset();
    &x.storage::<f32>()[start..start + x.layout().num_elements()]
}

/// A tensor in place, whatever its strides, unless they are negative.
pub(in super::super) fn in_place(x: &FlexTensor) -> FlexTensor {
    if x.layout().strides().iter().all(|&stride| stride >= 0) {
        x.clone()
    } else {
        contiguous(x)
    }
}

/// A weight in place; in bfloat16 its elements are contiguous.
pub(in super::super) fn weight_in_place(w: &FlexTensor) -> FlexTensor {
    match w.dtype() {
        DType::BF16 => contiguous(w),
        _ => in_place(w),
    }
}

/// The view of [`in_place`]'s result.
pub(in super::super) fn matrix(x: &FlexTensor) -> Matrix<'_> {
    let layout = x.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    let data = &x.storage::<f32>()[layout.start_offset()..];
    Matrix::with_strides(
        data,
        shape[0],
        shape[1],
        strides[0] as usize,
        strides[1] as usize,
    )
}

/// A contiguous tensor as a matrix whose columns are the last dimension.
pub(in super::super) fn rows(x: &FlexTensor) -> Matrix<'_> {
    let cols = last(x);
    Matrix::new(floats(x), x.layout().num_elements() / cols.max(1), cols)
}

/// The last dimension.
pub(in super::super) fn last(x: &FlexTensor) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}

/// The shape with another last dimension.
pub(in super::super) fn with_last(x: &FlexTensor, size: usize) -> Shape {
    let mut shape = x.layout().shape().clone();
    let dims = shape.num_dims();
    shape[dims - 1] = size;
    shape
}
