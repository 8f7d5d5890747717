//! Sizes that configs state are held against the weights, or a bound, before memory is requested.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::program::{Program, Ran, clip, model};

/// In KiB; far less than what any of these sizes would take.
const ADDRESS_SPACE: &str = "1500000";

fn refused(program: &Program, arguments: &[&str], parts: &[&str]) {
    let script = format!("ulimit -v {ADDRESS_SPACE} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_impasto")])
        .args(arguments)
        .args(
            ["--threads", "1"]
                .iter()
                .filter(|_| arguments[0] != "model"),
        )
        .current_dir(program.path("."))
        .output()
        .unwrap();
    let ran = Ran::from(output);
    assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// The config with one field, whose names are in `path`, changed.
fn with(config: &Value, path: &str, value: Value) -> Value {
    let mut config = config.clone();
    *config
        .pointer_mut(path)
        .unwrap_or_else(|| panic!("no {path}")) = value;
    config
}

#[cfg(target_os = "linux")]
#[test]
fn sizes_of_models_are_held_against_their_weights() {
    let program = Program::new();
    let own = program.own_model();
    let path = program.path(own).join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value, part) in [
        ("/dalle/n_layers", json!(1_000_000), "n_layers is 1000000"),
        ("/dalle/n_layers", json!(1024), "the weight files have"),
        ("/dalle/hidden", json!(1 << 20), "the weight files have"),
        (
            "/dalle/contrastive_width",
            json!(0),
            "contrastive_width is 0",
        ),
        (
            "/dalle/text_length",
            json!(1u64 << 63),
            "text_length is 9223372036854775808",
        ),
        (
            "/dalle/text_vocab_size",
            json!(1 << 20),
            "the weight files have",
        ),
        (
            "/image_tokenizer/n_res_blocks",
            json!(6_000_000_000_000_000_000u64),
            "n_res_blocks is 6000000000000000000",
        ),
        (
            "/image_tokenizer/code_width",
            json!(1 << 14),
            "the weight files have",
        ),
        (
            "/image_tokenizer/code_width",
            json!(1u64 << 40),
            "code_width is",
        ),
        (
            "/image_tokenizer/widths",
            json!(vec![8; 70]),
            "levels is 70",
        ),
        ("/image_tokenizer/patch", json!(1u64 << 62), "patch is"),
    ] {
        let config = with(&config, field, value);
        fs::write(&path, config.to_string()).unwrap();
        let parts = ["model/config.json", part];
        refused(&program, &["model", "info", own], &parts);
        refused(
            &program,
            &["generate", "a cat", "-o", "a.png", "--model", own],
            &parts,
        );
    }

    let folder = program.path("clip");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(clip()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value, part) in [
        (
            "/clip/image/n_layers",
            json!(1_000_000),
            "image.n_layers is 1000000",
        ),
        ("/clip/text/n_layers", json!(1024), "the weight files have"),
        ("/clip/text/hidden", json!(1 << 20), "the weight files have"),
        (
            "/clip/projection_width",
            json!(1 << 20),
            "the weight files have",
        ),
        ("/clip/text_length", json!(1u64 << 63), "text_length is"),
    ] {
        fs::write(&path, with(&config, field, value).to_string()).unwrap();
        refused(
            &program,
            &["embed", "--text", "a", "--clip", "clip"],
            &["clip/config.json", part],
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn sizes_of_trainings_are_bounded() {
    let program = Program::new();
    let image = json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "data": {"scenes": {"world": "tiny"}},
        "run": {"steps": 1, "batch_size": 2, "gradient_accumulation": 1},
        "vqgan": {"adversarial": {
            "weight": 0.1, "start_step": 1, "width": 8, "n_layers": 2, "learning_rate": 0.001
        }},
        "validation": 2
    });
    let huge = json!(1u64 << 60);
    for (field, value, part) in [
        (
            "/model/n_res_blocks",
            json!(6_000_000_000_000_000_000u64),
            "n_res_blocks is",
        ),
        ("/model/codebook_size", huge.clone(), "codebook_size is"),
        ("/model/picture_size", huge.clone(), "picture_size is"),
        ("/run/batch_size", huge.clone(), "batch_size is"),
        (
            "/run/gradient_accumulation",
            huge.clone(),
            "gradient_accumulation is",
        ),
        ("/validation", huge.clone(), "validation is"),
        ("/vqgan/adversarial/width", huge.clone(), "width is"),
        (
            "/vqgan/adversarial/n_layers",
            json!(1_000_000),
            "n_layers is 1000000",
        ),
    ] {
        fs::write(
            program.path("c.json"),
            with(&image, field, value).to_string(),
        )
        .unwrap();
        let train = [
            "train",
            "image-tokenizer",
            "--config",
            "c.json",
            "--out",
            "o",
            "--device",
            "cpu",
        ];
        refused(&program, &train, &[part]);
    }
    fs::write(program.path("c.json"), image.to_string()).unwrap();
    let dvae = json!({
        "model": {
            "architecture": "dvae", "picture_size": 32, "n_groups": 64, "n_blocks": 1, "width": 8,
            "code_width": 8, "codebook_size": 16
        },
        "data": {"scenes": {"world": "tiny"}}
    });
    fs::write(program.path("c.json"), dvae.to_string()).unwrap();
    let train = [
        "train",
        "image-tokenizer",
        "--config",
        "c.json",
        "--out",
        "o",
        "--device",
        "cpu",
    ];
    refused(&program, &train, &["n_groups is 64"]);

    let tower = json!({"width": 16, "n_layers": 1, "n_heads": 2, "hidden": 32});
    let of_clip = json!({
        "name": "c", "licence": "CC0-1.0", "text_tokenizer": model(),
        "model": {
            "image_size": 64, "patch_size": 16, "image": tower, "text_length": 16, "text": tower,
            "projection_width": 8
        },
        "data": {"scenes": {"world": "tiny"}},
        "run": {"steps": 1, "batch_size": 2}
    });
    for (field, value, part) in [
        (
            "/model/image/n_layers",
            json!(1_000_000),
            "n_layers is 1000000",
        ),
        ("/model/text/width", huge.clone(), "text.width is"),
        ("/model/text_length", json!(1u64 << 63), "text_length is"),
    ] {
        fs::write(
            program.path("c.json"),
            with(&of_clip, field, value).to_string(),
        )
        .unwrap();
        let train = [
            "train", "clip", "--config", "c.json", "--out", "o", "--device", "cpu",
        ];
        refused(&program, &train, &[part]);
    }
}
