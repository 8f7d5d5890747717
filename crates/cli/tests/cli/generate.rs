//! `generate` with good input.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use impasto::image::Image;
use impasto::models::dalle::Order;
use impasto::provenance::{Settings, read_parameters};

use crate::program::{Program, model};

fn settings(program: &Program, name: &str) -> Settings {
    let bytes = std::fs::read(program.path(name)).unwrap();
    Settings::parse(&read_parameters(&bytes).unwrap()).unwrap()
}

#[test]
fn a_prompt_becomes_a_picture_named_after_it() {
    let program = Program::new();
    let ran = program.run(&[
        "generate",
        "a red turtle",
        "--model",
        model(),
        "--seed",
        "7",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "a-red-turtle-7.png\n"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("device: cpu") && ran.stderr.contains("seed: 7"),
        "{}",
        ran.stderr
    );
    let picture = Image::open(program.path("a-red-turtle-7.png")).unwrap();
    assert_eq!((picture.width, picture.height), (64, 64));
}

#[test]
fn settings_are_in_every_format() {
    let program = Program::new();
    for (prompt, name) in [
        ("a red turtle", "a.png"),
        ("红色乌龟", "b.jpg"),
        ("乌龟", "c.webp"),
    ] {
        let arguments = [
            "generate",
            prompt,
            "--model",
            model(),
            "--seed",
            "5",
            "--guidance",
            "2.5",
            "--temperature",
            "0.5",
            "--top-k",
            "9",
            "--top-p",
            "0.75",
            "--order",
            "parallel:3",
            "-o",
            name,
        ];
        assert_eq!(program.expect(&arguments), format!("{name}\n"));
        let settings = settings(&program, name);
        assert_eq!((settings.prompt.as_str(), settings.seed), (prompt, 5));
        assert_eq!(settings.order, Order::Parallel { steps: 3 });
        let sampling = &settings.sampling;
        assert_eq!((sampling.guidance_scale, sampling.temperature), (2.5, 0.5));
        assert_eq!((sampling.top_k, sampling.top_p), (Some(9), Some(0.75)));
        assert_eq!((settings.model.as_str(), settings.width), ("tiny", 64));
    }
}

/// Guidance's rows, the batch and the threads all change how the products are cut up.
#[test]
fn a_seed_draws_the_same_alone_in_a_batch_and_at_any_threads() {
    let program = Program::new();
    for order in ["raster", "parallel:4"] {
        let draw = |arguments: &[&str]| {
            let common = [
                "generate",
                "a red turtle",
                "--model",
                model(),
                "--order",
                order,
            ];
            program.expect(&[&common, arguments].concat());
        };
        draw(&["--seed", "3", "--threads", "1", "-o", "one.png"]);
        draw(&["--seed", "3", "--threads", "2", "-o", "two.png"]);
        draw(&["--seed", "0", "-n", "8", "-o", &format!("{order}/")]);
        let one = std::fs::read(program.path("one.png")).unwrap();
        assert!(one == std::fs::read(program.path("two.png")).unwrap());
        let of_eight = program.path(&format!("{order}/a-red-turtle-3.png"));
        assert!(one == std::fs::read(of_eight).unwrap(), "{order}");
        let other = program.path(&format!("{order}/a-red-turtle-4.png"));
        assert!(
            one != std::fs::read(other).unwrap(),
            "every seed draws the same"
        );
    }
}

#[test]
fn names_that_are_taken_are_left_alone() {
    let program = Program::new();
    let arguments = ["generate", "a cat", "--model", model(), "--seed", "1"];
    assert_eq!(program.expect(&arguments), "a-cat-1.png\n");
    std::fs::write(program.path("a-cat-1.png"), "mine").unwrap();
    assert_eq!(program.expect(&arguments), "a-cat-1-2.png\n");
    assert_eq!(std::fs::read(program.path("a-cat-1.png")).unwrap(), b"mine");
    // A file given by name is replaced.
    program.expect(&[&arguments[..], &["-o", "a-cat-1.png"]].concat());
    assert!(Image::open(program.path("a-cat-1.png")).is_ok());
}

#[test]
fn json_has_paths_seeds_likelihoods_and_timings() {
    let program = Program::new();
    let report = program.json(&[
        "generate",
        "a cat",
        "乌龟",
        "--model",
        model(),
        "-n",
        "2",
        "--seed",
        "4",
        "--json",
    ]);
    let pictures = report["pictures"].as_array().unwrap();
    let seeds: Vec<u64> = pictures
        .iter()
        .map(|p| p["seed"].as_u64().unwrap())
        .collect();
    assert_eq!(seeds, [4, 5, 4, 5]);
    for picture in pictures {
        assert!(program.path(picture["path"].as_str().unwrap()).is_file());
        // 16 tokens of 32 codes each: an untrained model is near 16 ln 32 = 55 nats, and log p ≤ 0.
        let nats = picture["log_likelihood"].as_f64().unwrap();
        assert!((-500.0..0.0).contains(&nats), "{nats}");
    }
    assert_eq!(pictures[2]["path"], "乌龟-4.png");
    for part in ["load", "text", "decode", "pixels"] {
        assert!(report["timings"][part].as_f64().unwrap() >= 0.0, "{part}");
    }
}

#[test]
fn a_grid_is_one_picture_of_all() {
    let program = Program::new();
    let printed = program.expect(&[
        "generate",
        "a cat",
        "--model",
        model(),
        "-n",
        "4",
        "--seed",
        "1",
        "--grid",
        "-o",
        "g.png",
    ]);
    assert_eq!(printed, "g.png\n");
    let grid = Image::open(program.path("g.png")).unwrap();
    assert_eq!((grid.width, grid.height), (2 * 64 + 2, 2 * 64 + 2));
    assert_eq!(settings(&program, "g.png").width, 130);
    assert_eq!(program.files().len(), 1);
}

#[test]
fn a_seed_that_is_not_given_is_printed_and_draws_the_same_again() {
    let program = Program::new();
    let ran = program.run(&["generate", "a cat", "--model", model(), "-o", "a.png"]);
    let seed = ran
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("seed: "))
        .unwrap();
    program.expect(&[
        "generate",
        "a cat",
        "--model",
        model(),
        "-o",
        "b.png",
        "--seed",
        seed,
    ]);
    let read = |name| std::fs::read(program.path(name)).unwrap();
    assert!(read("a.png") == read("b.png"));
}

#[test]
fn a_long_prompt_is_shortened_where_that_is_asked_for() {
    let program = Program::new();
    let prompt = "a zebra ".repeat(80);
    program.expect(&[
        "generate",
        &prompt,
        "--model",
        model(),
        "--truncate",
        "-o",
        "a.png",
    ]);
}

/// Two programs, one output: one whole picture; two programs, one folder: two pictures.
#[test]
fn two_writers_never_mix() {
    let program = Program::new();
    let both = |arguments: &[&str]| {
        let common = ["generate", "a cat", "--model", model(), "--seed", "1"];
        let mut command = program.command(&[&common, arguments].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let children: Vec<_> = (0..2).map(|_| command.spawn().unwrap()).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
    };
    both(&["-o", "a.png"]);
    assert_eq!(program.files(), [program.path("a.png")]);
    assert!(Image::open(program.path("a.png")).is_ok());
    both(&[]);
    let names = ["a-cat-1-2.png", "a-cat-1.png", "a.png"];
    assert_eq!(program.files(), names.map(|name| program.path(name)));
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_whole_pictures_alone_and_exits_130() {
    let program = Program::new();
    let mut child = program
        .command(&["generate", "a cat", "--model", model(), "-n", "65536"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // From this line on interrupts are caught.
    while !lines.next().unwrap().unwrap().starts_with("seed: ") {}
    std::thread::sleep(Duration::from_millis(100));
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lines.last().unwrap().unwrap(), "stopped");
    // Batches that were finished; there may be none yet.
    let files = program.files();
    assert!(files.len().is_multiple_of(16), "{files:?}");
    for file in files {
        Image::open(file).unwrap();
    }
}
