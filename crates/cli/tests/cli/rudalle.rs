//! The executable with ruDALL-E: both versions of it, and without sandwiches.

use impasto::image::Image;

use crate::edit::{changed_only_within, write_photograph};
use crate::program::Program;
use crate::references::{first_row, metadata, published, write_picture};

const SETS: [&str; 3] = [
    "rudalle/goldens/v3",
    "rudalle/goldens/v2",
    "rudalle/goldens/plain",
];

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

#[test]
fn pictures_and_likelihoods_are_those_of_the_reference() {
    for set in SETS {
        let program = Program::new();
        let model = published(set);
        let model = ["--model", model.as_str()];
        let run = |arguments: &[&str]| program.expect(&[arguments, &model].concat());
        let captions: Vec<String> = metadata(set, "captions");
        let caption = captions[0].as_str();
        let decode = |name: &str| {
            let ids = serde_json::to_vec(&first_row(set, name)).unwrap();
            std::fs::write(program.path("ids.json"), ids).unwrap();
            run(&["tokens", "decode", "ids.json", "-o", "b.png"]);
        };
        for (name, guidance) in [("greedy_ids", "1"), ("guided_ids", "3")] {
            decode(name);
            let flags = ["--guidance", guidance, "--temperature", "0", "-o", "a.png"];
            // The reference cuts what is too long.
            let flags = [&["generate", caption, "--truncate"], &flags[..]].concat();
            run(&flags);
            assert!(same(&program, "a.png", "b.png"), "{set} {name}");
        }
        write_picture(&program, set);
        let encoded = run(&["tokens", "encode", "in.png", "--json"]);
        let encoded: serde_json::Value = serde_json::from_str(&encoded).unwrap();
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"), "{set}");
        // Its borders: the upper rows of a picture.
        let borders: Vec<serde_json::Map<String, serde_json::Value>> = metadata(set, "borders");
        let up = borders[0].get("up").and_then(serde_json::Value::as_u64);
        if let (Some(rows), 1) = (up, borders[0].len()) {
            decode("prompted_ids");
            let rows = rows.to_string();
            let begin = ["--begin-with", "in.png", "--begin-rows", &rows];
            let flags = ["--temperature", "0", "--truncate", "-o", "a.png"];
            run(&[&["generate", caption], &begin[..], &flags].concat());
            assert!(same(&program, "a.png", "b.png"), "{set}");
        }
    }
}

#[test]
fn everything_that_is_generic_works() {
    for set in [SETS[0], SETS[1]] {
        let program = Program::new();
        let model = published(set);
        let captions: Vec<String> = metadata(set, "captions");
        let caption = captions[0].as_str();
        write_picture(&program, set);
        let run = |arguments: &[&str]| program.expect(arguments);
        let info = run(&["model", "info", &model]);
        assert!(
            info.contains("Apache-2.0") && info.contains("layers x"),
            "{info}"
        );
        let import = [
            "import", &model, "-o", "mine", "--half", "--kind", "rudalle", "--json",
        ];
        let report = program.json(&import);
        assert_eq!(report["kind"], "rudalle");
        run(&["quantize", "mine", "--to", "int8", "-o", "small"]);
        for name in [model.as_str(), "mine", "small"] {
            let draw = [
                "generate",
                caption,
                "-n",
                "2",
                "--seed",
                "3",
                "--truncate",
                "-o",
                "drawn/",
            ];
            run(&[&draw[..], &["--model", name]].concat());
        }
        let likelihood = [
            "likelihood",
            "in.png",
            "--caption",
            "кот",
            "--model",
            "mine",
        ];
        run(&likelihood);
        let image = write_photograph(&program, "a.png", 100, 70);
        let area = "20,10,30,41";
        let edit = [
            "edit", image, "--box", area, "--prompt", "кот", "--seed", "1",
        ];
        run(&[&edit[..], &["-o", "edited.png", "--model", "mine"]].concat());
        changed_only_within(&program, image, "edited.png", area);
        let vary = [
            "vary", "in.png", "--prompt", "кот", "--seed", "1", "-o", "v.png",
        ];
        run(&[&vary[..], &["--model", "mine"]].concat());
        let words = ["caption", "in.png", "--model", "mine"];
        program.refuses(1, &words, &["cannot generate captions"]);
        let draw = ["generate", "红色的乌龟", "--model", &model];
        program.refuses(1, &draw, &["knows no character of"]);
        let other = ["import", &model, "-o", "x", "--kind", "dalle-mini"];
        program.refuses(2, &other, &["is of another kind"]);
    }
}
