//! Emoji by their names, `:grinning_face:`, as Python's `emoji.demojize` writes them.
//!
//! `emoji_names.txt` has the sequences of Unicode's `emoji-test.txt` with the names that the `emoji` package
//! gives them, but for skin tones: those are a suffix of the name (`reference/write_emoji_names.py`).

use std::collections::HashMap;
use std::sync::OnceLock;

/// A sequence and its name a line.
const NAMES: &str = include_str!("emoji_names.txt");

fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe0e}' | '\u{fe0f}')
}

struct Table {
    names: HashMap<&'static str, &'static str>,
    /// Characters of the longest sequence.
    longest: usize,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let names: HashMap<_, _> = NAMES
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        let longest = names.keys().map(|key| key.chars().count()).max();
        Table {
            names,
            longest: longest.unwrap_or(0),
        }
    })
}

fn skin_tone(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{1f3fb}' => "_light_skin_tone",
        '\u{1f3fc}' => "_medium-light_skin_tone",
        '\u{1f3fd}' => "_medium_skin_tone",
        '\u{1f3fe}' => "_medium-dark_skin_tone",
        '\u{1f3ff}' => "_dark_skin_tone",
        _ => return None,
    })
}

/// Each emoji as its name between colons.
pub fn demojize(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let table = table();
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        match longest(table, &characters[at..]) {
            Some((name, length)) => {
                out.push(':');
                out.push_str(&name);
                out.push(':');
                at += length;
            }
            None => {
                // Of an unknown sequence only what is visible.
                if !is_variation(characters[at]) {
                    out.push(characters[at]);
                }
                at += 1;
            }
        }
    }
    out
}

/// The longest emoji that the text begins with: its name and its characters.
fn longest(table: &Table, text: &[char]) -> Option<(String, usize)> {
    if text[0].is_ascii_alphabetic() || text[0] == ' ' {
        return None;
    }
    let mut best = None;
    // As it stands, and without skin tones.
    let mut whole = String::new();
    let mut sequence = String::new();
    let mut tones = String::new();
    let mut counted = 0;
    for (i, &c) in text.iter().enumerate() {
        if is_variation(c) {
            // Says only whether it is shown in colour.
        } else if let Some(tone) = (i > 0).then(|| skin_tone(c)).flatten() {
            tones.push_str(tone);
            whole.push(c);
        } else {
            if counted == table.longest {
                break;
            }
            counted += 1;
            sequence.push(c);
            whole.push(c);
        }
        if let Some(name) = table.names.get(whole.as_str()) {
            best = Some(((*name).to_owned(), i + 1));
        } else if let Some(name) = table.names.get(sequence.as_str()) {
            best = Some((format!("{name}{tones}"), i + 1));
        }
        if tones.len() > 64 || i > 4 * table.longest {
            break;
        }
    }
    best
}
