//! What is done to a caption before it is split: the same as the networks' training data went through.
//!
//! Sources: openai/CLIP `clip/simple_tokenizer.py` (`basic_clean`, `whitespace_clean`) with the steps of
//! ftfy 6 (`ftfy/fixes.py`) that it calls, Python's `html.unescape`, and transformers'
//! `tokenization_clip.py`. Of ftfy one step is left out, the repair of text that was decoded by the wrong
//! table ("cafÃ©"): it guesses, and such captions had better be repaired where they come from.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tokenizers::normalizers::{NFC, NFKC};
use tokenizers::{NormalizedString, Normalizer};

/// How captions are cleaned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleaning {
    /// As OpenAI's code and open_clip do: glitches mended, HTML entities resolved twice, white space made
    /// single spaces, lower case.
    #[default]
    OpenAi,
    /// As `transformers` does: composed characters, single spaces, lower case.
    Transformers,
}

impl Cleaning {
    /// A caption, cleaned.
    pub fn clean(self, text: &str) -> String {
        match self {
            Cleaning::OpenAi => {
                let mended = mend(text);
                let once = unescape(&mended);
                let text = unescape(&once);
                let words: Vec<&str> = text.split_whitespace().collect();
                words.join(" ").to_lowercase()
            }
            Cleaning::Transformers => {
                let composed = normalised(&NFC, text);
                // Character by character: a sigma that ends a word stays one that doesn't.
                composed.chars().flat_map(char::to_lowercase).collect()
            }
        }
    }
}

fn normalised(form: &impl Normalizer, text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut string = NormalizedString::from(text);
    match form.normalize(&mut string) {
        Ok(()) => string.get().to_owned(),
        // Unicode's forms are defined for every text.
        Err(_) => text.to_owned(),
    }
}

/// ftfy's `fix_text`, line by line.
pub(crate) fn mend(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    // A tag says that the text is HTML itself, from there on.
    let mut entities = true;
    for line in text.split_inclusive('\n') {
        entities &= !line.contains('<');
        mended.push_str(&mend_line(line, entities));
    }
    mended
}

fn mend_line(line: &str, entities: bool) -> String {
    let mut text = line.to_owned();
    // Each step may uncover work for another. It ends: a round that changes something shortens the text or
    // brings its characters nearer to their plain forms; the bound is for what nobody has thought of.
    for _ in 0..32 {
        let mut next = text.clone();
        if entities {
            next = unescape_certain(&next);
        }
        next = next.chars().map(windows_1252).collect();
        next = replace(&next, ligature);
        next = replace(&next, standard_width);
        next = next.chars().map(straight_quote).collect();
        next = next
            .replace("\r\n", "\n")
            .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        next = without_terminal_escapes(&next);
        next.retain(|c| !is_control(c));
        next = normalised(&NFC, &next);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn replace(text: &str, with: impl Fn(char) -> Option<String>) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut replaced = String::with_capacity(text.len());
    for c in text.chars() {
        match with(c) {
            Some(text) => replaced.push_str(&text),
            None => replaced.push(c),
        }
    }
    replaced
}

/// A control character of Latin-1 is a character of Windows-1252, as browsers read it.
fn windows_1252(c: char) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match c {
        '\u{80}'..='\u{9f}' => HIGH[c as usize - 0x80],
        _ => c,
    }
}

/// A ligature's letters.
fn ligature(c: char) -> Option<String> {
    let letters = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    };
    Some(letters.to_owned())
}

/// A full-width or half-width form's usual one.
fn standard_width(c: char) -> Option<String> {
    match c {
        '\u{3000}' => Some(" ".to_owned()),
        '\u{ff01}'..='\u{ffef}' => Some(normalised(&NFKC, c.encode_utf8(&mut [0; 4]))),
        _ => None,
    }
}

fn straight_quote(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => c,
    }
}

fn is_control(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
    )
}

/// Without colours and cursor movements: ESC, [, digits and semicolons, a letter.
fn without_terminal_escapes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        kept.push_str(&rest[..at]);
        let parameters = &rest[at + 2..];
        let end = parameters
            .find(|c: char| !c.is_ascii_digit() && c != ';')
            .unwrap_or(parameters.len());
        let after = &parameters[end..];
        if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            rest = &after[1..];
        } else {
            kept.push('\u{1b}');
            rest = &rest[at + 1..];
        }
    }
    kept.push_str(rest);
    kept
}

/// The characters of HTML's names; those that may stand without their semicolon are in it twice.
fn entities() -> &'static HashMap<&'static str, String> {
    static ENTITIES: OnceLock<HashMap<&'static str, String>> = OnceLock::new();
    ENTITIES.get_or_init(|| {
        include_str!("html_entities.txt")
            .lines()
            .filter_map(|line| {
                let (name, codes) = line.split_once(' ')?;
                let characters = codes
                    .split(' ')
                    .map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?))
                    .collect::<Option<String>>()?;
                Some((name, characters))
            })
            .collect()
    })
}

/// Python's `html.unescape`: every entity, with and without its semicolon.
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let length = reference(rest);
        if length == 0 {
            plain.push('&');
            continue;
        }
        let (name, after) = rest.split_at(length);
        rest = after;
        if let Some(number) = name.strip_prefix('#') {
            if let Some(c) = numbered(number.trim_end_matches(';')) {
                plain.push(c);
            }
            continue;
        }
        // The whole name, else the longest beginning that is one.
        let is_end = |end: &usize| name.is_char_boundary(*end);
        let mut found = (2..=name.len())
            .rev()
            .filter(is_end)
            .filter_map(|end| Some((entities().get(&name[..end])?, end)));
        match found.next() {
            Some((characters, end)) => {
                plain.push_str(characters);
                plain.push_str(&name[end..]);
            }
            None => {
                plain.push('&');
                plain.push_str(name);
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// The length of what stands after an ampersand and may be a reference.
fn reference(text: &str) -> usize {
    let run = |text: &str, digit: fn(char) -> bool| {
        let end = text.find(|c| !digit(c)).unwrap_or(text.len());
        match (end, text[end..].starts_with(';')) {
            (0, _) => 0,
            (end, semicolon) => end + usize::from(semicolon),
        }
    };
    if let Some(number) = text.strip_prefix('#') {
        if let Some(hexadecimal) = number.strip_prefix(['x', 'X']) {
            let length = run(hexadecimal, |c| c.is_ascii_hexdigit());
            return if length > 0 { 2 + length } else { 0 };
        }
        let length = run(number, |c| c.is_ascii_digit());
        return if length > 0 { 1 + length } else { 0 };
    }
    let mut end = 0;
    for c in text.chars().take(32) {
        if matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';') {
            break;
        }
        end += c.len_utf8();
    }
    match (end, text[end..].starts_with(';')) {
        (0, _) => 0,
        (end, semicolon) => end + usize::from(semicolon),
    }
}

/// The character of a number, by the HTML standard's rules for wrong ones; none for those that are dropped.
fn numbered(number: &str) -> Option<char> {
    let parsed = match number.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => number.parse(),
    };
    // What does not fit is beyond Unicode.
    let Ok(code) = parsed else {
        return Some('\u{fffd}');
    };
    match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => char::from_u32(code).map(windows_1252),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code <= 0x10_ffff && code & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

/// ftfy's `unescape_html`: only what is surely meant, names with their semicolon; also names in capitals.
fn unescape_certain(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = certain_reference(rest);
        let (whole, after) = rest.split_at(length.max(1));
        match certain(whole) {
            Some(characters) => plain.push_str(&characters),
            None => plain.push_str(whole),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// The length of an ampersand, up to 24 letters and digits, and a semicolon.
fn certain_reference(text: &str) -> usize {
    let start = if text.starts_with("&#") { 2 } else { 1 };
    let name = &text[start..];
    let end = name
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(name.len());
    if (1..=24).contains(&end) && name[end..].starts_with(';') {
        start + end + 1
    } else {
        0
    }
}

fn certain(whole: &str) -> Option<String> {
    let name = whole.strip_prefix('&')?;
    if name.starts_with('#') {
        let plain = unescape(whole);
        return (!plain.contains(';')).then(|| plain.into_owned());
    }
    if let Some(characters) = entities().get(name) {
        return Some(characters.clone());
    }
    // &EACUTE; is what a database in capitals made of &eacute;, unless HTML reads it otherwise.
    let lower = name.to_ascii_lowercase();
    let shouted = name == name.to_ascii_uppercase() && unescape(whole) == whole;
    let characters = entities().get(lower.as_str()).filter(|_| shouted)?;
    Some(characters.to_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What ftfy 6.3.1 with `html.unescape` makes of these.
    #[test]
    fn openai_cleans_as_its_python_does() {
        for (text, expected) in [
            ("  A  Cat\t&amp;\n dog ", "a cat & dog"),
            ("cats &amp;amp; dogs", "cats & dogs"),
            ("&lt;b&gt;bold&lt;/b&gt;", "<b>bold</b>"),
            ("caf&eacute; &EACUTE; &hearts;", "café é ♥"),
            ("fish &ampchips &notit; &copy2024", "fish &chips ¬it; ©2024"),
            (
                "&#39;quoted&#x27; &#8364; &#128; &#0;",
                "'quoted' € € \u{fffd}",
            ),
            ("<i>&rsquo;</i> ’", "<i>’</i> '"),
            ("“curly” ‘quotes’", "\"curly\" 'quotes'"),
            ("ﬁsh ﬂown", "fish flown"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ ｶﾞ", "loud noises ガ"),
            ("e\u{301}te\u{301}", "été"),
            ("\u{1b}[31mred\u{1b}[0m \u{1b}[", "red ["),
            ("a\0b\u{feff}c\u{200d}d", "abc\u{200d}d"),
            ("ΟΔΟΣ", "οδος"),
            ("&unknown; &; & &#; &#x;", "&unknown; &; & &#; &#x;"),
        ] {
            assert_eq!(Cleaning::OpenAi.clean(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_cleaned(text in "(&[#xa-zA-Z0-9;]{0,8}|\\PC|\u{1b}\\[|[\0-\u{ff}]){0,40}") {
            for cleaning in [Cleaning::OpenAi, Cleaning::Transformers] {
                let cleaned = cleaning.clean(&text);
                // Lower case and done.
                assert!(cleaned.chars().all(|c| !c.is_ascii_uppercase()));
            }
        }
    }
}
