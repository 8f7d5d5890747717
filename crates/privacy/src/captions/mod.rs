//! Personal data in captions, English and Chinese: e-mail addresses, telephone, identity, card and account numbers, and
//! names by lists.
//!
//! A caption is searched in a normalised form ([NFKC](https://unicode.org/reports/tr15/), invisible letters left out,
//! dashes made equal), so that `１３８…` and `138…` are one number; places are those of the original. Numbers that have a
//! check digit have to pass it. What is found is a hint for a reader, not a proof: the figures are in `docs/trust.md`.

mod addresses;
mod checksums;
mod numbers;
mod people;
mod view;

use std::ops::Range;

use serde::Serialize;

pub use checksums::{iban, luhn, payment_card, resident_identity, social_security};
pub use people::{Names, overlong_name};

use view::View;

/// What kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// An e-mail address.
    Email,
    /// A resident identity, social security or passport number.
    Identity,
    /// A payment card's number.
    Card,
    /// An IBAN.
    Account,
    /// A telephone number.
    Phone,
    /// A person's name.
    Name,
}

impl Category {
    /// All of them; where two overlap, the earlier one is reported.
    pub const ALL: [Category; 6] = [
        Category::Email,
        Category::Identity,
        Category::Card,
        Category::Account,
        Category::Phone,
        Category::Name,
    ];

    /// What takes its place in a redacted caption.
    pub fn placeholder(self, language: Language) -> &'static str {
        match (self, language) {
            (Category::Email, Language::English) => "[e-mail]",
            (Category::Identity, Language::English) => "[ID number]",
            (Category::Card, Language::English) => "[card number]",
            (Category::Account, Language::English) => "[account number]",
            (Category::Phone, Language::English) => "[phone]",
            (Category::Name, Language::English) => "[name]",
            (Category::Email, Language::Chinese) => "[邮箱]",
            (Category::Identity, Language::Chinese) => "[证件号]",
            (Category::Card, Language::Chinese) => "[卡号]",
            (Category::Account, Language::Chinese) => "[账号]",
            (Category::Phone, Language::Chinese) => "[电话]",
            (Category::Name, Language::Chinese) => "[姓名]",
        }
    }
}

/// A caption's language, as far as placeholders need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Anything without Chinese characters.
    English,
    /// With Chinese characters.
    Chinese,
}

impl Language {
    /// The language of a caption.
    pub fn of(caption: &str) -> Self {
        match caption.chars().any(is_han) {
            true => Language::Chinese,
            false => Language::English,
        }
    }
}

/// Whether a letter is a Chinese character.
fn is_han(letter: char) -> bool {
    matches!(letter, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}')
}

/// Personal data in a caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub category: Category,
    /// Which bytes of the caption.
    pub bytes: Range<usize>,
}

/// Searches captions.
#[derive(Debug)]
pub struct Scanner {
    addresses: addresses::Addresses,
    numbers: numbers::Numbers,
    people: people::People,
    categories: Vec<Category>,
}

/// Digits in words that are read as a number: as many as the shortest telephone number that people spell so.
const SPELLED_DIGITS: usize = 7;

impl Scanner {
    /// A scanner of all categories with these names.
    pub fn new(names: &Names) -> Self {
        Scanner {
            addresses: addresses::Addresses::new(),
            numbers: numbers::Numbers::new(),
            people: people::People::new(names),
            categories: Category::ALL.to_vec(),
        }
    }

    /// The same for some categories alone.
    #[must_use]
    pub fn of_categories(mut self, categories: &[Category]) -> Self {
        self.categories = categories.to_vec();
        self
    }

    /// What of a caption is personal data, in order of its place; no two overlap.
    pub fn scan(&self, caption: &str) -> Vec<Finding> {
        let view = View::of(caption);
        let mut found = Vec::new();
        let mut add = |view: &View, category: Category, place: Range<usize>| {
            let (start, end) = view.original(place.start, place.end);
            if end > start {
                let bytes = start..end;
                found.push(Finding { category, bytes });
            }
        };
        self.addresses
            .find(&view.text, |place| add(&view, Category::Email, place));
        self.numbers
            .find(&view.text, |category, place| add(&view, category, place));
        if let Some(spelled) = view.with_spelled_digits(SPELLED_DIGITS) {
            self.numbers.find(&spelled.text, |category, place| {
                add(&spelled, category, place)
            });
        }
        self.people
            .find(&view.text, |place| add(&view, Category::Name, place));
        found.retain(|finding| self.categories.contains(&finding.category));
        without_overlaps(found)
    }

    /// A caption with placeholders in its language in the place of what was found.
    pub fn redact(&self, caption: &str) -> String {
        redacted(caption, &self.scan(caption))
    }
}

/// A caption with placeholders in the place of `findings`, which are in order and do not overlap.
pub fn redacted(caption: &str, findings: &[Finding]) -> String {
    let language = Language::of(caption);
    let mut text = String::with_capacity(caption.len());
    let mut done = 0;
    for finding in findings {
        text += &caption[done..finding.bytes.start];
        text += finding.category.placeholder(language);
        done = finding.bytes.end;
    }
    text + &caption[done..]
}

/// Of findings that overlap, the one of the earlier category, then the longer one.
fn without_overlaps(mut found: Vec<Finding>) -> Vec<Finding> {
    found.sort_by_key(|finding| (finding.category, std::cmp::Reverse(finding.bytes.len())));
    let mut kept: Vec<Finding> = Vec::with_capacity(found.len());
    for finding in found {
        let overlaps = |other: &Finding| {
            finding.bytes.start < other.bytes.end && other.bytes.start < finding.bytes.end
        };
        if !kept.iter().any(overlaps) {
            kept.push(finding);
        }
    }
    kept.sort_by_key(|finding| finding.bytes.start);
    kept
}

/// A pattern of this module.
#[allow(clippy::unwrap_used)] // constant patterns, all compiled by the tests
fn pattern(text: &str) -> regex::Regex {
    regex::Regex::new(text).unwrap()
}

#[cfg(test)]
mod tests;
