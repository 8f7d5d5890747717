//! The model inside the program: the files of `models/impasto-mini`.

macro_rules! embedded {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../../../models/impasto-mini/", $name)).as_slice(),
        )
    };
}

const FILES: [(&str, &[u8]); 5] = [
    embedded!("config.json"),
    embedded!("tokenizer.json"),
    embedded!("dalle.safetensors"),
    embedded!("image_tokenizer.safetensors"),
    embedded!("MODEL_CARD.md"),
];

/// One of its files.
pub fn file(name: &str) -> Option<&'static [u8]> {
    FILES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, bytes)| *bytes)
}
