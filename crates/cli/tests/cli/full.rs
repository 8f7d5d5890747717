//! A full disk is said, and nothing is left that keeps it full.
//!
//! Stood in for by the system's limit of a file's size: writing fails in the middle of a file in the same way, without
//! a disk of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use impasto::image::{Format, Image};
use serde_json::json;

use crate::program::{Program, Ran, clip, model};
use crate::references::published;

/// Everything below a folder.
fn below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// Runs where no file can have more than this many blocks of 512 bytes.
fn limited(program: &Program, blocks: u32, arguments: &[&str]) -> Ran {
    // The signal, which would end the program, becomes an error of the write.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_impasto")])
        .args(arguments)
        .current_dir(program.folder.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    output.into()
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    for i in 0..6u8 {
        let picture = Image::filled(32, 32, [i * 40, 99, 199]);
        fs::write(
            program.path(&format!("p/{i}.png")),
            picture.encode(Format::Png, 100).unwrap(),
        )
        .unwrap();
        fs::write(program.path(&format!("p/{i}.txt")), format!("card {i}")).unwrap();
    }
    let config = json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "data": {"pairs": {"from": {"folder": "p"}, "validation_share": 0.0}},
        "run": {"steps": 2, "batch_size": 2, "checkpoint_every": 1}, "validation": 2
    });
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    let train = [
        "train",
        "image-tokenizer",
        "--config",
        "c.json",
        "--out",
        "run",
        "--device",
        "cpu",
    ];
    let published_clip = published("clip/goldens/openai/small.pt");
    fs::create_dir(program.path("o")).unwrap();
    fs::create_dir(program.path("run")).unwrap();
    for (arguments, named, allowed) in [
        (
            &[
                "generate",
                "a cat",
                "-n",
                "3",
                "-o",
                "o/",
                "--model",
                model(),
            ][..],
            "o/a-cat",
            &[][..],
        ),
        (
            &[
                "reconstruct",
                "p/1.png",
                "-o",
                "out.png",
                "--model",
                model(),
            ],
            "out.png",
            &[],
        ),
        (
            &["quantize", model(), "--to", "int8", "-o", "small"],
            "small/",
            &[],
        ),
        (
            &["import", &published_clip, "-o", "imported"],
            "imported/",
            &[],
        ),
        (
            &["index", "build", "p", "--clip", clip(), "--device", "cpu"],
            "p/.impasto-index",
            &["p/.impasto-index", "p/.impasto-index/rows-0.f32"],
        ),
        (
            &train,
            "run",
            &[
                "run/checkpoints",
                "run/config.json",
                "run/data.json",
                "run/metrics.jsonl",
                "run/excluded.json",
            ],
        ),
        (
            &[
                "data", "scenes", "-n", "3", "--world", "tiny", "-o", "scenes",
            ],
            "scenes",
            &["scenes"],
        ),
    ] {
        let before = below(program.folder.path());
        let ran = limited(&program, 0, arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        let error = ran.stderr.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("{}", ran.stderr));
        assert!(
            error.contains(named) && error.contains("File too large"),
            "{error}"
        );
        let allowed: BTreeSet<PathBuf> = allowed.iter().map(|name| program.path(name)).collect();
        let left: Vec<PathBuf> = below(program.folder.path())
            .difference(&before)
            .filter(|path| !allowed.contains(*path))
            .cloned()
            .collect();
        assert!(left.is_empty(), "{arguments:?} left {left:?}");
    }
}
