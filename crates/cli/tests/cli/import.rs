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
        let told = program.json(&[
            "import",
            path.to_str().unwrap(),
            "-o",
            &output,
            "--half",
            "--json",
        ]);
        assert_eq!(told["kind"], "clip");
        let tensors = &told["networks"][0]["tensors"];
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
