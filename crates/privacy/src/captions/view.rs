//! A caption as it is searched: compatible forms of letters made equal, with the way back to the original.

use unicode_normalization::UnicodeNormalization;

/// Text after NFKC letter by letter (full-width digits and letters become plain ones), without invisible letters, dashes
/// of all kinds as `-`. Each byte of it knows its place in the original.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub text: String,
    /// For each byte of `text`: where the letter that it comes from starts and ends in the original.
    places: Vec<(usize, usize)>,
}

impl View {
    /// The view of a caption.
    pub fn of(original: &str) -> Self {
        let mut view = View {
            text: String::with_capacity(original.len()),
            places: Vec::with_capacity(original.len()),
        };
        for (start, letter) in original.char_indices() {
            let place = (start, start + letter.len_utf8());
            // As a plain one it would be that of a number.
            if letter == '\u{ff0c}' {
                view.push(letter, place);
                continue;
            }
            for letter in letter.nfkc().filter_map(plain) {
                view.push(letter, place);
            }
        }
        view
    }

    /// The same with runs of `least` or more digits in Chinese words (`一三八…`, `幺`, `〇`) as digits. None where
    /// there is no such run.
    pub fn with_spelled_digits(&self, least: usize) -> Option<Self> {
        let letters: Vec<(usize, char)> = self.text.char_indices().collect();
        let mut view = View {
            text: String::with_capacity(self.text.len()),
            places: Vec::with_capacity(self.text.len()),
        };
        let (mut at, mut found) = (0, false);
        while at < letters.len() {
            let mut end = at;
            let mut words = 0;
            // Digits in both forms may be mixed, and stand apart.
            while let Some(&(_, letter)) = letters.get(end) {
                match digit(letter) {
                    Some(_) => words += 1,
                    None if letter.is_ascii_digit() => {}
                    None if end > at && " -".contains(letter) => {}
                    None => break,
                }
                end += 1;
            }
            let translates = words >= least;
            found |= translates;
            for &(start, letter) in &letters[at..end.max(at + 1)] {
                let shown = match digit(letter) {
                    Some(digit) if translates => digit,
                    _ => letter,
                };
                let (first, _) = self.places[start];
                let (_, last) = self.places[start + letter.len_utf8() - 1];
                view.push(shown, (first, last));
            }
            at = end.max(at + 1);
        }
        found.then_some(view)
    }

    fn push(&mut self, letter: char, place: (usize, usize)) {
        self.text.push(letter);
        self.places
            .extend(std::iter::repeat_n(place, letter.len_utf8()));
    }

    /// The bytes of the original that bytes of the view come from; the view's must not be empty.
    pub fn original(&self, start: usize, end: usize) -> (usize, usize) {
        let first = self.places.get(start).map_or(0, |place| place.0);
        let last = end
            .checked_sub(1)
            .and_then(|end| self.places.get(end))
            .map_or(first, |place| place.1);
        (first, last.max(first))
    }
}

/// Invisible letters are left out, dashes and spaces of all kinds become one.
fn plain(letter: char) -> Option<char> {
    Some(match letter {
        '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}' => return None,
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{2500}' => '-',
        letter if letter.is_whitespace() => ' ',
        letter => letter,
    })
}

fn digit(letter: char) -> Option<char> {
    Some(match letter {
        '零' | '〇' | '洞' => '0',
        '一' | '幺' | '壹' => '1',
        '二' | '两' | '贰' => '2',
        '三' | '叁' => '3',
        '四' | '肆' => '4',
        '五' | '伍' => '5',
        '六' | '陆' => '6',
        '七' | '柒' | '拐' => '7',
        '八' | '捌' => '8',
        '九' | '玖' => '9',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_width_and_invisible_letters_lead_back() {
        let original = "电话：１３８\u{200b}－1";
        let view = View::of(original);
        assert_eq!(view.text, "电话:138-1");
        let start = view.text.find('1').unwrap_or_default();
        let (from, to) = view.original(start, view.text.len());
        assert_eq!(&original[from..to], "１３８\u{200b}－1");
    }

    #[test]
    fn spelled_digits_are_read_in_long_runs_alone() {
        let view = View::of("打幺三八 零零一三 八零零零找我");
        let spelled = view.with_spelled_digits(7);
        assert_eq!(
            spelled.map(|view| view.text).as_deref(),
            Some("打138 0013 8000找我")
        );
        assert!(View::of("三只猫，两只狗").with_spelled_digits(7).is_none());
    }
}
