//! The forms of English words: inflections, and what a disguise makes of letters.

use std::collections::BTreeSet;

/// A word with the endings that English gives it.
pub(crate) fn inflected(word: &str) -> Vec<String> {
    let mut forms = BTreeSet::from([word.to_owned()]);
    let letters: Vec<char> = word.chars().collect();
    if word.len() < 3 || !word.is_ascii() || letters.iter().any(char::is_ascii_digit) {
        return forms.into_iter().collect();
    }
    let is_vowel = |letter: char| "aeiou".contains(letter);
    let [.., before, last] = letters[..] else {
        return forms.into_iter().collect();
    };
    let mut stems = vec![word.to_owned()];
    let cut = &word[..word.len() - 1];
    match last {
        'e' => stems = vec![cut.to_owned()],
        'y' if !is_vowel(before) => {
            stems.push(format!("{cut}i"));
            forms.insert(format!("{cut}ies"));
        }
        // "stab", "stabbed".
        last if !is_vowel(last)
            && is_vowel(before)
            && !"wxy".contains(last)
            && !letters
                .iter()
                .rev()
                .nth(2)
                .is_some_and(|&letter| is_vowel(letter)) =>
        {
            stems.push(format!("{word}{last}"));
        }
        _ => {}
    }
    forms.insert(format!("{word}s"));
    if "sxzh".contains(last) {
        forms.insert(format!("{word}es"));
    }
    for stem in stems {
        for ending in ["ed", "ing", "er", "ers", "ings"] {
            forms.insert(format!("{stem}{ending}"));
        }
    }
    forms.into_iter().collect()
}

/// `l` as `i`, which look the same in capitals and digits.
pub(crate) fn alike(text: &str) -> String {
    text.replace('l', "i")
}

/// What a text may be that repeats letters three times or more: each of them fewer times.
pub(crate) fn shortened(text: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut letters = text.chars().peekable();
    let mut any = false;
    while let Some(letter) = letters.next() {
        let mut times = 1;
        while letters.next_if_eq(&letter).is_some() {
            times += 1;
        }
        let long = times >= 3;
        any |= long;
        let more = if long && texts.len() < 16 {
            times.min(4)
        } else {
            0
        };
        let longer: Vec<String> = (2..more)
            .flat_map(|times| {
                let repeated = letter.to_string().repeat(times);
                texts
                    .iter()
                    .map(move |text| format!("{text}{repeated}"))
                    .collect::<Vec<_>>()
            })
            .collect();
        for text in &mut texts {
            text.extend(std::iter::repeat_n(letter, if long { 1 } else { times }));
        }
        texts.extend(longer);
    }
    if any { texts } else { Vec::new() }
}

/// Vowels once where they are repeated.
pub(crate) fn single_vowels(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    for letter in text.chars() {
        if !("aeiou".contains(letter) && single.ends_with(letter)) {
            single.push(letter);
        }
    }
    single
}

/// Digits and signs that stand for letters, as the letters.
pub(crate) fn decoded(text: &str) -> String {
    text.chars()
        .map(|letter| letter_of(letter).unwrap_or(letter))
        .collect()
}

pub(crate) fn letter_of(sign: char) -> Option<char> {
    Some(match sign {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '2' => 'z',
        '3' | '€' => 'e',
        '4' | '@' | '^' => 'a',
        '5' | '$' => 's',
        '6' | '9' => 'g',
        '7' | '+' => 't',
        '8' => 'b',
        '(' | '¢' => 'c',
        _ => return None,
    })
}

/// Whether something may be a letter of a word in code.
pub(crate) fn is_code(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '*' || letter_of(letter).is_some()
}

/// Whether a word with stars may be this one: at least half of its letters are there, the first one among them, and a
/// star for a consonant only where there are four letters or more.
pub(crate) fn fits(text: &str, form: &str) -> bool {
    let stars = text.chars().filter(|&letter| letter == '*').count();
    let short = text.len() < 4;
    2 * stars <= text.len()
        && !text.starts_with('*')
        && text
            .chars()
            .zip(form.chars())
            .all(|(letter, of_form)| match letter {
                '*' => !short || "aeiou".contains(of_form),
                letter => letter_of(letter).unwrap_or(letter) == of_form,
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_endings_of_english() {
        for (word, form) in [
            ("stab", "stabbing"),
            ("mutilate", "mutilated"),
            ("body", "bodies"),
            ("lynch", "lynches"),
            ("torture", "torturer"),
            ("kill", "killed"),
        ] {
            assert!(
                inflected(word).iter().any(|found| found == form),
                "{word} {form}"
            );
        }
        assert_eq!(inflected("裸"), ["裸"]);
    }

    #[test]
    fn codes_and_repeated_letters_are_read() {
        assert_eq!(decoded("p0rn $3x"), "porn sex");
        assert!(fits("f*ck", "fuck") && fits("s*x", "sex"));
        assert!(!fits("a*s", "ass") && !fits("***k", "fuck"));
        assert!(shortened("fuuuck").contains(&"fuck".to_owned()));
        assert!(shortened("booob").contains(&"boob".to_owned()));
        assert!(shortened("book").is_empty());
    }
}
