//! Words out of a text without spaces, by how frequent words are.
//!
//! Source: dalle-mini `model/text.py` (`HashtagProcessor`, after the wordninja library): the cost of a word
//! is the logarithm of its rank, and the cheapest way to cut the text is found by dynamic programming.

use std::collections::HashMap;

use crate::{Error, Result};

/// Words by rank.
#[derive(Clone, Debug)]
pub struct WordFrequencies {
    costs: HashMap<String, f64>,
    longest: usize,
}

impl WordFrequencies {
    /// From a list, the most frequent first: a line begins with the word, what follows after a space is not
    /// looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::invalid("word frequencies", "expected UTF-8"))?;
        let mut costs = HashMap::new();
        let mut longest = 0;
        for (rank, line) in text.lines().enumerate() {
            let word = line.split_whitespace().next().ok_or_else(|| {
                Error::invalid("word frequencies", format!("line {} is empty", rank + 1))
            })?;
            longest = longest.max(word.chars().count());
            costs.insert(word.to_owned(), ((rank + 1) as f64).ln());
        }
        if costs.is_empty() {
            return Err(Error::invalid(
                "word frequencies",
                "expected words, got none",
            ));
        }
        Ok(WordFrequencies { costs, longest })
    }

    /// The words of a hashtag (ASCII), joined with spaces.
    pub(super) fn split(&self, tag: &str) -> String {
        let words = tag
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '\''))
            .map(|part| self.cut(part));
        words.collect::<Vec<String>>().join(" ")
    }

    fn cut(&self, text: &str) -> String {
        // The cheapest way to the first i characters, and the length of its last word.
        let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
        for end in 1..=text.len() {
            let mut cheapest = (f64::INFINITY, 1);
            for length in 1..=self.longest.min(end) {
                let word = &text[end - length..end];
                let cost = self.costs.get(word).copied().unwrap_or(f64::INFINITY);
                let whole = best[end - length].0 + cost;
                // Of equal ones the shortest last word.
                if whole < cheapest.0 {
                    cheapest = (whole, length);
                }
            }
            best.push(cheapest);
        }
        let mut words: Vec<String> = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let start = end - best[end].1;
            let word = &text[start..end];
            let digits = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
            match words.last_mut() {
                // Numbers are not cut.
                Some(next) if digits(word.chars().last()) && digits(next.chars().next()) => {
                    next.insert_str(0, word);
                }
                _ => words.push(word.to_owned()),
            }
            end = start;
        }
        words.reverse();
        words.join(" ")
    }
}
