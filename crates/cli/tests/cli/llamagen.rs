//! The executable with LlamaGen: classes and captions.

use impasto::image::Image;

use crate::program::Program;
use crate::references::{first_row, metadata, published, write_picture};

const SETS: [&str; 4] = [
    "llamagen/goldens/t2i",
    "llamagen/goldens/t2i_half",
    "llamagen/goldens/c2i",
    "llamagen/goldens/hub",
];

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

#[test]
fn pictures_are_those_of_the_reference() {
    for set in SETS {
        let program = Program::new();
        let model = published(set);
        // In full precision, as the reference computed with weights that were rounded.
        let model = ["--model", model.as_str(), "--precision", "f32"];
        let run = |arguments: &[&str]| program.expect(&[arguments, &model].concat());
        let captions: Vec<String> = metadata(set, "captions");
        for (name, guidance) in [("greedy_ids", "1"), ("guided_ids", "5")] {
            let ids = serde_json::to_vec(&first_row(set, name)).unwrap();
            std::fs::write(program.path("ids.json"), ids).unwrap();
            run(&["tokens", "decode", "ids.json", "-o", "b.png"]);
            let flags = ["--guidance", guidance, "--temperature", "0", "-o", "a.png"];
            run(&[&["generate", captions[0].as_str()], &flags[..]].concat());
            assert!(same(&program, "a.png", "b.png"), "{set} {name}");
        }
        write_picture(&program, set);
        let encoded = run(&["tokens", "encode", "in.png", "--json"]);
        let encoded: serde_json::Value = serde_json::from_str(&encoded).unwrap();
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"), "{set}");
    }
}

#[test]
fn everything_that_is_generic_works() {
    for set in [SETS[0], SETS[2]] {
        let program = Program::new();
        let model = published(set);
        let captions: Vec<String> = metadata(set, "captions");
        let caption = captions[0].as_str();
        write_picture(&program, set);
        let run = |arguments: &[&str]| program.expect(arguments);
        let info = run(&["model", "info", &model]);
        assert!(info.contains("MIT") && info.contains("layers x"), "{info}");
        run(&["import", &model, "-o", "mine", "--half"]);
        run(&["quantize", "mine", "--to", "int8", "-o", "small"]);
        for name in [model.as_str(), "mine", "small"] {
            let draw = [
                "generate", caption, "-n", "2", "--seed", "3", "-o", "drawn/",
            ];
            run(&[&draw[..], &["--model", name]].concat());
        }
        let likelihood = [
            "likelihood",
            "in.png",
            "--caption",
            caption,
            "--model",
            "mine",
        ];
        run(&likelihood);
        let edit = [
            "edit", "in.png", "--box", "2,2,4,4", "--prompt", caption, "--seed", "1",
        ];
        run(&[&edit[..], &["-o", "edited.png", "--model", "mine"]].concat());
        let vary = [
            "vary", "in.png", "--prompt", caption, "--seed", "1", "-o", "v.png",
        ];
        run(&[&vary[..], &["--model", "mine"]].concat());
        let words = ["caption", "in.png", "--model", "mine"];
        program.refuses(1, &words, &["cannot generate captions"]);
    }
    // What is no class, and what leaves nothing to read.
    let program = Program::new();
    let classes = published(SETS[2]);
    let draw = ["generate", "a cat", "--model", &classes];
    program.refuses(1, &draw, &["expected the number of one, 0 to 6"]);
    let captions = published(SETS[0]);
    let draw = ["generate", "红色的乌龟", "--model", &captions];
    program.refuses(1, &draw, &["no Chinese characters"]);
}
