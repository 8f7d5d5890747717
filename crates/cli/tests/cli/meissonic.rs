//! The executable with Meissonic, and with a student of it that draws in one pass.

use std::path::{Path, PathBuf};

use impasto::image::Image;

use crate::amused::{holes_of, pictures_of, variations_of};
use crate::program::Program;
use crate::references::{expected, published, write_picture};

const SETS: [&str; 3] = [
    "meissonic/goldens/plain",
    "meissonic/goldens/halved",
    "meissonic/goldens/odd",
];

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

#[test]
fn pictures_are_those_of_the_reference() {
    SETS.into_iter().for_each(pictures_of);
}

#[test]
fn holes_are_drawn_and_pictures_varied() {
    holes_of(SETS[1], "confidence:48");
    variations_of(SETS[0]);
}

#[test]
fn folders_are_imported_and_described() {
    let program = Program::new();
    let set = SETS[1];
    let model = published(set);
    write_picture(&program, set);
    let info = program.expect(&["model", "info", &model]);
    for word in ["Apache-2.0", "1 double and 3 single layers"] {
        assert!(info.contains(word), "{info}");
    }
    let caption = ["caption", "in.png", "--model", &model];
    program.refuses(1, &caption, &["cannot generate captions"]);
    let pair = ["likelihood", "in.png", "--caption", "a red turtle"];
    program.expect(&[&pair[..], &["--model", &model]].concat());
    let import = ["import", &model, "-o", "mine", "--half", "--kind"];
    program.refuses(2, &[&import[..], &["amused"]].concat(), &["another kind"]);
    program.expect(&[&import[..], &["meissonic"]].concat());
    program.expect(&["quantize", "mine", "--to", "int8", "-o", "small"]);
    let report = |name: &str| -> serde_json::Value {
        let draw = [
            "generate",
            "a red turtle",
            "-o",
            "a.png",
            "--json",
            "--model",
        ];
        serde_json::from_str(&program.expect(&[&draw[..], &[name]].concat())).unwrap()
    };
    for name in ["mine", "small"] {
        let report = report(name);
        assert_eq!(report["order"], "confidence:48");
        assert_eq!(report["sampling"]["guidance_scale"], 9.0);
    }
}

/// A folder with the student in its place, and the other parts beside it.
fn student(program: &Program) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let to = to.join(from.file_name().unwrap());
            match from.is_dir() {
                true => copy(&from, &to),
                false => drop(std::fs::copy(&from, to).unwrap()),
            }
        }
    }
    let folder = program.path("student");
    for part in ["vqvae", "text_encoder", "tokenizer", "scheduler"] {
        let from = PathBuf::from(published(SETS[1])).join(part);
        copy(&from, &folder.join(part));
    }
    let from = PathBuf::from(published("meissonic/goldens/student")).join("meissonic");
    copy(&from, &folder.join("meissonic"));
    folder
}

/// Di[M]O: one pass from random codes between masks, without guidance, as the reference's.
#[test]
fn a_student_draws_in_one_pass() {
    let program = Program::new();
    student(&program);
    let run = |arguments: &[&str]| program.expect(&[arguments, &["--model", "student"]].concat());
    let draw = [
        "generate",
        "a red turtle on a hat",
        "--truncate",
        "--seed",
        "3",
        "-o",
    ];
    for (name, temperature) in [("greedy", "0"), ("sampled", "1")] {
        let (ids, _) = expected("meissonic/goldens/student", name);
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let ids = serde_json::to_vec(&ids).unwrap();
        std::fs::write(program.path("ids.json"), ids).unwrap();
        run(&["tokens", "decode", "ids.json", "-o", "b.png"]);
        let flags = ["a.png", "--temperature", temperature, "--json"];
        let report = run(&[&draw[..], &flags].concat());
        assert!(same(&program, "a.png", "b.png"), "{name}");
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["order"], "confidence:1");
        assert_eq!(report["sampling"]["guidance_scale"], 1.0);
    }
    program.expect(&["import", "student", "-o", "mine"]);
    let mine = ["c.png", "--model", "mine"];
    program.expect(&[&draw[..], &mine].concat());
    run(&[&draw[..], &["d.png"]].concat());
    assert!(same(&program, "c.png", "d.png"));
    write_picture(&program, SETS[1]);
    let complete = ["complete", "in.png", "--rows", "3", "-o", "e.png"];
    run(&complete);
    let pair = ["likelihood", "in.png", "--caption", "a red turtle"];
    run(&pair);
    // Its teacher's parts are missing.
    let alone = published("meissonic/goldens/student");
    let draw = ["generate", "a", "--model", &alone];
    program.refuses(1, &draw, &["image tokenizer", "vqvae"]);
}
