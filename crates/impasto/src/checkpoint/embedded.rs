//! The models inside the program: files of `models/`.

use super::source::{EMBEDDED_CLIP, EMBEDDED_NAME};

type Files = &'static [(&'static str, &'static [u8])];

macro_rules! embedded {
    ($model:literal: $($name:literal),+) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../../models/", $model, "/", $name)).as_slice(),
        )),+]
    };
}

const MODELS: [(&str, Files); 2] = [
    (
        EMBEDDED_NAME,
        embedded!("impasto-mini": "config.json", "tokenizer.json", "dalle.safetensors",
            "image_tokenizer.safetensors", "MODEL_CARD.md"),
    ),
    (
        EMBEDDED_CLIP,
        embedded!("impasto-clip": "config.json", "tokenizer.json", "clip.safetensors", "MODEL_CARD.md"),
    ),
];

/// The name as the program knows it, if the model is in it.
pub fn find(model: &str) -> Option<&'static str> {
    MODELS
        .iter()
        .find(|(known, _)| *known == model)
        .map(|(known, _)| *known)
}

/// One of a model's files.
pub fn file(model: &str, name: &str) -> Option<&'static [u8]> {
    let (_, files) = MODELS.iter().find(|(known, _)| *known == model)?;
    files
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, bytes)| *bytes)
}
