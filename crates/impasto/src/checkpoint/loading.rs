//! From the tensors of a safetensors file to a model's parameters, one after the other: in place where the file
//! is mapped and holds what the model takes, else converted.
//!
//! Weights of linear layers may stand in the file packed ([`packed`]): bfloat16 as BF16 tensors, eight and four
//! bits as U8 tensors of the kernels' layout, whose shape is the number of their bytes.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType, TensorData};
use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::weights::{LARGE, floats, not_finite};
use crate::error::Reason;
use crate::models::parameters::{self, ParameterSlot, Value};
use crate::nn::ops::packed::{self, Memory, WeightFormat};
use crate::{Error, Result, files, progress};

/// The precision of the weights of linear layers, on disk and in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightPrecision {
    on_disk: WeightFormat,
    in_memory: WeightFormat,
}

impl WeightPrecision {
    /// Weights that are `on_disk` in one format, as they are or as `requested`.
    ///
    /// # Errors
    /// From one packed format to another: what the first lost can't come back.
    pub fn new(on_disk: WeightFormat, requested: Option<WeightFormat>) -> Result<Self> {
        let in_memory = requested.unwrap_or(on_disk);
        if !on_disk.is_f32() && !in_memory.is_f32() && in_memory != on_disk {
            return Err(Error::invalid(
                "precision",
                format!(
                    "the model's weights are in {on_disk}, expected {on_disk} or f32, got {in_memory}; quantise the model that this one was made of"
                ),
            ));
        }
        Ok(WeightPrecision { on_disk, in_memory })
    }

    /// In what they are requested.
    pub fn in_memory(&self) -> WeightFormat {
        self.in_memory
    }
}

/// Sets all of `module`'s parameters from a safetensors file with plain numbers.
pub fn load_into<M: Module>(module: M, name: &Path, bytes: &[u8]) -> Result<M> {
    set_all(
        module,
        name,
        bytes,
        Memory::Lent,
        WeightPrecision::default(),
    )
}

/// Sets all of `module`'s parameters from a safetensors file; `name` is used in errors. What the file has as the
/// model takes it is used in place, and keeps the bytes alive.
pub fn load<M: Module>(
    module: M,
    name: &Path,
    bytes: &Bytes,
    formats: WeightPrecision,
) -> Result<M> {
    let shared = |part: &[u8]| Memory::Shared(bytes.slice_ref(part));
    set_all(module, name, bytes, shared, formats)
}

fn set_all<'a, M: Module>(
    module: M,
    name: &Path,
    bytes: &'a [u8],
    memory: impl Fn(&'a [u8]) -> Memory<'a>,
    formats: WeightPrecision,
) -> Result<M> {
    super::stored::check_header(name, bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        Error::bad_file(
            name,
            format!("not a whole safetensors file ({e}); expected a header and all its tensors"),
        )
    })?;
    let mut unused: BTreeSet<String> = file.names().into_iter().map(str::to_owned).collect();
    let mut failure = None;
    let (module, mut report) = parameters::load_each(module, |place| {
        if progress::is_stopped() {
            return None;
        }
        let view = file.tensor(place.name).ok()?;
        progress::took(view.data().len());
        unused.remove(place.name);
        let value = value(&view, place, &memory, formats);
        // The check has read all of it; what is used in place comes again when it is used, and only that.
        if view.data().len() > LARGE {
            files::release_mapped(name);
        }
        value.map_err(|reason| failure.get_or_insert(reason)).ok()
    });
    if progress::is_stopped() {
        return Err(Error::Stopped);
    }
    if let Some(reason) = failure {
        return Err(Error::bad_file(name, reason));
    }
    report.unused = unused.into_iter().collect();
    if !report.is_complete() {
        return Err(Error::bad_file(
            name,
            format!("does not fit its config.json: {}", report.summary()),
        ));
    }
    Ok(module)
}

/// A tensor's value for its place, or what is wrong with it.
fn value<'a>(
    view: &TensorView<'a>,
    place: &ParameterSlot<'_>,
    memory: &impl Fn(&'a [u8]) -> Memory<'a>,
    formats: WeightPrecision,
) -> Result<Value, Reason> {
    let (name, bytes) = (place.name, view.data());
    if let (WeightFormat::Int8 | WeightFormat::Int4, true, &[inputs, outputs]) =
        (formats.on_disk, place.is_linear, place.shape)
    {
        let (shape, format) = ([inputs, outputs], formats.on_disk);
        if view.dtype() != Dtype::U8 {
            return Err(format!(
                "tensor {name} has dtype {:?}, expected U8: config.json says that weights are in {format}",
                view.dtype()
            ).into());
        }
        if Some(bytes.len()) != format.bytes(shape) {
            return Err(format!(
                "tensor {name} has {} bytes, expected {} for {inputs}x{outputs} weights in {format}",
                bytes.len(),
                format.bytes(shape).unwrap_or_default()
            ).into());
        }
        if !packed::is_sound(bytes, shape, format) {
            return Err(format!(
                "tensor {name} has a scale that is not finite: the file is damaged"
            )
            .into());
        }
        if formats.in_memory == format && packed::can_hold(place.device) {
            return Ok(Value::Packed(packed::weight(memory(bytes), shape, format)));
        }
        let values = packed::unpack(bytes, shape, format);
        return Ok(Value::Data(TensorData::new(values, shape)));
    }
    let shape = view.shape().to_vec();
    if shape != place.shape {
        return Ok(Value::Misshapen(shape));
    }
    if let Some(value) = in_place(view, place, memory, formats) {
        return match not_finite_in_place(view) {
            None => Ok(value),
            Some(reason) => Err(format!("tensor {name} holds {reason}").into()),
        };
    }
    let values = floats(view.dtype(), bytes).ok_or_else(|| {
        format!(
            "tensor {name} has dtype {:?}, expected F32, F16 or BF16",
            view.dtype()
        )
    })?;
    match not_finite(name, &values) {
        None => Ok(held(values, shape, place, formats.in_memory)),
        Some(reason) => Err(reason.into()),
    }
}

/// Finite numbers for their place, packed where they are the weight of a linear layer and `format` is.
pub fn held(
    values: Vec<f32>,
    shape: Vec<usize>,
    place: &ParameterSlot<'_>,
    format: WeightFormat,
) -> Value {
    if format == WeightFormat::Bf16 && packed::computes_in_bf16(place.device) {
        // Finite numbers can always be rounded.
        if let Ok(bytes) = packed::pack(&values, [1, values.len()], format) {
            let bytes = TensorBytes::from_elems(bytes);
            return Value::Data(TensorData::from_bytes(bytes, shape, DType::BF16));
        }
    }
    if let (false, true, &[rows, width]) = (format.is_f32(), place.is_table, &shape[..])
        && place.shape == shape
        && packed::can_hold(place.device)
        && !values.is_empty()
    {
        return Value::Packed(packed::table_of(&values, [rows, width]));
    }
    if let (false, true, &[inputs, outputs]) = (format.is_f32(), place.is_linear, &shape[..]) {
        let shape = [inputs, outputs];
        if place.shape != shape {
            return Value::Misshapen(shape.to_vec());
        }
        // Finite numbers can always be packed.
        if packed::can_hold(place.device) {
            if let Ok(weight) = packed::weight_of(&values, shape, format) {
                return Value::Packed(weight);
            }
        } else if let Ok(bytes) = packed::pack(&values, shape, format) {
            return Value::Data(TensorData::new(
                packed::unpack(&bytes, shape, format),
                shape,
            ));
        }
    }
    Value::Data(TensorData::new(values, shape))
}

/// A tensor's value without a copy, where its memory is what the model takes.
fn in_place<'a>(
    view: &TensorView<'a>,
    place: &ParameterSlot<'_>,
    memory: &impl Fn(&'a [u8]) -> Memory<'a>,
    formats: WeightPrecision,
) -> Option<Value> {
    let Memory::Shared(bytes) = memory(view.data()) else {
        return None;
    };
    // Files are little endian.
    if cfg!(target_endian = "big") || !packed::can_hold(place.device) {
        return None;
    }
    match (view.dtype(), place.shape) {
        (Dtype::BF16, &[inputs, outputs])
            if place.is_linear && formats.in_memory == WeightFormat::Bf16 =>
        {
            let memory = Memory::Shared(bytes);
            let weight = packed::weight(memory, [inputs, outputs], WeightFormat::Bf16);
            Some(Value::Packed(weight))
        }
        (Dtype::BF16, &[rows, width]) if place.is_table && !formats.in_memory.is_f32() => {
            let memory = Memory::Shared(bytes);
            Some(Value::Packed(packed::table(memory, [rows, width])))
        }
        (Dtype::F32, shape)
            if bytemuck::try_cast_slice::<u8, f32>(&bytes).is_ok()
                && (formats.in_memory.is_f32() || !(place.is_linear || place.is_table)) =>
        {
            let bytes = TensorBytes::from_shared(bytes, AllocationProperty::File);
            let data = TensorData::from_bytes(bytes, shape.to_vec(), DType::F32);
            Some(Value::Data(data))
        }
        _ => None,
    }
}

/// The first number of an F32 or BF16 tensor that is not finite, and where it is.
fn not_finite_in_place(view: &TensorView<'_>) -> Option<String> {
    // The exponent's bits, all of which are set in what is not finite.
    let (width, exponent) = match view.dtype() {
        Dtype::F32 => (4, [0x80, 0x7F]),
        _ => (2, [0x80, 0x7F]),
    };
    let at = view.data().chunks_exact(width).position(|number| {
        let upper = &number[width - 2..];
        upper[0] & exponent[0] == exponent[0] && upper[1] & exponent[1] == exponent[1]
    })?;
    let values = floats(view.dtype(), &view.data()[at * width..][..width])?;
    let value = values.first()?;
    Some(format!("{value} at index {at}, expected finite numbers"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::weights::{Precision, serialize};
    use crate::models::parameters::export;
    use crate::nn::{Embedding, Init, Linear, RmsNorm};
    use burn::tensor::Device;
    use proptest::prelude::*;

    #[derive(Module, Debug)]
    struct Model {
        table: Embedding,
        norm: RmsNorm,
        layers: Vec<Linear>,
    }

    fn model(init: &mut Init) -> Model {
        Model {
            table: Embedding::new(init, 5, 64, 1.0),
            norm: RmsNorm::new(init, 64),
            layers: vec![
                Linear::new(init, 64, 48, 0.1),
                Linear::with_bias(init, 48, 20, 0.1),
            ],
        }
    }

    fn fresh() -> Model {
        model(&mut Init::new(1, &Device::flex()))
    }

    fn empty() -> Model {
        model(&mut Init::empty(&Device::flex()))
    }

    fn file() -> Vec<u8> {
        serialize(&export(&fresh()), Precision::F32, None).unwrap()
    }

    fn formats(stored: WeightFormat, wanted: WeightFormat) -> WeightPrecision {
        WeightPrecision::new(stored, Some(wanted)).unwrap()
    }

    /// The error of what does not load.
    fn refused(bytes: &[u8], stored: WeightFormat) -> String {
        let formats = formats(stored, stored);
        set_all(empty(), Path::new("x"), bytes, Memory::Lent, formats)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn mapped_numbers_are_used_in_place_and_lent_ones_copied() {
        let bytes = Bytes::from(file());
        let expected = export(&fresh());
        let mapped = load(empty(), Path::new("x"), &bytes, WeightPrecision::default()).unwrap();
        let lent = load_into(empty(), Path::new("x"), &bytes).unwrap();
        for (name, data) in expected {
            export(&mapped)[&name].assert_eq(&data, true);
            export(&lent)[&name].assert_eq(&data, true);
        }
    }

    #[test]
    fn only_weights_of_linear_layers_are_packed() {
        let format = formats(WeightFormat::F32, WeightFormat::Int8);
        let model = load(empty(), Path::new("x"), &Bytes::from(file()), format).unwrap();
        assert!(
            model
                .layers
                .iter()
                .all(|layer| packed::is_packed(&layer.weight.val()))
        );
        let (packed, plain) = (export(&model), export(&fresh()));
        for name in ["table.weight", "norm.weight", "layers.1.bias"] {
            packed[name].assert_eq(&plain[name], true);
        }
        let name = "layers.0.weight";
        let of = |parameters: &parameters::Parameters| {
            parameters[name].as_slice::<f32>().unwrap().to_vec()
        };
        let largest = of(&packed)
            .into_iter()
            .zip(of(&plain))
            .map(|(packed, plain)| (packed - plain).abs())
            .fold(0.0, f32::max);
        // Weights of at most three standard deviations of 0.1, a 252nd of which may be lost.
        assert!(largest > 0.0 && largest <= 0.3 / 252.0, "{largest}");
    }

    #[test]
    fn one_packed_format_does_not_become_another() {
        use WeightFormat::{F32, Int4, Int8};
        assert!(WeightPrecision::new(Int8, Some(Int4)).is_err());
        assert!(WeightPrecision::new(Int8, Some(F32)).is_ok());
        assert_eq!(
            WeightPrecision::new(Int8, None).unwrap(),
            formats(Int8, Int8)
        );
    }

    #[test]
    fn files_that_are_not_packed_as_said_are_refused() {
        let reason = refused(&file(), WeightFormat::Int8);
        assert!(
            reason.contains("tensor layers.0.weight has dtype F32, expected U8"),
            "{reason}"
        );
        let mut parameters = export(&fresh());
        parameters.remove("norm.weight");
        let bytes = serialize(&parameters, Precision::F32, None).unwrap();
        let reason = refused(&bytes, WeightFormat::F32);
        assert!(reason.contains("missing tensors: norm.weight"), "{reason}");
    }

    #[test]
    fn mapped_numbers_that_are_not_finite_are_refused() {
        let mut parameters = export(&fresh());
        let shape = parameters["norm.weight"].shape().to_vec();
        let mut values = vec![1.0f32; 64];
        values[3] = f32::INFINITY;
        parameters.insert("norm.weight".to_owned(), TensorData::new(values, shape));
        let bytes = Bytes::from(serialize(&parameters, Precision::F32, None).unwrap());
        let error = load(empty(), Path::new("x"), &bytes, WeightPrecision::default()).unwrap_err();
        let expected = "tensor norm.weight holds inf at index 3, expected finite numbers";
        assert!(error.to_string().contains(expected), "{error}");
    }

    proptest! {
        #[test]
        fn a_damaged_file_never_panics(at in 0usize..600, value in any::<u8>()) {
            let mut bytes = file();
            bytes[at] = value;
            let formats = formats(WeightFormat::F32, WeightFormat::Int4);
            let _ = set_all(empty(), Path::new("x"), &bytes, Memory::Lent, formats);
        }
    }
}
