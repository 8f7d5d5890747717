//! Chinese terms: found anywhere, also with something between their characters.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::fold::{Letter, fold, is_han};
use crate::hit::{Disguise, Hit};
use crate::{Error, Result};

/// Signs that stand between words.
const DIVIDES: &str = "/-|·+&—–•~";

/// Finds Chinese terms.
#[derive(Debug)]
pub(crate) struct Chinese {
    search: AhoCorasick,
    /// The number of each pattern's term.
    terms: Vec<usize>,
}

/// Punctuation that ends a phrase: what stands on both sides of it belongs to two.
const ENDS: &str = "。，！？；：、,!?;:（）()《》〈〉「」『』【】[]“”\"\n\r";

impl Chinese {
    /// Terms with their numbers.
    pub fn new<'a>(terms: impl Iterator<Item = &'a (usize, &'a String)>) -> Result<Self> {
        let (numbers, patterns): (Vec<usize>, Vec<String>) = terms
            .map(|(number, term)| {
                let letters = fold(term).into_iter().map(|letter| letter.letter);
                (
                    *number,
                    letters
                        .filter(|letter| !letter.is_whitespace())
                        .collect::<String>(),
                )
            })
            .unzip();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(patterns)
            .map_err(|error| Error::Lists(error.to_string()))?;
        Ok(Chinese {
            search,
            terms: numbers,
        })
    }

    /// All finds.
    pub fn find(&self, letters: &[Letter]) -> Vec<Hit> {
        if !letters.iter().any(|letter| is_han(letter.letter)) {
            return Vec::new();
        }
        let mut hits = Vec::new();
        for also_alphanumeric in [false, true] {
            self.find_without(letters, also_alphanumeric, &mut hits);
        }
        hits
    }

    /// Finds in the text without what may stand between the characters.
    fn find_without(&self, letters: &[Letter], also_alphanumeric: bool, hits: &mut Vec<Hit>) {
        let kept: Vec<usize> = (0..letters.len())
            .filter(|&place| !is_separator(letters, place, also_alphanumeric))
            .collect();
        let mut text = String::new();
        let mut places = Vec::new();
        for (number, &place) in kept.iter().enumerate() {
            text.push(letters[place].letter);
            places.resize(text.len(), number);
        }
        for find in self.search.find_overlapping_iter(&text) {
            let (first, last) = (places[find.start()], places[find.end() - 1]);
            let (start, end) = (kept[first], kept[last] + 1);
            let between = end - start > last - first + 1;
            if !between || is_spaced(letters, start, end) {
                hits.push(Hit {
                    term: self.terms[find.pattern().as_usize()],
                    start,
                    end,
                    disguise: between.then_some(Disguise::Spaced),
                });
            }
        }
    }
}

/// What may stand between the characters of a term: spaces, signs; also a single Latin letter or digit.
fn is_separator(letters: &[Letter], place: usize, also_alphanumeric: bool) -> bool {
    let at = |place: usize| letters.get(place).map(|letter| letter.letter);
    let Some(letter) = at(place) else {
        return false;
    };
    if is_han(letter) || ENDS.contains(letter) {
        return false;
    }
    if !letter.is_alphanumeric() {
        return true;
    }
    let han = |place: usize| at(place).is_some_and(is_han);
    also_alphanumeric && letter.is_ascii() && place > 0 && han(place - 1) && han(place + 1)
}

/// Whether what stands between the characters is there to divide them: a space, an unusual sign, or a usual one that does
/// not divide two words as well.
fn is_spaced(letters: &[Letter], start: usize, end: usize) -> bool {
    let inner = &letters[start..end];
    let divides = |letter: &Letter| DIVIDES.contains(letter.letter);
    if !inner.iter().any(divides) {
        return true;
    }
    let begins = start == 0 || !is_han(letters[start - 1].letter);
    let ends = end == letters.len() || !is_han(letters[end].letter);
    let joined = inner
        .windows(2)
        .any(|pair| is_han(pair[0].letter) && is_han(pair[1].letter));
    begins && ends && !joined
}
