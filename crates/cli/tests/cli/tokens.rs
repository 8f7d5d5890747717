//! `tokens`, `reconstruct` and `likelihood`, which see the same ids.

use impasto::image::{Format, Image};

use crate::program::{Program, model};

fn with_picture() -> Program {
    let program = Program::new();
    let mut picture = Image::filled(80, 64, [20, 120, 220]);
    for (at, value) in picture.rgb.iter_mut().enumerate() {
        *value = value.wrapping_add((at / 7) as u8);
    }
    let bytes = picture.encode(Format::Png, 100).unwrap();
    std::fs::write(program.path("in.png"), bytes).unwrap();
    program
}

#[test]
fn encode_then_decode_is_reconstruct() {
    let program = with_picture();
    let ids = program.expect(&["tokens", "encode", "in.png", "--model", model(), "--json"]);
    std::fs::write(program.path("ids.json"), &ids).unwrap();
    program.expect(&[
        "tokens",
        "decode",
        "ids.json",
        "-o",
        "a.png",
        "--model",
        model(),
    ]);
    let printed = program.expect(&["reconstruct", "in.png", "-o", "b.png", "--model", model()]);
    assert_eq!(printed, "b.png\n");
    let open = |name| Image::open(program.path(name)).unwrap();
    assert_eq!((open("a.png").width, open("a.png").height), (64, 64));
    assert!(open("a.png") == open("b.png"));

    let ids: serde_json::Value = serde_json::from_str(&ids).unwrap();
    let text = program.expect(&["tokens", "encode", "in.png", "--model", model()]);
    assert_eq!(text.lines().count(), 4);
    let of_text: Vec<u64> = text
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    let of_json: Vec<u64> = ids["image_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert_eq!(of_text, of_json);
}

#[test]
fn likelihood_prints_nats_and_tokens_of_each_picture() {
    let program = with_picture();
    let arguments = [
        "likelihood",
        "in.png",
        "in.png",
        "--caption",
        "a red turtle",
        "--model",
        model(),
    ];
    let text = program.expect(&arguments);
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.starts_with("in.png\ttext -") && text.contains(" nats in 16 tokens"),
        "{text}"
    );
    let report = program.json(&[&arguments[..], &["--json"]].concat());
    let pictures = report["pictures"].as_array().unwrap();
    assert_eq!(pictures[0], pictures[1]);
    // An untrained model is near uniform: 16 ln 32 = 55 nats, within a factor of two.
    let nats = pictures[0]["image_log_likelihood"].as_f64().unwrap();
    assert!((-110.0..-27.0).contains(&nats), "{nats}");
}
