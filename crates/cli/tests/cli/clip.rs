//! A CLIP through the executable: `embed`, `score`, `generate --best-of`.

use impasto::image::{Format, Image};

use crate::program::{Program, SMALL_CLIP, SMALL_MODEL, clip, model};
use crate::references::{expected, metadata, published, unpack};

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn with_pictures() -> Program {
    let program = Program::new();
    for (name, colour) in [("red.png", [255, 0, 0]), ("blue.png", [0, 0, 255])] {
        let bytes = Image::filled(40, 30, colour).encode(Format::Png, 100);
        std::fs::write(program.path(name), bytes.unwrap()).unwrap();
    }
    program
}

#[test]
fn embeddings_have_length_one_and_give_the_score() {
    let program = with_pictures();
    let report = program.json(&[
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
    let embeddings: Vec<Vec<f64>> = report["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| numbers(&one["embedding"]))
        .collect();
    assert_eq!(report["embeddings"][0]["text"], "a cat");
    assert_eq!(report["embeddings"][2]["image"], "blue.png");
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
    let report = program.json(&templates);
    assert_eq!(report["of"], "red.png");
    let shares: f64 = report["scores"]
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
    // Judged one by one, the same two have the best sum of ranks by the model and by the CLIP.
    let all = drawn(&["--best-of", "6", "-n", "6", "--clip", clip()]);
    let all = all["pictures"].as_array().unwrap();
    let paths = all.iter().map(|picture| picture["path"].as_str().unwrap());
    let paths: Vec<&str> = paths.collect();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let positions = program.json(
        &[
            &["tokens", "encode", "--model", model(), "--json"],
            &paths[..1],
        ]
        .concat(),
    );
    let positions = positions["image_ids"].as_array().unwrap().len() as f64;
    let agreement: Vec<f64> = all
        .iter()
        .map(|of| number(&of["log_likelihood"]) / positions - number(&of["caption_nats"]))
        .collect();
    let scored =
        program.json(&[&["score", "a cat", "--clip", clip(), "--json"], &paths[..]].concat());
    let scored = scored["scores"].as_array().unwrap();
    let cosine = |path: &str| {
        let of = scored.iter().find(|of| of["what"] == path).unwrap();
        number(&of["cosine"])
    };
    let cosines: Vec<f64> = paths.iter().map(|path| cosine(path)).collect();
    let order = impasto::rank::rank_sum(&[agreement.clone(), cosines]);
    assert_eq!(order, [0, 1, 2, 3, 4, 5], "the best comes first");
    // Without a CLIP the model chooses alone.
    let alone = drawn(&["--best-of", "6", "-n", "1"]);
    let best = impasto::rank::rank_sum(&[agreement])[0];
    assert_eq!(alone["pictures"][0]["seed"], all[best]["seed"]);
    assert!(alone["pictures"][0]["clip_score"].is_null());
    for (kept, of_all) in kept.iter().zip(all) {
        assert_eq!(kept["seed"], of_all["seed"]);
        let path = program.path(kept["path"].as_str().unwrap());
        assert!(
            (number(&kept["clip_score"]) - cosine(of_all["path"].as_str().unwrap())).abs() < 1e-5
        );
        let text = impasto::provenance::read_parameters(&std::fs::read(path).unwrap()).unwrap();
        assert!(text.contains("CLIP score: "), "{text}");
    }
}

#[test]
fn a_clip_trains_on_what_a_model_draws() {
    let program = Program::new();
    let train = |pictures: u64, steps: u64, more: &[&'static str]| {
        let config = serde_json::json!({
            "name": "tiny-clip", "licence": "CC0-1.0", "from": SMALL_CLIP,
            "data": {"scenes": {"world": "small", "seed": 5, "family": 4}},
            "drawn": {"by": SMALL_MODEL, "pictures": pictures, "share": 0.5},
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
        &["is a model that draws", "--model"],
    );
}

#[test]
fn published_clips_embed_and_judge_as_the_references_do() {
    for (set, file) in [
        ("hugging_face", ""),
        ("hugging_face_bin", ""),
        ("open_clip", ""),
        ("open_clip_quickgelu", ""),
        ("openai", "/small.pt"),
        ("alone", ""),
    ] {
        let program = Program::new();
        let alone = set == "alone";
        let set = &format!("clip/goldens/{set}");
        let mut clip = published(&format!("{set}{file}"));
        if alone {
            // The file by itself, as OpenAI's package downloads it: the vocabulary is the program's.
            clip = unpack(&program, set, "ViT-B-32.pt");
        }
        let pictures = ["0.png", "1.png"].map(|name| published(&format!("{set}/{name}")));
        let mut captions: Vec<String> = metadata(set, "captions");
        // The empty one, which no command takes.
        assert_eq!(captions.pop().unwrap(), "");
        let mut embed = vec!["embed", "--json", "--clip", &clip];
        for caption in &captions {
            embed.extend(["--text", caption]);
        }
        for picture in &pictures {
            embed.extend(["--image", picture]);
        }
        let report = program.json(&embed);
        let (texts, shape) = expected(set, "text");
        let texts = &texts[..captions.len() * shape[1]];
        let references = [texts, &expected(set, "image").0].concat();
        let references: Vec<&[f32]> = references.chunks(shape[1]).collect();
        let report = report["embeddings"].as_array().unwrap();
        assert_eq!(report.len(), references.len(), "{set}");
        for (one, reference) in report.iter().zip(references) {
            let length = reference
                .iter()
                .map(|value| value * value)
                .sum::<f32>()
                .sqrt();
            for (found, value) in numbers(&one["embedding"]).into_iter().zip(reference) {
                assert!((found - f64::from(value / length)).abs() < 1e-4, "{set}");
            }
        }
        let mut score = vec!["score", "--image", &pictures[1], "--json", "--clip", &clip];
        score.extend(captions.iter().map(String::as_str));
        let report = program.json(&score);
        let (logits, shape) = expected(set, "logits");
        for score in report["scores"].as_array().unwrap() {
            let caption = captions
                .iter()
                .position(|caption| score["what"] == **caption);
            let reference = f64::from(logits[shape[1] + caption.unwrap()]);
            let found = score["logit"].as_f64().unwrap();
            let most = 1e-3 * reference.abs().max(1.0);
            assert!(
                (found - reference).abs() < most,
                "{set} {found} {reference}"
            );
        }
    }
}

#[test]
fn clips_of_dalle_pytorch_judge_as_the_reference_does() {
    for set in ["even", "odd", "half"] {
        let program = Program::new();
        let set = &format!("dalle_pytorch/clip_goldens/{set}");
        let clip = published(set);
        let (values, shape) = expected(set, "pictures");
        let sizes = shape[1] * shape[2] * shape[3];
        let mut names = Vec::new();
        for (number, values) in values.chunks(sizes).enumerate() {
            let chw: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
            let picture = Image::from_chw(&chw, shape[3], shape[2]).unwrap();
            let bytes = picture.encode(Format::Png, 100).unwrap();
            names.push(format!("{number}.png"));
            std::fs::write(program.path(&names[number]), bytes).unwrap();
        }
        let captions: Vec<String> = metadata(set, "captions");
        let mut score = vec![
            "score",
            "--image",
            "1.png",
            "--json",
            "--clip",
            &clip,
            "--truncate",
        ];
        score.extend(captions.iter().map(String::as_str));
        let report = program.json(&score);
        let logits = expected(set, "logits").0;
        for score in report["scores"].as_array().unwrap() {
            let caption = captions
                .iter()
                .position(|caption| score["what"] == **caption);
            let reference = f64::from(logits[captions.len() + caption.unwrap()]);
            let found = score["logit"].as_f64().unwrap();
            assert!(
                (found - reference).abs() < 4e-4,
                "{set} {found} {reference}"
            );
        }
        let mut embed = vec!["embed", "--json", "--clip", &clip, "--truncate"];
        for caption in &captions {
            embed.extend(["--text", caption]);
        }
        for name in &names {
            embed.extend(["--image", name]);
        }
        let report = program.json(&embed);
        let found = report["embeddings"].as_array().unwrap().iter();
        let found: Vec<f64> = found.flat_map(|one| numbers(&one["embedding"])).collect();
        let references = [expected(set, "texts").0, expected(set, "images").0].concat();
        assert_eq!(found.len(), references.len());
        for (found, reference) in found.iter().zip(references) {
            assert!((found - f64::from(reference)).abs() < 1e-4, "{set}");
        }
    }
}

#[test]
fn a_clip_of_dalle_pytorch_chooses_what_its_model_drew() {
    let program = Program::new();
    let model = published("dalle_pytorch/goldens/rotary");
    let clip = published("dalle_pytorch/clip_goldens/even/clip.pt");
    let drawn = program.json(&[
        "generate",
        "a cat",
        "--best-of",
        "4",
        "-n",
        "2",
        "--model",
        &model,
        "--clip",
        &clip,
        "--json",
        "--seed",
        "3",
        "-o",
        "best/",
    ]);
    let scores: Vec<f64> = drawn["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|picture| picture["clip_score"].as_f64().unwrap())
        .collect();
    assert!(scores.len() == 2 && scores[0] >= scores[1], "{scores:?}");
    // A folder of ours judges as the file does.
    let imported = program.run(&["import", &clip, "-o", "ours"]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert!(
        imported.stderr.contains("none missing"),
        "{}",
        imported.stderr
    );
    let embedded = |clip| program.expect(&["embed", "--text", "a cat", "--clip", clip]);
    assert_eq!(embedded(&clip), embedded("ours"));
    let long = "a cat ".repeat(40);
    let refused = ["embed", "--text", &long, "--clip", &clip];
    program.refuses(1, &refused, &["24"]);
    program.refuses(1, &[&refused[..], &["--chunks"]].concat(), &["in pieces"]);
}
