//! T5's tokenizer of SentencePiece's model alone, against the ids of `reference/write_sentencepiece_goldens.py`.

#![allow(clippy::unwrap_used)]
use super::*;

use proptest::prelude::*;
use serde_json::Value;

use crate::import::damage::damage;
use crate::text::sentencepiece::to_json;

const T5: &[u8] = include_bytes!("../sentencepiece_goldens/t5/spiece.model");
const BYTES: &[u8] = include_bytes!("../sentencepiece_goldens/bytes/spiece.model");

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Expected {
    pieces: usize,
    goldens: Vec<Golden>,
    #[serde(default)]
    with_sentinels: Vec<Golden>,
}

fn tokenizer(model: &[u8], sentinels: usize) -> Tokenizer {
    T5Tokenizer::from_sentencepiece(model, sentinels)
        .unwrap()
        .tokenizer
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let sets: [(&[u8], &[u8]); 2] = [
        (
            T5,
            include_bytes!("../sentencepiece_goldens/t5/expected.json"),
        ),
        (
            BYTES,
            include_bytes!("../sentencepiece_goldens/bytes/expected.json"),
        ),
    ];
    for (model, expected) in sets {
        let expected: Expected = serde_json::from_slice(expected).unwrap();
        let tokenizer_alone = tokenizer(model, 0);
        assert_eq!(tokenizer_alone.get_vocab_size(true), expected.pieces);
        assert!(expected.goldens.len() > 200);
        for Golden { text, ids: wanted } in &expected.goldens {
            assert_eq!(&ids(&tokenizer_alone, text), wanted, "{text:?}");
        }
        // Of texts that spell special tokens, those of transformers.
        let with_sentinels = tokenizer(model, SENTINELS);
        for Golden { text, ids: wanted } in &expected.with_sentinels {
            assert_eq!(&ids(&with_sentinels, text), wanted, "{text:?}");
        }
    }
}

#[test]
fn a_folder_with_the_model_alone_is_read_and_saved_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let error = T5Tokenizer::load(folder.path(), 1000)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokenizer.json or spiece.model"), "{error}");
    let path = folder.path().join("spiece.model");
    std::fs::write(&path, T5).unwrap();
    let read = |known: usize| T5Tokenizer::load(folder.path(), known);
    let vocabulary = |known: usize| read(known).unwrap().tokenizer.get_vocab_size(true);
    // As many sentinels as the model has rows for; a config may say how many there are.
    assert_eq!(
        (vocabulary(1000), vocabulary(120), vocabulary(97)),
        (197, 120, 97)
    );
    let error = read(96).unwrap_err().to_string();
    assert!(
        error.contains("spiece.model") && error.contains("has id 96"),
        "{error}"
    );
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"extra_ids": 7}"#).unwrap();
    assert_eq!(vocabulary(1000), 104);
    assert!(read(100).is_err());
    std::fs::write(&config, r#"{"extra_ids": 99999999}"#).unwrap();
    assert!(read(1000).unwrap_err().to_string().contains("extra_ids"));
    std::fs::remove_file(config).unwrap();

    let text = read(1000).unwrap();
    let caption = "A red turtle &amp; two <b>cats</b> on a hat";
    let ids = text.encode_caption(caption, 64, false).unwrap();
    assert_eq!(ids.last(), Some(&1));
    let other = tempfile::tempdir().unwrap();
    text.save(other.path()).unwrap();
    let saved = T5Tokenizer::load(other.path(), 197).unwrap();
    assert_eq!(saved.encode_caption(caption, 64, false).unwrap(), ids);
    // A tokenizer.json comes first.
    std::fs::write(&path, b"damaged").unwrap();
    assert!(
        read(1000)
            .unwrap_err()
            .to_string()
            .contains("not a model of SentencePiece")
    );
    text.save(folder.path()).unwrap();
    assert_eq!(
        read(1000)
            .unwrap()
            .encode_caption(caption, 64, false)
            .unwrap(),
        ids
    );
}

#[test]
fn texts_come_back_from_their_ids() {
    let bytes = tokenizer(BYTES, 0);
    for text in ["a red turtle", "红色的乌龟 🐢\t", "  two  spaces "] {
        assert_eq!(bytes.decode(&ids(&bytes, text), true).unwrap(), text);
    }
    let t5 = tokenizer(T5, 0);
    let caption = "two cats and three dogs";
    assert_eq!(t5.decode(&ids(&t5, caption), true).unwrap(), caption);
}

/// A field of a message, and its value in bytes.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut all = vec![number << 3 | 2, value.len() as u8];
    all.extend(value);
    all
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let score = [&[2 << 3 | 5], &score.to_le_bytes()[..]].concat();
    field(
        1,
        &[field(1, text.as_bytes()), score, vec![3 << 3, kind]].concat(),
    )
}

/// A model of letters alone, 30 pieces.
pub(crate) fn letters() -> Vec<u8> {
    let marks = [("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("\u{2581}", 1)];
    let marks = marks.map(|(text, kind)| piece(text, if kind == 1 { -2.0 } else { 0.0 }, kind));
    let letters = ('a'..='z').map(|letter| piece(&letter.to_string(), -3.0, 1));
    marks.into_iter().chain(letters).flatten().collect()
}

#[test]
fn what_is_no_such_model_is_refused_with_its_reason() {
    let whole = [piece("<unk>", 0.0, 2), piece("a", -1.0, 1)].concat();
    assert!(to_json(&whole, 3).is_ok());
    let with = |more: Vec<u8>| [whole.clone(), more].concat();
    // The trainer's fields: what kind of a model it is, spaces behind words, bytes for unknown characters.
    let trainer = |fields: &[u8]| with(field(2, fields));
    for (model, part) in [
        (vec![], "has 0 pieces"),
        (vec![b'{'; 9], "not a model of SentencePiece"),
        (piece("a", -1.0, 1), "no unknown piece"),
        (with(piece("a", -2.0, 1)), "there twice"),
        (with(piece("", -2.0, 1)), "is empty"),
        (with(piece("b", f32::NAN, 1)), "has the score NaN"),
        (with(piece("b", -1.0, 2)), "second unknown"),
        (with(piece("b", -1.0, 5)), "is unused"),
        (with(piece("b", -1.0, 9)), "of the unknown kind 9"),
        (with(piece("<0x41>", 0.0, 6)), "does not fall back"),
        (trainer(&[3 << 3, 2]), "of the kind BPE"),
        (trainer(&[3 << 3, 77]), "of the kind unknown"),
        (trainer(&[0xc0, 1, 1]), "spaces at the ends"),
        (trainer(&[0x98, 2, 1]), "lacks <0x00>"),
        (vec![0; 9 << 20], "expected at most"),
    ] {
        let error = to_json(&model, 3).unwrap_err().to_string();
        assert!(
            error.contains(part) && !error.contains('\n'),
            "{part}: {error}"
        );
    }
    // A map of characters that leads nowhere is refused before the library runs it.
    let map = field(3, &field(2, &[4, 0, 0, 0, 1, 2, 3, 255]));
    let error = T5Tokenizer::from_sentencepiece(&with(map), 0).unwrap_err();
    assert!(error.to_string().contains("damaged normaliser"), "{error}");
    // T5's marks are needed to read captions.
    let error = T5Tokenizer::from_sentencepiece(&whole, 0).unwrap_err();
    assert!(
        error.to_string().contains("lacks the token </s>"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn damaged_models_are_errors_or_read_captions(damage in damage(), large in any::<bool>()) {
        let model = if large { T5 } else { BYTES };
        match T5Tokenizer::from_sentencepiece(&damage.of(model.to_vec()), 5) {
            Ok(text) => drop(text.encode_caption("a red turtle on a hat, ½ café", 64, true)),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}

/// What the document says of a model without a normaliser is SentencePiece's own defaults.
#[test]
fn defaults_are_those_of_the_format() {
    let model = [piece("<unk>", 0.0, 2), piece("\u{2581}a", -1.0, 1)].concat();
    let document = to_json(&model, 0).unwrap();
    let kinds = |at: &Value| -> Vec<String> {
        let all = at.as_array().unwrap().iter();
        all.map(|part| part["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        kinds(&document["normalizer"]["normalizers"]),
        ["Replace"; 4]
    );
    assert_eq!(
        kinds(&document["pre_tokenizer"]["pretokenizers"]),
        ["Metaspace"]
    );
    assert_eq!(document["model"]["unk_id"], 0);
}
