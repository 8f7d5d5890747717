//! Weights in safetensors files: read whole and checked, written atomically.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::models::parameters::{self, Parameters};
use crate::{Error, Result, files};

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

/// Parses a safetensors file and sets all of `module`'s parameters from it.
pub fn load_into<M: Module>(module: M, name: &Path, bytes: &[u8]) -> Result<M> {
    let (module, report) = parameters::load(module, parse(name, bytes)?);
    if !report.is_complete() {
        return Err(Error::bad_file(
            name,
            format!("does not fit its config.json: {}", report.summary()),
        ));
    }
    Ok(module)
}

/// A safetensors file of `parameters`.
pub fn serialize(
    parameters: &Parameters,
    precision: Precision,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let bad = |e: String| Error::invalid("weights", e);
    let mut buffers = Vec::with_capacity(parameters.len());
    for (name, data) in parameters {
        let values = data
            .as_slice::<f32>()
            .map_err(|e| bad(format!("{name}: {e:?}")))?;
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
            .map_err(|e| bad(format!("{name}: {e}")))?;
        views.push((name.clone(), view));
    }
    safetensors::serialize(views, metadata).map_err(|e| bad(e.to_string()))
}

/// Writes `parameters` to `path`, whole or not at all.
pub fn write(path: &Path, parameters: &Parameters, precision: Precision) -> Result<()> {
    files::write_atomic(path, &serialize(parameters, precision, None)?)
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
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
