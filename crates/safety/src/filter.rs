//! The prompt filter: terms found in a text, however they are disguised.
//!
//! A text is a graph whose nodes are places between letters and whose edges are words of the lists: as they stand there,
//! or as a disguise of them stands there. A term is a path in it. Finds within words that are allowed do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::chinese::Chinese;
use crate::fold::{Letter, fold, is_han};
use crate::hit::{Disguise, Hit};
use crate::lists::Lists;
use crate::words::Words;
use crate::{Category, Result};

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Match {
    /// Its category.
    pub category: Category,
    /// The terms of the list, those of a rule with several parts joined by ` + `.
    pub term: String,
    /// What stands in the text, from the first letter to the last.
    pub text: String,
    /// How it was disguised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disguise: Option<Disguise>,
    /// The rule's weight.
    pub weight: f32,
}

/// What a text contains.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Screening {
    /// All categories: 1 − Π (1 − weight) over the rules that match, 0 to 1.
    pub scores: BTreeMap<Category, f32>,
    /// What was found, in the order of the rules.
    pub matches: Vec<Match>,
}

impl Screening {
    /// The score of a category.
    pub fn score(&self, category: Category) -> f32 {
        self.scores.get(&category).copied().unwrap_or(0.0)
    }
}

/// How far the parts of a rule may be from each other, in letters; a Chinese one counts as four.
const NEAR: usize = 64;
/// Letters of a text that are looked at; a prompt has fewer.
const MOST_LETTERS: usize = 1 << 16;

/// Finds the terms of lists.
#[derive(Debug)]
pub struct Filter {
    words: Words,
    chinese: Chinese,
    terms: Vec<String>,
    /// Terms below this number are looked for, those from it on are allowed.
    n_terms: usize,
    rules: Vec<(Category, Vec<Vec<usize>>, f32)>,
}

impl Filter {
    /// A filter of the embedded lists.
    ///
    /// # Errors
    /// None: a test makes one.
    pub fn embedded() -> Result<Self> {
        Filter::new(&Lists::embedded()?)
    }

    /// A filter of lists.
    ///
    /// # Errors
    /// Where there are too many terms for one search.
    pub fn new(lists: &Lists) -> Result<Self> {
        let mut terms: Vec<String> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut rules = Vec::with_capacity(lists.rules.len());
        for rule in &lists.rules {
            let mut number = |term: &String| {
                *numbers.entry(term.clone()).or_insert_with(|| {
                    terms.push(term.clone());
                    terms.len() - 1
                })
            };
            let parts = rule.parts.iter();
            let parts = parts
                .map(|part| part.iter().map(&mut number).collect())
                .collect();
            rules.push((rule.category, parts, rule.weight));
        }
        let n_terms = terms.len();
        // What is allowed may be a term of a list, too: a person's own, in an allowed phrase.
        terms.extend(lists.allowed.iter().cloned());
        let is_chinese = |term: &&(usize, &String)| term.1.chars().any(is_han);
        let all: Vec<(usize, &String)> = terms.iter().enumerate().collect();
        let chinese = Chinese::new(all.iter().filter(is_chinese))?;
        let words = Words::new(all.iter().filter(|term| !is_chinese(term)));
        Ok(Filter {
            words,
            chinese,
            n_terms,
            rules,
            terms,
        })
    }

    /// What a text contains. Of a very long one the first 65,536 letters are looked at.
    pub fn screen(&self, text: &str) -> Screening {
        let mut letters = fold(text);
        letters.truncate(MOST_LETTERS);
        let mut hits: Vec<Hit> = self.words.find(&letters);
        hits.extend(self.chinese.find(&letters));
        for hit in &mut hits {
            hit.disguise = hit
                .disguise
                .or_else(|| seen_in(&letters[hit.start..hit.end]));
        }
        let (found, allowed): (Vec<Hit>, Vec<Hit>) =
            hits.into_iter().partition(|hit| hit.term < self.n_terms);
        let mut places: HashMap<usize, BTreeSet<Hit>> = HashMap::new();
        for hit in found {
            let within = |allowed: &&Hit| allowed.start <= hit.start && hit.end <= allowed.end;
            if !allowed.iter().any(|allowed| within(&allowed)) {
                places.entry(hit.term).or_default().insert(hit);
            }
        }
        let distances = distances(&letters);
        let mut screening = Screening {
            scores: Category::ALL
                .into_iter()
                .map(|category| (category, 0.0))
                .collect(),
            matches: Vec::new(),
        };
        let mut left: BTreeMap<Category, f32> = BTreeMap::new();
        for (category, parts, weight) in &self.rules {
            let Some(hits) = near(parts, &places, &distances) else {
                continue;
            };
            *left.entry(*category).or_insert(1.0) *= 1.0 - weight;
            let start = hits.iter().map(|hit| letters[hit.start].start).min();
            let end = hits.iter().map(|hit| letters[hit.end - 1].end).max();
            let names: Vec<&str> = hits
                .iter()
                .map(|hit| self.terms[hit.term].as_str())
                .collect();
            screening.matches.push(Match {
                category: *category,
                term: names.join(" + "),
                text: text[start.unwrap_or(0)..end.unwrap_or(0)].to_owned(),
                disguise: hits.iter().filter_map(|hit| hit.disguise).min(),
                weight: *weight,
            });
        }
        for (category, left) in left {
            screening.scores.insert(category, 1.0 - left);
        }
        screening
    }
}

/// What can be seen of a disguise in the letters themselves.
fn seen_in(letters: &[Letter]) -> Option<Disguise> {
    let hidden = letters.iter().skip(1).any(|letter| letter.hidden);
    let lookalike = letters.iter().any(|letter| letter.lookalike);
    match (hidden, lookalike) {
        (true, _) => Some(Disguise::Hidden),
        (_, true) => Some(Disguise::Lookalike),
        _ => None,
    }
}

/// How far each place is from the beginning.
fn distances(letters: &[Letter]) -> Vec<usize> {
    let mut sum = 0;
    let mut distances = Vec::with_capacity(letters.len() + 1);
    distances.push(0);
    for letter in letters {
        sum += if is_han(letter.letter) { 4 } else { 1 };
        distances.push(sum);
    }
    distances
}

/// One hit for each part, near each other and none twice; none where there is no such thing.
fn near(
    parts: &[Vec<usize>],
    places: &HashMap<usize, BTreeSet<Hit>>,
    distances: &[usize],
) -> Option<Vec<Hit>> {
    let hits = |part: &[usize]| -> Vec<Hit> {
        let terms = part.iter().filter_map(|term| places.get(term));
        terms.flatten().copied().collect()
    };
    let (first, rest) = parts.split_first()?;
    let rest: Vec<Vec<Hit>> = rest.iter().map(|part| hits(part)).collect();
    hits(first).into_iter().find_map(|hit| {
        let mut chosen = vec![hit];
        for part in &rest {
            let apart = |other: &&Hit| {
                let between = if other.start >= hit.end {
                    distances[other.start] - distances[hit.end]
                } else if hit.start >= other.end {
                    distances[hit.start] - distances[other.end]
                } else {
                    // The same letters can't be both.
                    return false;
                };
                between <= NEAR
            };
            chosen.push(*part.iter().find(apart)?);
        }
        Some(chosen)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn filter(rules: &str, allowed: &str) -> Filter {
        let mut lists = Lists::default();
        lists.add(Category::Hate, Path::new("list"), rules).unwrap();
        lists.allow(Path::new("allowed"), allowed).unwrap();
        Filter::new(&lists).unwrap()
    }

    fn found(filter: &Filter, text: &str) -> Vec<(String, Option<Disguise>)> {
        let matches = filter.screen(text).matches.into_iter();
        matches.map(|found| (found.text, found.disguise)).collect()
    }

    #[test]
    fn every_disguise_is_named_and_what_stands_there_is_shown() {
        let filter = filter("porn | hot iron\n色情", "iron lady");
        for (text, shown, disguise) in [
            ("some PORN!", "PORN", None),
            ("some p\u{200b}orn", "p\u{200b}orn", Some(Disguise::Hidden)),
            ("some pоrn", "pоrn", Some(Disguise::Lookalike)),
            ("some p0rn", "p0rn", Some(Disguise::Leet)),
            ("some p*rn", "p*rn", Some(Disguise::Leet)),
            ("some p o r n", "p o r n", Some(Disguise::Spaced)),
            ("some po-rn", "po-rn", Some(Disguise::Spaced)),
            ("some poooorn", "poooorn", Some(Disguise::Repeated)),
            ("one pornstar", "porn", Some(Disguise::Joined)),
            ("hot, irons", "hot, irons", None),
            ("一张色情图", "色情", None),
            ("一张色*情图", "色*情", Some(Disguise::Spaced)),
        ] {
            assert_eq!(
                found(&filter, text),
                [(shown.to_owned(), disguise)],
                "{text}"
            );
        }
        for text in [
            "popcorn",
            "a hot meal, cast iron",
            "特色，情人节",
            "景色。情侣",
        ] {
            assert_eq!(found(&filter, text), [], "{text}");
        }
    }

    #[test]
    fn rules_weigh_and_their_parts_have_to_be_near() {
        let filter = filter("cat + dog | 狗 = 0.5\nfox = 0.5\nwolf = 0.25", "hot dog");
        let score = |text: &str| filter.screen(text).score(Category::Hate);
        assert_eq!(score("a dog and two cats"), 0.5);
        assert_eq!(score("a cat, 狗"), 0.5);
        assert_eq!(score("a cat with a hot dog"), 0.0);
        assert_eq!(score("cat fox"), 0.5);
        assert_eq!(score("a fox, a cat, a dog"), 0.75);
        assert_eq!(score("wolf"), 0.25);
        assert_eq!(score(&format!("cat {} dog", "far away ".repeat(9))), 0.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_text_is_too_strange(text in any::<String>(), more in "[a-z0-9 .*$裸体色情做爱\u{200b}е]{0,80}") {
            let filter = filter("porn | a b c\n色情 + 做爱 | sex\n裸体", "sexton");
            for text in [&text, &more] {
                for found in filter.screen(text).matches {
                    prop_assert!(text.contains(&found.text));
                }
            }
        }

        #[test]
        fn no_list_is_too_strange(text in any::<String>()) {
            let mut lists = Lists::default();
            if lists.add(Category::Hate, Path::new("list"), &text).is_ok() {
                Filter::new(&lists).unwrap().screen(&text);
            }
        }
    }
}
