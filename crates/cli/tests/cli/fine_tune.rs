//! Published models trained on, adapted and merged, through the executable.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::Program;
use crate::references::{published, write_picture};

const MINI: &str = "dalle_mini/goldens/flax_stacked";
const PYTORCH: &str = "dalle_pytorch/goldens/rotary";

/// Writes `c.json` with these parts besides the usual ones.
fn write_config(program: &Program, change: &Value) {
    let mut config = json!({
        "name": "tuned",
        "data": {"scenes": {"world": "tiny", "seed": 3}},
        "encoded_pictures": 8,
        "run": {
            "steps": 30, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 2, "log_every": 1,
            "checkpoint_every": 15, "ema_decay": 0.5
        },
        "caption_dropout": 0.0, "validation": 2, "samples": 1
    });
    for (name, value) in change.as_object().unwrap() {
        config[name] = value.clone();
    }
    std::fs::write(program.path("c.json"), config.to_string()).unwrap();
}

fn train<'a>(model: &'a str, out: &'a str) -> [&'a str; 10] {
    [
        "train", "dalle", "--from", model, "--config", "c.json", "--out", out, "--device", "cpu",
    ]
}

/// All losses of the run in `out`.
fn losses(program: &Program, out: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(program.path(out).join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

fn falls(losses: &[f64]) {
    assert_eq!(losses.len(), 30);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[25..]));
    assert!(last < 0.95 * first, "{losses:?}");
}

/// −log p of the ids of `in.png` after a caption.
fn nats(program: &Program, model: &[&str]) -> f64 {
    let asked = ["likelihood", "in.png", "--caption", "a red cat", "--json"];
    let report = program.json(&[&asked[..], &["--model"], model].concat());
    -report["pictures"][0]["image_log_likelihood"]
        .as_f64()
        .unwrap()
}

#[test]
fn imported_models_are_adapted_merged_and_drawn_with() {
    for (set, target) in [
        (MINI, "decoder.attention.q"),
        (PYTORCH, "feed_forward.down"),
    ] {
        let program = Program::new();
        write_picture(&program, set);
        program.expect(&["import", &published(set), "-o", "base", "--name", "base"]);
        let lora = json!({"rank": 4, "alpha": 8, "targets": [target, "attention.v", "out"]});
        write_config(&program, &json!({"lora": lora}));
        assert_eq!(program.expect(&train("base", "out")), "out/adapter\n");
        falls(&losses(&program, "out"));

        let adapted = ["base", "--adapter", "out/adapter"];
        let merge = ["model", "merge", "base", "out/adapter", "-o", "merged"];
        assert_eq!(program.expect(&merge), "merged\n");
        let of_base = nats(&program, &["base"]);
        let of_adapted = nats(&program, &adapted);
        let of_merged = nats(&program, &["merged"]);
        assert!((of_adapted / of_base - 1.0).abs() > 1e-3, "{set}");
        assert!(
            (of_adapted / of_merged - 1.0).abs() < 1e-5,
            "{set}: {of_adapted} {of_merged}"
        );
        let draw = ["generate", "a red cat", "-o", "a.png", "--json", "--model"];
        for model in [&adapted[..], &["merged"]] {
            let drawn = program.json(&[&draw[..], model].concat());
            assert_eq!(drawn["model"], "tuned", "{set}");
        }
        let alone = ["generate", "a cat", "--model", "out/adapter"];
        program.refuses(2, &alone, &["is an adapter, expected a model"]);
        let info = program.expect(&["model", "info", "merged"]);
        assert!(info.contains("tuned"), "{info}");
        program.refuses(1, &merge, &["merged"]);
        let other = published("dalle_mini/goldens/flax_unrolled");
        let vqgan = published("dalle_mini/goldens/flax_stacked/vqgan");
        program.expect(&["import", &other, "--image-tokenizer", &vqgan, "-o", "other"]);
        let drawn = [
            "generate",
            "a cat",
            "--adapter",
            "out/adapter",
            "--model",
            "other",
        ];
        program.refuses(1, &drawn, &["is an adapter of base"]);
    }
}

#[test]
fn published_models_are_trained_on_as_a_whole() {
    for set in [MINI, PYTORCH] {
        let program = Program::new();
        write_picture(&program, set);
        write_config(&program, &json!({}));
        let from = published(set);
        assert_eq!(program.expect(&train(&from, "out")), "out/model\n");
        falls(&losses(&program, "out"));
        assert!(nats(&program, &["out/model"]) != nats(&program, &[&from]));
        program.expect(&["generate", "a cat", "-o", "a.png", "--model", "out/model"]);
        // A finished run has nothing left to do; without --resume it is not begun over.
        let again = train(&from, "out");
        let ran = program.run(&again);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("checkpoints already"), "{}", ran.stderr);
        let resumed = program.expect(&[&again[..], &["--resume"]].concat());
        assert_eq!(resumed, "out/model\n");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on_as_if_it_had_not_been() {
    let program = Program::new();
    let run = json!({"steps": 800, "batch_size": 4, "warmup_steps": 2, "checkpoint_every": 800});
    let lora = json!({"rank": 2, "dropout": 0.1});
    write_config(&program, &json!({"run": run, "lora": lora}));
    let from = published(PYTORCH);
    program.expect(&train(&from, "unbroken"));
    let mut child = program
        .command(&train(&from, "broken"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().starts_with("encoded 8 of 8") {}
    // Some dozen steps of those that take seconds.
    std::thread::sleep(Duration::from_millis(200));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("--resume --out broken")),
        "{rest:?}"
    );
    program.expect(&[&train(&from, "broken")[..], &["--resume"]].concat());
    for file in ["adapter/adapter.safetensors", "metrics.jsonl"] {
        let [unbroken, broken] =
            ["unbroken", "broken"].map(|out| std::fs::read(program.path(out).join(file)).unwrap());
        assert!(unbroken == broken, "{file}");
    }
}

#[test]
fn what_can_not_be_adapted_is_refused() {
    let program = Program::new();
    let own = crate::program::model();
    let drawn = ["generate", "a cat", "--adapter", "nothing", "--model", own];
    program.refuses(1, &drawn, &["adapter"]);
    let mini = published(MINI);
    let drawn = [
        "generate",
        "a cat",
        "--adapter",
        "nothing",
        "--model",
        &mini,
    ];
    program.refuses(1, &drawn, &["adapter not found"]);
    write_config(&program, &json!({"lora": {"rank": 2, "targets": ["z"]}}));
    std::fs::create_dir(program.path("out")).unwrap();
    program.refuses(1, &train(&mini, "out"), &["unknown target \"z\""]);
    // An adapter is for the model that it was trained on, of impasto's own models too.
    write_config(&program, &json!({"lora": {"rank": 2}}));
    program.expect(&train(own, "own"));
    let adapter = program.path("own/adapter");
    let adapter = adapter.to_str().unwrap();
    program.expect(&["generate", "a cat", "--adapter", adapter, "--model", own]);
    let other = ["generate", "a cat", "--adapter", adapter, "--model", &mini];
    program.refuses(1, &other, &["whose weights are not those of"]);
    let decoder = published("dalle_mini/goldens/min_dalle");
    program.refuses(1, &train(&decoder, "out"), &["came without an encoder"]);
    let tokenizer = published("image_tokenizer/goldens/discrete_vae/vae.pt");
    program.refuses(1, &train(&tokenizer, "out"), &["can't be fine-tuned"]);
}
