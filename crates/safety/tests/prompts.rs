//! What the filter finds of prompts that were written without looking at its lists, and in each disguise; what it finds
//! of harmless ones that look alike. `english.txt` and `chinese.txt` were looked at while the lists were made better. The
//! held-out ones were written when the lists were finished, and nothing was changed after they were counted. With
//! `--nocapture` all that is missed, and each false alarm, is printed:
//!
//!     cargo test --release -p impasto-safety --test prompts -- --nocapture

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;

use impasto_safety::{Category, Filter, Mode, Policy};

struct Prompt {
    category: Option<Category>,
    text: String,
}

fn prompts(text: &str) -> Vec<Prompt> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (category, text) = line.split_once(" | ").unwrap();
            Prompt {
                category: (category != "-").then(|| category.parse().unwrap()),
                text: text.to_owned(),
            }
        })
        .collect()
}

/// A way to disguise words, with its name.
type Disguise = (&'static str, fn(&str) -> String);

const ENGLISH: [Disguise; 9] = [
    ("plain", |words| words.to_owned()),
    ("capitals", |words| words.to_uppercase()),
    ("spaces", |words| apart(words, " ")),
    ("dots", |words| apart(words, ".")),
    ("zero width", |words| apart(words, "\u{200b}")),
    ("homoglyphs", |words| {
        replaced(
            words,
            &[
                ('a', 'а'),
                ('e', 'е'),
                ('o', 'о'),
                ('i', 'і'),
                ('c', 'с'),
                ('s', 'ѕ'),
                ('u', 'υ'),
            ],
        )
    }),
    ("leetspeak", |words| {
        replaced(
            words,
            &[
                ('a', '4'),
                ('e', '3'),
                ('o', '0'),
                ('i', '1'),
                ('s', '5'),
                ('t', '7'),
            ],
        )
    }),
    ("repeated", |words| {
        let words = words.split(' ').map(|word| {
            // A letter alone is no word.
            if word.len() < 3 {
                return word.to_owned();
            }
            let vowel = word.find(['a', 'e', 'i', 'o', 'u']).unwrap_or(0);
            let letter = word[vowel..].chars().next().unwrap_or_default();
            format!("{}{letter}{letter}{}", &word[..vowel], &word[vowel..])
        });
        words.collect::<Vec<_>>().join(" ")
    }),
    ("full width", |words| {
        let wide = |letter: char| match letter {
            '!'..='~' => char::from_u32(u32::from(letter) + 0xfee0).unwrap(),
            letter => letter,
        };
        words.chars().map(wide).collect()
    }),
];

const CHINESE: [Disguise; 6] = [
    ("plain", |words| words.to_owned()),
    ("traditional", |words| {
        words.chars().map(traditional).collect()
    }),
    ("spaces", |words| apart(words, " ")),
    ("signs", |words| apart(words, "*")),
    ("zero width", |words| apart(words, "\u{200b}")),
    ("letters", |words| apart(words, "x")),
];

/// The first letter of a word stays where it is; spaces stay.
fn apart(words: &str, between: &str) -> String {
    let words = words.split(' ').map(|word| {
        let letters: Vec<String> = word.chars().map(String::from).collect();
        letters.join(between)
    });
    words
        .collect::<Vec<_>>()
        .join(if between == " " { "  " } else { " " })
}

fn replaced(words: &str, by: &[(char, char)]) -> String {
    let letter = |letter: char| {
        by.iter()
            .find(|(from, _)| *from == letter)
            .map_or(letter, |(_, to)| *to)
    };
    words.chars().map(letter).collect()
}

fn traditional(letter: char) -> char {
    let pairs = "体體爱愛阴陰乳乳杀殺儿兒强強奸姦轮輪脱脫乱亂伦倫尸屍断斷头頭脑腦剥剝处處黄黃优優码碼枪槍药藥弹彈钞鈔护護证證毒毒种種贩販岁歲杀殺师師妇婦条條烧燒图圖谋謀难難击擊残殘";
    let letters: Vec<char> = pairs.chars().collect();
    letters
        .chunks(2)
        .find(|pair| pair[0] == letter)
        .map_or(letter, |pair| pair[1])
}

/// The text with each bracket disguised; none if there is nothing in brackets.
fn disguised(text: &str, how: fn(&str) -> String) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let (words, after) = after.split_once(']').unwrap();
        whole.push_str(before);
        whole.push_str(&how(words));
        rest = after;
    }
    whole + rest
}

#[derive(Default)]
struct Count {
    right: usize,
    all: usize,
    category: usize,
}

impl Count {
    fn share(&self) -> f64 {
        self.right as f64 / self.all.max(1) as f64
    }
}

fn measure(language: &str, texts: [&str; 2], disguises: &[Disguise]) {
    let filter = Filter::embedded().unwrap();
    let policy = Policy::of(Mode::Flag);
    for (part, text) in ["known", "held out"].into_iter().zip(texts) {
        let (mut found, mut alarms) = (Count::default(), Count::default());
        let mut by_disguise: BTreeMap<usize, (Count, Count)> = BTreeMap::new();
        for prompt in &prompts(text) {
            for (number, (name, how)) in disguises.iter().enumerate() {
                let text = disguised(&prompt.text, *how);
                let screening = filter.screen(&text);
                let decided = policy.decide(&screening);
                let counts = by_disguise.entry(number).or_default();
                let shown = |what: &str| {
                    let matches = screening.matches.iter();
                    let terms: Vec<_> = matches.map(|found| &found.term).collect();
                    println!("{what} ({language}, {part}, {name}): {text}  {terms:?}");
                };
                match prompt.category {
                    Some(category) => {
                        let right = !decided.is_empty();
                        let same = decided.iter().any(|(other, _, _)| *other == category);
                        for count in [&mut found, &mut counts.0] {
                            count.all += 1;
                            count.right += usize::from(right);
                            count.category += usize::from(same);
                        }
                        if !right {
                            shown("missed");
                        }
                    }
                    None => {
                        let right = decided.is_empty();
                        for count in [&mut alarms, &mut counts.1] {
                            count.all += 1;
                            count.right += usize::from(!right);
                        }
                        if !right {
                            shown("false alarm");
                        }
                    }
                }
            }
        }
        for (number, (found, alarms)) in &by_disguise {
            println!(
                "{language}, {part}, {}: found {} of {} ({:.1} %), alarms {} of {} ({:.1} %)",
                disguises[*number].0,
                found.right,
                found.all,
                100.0 * found.share(),
                alarms.right,
                alarms.all,
                100.0 * alarms.share()
            );
        }
        println!(
            "{language}, {part}: recall {:.1} % of {}, the very category {:.1} %; false alarms {:.2} % of {}",
            100.0 * found.share(),
            found.all,
            100.0 * found.category as f64 / found.all as f64,
            100.0 * alarms.share(),
            alarms.all
        );
        assert!(
            found.share() >= 0.95,
            "{language}, {part}: recall {}",
            found.share()
        );
        assert!(
            alarms.share() <= 0.01,
            "{language}, {part}: false alarms {}",
            alarms.share()
        );
    }
}

#[test]
fn english_prompts_are_found_in_every_disguise() {
    let texts = [
        include_str!("prompts/english.txt"),
        include_str!("prompts/english-held-out.txt"),
    ];
    measure("English", texts, &ENGLISH);
}

#[test]
fn chinese_prompts_are_found_in_every_disguise() {
    let texts = [
        include_str!("prompts/chinese.txt"),
        include_str!("prompts/chinese-held-out.txt"),
    ];
    measure("Chinese", texts, &CHINESE);
}
