//! A model as it is in memory into a safetensors file, with one tensor's bytes at a time beside the model.
//!
//! Packed weights are written as they are (see [`super::loading`]), other numbers in 16 bits where that loses
//! nothing (what came from 16 bits), else in 32.

use std::borrow::Cow;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::f16;
use safetensors::tensor::{Dtype, View};

use crate::models::parameters::{matrix, numbers};
use crate::nn::ops::packed::{WeightFormat, is_packed, with_bytes};
use crate::{Result, files};

/// Writes all parameters of `module` to `path`, whole or not at all.
pub fn write<M: Module>(path: &Path, module: &M) -> Result<()> {
    write_with(path, module, false)
}

/// [`write`] with all plain numbers in 16 bits.
pub fn write_rounded<M: Module>(path: &Path, module: &M) -> Result<()> {
    write_with(path, module, true)
}

fn write_with<M: Module>(path: &Path, module: &M, rounded: bool) -> Result<()> {
    let mut visitor = Collect {
        path: Vec::new(),
        tensors: Vec::new(),
        rounded,
    };
    module.visit(&mut visitor);
    let tensors = visitor.tensors;
    files::write_atomic_with(path, |temporary| {
        safetensors::serialize_to_file(tensors, None, temporary)
            .map_err(|e| super::weights::cannot_be_written(path, e))
    })
}

/// A parameter that is about to be written.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    length: usize,
    bytes: Box<dyn Fn() -> Vec<u8>>,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned((self.bytes)())
    }

    fn data_len(&self) -> usize {
        self.length
    }
}

struct Collect {
    path: Vec<String>,
    tensors: Vec<(String, Stored)>,
    rounded: bool,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let packed = matrix(&tensor).filter(is_packed);
        let stored = packed.map_or_else(|| plain(tensor, self.rounded), stored);
        self.tensors.push((self.path.join("."), stored));
    }
}

fn stored(weight: Tensor<2>) -> Stored {
    let length = with_bytes(&weight, <[u8]>::len).unwrap_or_default();
    let (dtype, shape) = match WeightFormat::of(&weight) {
        Some(WeightFormat::Bf16) => (Dtype::BF16, weight.dims().to_vec()),
        _ => (Dtype::U8, vec![length]),
    };
    Stored {
        dtype,
        shape,
        length,
        bytes: Box::new(move || with_bytes(&weight, <[u8]>::to_vec).unwrap_or_default()),
    }
}

fn plain<const D: usize>(tensor: Tensor<D>, rounded: bool) -> Stored {
    let shape = tensor.dims().to_vec();
    let count: usize = shape.iter().product();
    let in_half = |value: f32| f16::from_f32(value);
    let in_16_bits = rounded
        || floats(numbers(tensor.clone()))
            .iter()
            .all(|&value| in_half(value).to_f32().to_bits() == value.to_bits());
    let (dtype, width) = if in_16_bits {
        (Dtype::F16, 2)
    } else {
        (Dtype::F32, 4)
    };
    Stored {
        dtype,
        shape,
        length: count * width,
        bytes: Box::new(move || {
            let values = floats(numbers(tensor.clone()));
            let halves = values
                .iter()
                .flat_map(|&value| in_half(value).to_le_bytes());
            if in_16_bits {
                halves.collect()
            } else {
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            }
        }),
    }
}

/// Parameters are read out as `f32`.
fn floats(data: TensorData) -> Vec<f32> {
    data.try_into_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::weights::{WeightPrecision, load};
    use crate::models::parameters::export;
    use crate::nn::{Init, Linear, RmsNorm};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Model {
        norm: RmsNorm,
        layer: Linear,
    }

    fn model(init: &mut Init) -> Model {
        Model {
            norm: RmsNorm::new(init, 96),
            layer: Linear::with_bias(init, 96, 40, 0.1),
        }
    }

    #[test]
    fn what_is_written_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let plain = folder.path().join("plain");
        write(&plain, &model(&mut Init::new(1, &device))).unwrap();
        for format in WeightFormat::ALL {
            let read = |path: &Path, stored, wanted| {
                let formats = WeightPrecision::new(stored, Some(wanted)).unwrap();
                let module = model(&mut Init::empty(&device));
                load(module, path, &files::map(path).unwrap(), formats).unwrap()
            };
            let made = read(&plain, WeightFormat::F32, format);
            let path = folder.path().join(format.to_string());
            write(&path, &made).unwrap();
            let again = read(&path, format, format);
            assert_eq!(WeightFormat::of(&again.layer.weight.val()), Some(format));
            let widened = read(&path, format, WeightFormat::F32);
            for (name, data) in export(&made) {
                export(&again)[&name].assert_eq(&data, true);
                export(&widened)[&name].assert_eq(&data, true);
            }
            // A file that ends early is an error.
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            let formats = WeightPrecision::new(format, None).unwrap();
            let module = model(&mut Init::empty(&device));
            let error = load(module, &path, &files::map(&path).unwrap(), formats).unwrap_err();
            assert!(
                error.to_string().contains("not a whole safetensors file"),
                "{error}"
            );
        }
    }
}
