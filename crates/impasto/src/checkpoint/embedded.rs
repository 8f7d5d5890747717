//! The model inside the program: the files of `models/impasto-mini`.

/// One of its files.
pub fn file(_name: &str) -> Option<&'static [u8]> {
    None
}
