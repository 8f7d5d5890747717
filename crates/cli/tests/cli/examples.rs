//! The library's examples run as its documentation says, without arguments but for where they write.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Beside the tests, where `cargo test --workspace` puts them.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let target = tests.ancestors().nth(2).unwrap();
    target.join("examples").join(name)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn run(name: &str, arguments: &[&str]) -> String {
    let program = example(name);
    assert!(
        program.is_file(),
        "{} is not built: run `cargo test --workspace`",
        program.display()
    );
    let mut command = Command::new(program);
    let output = command
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let drawn = path("turtles.png");
    let text = run("generate", &["two red turtles", &drawn]);
    assert!(
        text.contains("of 64 tokens") || text.contains("tokens"),
        "{text}"
    );
    assert!(Path::new(&drawn).is_file());
    let edited = path("edited.png");
    let text = run(
        "edit",
        &[
            "docs/pictures/turtle.png",
            "16,16,32,32",
            "a blue fish",
            &edited,
        ],
    );
    assert!(text.contains("1024 pixels drawn"), "{text}");
    let text = run("caption_and_score", &[&drawn]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains("turtle") || text.contains("\u{4e4c}\u{9f9f}"),
        "{text}"
    );
    let text = run("train_tiny", &[&path("tiny")]);
    assert!(
        text.contains("validation_image_nats") && text.contains(" draws ["),
        "{text}"
    );
    let text = run("published_model", &[]);
    assert!(text.contains("DALL·E mini draws"), "{text}");
    assert!(run("custom_sampler", &[]).contains("drew 128 x 128 px"));
    assert!(run("clip_similarity", &[]).contains("similarity loss"));
}

/// A hundred loads of two models leave the memory as it was.
#[test]
fn models_are_shared_and_leave_nothing_behind() {
    let text = run("shared_models", &[]);
    assert!(text.contains("after 100 loads"), "{text}");
}
