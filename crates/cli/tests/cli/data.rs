//! `data` and `eval` on the world that needs no font.

use crate::program::{Program, model};

#[test]
fn scenes_are_written_with_captions_and_pass_the_check() {
    let program = Program::new();
    let scenes = [
        "data", "scenes", "--world", "tiny", "-n", "6", "--seed", "2", "-o", "scenes",
    ];
    assert_eq!(program.expect(&scenes), "scenes\n");
    let count = |extension: &str| {
        let files = program.files();
        files
            .iter()
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .count()
    };
    assert_eq!((count("png"), count("txt")), (6, 6));
    let ran = program.run(&["data", "check", "scenes"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("6 usable pairs"), "{}", ran.stderr);
}

#[test]
fn scenes_go_into_tars_that_the_check_reads() {
    let program = Program::new();
    let scenes = [
        "data", "scenes", "--world", "tiny", "-n", "5", "--tars", "4", "-o", "tars",
    ];
    program.expect(&scenes);
    let tars: Vec<String> = program
        .files()
        .iter()
        .filter(|path| path.extension().is_some_and(|found| found == "tar"))
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(tars.len(), 2);
    let report = program.json(&["data", "check", &tars[0], &tars[1], "--json"]);
    assert_eq!(report["usable"], 5);
}

#[test]
fn what_can_not_be_used_is_listed_and_fails() {
    let program = Program::new();
    program.expect(&["data", "scenes", "--world", "tiny", "-n", "3", "-o", "s"]);
    std::fs::write(program.path("s/broken.png"), "no picture").unwrap();
    std::fs::write(program.path("s/broken.txt"), "a cat").unwrap();
    std::fs::copy(program.path("s/00000000.png"), program.path("s/alone.png")).unwrap();
    let ran = program.run(&["data", "check", "s"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.contains("alone.png\tno caption"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("broken.png\t"), "{}", ran.stdout);
    assert!(
        ran.stderr
            .contains("error: data: 3 usable pairs; left out: 1 pictures without a caption"),
        "{}",
        ran.stderr
    );
    program.refuses(1, &["data", "check", "missing"], &["not found at missing"]);
    program.refuses(
        2,
        &["data", "check", "s", "t"],
        &["2 paths that are not all tars"],
    );
}

#[test]
fn a_missing_font_names_its_package() {
    let program = Program::new();
    let arguments = [
        "data", "scenes", "--world", "small", "--font", "no.ttf", "-n", "1", "-o", "s/",
    ];
    std::fs::create_dir(program.path("s")).unwrap();
    program.refuses(1, &arguments, &["not found at no.ttf"]);
    assert!(
        program
            .run(&arguments)
            .stderr
            .contains("fonts-noto-color-emoji")
    );
    program.refuses(
        1,
        &["data", "scenes", "--world", "huge", "-n", "1", "-o", "s/"],
        &["world: ", "huge"],
    );
    program.refuses(2, &["data", "scenes", "-n", "0", "-o", "s/"], &["--count"]);
}

#[test]
fn eval_judges_every_held_out_prompt() {
    let program = Program::new();
    let arguments = [
        "eval",
        "scenes",
        "--world",
        "tiny",
        "--prompts",
        "3",
        "--seed",
        "1",
        "--model",
        model(),
    ];
    let report = program.json(&[&arguments[..], &["--json", "--pictures", "p"]].concat());
    for column in ["drawn", "reconstructed", "rendered"] {
        assert_eq!(report[column]["pictures"], 3, "{column}");
    }
    // The detector is right about rendered pictures, an untrained model about next to nothing.
    assert_eq!(report["rendered"]["background"]["right"], 3);
    assert_eq!(report["options"]["seed"], 1);
    assert_eq!(program.files().len(), 6);
    let table = program.expect(&arguments);
    for row in [
        "object",
        "colour",
        "count",
        "place",
        "background",
        "one kind",
    ] {
        assert!(table.contains(row), "no {row} in {table}");
    }
    // Its captions name no style, and it holds no pairs of thing and style out.
    assert!(!table.contains("style"), "{table}");
    let unseen = [&arguments[..], &["--split", "unseen-pair"]].concat();
    program.refuses(1, &unseen, &["tiny", "no scenes on that side"]);
    let long = [&arguments[..], &["--captions", "long"]].concat();
    program.refuses(1, &long, &["tiny", "no long ones"]);
}

#[test]
fn eval_compares_the_pictures_of_a_prompt() {
    let program = Program::new();
    let arguments = [
        "eval",
        "diversity",
        "--world",
        "tiny",
        "--prompts",
        "2",
        "--pictures",
        "3",
        "--model",
        model(),
    ];
    let report = program.json(&[&arguments[..], &["--json"]].concat());
    let mean = |side: &str| report[side]["mean"].as_f64().unwrap_or_default();
    assert!(mean("drawn") > 0.0, "{report}");
    // An untrained image tokenizer reconstructs whatever it is as the same.
    assert_eq!(mean("scenes"), 0.0);
    assert!(report["share"].is_null(), "{report}");
    assert!(program.expect(&arguments).contains("share not known"));
    let one = [&arguments[..], &["--pictures", "1"]].concat();
    program.refuses(2, &one, &["--pictures"]);
}
