#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// `reference/write_clip_goldens.py` made these with open_clip and `transformers`: a small vocabulary of our
/// own in each published format, a thousand captions and their ids.
const LIST: &[u8] = include_bytes!("goldens/bpe_simple_vocab_16e6.txt.gz");
const VOCABULARY: &[u8] = include_bytes!("goldens/vocab.json");
const MERGES: &[u8] = include_bytes!("goldens/merges.txt");
const JSON: &[u8] = include_bytes!("goldens/tokenizer.json");
const CAPTIONS: &[u8] = include_bytes!("goldens/captions.json.gz");

#[derive(Deserialize)]
struct Captions {
    vocab_size: usize,
    captions: Vec<String>,
    openai: Vec<Vec<u32>>,
    /// Where they differ from OpenAI's.
    transformers: BTreeMap<usize, Vec<u32>>,
}

fn captions() -> Captions {
    serde_json::from_slice(&gzip::unpack(CAPTIONS, 1 << 24).unwrap()).unwrap()
}

fn tokenizer() -> ClipTokenizer {
    ClipTokenizer::from_merges(LIST, captions().vocab_size, Cleaning::OpenAi).unwrap()
}

#[test]
fn ids_are_those_of_openais_tokenizer() {
    let tokenizer = tokenizer();
    let goldens = captions();
    assert_eq!(tokenizer.vocab_size(), goldens.vocab_size);
    for (caption, expected) in goldens.captions.iter().zip(&goldens.openai) {
        assert_eq!(&tokenizer.encode(caption).unwrap(), expected, "{caption:?}");
    }
}

#[test]
fn ids_are_those_of_transformers() {
    let cleaning = Cleaning::Transformers;
    let goldens = captions();
    for tokenizer in [
        ClipTokenizer::from_json(JSON, cleaning).unwrap(),
        ClipTokenizer::from_vocabulary(VOCABULARY, MERGES, cleaning).unwrap(),
    ] {
        for (i, caption) in goldens.captions.iter().enumerate() {
            let expected = goldens.transformers.get(&i).unwrap_or(&goldens.openai[i]);
            assert_eq!(&tokenizer.encode(caption).unwrap(), expected, "{caption:?}");
        }
    }
}

#[test]
fn a_saved_tokenizer_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    tokenizer.save(folder.path()).unwrap();
    let size = tokenizer.vocab_size();
    let loaded = ClipTokenizer::load(folder.path(), size, Cleaning::OpenAi).unwrap();
    assert_eq!(
        (loaded.start(), loaded.end(), loaded.vocab_size()),
        (tokenizer.start(), tokenizer.end(), size)
    );
    for caption in &captions().captions[..50] {
        assert_eq!(
            loaded.encode(caption).unwrap(),
            tokenizer.encode(caption).unwrap()
        );
    }
    // Saved in the form that others read: it is a whole tokenizer of its own.
    let whole = Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    let encoding = whole.encode("a RED  turtle", true).unwrap();
    let expected = tokenizer.encode_caption("a red turtle", 77, LongCaption::Refuse);
    assert_eq!(encoding.get_ids(), expected.unwrap().concat());
}

#[test]
fn long_captions_are_refused_cut_or_taken_in_pieces() {
    let tokenizer = tokenizer();
    let caption = "a photo of a cat, a dog and a turtle under the mountain";
    let ids = tokenizer.encode(caption).unwrap();
    let (start, end) = (tokenizer.start(), tokenizer.end());
    let limit = 9;
    let error = tokenizer
        .encode_caption(caption, limit, LongCaption::Refuse)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("{} tokens but the model reads 9", ids.len() + 2)),
        "{error}"
    );
    let cut = tokenizer
        .encode_caption(caption, limit, LongCaption::Truncate)
        .unwrap();
    assert_eq!(cut, [[&[start], &ids[..7], &[end]].concat()]);
    let pieces = tokenizer
        .encode_caption(caption, limit, LongCaption::Chunks)
        .unwrap();
    assert!(pieces.len() > 1);
    let mut whole = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        assert!(piece.len() <= limit && piece[0] == start && piece[piece.len() - 1] == end);
        let inner = &piece[1..piece.len() - 1];
        whole.extend_from_slice(inner);
        // No word lies in two pieces.
        let last = tokenizer.tokenizer.id_to_token(inner[inner.len() - 1]);
        assert!(last.unwrap().ends_with(WORD_END), "piece {i}");
    }
    assert_eq!(whole, ids);
    for long in [LongCaption::Refuse, LongCaption::Chunks] {
        let short = tokenizer.encode_caption("a cat", 77, long).unwrap();
        assert_eq!(short.len(), 1);
        assert!(tokenizer.encode_caption("a cat", 2, long).is_err());
    }
    // A word longer than the model reads is cut somewhere.
    let word = "q".repeat(40);
    let pieces = tokenizer.encode_caption(&word, limit, LongCaption::Chunks);
    assert!(pieces.unwrap().len() > 1);
}

#[test]
fn a_text_that_spells_a_special_token_is_only_text() {
    let tokenizer = tokenizer();
    for name in [STARTS, ENDS].concat() {
        let ids = tokenizer.encode(name).unwrap();
        assert!(ids.len() > 2 && !ids.contains(&tokenizer.end()), "{name}");
    }
}

#[test]
fn damaged_vocabularies_are_refused() {
    let cleaning = Cleaning::OpenAi;
    let size = captions().vocab_size;
    let error = |result: Result<ClipTokenizer>| result.unwrap_err().to_string();
    let message = error(ClipTokenizer::from_merges(LIST, size + 1, cleaning));
    assert!(
        message.contains(&format!("expected {}", size + 1 - 514)),
        "{message}"
    );
    assert!(ClipTokenizer::from_merges(LIST, 3, cleaning).is_err());
    assert!(ClipTokenizer::from_merges(&LIST[..LIST.len() / 2], size, cleaning).is_err());
    assert!(ClipTokenizer::from_merges(b"#\nab", 515, cleaning).is_err());
    let text = std::str::from_utf8(VOCABULARY).unwrap();
    for (from, to) in [("<|endoftext|>", "<|end|>"), ("\"a</w>\"", "\"a<w>\"")] {
        let damaged = text.replace(from, to);
        assert!(damaged != text);
        let result = ClipTokenizer::from_vocabulary(damaged.as_bytes(), MERGES, cleaning);
        assert!(error(result).contains("lacks the"));
    }
    assert!(ClipTokenizer::from_vocabulary(VOCABULARY, b"a b c", cleaning).is_err());
    // A merge of what the vocabulary lacks.
    let merges = "中 x";
    assert!(ClipTokenizer::from_vocabulary(VOCABULARY, merges.as_bytes(), cleaning).is_err());
    assert!(ClipTokenizer::from_json(&JSON[..JSON.len() / 2], cleaning).is_err());
    let folder = tempfile::tempdir().unwrap();
    let message = error(ClipTokenizer::load(folder.path(), size, cleaning));
    assert!(message.contains("text tokenizer not found"), "{message}");
}
