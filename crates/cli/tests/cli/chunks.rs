//! `--chunks`: captions longer than a CLIP or T5 text encoder reads, and models that refuse it.

use impasto::image::Image;

use crate::program::Program;
use crate::references::{published, write_picture};

const LONG: &str =
    "a red turtle on a hat and two yellow dogs in front of a small house with a roof, it's raining";

/// A text encoder of each kind.
const SETS: [&str; 3] = [
    "amused/goldens/plain",
    "meissonic/goldens/halved",
    "llamagen/goldens/t2i_half",
];

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

#[test]
fn long_captions_are_read_in_chunks_and_others_as_without() {
    for set in SETS {
        let program = Program::new();
        let model = published(set);
        let draw = |caption: &str, flags: &[&str], to: &str| {
            let common = [
                "generate", caption, "--seed", "3", "--model", &model, "-o", to,
            ];
            program.run(&[&common[..], flags].concat())
        };
        let drawn = |caption: &str, flags: &[&str], to: &str| {
            let ran = draw(caption, flags, to);
            assert_eq!(ran.code, 0, "{set}: {}", ran.stderr);
        };
        drawn("a hat", &[], "plain.png");
        drawn("a hat", &["--chunks"], "chunks.png");
        assert!(same(&program, "plain.png", "chunks.png"), "{set}");
        let refused = draw(LONG, &[], "none.png").stderr;
        assert!(
            refused.contains("but the model reads") && refused.contains("--chunks"),
            "{refused}"
        );
        drawn(LONG, &["--chunks"], "long.png");
        drawn(LONG, &["--truncate"], "cut.png");
        assert!(!same(&program, "long.png", "cut.png"), "{set}");
        // In every command that reads a caption.
        write_picture(&program, set);
        let model = ["--model", &model, "--chunks"];
        let edit = [
            "edit",
            "in.png",
            "--box",
            "2,2,4,4",
            "--prompt",
            LONG,
            "-o",
            "edited.png",
        ];
        program.expect(&[&edit[..], &model].concat());
        let vary = ["vary", "in.png", "--prompt", LONG, "-o", "varied.png"];
        program.expect(&[&vary[..], &model].concat());
        let pair = ["likelihood", "in.png", "--caption", LONG];
        program.expect(&[&pair[..], &model].concat());
        let explain = ["explain", "in.png", "--prompt", LONG, "-o", "why.html"];
        program.expect(&[&explain[..], &model].concat());
        assert!(program.path("why.html").exists(), "{set}");
        drawn(LONG, &["--chunks", "--explain"], "shown.png");
        assert!(program.path("shown.explain.html").exists(), "{set}");
    }
}

#[test]
fn chunks_are_refused_where_they_make_no_sense() {
    let program = Program::new();
    for set in [
        "dalle_mini/goldens/flax_stacked",
        "janus/goldens/pro",
        "rudalle/goldens/v3",
    ] {
        let draw = ["generate", "a cat", "--chunks", "--model", &published(set)];
        program.refuses(1, &draw, &["CLIP or T5 text encoder"]);
    }
    let classes = published("llamagen/goldens/c2i");
    let draw = ["generate", "3", "--chunks", "--model", &classes];
    program.refuses(1, &draw, &["without a CLIP or T5"]);
    let amused = published(SETS[0]);
    let both = [
        "generate",
        "a",
        "--chunks",
        "--truncate",
        "--model",
        &amused,
    ];
    program.refuses(2, &both, &["cannot be used with"]);
    let endless = LONG.repeat(60);
    let draw = ["generate", endless.as_str(), "--chunks", "--model", &amused];
    program.refuses(1, &draw, &["but the model reads"]);
}
