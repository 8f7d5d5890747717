//! The weights that the impasto program has in it, apart from the library, which is small without them.
//!
//! Each model is a checkpoint folder; its card, `MODEL_CARD.md`, says what it is and under which licence.

/// The model that draws.
pub const IMPASTO_STYLES: &str = "impasto-styles";
/// The CLIP.
pub const IMPASTO_CLIP: &str = "impasto-clip";

/// Names of a folder's files, and what is in them.
type Files = &'static [(&'static str, &'static [u8])];

macro_rules! embedded {
    ($model:literal: $($name:literal),+) => {
        &[$((
            $name,
            include_bytes!(concat!("../", $model, "/", $name)).as_slice(),
        )),+]
    };
}

const MODELS: [(&str, Files); 2] = [
    (
        IMPASTO_STYLES,
        embedded!("impasto-styles": "config.json", "tokenizer.json", "dalle.safetensors",
            "image_tokenizer.safetensors", "MODEL_CARD.md"),
    ),
    (
        IMPASTO_CLIP,
        embedded!("impasto-clip": "config.json", "tokenizer.json", "clip.safetensors", "MODEL_CARD.md"),
    ),
];

/// The name of a model as it is listed, if it is here.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_their_names() {
        for model in [IMPASTO_STYLES, IMPASTO_CLIP] {
            assert_eq!(find(model), Some(model));
            let config = file(model, "config.json").unwrap_or_default();
            assert!(config.starts_with(b"{"), "{model}");
        }
        assert_eq!(find("dalle-mini"), None);
        assert_eq!(find("impasto-mini"), None);
        assert_eq!(file(IMPASTO_STYLES, "clip.safetensors"), None);
        assert_eq!(file("x", "config.json"), None);
    }
}
