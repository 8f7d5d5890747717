//! A CLIP through the executable: `embed`, `score`, `generate --best-of`.

use impasto::image::{Format, Picture};

use crate::program::{Program, clip, model};

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn with_pictures() -> Program {
    let program = Program::new();
    for (name, colour) in [("red.png", [255, 0, 0]), ("blue.png", [0, 0, 255])] {
        let bytes = Picture::filled(40, 30, colour).encode(Format::Png, 100);
        std::fs::write(program.path(name), bytes.unwrap()).unwrap();
    }
    program
}

#[test]
fn embeddings_have_length_one_and_tell_the_score() {
    let program = with_pictures();
    let told = program.json(&[
        "embed",
        "--text",
        "a cat",
        "--image",
        "red.png",
        "--image",
        "blue.png",
        "--clip",
        clip(),
        "--json",
    ]);
    let embeddings: Vec<Vec<f64>> = told["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| numbers(&one["embedding"]))
        .collect();
    assert_eq!(told["embeddings"][0]["text"], "a cat");
    assert_eq!(told["embeddings"][2]["image"], "blue.png");
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for embedding in &embeddings {
        assert_eq!(embedding.len(), 8);
        assert!((dot(embedding, embedding) - 1.0).abs() < 1e-5);
    }
    let scored = program.json(&[
        "score",
        "a cat",
        "red.png",
        "blue.png",
        "--clip",
        clip(),
        "--json",
    ]);
    let scores = scored["scores"].as_array().unwrap();
    for score in scores {
        let row = if score["what"] == "red.png" { 1 } else { 2 };
        let expected = dot(&embeddings[0], &embeddings[row]);
        assert!((score["cosine"].as_f64().unwrap() - expected).abs() < 1e-5);
    }
    let of = |name: &str| numbers(&scores.iter().map(|score| score[name].clone()).collect());
    let (cosines, shares) = (of("cosine"), of("probability"));
    assert!(cosines[0] >= cosines[1] && shares[0] >= shares[1]);
    assert!((shares[0] + shares[1] - 1.0).abs() < 1e-5);
}

#[test]
fn words_are_sorted_for_a_picture() {
    let program = with_pictures();
    let plain = [
        "score",
        "--image",
        "red.png",
        "cat",
        "dog",
        "bird",
        "--clip",
        clip(),
    ];
    let lines = program.expect(&plain);
    assert_eq!(lines.lines().count(), 3);
    let templates = [
        &plain[..],
        &["--template", "a {}", "--template", "one {}", "--json"],
    ]
    .concat();
    let told = program.json(&templates);
    assert_eq!(told["of"], "red.png");
    let shares: f64 = told["scores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|score| score["probability"].as_f64().unwrap())
        .sum();
    assert!((shares - 1.0).abs() < 1e-5);
}

#[test]
fn the_best_of_many_are_kept_and_say_their_score() {
    let program = Program::new();
    let drawn = |more: &[&str]| {
        let mut all = vec![
            "generate",
            "a cat",
            "--model",
            model(),
            "--seed",
            "3",
            "--json",
            "-o",
            "out/",
        ];
        all.extend(more);
        program.json(&all)
    };
    let kept = drawn(&["--best-of", "6", "-n", "2", "--clip", clip()]);
    let kept = kept["pictures"].as_array().unwrap();
    assert_eq!(kept.len(), 2);
    // Scored one by one, the same two come first.
    let all = drawn(&["-n", "6"]);
    let paths: Vec<String> = all["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|picture| picture["path"].as_str().unwrap().to_owned())
        .collect();
    let mut arguments = vec!["score", "a cat", "--clip", clip(), "--json"];
    arguments.extend(paths.iter().map(String::as_str));
    let scored = program.json(&arguments);
    for (kept, scored) in kept.iter().zip(scored["scores"].as_array().unwrap()) {
        let difference = kept["clip_score"].as_f64().unwrap() - scored["cosine"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5);
        let path = program.path(kept["path"].as_str().unwrap());
        let text = impasto::provenance::read_parameters(&std::fs::read(path).unwrap()).unwrap();
        assert!(text.contains("CLIP score: "), "{text}");
    }
}

#[test]
fn a_clip_trains_on_what_a_model_draws() {
    let program = Program::new();
    let train = |pictures: u64, steps: u64, more: &[&'static str]| {
        let config = serde_json::json!({
            "name": "tiny-clip", "licence": "CC0-1.0", "from": "impasto-clip",
            "data": {"scenes": {"world": "small", "seed": 5, "family": 4}},
            "drawn": {"by": "impasto-mini", "pictures": pictures, "share": 0.5},
            "run": {"steps": steps, "batch_size": 8, "checkpoint_every": 1},
            "validation": 8,
        });
        std::fs::write(program.path("c.json"), config.to_string()).unwrap();
        let mut arguments = vec!["train", "clip", "--config", "c.json", "--out", "out"];
        arguments.extend(more);
        arguments
    };
    program.refuses(1, &train(6, 1, &[]), &["drawn.pictures is 6", "multiple"]);
    let ran = program.run(&train(8, 1, &[]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("drew 8 of 8 pictures"),
        "{}",
        ran.stderr
    );
    let drawn = std::fs::read(program.path("out/drawn.tokens")).unwrap();
    // Going on, the pictures are there; a longer list begins with them.
    let ran = program.run(&train(8, 2, &["--resume"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("drew"), "{}", ran.stderr);
    assert_eq!(
        std::fs::read(program.path("out/drawn.tokens")).unwrap(),
        drawn
    );
    program.expect(&["generate", "a cat", "-o", "picture.png"]);
    let score = program.json(&[
        "score",
        "a cat",
        "picture.png",
        "--clip",
        "out/model",
        "--json",
    ]);
    assert!(score["scores"][0]["cosine"].is_f64());
}

#[test]
fn what_a_clip_can_not_be_asked() {
    let program = with_pictures();
    program.refuses(
        2,
        &["score", "a cat", "--clip", clip()],
        &["got no picture"],
    );
    program.refuses(2, &["embed", "--clip", clip()], &["--text"]);
    program.refuses(
        1,
        &["score", "a cat", "red.png", "--clip", "nowhere"],
        &["nowhere"],
    );
    program.refuses(
        1,
        &["score", "a cat", "none.png", "--clip", clip()],
        &["none.png"],
    );
    program.refuses(
        1,
        &[
            "score",
            "--image",
            "red.png",
            "cat",
            "--template",
            "a photo",
            "--clip",
            clip(),
        ],
        &["template", "{}"],
    );
    program.refuses(
        2,
        &[
            "generate",
            "a cat",
            "--model",
            model(),
            "-n",
            "3",
            "--best-of",
            "2",
            "--clip",
            clip(),
        ],
        &["--best-of 2"],
    );
    // A model that draws is no CLIP.
    program.refuses(
        1,
        &["score", "a cat", "red.png", "--clip", model()],
        &["config.json"],
    );
}
