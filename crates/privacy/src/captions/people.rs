//! Names of persons, by lists: English given names with surnames, Chinese surnames with the characters of given names,
//! and whole names that a user lists.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;

use super::{is_han, pattern};

/// Lists of names. All are compared without regard to upper and lower case.
#[derive(Clone, Debug)]
pub struct Names {
    /// English given names.
    pub given: Vec<String>,
    /// English surnames.
    pub surnames: Vec<String>,
    /// Chinese surnames, the most frequent first.
    pub chinese_surnames: Vec<String>,
    /// Characters that Chinese given names often have.
    pub chinese_given: HashSet<char>,
    /// English given names and surnames that are recognised in small letters, too.
    pub small: HashSet<String>,
    /// Whole names that are always reported.
    pub listed: Vec<String>,
    /// What looks like a name and is none.
    pub allowed: Vec<String>,
}

impl Default for Names {
    /// The lists in the program.
    fn default() -> Self {
        let (given, surnames) = (
            include_str!("names/en-given.txt"),
            include_str!("names/en-surnames.txt"),
        );
        // The frequent ones are before the first empty line.
        let frequent = [given, surnames].map(|list| list.split("\n\n").next().unwrap_or_default());
        let mut small: HashSet<String> = frequent.iter().flat_map(|list| words(list)).collect();
        for word in words(include_str!("names/en-words.txt")) {
            small.remove(&word);
        }
        Names {
            given: words(given),
            surnames: words(surnames),
            chinese_surnames: words(include_str!("names/zh-surnames.txt")),
            chinese_given: words(include_str!("names/zh-given.txt"))
                .iter()
                .flat_map(|line| line.chars())
                .collect(),
            small,
            listed: Vec::new(),
            allowed: entries(include_str!("names/allowed.txt")),
        }
    }
}

impl Names {
    /// No names at all.
    pub fn none() -> Self {
        Names {
            given: Vec::new(),
            surnames: Vec::new(),
            chinese_surnames: Vec::new(),
            chinese_given: HashSet::new(),
            small: HashSet::new(),
            listed: Vec::new(),
            allowed: Vec::new(),
        }
    }

    /// Adds whole names, one a line; lines that start with `#` are comments. See [`overlong_name`].
    pub fn list(&mut self, text: &str) {
        self.listed.extend(entries(text));
    }

    /// Adds what is no name, one a line; lines that start with `#` are comments.
    pub fn allow(&mut self, text: &str) {
        self.allowed.extend(entries(text));
    }
}

/// The words of a list without its comments.
fn words(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(str::split_whitespace)
        .map(str::to_lowercase)
        .collect()
}

/// The longest name of a list in bytes. To prepare the search takes more than linear time in it.
const MOST_NAME: usize = 256;

/// The number of the first line of a list that is too long to be a name, from 1 on; such lines name nobody.
pub fn overlong_name(text: &str) -> Option<usize> {
    let mut lines = text.lines().map(str::trim);
    let place = lines.position(|line| line.len() > MOST_NAME && !line.starts_with('#'));
    place.map(|place| place + 1)
}

fn entries(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && line.len() <= MOST_NAME && !line.starts_with('#'))
        .map(str::to_lowercase)
        .collect()
}

/// What stands before and after a Chinese name that no word announces.
const BEFORE: &str = "在给和与跟为由找是对";
const AFTER: &str = "的和与在站坐是";
/// What only persons have.
const OF_PERSONS: [&str; 14] = [
    "的肖像",
    "的照片",
    "的自拍",
    "的画像",
    "的头像",
    "的签名",
    "的名片",
    "的护照",
    "的身份证",
    "的背影",
    "的侧脸",
    "的全家福",
    "的证件照",
    "的生日",
];

/// Frequent surnames are recognised with two characters of given names alone, others after a word that announces them.
const FREQUENT_SURNAMES: usize = 100;

/// What speaks for a name.
#[derive(Clone, Copy)]
enum Surety {
    /// A list of the user's, a title or a word that announces it: only the whole of it may be allowed.
    Announced,
    /// The lists alone: what is allowed may be a part of it.
    Bare,
}

#[derive(Debug)]
pub(super) struct People {
    names: Lists,
    listed: Option<AhoCorasick>,
    allowed: Option<AhoCorasick>,
    word: Regex,
    title: Regex,
    announced: Regex,
    chinese_announced: Regex,
    chinese_title: Regex,
}

#[derive(Debug)]
struct Lists {
    given: HashSet<String>,
    surnames: HashSet<String>,
    small: HashSet<String>,
    chinese_surnames: HashSet<String>,
    frequent: HashSet<String>,
    chinese_given: HashSet<char>,
}

fn searcher(entries: &[String]) -> Option<AhoCorasick> {
    let mut builder = AhoCorasick::builder();
    builder
        .match_kind(MatchKind::LeftmostLongest)
        .ascii_case_insensitive(true);
    // A list that is too long for an automaton is none of names.
    (!entries.is_empty())
        .then(|| builder.build(entries).ok())
        .flatten()
}

impl People {
    pub fn new(names: &Names) -> Self {
        let set = |list: &[String]| list.iter().cloned().collect::<HashSet<_>>();
        let frequent = names.chinese_surnames.iter().take(FREQUENT_SURNAMES);
        People {
            names: Lists {
                given: set(&names.given),
                surnames: set(&names.surnames),
                small: names.small.clone(),
                chinese_surnames: set(&names.chinese_surnames),
                frequent: frequent.cloned().collect(),
                chinese_given: names.chinese_given.clone(),
            },
            listed: searcher(&names.listed),
            allowed: searcher(&names.allowed),
            word: pattern(r"[A-Za-z][A-Za-z'’]*(?:-[A-Za-z'’]+)*"),
            title: pattern(
                r"(?-u:\b)(?:Mr|Mrs|Ms|Dr|Prof|Professor|Sir|Madam)\.? ((?:[A-Z]\. ?)?[A-Z][a-z'’A-Z\-]+(?: [A-Z]\.)?(?: [A-Z][a-z'’A-Z\-]+){0,2})",
            ),
            announced: pattern(
                r"(?i:(?-u:\b)(?:named|called|my name is|name is|signed by|portrait of|photo of|photograph of|picture of|selfie of|face of|owner|author|contact|name):? )([A-Za-z][a-z'’\-]+ (?:[A-Z]\. )?([A-Za-z][a-z'’\-]+(?:-[A-Z][a-z]+)?))",
            ),
            chinese_announced: pattern(
                r"(?:姓名|名字|名叫|叫做|叫作|我叫|他叫|她叫|联系人|收件人|寄件人|持卡人|户名|机主|车主|作者|摄影师|摄影|拍摄者|模特|患者|学生|本人)[ ::是为]{0,3}(\p{Han}{2,4})",
            ),
            chinese_title: pattern(
                r"(\p{Han}{1,4})(?:先生|女士|小姐|老师|教授|医生|大夫|同学|师傅|经理|主任|律师|警官|博士)",
            ),
        }
    }

    pub fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        let allowed: Vec<Range<usize>> = self.allowed.as_ref().map_or(Vec::new(), |allowed| {
            allowed.find_iter(text).map(|place| place.range()).collect()
        });
        let mut report = |place: Range<usize>, surety: Surety| {
            let is_allowed = |allowed: &Range<usize>| match surety {
                Surety::Announced => allowed.start <= place.start && place.end <= allowed.end,
                Surety::Bare => allowed.start < place.end && place.start < allowed.end,
            };
            if !place.is_empty() && !allowed.iter().any(is_allowed) {
                found(place);
            }
        };
        if let Some(listed) = &self.listed {
            for place in listed.find_iter(text) {
                if is_word(text, place.range()) {
                    report(place.range(), Surety::Announced);
                }
            }
        }
        self.english(text, &mut report);
        self.chinese(text, &mut report);
    }

    fn english(&self, text: &str, report: &mut dyn FnMut(Range<usize>, Surety)) {
        for captures in self.title.captures_iter(text) {
            // With its title, which names no one alone.
            if let Some(name) = captures.get(1) {
                report(name.range(), Surety::Announced);
            }
        }
        for captures in self.announced.captures_iter(text) {
            let (Some(name), Some(surname)) = (captures.get(1), captures.get(2)) else {
                continue;
            };
            let capital = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase());
            let given = name.as_str().split(' ').next().unwrap_or_default();
            // In capitals the surname may be any; in small letters it has to be one.
            let is_name = match (capital(given), capital(surname.as_str())) {
                (true, true) => self.names.given.contains(&given.to_lowercase()),
                (false, false) => {
                    self.names.small.contains(given) && self.is_surname(text, &surname.range())
                }
                _ => false,
            };
            if is_name {
                report(name.range(), Surety::Announced);
            }
        }
        let words: Vec<Range<usize>> = self.word.find_iter(text).map(|m| m.range()).collect();
        for (index, place) in words.iter().enumerate() {
            let Some(next) = words.get(index + 1) else {
                break;
            };
            // The given name, an initial or a second one between, the surname.
            let last = match words.get(index + 2) {
                Some(last)
                    if self.follows(text, next, last)
                        && !self.is_surname(text, next)
                        && (next.len() == 1 || self.is_given(text, next)) =>
                {
                    last
                }
                _ => next,
            };
            if self.is_given(text, place)
                && self.follows(text, place, next)
                && self.is_surname(text, last)
                && last.start > place.start
                && self.fits(&text[place.clone()], &text[last.clone()])
            {
                report(place.start..last.end, Surety::Bare);
            }
        }
    }

    /// Whether two words stand beside each other, as the parts of a name do.
    fn follows(&self, text: &str, first: &Range<usize>, second: &Range<usize>) -> bool {
        let between = &text[first.end..second.start];
        between == " " || (between == ". " && first.len() == 1)
    }

    fn is_given(&self, text: &str, place: &Range<usize>) -> bool {
        self.names
            .given
            .contains(&text[place.clone()].to_lowercase())
    }

    /// A surname of the list, or two of them with a hyphen between, or one with its apostrophe.
    fn is_surname(&self, text: &str, place: &Range<usize>) -> bool {
        let word = text[place.clone()].to_lowercase().replace(['\'', '’'], "");
        let word = word
            .strip_suffix("s")
            .filter(|_| text[place.clone()].ends_with("'s"))
            .unwrap_or(&word);
        word.split('-')
            .all(|part| self.names.surnames.contains(part))
    }

    /// Both in capitals, or both small and frequent as names.
    fn fits(&self, given: &str, surname: &str) -> bool {
        let capital = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase());
        match (capital(given), capital(surname)) {
            (true, true) => true,
            (false, false) => {
                self.names.small.contains(given) && self.names.small.contains(surname)
            }
            _ => false,
        }
    }

    fn chinese(&self, text: &str, report: &mut dyn FnMut(Range<usize>, Surety)) {
        for captures in self.chinese_announced.captures_iter(text) {
            let Some(words) = captures.get(1) else {
                continue;
            };
            let after = text[words.end()..].chars().next();
            if let Some(length) = self.announced_name(words.as_str(), after) {
                report(words.start()..words.start() + length, Surety::Announced);
            }
        }
        for captures in self.chinese_title.captures_iter(text) {
            let Some(words) = captures.get(1) else {
                continue;
            };
            // The longest name that ends at the title.
            for (start, _) in words.as_str().char_indices() {
                let before = text[..words.start() + start].chars().next_back();
                if self.is_titled(&words.as_str()[start..], before) {
                    report(words.start() + start..words.end(), Surety::Announced);
                    break;
                }
            }
        }
        let letters: Vec<(usize, char)> = text.char_indices().collect();
        for index in 0..letters.len() {
            if let Some(end) = self.bare_name(text, &letters, index) {
                report(letters[index].0..end, Surety::Bare);
            }
        }
    }

    fn surname_length(&self, text: &str) -> Option<usize> {
        let mut letters = text.chars();
        let first = letters.next()?.len_utf8();
        let two = letters.next().map(|letter| first + letter.len_utf8());
        if let Some(two) = two
            && self.names.chinese_surnames.contains(&text[..two])
        {
            return Some(two);
        }
        self.names
            .chinese_surnames
            .contains(&text[..first])
            .then_some(first)
    }

    /// How long a name is after a word that announces one.
    fn announced_name(&self, words: &str, after: Option<char>) -> Option<usize> {
        let surname = self.surname_length(words)?;
        let mut given = words[surname..].char_indices();
        let (_, first) = given.next()?;
        let one = surname + first.len_utf8();
        let Some((_, second)) = given.next() else {
            return Some(one);
        };
        let two = one + second.len_utf8();
        let ends = words.len() == two && !after.is_some_and(is_han);
        // The second one belongs to it where it is used in names, or where nothing follows it.
        let belongs = !"的在和与是站坐穿拿正".contains(second)
            && (ends || self.names.chinese_given.contains(&second));
        Some(if belongs { two } else { one })
    }

    /// A surname before a title, with or without a given name; any given name where nothing else is before it.
    fn is_titled(&self, words: &str, before: Option<char>) -> bool {
        let Some(surname) = self.surname_length(words) else {
            return false;
        };
        let given = &words[surname..];
        let starts = before.is_none_or(|letter| !is_han(letter) || BEFORE.contains(letter));
        let is_frequent = self.names.frequent.contains(&words[..surname]);
        given.chars().count() <= 2
            && ((starts && is_frequent)
                || given.chars().all(|c| self.names.chinese_given.contains(&c)))
    }

    /// A surname and one or two characters of given names that nothing else belongs to. Rare surnames need two
    /// characters, or what only persons have after them.
    fn bare_name(&self, text: &str, letters: &[(usize, char)], index: usize) -> Option<usize> {
        let (start, first) = letters[index];
        if !is_han(first) {
            return None;
        }
        let surname = self.surname_length(&text[start..])?;
        let before = index.checked_sub(1).map(|before| letters[before].1);
        if !before.is_none_or(|letter| !is_han(letter) || BEFORE.contains(letter)) {
            return None;
        }
        let is_frequent = self.names.frequent.contains(&text[start..start + surname]);
        let given = index + text[start..start + surname].chars().count();
        for length in [2, 1] {
            let Some(name) = letters.get(given..given + length) else {
                continue;
            };
            if !name
                .iter()
                .all(|(_, letter)| self.names.chinese_given.contains(letter))
            {
                continue;
            }
            let (last, letter) = name[length - 1];
            let end = last + letter.len_utf8();
            let after = letters.get(given + length).map(|letter| letter.1);
            let is_persons = OF_PERSONS
                .iter()
                .any(|words| text[end..].starts_with(words));
            let ends = after.is_none_or(|letter| !is_han(letter) || AFTER.contains(letter));
            if is_persons || (ends && (is_frequent || surname > 3)) {
                return Some(end);
            }
        }
        None
    }
}

/// Whether a listed name stands alone, where its letters are separated by spaces at all.
fn is_word(text: &str, place: Range<usize>) -> bool {
    let touches = |letter: Option<char>| letter.is_some_and(|c| c.is_ascii_alphanumeric());
    let ascii = |letter: Option<char>| letter.is_some_and(|c| c.is_ascii_alphanumeric());
    let name = &text[place.clone()];
    let before = ascii(name.chars().next()) && touches(text[..place.start].chars().next_back());
    let after = ascii(name.chars().next_back()) && touches(text[place.end..].chars().next());
    !before && !after
}
