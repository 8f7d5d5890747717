//! Killed at any moment (SIGKILL, which no program can handle), each long command loses nothing that was finished: what
//! it reported is there and whole, the same command again completes the work, and leaves nothing else behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use impasto::image::{Format, Image};
use serde_json::json;

use crate::mutate::Random;
use crate::program::{Program, Ran, clip, model};
use crate::pull;
use crate::references::published;

/// Kills of each command: a few with the other tests, `IMPASTO_KILLS` of them by hand.
fn kills() -> u64 {
    let kills = std::env::var("IMPASTO_KILLS");
    kills.map_or(4, |text| text.parse().unwrap())
}

/// How long the command takes when nothing kills it.
fn unbroken(program: &Program, arguments: &[&str]) -> Duration {
    let start = Instant::now();
    program.expect(arguments);
    start.elapsed()
}

/// Runs and kills, at a moment that the number gives, most of them while the command works; what it printed.
fn killed(program: &Program, arguments: &[&str], number: u64, takes: Duration) -> Ran {
    let mut child = program
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let share = Random::new(arguments[0], number).below(1000) as f64 / 900.0;
    std::thread::sleep(takes.mul_f64(share));
    // May have ended already.
    let _ = child.kill();
    child.wait_with_output().unwrap().into()
}

/// Files and folders below a folder, by their names in it.
fn below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(folder).unwrap().to_path_buf());
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    found
}

fn same_files(one: &Path, other: &Path) {
    assert_eq!(below(one), below(other));
    for name in below(one) {
        let [one, other] = [one, other].map(|folder| folder.join(&name));
        if one.is_file() {
            assert!(
                fs::read(&one).unwrap() == fs::read(other).unwrap(),
                "{}",
                name.display()
            );
        }
    }
}

#[test]
fn generate_keeps_every_picture_that_it_named() {
    let program = Program::new();
    let draw = [
        "generate",
        "a cat",
        "-n",
        "200",
        "--seed",
        "5",
        "-o",
        "o/",
        "--model",
        model(),
        "--device",
        "cpu",
    ];
    fs::create_dir(program.path("o")).unwrap();
    let takes = unbroken(&program, &draw);
    let whole = below(&program.path("o"));
    assert_eq!(whole.len(), 200);
    for number in 0..kills() {
        fs::remove_dir_all(program.path("o")).unwrap();
        fs::create_dir(program.path("o")).unwrap();
        let ran = killed(&program, &draw, number, takes);
        for name in ran.stdout.lines() {
            Image::open(program.path(name)).unwrap();
        }
        let is_picture = |name: &&PathBuf| name.extension().is_some_and(|end| end == "png");
        let left = below(&program.path("o"));
        for name in left.iter().filter(is_picture) {
            Image::open(program.path("o").join(name)).unwrap();
        }
        // Pictures that are there are never replaced: the next run has others, and removes what is half written.
        program.expect(&draw);
        let after = below(&program.path("o"));
        let kept = left.iter().filter(is_picture).count();
        assert!(
            after.iter().all(|name| is_picture(&name)),
            "kill {number}: {after:?}"
        );
        assert_eq!(after.len(), kept + whole.len(), "kill {number}");
    }
}

#[test]
fn a_killed_index_is_whole_after_the_next_build() {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    for i in 0..120u8 {
        let picture = Image::filled(64, 64, [i.wrapping_mul(67), i, 199]);
        let bytes = picture.encode(Format::Png, 100).unwrap();
        fs::write(program.path(&format!("p/{i}.png")), bytes).unwrap();
    }
    let build = ["index", "build", "p", "--clip", clip(), "--device", "cpu"];
    let takes = unbroken(&program, &build);
    let index = program.path("p/.impasto-index");
    let whole = below(&index);
    let search = ["search", "a cat", "p", "-n", "120", "--clip", clip()];
    let found = program.expect(&search);
    for number in 0..kills() {
        // New pictures, and none that are gone: the index is built over one that is there, and from nothing.
        if number % 2 == 0 {
            fs::remove_dir_all(&index).unwrap();
        } else {
            let moved = program.path("moved");
            fs::rename(program.path("p/7.png"), &moved).unwrap();
            program.expect(&build);
            fs::rename(&moved, program.path("p/7.png")).unwrap();
        }
        killed(&program, &build, number, takes);
        // What was there before can be searched at any time.
        if number % 2 == 1 {
            let lines = program.expect(&search).lines().count();
            assert!(lines == 119 || lines == 120, "kill {number}: {lines}");
        }
        program.expect(&build);
        assert_eq!(below(&index), whole, "kill {number}");
        let again = program.expect(&search);
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&again), sorted(&found), "kill {number}");
    }
}

#[test]
fn folders_of_models_are_whole_or_not_there() {
    let program = Program::new();
    let clip = published("clip/goldens/openai/small.pt");
    for arguments in [
        &["quantize", model(), "--to", "int8", "-o", "out"][..],
        &["import", &clip, "-o", "out"],
    ] {
        let takes = unbroken(&program, arguments);
        fs::rename(program.path("out"), program.path("whole")).unwrap();
        for number in 0..kills() {
            killed(&program, arguments, number, takes);
            if !program.path("out").exists() {
                program.expect(arguments);
            }
            same_files(&program.path("out"), &program.path("whole"));
            fs::remove_dir_all(program.path("out")).unwrap();
            let litter: Vec<PathBuf> = below(program.folder.path())
                .into_iter()
                .filter(|name| !name.starts_with("whole"))
                .collect();
            assert!(litter.is_empty(), "kill {number}: {litter:?}");
        }
        fs::remove_dir_all(program.path("whole")).unwrap();
    }
}

#[test]
fn a_killed_pull_is_completed_by_the_next() {
    let (server, program) = (pull::Server::new(), Program::new());
    let arguments = pull::arguments(&server);
    let takes = unbroken(&program, &arguments);
    fs::rename(program.path("cache"), program.path("whole")).unwrap();
    for number in 0..kills() {
        killed(&program, &arguments, number, takes);
        program.expect(&arguments);
        same_files(&program.path("cache"), &program.path("whole"));
        fs::remove_dir_all(program.path("cache")).unwrap();
    }
}

/// A training whose config is written, by the arguments that name what is trained; and the weights that it writes.
struct Training {
    program: Program,
    subject: Vec<String>,
    weights: &'static str,
}

/// With a checkpoint after each second step, so that many kills fall into the writing of one.
fn training(subject: &[&str], weights: &'static str, mut config: serde_json::Value) -> Training {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    for i in 0..4u8 {
        let picture = Image::filled(64, 64, [i * 60, 99, 199]);
        fs::write(
            program.path(&format!("p/{i}.png")),
            picture.encode(Format::Png, 100).unwrap(),
        )
        .unwrap();
        fs::write(program.path(&format!("p/{i}.txt")), format!("card {i}")).unwrap();
    }
    config["data"] = json!({"pairs": {"from": {"folder": "p"}, "validation_share": 0.0}});
    config["run"] = json!({
        "steps": 60, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "keep_checkpoints": 2
    });
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    Training {
        program,
        subject: subject.iter().map(|&part| part.to_owned()).collect(),
        weights,
    }
}

impl Training {
    fn arguments<'a>(&'a self, out: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["train"];
        arguments.extend(self.subject.iter().map(String::as_str));
        arguments.extend([
            "--config", "c.json", "--out", out, "--device", "cpu", "--resume",
        ]);
        arguments
    }

    /// Killed and resumed until it is done, it never goes back before a checkpoint that it named, and ends with the
    /// files and weights of a run that nothing interrupted.
    fn check(&self) {
        let program = &self.program;
        let takes = unbroken(program, &self.arguments("whole"));
        let number_in = |line: &str, before: &str, after: char| {
            line.strip_prefix(before)
                .and_then(|rest| rest.split(after).next()?.parse::<u64>().ok())
        };
        let check = |stderr: &str, saved: u64| {
            let resumed = stderr
                .lines()
                .find_map(|line| number_in(line, "resumed after ", ' '));
            if let Some(resumed) = resumed {
                assert!(resumed >= saved, "went back from {saved} to {resumed}");
            }
            let last = stderr
                .lines()
                .filter_map(|line| number_in(line, "checkpoint of step ", ':'))
                .next_back();
            last.or(resumed).unwrap_or(0).max(saved)
        };
        let (mut saved, mut number) = (0, 0);
        let until = kills();
        while number < until {
            // A few kills a run, and a new run when it is at its end.
            let ran = killed(program, &self.arguments("out"), number, takes.div_f64(2.0));
            assert!(!ran.stderr.contains("error:"), "{}", ran.stderr);
            saved = check(&ran.stderr, saved);
            number += 1;
            if saved >= 50 || number == until {
                let ran = program.run(&self.arguments("out"));
                assert_eq!(ran.code, 0, "{}", ran.stderr);
                check(&ran.stderr, saved);
                let folders = ["out", "whole"].map(|out| program.path(out));
                let [out, whole] = &folders;
                assert_eq!(below(out), below(whole), "kill {number}");
                assert!(
                    fs::read(out.join(self.weights)).unwrap()
                        == fs::read(whole.join(self.weights)).unwrap(),
                    "kill {number}: other weights"
                );
                fs::remove_dir_all(out).unwrap();
                saved = 0;
            }
        }
    }
}

#[test]
fn a_killed_training_of_an_image_tokenizer_loses_nothing_after_its_last_checkpoint() {
    let config = json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "validation": 2
    });
    training(&["image-tokenizer"], "image_tokenizer.safetensors", config).check();
}

#[test]
fn a_killed_training_of_a_clip_loses_nothing_after_its_last_checkpoint() {
    let tower = json!({"width": 16, "n_layers": 1, "n_heads": 2, "hidden": 32});
    let config = json!({
        "name": "c", "licence": "CC0-1.0", "text_tokenizer": model(),
        "model": {
            "image_size": 32, "patch_size": 16, "image": tower, "text_length": 16, "text": tower,
            "projection_width": 8
        },
        "validation": 2
    });
    training(&["clip"], "model/clip.safetensors", config).check();
}

#[test]
fn a_killed_fine_tuning_loses_nothing_after_its_last_checkpoint() {
    let config = json!({
        "name": "tuned", "licence": "CC0-1.0", "encoded_pictures": 4, "caption_dropout": 0.1, "validation": 2
    });
    let subject = ["dalle", "--from", model()];
    training(&subject, "model/dalle.safetensors", config).check();
    let config = json!({
        "name": "tuned", "encoded_pictures": 4, "caption_dropout": 0.1, "validation": 2, "samples": 1,
        "lora": {"rank": 2, "dropout": 0.1}
    });
    training(&subject, "adapter/adapter.safetensors", config).check();
}

#[test]
fn killed_scenes_are_completed_by_the_next_run() {
    let program = Program::new();
    let export = |out: &'static str| ["data", "scenes", "-o", out, "-n", "300", "--world", "tiny"];
    let takes = unbroken(&program, &export("whole"));
    for number in 0..kills() {
        killed(&program, &export("out"), number, takes);
        program.expect(&export("out"));
        same_files(&program.path("out"), &program.path("whole"));
        fs::remove_dir_all(program.path("out")).unwrap();
    }
}
