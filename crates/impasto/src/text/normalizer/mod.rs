//! What a caption goes through before DALL·E mini reads it: the text normaliser that it was trained with.
//!
//! Source: dalle-mini `model/text.py` (`TextNormalizer`), step by step in its order.
//! Deviations, where the original leans on large tables or on chance:
//! - `unidecode` is followed for Latin, Greek and Cyrillic letters and for punctuation; signs of other scripts
//!   are left out (`transliteration`);
//! - `<person>`, a mark of one training set, becomes "a person", the likeliest of its three replacements;
//! - hashtags are split where the model comes with the list of words (`enwiki-words-frequency.txt`), else they
//!   only lose their mark;
//! - of ftfy, the repair of text decoded by a wrong table is left out.

mod emoji;
mod hashtag;
mod transliteration;

pub use hashtag::WordFrequencies;

use super::clip::cleaning::{mend, unescape};

/// The normaliser.
#[derive(Clone, Debug)]
pub struct TextNormalizer {
    words: Option<WordFrequencies>,
}

/// Stand in for signs that would be replaced otherwise.
const DOT: &str = "xtokxdotxtokx";
const QUOTE: &str = "xtokxquotextokx";
const SLASH: &str = "xtokxslashxtokx";

impl TextNormalizer {
    /// One that splits hashtags into `words`, if there are any.
    pub fn new(words: Option<WordFrequencies>) -> Self {
        TextNormalizer { words }
    }

    /// A caption as the model was trained on; it begins with a space.
    pub fn normalize(&self, text: &str) -> String {
        let text = mend(text);
        let text = unescape(&text);
        let text = unescape(&text);
        let text = emoji::demojize(&text);
        let text = transliteration::to_ascii(&text).to_lowercase();
        // From here on it is ASCII: bytes are characters.
        let text = replace_persons(&text);
        let text = without_wiki_references(&text);
        let text = without_tags(&text);
        let text = without_urls(&text);
        let text = without_number_commas(&without_number_commas(&text));
        let text = between(&text, b'.', is_word, DOT);
        let text = keep_contractions(&text);
        let text = between(&text, b'/', |c| c.is_ascii_digit(), SLASH);
        let text = between(&text, b'-', is_word, " ");
        let text = spaced(&text);
        let text = self.expand_hashtags(&text);
        let text = replaced(&text, b"_#\\", " ");
        let text = replaced(&text, b"'\"`", " \" ");
        let text = replaced(&text, b"()[].,|:;?!=+~-/{}", ",");
        let text = text
            .replace(DOT, ".")
            .replace(QUOTE, "'")
            .replace(SLASH, "/");
        let text = without_repeats(&text);
        let text = merged(&text, b'"', " \" ");
        let text = merged(&text, b',', ", ");
        let text = single_spaces(&text);
        format!(" {}", without_outer_commas(&text))
    }

    /// `#\w+` without its mark, split into words.
    fn expand_hashtags(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('#') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let end = rest.bytes().position(|c| !is_word(c)).unwrap_or(rest.len());
            if end == 0 {
                out.push('#');
                continue;
            }
            match &self.words {
                Some(words) => out.push_str(&words.split(&rest[..end])),
                None => out.push_str(&rest[..end]),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

/// Python's `\w`, within ASCII.
fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

/// Python's `\s`, within ASCII.
fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t'..=b'\r' | 0x1c..=0x1f)
}

/// How many of the first bytes are such.
fn run(bytes: &[u8], is: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&c| !is(c)).unwrap_or(bytes.len())
}

/// `<person>([,\s]*(and)*[,\s]*<person>)+` → people, `<person>` → a person.
fn replace_persons(text: &str) -> String {
    const PERSON: &str = "<person>";
    let loose = |c: u8| c == b',' || is_space(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PERSON) {
        out.push_str(&rest[..at]);
        rest = &rest[at + PERSON.len()..];
        let mut several = false;
        loop {
            let mut next = &rest[run(rest.as_bytes(), loose)..];
            while let Some(behind) = next.strip_prefix("and") {
                next = behind;
            }
            next = &next[run(next.as_bytes(), loose)..];
            match next.strip_prefix(PERSON) {
                Some(behind) => (rest, several) = (behind, true),
                None => break,
            }
        }
        out.push_str(if several { " people " } else { " a person " });
    }
    out.push_str(rest);
    out
}

/// `[12]` at the beginning and at the end, as Wikipedia's captions have them.
fn without_wiki_references(text: &str) -> String {
    let mut text = text;
    let start = text[run(text.as_bytes(), is_space)..].strip_prefix('[');
    if let Some(inner) = start {
        let digits = run(inner.as_bytes(), |c| c.is_ascii_digit());
        if digits > 0
            && let Some(rest) = inner[digits..].strip_prefix(']')
        {
            text = rest;
        }
    }
    let end = text.trim_end_matches(|c: char| c.is_ascii() && is_space(c as u8));
    if let Some(inner) = end.strip_suffix(']') {
        let number = inner.trim_end_matches(|c: char| c.is_ascii_digit());
        if number.len() < inner.len()
            && let Some(rest) = number.strip_suffix('[')
        {
            text = rest;
        }
    }
    text.to_owned()
}

/// `<[^<]+?>` → a space.
fn without_tags(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let tag = (bytes[at] == b'<')
            .then(|| &bytes[at + 1..])
            .and_then(|inner| {
                // One sign at least, then up to the next end, with no other beginning before it.
                let inner = &inner[..run(inner, |c| c != b'<')];
                inner
                    .iter()
                    .skip(1)
                    .position(|&c| c == b'>')
                    .map(|end| end + 1)
            });
        match tag {
            Some(end) => {
                out.push(' ');
                at += end + 2;
            }
            None => {
                let next = run(&bytes[at + 1..], |c| c != b'<') + 1;
                out.push_str(&text[at..at + next]);
                at += next;
            }
        }
    }
    out
}

/// `http\S+` → nothing.
fn without_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("http") {
        let behind = &rest[at + 4..];
        let length = run(behind.as_bytes(), |c| !is_space(c));
        out.push_str(&rest[..at]);
        if length == 0 {
            out.push_str("http");
        }
        rest = &behind[length..];
    }
    out.push_str(rest);
    out
}

/// `(\d),(\d{3})` → both without the comma.
fn without_number_commas(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let thousands = bytes.len() >= at + 5
            && bytes[at].is_ascii_digit()
            && bytes[at + 1] == b','
            && bytes[at + 2..at + 5].iter().all(u8::is_ascii_digit);
        out.push(char::from(bytes[at]));
        if thousands {
            out.push_str(&text[at + 2..at + 5]);
            at += 5;
        } else {
            at += 1;
        }
    }
    out
}

/// `sign` between two characters of a class becomes `with`; a match takes both of them.
fn between(text: &str, sign: u8, is: impl Fn(u8) -> bool, with: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        out.push(char::from(bytes[at]));
        let found =
            bytes.len() >= at + 3 && is(bytes[at]) && bytes[at + 1] == sign && is(bytes[at + 2]);
        if found {
            out.push_str(with);
            out.push(char::from(bytes[at + 2]));
            at += 3;
        } else {
            at += 1;
        }
    }
    out
}

/// The quote of 's, 't, 'd, 'm, 'll, 're and 've is kept.
fn keep_contractions(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\'') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let contracts = ["s", "t", "d", "m", "ll", "re", "ve"].iter().any(|end| {
            rest.strip_prefix(end)
                .is_some_and(|behind| !behind.bytes().next().is_some_and(is_word))
        });
        out.push_str(if contracts { QUOTE } else { "'" });
    }
    out.push_str(rest);
    out
}

/// Space around some signs.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '&' | '/' | '$' | '*') {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// Each of `signs` becomes `with`.
fn replaced(text: &str, signs: &[u8], with: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.bytes() {
        if signs.contains(&c) {
            out.push_str(with);
        } else {
            out.push(char::from(c));
        }
    }
    out
}

/// `(\D)(\1{3,})` → `\1`: four and more of one sign become one.
fn without_repeats(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let sign = bytes[at];
        let count = run(&bytes[at..], |c| c == sign);
        let kept = if count >= 4 && !sign.is_ascii_digit() {
            1
        } else {
            count
        };
        out.extend(std::iter::repeat_n(char::from(sign), kept));
        at += count;
    }
    out
}

/// `(\s*sign+\s*)+` → `with`.
fn merged(text: &str, sign: u8, with: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = run(&bytes[at..], |c| c == sign || is_space(c));
        let stretch = &bytes[at..at + length];
        if stretch.contains(&sign) {
            out.push_str(with);
        } else {
            out.push_str(&text[at..at + length]);
        }
        at += length;
        let plain = run(&bytes[at..], |c| c != sign && !is_space(c));
        out.push_str(&text[at..at + plain]);
        at += plain;
    }
    out
}

/// `\s+` → a space.
fn single_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.bytes() {
        if !is_space(c) {
            out.push(char::from(c));
        } else if !space {
            out.push(' ');
        }
        space = is_space(c);
    }
    out
}

fn without_outer_commas(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    text.strip_prefix(',').unwrap_or(text).trim()
}

#[cfg(test)]
mod tests;
