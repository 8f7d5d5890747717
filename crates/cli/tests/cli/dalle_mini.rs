//! DALL·E mini from the command line, as it is published: the library's goldens through the executable.

use impasto::image::Image;

use crate::program::Program;
use crate::references::{expected, first_row, published, write_picture};

const STACKED: &str = "dalle_mini/goldens/flax_stacked";
const MIN_DALLE: &str = "dalle_mini/goldens/min_dalle";
const UNROLLED: &str = "dalle_mini/goldens/flax_unrolled";

/// A folder as it is; that without a VQGAN imported, with the other one's.
fn model_of(program: &Program, set: &str) -> String {
    if set != UNROLLED {
        return published(set);
    }
    let (folder, vqgan) = (published(set), published(&format!("{STACKED}/vqgan")));
    program.expect(&[
        "import",
        &folder,
        "-o",
        "flax_unrolled",
        "--image-tokenizer",
        &vqgan,
    ]);
    "flax_unrolled".to_owned()
}

#[test]
fn published_folders_draw_what_the_reference_draws() {
    for set in [STACKED, MIN_DALLE, UNROLLED] {
        let program = Program::new();
        let model = model_of(&program, set);
        let ids = serde_json::to_vec(&first_row(set, "guided_ids")).unwrap();
        std::fs::write(program.path("ids.json"), ids).unwrap();
        // The second one reads nine ids.
        let greedy = ["--temperature", "0", "--guidance", "3", "--truncate"];
        let drawn = ["generate", "a red turtle", "-o", "a.png", "--model", &model];
        assert_eq!(program.expect(&[&drawn[..], &greedy].concat()), "a.png\n");
        program.expect(&[
            "tokens", "decode", "ids.json", "-o", "b.png", "--model", &model,
        ]);
        let open = |name| Image::open(program.path(name)).unwrap();
        assert!(open("a.png") == open("b.png"), "{set}");
    }
}

#[test]
fn ids_pictures_and_likelihoods_are_those_of_the_reference() {
    for set in [STACKED, UNROLLED] {
        let program = Program::new();
        write_picture(&program, set);
        let model = model_of(&program, set);
        let encoded = program.json(&["tokens", "encode", "in.png", "--json", "--model", &model]);
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"));
        let name = set.rsplit('/').next().unwrap();
        assert_eq!(encoded["model"], name);

        program.expect(&["reconstruct", "in.png", "-o", "back.png", "--model", &model]);
        let back = Image::open(program.path("back.png")).unwrap();
        let (values, shape) = expected(set, "picture_decoded");
        let signed: Vec<f32> = values.iter().map(|value| 2.0 * value - 1.0).collect();
        let reference = Image::from_chw(&signed, shape[3], shape[2]).unwrap();
        // Rounding to bytes may fall to either side.
        let apart = |(&a, &b): (&u8, &u8)| a.abs_diff(b);
        assert!(back.rgb.iter().zip(&reference.rgb).map(apart).max() <= Some(1));

        let arguments = [
            "likelihood",
            "in.png",
            "--caption",
            "a red turtle",
            "--truncate",
            "--json",
            "--model",
            &model,
        ];
        let report = program.json(&arguments);
        let found = report["pictures"][0]["image_log_likelihood"]
            .as_f64()
            .unwrap();
        let reference = -f64::from(expected(set, "picture_nats").0.iter().sum::<f32>());
        assert!(
            (found - reference).abs() <= 1e-4 * reference.abs(),
            "{found} {reference}"
        );
    }
}

#[test]
fn several_pictures_go_into_files_grids_and_seamless_grids() {
    let program = Program::new();
    let model = published(STACKED);
    let common = ["--seed", "5", "--top-k", "12", "--model", &model];
    let run = |arguments: &[&str]| program.expect(&[arguments, &common].concat());
    let printed = run(&["generate", "a cat", "-n", "4", "-o", "each/"]);
    assert_eq!(printed.lines().count(), 4);
    run(&["generate", "a cat", "-n", "4", "--grid", "-o", "grid.png"]);
    run(&[
        "generate",
        "a cat",
        "-n",
        "4",
        "--grid",
        "--seamless",
        "-o",
        "seamless.png",
    ]);
    let open = |name: &str| Image::open(program.path(name)).unwrap();
    let (grid, seamless) = (open("grid.png"), open("seamless.png"));
    // 8 px each, two pixels between them or none.
    assert_eq!((grid.width, grid.height), (18, 18));
    assert_eq!((seamless.width, seamless.height), (16, 16));
    let first = open(printed.lines().next().unwrap());
    assert_eq!(first.rgb[..24], grid.rgb[..24]);
    program.refuses(2, &["generate", "a cat", "--seamless"], &["--grid"]);
}

#[test]
fn info_shows_both_stacks_and_list_names_published_folders() {
    let program = Program::new();
    let model = published(MIN_DALLE);
    let text = program.expect(&["model", "info", &model]);
    for part in [
        "min_dalle",
        "Apache-2.0",
        "8x8 pixels",
        "2 + 1 layers x 64",
        "4x4 grid, 30 codes",
        "guidance 10",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let info = program.json(&["model", "info", &published(STACKED), "--json"]);
    // In 16 bits, with the names around them.
    let parameters = info["dalle_parameters"].as_u64().unwrap()
        + info["image_tokenizer_parameters"].as_u64().unwrap();
    let bytes = info["weight_bytes"].as_u64().unwrap();
    assert!(
        (2 * parameters..2 * parameters + 40_000).contains(&bytes),
        "{parameters} {bytes}"
    );
    let list = program.expect(&["model", "list", &published("dalle_mini/goldens")]);
    assert!(list.contains("flax_stacked, Apache-2.0, "), "{list}");
}

#[test]
fn a_pulled_model_is_found_by_its_name_with_what_it_needs() {
    let program = Program::new();
    let place = |repo: &str, from: &str| {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let folder = program
            .path("hub")
            .join(format!("models--{}", repo.replace('/', "--")));
        let snapshot = folder.join("snapshots").join(commit);
        for made in [&snapshot, &folder.join("refs"), &folder.join("impasto")] {
            std::fs::create_dir_all(made).unwrap();
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(published(from)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                let size = std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
                files.push(serde_json::json!({ "name": entry.file_name().to_str(), "size": size }));
            }
        }
        std::fs::write(folder.join("refs/main"), commit).unwrap();
        let record =
            serde_json::json!({ "commit": commit, "licence": "apache-2.0", "files": files });
        std::fs::write(
            folder.join(format!("impasto/{commit}.json")),
            record.to_string(),
        )
        .unwrap();
    };
    let run = |arguments: &[&str]| {
        let mut command = program.command(arguments);
        command.env("HF_HUB_CACHE", program.path("hub"));
        crate::program::Ran::from(command.output().unwrap())
    };
    let generate = ["generate", "a cat", "-o", "a.png", "--model", "dalle-mini"];
    let missing = run(&generate);
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("impasto pull dalle-mini"),
        "{}",
        missing.stderr
    );
    place("dalle-mini/dalle-mini", STACKED);
    let missing = run(&generate);
    assert!(
        missing.stderr.contains("vqgan_imagenet_f16_16384"),
        "{}",
        missing.stderr
    );
    place(
        "dalle-mini/vqgan_imagenet_f16_16384",
        "dalle_mini/goldens/flax_stacked/vqgan",
    );
    let drawn = run(&generate);
    assert_eq!(drawn.code, 0, "{}", drawn.stderr);
    let info = run(&["model", "info", "dalle-mini"]);
    assert!(
        info.stdout.contains("dalle-mini/dalle-mini"),
        "{}",
        info.stdout
    );
}

#[test]
fn what_it_can_not_do_is_refused() {
    let program = Program::new();
    write_picture(&program, STACKED);
    let own = published(STACKED);
    let drawn = [
        "generate",
        "a cat",
        "--order",
        "parallel:4",
        "--model",
        &own,
    ];
    program.refuses(1, &drawn, &["raster order"]);
    let caption = ["caption", "in.png", "--model", &own];
    program.refuses(1, &caption, &["cannot generate captions"]);
    let eval = [
        "eval",
        "scenes",
        "--prompts",
        "1",
        "--world",
        "tiny",
        "--model",
        &own,
    ];
    program.refuses(1, &eval, &["the model draws"]);
    let decoder = published(MIN_DALLE);
    let back = ["reconstruct", "in.png", "-o", "b.png", "--model", &decoder];
    program.refuses(1, &back, &["came without an encoder"]);
}
