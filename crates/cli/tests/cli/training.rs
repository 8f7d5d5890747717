//! Training through the executable: killed and resumed, on a user's own pictures.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn impasto() -> Command {
    Command::new(env!("CARGO_BIN_EXE_impasto"))
}

fn config(dir: &Path, steps: u64) -> std::path::PathBuf {
    let path = dir.join("config.json");
    let config = serde_json::json!({
        "model": {
            "architecture": "vqgan", "picture_size": 64, "patch": 8, "widths": [16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 32, "code_width": 4
        },
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "run": {"steps": steps, "batch_size": 4, "warmup_steps": 2, "checkpoint_every": 10, "log_every": 5},
        "validation": 4
    });
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn train(config: &Path, out: &Path) -> Command {
    let mut command = impasto();
    command.args([
        "train",
        "image-tokenizer",
        "--resume",
        "--device",
        "cpu",
        "--config",
    ]);
    command.arg(config).arg("--out").arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// SIGKILL at ten moments, some of them while a checkpoint is being written: every time the next run goes on
/// from a whole checkpoint, never from an older one than before, and the end is that of an unbroken run,
/// bit for bit.
#[test]
fn a_run_killed_ten_times_ends_like_an_unbroken_one() {
    let dir = TempDir::new().unwrap();
    let config = config(dir.path(), 200);
    let (unbroken, killed) = (dir.path().join("unbroken"), dir.path().join("killed"));
    let whole = train(&config, &unbroken).output().unwrap();
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );
    let mut steps_before = 0;
    for kill in 0..10u64 {
        let mut child = train(&config, &killed).spawn().unwrap();
        // Fixed moments, spread over the start and a few dozen steps.
        std::thread::sleep(Duration::from_millis(120 + (kill * 613) % 700));
        // May have ended already on a fast machine.
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let resumed = stderr.lines().find_map(|line| {
            line.strip_prefix("resumed after ")?
                .strip_suffix(" steps")?
                .parse::<u64>()
                .ok()
        });
        if let Some(steps) = resumed {
            assert!(
                steps >= steps_before,
                "went back from {steps_before} to {steps}"
            );
            steps_before = steps;
        }
        assert!(!stderr.contains("error:"), "{stderr}");
    }
    let last = train(&config, &killed).output().unwrap();
    assert!(
        last.status.success(),
        "{}",
        String::from_utf8_lossy(&last.stderr)
    );
    for file in ["image_tokenizer.safetensors", "metrics.jsonl"] {
        let (a, b) = (
            fs::read(unbroken.join(file)).unwrap(),
            fs::read(killed.join(file)).unwrap(),
        );
        assert!(a == b, "{file} differs");
    }
    let leftovers: Vec<String> = fs::read_dir(killed.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("step-"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

/// 200 pictures of a user's own with captions, by the shipped recipe's shape: text tokenizer, image
/// tokenizer, transformer, then a picture drawn with the result.
#[test]
fn a_folder_of_two_hundred_pictures_trains_and_draws() {
    use impasto::image::{Format, Image};
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    let pictures = root.join("pictures");
    fs::create_dir(&pictures).unwrap();
    for i in 0..200u32 {
        let (name, colour) = [
            ("red", [220, 30, 30]),
            ("green", [30, 180, 60]),
            ("blue", [40, 60, 220]),
        ][i as usize % 3];
        let picture = Image::filled(60 + i as usize % 20, 60, colour);
        fs::write(
            pictures.join(format!("{i}.png")),
            picture.encode(Format::Png, 100).unwrap(),
        )
        .unwrap();
        fs::write(
            pictures.join(format!("{i}.txt")),
            format!("a {name} card\nsomething {name}\n"),
        )
        .unwrap();
    }
    let data = serde_json::json!({"pairs": {"from": {"folder": pictures}}});
    let run =
        serde_json::json!({"steps": 6, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 6});
    let write = |name: &str, config: serde_json::Value| {
        let path = root.join(name);
        fs::write(&path, config.to_string()).unwrap();
        path
    };
    let text = write(
        "text.json",
        serde_json::json!({"vocab_size": 280, "data": data}),
    );
    let image = write(
        "image.json",
        serde_json::json!({
            "model": {
                "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
                "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
            },
            "data": data, "run": run, "validation": 8
        }),
    );
    let dalle = write(
        "dalle.json",
        serde_json::json!({
            "name": "cards", "licence": "LicenseRef-test",
            "text_tokenizer": root.join("out-text"), "image_tokenizer": root.join("out-image"),
            "model": {"text_length": 24, "width": 16, "n_layers": 1, "n_heads": 2, "hidden": 32},
            "data": data, "run": run, "validation": 8
        }),
    );
    for (what, config, out) in [
        ("text-tokenizer", &text, "out-text"),
        ("image-tokenizer", &image, "out-image"),
        ("dalle", &dalle, "out-dalle"),
    ] {
        let output = impasto()
            .args(["train", what, "--config"])
            .arg(config)
            .arg("--out")
            .arg(root.join(out))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let picture = root.join("card.png");
    let output = impasto()
        .args(["generate", "a red card", "--seed", "1", "--model"])
        .arg(root.join("out-dalle/model"))
        .arg("-o")
        .arg(&picture)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let drawn = Image::open(&picture).unwrap();
    assert_eq!((drawn.width, drawn.height), (32, 32));
}
