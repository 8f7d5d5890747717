//! `quantize`, `--precision`, and `eval likelihood` and `bench` as far as a test has time.

use std::fs;

use crate::program::{Program, model};
use crate::references::{expected, published, write_picture};

#[test]
fn a_quantised_checkpoint_draws_what_precision_draws() {
    let program = Program::new();
    for format in ["bf16", "int8", "int4"] {
        let report = program.expect(&["quantize", model(), "--to", format, "-o", format]);
        assert_eq!(report, format!("{format}\n"));
        let text = program.expect(&["model", "info", format]);
        assert!(text.contains(&format!("MiB in {format}")), "{text}");
        let draw = |model: &str, precision: &[&str], file: &str| {
            let arguments = [
                "generate", "a cat", "--seed", "3", "--model", model, "-o", file,
            ];
            program.expect(&[&arguments[..], precision].concat());
            fs::read(program.path(file)).unwrap()
        };
        let at_load = draw(
            model(),
            &["--precision", format],
            &format!("{format}-a.png"),
        );
        let stored = draw(format, &[], &format!("{format}-b.png"));
        // The same weights widened: other roundings, so the same picture is not promised, a picture is.
        draw(format, &["--precision", "f32"], &format!("{format}-c.png"));
        assert!(at_load == stored, "{format}");
    }
}

/// Weights of these tiny models are large and their widths no multiples of 32: roundings show more than in any real
/// one. A part that was lost or in the wrong place would show as a tenth and more.
#[test]
fn models_of_dalle_pytorch_take_fewer_bits_and_stay_near_the_reference() {
    for (set, format, most) in [
        ("rotary", "bf16", 0.002),
        ("rotary", "int8", 0.02),
        ("reversible", "int8", 0.02),
        ("axial", "int4", 0.1),
    ] {
        let program = Program::new();
        let set = &format!("dalle_pytorch/goldens/{set}");
        let original = published(set);
        let report = program.expect(&["quantize", &original, "--to", format, "-o", "small"]);
        assert_eq!(report, "small\n");
        let info = program.json(&["model", "info", "small", "--json"]);
        assert_eq!(info["precision"], format);
        let draw = |arguments: &[&str], file: &str| {
            let common = ["generate", "a cat", "--seed", "3", "-o", file, "--model"];
            program.expect(&[&common[..], arguments].concat());
            fs::read(program.path(file)).unwrap()
        };
        let at_load = draw(&[&original, "--precision", format], "a.png");
        assert!(at_load == draw(&["small"], "b.png"), "{set} {format}");

        write_picture(&program, set);
        let caption = "a red turtle on a hat";
        let common = ["likelihood", "in.png", "--caption", caption, "--json"];
        let report = program.json(&[&common[..], &["--model", "small"]].concat());
        let found = &report["pictures"][0]["image_log_likelihood"];
        let reference = -f64::from(expected(set, "picture_nats").0[0]);
        let apart = (found.as_f64().unwrap() / reference - 1.0).abs();
        assert!(apart > 0.0 && apart <= most, "{set} {format}: {apart}");
        program.refuses(
            1,
            &["quantize", "small", "--to", "f32", "-o", "small"],
            &["small is there already"],
        );
    }
}

#[test]
fn damaged_quantised_files_are_refused() {
    let program = Program::new();
    program.expect(&["quantize", model(), "--to", "int8", "-o", "small"]);
    let arguments = ["generate", "a cat", "--model", "small"];
    let weights = program.path("small/dalle.safetensors");
    let whole = fs::read(&weights).unwrap();

    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let parts = ["small/dalle.safetensors", "not a whole safetensors file"];
    program.refuses(1, &arguments, &parts);
    // All scales infinite.
    let mut damaged = whole.clone();
    let from = damaged.len() - 1088;
    damaged[from..].fill(0x7F);
    damaged[from..from + 64].copy_from_slice(&[0x80, 0x7F].repeat(32));
    fs::write(&weights, &damaged).unwrap();
    program.refuses(1, &arguments, &["has a scale that is not finite"]);
    fs::write(&weights, &whole).unwrap();

    let config = program.path("small/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("int8", "int4")).unwrap();
    program.refuses(1, &arguments, &["bytes, expected", "weights in int4"]);
    fs::write(&config, text.replace("int8", "bf16")).unwrap();
    program.refuses(1, &arguments, &["small/dalle.safetensors"]);
}

#[test]
fn what_can_not_be_quantised_says_so() {
    let program = Program::new();
    program.expect(&["quantize", model(), "--to", "int8", "-o", "small"]);
    program.refuses(
        1,
        &["quantize", "small", "--to", "int4", "-o", "smaller"],
        &["weights are in int8, expected int8 or f32, got int4"],
    );
    program.refuses(
        1,
        &["quantize", model(), "--to", "int8", "-o", "small"],
        &["small is there already, expected a new or an empty folder"],
    );
    program.refuses(
        2,
        &["quantize", model(), "--to", "int3", "-o", "other"],
        &["expected f32, bf16, int8 or int4, got \"int3\""],
    );
    program.refuses(
        2,
        &[
            "generate",
            "a cat",
            "--model",
            model(),
            "--precision",
            "half",
        ],
        &["got \"half\""],
    );
}

#[test]
fn scenes_are_measured_in_every_format() {
    let program = Program::new();
    let nats = |precision: &str| {
        let report = program.json(&[
            "eval",
            "likelihood",
            "--world",
            "tiny",
            "--scenes",
            "2",
            "--model",
            model(),
            "--precision",
            precision,
            "--json",
        ]);
        assert_eq!(report["image_tokens"], 2 * 16);
        assert!(report["against"].is_null());
        report["image_nats_per_token"].as_f64().unwrap()
    };
    // An untrained model finds all 32 codes about as likely, in any format.
    for precision in ["f32", "int8"] {
        let found = nats(precision);
        assert!((found - 32f64.ln()).abs() < 0.1, "{precision}: {found}");
    }
}

/// How far predictions are from the same model's in more bits.
#[test]
fn predictions_in_fewer_bits_are_compared() {
    let program = Program::new();
    let common = [
        "eval",
        "likelihood",
        "--world",
        "tiny",
        "--scenes",
        "2",
        "--model",
    ];
    let compared = |precision: &str| {
        let flags = [
            model(),
            "--precision",
            precision,
            "--against",
            model(),
            "--json",
        ];
        program.json(&[&common[..], &flags].concat())["against"].clone()
    };
    let same = compared("f32");
    assert_eq!(
        (&same["divergence"], &same["agreement"]),
        (&0.0.into(), &1.0.into())
    );
    let of = |found: &serde_json::Value| found["divergence"].as_f64().unwrap();
    let (int8, int4) = (compared("int8"), compared("int4"));
    assert!(
        0.0 < of(&int8) && of(&int8) < of(&int4) && of(&int4) < 0.01,
        "{int8} {int4}"
    );
    assert!((same["entropy"].as_f64().unwrap() - 32f64.ln()).abs() < 0.1);
    let lines = program.expect(&[&common[..], &[model(), "--against", model()]].concat());
    assert!(lines.contains("Kullback-Leibler"), "{lines}");
    let other = published("dalle_mini/goldens/flax_stacked");
    let flags = [model(), "--against", &other];
    program.refuses(
        1,
        &[&common[..], &flags].concat(),
        &["encodes pictures otherwise"],
    );
    let alone = [&common[..], &[model(), "--against-precision", "f32"]].concat();
    program.refuses(2, &alone, &["--against"]);
}

#[test]
fn bench_prints_what_it_measures_in() {
    let program = Program::new();
    program.refuses(2, &["bench", "--what", "sleep"], &["sleep"]);
    program.refuses(2, &["bench", "--tokens", "3"], &["3 is not in 4..=256"]);
    program.refuses(2, &["bench", "--narrow"], &["--pictures-on"]);
    let both = ["bench", "--pictures-on", "cpu", "--what", "load"];
    program.refuses(2, &both, &["--what measure different things"]);
}

/// Mapped or read whole, the numbers are the same.
#[test]
fn weights_can_be_read_whole() {
    let program = Program::new();
    let mini = published("dalle_mini/goldens/flax_stacked");
    for (name, model) in [("a", model()), ("b", &mini)] {
        let common = [
            "generate",
            "a cat",
            "--seed",
            "1",
            "--truncate",
            "--model",
            model,
        ];
        let (mapped, read) = (format!("{name}-mapped.png"), format!("{name}-read.png"));
        program.expect(&[&common[..], &["-o", &mapped]].concat());
        program.expect(&[&common[..], &["--no-mmap", "-o", &read]].concat());
        let bytes = |name: &str| fs::read(program.path(name)).unwrap();
        assert!(bytes(&mapped) == bytes(&read));
    }
}
