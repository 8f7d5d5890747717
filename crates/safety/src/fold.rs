//! Letters as a reader takes them: one form for all ways to write the same.
//!
//! NFKC first (Unicode Standard Annex 15): full width, mathematical, circled letters. Then marks and characters that
//! show nothing are left out, what looks like a Latin letter becomes it (Unicode Technical Standard 39's skeletons, and
//! a few more), traditional characters become simplified ones (OpenCC's table), and all is lowercase.

use std::collections::HashMap;
use std::sync::OnceLock;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A letter of the folded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The letter.
    pub letter: char,
    /// Where the one that it stands for begins in the text, in bytes.
    pub start: usize,
    /// Where that one ends.
    pub end: usize,
    /// It was another letter that looks like it.
    pub lookalike: bool,
    /// It may as well be an `i` as an `l`: in a disguise, both are tried.
    pub either: bool,
    /// Something invisible, or a mark, was left out before it, within a word.
    pub hidden: bool,
}

/// Folds a text.
pub fn fold(text: &str) -> Vec<Letter> {
    let mut folded: Vec<Letter> = Vec::with_capacity(text.len());
    let mut hidden = false;
    let mut before_small = false;
    for (start, original) in text.char_indices() {
        let end = start + original.len_utf8();
        if is_invisible(original) {
            hidden = true;
            continue;
        }
        let plain = squared(original).unwrap_or(original);
        for letter in std::iter::once(plain).nfkd() {
            if is_combining_mark(letter) {
                // Hangul and others never get here: their marks are letters.
                hidden = true;
                continue;
            }
            if is_invisible(letter) {
                continue;
            }
            let (latin, ambiguous) = latin(letter);
            let capital_i = before_small && original == 'I';
            before_small = original.is_lowercase();
            let lookalike = latin.is_some() || (plain != original);
            for small in latin.unwrap_or(letter).to_lowercase() {
                folded.push(Letter {
                    letter: simplified(small),
                    start,
                    end,
                    lookalike: lookalike || (!original.is_ascii() && small.is_ascii_alphabetic()),
                    either: ambiguous || capital_i,
                    hidden,
                });
                hidden = false;
            }
        }
    }
    folded
}

/// Characters that show nothing: Unicode's `Default_Ignorable_Code_Point`, other format characters, blank Braille.
fn is_invisible(letter: char) -> bool {
    matches!(u32::from(letter),
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0x2800 | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
        | 0xfff0..=0xfffb | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Letters in squares and circles that NFKC leaves, and the letters of flags.
fn squared(letter: char) -> Option<char> {
    let code = u32::from(letter);
    let number = [0x1f150, 0x1f170, 0x1f1e6]
        .into_iter()
        .find_map(|first| code.checked_sub(first).filter(|number| *number < 26))?;
    char::from_u32(u32::from('a') + number)
}

/// Latin letters that other letters look like, beside Unicode's own list.
const LOOKALIKES: &str = "aᴀɑαаɐ bʙвьβ cᴄςϲс dᴅԁժ eᴇеεєəɛ fꜰƒ gɢɡց hʜнհ iɪιіı jᴊјʝ kᴋкκ lʟӏ mᴍм nɴпηո oᴏоοσօ pᴘрρ qԛգ \
                          rʀгяᴦ sꜱѕ tᴛтτ uᴜυսц vᴠѵν wᴡѡшωա xхχ yʏуγү zᴢʒ";

/// The Latin letter that a letter of another script looks like, and whether it may be `i` or `l`.
fn latin(letter: char) -> (Option<char>, bool) {
    static OURS: OnceLock<HashMap<char, char>> = OnceLock::new();
    static SKELETONS: OnceLock<HashMap<String, char>> = OnceLock::new();
    if letter.is_ascii() || is_han(letter) {
        return (None, letter == '|');
    }
    let ours = OURS.get_or_init(|| {
        let groups = LOOKALIKES.split_whitespace();
        groups
            .filter_map(|group| {
                let mut letters = group.chars();
                Some((letters.next()?, letters))
            })
            .flat_map(|(latin, others)| others.map(move |other| (other, latin)))
            .collect()
    });
    let small = letter.to_lowercase().next().unwrap_or(letter);
    if let Some(&latin) = ours.get(&letter).or_else(|| ours.get(&small)) {
        return (Some(latin), false);
    }
    let skeletons = SKELETONS.get_or_init(|| {
        let letters = ('A'..='Z').chain('a'..='z');
        // Small ones last: they count more.
        letters
            .map(|letter| (skeleton(letter), letter.to_ascii_lowercase()))
            .collect()
    });
    let found = skeletons.get(&skeleton(letter)).copied();
    (found, found == Some('l'))
}

fn skeleton(letter: char) -> String {
    let mut buffer = [0; 4];
    unicode_security::confusable_detection::skeleton(letter.encode_utf8(&mut buffer)).collect()
}

/// The simplified form of a traditional character; any other letter as it is.
pub fn simplified(letter: char) -> char {
    static TABLE: OnceLock<HashMap<char, char>> = OnceLock::new();
    if letter.is_ascii() {
        return letter;
    }
    let table = TABLE.get_or_init(|| {
        let lines = include_str!("traditional.txt").lines();
        let of_opencc = lines.flat_map(|line| {
            let mut letters = line.chars();
            let simplified = letters.next();
            letters.filter_map(move |traditional| Some((traditional, simplified?)))
        });
        // Other characters that are written in their place.
        of_opencc
            .chain([('祼', '裸'), ('軆', '体'), ('躰', '体'), ('吔', '吃')])
            .collect()
    });
    table.get(&letter).copied().unwrap_or(letter)
}

/// Whether a letter is a Chinese character.
pub fn is_han(letter: char) -> bool {
    matches!(u32::from(letter), 0x3007 | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> String {
        fold(of).into_iter().map(|letter| letter.letter).collect()
    }

    #[test]
    fn all_ways_to_write_a_word_become_one() {
        for written in [
            "naked",
            "NAKED",
            "ｎａｋｅｄ",
            "𝓷𝓪𝓴𝓮𝓭",
            "ⓝⓐⓚⓔⓓ",
            "🅝🅐🅚🅔🅓",
            "🅽🅰🅺🅴🅳",
            "🇳🇦🇰🇪🇩",
            "nаkеd",
            "ɴᴀᴋᴇᴅ",
            "n\u{200b}a\u{ad}ked",
            "n\u{301}a\u{308}ked",
            "ñäkéd",
            "nαkεd",
        ] {
            assert_eq!(text(written), "naked", "{written}");
        }
        assert_eq!(text("裸體 自殺"), "裸体 自杀");
        assert_eq!(text("ſex"), "sex");
    }

    #[test]
    fn letters_know_where_they_come_from() {
        let original = "an \u{200b}ｎude";
        let folded = fold(original);
        let n = folded[3];
        assert_eq!(
            (n.letter, &original[n.start..n.end], n.hidden, n.lookalike),
            ('n', "ｎ", true, true)
        );
        assert!(!folded[4].hidden && !folded[4].lookalike);
    }
}
