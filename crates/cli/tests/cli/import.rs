//! `impasto import`.

use std::path::{Path, PathBuf};

use crate::program::Program;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../impasto/src/import/clip/goldens")
        .join(name)
}

#[test]
fn published_models_become_folders_with_an_account_of_their_tensors() {
    let program = Program::new();
    for (name, format) in [
        ("hugging_face", "hugging_face"),
        ("open_clip_quickgelu", "open_clip"),
        ("openai/small.pt", "openai"),
    ] {
        let path = golden(name);
        let output = format!("out-{format}");
        let report = program.json(&[
            "import",
            path.to_str().unwrap(),
            "-o",
            &output,
            "--half",
            "--json",
        ]);
        assert_eq!(report["kind"], "clip");
        let tensors = &report["networks"][0]["tensors"];
        assert!(tensors["applied"].as_array().unwrap().len() > 20);
        assert!(tensors["missing"].as_array().unwrap().is_empty());
        for file in ["config.json", "clip.safetensors", "tokenizer.json"] {
            assert!(program.path(&output).join(file).is_file(), "{file}");
        }
        let path = path.to_str().unwrap();
        program.refuses(2, &["import", path, "-o", &output], &["is there already"]);
    }
}

#[test]
fn what_is_no_model_is_refused() {
    let program = Program::new();
    program.refuses(1, &["import", "nothing", "-o", "out"], &["nothing"]);
    std::fs::write(program.path("x.pt"), "PK\u{3}\u{4} and no more").unwrap();
    program.refuses(
        1,
        &["import", "x.pt", "-o", "out"],
        &["x.pt: not a whole PyTorch file"],
    );
    std::fs::create_dir(program.path("empty")).unwrap();
    program.refuses(
        1,
        &["import", "empty", "-o", "out"],
        &["published CLIP not found"],
    );
    let checkpoint = golden("hugging_face_bin").join("pytorch_model.bin");
    let checkpoint = checkpoint.to_str().unwrap();
    program.refuses(
        1,
        &["import", checkpoint, "-o", "out"],
        &["give the architecture's name"],
    );
    let as_rn50 = ["import", checkpoint, "-o", "out", "--architecture", "RN50"];
    program.refuses(1, &as_rn50, &["\"RN50\" is not known"]);
}

/// The folder of ours draws, judges and reconstructs as the published one does.
#[test]
fn imported_models_do_what_the_published_ones_do() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import");
    for (set, kind) in [
        ("dalle_mini/goldens/flax_stacked", "dalle_mini"),
        ("dalle_pytorch/goldens/reversible", "dalle_pytorch"),
        ("image_tokenizer/goldens/taming_gumbel", "image_tokenizer"),
        ("image_tokenizer/goldens/openai_legacy", "image_tokenizer"),
    ] {
        let program = Program::new();
        let published = goldens.join(set);
        let published = published.to_str().unwrap();
        let report = program.json(&[
            "import", published, "-o", "ours", "--json", "--name", "mine",
        ]);
        assert_eq!(report["kind"], kind);
        let last = report["networks"].as_array().unwrap().last().unwrap();
        assert!(last["tensors"]["applied"].as_array().unwrap().len() > 10);
        let info = program.expect(&["model", "info", "ours"]);
        assert!(info.contains("mine"), "{info}");
        let both = |command: &[&str], output: &str| {
            let made = ["ours", published].map(|model| {
                program.expect(&[command, &["--model", model]].concat());
                std::fs::read(program.path(output)).unwrap()
            });
            assert!(made[0] == made[1], "{set} {command:?}");
        };
        if kind == "image_tokenizer" {
            let grid = if set.ends_with("legacy") { 64 } else { 8 };
            let ids: Vec<usize> = (0..grid * grid).map(|at| at % 9).collect();
            std::fs::write(program.path("ids.json"), serde_json::to_vec(&ids).unwrap()).unwrap();
            both(&["tokens", "decode", "ids.json", "-o", "a.png"], "a.png");
        } else {
            // The settings in the file name the model.
            let draw = ["generate", "a red turtle", "--seed", "3", "-o", "a.jpg"];
            let pixels = ["ours", published].map(|model| {
                program.expect(&[&draw[..], &["--model", model]].concat());
                impasto::image::Image::open(program.path("a.jpg")).unwrap()
            });
            assert!(pixels[0] == pixels[1], "{set}");
        }
    }
}
