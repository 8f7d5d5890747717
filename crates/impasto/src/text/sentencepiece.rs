//! SentencePiece's models (`spiece.model`; `sentencepiece_model.proto` of github.com/google/sentencepiece) as a
//! `tokenizer.json`: what transformers does where a T5 is published without one.
//!
//! Normaliser, spaces and fallback to bytes are those that the file states, in SentencePiece's order, so that texts have
//! the ids of `SentencePieceProcessor.encode`. Two deviations, which transformers has as well: a text that spells a
//! control symbol (`</s>`, `<pad>`) or a sentinel (`<extra_id_0>`) becomes that id, and one that spells a byte's piece
//! (`<0x41>`) may become that byte.

use std::collections::HashSet;

use base64::Engine;
use prost::Message;
use serde_json::{Value, json};

use crate::error::Reason;

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";
/// What ends a text.
const END: &str = "</s>";
/// The largest file that is read: twice the largest published one of the models that are read.
const LARGEST: usize = 8 << 20;
/// More pieces than any vocabulary has.
const MOST_PIECES: usize = 1 << 20;

/// A piece's kind, `SentencePiece.Type`.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    treat_whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    byte_fallback: bool,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// The fields of `ModelProto` that matter; others are skipped.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

/// The `tokenizer.json` of a model of unigrams, T5's kind, with `sentinels` tokens `<extra_id_0>`, `<extra_id_1>` … after
/// its own pieces, the last of them first, as T5 has them.
///
/// # Errors
/// Where it is no such model, or contradicts itself.
pub fn to_json(bytes: &[u8], sentinels: usize) -> Result<Value, Reason> {
    if bytes.len() > LARGEST {
        let found = bytes.len();
        return Err(format!("has {found} bytes, expected at most {LARGEST}").into());
    }
    let model =
        Model::decode(bytes).map_err(|e| Reason::because("not a model of SentencePiece", e))?;
    let trainer = model.trainer_spec.clone().unwrap_or_default();
    let unknown = check(&model, &trainer)?;
    let known: HashSet<&str> = model.pieces.iter().map(|piece| &piece.piece[..]).collect();
    let sentinels = (0..sentinels)
        .rev()
        .map(|number| format!("<extra_id_{number}>"))
        .filter(|sentinel| !known.contains(&sentinel[..]));
    let sentinels: Vec<String> = sentinels.collect();

    let own = model.pieces.iter();
    let mut vocabulary: Vec<(&str, f64)> = own
        .map(|piece| (&piece.piece[..], f64::from(piece.score)))
        .collect();
    vocabulary.extend(sentinels.iter().map(|sentinel| (&sentinel[..], 0.0)));
    let is_special = |id: usize| match model.pieces.get(id) {
        Some(piece) => [kind::CONTROL, kind::UNKNOWN].contains(&piece.kind()),
        None => true,
    };
    let added: Vec<Value> = vocabulary
        .iter()
        .enumerate()
        .filter(|&(id, _)| is_special(id))
        .map(|(id, (token, _))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let end = vocabulary.iter().position(|&(token, _)| token == END);
    let post_processor = end.map(|id| {
        json!({"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
            "special_tokens": {END: {"id": END, "ids": [id], "tokens": [END]}}})
    });
    let spec = model.normalizer_spec.clone().unwrap_or_default();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers(&spec)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers(&spec, &model)},
        "post_processor": post_processor,
        "decoder": decoder(&spec, trainer.byte_fallback),
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary,
            "byte_fallback": trainer.byte_fallback},
    }))
}

/// Refuses what the library would not refuse, or not with a reason; returns the id of the unknown piece.
fn check(model: &Model, trainer: &TrainerSpec) -> Result<usize, Reason> {
    let pieces = &model.pieces;
    if pieces.is_empty() || pieces.len() > MOST_PIECES {
        let found = pieces.len();
        return Err(format!("has {found} pieces, expected 1 to {MOST_PIECES}").into());
    }
    let kinds = ["unigram", "BPE", "word", "char"];
    match trainer.model_type() {
        1 => {}
        other => {
            let name = usize::try_from(other)
                .ok()
                .and_then(|i| kinds.get(i.checked_sub(1)?));
            let name = name.copied().unwrap_or("unknown");
            return Err(
                format!("is a model of the kind {name}, expected unigram, as T5's are").into(),
            );
        }
    }
    if trainer.treat_whitespace_as_suffix {
        return Err("has spaces at the ends of words, expected them at their beginnings".into());
    }
    let mut seen = HashSet::new();
    let mut unknown = None;
    let mut bytes = 0;
    for (id, piece) in pieces.iter().enumerate() {
        let named = || format!("piece {id}, {:?},", piece.piece);
        if piece.piece.is_empty() || !seen.insert(&piece.piece[..]) {
            return Err(format!("{} is empty or there twice", named()).into());
        }
        if !piece.score.is_finite() {
            return Err(format!("{} has the score {}", named(), piece.score).into());
        }
        match piece.kind() {
            kind::NORMAL | kind::CONTROL | kind::USER_DEFINED => {}
            kind::UNKNOWN if unknown.is_none() => unknown = Some(id),
            kind::UNKNOWN => return Err(format!("{} is the second unknown one", named()).into()),
            kind::BYTE => bytes += 1,
            kind::UNUSED => return Err(format!("{} is unused, which is not read", named()).into()),
            other => return Err(format!("{} is of the unknown kind {other}", named()).into()),
        }
    }
    if trainer.byte_fallback {
        let name = |byte: u8| format!("<0x{byte:02X}>");
        let missing = (0..=u8::MAX)
            .map(name)
            .find(|name| !seen.contains(&name[..]));
        if let Some(name) = missing {
            return Err(format!("falls back to bytes and lacks {name}").into());
        }
    } else if bytes > 0 {
        return Err(format!("has {bytes} bytes as pieces and does not fall back to them").into());
    }
    unknown.ok_or_else(|| "has no unknown piece".into())
}

/// In SentencePiece's order.
fn normalizers(spec: &NormalizerSpec) -> Vec<Value> {
    let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    let mut all = Vec::new();
    if !spec.precompiled_charsmap.is_empty() {
        let map = base64::engine::general_purpose::STANDARD.encode(&spec.precompiled_charsmap);
        all.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if spec.remove_extra_whitespaces() {
        all.push(replace(r"\A +| +\z", ""));
        all.push(replace(" {2,}", " "));
    }
    if spec.escape_whitespaces() {
        all.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
    }
    if spec.add_dummy_prefix() {
        // What follows puts none before a text that begins with one already.
        all.push(replace(&format!(r"\A{SPACE}"), &SPACE.repeat(2)));
    }
    all
}

/// The space before a text, and pieces of the user's, which stay whole.
fn pre_tokenizers(spec: &NormalizerSpec, model: &Model) -> Vec<Value> {
    let mut all = Vec::new();
    if spec.add_dummy_prefix() {
        all.push(json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": false}));
    }
    let pieces = model.pieces.iter();
    let mut whole: Vec<&str> = pieces
        .filter(|piece| piece.kind() == kind::USER_DEFINED)
        .map(|piece| &piece.piece[..])
        .collect();
    whole.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    if !whole.is_empty() {
        let escaped: Vec<_> = whole.into_iter().map(fancy_regex::escape).collect();
        all.push(
            json!({"type": "Split", "pattern": {"Regex": escaped.join("|")},
            "behavior": "Isolated", "invert": false}),
        );
    }
    all
}

fn decoder(spec: &NormalizerSpec, byte_fallback: bool) -> Value {
    let mut all = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
    if byte_fallback {
        all.push(json!({"type": "ByteFallback"}));
    }
    all.push(json!({"type": "Fuse"}));
    if spec.add_dummy_prefix() {
        all.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": all})
}
