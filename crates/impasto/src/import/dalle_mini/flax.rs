//! Flax's own files (`flax_model.msgpack`): a tree of dictionaries in MessagePack whose leaves are arrays.
//!
//! Source: flax `serialization.py` (an array is the extension type 1 around `(shape, dtype, bytes)`) and the
//! MessagePack specification. Only what such files hold is read; the tensors stay views into the file.
//!
//! Whatever is in a file, reading it ends in a list of tensors or in an [`Error`], within the file's size and
//! a mebibyte of memory. Not read: arrays above a gibibyte, which Flax splits, and other leaves than numbers.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::stored::{Element, StoredTensor};
use crate::error::Reason;
use crate::{Error, Result};

/// Levels of dictionaries within each other.
const MAX_DEPTH: usize = 32;

/// Flax's mark of an array in pieces.
const CHUNKED: &str = "__msgpack_chunked_array__";

/// An array in a file.
#[derive(Clone, Debug)]
pub struct FlaxArray<'a> {
    element: Element,
    shape: Vec<usize>,
    /// Row-major, as long as the shape says.
    bytes: &'a [u8],
}

impl<'a> FlaxArray<'a> {
    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All of it.
    pub fn tensor(&self) -> Result<StoredTensor<'a>, Reason> {
        view(self.element, &self.shape, self.bytes)
    }

    /// One of the `count` arrays that it is a stack of.
    pub fn layer(&self, index: usize, count: usize) -> Result<StoredTensor<'a>, Reason> {
        let (&layers, shape) = self
            .shape
            .split_first()
            .ok_or("is a single number, expected a stack of layers")?;
        if layers != count || index >= layers {
            return Err(format!("has {layers} layers, expected {count}").into());
        }
        let length = self.bytes.len() / layers;
        view(
            self.element,
            shape,
            &self.bytes[index * length..(index + 1) * length],
        )
    }
}

fn view<'a>(
    element: Element,
    shape: &[usize],
    bytes: &'a [u8],
) -> Result<StoredTensor<'a>, Reason> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    StoredTensor::new(element, shape.to_vec(), strides, bytes)
}

/// All arrays of a file by their way joined with dots; `name` is used in errors.
pub fn parse<'a>(name: &Path, bytes: &'a [u8]) -> Result<BTreeMap<String, FlaxArray<'a>>> {
    let mut reader = Reader { bytes, at: 0 };
    let mut found = BTreeMap::new();
    let mut budget = (1 << 20) + bytes.len();
    tree(&mut reader, &mut String::new(), 0, &mut budget, &mut found)
        .and_then(|()| match reader.at == bytes.len() {
            true => Ok(()),
            false => Err("has bytes behind its end".to_owned().into()),
        })
        .map_err(|reason| Error::bad_file(name, format!("not a whole Flax file: it {reason}")))?;
    Ok(found)
}

fn tree<'a>(
    reader: &mut Reader<'a>,
    way: &mut String,
    depth: usize,
    budget: &mut usize,
    found: &mut BTreeMap<String, FlaxArray<'a>>,
) -> Result<(), Reason> {
    let pairs = match reader.value()? {
        Value::Map(pairs) => pairs,
        Value::Extension(1, payload) => {
            let array = array(payload).map_err(|reason| format!("{reason} (at \"{way}\")"))?;
            let cost = 2 * way.len() + size_of::<FlaxArray<'_>>() + 8 * array.shape.len() + 64;
            *budget = budget
                .checked_sub(cost)
                .ok_or("describes more than its size can account for")?;
            if found.insert(way.clone(), array).is_some() {
                return Err(format!("has \"{way}\" twice").into());
            }
            return Ok(());
        }
        _ => return Err(format!("has something other than an array at \"{way}\"").into()),
    };
    if depth == MAX_DEPTH {
        return Err(format!("has more than {MAX_DEPTH} levels").into());
    }
    let length = way.len();
    for _ in 0..pairs {
        let Value::Text(key) = reader.value()? else {
            return Err(format!("has a key that is no text in \"{way}\"").into());
        };
        if key == CHUNKED {
            return Err(format!("has an array in pieces at \"{way}\", which is not read").into());
        }
        if way.len() + key.len() > 1 << 12 {
            return Err("has a name above 4096 bytes".into());
        }
        if length > 0 {
            way.push('.');
        }
        way.push_str(key);
        tree(reader, way, depth + 1, budget, found)?;
        way.truncate(length);
    }
    Ok(())
}

/// `(shape, dtype, bytes)`.
fn array(payload: &[u8]) -> Result<FlaxArray<'_>, Reason> {
    let mut reader = Reader {
        bytes: payload,
        at: 0,
    };
    let shaped = "has an array that is not (shape, dtype, bytes)";
    let Value::List(3) = reader.value()? else {
        return Err(shaped.into());
    };
    let Value::List(dimensions) = reader.value()? else {
        return Err(shaped.into());
    };
    if dimensions > 8 {
        return Err(format!("has an array of {dimensions} dimensions, expected 8 at most").into());
    }
    let mut shape = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let Value::Integer(size) = reader.value()? else {
            return Err(shaped.into());
        };
        shape.push(usize::try_from(size).map_err(|_| shaped)?);
    }
    let dtype = match reader.value()? {
        Value::Text(text) => text,
        Value::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| shaped)?,
        _ => return Err(shaped.into()),
    };
    let element = match dtype {
        "float64" => Element::F64,
        "float32" => Element::F32,
        "float16" => Element::F16,
        "bfloat16" => Element::Bf16,
        "int64" => Element::I64,
        "int32" => Element::I32,
        "int16" => Element::I16,
        "int8" => Element::I8,
        "uint8" => Element::U8,
        "bool" => Element::Bool,
        other => {
            return Err(format!(
                "has an array of \"{}\", expected a known type of number",
                other.escape_debug()
            )
            .into());
        }
    };
    let Value::Bytes(bytes) = reader.value()? else {
        return Err(shaped.into());
    };
    let expected = shape
        .iter()
        .try_fold(element.bytes(), |all, &size| all.checked_mul(size));
    if expected != Some(bytes.len()) || reader.at != payload.len() {
        return Err(format!("has an array of shape {shape:?} and {} bytes", bytes.len()).into());
    }
    Ok(FlaxArray {
        element,
        shape,
        bytes,
    })
}

/// One value of MessagePack; of lists and dictionaries only the number of what follows.
enum Value<'a> {
    Map(usize),
    List(usize),
    Text(&'a str),
    Bytes(&'a [u8]),
    Extension(i8, &'a [u8]),
    Integer(u64),
    Other,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("ends too early")?;
        self.at += count;
        Ok(taken)
    }

    /// A big-endian number of `count` bytes.
    fn number(&mut self, count: usize) -> Result<u64, Reason> {
        let bytes = self.take(count)?;
        Ok(bytes
            .iter()
            .fold(0, |all, &byte| all << 8 | u64::from(byte)))
    }

    fn length(&mut self, count: usize) -> Result<usize, Reason> {
        usize::try_from(self.number(count)?).map_err(|_| "ends too early".into())
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, Reason> {
        let text = std::str::from_utf8(self.take(length)?);
        Ok(Value::Text(
            text.map_err(|_| "has a text that is not UTF-8")?,
        ))
    }

    fn bytes(&mut self, length: usize) -> Result<Value<'a>, Reason> {
        Ok(Value::Bytes(self.take(length)?))
    }

    fn extension(&mut self, length: usize) -> Result<Value<'a>, Reason> {
        let code = self.number(1)? as u8 as i8;
        Ok(Value::Extension(code, self.take(length)?))
    }

    fn value(&mut self) -> Result<Value<'a>, Reason> {
        let head = self.number(1)? as u8;
        match head {
            0x00..=0x7f => Ok(Value::Integer(head.into())),
            0x80..=0x8f => Ok(Value::Map(usize::from(head & 0x0f))),
            0x90..=0x9f => Ok(Value::List(usize::from(head & 0x0f))),
            0xa0..=0xbf => self.text(usize::from(head & 0x1f)),
            0xc4..=0xc6 => {
                let length = self.length(1 << (head - 0xc4))?;
                self.bytes(length)
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (head - 0xc7))?;
                self.extension(length)
            }
            0xcc..=0xcf => Ok(Value::Integer(self.number(1 << (head - 0xcc))?)),
            0xd4..=0xd8 => self.extension(1 << (head - 0xd4)),
            0xd9..=0xdb => {
                let length = self.length(1 << (head - 0xd9))?;
                self.text(length)
            }
            0xdc => Ok(Value::List(self.length(2)?)),
            0xdd => Ok(Value::List(self.length(4)?)),
            0xde => Ok(Value::Map(self.length(2)?)),
            0xdf => Ok(Value::Map(self.length(4)?)),
            // Nothing, truth values, fractions and negative numbers: no part of a tree of arrays.
            _ => Ok(Value::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// `{"a": {"b": [[1, 2], [3, 4]]}}` in float32.
    fn sample() -> Vec<u8> {
        let mut payload = vec![0x93, 0x92, 2, 2, 0xa7];
        payload.extend(b"float32");
        payload.extend([0xc4, 16]);
        for value in [1.0f32, 2.0, 3.0, 4.0] {
            payload.extend(value.to_le_bytes());
        }
        let mut file = vec![
            0x81,
            0xa1,
            b'a',
            0x81,
            0xa1,
            b'b',
            0xc7,
            payload.len() as u8,
            1,
        ];
        file.extend(payload);
        file
    }

    #[test]
    fn arrays_are_found_by_their_way_and_split_into_layers() {
        let file = sample();
        let found = parse(Path::new("x"), &file).unwrap();
        let array = &found["a.b"];
        assert_eq!(array.shape(), [2, 2]);
        assert_eq!(array.tensor().unwrap().floats(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(array.layer(1, 2).unwrap().floats(), [3.0, 4.0]);
        assert!(array.layer(2, 2).is_err());
        assert!(array.layer(0, 1).is_err());
    }

    #[test]
    fn a_file_that_breaks_off_is_refused_by_name() {
        let file = sample();
        for end in 0..file.len() {
            let error = parse(Path::new("x.msgpack"), &file[..end]).unwrap_err();
            assert!(error.to_string().starts_with("x.msgpack: "), "{error}");
        }
    }

    #[test]
    fn dictionaries_without_end_are_refused() {
        let deep = [0x81, 0xa1, b'a'].repeat(10_000);
        assert!(parse(Path::new("x"), &deep).is_err());
        // A dictionary that claims four billion pairs.
        assert!(parse(Path::new("x"), &[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(Path::new("x"), &bytes);
        }

        #[test]
        fn a_damaged_file_never_panics(at in 0usize..200, value in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(found) = parse(Path::new("x"), &bytes) {
                for array in found.values() {
                    let _ = array.tensor().map(|tensor| tensor.floats());
                    let _ = array.layer(0, 2).map(|tensor| tensor.floats());
                }
            }
        }
    }
}
