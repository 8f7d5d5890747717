//! The executable with aMUSEd: pictures, holes and variations in a few passes.

use impasto::image::Image;
use impasto::models::dalle::Order;
use impasto::provenance;

use crate::edit::{changed_only_within, write_photograph};
use crate::program::Program;
use crate::references::{expected, first_row, metadata, published, write_picture};

const SETS: [&str; 3] = [
    "amused/goldens/plain",
    "amused/goldens/halved",
    "amused/goldens/odd",
];

/// The ids of the last pass.
fn last_row(set: &str, name: &str) -> Vec<u32> {
    let (values, shape) = expected(set, name);
    let last = &values[values.len() - shape[1]..];
    last.iter().map(|&id| id as u32).collect()
}

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

/// Greedily and with the reference's random numbers in the place of its own.
#[test]
fn pictures_are_those_of_the_reference() {
    for set in SETS {
        pictures_of(set);
    }
}

/// What `generate` and `tokens encode` make of a set.
pub fn pictures_of(set: &str) {
    let program = Program::new();
    let model = published(set);
    let run = |arguments: &[&str]| program.expect(&[arguments, &["--model", &model]].concat());
    let captions: Vec<String> = metadata(set, "captions");
    let away = [
        "--guidance",
        "4",
        "--temperature",
        "0",
        "--negative",
        &captions[1],
    ];
    // Some captions are longer than the models read: the reference cuts them.
    let generate = [
        "generate",
        &captions[0],
        "--truncate",
        "--order",
        "confidence:5",
        "-o",
    ];
    for (name, flags) in [
        (
            "greedy_steps",
            &["--guidance", "1", "--temperature", "0"][..],
        ),
        ("guided_steps", &["--guidance", "4", "--temperature", "0"]),
        ("negative_steps", &away),
        ("sampled_steps", &["--guidance", "1", "--seed", "7"]),
        ("sampled_guided_steps", &["--guidance", "4", "--seed", "8"]),
    ] {
        let ids = serde_json::to_vec(&last_row(set, name)).unwrap();
        std::fs::write(program.path("ids.json"), ids).unwrap();
        run(&["tokens", "decode", "ids.json", "-o", "b.png"]);
        run(&[&generate[..], &["a.png"], flags].concat());
        assert!(same(&program, "a.png", "b.png"), "{set} {name}");
    }
    write_picture(&program, set);
    let encoded = run(&["tokens", "encode", "in.png", "--json"]);
    let encoded: serde_json::Value = serde_json::from_str(&encoded).unwrap();
    let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
    assert_eq!(ids, first_row(set, "picture_ids"), "{set}");
}

/// A dozen passes unless another order is given; a seed is a picture, alone or among others.
#[test]
fn the_default_order_is_the_models_own() {
    let program = Program::new();
    let model = published(SETS[0]);
    let generate = ["generate", "a red turtle", "--seed", "3", "--model", &model];
    let generate = |rest: &[&str]| program.expect(&[&generate[..], rest].concat());
    let report = generate(&["-n", "3", "-o", "many/", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["order"], "confidence:12");
    assert_eq!(report["sampling"]["guidance_scale"], 10.0);
    generate(&[
        "--order",
        "confidence:12",
        "--threads",
        "1",
        "-o",
        "alone.png",
    ]);
    let first = report["pictures"][0]["path"].as_str().unwrap();
    assert!(same(&program, first, "alone.png"));
    let bytes = std::fs::read(program.path("alone.png")).unwrap();
    let text = provenance::read_parameters(&bytes).unwrap();
    let settings = provenance::Settings::parse(&text).unwrap();
    assert_eq!(settings.order, Order::Confidence { steps: 12 });
    assert_eq!(settings.steps, 12);
    generate(&["--negative", "a red hat", "-o", "away.png"]);
    let text = std::fs::read(program.path("away.png")).unwrap();
    let text = provenance::read_parameters(&text).unwrap();
    assert!(
        text.starts_with("a red turtle\nNegative prompt: a red hat\n"),
        "{text}"
    );
    let nothing = [
        "generate",
        "a",
        "--negative",
        "b",
        "--guidance",
        "1",
        "--model",
        &model,
    ];
    program.refuses(1, &nothing, &["negative prompt", "guidance 1"]);
    // Other orders are possible, too.
    for order in ["raster", "parallel:4"] {
        generate(&["--order", order, "-o", "other.png"]);
        assert!(!same(&program, "other.png", "alone.png"), "{order}");
    }
    let wrong = [
        "generate",
        "a",
        "--order",
        "confidence:0",
        "--model",
        &model,
    ];
    program.refuses(2, &wrong, &["confidence:STEPS"]);
    // impasto's own models know it, too.
    let own = [
        "generate",
        "a red turtle",
        "--order",
        "confidence:6",
        "-o",
        "own.png",
    ];
    program.expect(&[&own[..], &["--model", crate::program::model()]].concat());
}

#[test]
fn holes_are_drawn_and_known_pixels_stay_to_the_last_bit() {
    for set in SETS {
        holes_of(set, "confidence:12");
    }
}

/// Holes are filled in this order by default.
pub fn holes_of(set: &str, order: &str) {
    let program = Program::new();
    let model = published(set);
    let image = write_photograph(&program, "a.png", 100, 70);
    let area = "20,10,30,41";
    let edit = [
        "edit", image, "--box", area, "--model", &model, "--seed", "5",
    ];
    let edit = |rest: &[&str]| program.expect(&[&edit[..], rest].concat());
    let prompt = ["--prompt", "a red turtle"];
    let report = edit(&[&prompt[..], &["-n", "2", "-o", "many/", "--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["order"], order);
    assert_eq!(report["conditioning"], "known-first");
    let candidates = report["candidates"].as_array().unwrap();
    for candidate in candidates {
        let path = candidate["path"].as_str().unwrap();
        let changed = changed_only_within(&program, image, path, area);
        assert!(changed > 600, "{set}: {changed} of 1230 pixels");
    }
    edit(&[&prompt[..], &["--threads", "1", "-o", "alone.png"]].concat());
    let first = candidates.iter().find(|one| one["seed"] == 5).unwrap();
    assert!(
        same(&program, first["path"].as_str().unwrap(), "alone.png"),
        "{set}"
    );
    // Without words, and with the best of several fillings.
    edit(&["--tries", "3", "-o", "c.png"]);
    changed_only_within(&program, image, "c.png", area);

    let complete = [
        "complete", image, "--rows", "3", "-o", "d.png", "--model", &model,
    ];
    program.expect(&complete);
    let grid = (expected(set, "hole").0.len() as f64).sqrt() as usize;
    let kept = 3 * 70 / grid;
    let below = format!("0,{kept},100,{}", 70 - kept);
    assert!(changed_only_within(&program, image, "d.png", &below) > 1000);
    let outpaint = [
        "edit",
        image,
        "--outpaint",
        "right=20",
        "-o",
        "e.png",
        "--model",
        &model,
    ];
    program.expect(&outpaint);
    let wider = Image::open(program.path("e.png")).unwrap();
    assert_eq!((wider.width, wider.height), (120, 70), "{set}");
}

#[test]
fn pictures_are_varied() {
    for set in SETS {
        variations_of(set);
    }
}

/// `vary` between `reconstruct` and `generate`.
pub fn variations_of(set: &str) {
    let program = Program::new();
    let model = published(set);
    let run = |arguments: &[&str]| {
        program.expect(&[arguments, &["--model", &model, "--seed", "5"]].concat())
    };
    write_picture(&program, set);
    let vary = ["vary", "in.png", "--prompt", "a red turtle", "--strength"];
    let vary = |rest: &[&str]| run(&[&vary[..], rest].concat());
    vary(&["0", "-o", "0.png"]);
    program.expect(&["reconstruct", "in.png", "-o", "back.png", "--model", &model]);
    assert!(same(&program, "0.png", "back.png"), "{set}");
    vary(&["1", "-o", "1.png"]);
    run(&["generate", "a red turtle", "-o", "fresh.png"]);
    assert!(same(&program, "1.png", "fresh.png"), "{set}");
    vary(&["0.5", "-o", "half.png"]);
    vary(&["0.5", "--choose", "entropy", "-o", "unsure.png"]);
    for other in ["0.png", "1.png"] {
        assert!(!same(&program, "half.png", other), "{set} {other}");
    }
}

#[test]
fn what_the_model_does_not_do_is_said() {
    let program = Program::new();
    let set = SETS[2];
    let model = published(set);
    write_picture(&program, set);
    let caption = ["caption", "in.png", "--model", &model];
    program.refuses(1, &caption, &["cannot generate captions"]);
    let info = program.expect(&["model", "info", &model]);
    assert!(info.contains("LicenseRef-OpenRAIL-PP-M"), "{info}");
    let likelihood = [
        "likelihood",
        "in.png",
        "--caption",
        "a red turtle",
        "--model",
        &model,
    ];
    program.expect(&likelihood);
    program.expect(&["import", &model, "-o", "mine", "--half"]);
    program.expect(&["quantize", "mine", "--to", "int8", "-o", "small"]);
    for name in ["mine", "small"] {
        let draw = ["generate", "a red turtle", "-o", "a.png", "--model", name];
        program.expect(&draw);
    }
}
