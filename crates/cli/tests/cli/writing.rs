//! Work that is done is kept: locks, killed and stopped runs, modes and links, what differs on --resume.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use impasto::checkpoint::weights::{LazyTensor, Precision, parse, write_lazily};
use impasto::image::{Format, Image};
use serde_json::{Value, json};

use crate::program::{Program, Ran, model};

/// A folder `p` of this many pictures with captions.
fn pictures(program: &Program, count: u8) {
    fs::create_dir_all(program.path("p")).unwrap();
    for i in 0..count {
        let picture = Image::filled(32, 32, [i.wrapping_mul(67), 99, 199]);
        let bytes = picture.encode(Format::Png, 100).unwrap();
        fs::write(program.path(&format!("p/{i}.png")), bytes).unwrap();
        fs::write(program.path(&format!("p/{i}.txt")), format!("card {i}")).unwrap();
    }
}

fn config(steps: u64, checkpoint_every: u64) -> Value {
    json!({
        "model": {
            "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
            "n_res_blocks": 1, "groups": 4, "codebook_size": 16, "code_width": 4
        },
        "data": {"pairs": {"from": {"folder": "p"}, "validation_share": 0.0}},
        "run": {
            "steps": steps, "batch_size": 2, "warmup_steps": 1,
            "checkpoint_every": checkpoint_every, "keep_checkpoints": 3
        },
        "validation": 4
    })
}

/// Trains an image tokenizer into `out`.
fn trains(program: &Program, config: &Value, resume: bool) -> Ran {
    fs::write(program.path("c.json"), config.to_string()).unwrap();
    let resume: &[&str] = if resume { &["--resume"] } else { &[] };
    let train = [
        "train",
        "image-tokenizer",
        "--config",
        "c.json",
        "--out",
        "out",
        "--device",
        "cpu",
    ];
    program.run(&[&train[..], resume].concat())
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(240), "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pngs(program: &Program, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(program.path(folder)).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "png"))
        .collect()
}

#[test]
fn a_folder_too_small_for_validation_trains() {
    let program = Program::new();
    pictures(&program, 3);
    let ran = trains(&program, &config(2, 1), false);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("warning: no picture is held out for validation"),
        "{}",
        ran.stderr
    );
    assert!(program.path("out/image_tokenizer.safetensors").is_file());
    let ran = trains(&program, &config(3, 1), true);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("resumed after 2 steps"),
        "{}",
        ran.stderr
    );
    // What can't be measured can't be expected; that is said before the first step.
    let mut expecting = config(4, 1);
    expecting["run"]["expect"] = json!({"validation_psnr": {"at_least": 1.0}});
    let ran = trains(&program, &expecting, true);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("expects validation_psnr"),
        "{}",
        ran.stderr
    );
}

fn start(program: &Program, arguments: &[&str]) -> Child {
    let mut command = program.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_second_training_into_a_folder_is_refused() {
    let program = Program::new();
    pictures(&program, 3);
    fs::write(program.path("c.json"), config(1_000_000, 1).to_string()).unwrap();
    let train = [
        "train",
        "image-tokenizer",
        "--config",
        "c.json",
        "--out",
        "out",
        "--device",
        "cpu",
        "--resume",
    ];
    let mut first = start(&program, &train);
    wait_for("checkpoint", || {
        program.path("out/checkpoints/step-00000001").is_dir()
    });
    let before = fs::read(program.path("out/config.json")).unwrap();
    let other = json!({"vocab_size": 300, "data": {"scenes": {"world": "tiny"}}});
    fs::write(program.path("t.json"), other.to_string()).unwrap();
    for arguments in [
        &train[..],
        &[
            "train",
            "text-tokenizer",
            "--config",
            "t.json",
            "--out",
            "out",
        ],
    ] {
        let ran = program.run(arguments);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let refusal = "out: another training is writing into this folder";
        assert!(ran.stderr.contains(refusal), "{}", ran.stderr);
    }
    assert_eq!(fs::read(program.path("out/config.json")).unwrap(), before);
    // The lock ends with the process, however that ends.
    first.kill().unwrap();
    first.wait().unwrap();
    let ran = trains(&program, &config(1, 1), true);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!program.path("out/lock").exists());
    // Checkpoints keep the config that they were made with.
    let before = fs::read(program.path("out/config.json")).unwrap();
    let ran = trains(&program, &config(9, 1), false);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("holds checkpoints already"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read(program.path("out/config.json")).unwrap(), before);
}

#[test]
fn resuming_says_what_differs_and_passes_over_what_is_damaged() {
    let program = Program::new();
    pictures(&program, 4);
    assert_eq!(trains(&program, &config(2, 1), false).code, 0);
    let same = trains(&program, &config(2, 1), true);
    assert!(!same.stderr.contains("differs"), "{}", same.stderr);
    pictures(&program, 5);
    let mut other = config(3, 1);
    other["run"]["learning_rate"] = json!(0.01);
    let ran = trains(&program, &other, true);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = "warning: differs from the run so far: run.learning_rate was 0.001, is 0.01; \
                run.steps was 2, is 3; the data's pictures or captions are others than before";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);

    let weights = |step: u64, name: &str| {
        program.path(&format!(
            "out/checkpoints/step-{step:08}/{name}.safetensors"
        ))
    };
    let cut = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    cut(weights(3, "model"));
    let ran = trains(&program, &other, true);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for said in ["step-00000003", "passed over", "resumed after 2 steps"] {
        assert!(ran.stderr.contains(said), "no {said:?} in {}", ran.stderr);
    }
    // A tensor of another rank is no panic.
    let path = weights(3, "first");
    let moments = parse(&path, &fs::read(&path).unwrap()).unwrap();
    let columns = moments.into_iter().map(|(name, data)| {
        let values: Vec<f32> = data.try_into_vec().unwrap();
        let shape = vec![values.len(), 1];
        LazyTensor::new(name, Precision::F32, shape, move || values.clone())
    });
    write_lazily(&path, &path, columns.collect()).unwrap();
    let ran = trains(&program, &config(4, 1), true);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(", 1], expected ["), "{}", ran.stderr);
    // Starting over because nothing can be read would lose all of it.
    for step in 1..=3 {
        cut(weights(step, "model"));
    }
    let ran = trains(&program, &other, true);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("not a whole safetensors file"),
        "{}",
        ran.stderr
    );
}

#[cfg(unix)]
#[test]
fn a_stopped_generate_keeps_what_was_finished() {
    let program = Program::new();
    fs::create_dir(program.path("o")).unwrap();
    // Left by a run that was killed.
    fs::write(program.path("o/.impasto-killed"), "half a picture").unwrap();
    let many = [
        "generate",
        "a cat",
        "-n",
        "60000",
        "--seed",
        "5",
        "-o",
        "o/",
        "--model",
        model(),
        "--device",
        "cpu",
    ];
    let child = start(&program, &many);
    wait_for("picture", || pngs(&program, "o").len() > 16);
    let stopped = Command::new("kill")
        .arg("-INT")
        .arg(child.id().to_string())
        .status();
    assert!(stopped.unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    let kept = pngs(&program, "o");
    assert!(kept.len() >= 16 && kept.len() < 60_000, "{}", kept.len());
    assert_eq!(ran.stdout.lines().count(), kept.len());
    assert_eq!(
        program.files().len(),
        kept.len(),
        "litter: {:?}",
        program.files()
    );
    // In parts the pictures are those that they are alone.
    let plain = [
        "generate",
        "a secret",
        "--seed",
        "3",
        "--plain-names",
        "-o",
        "o/",
        "--model",
        model(),
    ];
    assert_eq!(program.expect(&plain), "o/picture-3.png\n");
    let alone = [
        "generate",
        "a cat",
        "--seed",
        "22",
        "-o",
        "alone.png",
        "--model",
        model(),
        "--device",
        "cpu",
    ];
    program.expect(&alone);
    let (one, other) = ("alone.png", "o/a-cat-22.png");
    assert_eq!(
        Image::open(program.path(one)).unwrap(),
        Image::open(program.path(other)).unwrap()
    );
}

#[cfg(unix)]
#[test]
fn modes_links_and_the_umask_are_kept() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let program = Program::new();
    let picture = Image::filled(64, 64, [9, 99, 199]);
    fs::write(
        program.path("a.png"),
        picture.encode(Format::Png, 100).unwrap(),
    )
    .unwrap();
    fs::create_dir(program.path("there")).unwrap();
    symlink("there/target.png", program.path("link.png")).unwrap();
    let mode = |name: &str| {
        fs::metadata(program.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    let reconstruct = |output: &str, umask: &str| {
        let script = format!("umask {umask} && exec \"$0\" \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_impasto")])
            .args(["reconstruct", "a.png", "-o", output, "--model", model()])
            .current_dir(program.folder.path())
            .output()
            .unwrap();
        let ran = Ran::from(output);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    };
    reconstruct("new.png", "022");
    assert_eq!(mode("new.png"), 0o644);
    reconstruct("private.png", "077");
    assert_eq!(mode("private.png"), 0o600);
    reconstruct("link.png", "027");
    assert!(program.path("link.png").is_symlink());
    assert_eq!(mode("there/target.png"), 0o640);
    // An existing file's mode counts more than the umask.
    fs::set_permissions(program.path("new.png"), fs::Permissions::from_mode(0o664)).unwrap();
    reconstruct("new.png", "077");
    assert_eq!(mode("new.png"), 0o664);
}

#[cfg(unix)]
#[test]
fn a_killed_quantize_is_started_over() {
    let program = Program::new();
    for output in ["beside/q", "q"] {
        // What a kill leaves: a temporary folder whose lock nobody holds.
        let parent = program.path(output).parent().unwrap().to_path_buf();
        let stale = parent.join(".impasto-folder-killed");
        fs::create_dir_all(&stale).unwrap();
        fs::write(stale.join("dalle.safetensors"), "half").unwrap();
        program.expect(&["quantize", model(), "--to", "int8", "-o", output]);
        assert!(!stale.exists());
        let mut names: Vec<String> = fs::read_dir(program.path(output))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let whole = [
            "config.json",
            "dalle.safetensors",
            "image_tokenizer.safetensors",
            "tokenizer.json",
        ];
        assert_eq!(names, whole);
        let again = ["quantize", model(), "--to", "int8", "-o", output];
        program.refuses(1, &again, &["is there already"]);
    }
}
