//! Captions in one language, of a model that was trained on two: ids that the other one's script needs are left out.
//!
//! The text tokenizer is byte-level, so what an id spells is found out once for each; digits, spaces and punctuation are
//! part of both. The likelihoods that are told stay those of the unrestricted model.

use serde::Serialize;

use crate::Result;
use crate::text::TextTokenizer;

/// A language of captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Language {
    /// English: no characters beyond ASCII.
    #[serde(rename = "en")]
    English,
    /// Chinese: no Latin letters.
    #[serde(rename = "zh")]
    Chinese,
}

impl Language {
    /// Which ids may be part of a caption.
    ///
    /// # Errors
    /// If the tokenizer can't spell one of its own ids.
    pub fn allowed(self, text: &TextTokenizer) -> Result<Vec<bool>> {
        let ids = 0..text.vocab_size() as u32;
        ids.map(|id| Ok(self.has(&text.decode(&[id])?))).collect()
    }

    /// Whether all of a text, or of a part of one, is of the language.
    pub fn has(self, text: &str) -> bool {
        match self {
            Language::English => text.is_ascii(),
            Language::Chinese => !text.bytes().any(|byte| byte.is_ascii_alphabetic()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_languages_can_be_spelled_and_not_each_other() {
        let captions = ["two red cats, 2", "两只红色的猫，2"];
        let all = captions.iter().cycle().take(40);
        let text = TextTokenizer::train(all.map(|&caption| caption.to_owned()), 300).unwrap();
        for (language, own, other) in [
            (Language::English, captions[0], captions[1]),
            (Language::Chinese, captions[1], captions[0]),
        ] {
            let allowed = language.allowed(&text).unwrap();
            let spells = |caption: &str| {
                let ids = text.encode(caption).unwrap();
                ids.iter().all(|&id| allowed[id as usize])
            };
            assert!(spells(own), "{language:?}");
            assert!(!spells(other), "{language:?}");
            assert!(allowed[crate::text::EOS as usize]);
        }
    }
}
