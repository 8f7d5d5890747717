//! Prompts and pictures by a policy: what is said, what is blurred, what is refused.

use std::path::{Path, PathBuf};

use impasto::image::Image;
use impasto::provenance::read_parameters;
use serde_json::Value;

use crate::program::{Program, SMALL_CLIP};

/// A published checker with random weights: its probabilities of "nsfw" are anything.
fn classifier() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import/safety/goldens/vit")
}

fn draw<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "generate", "a star", "-n", "4", "--seed", "3", "--json", "-o", "out/",
        ][..],
        more,
    ]
    .concat()
}

fn policy(program: &Program, text: &str) -> String {
    let checker = classifier().canonicalize().unwrap();
    let text = format!(
        "{text}\npictures: {{checker: {:?}}}\n",
        checker.display().to_string()
    );
    std::fs::write(program.path("policy.yaml"), text).unwrap();
    "policy.yaml".to_owned()
}

#[test]
fn a_flagged_prompt_is_drawn_and_said_to_be_one() {
    let program = Program::new();
    let run = |mode: &[&str], name: &str| {
        let prompt = ["generate", "a n.u.d.e man", "--seed", "1", "-o", name];
        program.run(&[&prompt, mode].concat())
    };
    let flagged = run(&[], "a.png");
    assert_eq!(flagged.code, 0, "{}", flagged.stderr);
    let expected = "safety: prompt: sexual 1.00 (\"n.u.d.e\")";
    assert!(flagged.stderr.contains(expected), "{}", flagged.stderr);
    let off = run(&["--safety", "off"], "b.png");
    assert!(
        off.code == 0 && !off.stderr.contains("safety:"),
        "{}",
        off.stderr
    );
    // The same pixels.
    let picture = |name: &str| Image::open(program.path(name)).unwrap();
    assert_eq!(picture("a.png"), picture("b.png"));
    let refused = ["generate", "a n.u.d.e man", "--safety", "refuse"];
    program.refuses(
        1,
        &refused,
        &["prompt: refused as sexual (1.00)", "n.u.d.e"],
    );
    program.refuses(
        1,
        &["generate", "a star", "一个裸体的男人", "--safety", "refuse"],
        &["sexual"],
    );
}

#[test]
fn sex_with_children_is_refused_unless_all_is_off() {
    let program = Program::new();
    for prompt in ["a nude child", "裸体的小女孩"] {
        program.refuses(1, &["generate", prompt], &["refused as sexual/minors"]);
    }
    let picture = Image::filled(64, 64, [200; 3]);
    std::fs::write(
        program.path("a.png"),
        picture.encode(impasto::image::Format::Png, 100).unwrap(),
    )
    .unwrap();
    for arguments in [
        &["vary", "a.png", "--prompt", "a nude child"][..],
        &[
            "edit",
            "a.png",
            "--box",
            "0,0,8,8",
            "--prompt",
            "a nude child",
        ],
        &[
            "complete",
            "a.png",
            "--rows",
            "4",
            "--prompt",
            "a nude child",
        ],
    ] {
        program.refuses(1, arguments, &["refused as sexual/minors"]);
    }
    program.expect(&["generate", "a nude child", "--safety", "off", "-o", "b.png"]);
}

#[test]
fn pictures_are_flagged_blurred_or_refused_by_a_checker() {
    let program = Program::new();
    let plain = program.json(&draw(&["--safety", "off"]));
    let plain: Vec<Image> = plain["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| Image::open(program.path(one["path"].as_str().unwrap())).unwrap())
        .collect();
    let flag = policy(&program, "mode: flag\nthreshold: 0.0001");
    let all = program.json(&draw(&["--safety-policy", &flag]));
    let score = |one: &Value| one["safety"]["scores"]["sexual"].as_f64().unwrap();
    let mut scores: Vec<f64> = all["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(score)
        .collect();
    for (one, plain) in all["pictures"].as_array().unwrap().iter().zip(&plain) {
        let bytes = std::fs::read(program.path(one["path"].as_str().unwrap())).unwrap();
        // Nothing is changed but the text.
        assert_eq!(&Image::decode(&bytes, "a").unwrap(), plain);
        let text = read_parameters(&bytes).unwrap();
        let expected = format!("Safety: sexual {:.2}", score(one));
        assert!(text.ends_with(&expected), "{text}");
        impasto::provenance::Settings::parse(&text).unwrap();
    }
    scores.sort_by(f64::total_cmp);
    let between = (scores[1] + scores[2]) / 2.0;
    let blur = policy(
        &program,
        &format!("categories: {{sexual: blur}}\nthreshold: {between}"),
    );
    let blurred = program.json(&draw(&["--safety-policy", &blur]));
    let mut changed = 0;
    for (one, plain) in blurred["pictures"].as_array().unwrap().iter().zip(&plain) {
        let bytes = std::fs::read(program.path(one["path"].as_str().unwrap())).unwrap();
        let picture = Image::decode(&bytes, "a").unwrap();
        let expected = if score(one) >= between {
            plain.blurred().unwrap()
        } else {
            plain.clone()
        };
        assert_eq!(picture, expected);
        let said = read_parameters(&bytes).unwrap().contains("blurred");
        assert_eq!(said, score(one) >= between);
        changed += usize::from(said);
    }
    assert_eq!(changed, 2);
    let refuse = policy(&program, &format!("mode: refuse\nthreshold: {between}"));
    let ran = program.run(&draw(&["--safety-policy", &refuse]));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("error: picture: refused as sexual (0."),
        "{}",
        ran.stderr
    );
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let paths = report["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["path"].is_string());
    assert_eq!(paths.count(), 2, "{report}");
    // A seamless grid has no pictures apart.
    let seamless = [
        "generate",
        "a star",
        "-n",
        "4",
        "--grid",
        "--seamless",
        "--safety-policy",
        &refuse,
    ];
    program.refuses(2, &seamless, &["--seamless"]);
    let mut checked = program.json(&[
        "safety",
        "check",
        "--image",
        &first(&all),
        "a nude man",
        "--safety-policy",
        &refuse,
        "--json",
    ]);
    assert_eq!(checked[0]["findings"][0]["action"], "refuse");
    assert_eq!(checked[0]["scores"].as_object().unwrap().len(), 13);
    assert!(checked[1].take()["scores"]["sexual"].as_f64().unwrap() > 0.0);
}

fn first(report: &Value) -> String {
    report["pictures"][0]["path"].as_str().unwrap().to_owned()
}

#[test]
fn policies_and_checks_that_can_not_be_are_named() {
    let program = Program::new();
    let write = |text: &str| std::fs::write(program.path("p.yaml"), text).unwrap();
    for (text, parts) in [
        ("modus: off", &["p.yaml", "modus"][..]),
        ("categories: {sex: flag}", &["p.yaml", "sex"]),
        ("words: {allow: [no.txt]}", &["no.txt"]),
        (
            "words: {lists: {hate: [p.yaml]}}\nthreshold: 1",
            &["p.yaml", "line"],
        ),
    ] {
        write(text);
        let line = match text.starts_with("words: {lists") {
            // A rule that names a group that is not there.
            true => {
                write("words: {lists: {hate: [list.txt]}}");
                std::fs::write(program.path("list.txt"), "@nobody + a\n").unwrap();
                &["list.txt", "line 1", "@nobody"][..]
            }
            false => parts,
        };
        program.refuses(1, &["generate", "a", "--safety-policy", "p.yaml"], line);
    }
    write("pictures: {checker: nothing/here}");
    let ran = program.run(&["generate", "a", "--safety-policy", "p.yaml", "-o", "a.png"]);
    assert!(
        ran.code != 0 && ran.stderr.contains("nothing/here"),
        "{}",
        ran.stderr
    );
    program.refuses(2, &["safety", "check"], &["expected a prompt or --image"]);
    program.refuses(
        2,
        &["generate", "a", "--safety", "maybe"],
        &["off, flag or refuse"],
    );
}

#[test]
fn lists_are_written_to_be_edited() {
    let program = Program::new();
    let written = program.expect(&["safety", "lists", "-o", "lists"]);
    assert_eq!(written.lines().count(), 15, "{written}");
    program.refuses(2, &["safety", "lists", "-o", "lists"], &["exists"]);
    std::fs::write(program.path("lists/sexual.txt"), "wombat\n").unwrap();
    let text = "words: {embedded: false, lists: {sexual: [lists/sexual.txt]}}";
    std::fs::write(program.path("p.yaml"), text).unwrap();
    let check = [
        "safety",
        "check",
        "two wombats",
        "a nude man",
        "--safety-policy",
        "p.yaml",
    ];
    let found = program.expect(&check);
    assert_eq!(
        found,
        "sexual\t1.00\tflag\ttwo wombats\t\"wombats\"\n-\t0.00\toff\ta nude man\t\n"
    );
}

/// Eight things, one of them unwanted: found with the CLIP that ships, with a threshold from labelled pictures.
#[test]
fn a_concept_is_calibrated_and_found() {
    let program = Program::new();
    program.expect(&[
        "data", "scenes", "--world", "tiny", "-n", "80", "--seed", "5", "-o", "scenes",
    ]);
    for folder in ["labelled/turtle", "labelled/others"] {
        std::fs::create_dir_all(program.path(folder)).unwrap();
    }
    let mut turtles = Vec::new();
    for number in 0..80 {
        let caption =
            std::fs::read_to_string(program.path(&format!("scenes/{number:08}.txt"))).unwrap();
        let is_turtle = caption.contains("turtle");
        let folder = if is_turtle { "turtle" } else { "others" };
        let name = format!("{number:08}.png");
        std::fs::copy(
            program.path(&format!("scenes/{name}")),
            program.path(&format!("labelled/{folder}/{name}")),
        )
        .unwrap();
        turtles.push(is_turtle);
    }
    std::fs::write(program.path("labelled/others/broken.png"), b"no picture").unwrap();
    let concepts = format!(
        "clip: {SMALL_CLIP}\nconcepts: [{{name: turtle, category: violence, texts: [a turtle, two turtles, 乌龟]}}]"
    );
    std::fs::write(program.path("concepts.yaml"), concepts).unwrap();
    let policy = "pictures: {concepts: found.json}\ncategories: {violence: refuse}";
    std::fs::write(program.path("policy.yaml"), policy).unwrap();
    let calibrate = [
        "safety",
        "calibrate",
        "--concepts",
        "concepts.yaml",
        "--pictures",
        "labelled",
        "-o",
        "found.json",
        "--json",
        "--false-alarms",
        "0.05",
    ];
    let ran = program.run(&calibrate);
    // One picture can't be read; the others went on.
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("broken.png") && ran.stderr.contains("1 pictures can't be read"),
        "{}",
        ran.stderr
    );
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(report[0]["auc"].as_f64().unwrap() > 0.75, "{report}");
    let positives = turtles.iter().filter(|is| **is).count();
    assert_eq!(report[0]["positives"], positives);
    let chosen = &report[0]["chosen"];
    assert!(
        chosen["false_alarms"].as_f64().unwrap() <= 0.05
            && chosen["recall"].as_f64().unwrap() > 0.25,
        "{chosen}"
    );
    let svg = std::fs::read_to_string(program.path("found.svg")).unwrap();
    assert!(svg.contains("<svg") && svg.contains("turtle"));
    let check = |number: usize| {
        let image = format!("scenes/{number:08}.png");
        let checked = program.json(&[
            "safety",
            "check",
            "--image",
            &image,
            "--safety-policy",
            "policy.yaml",
            "--json",
        ]);
        checked[0]["findings"]
            .as_array()
            .unwrap()
            .first()
            .map(|one| one["category"].clone())
    };
    // The same decisions as in the calibration: some of the turtles, hardly any of the others.
    let share = |is_turtle: bool| {
        let numbers = (0..80)
            .filter(|&number| turtles[number] == is_turtle)
            .take(8);
        numbers
            .filter(|&number| check(number) == Some("violence".into()))
            .count()
    };
    let (found, alarms) = (share(true), share(false));
    assert!(
        found >= 1 && alarms <= 2 && found > alarms,
        "{found} {alarms}"
    );
    // Before a calibration there is no threshold.
    let policy = "pictures: {concepts: concepts.yaml}";
    std::fs::write(program.path("policy.yaml"), policy).unwrap();
    let ran = program.run(&[
        "safety",
        "check",
        "--image",
        "scenes/00000000.png",
        "--safety-policy",
        "policy.yaml",
    ]);
    assert!(
        ran.code == 1 && ran.stderr.contains("no threshold") && ran.stderr.contains("calibrate"),
        "{}",
        ran.stderr
    );
}
