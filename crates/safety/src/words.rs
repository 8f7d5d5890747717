//! English terms: words with their inflections, in the order of a term, also in disguise.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use crate::fold::{Letter, fold};
use crate::forms::{alike, decoded, fits, inflected, is_code, shortened, single_vowels};
use crate::hit::{Disguise, Hit};

/// Finds English terms.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// Words by their forms, those that are inflected among them.
    forms: HashMap<String, Vec<usize>>,
    /// The same for disguises, made when a text has one: most have none, and a filter is made for each command.
    disguised: OnceLock<Disguised>,
    /// Terms by their first word: the words, and the number.
    terms: HashMap<usize, Vec<(Vec<usize>, usize)>>,
    /// Words that are terms.
    alone: HashSet<usize>,
    /// Words that others are often joined to.
    joined: HashSet<String>,
    /// Words of two letters and fewer.
    short: HashSet<String>,
}

/// Words by what disguised forms have left of them.
#[derive(Debug, Default)]
struct Disguised {
    /// By their forms with `l` as `i`.
    alike: HashMap<String, Vec<usize>>,
    /// By the number of letters of their forms.
    by_length: HashMap<usize, Vec<(String, usize)>>,
}

/// Words of two letters and fewer, and some of three, that stand beside others for no other reason than to be words.
const SHORT: &str = "a i am an as at be by do go he hi if in is it la le me my no of oh ok on or so to up us we al el de di \
                     du da st mr dr ms vs ex re un pi ed ad ax ox id tv pc uk eu la en et il lo un the and for";
/// What is joined to other words: "nakedwoman".
const JOINED: &str = "woman women man men girl girls boy boys lady ladies photo photos pic pics picture pictures image images \
                      body bodies star video videos art scene show";
/// What is spelled without a space before other words: "a n u d e".
const BEFORE: &str = "a her his my hot";
/// Letters of a joined or divided word.
const LONGEST: usize = 64;

/// A word of the lists at a place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    start: usize,
    end: usize,
    word: usize,
    disguise: Option<Disguise>,
}

/// Letters without a gap.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
}

impl Words {
    /// Terms with their numbers.
    pub fn new<'a>(terms: impl Iterator<Item = &'a (usize, &'a String)>) -> Self {
        let mut words = Words {
            joined: JOINED.split_whitespace().map(str::to_owned).collect(),
            short: SHORT.split_whitespace().map(str::to_owned).collect(),
            ..Words::default()
        };
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for (number, term) in terms {
            let spelled: Vec<(String, bool)> = term
                .replace("'re", " re")
                .split(|letter: char| letter.is_whitespace() || letter == '-')
                .filter(|word| !word.is_empty())
                .map(|word| (plain(word), word.starts_with('!')))
                .filter(|(word, _)| !word.is_empty())
                .collect();
            let whole: String = spelled.iter().map(|(word, _)| word.as_str()).collect();
            let ids = spelled
                .iter()
                .map(|(word, exact)| words.word(word, *exact, &mut numbers))
                .collect::<Vec<_>>();
            let Some(&first) = ids.first() else { continue };
            if ids.len() == 1 {
                words.alone.insert(first);
            }
            // Both words as one.
            if ids.len() > 1 && whole.len() >= 8 {
                let id = words.word(&whole, false, &mut numbers);
                words.alone.insert(id);
                words.terms.entry(id).or_default().push((vec![id], *number));
            }
            words.terms.entry(first).or_default().push((ids, *number));
        }
        words
    }

    /// The number of a word, whose forms are added when it is new.
    fn word(&mut self, word: &str, exact: bool, numbers: &mut HashMap<String, usize>) -> usize {
        let key = if exact {
            format!("!{word}")
        } else {
            word.to_owned()
        };
        let next = numbers.len();
        let id = *numbers.entry(key).or_insert(next);
        if id == next {
            let forms = if exact {
                [word.to_owned()].into()
            } else {
                inflected(word)
            };
            for form in forms {
                self.forms.entry(form).or_default().push(id);
            }
        }
        id
    }

    fn disguised(&self) -> &Disguised {
        self.disguised.get_or_init(|| {
            let mut disguised = Disguised::default();
            for (form, ids) in &self.forms {
                let same = disguised.alike.entry(alike(form)).or_default();
                same.extend(ids);
                let same = disguised.by_length.entry(form.len()).or_default();
                same.extend(ids.iter().map(|&id| (form.clone(), id)));
            }
            disguised
        })
    }

    /// All finds.
    pub fn find(&self, letters: &[Letter]) -> Vec<Hit> {
        let mut edges = BTreeSet::new();
        let pieces = pieces(letters);
        for piece in &pieces {
            self.whole(letters, *piece, &mut edges);
        }
        self.spelled(letters, &pieces, &mut edges);
        self.divided(letters, &pieces, &mut edges);
        self.coded(letters, &mut edges);
        self.paths(letters, &edges)
    }

    /// A piece as a word, with repeated letters, and as several words.
    fn whole(&self, letters: &[Letter], piece: Piece, edges: &mut BTreeSet<Edge>) {
        let text = text_of(letters, piece.start..piece.end);
        let mut add = |words: Option<&Vec<usize>>, disguise| {
            for &word in words.into_iter().flatten() {
                edges.insert(Edge {
                    start: piece.start,
                    end: piece.end,
                    word,
                    disguise,
                });
            }
        };
        add(self.forms.get(&text), None);
        if text.len() > LONGEST || self.forms.contains_key(&text) {
            return;
        }
        for shorter in shortened(&text) {
            add(self.forms.get(&shorter), Some(Disguise::Repeated));
        }
        let vowels = single_vowels(&text);
        if vowels != text {
            add(self.forms.get(&vowels), Some(Disguise::Repeated));
        }
        if letters[piece.start..piece.end]
            .iter()
            .any(|letter| letter.either)
        {
            add(
                self.disguised().alike.get(&alike(&text)),
                Some(Disguise::Lookalike),
            );
        }
        // "nakedwoman": one word of the lists, the others of them or usual ones.
        for cut in 3..text.len().saturating_sub(2) {
            if !text.is_char_boundary(cut) {
                continue;
            }
            let (first, second) = text.split_at(cut);
            let known = |part: &str| {
                let words = self.forms.get(part).into_iter().flatten();
                self.joined.contains(part)
                    || words.into_iter().any(|word| self.alone.contains(word))
            };
            // Two words of the lists may be one of their own: "backstab".
            let usual = self.joined.contains(first) || self.joined.contains(second);
            if !(usual && known(first) && known(second)) {
                continue;
            }
            let middle = piece.start + first.chars().count();
            for (part, start, end) in [(first, piece.start, middle), (second, middle, piece.end)] {
                for &word in self.forms.get(part).into_iter().flatten() {
                    let disguise = Some(Disguise::Joined);
                    edges.insert(Edge {
                        start,
                        end,
                        word,
                        disguise,
                    });
                }
            }
        }
    }

    /// Letters one by one: "n u d e", "n.u.d.e".
    fn spelled(&self, letters: &[Letter], pieces: &[Piece], edges: &mut BTreeSet<Edge>) {
        let mut first = 0;
        while first < pieces.len() {
            let mut last = first;
            while last + 1 < pieces.len()
                && length(pieces[last]) == 1
                && length(pieces[last + 1]) == 1
                && is_gap(letters, pieces[last].end, pieces[last + 1].start)
                // Another gap ends a word: "k i l l  y o u".
                && gap(letters, pieces, last) == gap(letters, pieces, first)
            {
                last += 1;
            }
            let run = &pieces[first..=last];
            if length(pieces[first]) == 1 && run.len() >= 2 {
                // An article after it is one more single letter: "n u d e a woman".
                let followed = last + 1 < pieces.len();
                self.within(letters, run, followed, edges);
            }
            // The last letter may as well be the first of the next run.
            first = last.max(first + 1);
        }
    }

    /// Words within a run of single letters: the whole run is one, or several that are known.
    fn within(
        &self,
        letters: &[Letter],
        run: &[Piece],
        followed: bool,
        edges: &mut BTreeSet<Edge>,
    ) {
        let text: Vec<char> = run
            .iter()
            .map(|piece| letters[piece.start].letter)
            .collect();
        let n = text.len();
        if n > LONGEST {
            return;
        }
        let found = |start: usize, end: usize| {
            let part: String = text[start..end].iter().collect();
            let decoded = decoded(&part);
            let coded = || match decoded == part {
                true => None,
                false => self.disguised().alike.get(&alike(&decoded)),
            };
            let words = self.forms.get(&part).or_else(coded);
            let before = (end < n || followed) && BEFORE.split(' ').any(|before| before == part);
            (words, before || self.joined.contains(&part))
        };
        let known = |start: usize, end: usize| {
            let (words, joined) = found(start, end);
            joined
                || words
                    .into_iter()
                    .flatten()
                    .any(|word| self.alone.contains(word))
                || (start, end) == (0, n)
        };
        // Up to which places known words lead, and from which ones to the end.
        let mut reached = vec![false; n + 1];
        reached[0] = true;
        let mut leads = vec![false; n + 1];
        leads[n] = true;
        for place in 1..=n {
            reached[place] = (0..place).any(|start| reached[start] && known(start, place));
        }
        for place in (0..n).rev() {
            leads[place] = (place + 1..=n).any(|end| leads[end] && known(place, end));
        }
        for start in (0..n).filter(|&start| reached[start]) {
            for end in (start + 2..=n).filter(|&end| leads[end]) {
                for &word in found(start, end).0.into_iter().flatten() {
                    edges.insert(Edge {
                        start: run[start].start,
                        end: run[end - 1].end,
                        word,
                        disguise: Some(Disguise::Spaced),
                    });
                }
            }
        }
    }

    /// Parts of a word: "na ked", "po-rn".
    fn divided(&self, letters: &[Letter], pieces: &[Piece], edges: &mut BTreeSet<Edge>) {
        let spelled = |before: usize| {
            let pair = pieces.get(before).zip(pieces.get(before + 1));
            pair.is_some_and(|(one, next)| {
                length(*one) == 1 && length(*next) == 1 && is_gap(letters, one.end, next.start)
            })
        };
        for first in 0..pieces.len() {
            // From the middle of letters that are spelled one by one, anything begins.
            if first > 0 && spelled(first - 1) {
                continue;
            }
            let mut joined = text_of(letters, pieces[first].start..pieces[first].end);
            let mut has_part = self.is_part(&joined);
            let mut by_sign = true;
            // Single letters alone are spelled.
            let mut longest = length(pieces[first]);
            for last in first + 1..pieces.len().min(first + 8) {
                let (before, piece) = (pieces[last - 1], pieces[last]);
                if !is_gap(letters, before.end, piece.start) {
                    break;
                }
                by_sign &= letters[before.end..piece.start]
                    .iter()
                    .all(|letter| !letter.letter.is_whitespace());
                let text = text_of(letters, piece.start..piece.end);
                has_part |= self.is_part(&text);
                joined += &text;
                longest = longest.max(length(piece));
                if joined.len() > LONGEST {
                    break;
                }
                // A sign within a word divides two words as often as it disguises one.
                if longest < 2
                    || spelled(last)
                    || joined.len() < 3
                    || !(by_sign || has_part && joined.len() >= 4)
                {
                    continue;
                }
                for &word in self.forms.get(&joined).into_iter().flatten() {
                    edges.insert(Edge {
                        start: pieces[first].start,
                        end: piece.end,
                        word,
                        disguise: Some(Disguise::Spaced),
                    });
                }
            }
        }
    }

    /// Whether a piece is no word of its own.
    fn is_part(&self, text: &str) -> bool {
        text.len() <= 2
            && text.bytes().all(|byte| byte.is_ascii_alphabetic())
            && !self.short.contains(text)
    }

    /// Digits and signs for letters: "p0rn", "$ex", "f*ck".
    fn coded(&self, letters: &[Letter], edges: &mut BTreeSet<Edge>) {
        let mut start = 0;
        while start < letters.len() {
            if !is_code(letters[start].letter) {
                start += 1;
                continue;
            }
            let mut end = start;
            while end < letters.len() && is_code(letters[end].letter) {
                end += 1;
            }
            let is_letter = |place: usize| letters[place].letter.is_ascii_alphabetic();
            let mixed = (start..end).any(is_letter) && !(start..end).all(is_letter);
            if mixed && end - start <= LONGEST {
                // Signs at the ends may be signs.
                let is_sign = |place: usize| !letters[place].letter.is_ascii_alphanumeric();
                let inner_start = (start..end).find(|&place| !is_sign(place)).unwrap_or(start);
                let inner_end = (start..end)
                    .rev()
                    .find(|&place| !is_sign(place))
                    .map_or(end, |last| last + 1);
                for from in BTreeSet::from([start, inner_start]) {
                    for to in BTreeSet::from([end, inner_end]) {
                        self.decode(letters, from, to, edges);
                    }
                }
            }
            start = end;
        }
    }

    fn decode(&self, letters: &[Letter], start: usize, end: usize, edges: &mut BTreeSet<Edge>) {
        let text = text_of(letters, start..end);
        if text.chars().all(|letter| letter.is_ascii_alphabetic()) || text.len() < 3 {
            return;
        }
        let mut add = |word: usize| {
            edges.insert(Edge {
                start,
                end,
                word,
                disguise: Some(Disguise::Leet),
            });
        };
        if text.contains('*') {
            for (form, word) in self
                .disguised()
                .by_length
                .get(&text.len())
                .into_iter()
                .flatten()
            {
                if fits(&text, form) {
                    add(*word);
                }
            }
            return;
        }
        let code = alike(&decoded(&text));
        let words = self.disguised().alike.get(&code);
        words.into_iter().flatten().for_each(|&word| add(word));
        // With repeated letters as well: "s3xxx".
        for shorter in shortened(&code) {
            let words = self.disguised().alike.get(&shorter);
            words.into_iter().flatten().for_each(|&word| add(word));
        }
    }

    /// Terms whose words follow each other.
    fn paths(&self, letters: &[Letter], edges: &BTreeSet<Edge>) -> Vec<Hit> {
        let mut from: HashMap<usize, Vec<Edge>> = HashMap::new();
        for edge in edges {
            from.entry(edge.start).or_default().push(*edge);
        }
        let mut hits = Vec::new();
        for edge in edges {
            for (words, term) in self.terms.get(&edge.word).into_iter().flatten() {
                let mut ends = vec![(edge.end, edge.disguise)];
                for word in &words[1..] {
                    let mut next = Vec::new();
                    for (end, disguise) in ends {
                        let places = next_word(letters, end).into_iter();
                        let following = places.filter_map(|place| from.get(&place)).flatten();
                        for edge in following.filter(|edge| edge.word == *word) {
                            next.push((edge.end, disguise.or(edge.disguise)));
                        }
                    }
                    ends = next;
                }
                hits.extend(ends.into_iter().map(|(end, disguise)| Hit {
                    term: *term,
                    start: edge.start,
                    end,
                    disguise,
                }));
            }
        }
        hits
    }
}

/// A word of a list as it is looked for.
fn plain(word: &str) -> String {
    let letters = fold(word).into_iter().map(|letter| letter.letter);
    letters.filter(|letter| letter.is_alphanumeric()).collect()
}

/// Letters and digits without a gap; an apostrophe is none.
fn pieces(letters: &[Letter]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (place, letter) in letters.iter().enumerate() {
        if !letter.letter.is_alphanumeric() {
            continue;
        }
        match pieces.last_mut() {
            Some(last) if last.end == place => last.end += 1,
            Some(last)
                if last.end + 1 == place
                    && is_apostrophe(letters[place - 1].letter)
                    // "who're" is two words.
                    && !letters[place..].iter().map(|letter| letter.letter).take(2).eq("re".chars()) =>
            {
                last.end = place + 1;
            }
            _ => pieces.push(Piece {
                start: place,
                end: place + 1,
            }),
        }
    }
    pieces
}

fn is_apostrophe(letter: char) -> bool {
    matches!(letter, '\'' | '’' | 'ʼ' | '`')
}

fn text_of(letters: &[Letter], places: std::ops::Range<usize>) -> String {
    let letters = letters[places].iter().map(|letter| letter.letter);
    letters.filter(|&letter| !is_apostrophe(letter)).collect()
}

fn length(piece: Piece) -> usize {
    piece.end - piece.start
}

/// Whether what is between two pieces may divide a word: up to three spaces and signs, none that ends a sentence part.
fn is_gap(letters: &[Letter], start: usize, end: usize) -> bool {
    let gap = &letters[start..end];
    gap.len() <= 3
        && gap.iter().all(|letter| {
            !matches!(
                letter.letter,
                ',' | ';' | ':' | '\n' | '。' | '，' | '、' | '(' | ')' | '"'
            )
        })
}

/// What is between a piece and the next one.
fn gap(letters: &[Letter], pieces: &[Piece], place: usize) -> String {
    let next = pieces
        .get(place + 1)
        .map_or(letters.len(), |next| next.start);
    letters[pieces[place].end..next]
        .iter()
        .map(|letter| letter.letter)
        .collect()
}

/// Where the next word begins: at a letter, or at a sign that may stand for one.
fn next_word(letters: &[Letter], end: usize) -> BTreeSet<usize> {
    let first = |is_word: fn(char) -> bool| {
        let gap = letters[end..]
            .iter()
            .position(|letter| is_word(letter.letter));
        gap.map_or(letters.len(), |gap| end + gap)
    };
    BTreeSet::from([first(char::is_alphanumeric), first(is_code)])
}
