//! Help is help, and wrong usage says so.

use crate::program::Program;

#[test]
fn every_command_explains_itself() {
    let program = Program::new();
    let commands: [&[&str]; 44] = [
        &[],
        &["generate"],
        &["edit"],
        &["complete"],
        &["vary"],
        &["upscale"],
        &["caption"],
        &["model"],
        &["model", "info"],
        &["model", "list"],
        &["import"],
        &["explain"],
        &["likelihood"],
        &["reconstruct"],
        &["tokens"],
        &["tokens", "encode"],
        &["tokens", "decode"],
        &["eval", "scenes"],
        &["eval", "diversity"],
        &["eval", "edits"],
        &["eval", "likelihood"],
        &["eval", "explain"],
        &["index", "build"],
        &["index", "remove"],
        &["search"],
        &["safety"],
        &["safety", "check"],
        &["safety", "calibrate"],
        &["safety", "lists"],
        &["quantize"],
        &["bench"],
        &["selftest"],
        &["serve"],
        &["doctor"],
        &["verify"],
        &["provenance", "strip"],
        &["provenance", "sign"],
        &["data", "scenes"],
        &["data", "check"],
        &["data", "dedup"],
        &["data", "scan"],
        &["audit", "memorization"],
        &["train", "image-tokenizer"],
        &["train", "dalle"],
    ];
    for command in commands {
        let help = program.expect(&[command, &["--help"]].concat());
        assert!(help.contains("Usage: impasto"), "{command:?}: {help}");
    }
}

#[test]
fn help_names_what_generate_takes() {
    let help = Program::new().expect(&["generate", "--help"]);
    for flag in [
        "--model",
        "-n",
        "--seed",
        "--guidance",
        "--temperature",
        "--top-k",
        "--top-p",
        "--order",
        "--output",
        "--grid",
        "--format",
        "--preview",
        "--json",
        "--truncate",
        "--upscale",
        "--threads",
        "--device",
        "--precision",
        "--safety",
        "--safety-policy",
    ] {
        assert!(help.contains(flag), "no {flag} in {help}");
    }
}

#[test]
fn the_version_is_told() {
    let version = Program::new().expect(&["--version"]);
    assert_eq!(version, format!("impasto {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let program = Program::new();
    program.refuses(
        2,
        &["generate", "a cat", "--sede", "3"],
        &["unexpected argument '--sede'"],
    );
    program.refuses(2, &["generate"], &["<PROMPT>"]);
    program.refuses(2, &["paint"], &["unrecognized subcommand 'paint'"]);
    let ran = program.run(&["generate", "a cat", "--sede", "3"]);
    assert!(
        ran.stderr
            .contains("hint: a similar argument exists: '--seed'"),
        "{}",
        ran.stderr
    );
}
