//! Everything that can be wrong: one line that names the thing, a code that is not 0, no partial file.

use std::fs;

use impasto::checkpoint::weights::{Precision, parse, serialize};

use crate::program::{Program, model};

fn generate<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "a cat", "--model", model()], arguments].concat()
}

#[test]
fn an_empty_prompt() {
    let program = Program::new();
    for empty in ["", "  ", "\n"] {
        program.refuses(2, &["generate", empty, "--model", model()], &["is empty"]);
        let arguments = [
            "likelihood",
            "a.png",
            "--caption",
            empty,
            "--model",
            model(),
        ];
        program.refuses(2, &arguments, &["is empty"]);
    }
}

#[test]
fn a_prompt_that_is_too_long_states_both_lengths_before_anything_is_drawn() {
    let program = Program::new();
    let long = "zebra ".repeat(80);
    let arguments = ["generate", "a cat", &long, "--model", model()];
    program.refuses(1, &arguments, &["caption has ", "but the model reads 80"]);
    assert!(
        program
            .run(&arguments)
            .stderr
            .contains("hint: shorten it, or pass --truncate")
    );
}

#[test]
fn impossible_flag_values() {
    let program = Program::new();
    let refusals: [(&[&str], &str); 16] = [
        (&["-n", "0"], "0 is not in 1..=65536"),
        (&["--seed", "-1"], "--seed"),
        (
            &["--guidance", "NaN"],
            "expected a finite number of at least 0",
        ),
        (
            &["--guidance", "-2"],
            "expected a finite number of at least 0, got -2",
        ),
        (&["--temperature", "inf"], "expected a finite number"),
        (&["--temperature", "warm"], "invalid float literal"),
        (&["--top-k", "0"], "expected at least 1, got 0"),
        (&["--top-p", "0"], "expected more than 0 and at most 1"),
        (&["--top-p", "1.5"], "expected more than 0 and at most 1"),
        (&["--order", "sideways"], "sideways"),
        (&["--order", "parallel:0"], "parallel:0"),
        (
            &["--format", "gif"],
            "expected png, jpeg or webp, got \"gif\"",
        ),
        (&["--threads", "0"], "--threads"),
        (&["--quality", "101"], "--quality"),
        (&["-o", "a.gif"], "expected png, jpg or webp"),
        (
            &["-o", "a.png", "--format", "webp"],
            "--format webp does not fit the name a.png",
        ),
    ];
    for (arguments, part) in refusals {
        program.refuses(2, &generate(arguments), &[part]);
    }
}

#[test]
fn a_device_that_is_not_there_is_never_replaced() {
    let program = Program::new();
    program.refuses(
        1,
        &generate(&["--device", "abacus"]),
        &["device abacus", "expected auto"],
    );
    #[cfg(not(feature = "cuda"))]
    program.refuses(
        1,
        &generate(&["--device", "cuda"]),
        &["device cuda", "the feature cuda"],
    );
}

#[test]
fn two_pictures_to_one_file() {
    let program = Program::new();
    let part = "2 pictures can't all be written to a.png";
    program.refuses(2, &generate(&["-n", "2", "-o", "a.png"]), &[part]);
    program.refuses(2, &generate(&["a dog", "-o", "a.png"]), &[part]);
}

#[test]
fn targets_that_can_not_be_written_are_refused_before_the_model_is_loaded() {
    let program = Program::new();
    fs::write(program.path("file"), "").unwrap();
    fs::create_dir(program.path("folder.png")).unwrap();
    // A model that is not there either: the target is looked at first.
    let common = ["generate", "a cat", "--model", "nowhere", "-o"];
    let refuses = |output, parts: &[&str]| {
        program.refuses(1, &[&common[..], &[output]].concat(), parts);
    };
    refuses("missing/a.png", &["write into missing", "No such file"]);
    refuses("file/a.png", &["write into file", "Not a directory"]);
    refuses("file/", &["create file/"]);
    #[cfg(target_os = "linux")]
    refuses("/proc/a.png", &["write into /proc"]);
    let reconstruct = [
        "reconstruct",
        "a.png",
        "--model",
        "nowhere",
        "-o",
        "folder.png",
    ];
    program.refuses(2, &reconstruct, &["folder.png exists and is no plain file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_file_is_not_replaced() {
    let program = Program::new();
    std::os::unix::fs::symlink("/dev/full", program.path("full.png")).unwrap();
    program.refuses(
        2,
        &generate(&["-o", "full.png"]),
        &["full.png exists and is no plain file"],
    );
}

/// The limit on file sizes stands in for a full disk, which takes privileges to make: a write fails in
/// the same place.
#[cfg(unix)]
#[test]
fn a_target_that_gets_full_leaves_no_partial_file() {
    let program = Program::new();
    let arguments = generate(&["-o", "a.png"]);
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_impasto"))
        .args(arguments)
        .current_dir(program.folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: write a.png: File too large"),
        "{stderr}"
    );
    assert_eq!(program.files().len(), 0);
}

#[test]
fn a_missing_model() {
    let program = Program::new();
    let arguments = ["generate", "a cat", "--model", "nowhere"];
    program.refuses(1, &arguments, &["model not found at nowhere"]);
    assert!(
        program
            .run(&arguments)
            .stderr
            .contains("hint: give a checkpoint directory")
    );
    program.refuses(
        1,
        &["model", "info", "nowhere"],
        &["model not found at nowhere"],
    );
}

#[test]
fn a_model_without_one_of_its_files() {
    for file in [
        "config.json",
        "tokenizer.json",
        "dalle.safetensors",
        "image_tokenizer.safetensors",
    ] {
        let program = Program::new();
        let model = program.own_model();
        fs::remove_file(program.path(model).join(file)).unwrap();
        let part = format!("read model/{file}: No such file");
        program.refuses(1, &["generate", "a cat", "--model", model], &[&part]);
    }
}

#[test]
fn a_model_whose_files_are_something_else() {
    for file in [
        "config.json",
        "tokenizer.json",
        "dalle.safetensors",
        "image_tokenizer.safetensors",
    ] {
        let program = Program::new();
        let model = program.own_model();
        fs::write(program.path(model).join(file), "neither this nor that").unwrap();
        let part = format!("model/{file}: ");
        program.refuses(1, &["generate", "a cat", "--model", model], &[&part]);
    }
}

const WEIGHTS: [&str; 2] = ["dalle.safetensors", "image_tokenizer.safetensors"];

/// Damages a weight file of a copy of the model, which must be refused with `parts`.
fn damaged(file: &str, damage: impl Fn(&mut Vec<u8>), parts: &[&str]) {
    let program = Program::new();
    let model = program.own_model();
    let path = program.path(model).join(file);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let named = format!("model/{file}: ");
    let parts = [&[named.as_str()], parts].concat();
    program.refuses(1, &["generate", "a cat", "--model", model], &parts);
}

#[test]
fn truncated_weights() {
    for file in WEIGHTS {
        for left in [0, 4, 100] {
            damaged(
                file,
                |bytes| bytes.truncate(left),
                &["not a whole safetensors file"],
            );
        }
        damaged(
            file,
            |bytes| bytes.truncate(bytes.len() - 1),
            &["not a whole safetensors file"],
        );
    }
}

#[test]
fn weights_of_a_wrong_dtype() {
    for file in WEIGHTS {
        let damage = |bytes: &mut Vec<u8>| {
            let at = bytes
                .windows(3)
                .position(|window| window == b"F32")
                .unwrap();
            bytes[at] = b'I';
        };
        damaged(file, damage, &["has dtype I32, expected F32, F16 or BF16"]);
    }
}

#[test]
fn weights_that_are_not_numbers() {
    for file in WEIGHTS {
        let damage = |bytes: &mut Vec<u8>| {
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        };
        damaged(
            file,
            damage,
            &["holds NaN at index", "expected finite numbers"],
        );
    }
}

#[test]
fn weights_of_a_wrong_shape_or_missing_or_left_over() {
    for file in WEIGHTS {
        let change = |change: &dyn Fn(&mut impasto::models::parameters::Parameters) -> String| {
            let path = std::path::Path::new(model()).join(file);
            let mut parameters = parse(&path, &fs::read(&path).unwrap()).unwrap();
            let name = change(&mut parameters);
            let changed = serialize(&parameters, Precision::F32, None).unwrap();
            damaged(
                file,
                |bytes| bytes.clone_from(&changed),
                &["config.json", &name],
            );
        };
        change(&|parameters| {
            // The first two tensors whose shapes differ.
            let (name, shape) = {
                let (name, data) = parameters.iter().next().unwrap();
                (name.clone(), data.shape().clone())
            };
            let other = parameters
                .values()
                .find(|data| *data.shape() != shape)
                .unwrap()
                .clone();
            parameters.insert(name.clone(), other);
            name
        });
        change(&|parameters| parameters.pop_last().unwrap().0);
        change(&|parameters| {
            let (_, data) = parameters.iter().next().unwrap();
            let data = data.clone();
            parameters.insert("left.over".to_owned(), data);
            "left.over".to_owned()
        });
    }
}

#[test]
fn a_config_that_does_not_fit_itself() {
    let program = Program::new();
    let model = program.own_model();
    let path = program.path(model).join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let change = |from: &str, to: &str, part: &str| {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        program.refuses(1, &["model", "info", model], &["model/config.json", part]);
    };
    change("\"n_heads\": 2", "\"n_heads\": 3", "3");
    change("\"grid\": 4", "\"grid\": 5", "5");
    change(
        "\"temperature\": 1.0",
        "\"temperature\": -1.0",
        "temperature",
    );
    change("\"n_layers\"", "\"layers\"", "layers");
}

#[test]
fn a_picture_that_is_none() {
    let program = Program::new();
    fs::write(program.path("a.png"), "no picture").unwrap();
    fs::write(program.path("cut.png"), &png()[..60]).unwrap();
    for (name, part) in [
        ("a.png", "a.png: not a picture"),
        ("cut.png", "cut.png: not a whole picture"),
        ("missing.png", "read missing.png: No such file"),
    ] {
        let likelihood = ["likelihood", name, "--caption", "a cat", "--model", model()];
        program.refuses(1, &likelihood, &[part]);
        program.refuses(1, &["tokens", "encode", name, "--model", model()], &[part]);
        program.refuses(
            1,
            &["reconstruct", name, "-o", "b.png", "--model", model()],
            &[part],
        );
    }
}

fn png() -> Vec<u8> {
    impasto::image::Image::filled(64, 64, [9, 99, 199])
        .encode(impasto::image::Format::Png, 100)
        .unwrap()
}

#[test]
fn image_ids_that_are_none() {
    let program = Program::new();
    for (text, part) in [
        ("[1, 2", "not image ids"),
        ("{\"image_ids\": \"many\"}", "not image ids"),
        ("[-1]", "not image ids"),
        ("[1, 2, 3]", "expected 16 ids, got 3"),
        (
            "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,32]",
            "id 32 is not below the codebook's 32",
        ),
        (
            "{\"model\":\"other\",\"grid\":4,\"image_ids\":[]}",
            "ids of model other",
        ),
    ] {
        fs::write(program.path("ids.json"), text).unwrap();
        let arguments = [
            "tokens",
            "decode",
            "ids.json",
            "-o",
            "a.png",
            "--model",
            model(),
        ];
        program.refuses(1, &arguments, &[part]);
    }
}

#[test]
fn a_preview_without_a_terminal() {
    let program = Program::new();
    program.refuses(
        2,
        &generate(&["--preview"]),
        &["--preview needs a terminal"],
    );
}
