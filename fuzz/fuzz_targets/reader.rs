//! The reader that this program is called after.

#![no_main]

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static NAME: OnceLock<String> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        program.file_stem().unwrap().to_string_lossy().into_owned()
    });
    impasto_fuzz::fuzz(name, bytes);
});
