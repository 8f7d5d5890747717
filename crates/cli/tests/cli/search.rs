//! `index` and `search` over a folder of scenes of the world `small`, with a CLIP that knows them.

use std::fs;

use crate::program::{Program, SMALL_CLIP};

/// Twelve scenes with their captions below `s`.
fn with_scenes() -> Program {
    let program = Program::new();
    program.expect(&["data", "scenes", "-n", "12", "--seed", "4", "-o", "s/"]);
    program
}

fn hits(program: &Program, arguments: &[&str]) -> Vec<String> {
    let report = program.json(&[&["search"], arguments, &["--json"]].concat());
    let hits = report["hits"].as_array().unwrap();
    hits.iter()
        .map(|hit| hit["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn captions_and_pictures_find_pictures() {
    let program = with_scenes();
    let report = program.json(&["index", "build", "s", "--clip", SMALL_CLIP, "--json"]);
    assert_eq!(
        (&report["added"], &report["skipped"]),
        (&12.into(), &0.into())
    );
    let mut pictures: Vec<String> = program
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    pictures.sort();
    assert_eq!(pictures.len(), 12);
    let found = |words: &[&str]| hits(&program, &[words, &["--clip", SMALL_CLIP]].concat());
    for name in &pictures {
        let path = format!("s/{name}");
        let text = fs::read_to_string(program.path(&path).with_extension("txt")).unwrap();
        let caption = text.lines().next().unwrap();
        assert_eq!(found(&[caption, "s", "-n", "1"]), [&*path], "{caption}");
        assert_eq!(found(&[&path, "s", "-n", "2"])[0], path);
    }
    assert_eq!(found(&["a cat", "s"]).len(), 10);
    // Words that are a file's name, too.
    fs::write(program.path("cat"), "no picture").unwrap();
    assert_eq!(found(&["cat", "s", "--text", "-n", "3"]).len(), 3);
    program.refuses(1, &["search", "cat", "s"], &["cat"]);
    let table = program.expect(&["search", "a cat", "s", "-n", "2", "--clip", SMALL_CLIP]);
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn an_index_is_brought_up_to_date() {
    let program = with_scenes();
    program.expect(&["index", "build", "s"]);
    let picture = program
        .files()
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "png"))
        .unwrap();
    fs::create_dir(program.path("s/deeper")).unwrap();
    fs::rename(&picture, program.path("s/deeper/moved.png")).unwrap();
    fs::write(program.path("s/broken.jpg"), "no picture").unwrap();
    // The others are in the index all the same.
    let report = program.run(&["index", "build", "s"]);
    assert_eq!(report.code, 1, "{}", report.stderr);
    assert!(
        report.stderr.contains("skipped s/broken.jpg: "),
        "{}",
        report.stderr
    );
    let counts = "1 added, 0 changed, 1 removed, 11 unchanged, 1 skipped";
    assert!(report.stdout.contains(counts), "{}", report.stdout);
    assert!(report.stderr.contains("1 of 13 files"), "{}", report.stderr);
    fs::remove_file(program.path("s/broken.jpg")).unwrap();

    program.expect(&["generate", "a cat", "-o", "cat.png"]);
    program.expect(&["index", "add", "s", "cat.png"]);
    let first = &hits(&program, &["cat.png", "s", "-n", "1"])[0];
    assert!(first.ends_with("/cat.png"), "{first}");
    // It was given by name, and stays.
    program.expect(&["index", "build", "s"]);
    assert_eq!(
        program.json(&["index", "info", "s", "--json"])["pictures"],
        13
    );
    let report = program.json(&["index", "remove", "s", "cat.png", "s/none.png", "--json"]);
    assert_eq!(report["removed"], 1);
    let info = program.json(&["index", "info", "s", "--json"]);
    assert_eq!(info["pictures"], 12);
    assert_eq!(info["clip"], "impasto-clip");

    // Beside its pictures an index moves with them; elsewhere it knows where they are.
    fs::rename(program.path("s"), program.path("t")).unwrap();
    let found = hits(&program, &["t/deeper/moved.png", "t", "-n", "1"]);
    assert_eq!(found, ["t/deeper/moved.png"]);
    program.expect(&["index", "build", "t", "--index", "i"]);
    let found = hits(&program, &["t/deeper/moved.png", "--index", "i", "-n", "1"]);
    assert!(found[0].ends_with("/t/deeper/moved.png"), "{found:?}");
}

#[test]
fn what_can_not_be_searched() {
    let program = with_scenes();
    program.refuses(
        1,
        &["search", "a cat", "s"],
        &["an index of pictures not found"],
    );
    program.refuses(1, &["index", "remove", "s", "a.png"], &["not found"]);
    program.refuses(1, &["index", "build", "none"], &["none"]);
    program.refuses(1, &["index", "add", "s", "none.png"], &["none.png"]);
    program.refuses(2, &["search", " "], &["is empty"]);
    program.expect(&["index", "build", "s"]);
    // Mistyped, a picture's name is not taken for words.
    let part = "nothere.png is taken for a picture; --text searches the words: read nothere.png";
    program.refuses(1, &["search", "nothere.png", "s"], &[part]);
    assert_eq!(hits(&program, &["nothere.png", "s", "--text"]).len(), 10);
    let manifest = program.path("s/.impasto-index/index.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    let parts = ["the index is damaged"];
    program.refuses(1, &["search", "a cat", "s"], &parts);
    program.refuses(1, &["index", "build", "s"], &parts);
    fs::write(&manifest, whole).unwrap();
    let rows = fs::File::options()
        .write(true)
        .open(program.path("s/.impasto-index/rows-0.f32"))
        .unwrap();
    rows.set_len(100).unwrap();
    program.refuses(1, &["search", "a cat", "s"], &parts);
}
