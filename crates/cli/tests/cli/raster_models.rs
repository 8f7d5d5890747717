//! `edit`, `complete`, `vary` and `caption` with published models, which support raster order only.
//!
//! The models are random: what they draw is noise, where and with what they draw is what is tested.

use std::fs;

use impasto::image::Image;

use crate::edit::{changed_only_within, write_photograph};
use crate::program::{Program, Ran};
use crate::references::{published, write_picture};

const ROTARY: &str = "dalle_pytorch/goldens/rotary";
const LEARNED: &str = "dalle_pytorch/goldens/learned";
const MINI: &str = "dalle_mini/goldens/flax_stacked";
const JANUS: &str = "janus/goldens/pro";
const NOTE: &str = "was trained in raster order only: known ids are forced in that order";

fn run(program: &Program, set: &str, arguments: &[&str]) -> Ran {
    let model = published(set);
    let ran = program.run(&[arguments, &["--seed", "5", "--model", &model]].concat());
    assert_eq!(ran.code, 0, "{set} {arguments:?}: {}", ran.stderr);
    ran
}

fn same(program: &Program, a: &str, b: &str) -> bool {
    Image::open(program.path(a)).unwrap() == Image::open(program.path(b)).unwrap()
}

#[test]
fn holes_are_drawn_and_known_pixels_stay_to_the_last_bit() {
    for set in [ROTARY, LEARNED, MINI, JANUS] {
        let program = Program::new();
        let image = write_photograph(&program, "a.png", 100, 70);
        let area = "20,10,30,41";
        let edit = ["edit", image, "--box", area, "--prompt", "a red turtle"];
        let edit = |rest: &[&'static str]| run(&program, set, &[&edit[..], rest].concat());
        let ran = edit(&["-o", "b.png"]);
        let name = set.rsplit('/').next().unwrap();
        let note = format!("note: {name} {NOTE}");
        assert!(ran.stderr.contains(&note), "{set}: {}", ran.stderr);
        let changed = changed_only_within(&program, image, "b.png", area);
        assert!(changed > 600, "{set}: {changed} of 1230 pixels");

        // A seed is a candidate, alone or among others, at any number of threads.
        let report = edit(&["-n", "3", "--json", "--guidance", "2", "-o", "many/"]);
        let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        assert_eq!(report["conditioning"], "raster-forced");
        let candidates = report["candidates"].as_array().unwrap();
        let scores: Vec<f64> = candidates
            .iter()
            .map(|candidate| candidate["score"].as_f64().unwrap())
            .collect();
        assert!(
            scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b),
            "{scores:?}"
        );
        edit(&["--threads", "1", "--guidance", "2", "-o", "alone.png"]);
        let first = candidates.iter().find(|one| one["seed"] == 5).unwrap();
        assert!(
            same(&program, first["path"].as_str().unwrap(), "alone.png"),
            "{set}"
        );
        for candidate in candidates {
            changed_only_within(&program, image, candidate["path"].as_str().unwrap(), area);
        }
        // Without words, too.
        run(
            &program,
            set,
            &["edit", image, "--box", area, "-o", "c.png"],
        );
        changed_only_within(&program, image, "c.png", area);

        let model = published(set);
        let parallel = [
            "edit",
            image,
            "--box",
            area,
            "--order",
            "parallel:4",
            "--model",
            &model,
        ];
        program.refuses(1, &parallel, &["draws in raster order, got parallel:4"]);
    }
}

#[test]
fn pictures_are_completed_and_varied() {
    for set in [LEARNED, MINI] {
        let program = Program::new();
        let image = write_photograph(&program, "a.png", 64, 64);
        let ran = run(
            &program,
            set,
            &["complete", image, "--rows", "1", "-o", "b.png"],
        );
        assert!(ran.stderr.contains(NOTE), "{set}: {}", ran.stderr);
        assert!(
            changed_only_within(&program, image, "b.png", "0,16,64,48") > 1500,
            "{set}"
        );
        let model = published(set);
        let all = ["complete", image, "--rows", "4", "--model", &model];
        program.refuses(2, &all, &["4 of the model's 4 rows"]);

        write_picture(&program, set);
        let vary = ["vary", "in.png", "--prompt", "a red turtle", "--strength"];
        let vary = |rest: &[&'static str]| run(&program, set, &[&vary[..], rest].concat());
        assert!(vary(&["0", "-o", "0.png"]).stderr.contains(NOTE), "{set}");
        program.expect(&["reconstruct", "in.png", "-o", "back.png", "--model", &model]);
        assert!(same(&program, "0.png", "back.png"), "{set}");
        vary(&["1", "-o", "1.png"]);
        run(
            &program,
            set,
            &["generate", "a red turtle", "-o", "fresh.png"],
        );
        assert!(same(&program, "1.png", "fresh.png"), "{set}");
        vary(&["0.5", "-o", "half.png"]);
        vary(&[
            "0.5",
            "--tries",
            "1",
            "--choose",
            "entropy",
            "-o",
            "unsure.png",
        ]);
        let pictures = ["0.png", "1.png", "half.png", "unsure.png"];
        for (place, one) in pictures.iter().enumerate() {
            for other in &pictures[..place] {
                assert!(!same(&program, one, other), "{set}: {one} {other}");
            }
        }
        // A variation does not depend on those that are drawn with it, which ask for other ids.
        vary(&["0.5", "-n", "5", "-o", "many/"]);
        let files = fs::read_dir(program.path("many")).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let first = names.find(|name| name.contains("-5.")).unwrap();
        assert!(
            same(&program, &format!("many/{first}"), "half.png"),
            "{set}"
        );
    }
}

#[test]
fn captions_are_sampled_and_ranked_where_a_model_writes_them() {
    let program = Program::new();
    write_picture(&program, LEARNED);
    let caption = [
        "caption",
        "in.png",
        "--sample",
        "--best-of",
        "9",
        "--json",
        "-n",
    ];
    let captions = |n: &'static str| {
        let ran = run(&program, LEARNED, &[&caption[..], &[n]].concat());
        assert!(
            ran.stderr
                .contains("note: learned generates captions before pictures: 9 are drawn")
        );
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        report["pictures"][0]["captions"]
            .as_array()
            .unwrap()
            .clone()
    };
    let all = captions("9");
    let likelihood = |captions: &serde_json::Value| captions["log_likelihood"].as_f64().unwrap();
    assert!(all.len() > 2 && all.is_sorted_by(|a, b| likelihood(a) >= likelihood(b)));
    // Of those that were drawn one is the right one.
    let total: f64 = all.iter().map(|captions| likelihood(captions).exp()).sum();
    assert!((total - 1.0).abs() < 1e-9, "{total}");
    assert_eq!(captions("2"), all[..2]);

    let model = published(LEARNED);
    let beam = ["caption", "in.png", "--beam", "4", "--model", &model];
    program.refuses(1, &beam, &["generates captions before pictures"]);
    let few = [
        "caption",
        "in.png",
        "--best-of",
        "2",
        "-n",
        "3",
        "--model",
        &model,
    ];
    program.refuses(2, &few, &["draws fewer captions"]);
    // Without any flag.
    let plain = program.expect(&["caption", "in.png", "--model", &model]);
    assert_eq!(plain.lines().count(), 1);
    let mini = ["caption", "in.png", "--model", &published(MINI)];
    program.refuses(
        1,
        &mini,
        &["cannot generate captions", "DALLE-pytorch's and Janus can"],
    );
}

#[test]
fn what_lacks_a_part_says_so() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 40, 40);
    let tokenizer = published("image_tokenizer/goldens/taming_plain");
    let min_dalle = published("dalle_mini/goldens/min_dalle");
    for (model, part) in [
        (&tokenizer, "is an image tokenizer alone"),
        (&min_dalle, "came without an encoder"),
    ] {
        for command in [
            &["edit", image, "--box", "4,4,20,20"][..],
            &["complete", image, "--rows", "2"],
            &["vary", image],
        ] {
            program.refuses(1, &[command, &["--model", model]].concat(), &[part]);
        }
    }
    let caption = ["caption", image, "--model", &tokenizer];
    program.refuses(1, &caption, &["is an image tokenizer alone"]);
}

/// A word is explained by what its absence changes, which needs no attention: every family can.
#[test]
fn every_family_is_explained_and_attention_is_refused_by_name() {
    for set in [ROTARY, MINI, JANUS] {
        let program = Program::new();
        let explain = ["explain", "--prompt", "a red turtle"];
        let ran = run(&program, set, &[&explain[..], &["--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let explained = &report["pictures"][0];
        assert_eq!(explained["method"], "divergence", "{set}");
        let words = explained["words"].as_array().unwrap();
        let named: Vec<&str> = words
            .iter()
            .filter_map(|word| word["word"].as_str())
            .collect();
        assert_eq!(named, ["a", "red", "turtle"], "{set}");
        let changed = words
            .iter()
            .flat_map(|word| word["map"].as_array().unwrap());
        assert!(
            changed.filter(|value| value.as_f64() != Some(0.0)).count() > 3,
            "{set}"
        );
        assert_eq!(program.files().len(), 1, "{set}");

        let model = published(set);
        for method in ["rollout", "likelihood-orders"] {
            let arguments = [&explain[..], &["--model", &model, "--method", method]].concat();
            program.refuses(1, &arguments, &["expected likelihood or divergence"]);
        }
    }
}
