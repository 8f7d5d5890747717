//! The words of a prompt.

use std::ops::Range;

/// The byte ranges of the words of a text: runs of letters, digits and marks, with a hyphen or an apostrophe between two of
/// them. Chinese has no spaces: its runs are cut by a few rules that fit descriptions of pictures.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut open: Option<Range<usize>> = None;
    for (start, letter) in text.char_indices() {
        let end = start + letter.len_utf8();
        let continues = is_word(letter)
            || open.is_some() && is_joint(letter) && text[end..].starts_with(is_word);
        // A run is of one script: "3D模型" is two.
        let fits = open.as_ref().is_none_or(|run| {
            let last = text[run.clone()].chars().next_back();
            is_joint(letter) || last.is_none_or(|last| is_han(last) == is_han(letter))
        });
        match &mut open {
            Some(run) if continues && fits => run.end = end,
            _ => {
                close(text, open.take(), &mut words);
                // A mark with no letter before it is no word.
                open = letter.is_alphanumeric().then_some(start..end);
            }
        }
    }
    close(text, open, &mut words);
    words
}

/// Adds a run that ends.
fn close(text: &str, run: Option<Range<usize>>, words: &mut Vec<Range<usize>>) {
    let Some(run) = run else { return };
    match text[run.clone()].starts_with(is_han) {
        true => words.extend(chinese_words(text, run)),
        false => words.push(run),
    }
}

fn is_word(letter: char) -> bool {
    // Marks that are no letters belong to the letter before them: accents that stand alone.
    letter.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&letter)
}

fn is_joint(letter: char) -> bool {
    matches!(letter, '-' | '\u{2010}' | '\u{2011}' | '\'' | '\u{2019}')
}

fn is_han(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Characters that are words of their own in descriptions of pictures: particles, prepositions, verbs of being.
const ALONE: &str = "的在有是和与及了着被把从向";
/// Likewise, where something stands before them: "草地**上**", but "下雨".
const AFTER: &str = "上下里中";
/// Numbers, which make a word with the measure word after them.
const NUMBERS: &str = "零一二两三四五六七八九十几";
/// What makes a place of the character before it: 上面, 左边, 中间.
const SIDES: &str = "面边方侧间角";

/// The words of a run of Chinese: a number with its measure word, a colour (it ends with 色), a place, particles, and
/// what is between these. Two words with none of these between them stay one.
fn chinese_words(text: &str, run: Range<usize>) -> Vec<Range<usize>> {
    let letters: Vec<(usize, char)> = text[run.clone()]
        .char_indices()
        .map(|(at, letter)| (run.start + at, letter))
        .collect();
    let is = |i: usize, set: &str| {
        letters
            .get(i)
            .is_some_and(|&(_, letter)| set.contains(letter))
    };
    // The numbers of the characters at which words start.
    let mut starts = vec![0];
    let mut i = 0;
    while i < letters.len() {
        let first = starts.last() == Some(&i);
        // How many characters from here on are a word that the rules know.
        let length = if is(i, "左右") && is(i + 1, "上下") && is(i + 2, "角") {
            3
        } else if is(i, "左右上下前后里中") && is(i + 1, SIDES) || first && is(i, NUMBERS) {
            2
        } else if is(i, ALONE) || !first && is(i, AFTER) {
            1
        } else {
            // A colour's last character ends a word, all others are within one.
            i += 1;
            if is(i - 1, "色") {
                starts.push(i);
            }
            continue;
        };
        starts.push(i);
        i = (i + length).min(letters.len());
        starts.push(i);
    }
    starts.push(letters.len());
    let offset = |i: usize| letters.get(i).map_or(run.end, |&(at, _)| at);
    let pairs = starts
        .windows(2)
        .map(|pair| offset(pair[0])..offset(pair[1]));
    pairs.filter(|word| word.start < word.end).collect()
}

/// A text without one of its words: spaces that met are one, and none is left at the ends.
pub fn without(text: &str, word: &Range<usize>) -> String {
    let (before, after) = (&text[..word.start], &text[word.end..]);
    let is_space = |letter: Option<char>| letter.is_none_or(char::is_whitespace);
    let after = match is_space(before.chars().next_back()) && is_space(after.chars().next()) {
        true => after.trim_start(),
        false => after,
    };
    format!("{before}{after}").trim().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Vec<&str> {
        words(text).into_iter().map(|word| &text[word]).collect()
    }

    #[test]
    fn english_words_are_those_between_spaces() {
        assert_eq!(
            of("a red fire-engine, on the cat's left."),
            ["a", "red", "fire-engine", "on", "the", "cat's", "left"]
        );
        assert_eq!(of(" ,. "), [""; 0]);
    }

    #[test]
    fn chinese_words_are_found_by_rules() {
        assert_eq!(
            of("黄色背景上的两只红色乌龟"),
            ["黄色", "背景", "上", "的", "两只", "红色", "乌龟"]
        );
        assert_eq!(
            of("夜空下左上角的一个草莓，粉色渐变背景"),
            [
                "夜空",
                "下",
                "左上角",
                "的",
                "一个",
                "草莓",
                "粉色",
                "渐变背景"
            ]
        );
        assert_eq!(
            of("一只猫在两个苹果的左边"),
            ["一只", "猫", "在", "两个", "苹果", "的", "左边"]
        );
        assert_eq!(of("3D模型 café"), ["3D", "模型", "café"]);
        assert_eq!(of("cafe\u{301}"), ["cafe\u{301}"]);
        assert_eq!(of("\u{300}🌀 猫\u{300}"), ["猫"]);
    }

    #[test]
    fn a_word_is_taken_out_with_one_space() {
        let text = "a red turtle, in a room";
        let found = words(text);
        let out = |word: usize| without(text, &found[word]);
        assert_eq!(out(0), "red turtle, in a room");
        assert_eq!(out(1), "a turtle, in a room");
        assert_eq!(out(2), "a red , in a room");
        assert_eq!(out(5), "a red turtle, in a");
        assert_eq!(without("夜空下的乌龟", &(12..18)), "夜空下的");
        assert_eq!(without("turtle", &(0..6)), "");
    }

    proptest! {
        #[test]
        fn words_are_in_order_and_within_the_text(text in "\\PC{0,60}") {
            let mut end = 0;
            for word in words(&text) {
                prop_assert!(word.start >= end && word.end > word.start);
                prop_assert!(text[word.clone()].contains(char::is_alphanumeric));
                end = word.end;
                let _ = without(&text, &word);
            }
        }
    }
}
