//! What the references made of the published models that the library's tests hold, for tests through the executable.

use std::path::{Path, PathBuf};

use impasto::checkpoint::stored::safetensors;
use impasto::image::{Format, Image};

use crate::program::Program;

/// A folder or file of the library's goldens: `family/goldens/set`.
pub fn published(path: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import");
    folder.join(path).to_str().unwrap().to_owned()
}

/// A tensor that the references made of a set, and its shape.
pub fn expected(set: &str, name: &str) -> (Vec<f32>, Vec<usize>) {
    expected_in(set, "expected.safetensors", name)
}

/// The same of another file than the usual one.
pub fn expected_in(set: &str, file: &str, name: &str) -> (Vec<f32>, Vec<usize>) {
    let path = PathBuf::from(published(set)).join(file);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors(&path, &bytes).unwrap();
    let (_, tensor) = tensors
        .into_iter()
        .find(|(found, _)| found == name)
        .unwrap();
    (tensor.floats(), tensor.shape().to_vec())
}

/// The first row of ids.
pub fn first_row(set: &str, name: &str) -> Vec<u32> {
    let (values, shape) = expected(set, name);
    values[..shape[1]].iter().map(|&id| id as u32).collect()
}

/// A text beside the tensors.
pub fn metadata<T: serde::de::DeserializeOwned>(set: &str, name: &str) -> T {
    let path = PathBuf::from(published(set)).join("expected.safetensors");
    let bytes = std::fs::read(path).unwrap();
    // A length of eight bytes, and the header.
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    serde_json::from_str(header["__metadata__"][name].as_str().unwrap()).unwrap()
}

/// A file of a set that is kept compressed, by itself in the test's folder; gives its name.
pub fn unpack(program: &Program, set: &str, name: &str) -> String {
    let packed = std::fs::File::open(published(&format!("{set}/{name}.gz"))).unwrap();
    let mut file = std::fs::File::create(program.path(name)).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file).unwrap();
    name.to_owned()
}

/// The picture that the references encoded, as `in.png`.
pub fn write_picture(program: &Program, set: &str) {
    let (values, shape) = expected(set, "picture");
    let chw: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
    let picture = Image::from_chw(&chw, shape[3], shape[2]).unwrap();
    let bytes = picture.encode(Format::Png, 100).unwrap();
    std::fs::write(program.path("in.png"), bytes).unwrap();
}
