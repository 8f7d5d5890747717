#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

const GOLDENS: &str = include_str!("../../import/dalle_mini/goldens/captions.json");
const WORDS: &[u8] = include_bytes!("../../import/dalle_mini/goldens/enwiki-words-frequency.txt");

fn normalizer() -> TextNormalizer {
    TextNormalizer::new(Some(WordFrequencies::parse(WORDS).unwrap()))
}

/// `reference/write_dalle_mini_goldens.py` wrote what dalle-mini's own code makes of the captions.
#[test]
fn captions_are_normalised_as_the_original_does() {
    let captions: Vec<(String, String)> = serde_json::from_str(GOLDENS).unwrap();
    assert!(captions.len() >= 20);
    for (caption, expected) in captions {
        assert_eq!(normalizer().normalize(&caption), expected, "{caption:?}");
    }
}

#[test]
fn without_words_a_hashtag_only_loses_its_mark() {
    let normalizer = TextNormalizer::new(None);
    assert_eq!(normalizer.normalize("#SunsetCat # x"), " sunsetcat x");
}

#[test]
fn a_list_of_words_without_words_is_refused() {
    for bad in [&b""[..], b"the 5\n\nof 3\n", b"\xff\xfe"] {
        assert!(WordFrequencies::parse(bad).is_err());
    }
}

/// Each would take minutes if a step were quadratic.
#[test]
fn long_texts_take_no_longer_than_they_are() {
    for sign in [
        "<",
        "a.",
        "#",
        "'",
        ",",
        "[1]",
        "http ",
        "👍🏽",
        "<person> and ",
    ] {
        let text = sign.repeat(200_000 / sign.len());
        assert!(normalizer().normalize(&text).is_ascii());
    }
}

proptest! {
    #[test]
    fn any_text_becomes_ascii_that_begins_with_a_space(text in any::<String>()) {
        let normalised = normalizer().normalize(&text);
        prop_assert!(normalised.is_ascii() && normalised.starts_with(' '));
        prop_assert!(!normalised[1..].starts_with(' ') && (normalised == " " || !normalised.ends_with(' ')));
    }

    #[test]
    fn the_signs_that_it_looks_at_never_panic(text in "[<>a'\"#,.\\[\\]0-9 /\\-_andhtps]{0,60}") {
        let normalised = normalizer().normalize(&text);
        prop_assert!(!normalised.contains('#') && !normalised.contains('_'));
    }
}
