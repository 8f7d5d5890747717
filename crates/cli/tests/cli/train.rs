//! `train` as far as arguments, configs and files go; that models learn is `recipes/smoke`'s to show.

use crate::program::Program;

#[test]
fn a_text_tokenizer_is_trained_from_its_config() {
    let program = Program::new();
    let config = r#"{"vocab_size": 300, "samples": 64, "data": {"scenes": {"world": "tiny"}}}"#;
    std::fs::write(program.path("c.json"), config).unwrap();
    program.expect(&[
        "train",
        "text-tokenizer",
        "--config",
        "c.json",
        "--out",
        "out",
    ]);
    assert!(program.path("out/tokenizer.json").is_file());
}

#[test]
fn configs_that_can_not_be_are_refused() {
    let program = Program::new();
    std::fs::create_dir(program.path("out")).unwrap();
    let refuses = |what: &str, text: &str, part: &str| {
        std::fs::write(program.path("c.json"), text).unwrap();
        program.refuses(
            1,
            &["train", what, "--config", "c.json", "--out", "out"],
            &[part],
        );
    };
    refuses("text-tokenizer", "{", "c.json: not a training config");
    refuses("dalle", "{}", "missing field");
    let unknown = r#"{"vocab_size": 300, "steps": 3, "data": {"scenes": {"world": "tiny"}}}"#;
    refuses("text-tokenizer", unknown, "unknown field `steps`");
    let missing = ["train", "dalle", "--config", "no.json", "--out", "out"];
    program.refuses(1, &missing, &["read no.json: No such file"]);
}
