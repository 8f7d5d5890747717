//! What is done to a caption before it is split: the same as LlamaGen's training data went through
//! (`language/t5.py`, `T5Embedder.clean_caption`, which runs twice).
//!
//! Deviations: of ftfy the steps that [`crate::text::clip`] has; HTML is read as text without its tags and with its
//! entities resolved, where the original asks BeautifulSoup.

use std::sync::OnceLock;

use fancy_regex::Regex;

use crate::error::Reason;
use crate::text::clip::cleaning::{mend, unescape};
use crate::{Error, Result};

/// Longer captions are not cleaned: some of the expressions take a time that grows with the square of the length.
const LONGEST: usize = 8192;

/// A caption, cleaned.
///
/// # Errors
/// Where it is longer than any that is read.
pub fn clean(caption: &str) -> Result<String> {
    if caption.len() > LONGEST {
        let reason = format!("has {} bytes, expected at most {LONGEST}", caption.len());
        return Err(Error::invalid("caption", reason));
    }
    once(&once(caption)?)
}

/// Expressions and what takes their place, in three parts: before HTML is read, before the second mending, after it.
type Rules = [Vec<(Regex, &'static str)>; 3];

fn rules() -> Result<&'static Rules> {
    static RULES: OnceLock<std::result::Result<Rules, String>> = OnceLock::new();
    let compiled = RULES.get_or_init(|| {
        let compile = |rules: &[(&str, &'static str)]| {
            let one = |&(pattern, with): &(&str, &'static str)| match Regex::new(pattern) {
                Ok(pattern) => Ok((pattern, with)),
                Err(e) => Err(e.to_string()),
            };
            rules
                .iter()
                .map(one)
                .collect::<std::result::Result<Vec<_>, String>>()
        };
        let all = || {
            Ok([
                compile(BEFORE_HTML)?,
                compile(BEFORE_MENDING)?,
                compile(AFTER)?,
            ])
        };
        all()
    });
    // They are constants, and a test compiles them.
    compiled
        .as_ref()
        .map_err(|e| Error::invalid("caption", Reason::from(e.as_str())))
}

const BEFORE_HTML: &[(&str, &str)] = &[
    ("<person>", "person"),
    // Addresses.
    (
        r"\b((?:https?:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)))",
        "",
    ),
    (
        r"\b((?:www:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)))",
        "",
    ),
];

const BEFORE_MENDING: &[(&str, &str)] = &[
    // Nicknames.
    (r"@[\w\d]+\b", ""),
    // Chinese characters and their signs.
    (r"[\u{31c0}-\u{31ef}]+", ""),
    (r"[\u{31f0}-\u{31ff}]+", ""),
    (r"[\u{3200}-\u{32ff}]+", ""),
    (r"[\u{3300}-\u{33ff}]+", ""),
    (r"[\u{3400}-\u{4dbf}]+", ""),
    (r"[\u{4dc0}-\u{4dff}]+", ""),
    (r"[\u{4e00}-\u{9fff}]+", ""),
    // Dashes, quotes.
    (
        r"[\u{002D}\u{058A}\u{05BE}\u{1400}\u{1806}\u{2010}-\u{2015}\u{2E17}\u{2E1A}\u{2E3A}\u{2E3B}\u{2E40}\u{301C}\u{3030}\u{30A0}\u{FE31}\u{FE32}\u{FE58}\u{FE63}\u{FF0D}]+",
        "-",
    ),
    ("[`´«»“”¨]", "\""),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    // Addresses, numbers of articles, line breaks as they are written in programs.
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    // File names.
    (r"[\S]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
    (r#"["']{2,}"#, "\""),
    (r"[.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]{1,}", " "),
    (r"\s+\.\s+", " "),
];

const AFTER: &[(&str, &str)] = &[
    // Numbers of products.
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    // What shops write.
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (
        r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?",
        "",
    ),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    // Sizes; the second letter is Cyrillic.
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", "$1 "),
    (r"\s+", " "),
    (r#"^["']([\w\W]+)["']$"#, "$1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:\-+]$", ""),
    (r"^\.\S+$", ""),
];

fn once(caption: &str) -> Result<String> {
    let [before_html, before_mending, after] = rules()?;
    let replaced = |mut text: String, rules: &[(Regex, &'static str)]| -> Result<String> {
        for (expression, with) in rules {
            // None of them reaches the limit of backtracking, where this fails.
            let found = expression
                .try_replacen(&text, 0, *with)
                .map_err(|e| Error::invalid("caption", Reason::of(e)))?;
            text = found.into_owned();
        }
        Ok(text)
    };
    let text = unquoted(caption).trim().to_lowercase();
    let text = without_tags(&replaced(text, before_html)?);
    let mut text = replaced(text, before_mending)?;
    let dashes = text.chars().filter(|c| "-_".contains(*c)).count();
    if dashes > 3 {
        text = text.replace(['-', '_'], " ");
    }
    let text = mend(&text);
    let text = unescape(&unescape(&text)).trim().to_owned();
    Ok(replaced(text, after)?.trim().to_owned())
}

/// Python's `unquote_plus`: a plus is a space, `%41` is a byte.
fn unquoted(text: &str) -> String {
    let text = text.replace('+', " ");
    if !text.contains('%') {
        return text;
    }
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The text of HTML.
fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let is_tag = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c));
        match rest.find('>').filter(|_| is_tag) {
            Some(end) => rest = &rest[end + 1..],
            None => {
                plain.push('<');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    unescape(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_stay_and_the_rest_goes() {
        for (caption, cleaned) in [
            ("A red Turtle", "a red turtle"),
            ("  two  cats,sitting ", "two cats, sitting"),
            (
                "a%20hat+and a <b>shoe</b> &amp; sock",
                "a hat and a shoe sock",
            ),
            ("红色的乌龟 a turtle", "a turtle"),
            ("see https://example.com/a.png now", "see now"),
            ("\"quoted\"", "quoted"),
            ("100% wool", "100% wool"),
            ("", ""),
        ] {
            assert_eq!(clean(caption).unwrap(), cleaned, "{caption:?}");
        }
        assert!(clean(&"a".repeat(LONGEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_caption_is_cleaned(caption in "\\PC{0,80}", marks in "[<>&#%+@.:'\"0-9a-z -]{0,60}") {
            clean(&caption).unwrap();
            clean(&marks).unwrap();
        }
    }
}
