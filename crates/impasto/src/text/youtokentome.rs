//! YouTokenToMe's byte pairs (github.com/VKCOM/YouTokenToMe, `bpe.cpp`): captions as ids and back. Its models are a
//! text of numbers: characters with their ids, pairs of ids with what they become, and the ids of four marks.
//!
//! Words are separated by white space and begin with U+2581. Of a word's pairs the one that was learned first is
//! joined first, the leftmost of equals. Neighbouring characters that the model does not know are one unknown id.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What a word begins with.
const SPACE: char = '\u{2581}';

/// What its models end with; they have no usual name.
pub(super) const MODEL: &str = "model";

/// Ids are refused from here on: no vocabulary is as large.
const MAX_ID: u32 = 1 << 20;

/// The longest token in characters: pairs of pairs would else become as long as they like.
const MAX_LENGTH: u32 = 1 << 12;

/// What an id stands for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Character(char),
    Pair(u32, u32),
    Mark(&'static str),
}

/// Caption → ids.
#[derive(Clone, Debug)]
pub struct YouTokenToMe {
    characters: HashMap<char, u32>,
    /// By pair its place among all, the first learned first, and what it becomes.
    pairs: HashMap<(u32, u32), (u32, u32)>,
    tokens: BTreeMap<u32, Token>,
    unknown: u32,
}

/// The marks in the file's order.
const MARKS: [&str; 4] = ["<UNK>", "<PAD>", "<BOS>", "<EOS>"];

impl YouTokenToMe {
    /// From a model file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::invalid("YouTokenToMe model", reason);
        let text =
            std::str::from_utf8(bytes).map_err(|_| bad("is not a text of numbers".into()))?;
        let mut lines = text.lines().enumerate();
        let mut row = |count: usize| -> Result<Vec<u32>> {
            let (number, line) = lines
                .next()
                .ok_or_else(|| bad("ends before all that it announces".into()))?;
            let numbers: Option<Vec<u32>> = line
                .split_ascii_whitespace()
                .map(|word| word.parse().ok())
                .collect();
            numbers
                .filter(|numbers| numbers.len() == count)
                .ok_or_else(|| bad(format!("line {} is not {count} numbers", number + 1)))
        };
        let counts = row(2)?;
        let (mut characters, mut pairs) = (HashMap::new(), HashMap::new());
        let mut tokens = BTreeMap::new();
        let mut lengths: HashMap<u32, u32> = HashMap::new();
        let mut add = |id: u32, token: Token, length: u32| {
            if id >= MAX_ID || length > MAX_LENGTH || tokens.insert(id, token).is_some() {
                return Err(bad(format!(
                    "has id {id} twice or out of range, or a token of {length} characters"
                )));
            }
            Ok(())
        };
        for _ in 0..counts[0] {
            let [code, id] = row(2)?[..] else { continue };
            let character = char::from_u32(code)
                .ok_or_else(|| bad(format!("{code} is no character of Unicode")))?;
            add(id, Token::Character(character), 1)?;
            lengths.insert(id, 1);
            characters.insert(character, id);
        }
        for place in 0..counts[1] {
            let [left, right, id] = row(3)?[..] else {
                continue;
            };
            let length = |part: u32| {
                let known = lengths.get(&part).copied();
                known.ok_or_else(|| bad(format!("joins {part} before it is known")))
            };
            let length = length(left)? + length(right)?;
            add(id, Token::Pair(left, right), length)?;
            lengths.insert(id, length);
            pairs.insert((left, right), (place, id));
        }
        let marks = row(4)?;
        for (&id, mark) in marks.iter().zip(MARKS) {
            add(id, Token::Mark(mark), 1)?;
        }
        if !characters.contains_key(&SPACE) {
            return Err(bad("does not know U+2581, which words begin with".into()));
        }
        Ok(YouTokenToMe {
            characters,
            pairs,
            tokens,
            unknown: marks[0],
        })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        let largest = self.tokens.keys().next_back();
        largest.map_or(0, |&id| id as usize + 1)
    }

    /// The id of a mark: `<UNK>`, `<PAD>`, `<BOS>` or `<EOS>`.
    pub fn mark(&self, name: &str) -> Option<u32> {
        let mut tokens = self.tokens.iter();
        let found = tokens.find(|(_, token)| matches!(token, Token::Mark(mark) if *mark == name));
        found.map(|(&id, _)| id)
    }

    /// Whether any character of a caption is known, white space left out.
    pub fn knows_any(&self, caption: &str) -> bool {
        let known = |c: char| !is_space(c) && self.characters.contains_key(&c);
        caption.chars().any(known)
    }

    /// A caption's ids.
    pub fn encode(&self, caption: &str) -> Vec<u32> {
        let words = caption.split(is_space);
        let mut ids = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            self.encode_word(word, &mut ids);
        }
        ids
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        // An unknown id stands in no pair.
        let mut symbols: Vec<Symbol> = Vec::new();
        for character in std::iter::once(SPACE).chain(word.chars()) {
            let id = self.characters.get(&character).copied();
            let id = id.unwrap_or(self.unknown);
            if id == self.unknown && symbols.last().is_some_and(|last| last.id == id) {
                continue;
            }
            let at = symbols.len();
            symbols.push(Symbol {
                id,
                before: at.checked_sub(1),
                behind: Some(at + 1),
                joined: false,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.behind = None;
        }
        let mut waiting = BinaryHeap::new();
        let join = |symbols: &[Symbol], left: usize, right: usize| {
            let pair = (symbols[left].id, symbols[right].id);
            let (place, id) = self.pairs.get(&pair)?;
            Some(Reverse((*place, left, right, pair, *id)))
        };
        for right in 1..symbols.len() {
            waiting.extend(join(&symbols, right - 1, right));
        }
        while let Some(Reverse((_, left, right, pair, id))) = waiting.pop() {
            // One of both may have become part of another in the meantime.
            let stale = symbols[left].joined
                || symbols[right].joined
                || (symbols[left].id, symbols[right].id) != pair;
            if stale {
                continue;
            }
            symbols[left].id = id;
            symbols[right].joined = true;
            let behind = symbols[right].behind;
            symbols[left].behind = behind;
            if let Some(behind) = behind {
                symbols[behind].before = Some(left);
                waiting.extend(join(&symbols, left, behind));
            }
            if let Some(before) = symbols[left].before {
                waiting.extend(join(&symbols, before, left));
            }
        }
        let left = symbols.iter().filter(|symbol| !symbol.joined);
        ids.extend(left.map(|symbol| symbol.id));
    }

    /// The text of ids.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut waiting: Vec<u32> = Vec::new();
        for &id in ids {
            waiting.push(id);
            while let Some(id) = waiting.pop() {
                match self.tokens.get(&id) {
                    Some(Token::Character(SPACE)) => text.push(' '),
                    Some(Token::Character(character)) => text.push(*character),
                    Some(Token::Pair(left, right)) => waiting.extend([*right, *left]),
                    Some(Token::Mark(mark)) => text.push_str(mark),
                    None => {}
                }
            }
        }
        text.trim_start_matches(' ').to_owned()
    }
}

/// The model of YouTokenToMe in a folder, if there is one only.
pub(super) fn only_model(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let paths = files.map(|file| file.path());
    let is_model = |path: &PathBuf| path.extension().is_some_and(|end| end == MODEL);
    let mut models = paths.filter(|path| is_model(path) && path.is_file());
    let first = models.next()?;
    models.next().is_none().then_some(first)
}

/// What stands between words.
fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ' | SPACE)
}

/// A part of a word.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    id: u32,
    before: Option<usize>,
    behind: Option<usize>,
    /// It is part of one before it.
    joined: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use proptest::prelude::*;
    use serde::Deserialize;

    use crate::import::damage::damage;

    const MODEL: &[u8] = include_bytes!("youtokentome_goldens/bpe.model");

    /// What `reference/write_youtokentome_goldens.py` made of captions.
    #[derive(Deserialize)]
    struct Golden {
        caption: String,
        ids: Vec<u32>,
        text: String,
    }

    #[test]
    fn ids_and_texts_are_those_of_the_reference() {
        let model = YouTokenToMe::parse(MODEL).unwrap();
        let goldens = include_bytes!("youtokentome_goldens/expected.json");
        let goldens: Vec<Golden> = serde_json::from_slice(goldens).unwrap();
        assert!(goldens.len() > 400);
        for golden in goldens {
            let Golden { caption, ids, text } = golden;
            assert_eq!(model.encode(&caption), ids, "{caption:?}");
            // Its decoding leaves out what fills captions up, as ours does a step above.
            let kept: Vec<u32> = ids.into_iter().filter(|&id| id != 0).collect();
            assert_eq!(model.decode(&kept), text, "{caption:?}");
        }
    }

    #[test]
    fn long_words_take_no_longer_than_many() {
        let model = YouTokenToMe::parse(MODEL).unwrap();
        let word = "turtlecat".repeat(40_000);
        let ids = model.encode(&word);
        assert!(ids.len() < word.len() * 2 / 3);
        assert_eq!(model.decode(&ids), word);
    }

    #[test]
    fn what_is_no_model_is_refused_by_its_line() {
        let refused = |text: &str| {
            let error = YouTokenToMe::parse(text.as_bytes()).unwrap_err();
            error.to_string()
        };
        assert!(refused("").contains("ends before"));
        assert!(refused("1 0\nx 3\n").contains("line 2 is not 2 numbers"));
        assert!(refused("1 0\n9601 4\n1 4 2 3\n").contains("twice"));
        assert!(refused("1 1\n9601 4\n4 5 6\n1 0 2 3\n").contains("joins 5 before"));
        assert!(refused("1 0\n97 4\n1 0 2 3\n").contains("U+2581"));
        assert!(YouTokenToMe::parse(&[255, 254]).is_err());
        // Pairs of pairs of pairs.
        let mut doubled = String::from("1 60\n9601 4\n");
        for id in 4..64 {
            doubled.push_str(&format!("{id} {id} {}\n", id + 1));
        }
        doubled.push_str("1 0 2 3\n");
        assert!(refused(&doubled).contains("characters"));
    }

    proptest! {
        #[test]
        fn damaged_models_are_errors_or_read_captions(damage in damage()) {
            match YouTokenToMe::parse(&damage.of(MODEL.to_vec())) {
                Ok(model) => {
                    let ids = model.encode("a red turtle on a hat");
                    model.decode(&ids);
                }
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
