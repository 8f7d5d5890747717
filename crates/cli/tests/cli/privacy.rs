//! Duplicates, personal data in captions, exclusion lists, and what a model has memorized.

use std::fs;

use impasto::image::{Format, Image};

use crate::program::Program;

/// A picture of 4 × 4 blocks whose colours follow from a number.
fn blocks(number: u32, side: usize) -> Image {
    let mut picture = Image::filled(side, side, [0; 3]);
    for y in 0..side {
        for x in 0..side {
            let block = (4 * y / side * 4 + 4 * x / side) as u32;
            for channel in 0..3u32 {
                let mut hash = number * 48 + 3 * block + channel + 1;
                for _ in 0..3 {
                    hash ^= hash << 13;
                    hash ^= hash >> 17;
                    hash ^= hash << 5;
                }
                picture.rgb[3 * (y * side + x) + channel as usize] = (hash >> 8) as u8;
            }
        }
    }
    picture
}

/// Pictures of these numbers with captions in a folder of the run's.
fn pictures(program: &Program, folder: &str, numbers: std::ops::Range<u32>) {
    fs::create_dir(program.path(folder)).unwrap();
    for number in numbers {
        write(program, folder, number, &blocks(number, 32), Format::Png);
    }
}

fn write(program: &Program, folder: &str, number: u32, picture: &Image, format: Format) {
    let path = program.path(folder).join(format!("{number:03}"));
    let bytes = picture.encode(format, 75).unwrap();
    fs::write(path.with_extension(format.extension()), bytes).unwrap();
    fs::write(
        path.with_extension("txt"),
        format!("blocks number {number}\n"),
    )
    .unwrap();
}

/// A run that is resumed with another `--exclude` list has other data, and says so.
#[test]
fn a_resumed_training_says_that_other_pictures_are_left_out() {
    let program = Program::new();
    pictures(&program, "data", 0..12);
    let config = |steps: u32| {
        let config = serde_json::json!({
            "model": {
                "architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [16],
                "n_res_blocks": 1, "groups": 4, "codebook_size": 32, "code_width": 4
            },
            "data": {"pairs": {"from": {"folder": "data"}, "validation_share": 0.1}},
            "run": {"steps": steps, "batch_size": 4, "warmup_steps": 0},
            "validation": 1
        });
        fs::write(program.path("c.json"), config.to_string()).unwrap();
    };
    let train = |list: &str| {
        fs::write(program.path("out.txt"), list).unwrap();
        let ran = program.run(&[
            "train",
            "image-tokenizer",
            "--config",
            "c.json",
            "--out",
            "out",
            "--exclude",
            "out.txt",
            "--resume",
        ]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr
    };
    let others = "the data's pictures or captions are others than before";
    config(1);
    assert!(!train("003.png\n").contains(others));
    config(2);
    let same = train("003.png\n");
    assert!(!same.contains(others), "{same}");
    config(3);
    let other = train("004.png\n");
    assert!(other.contains(others), "{other}");
    let more = train("003.png\n004.png\n");
    assert!(more.contains(others), "{more}");
}

#[test]
fn duplicates_are_found_and_left_out_of_a_training() {
    let program = Program::new();
    pictures(&program, "data", 0..12);
    // A copy of the bytes, one of another size and format, one cropped.
    write(&program, "data", 20, &blocks(0, 32), Format::Png);
    write(&program, "data", 21, &blocks(1, 64), Format::Jpeg);
    let crop = blocks(2, 64);
    let mut rgb = Vec::new();
    for y in 2..62 {
        rgb.extend_from_slice(&crop.rgb[3 * (64 * y + 4)..3 * (64 * y + 64)]);
    }
    write(
        &program,
        "data",
        22,
        &Image::new(60, 60, rgb).unwrap(),
        Format::Png,
    );
    let lists = ["--exclude", "out.txt", "--keep", "kept.jsonl", "--json"];
    let report = program.json(&[&["data", "dedup", "data"], &lists[..]].concat());
    assert_eq!(report["pictures"], 15);
    assert_eq!(report["dropped"]["bytes"], 1);
    assert_eq!(report["dropped"]["copy"], 2);
    let kept: Vec<&str> = report["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["kept"].as_str().unwrap())
        .collect();
    // The larger ones stay.
    assert_eq!(kept, ["000.png", "021.jpg", "022.png"]);
    let list = fs::read_to_string(program.path("out.txt")).unwrap();
    let names: Vec<&str> = list.lines().skip(1).collect();
    assert_eq!(names, ["020.png", "001.png", "002.png"]);
    let lines = program.expect(&["data", "dedup", "data", "--threads", "1"]);
    assert!(
        lines.contains("020.png\tas 000.png\tthe same bytes"),
        "{lines}"
    );

    // The list of kept pairs is one that trainings read.
    let check = program.run(&["data", "check", "kept.jsonl"]);
    assert!(
        check.code == 0 && check.stderr.contains("12 usable pairs"),
        "{}",
        check.stderr
    );

    fs::write(program.path("c.json"), r#"{"vocab_size": 270, "data": {"pairs": {"from": {"folder": "data"}, "validation_share": 0}}}"#).unwrap();
    fs::write(program.path("out.txt"), list + "nowhere.png\n").unwrap();
    let train = [
        "train",
        "text-tokenizer",
        "--config",
        "c.json",
        "--out",
        "out",
        "--exclude",
        "out.txt",
    ];
    let ran = program.run(&train);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("out.txt leaves 3 of 15 pairs out"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("out.txt names 1 pictures that are not in the data: nowhere.png"),
        "{}",
        ran.stderr
    );
    let listed = fs::read_to_string(program.path("out/excluded.json")).unwrap();
    assert!(
        listed.contains("020.png") && listed.contains("nowhere.png"),
        "{listed}"
    );

    // A picture that can't be read stops nothing.
    fs::write(program.path("data/broken.png"), "no picture").unwrap();
    let ran = program.run(&["data", "dedup", "data"]);
    assert!(
        ran.code == 1 && ran.stdout.lines().count() == 3,
        "{}",
        ran.stdout
    );
    assert!(
        ran.stderr.contains("not compared: broken.png"),
        "{}",
        ran.stderr
    );
    // Composed scenes have no names.
    fs::write(
        program.path("s.json"),
        r#"{"vocab_size": 270, "data": {"scenes": {"world": "tiny"}}}"#,
    )
    .unwrap();
    let train = [
        "train",
        "text-tokenizer",
        "--config",
        "s.json",
        "--out",
        "out",
        "--exclude",
        "out.txt",
    ];
    let ran = program.run(&train);
    assert!(
        ran.code == 1 && ran.stderr.contains("error: exclude: "),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_clip_finds_what_is_alike() {
    let program = Program::new();
    pictures(&program, "data", 0..3);
    let report = program.json(&[
        "data", "dedup", "data", "--clip", "--cosine", "-1", "--json",
    ]);
    assert_eq!(report["dropped"]["clip"], 2);
    let report = program.json(&["data", "dedup", "data", "--clip", "--cosine", "1", "--json"]);
    assert_eq!(report["groups"].as_array().unwrap().len(), 0);
    program.refuses(
        2,
        &["data", "dedup", "data", "--cosine", "0.5"],
        &["--clip"],
    );
}

#[test]
fn personal_data_is_found_and_redacted_in_both_languages() {
    let program = Program::new();
    let rows = "{\"image\": \"a.png\", \"captions\": [\"a cat, mail jane@example.com\", \"一只猫，电话13800138000\"]}\n\
                {\"image\": \"b.png\", \"caption\": \"a red cat, 1920x1080\"}\n";
    fs::write(program.path("list.jsonl"), rows).unwrap();
    let ran = program.run(&["data", "scan", "list.jsonl"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stdout,
        "a.png#1\tcaption 1\tcharacters 13 to 28\te-mail\na.png#1\tcaption 2\tcharacters 7 to 17\tphone\n"
    );
    assert!(
        ran.stderr
            .contains("error: 2 of 3 captions have personal data"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("jane") && !ran.stdout.contains("jane"));
    let ran = program.run(&[
        "data",
        "scan",
        "list.jsonl",
        "--only",
        "phone",
        "--show",
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["counts"]["phone"], 1);
    assert_eq!(report["findings"][0]["text"], "13800138000");
    program.expect(&["data", "scan", "list.jsonl", "--redact", "clean.jsonl"]);
    let clean = fs::read_to_string(program.path("clean.jsonl")).unwrap();
    assert!(
        clean.contains("a cat, mail [e-mail]") && clean.contains("一只猫，电话[电话]"),
        "{clean}"
    );
    assert_eq!(
        fs::read_to_string(program.path("list.jsonl")).unwrap(),
        rows
    );
    assert_eq!(program.run(&["data", "scan", "clean.jsonl"]).code, 0);
    // Nothing that is there is replaced.
    let again = program.run(&["data", "scan", "list.jsonl", "--redact", "clean.jsonl"]);
    assert!(
        again.code == 1 && again.stderr.contains("exists already"),
        "{}",
        again.stderr
    );

    pictures(&program, "data", 0..2);
    fs::write(program.path("data/000.txt"), "Zaphod Beeblebrox\nblocks\n").unwrap();
    fs::write(program.path("names.txt"), "zaphod beeblebrox\n").unwrap();
    let redact = [
        "data",
        "scan",
        "data",
        "--names",
        "names.txt",
        "--redact",
        "clean",
    ];
    program.expect(&redact);
    let captions = fs::read_to_string(program.path("clean/00000000.txt")).unwrap();
    assert_eq!(captions, "[name]\nblocks\n");
    assert_eq!(
        fs::read(program.path("clean/00000001.png")).unwrap(),
        fs::read(program.path("data/001.png")).unwrap()
    );
}

/// A model that sees 16 pictures again and again gives them away, and calls none of the others its own; the same model
/// untrained has memorized nothing.
#[test]
fn an_overfitted_model_is_found_out() {
    let program = Program::new();
    pictures(&program, "data", 0..16);
    pictures(&program, "others", 100..160);
    // The image tokenizer is of other pictures: one that knows the 16 alone makes others of the same few ids.
    pictures(&program, "all", 200..360);
    let all = r#"{"pairs": {"from": {"folder": "all"}, "validation_share": 0}}"#;
    let data = r#"{"pairs": {"from": {"folder": "data"}, "validation_share": 0}}"#;
    let config = |name: &str, text: String| fs::write(program.path(name), text).unwrap();
    config(
        "text.json",
        format!(r#"{{"vocab_size": 270, "data": {data}}}"#),
    );
    config(
        "image.json",
        format!(
            r#"{{"model": {{"architecture": "vqgan", "picture_size": 32, "patch": 8, "widths": [32], "n_res_blocks": 1,
                "groups": 4, "codebook_size": 64, "code_width": 8}}, "data": {all}, "validation": 0,
                "run": {{"steps": 300, "batch_size": 8, "warmup_steps": 4, "learning_rate": 0.003, "ema_decay": 0.9}}}}"#
        ),
    );
    let dalle = |steps: u32| {
        format!(
            r#"{{"name": "blocks", "licence": "CC0-1.0", "text_tokenizer": "text", "image_tokenizer": "image",
                "model": {{"text_length": 24, "width": 48, "n_layers": 2, "n_heads": 2, "hidden": 96}}, "data": {data},
                "run": {{"steps": {steps}, "batch_size": 16, "learning_rate": 0.004, "warmup_steps": 10,
                "ema_decay": 0.9, "optimizer": "muon"}}, "raster_share": 1, "captioning_share": 0,
                "caption_dropout": 0.2, "validation": 0}}"#
        )
    };
    config("dalle.json", dalle(250));
    config("untrained.json", dalle(1));
    for (kind, config, out) in [
        ("text-tokenizer", "text.json", "text"),
        ("image-tokenizer", "image.json", "image"),
        ("dalle", "dalle.json", "dalle"),
        ("dalle", "untrained.json", "untrained"),
    ] {
        let train = [
            "train", kind, "--config", config, "--out", out, "--device", "cpu",
        ];
        program.expect(&train);
    }
    let text = [
        "audit",
        "memorization",
        "data",
        "--held-out",
        "others",
        "--model",
        "untrained/model",
    ];
    let printed = program.expect(&text);
    assert!(
        printed.contains("0 of 16 training pictures are memorized")
            && printed.contains("\nmembership: "),
        "{printed}"
    );
    let audit = |model: &str| {
        let model = format!("{model}/model");
        let flags = [
            "audit",
            "memorization",
            "data",
            "--held-out",
            "others",
            "--device",
            "cpu",
            "--json",
        ];
        let files = [
            "--grid",
            "grid.png",
            "--exclude",
            "memorized.txt",
            "--model",
            &model,
        ];
        program.json(&[&flags[..], &files[..]].concat())
    };
    let report = audit("dalle");
    let memorized = report["memorized"].as_array().unwrap().len();
    assert!(memorized >= 14, "{memorized} of 16 found");
    assert_eq!(report["false_alarms"], 0);
    let auc = report["membership"]["unconditional"]["auc"]["value"]
        .as_f64()
        .unwrap();
    assert!(auc >= 0.95, "{auc}");
    let strongest = &report["membership"]["strongest"];
    assert!(
        strongest["auc"]["value"].as_f64().unwrap() >= auc
            && !strongest["lower"].as_bool().unwrap()
    );
    let grid = Image::open(program.path("grid.png")).unwrap();
    assert_eq!((grid.width, grid.height), (3 * 32 + 4, 16 * 32 + 30));
    let list = fs::read_to_string(program.path("memorized.txt")).unwrap();
    assert_eq!(list.lines().count(), 1 + memorized);
    program.refuses(
        1,
        &[
            "audit",
            "memorization",
            "data",
            "--held-out",
            "data",
            "--model",
            "dalle/model",
        ],
        &["held-out data: expected 20 or more pictures"],
    );
}
