//! Weights in safetensors files: read whole and checked, written atomically.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

pub use super::loading::{WeightPrecision, held, load, load_into};
pub use super::saving::write as write_held;
use crate::error::Reason;
use crate::models::parameters::{self, Parameters};
use crate::nn::ops::packed::{self, WeightFormat};
use crate::{Error, Result, files, progress};

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits with 11 significant ones.
    F16,
}

/// Parses a safetensors file; `name` is used in errors. Floats of any width become f32.
pub fn parse(name: &Path, bytes: &[u8]) -> Result<Parameters> {
    super::stored::check_header(name, bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        Error::bad_file(
            name,
            format!("not a whole safetensors file ({e}); expected a header and all its tensors"),
        )
    })?;
    let mut parameters = BTreeMap::new();
    for (tensor_name, view) in file.tensors() {
        let values = floats(view.dtype(), view.data()).ok_or_else(|| {
            Error::bad_file(
                name,
                format!(
                    "tensor {tensor_name} has dtype {:?}, expected F32, F16 or BF16",
                    view.dtype()
                ),
            )
        })?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::bad_file(
                name,
                format!(
                    "tensor {tensor_name} holds {} at index {at}, expected finite numbers",
                    values[at]
                ),
            ));
        }
        parameters.insert(tensor_name, TensorData::new(values, view.shape().to_vec()));
    }
    Ok(parameters)
}

/// A safetensors file of `parameters`.
pub fn serialize(
    parameters: &Parameters,
    precision: Precision,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let bad = |e: Reason| Error::invalid("weights", e);
    let mut buffers = Vec::with_capacity(parameters.len());
    for (name, data) in parameters {
        let values = data
            .as_slice::<f32>()
            .map_err(|e| bad(format!("{name}: {e:?}").into()))?;
        let (dtype, bytes) = match precision {
            Precision::F32 => (Dtype::F32, bytemuck::cast_slice(values).to_vec()),
            Precision::F16 => (
                Dtype::F16,
                values
                    .iter()
                    .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                    .collect::<Vec<u8>>(),
            ),
        };
        let shape: Vec<usize> = data.shape().to_vec();
        buffers.push((name.clone(), dtype, shape, bytes));
    }
    let mut views = Vec::with_capacity(buffers.len());
    for (name, dtype, shape, bytes) in &buffers {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|e| bad(Reason::because(name, e)))?;
        views.push((name.clone(), view));
    }
    safetensors::serialize(views, metadata).map_err(|e| bad(Reason::of(e)))
}

/// Writes `parameters` to `path`, whole or not at all.
pub fn write(path: &Path, parameters: &Parameters, precision: Precision) -> Result<()> {
    files::write_atomic(path, &serialize(parameters, precision, None)?)
}

/// A tensor whose numbers are made when they are written.
pub struct LazyTensor<'a> {
    name: String,
    precision: Precision,
    shape: Vec<usize>,
    values: Box<dyn Fn() -> Vec<f32> + 'a>,
}

impl<'a> LazyTensor<'a> {
    /// A tensor of as many `values` as `shape` says.
    pub fn new(
        name: String,
        precision: Precision,
        shape: Vec<usize>,
        values: impl Fn() -> Vec<f32> + 'a,
    ) -> Self {
        LazyTensor {
            name,
            precision,
            shape,
            values: Box::new(values),
        }
    }

    /// A tensor as it is, in 32 bits.
    pub fn of<const D: usize>(name: String, tensor: Tensor<D>) -> LazyTensor<'static> {
        let shape = tensor.dims().to_vec();
        LazyTensor::new(name, Precision::F32, shape, move || {
            let numbers = parameters::numbers(tensor.clone());
            // Nothing where it is not of numbers, which the writer finds out by its length.
            numbers.try_into_vec().unwrap_or_default()
        })
    }
}

/// All parameters of a module, under their names, in 32 bits.
pub fn lazily<M: Module>(module: &M) -> Vec<LazyTensor<'static>> {
    let mut visitor = Lazily {
        path: Vec::new(),
        tensors: Vec::new(),
    };
    module.visit(&mut visitor);
    visitor.tensors
}

struct Lazily {
    path: Vec<String>,
    tensors: Vec<LazyTensor<'static>>,
}

impl ModuleVisitor for Lazily {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = LazyTensor::of(self.path.join("."), param.val());
        self.tensors.push(tensor);
    }
}

/// Numbers of a tensor from which the memory of its file is given back at once.
pub(super) const LARGE: usize = 1 << 20;

/// Sets all of `module`'s parameters from `tensors`, with the numbers of one at a time beside the module's;
/// weights of linear layers are held in `format`. `source` is the file that they come from, for errors.
pub fn load_lazily<M: Module>(
    module: M,
    source: &Path,
    tensors: Vec<LazyTensor<'_>>,
    format: WeightFormat,
) -> Result<M> {
    let mut tensors: BTreeMap<String, LazyTensor<'_>> = tensors
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let mut failure = None;
    let (module, report) = parameters::load_each(module, |place| {
        if progress::is_stopped() {
            return None;
        }
        let name = place.name;
        let tensor = tensors.remove(name)?;
        let values = (tensor.values)();
        let expected = tensor.shape.iter().product::<usize>();
        if values.len() != expected {
            let found = values.len();
            failure.get_or_insert(format!(
                "tensor for {name} has {found} numbers, expected {expected}"
            ));
            return None;
        }
        if let Some(reason) = not_finite(name, &values) {
            failure.get_or_insert(reason);
            return None;
        }
        let value = held(values, tensor.shape, place, format);
        // What was read of a mapped file is not read again.
        if expected > LARGE {
            files::release_mapped(source);
        }
        Some(value)
    });
    if progress::is_stopped() {
        return Err(Error::Stopped);
    }
    if let Some(reason) = failure {
        return Err(Error::bad_file(source, reason));
    }
    if !report.is_complete() || !tensors.is_empty() {
        return Err(Error::bad_file(
            source,
            format!("does not fit: {}", report.summary()),
        ));
    }
    Ok(module)
}

pub(super) fn not_finite(name: &str, values: &[f32]) -> Option<String> {
    let at = packed::first_not_finite(values)?;
    let value = values[at];
    Some(format!(
        "tensor for {name} holds {value} at index {at}, expected finite numbers"
    ))
}

/// What went wrong while tensors were written: the writer's interface has no room for it.
type Failure = RefCell<Option<String>>;

struct LazyView<'a> {
    tensor: LazyTensor<'a>,
    failure: &'a Failure,
}

impl View for LazyView<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.precision {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = (self.tensor.values)();
        let name = &self.tensor.name;
        let fail = |reason: String| {
            self.failure.borrow_mut().get_or_insert(reason);
        };
        if let Some(reason) = not_finite(name, &values) {
            fail(reason);
        }
        let mut bytes = match self.tensor.precision {
            Precision::F32 => bytemuck::cast_slice(&values).to_vec(),
            Precision::F16 => values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect::<Vec<u8>>(),
        };
        if bytes.len() != self.data_len() {
            fail(format!(
                "tensor for {name} has {} bytes, expected {}",
                bytes.len(),
                self.data_len()
            ));
            bytes.resize(self.data_len(), 0);
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        let width = match self.tensor.precision {
            Precision::F32 => 4,
            Precision::F16 => 2,
        };
        width * self.tensor.shape.iter().product::<usize>()
    }
}

/// Writes a safetensors file to `path`, whole or not at all, with one tensor at a time in memory. `source` is
/// the file that the numbers come from, for errors.
pub fn write_lazily(path: &Path, source: &Path, tensors: Vec<LazyTensor<'_>>) -> Result<()> {
    let failure = RefCell::new(None);
    let views = tensors.into_iter().map(|tensor| {
        let view = LazyView {
            failure: &failure,
            tensor,
        };
        (view.tensor.name.clone(), view)
    });
    files::write_atomic_with(path, |temporary| {
        safetensors::serialize_to_file(views, None, temporary)
            .map_err(|e| cannot_be_written(path, e))?;
        match failure.take() {
            None => Ok(()),
            Some(reason) => Err(Error::bad_file(source, reason)),
        }
    })
}

/// A full disk and the like keep their kind, by which there is a hint.
pub(super) fn cannot_be_written(path: &Path, error: SafeTensorError) -> Error {
    match error {
        SafeTensorError::IoError(source) => Error::io("write", path)(source),
        error => Error::bad_file(path, Reason::because("can't be written", error)),
    }
}

pub(super) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Parameters {
        let mut parameters = BTreeMap::new();
        parameters.insert(
            "a.weight".to_owned(),
            TensorData::new(vec![1.0f32, -2.5, 0.25, 8.0], [2, 2]),
        );
        parameters.insert("b".to_owned(), TensorData::new(vec![0.5f32], [1]));
        parameters
    }

    #[test]
    fn what_is_written_is_read() {
        for precision in [Precision::F32, Precision::F16] {
            let bytes = serialize(&sample(), precision, None).unwrap();
            let read = parse(Path::new("x"), &bytes).unwrap();
            for (name, data) in sample() {
                read[&name].assert_eq(&data, true);
            }
        }
    }

    #[test]
    fn truncated_and_non_finite_files_are_refused() {
        let bytes = serialize(&sample(), Precision::F32, None).unwrap();
        assert!(parse(Path::new("x"), &bytes[..bytes.len() - 1]).is_err());
        let mut parameters = sample();
        parameters.insert("b".to_owned(), TensorData::new(vec![f32::NAN], [1]));
        let bytes = serialize(&parameters, Precision::F32, None).unwrap();
        let error = parse(Path::new("x"), &bytes).unwrap_err().to_string();
        assert!(error.contains("tensor b holds NaN"), "{error}");
    }

    /// Read as they are, such headers take 17 times the file's memory.
    #[test]
    fn a_header_of_more_tensors_than_any_model_has_is_refused() {
        let file = |tensors: usize, shape: &str| {
            let names = (0..tensors).map(|i| {
                format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[0,0]}}")
            });
            let header = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
        };
        assert_eq!(parse(Path::new("x"), &file(1000, "0")).unwrap().len(), 1000);
        for bytes in [file(70_000, "0"), file(1, &vec!["0"; 2 << 20].join(","))] {
            let error = parse(Path::new("x"), &bytes).unwrap_err().to_string();
            assert!(error.contains("expected at most 65536"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(Path::new("x"), &bytes);
        }

        #[test]
        fn a_damaged_file_never_panics(at in 0usize..200, value in any::<u8>()) {
            let mut bytes = serialize(&sample(), Precision::F32, None).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = parse(Path::new("x"), &bytes);
        }
    }
}
