//! Numbers: identity, cards, accounts, telephones.

use std::ops::Range;

use regex::Regex;

use super::checksums::{iban, payment_card, resident_identity, social_security};
use super::{Category, pattern};

#[derive(Debug)]
pub(super) struct Numbers {
    /// Digits with single separators, and a letter at the end as identity numbers have it.
    run: Regex,
    iban: Regex,
    passport: Regex,
    mobile: Regex,
    landline: Regex,
    service: Regex,
    international: Regex,
    american: Regex,
    british: Regex,
    /// Any number that is called a telephone number.
    named: Regex,
    /// Digits in English words.
    spelled: Regex,
}

/// Words before a number that say it is a telephone's, within a few letters.
const PHONE_WORDS: &str = r"(?-u:\b)(?:tel|telephone|phone|phones|cell|cellphone|mobile|call|called|whatsapp|fax|text me|sms|contact|hotline)(?-u:\b)|电话|手机|座机|联系方式|联系|致电|来电|热线|微信|传真|拨打|号码|打给";
const SPELLED_DIGIT: &str = "(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)";
/// Words right before a number that say it is none of a person's.
const HARMLESS: [&str; 40] = [
    "seed",
    "sku",
    "isbn",
    "issn",
    "ean",
    "upc",
    "model",
    "item",
    "part",
    "part no",
    "serial",
    "serial number",
    "product",
    "product no",
    "order",
    "order no",
    "invoice",
    "tracking",
    "version",
    "lot",
    "batch",
    "art no",
    "$",
    "€",
    "£",
    "¥",
    "usd",
    "eur",
    "rmb",
    "种子",
    "货号",
    "型号",
    "编号",
    "订单号",
    "订单",
    "条码",
    "序列号",
    "批号",
    "价格",
    "版本",
];

impl Numbers {
    pub fn new() -> Self {
        Numbers {
            run: pattern(r"\d(?:[ \-]?\d){8,22}(?:[ \-]?[Xx])?"),
            iban: pattern(r"(?-u:\b)[A-Z]{2}\d{2} ?[A-Z0-9]{2,4}[A-Z0-9 ]{7,40}"),
            passport: pattern(
                r"(?i)(?:护照|passport)[^0-9A-Za-z]{0,4}(?:号码?|number|no|nr|#)?[^0-9A-Za-z]{0,6}(?:is |为|是)?[ ::]{0,3}([A-Z]{1,2}\d{7,8}|\d{9})",
            ),
            mobile: pattern(r"(?:(?:\+|00)\s?86[ \-.]?|86[ \-])?1[ \-.]?[3-9](?:[ \-.]?\d){9}"),
            landline: pattern(
                r"(?:\(0\d{2,3}\) ?|0\d{2,3}[ \-])[2-9]\d{2,3}[ \-]?\d{4}(?:(?:-| ?转 ?)\d{1,5})?",
            ),
            service: pattern(r"(?:400|800)(?:-\d{3}-\d{4}|-\d{4}-\d{3}|-\d{7}| \d{3} \d{4})"),
            international: pattern(r"(?:\+|(?-u:\b)00)[1-9]\d{0,2}(?:[ \-.]?\(?\d{1,5}\)?){2,7}"),
            american: pattern(
                r"(?:\+?1[ \-.])?(?:\([2-9]\d{2}\) ?[2-9]\d{2}[\-. ]\d{4}|[2-9]\d{2}-[2-9]\d{2}-\d{4}|[2-9]\d{2}\.[2-9]\d{2}\.\d{4}|[2-9]\d{2} [2-9]\d{2}[ \-]\d{4})",
            ),
            british: pattern(
                r"\(?0(?:7\d{3}\)?[ \-]?\d{3}[ \-]?\d{3}|20\)?[ \-]?\d{4}[ \-]?\d{4}|1\d{2,3}\)?[ \-]\d{3}[ \-]?\d{3,4})",
            ),
            spelled: pattern(&format!(
                r"(?i)(?-u:\b){SPELLED_DIGIT}(?:[ ,\-]{{1,2}}{SPELLED_DIGIT}){{6,14}}(?-u:\b)"
            )),
            named: pattern(&format!(
                r"(?i)(?:{PHONE_WORDS})[^0-9]{{0,12}}(\+?\(?\d(?:[ \-.()]{{0,2}}\d){{6,14}})"
            )),
        }
    }

    pub fn find(&self, text: &str, mut found: impl FnMut(Category, Range<usize>)) {
        for place in whole(&self.run, text) {
            let written = &text[place.clone()];
            let compact: String = written
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .collect();
            if is_identity(text, &place, &compact) {
                found(Category::Identity, place);
            } else if payment_card(&compact) && !is_harmless(text, place.start) {
                found(Category::Card, place);
            } else {
                // A number that stands beside another one: the groups of a card or an identity number.
                self.parts(written, |category, part| {
                    found(category, place.start + part.start..place.start + part.end);
                });
            }
        }
        for place in self.iban.find_iter(text) {
            if let Some(end) = iban_end(place.as_str()) {
                found(Category::Account, place.start()..place.start() + end);
            }
        }
        for captures in self.passport.captures_iter(text) {
            if let Some(number) = captures.get(1)
                && is_bounded(text, &number.range())
            {
                found(Category::Identity, number.range());
            }
        }
        self.phones(text, |place| found(Category::Phone, place));
    }

    /// Cards and identity numbers within a longer run of digits, at the borders of its groups.
    fn parts(&self, written: &str, mut found: impl FnMut(Category, Range<usize>)) {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut start = 0;
        for (at, _) in written
            .match_indices([' ', '-'])
            .chain([(written.len(), "")])
        {
            groups.push(start..at);
            start = at + 1;
        }
        if groups.len() < 2 {
            return;
        }
        let mut first = 0;
        while first < groups.len() {
            let mut next = first + 1;
            for last in (first..groups.len()).rev() {
                let part = groups[first].start..groups[last].end;
                if part.len() == written.len() {
                    continue;
                }
                let compact: String = written[part.clone()]
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .collect();
                if resident_identity(&compact) {
                    found(Category::Identity, part);
                } else if compact.len() > 13 && payment_card(&compact) {
                    found(Category::Card, part);
                } else {
                    continue;
                }
                next = last + 1;
                break;
            }
            first = next;
        }
    }

    fn phones(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        for place in whole(&self.mobile, text) {
            if !is_harmless(text, place.start) {
                found(place);
            }
        }
        for pattern in [&self.landline, &self.service, &self.american, &self.british] {
            for place in whole(pattern, text) {
                if !is_harmless(text, place.start) {
                    found(place);
                }
            }
        }
        for place in whole(&self.international, text) {
            let digits = digits(&text[place.clone()]);
            if is_international(&digits) && !is_harmless(text, place.start) {
                found(place);
            }
        }
        for place in self.spelled.find_iter(text) {
            // Not someone who counts.
            if !place
                .as_str()
                .to_lowercase()
                .contains("one two three four five six")
            {
                found(place.range());
            }
        }
        for captures in self.named.captures_iter(text) {
            let Some(number) = captures.get(1) else {
                continue;
            };
            let place = number.range();
            let written = &text[place.clone()];
            let between = &text[captures.get(0).map_or(0, |all| all.start())..place.start];
            let harmless = is_harmless(text, place.start)
                || is_date_or_measure(written)
                || HARMLESS
                    .iter()
                    .any(|word| word.len() > 3 && between.to_lowercase().contains(word));
            if !harmless && is_bounded(text, &place) && digits(written).len() <= 15 {
                found(place);
            }
        }
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// Matches that no digit or letter touches.
fn whole<'a>(pattern: &'a Regex, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    pattern
        .find_iter(text)
        .map(|place| place.range())
        .filter(|place| is_bounded(text, place))
}

/// Whether a number ends where the match does: no digit, plain letter or decimal part touches it.
fn is_bounded(text: &str, place: &Range<usize>) -> bool {
    let mut before = text[..place.start].chars().rev();
    let mut after = text[place.end..].chars();
    let starts = match before.next() {
        Some(letter) if letter.is_ascii_alphanumeric() || letter == '_' => false,
        Some('.' | '-' | '/' | ',') => !before.next().is_some_and(|letter| letter.is_ascii_digit()),
        _ => true,
    };
    let ends = match after.next() {
        Some(letter) if letter.is_ascii_alphanumeric() || letter == '_' => false,
        Some('.' | '-' | '/' | ',') => !after.next().is_some_and(|letter| letter.is_ascii_digit()),
        _ => true,
    };
    starts && ends
}

/// Whether a number is named as something else than a person's right before it.
fn is_harmless(text: &str, start: usize) -> bool {
    let before: String = text[..start]
        .chars()
        .rev()
        .take(24)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    let before = before.to_lowercase();
    let before = before.trim_end_matches(|letter: char| " .:#=-(\"'是为".contains(letter));
    let before = before.strip_suffix(" is").unwrap_or(before).trim_end();
    HARMLESS.iter().any(|word| {
        before.strip_suffix(word).is_some_and(|rest| {
            // "seed", not "linseed".
            !word.is_ascii()
                || !rest
                    .chars()
                    .next_back()
                    .is_some_and(|c| c.is_ascii_alphanumeric())
        })
    })
}

fn is_identity(text: &str, place: &Range<usize>, compact: &str) -> bool {
    if resident_identity(compact) {
        return true;
    }
    let written = &text[place.clone()];
    let before = &text[..place.start];
    let near: String = before
        .chars()
        .rev()
        .take(24)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    let near = near.to_lowercase();
    let called = near.contains("ssn") || near.contains("social security");
    if social_security(compact) {
        let bytes = written.as_bytes();
        let grouped = bytes.len() == 11 && bytes[3] == b'-' && bytes[6] == b'-';
        return grouped || called;
    }
    // The numbers before 1999: no check digit, so they have to be named.
    compact.len() == 15
        && ["身份证", "证件号"].iter().any(|word| near.contains(word))
        && resident_identity_date(compact)
}

fn resident_identity_date(digits: &str) -> bool {
    let number = |range: Range<usize>| digits.get(range).and_then(|text| text.parse::<u32>().ok());
    matches!(number(8..10), Some(1..=12)) && matches!(number(10..12), Some(1..=31))
}

/// Where an IBAN at the start of `text` ends: as many letters as its country's have, single spaces not counted.
fn iban_end(text: &str) -> Option<usize> {
    let mut compact = String::new();
    let mut last_space = false;
    for (at, letter) in text.char_indices() {
        if letter == ' ' {
            if last_space {
                return None;
            }
            last_space = true;
            continue;
        }
        last_space = false;
        compact.push(letter);
        if iban(&compact) {
            let end = at + 1;
            let ends = text[end..]
                .chars()
                .next()
                .is_none_or(|next| !next.is_ascii_alphanumeric());
            return ends.then_some(end);
        }
    }
    None
}

/// Whether digits after a `+` or `00` are a country's code and a number of the length that numbers have (E.164).
fn is_international(digits: &str) -> bool {
    let digits = digits.strip_prefix("00").unwrap_or(digits);
    if !(9..=15).contains(&digits.len()) {
        return false;
    }
    let code = |length: usize| {
        digits
            .get(..length)
            .and_then(|code| code.parse::<u32>().ok())
    };
    if digits.starts_with('1') {
        let area = digits.as_bytes()[1];
        return digits.len() == 11 && area >= b'2';
    }
    let two = matches!(
        code(2),
        Some(
            7
            | 20
            | 27
            | 30..=34
            | 36
            | 39..=41
            | 43..=49
            | 51..=58
            | 60..=66
            | 81
            | 82
            | 84
            | 86
            | 90..=95
            | 98,
        )
    );
    let three = matches!(
        code(3),
        Some(211..=299 | 350..=389 | 420..=423 | 500..=599 | 670..=692 | 850..=886 | 960..=998)
    );
    two || three || digits.starts_with('7')
}

/// Whether what follows a word for telephones is a date or a size all the same.
fn is_date_or_measure(written: &str) -> bool {
    let parts: Vec<&str> = written.split(['-', '.', ' ', '/']).collect();
    match parts[..] {
        [year, month, day] if year.len() == 4 && month.len() <= 2 && day.len() <= 2 => {
            year.starts_with("19") || year.starts_with("20")
        }
        [day, month, year] if year.len() == 4 && month.len() <= 2 && day.len() <= 2 => {
            year.starts_with("19") || year.starts_with("20")
        }
        [from, to] => {
            from.len() == 4
                && to.len() == 4
                && from < to
                && from.starts_with(['1', '2'])
                && to.starts_with(['1', '2'])
        }
        _ => false,
    }
}
