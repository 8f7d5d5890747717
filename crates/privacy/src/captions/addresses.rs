//! E-mail addresses: as they are written, and as people write them against harvesters (`jane at example dot com`).

use std::ops::Range;

use regex::Regex;

use super::pattern;

#[derive(Debug)]
pub(super) struct Addresses {
    plain: Regex,
    spaced: Regex,
    bracketed: Regex,
    worded: Regex,
    provider: Regex,
}

/// Top-level domains that are taken for such where an address is written in an unusual way.
const DOMAINS: &str = "com|net|org|edu|gov|cn|io|de|uk|fr|jp|info|me|co|us|ca|au|ru|eu|tw|hk|in|it|es|nl|biz|dev|app|ai";
/// Providers whose names are enough for an address.
const PROVIDERS: &str = "gmail|googlemail|outlook|hotmail|yahoo|live|icloud|proton|protonmail|aol|gmx|qq|163|126|yeah|sina|sohu|foxmail|aliyun|139|189|21cn";

impl Addresses {
    pub fn new() -> Self {
        let local = r"[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}";
        let label = r"[A-Za-z0-9][A-Za-z0-9\-]{0,62}";
        // One word of an address whose dots are written out.
        let word = r"[A-Za-z0-9][A-Za-z0-9_+\-]{0,63}";
        let at = r"(?:\s*[\[({<]\s*(?:at|@|艾特|a)\s*[\])}>]\s*)";
        let dot = r"(?:\s*[\[({<]\s*(?:dot|\.|点)\s*[\])}>]\s*)";
        Addresses {
            plain: pattern(&format!(r"{local}@(?:{label}\.)+[A-Za-z]{{2,24}}")),
            spaced: pattern(&format!(
                r"(?i){local}\s?@\s?{label}(?:\s?\.\s?{label})*\s?\.\s?(?:{DOMAINS})(?-u:\b)"
            )),
            bracketed: pattern(&format!(
                r"(?i){word}(?:(?:\.|{dot}){word})*(?:{at}{word}(?:(?:\.|{dot}){word})+|@{word}(?:{dot}{word})+)"
            )),
            worded: pattern(&format!(
                r"(?i)(?:(?-u:\b){word} dot )*(?-u:\b){word}(?:(?: at |\s?艾特\s?|\s?圈[aA]\s?){word}(?: dot |\s?点\s?)(?:{word}(?: dot |\s?点\s?))*(?:{DOMAINS})(?-u:\b)|\s?(?:艾特|圈[aA])\s?(?:{label}\.)+(?:{DOMAINS})(?-u:\b))"
            )),
            provider: pattern(&format!(
                r"(?i)(?-u:\b){local}(?: at |\s?#\s?|\s?\*\s?)(?:{PROVIDERS})\s?(?:\.|点| dot )\s?(?:com|cn|net|me|de)(?-u:\b)"
            )),
        }
    }

    pub fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        for pattern in [
            &self.plain,
            &self.spaced,
            &self.bracketed,
            &self.worded,
            &self.provider,
        ] {
            for place in pattern.find_iter(text) {
                found(place.range());
            }
        }
    }
}
