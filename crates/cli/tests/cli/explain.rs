//! `explain`, and `generate --explain`.

use impasto::image::Image;

use crate::program::{Program, model};

/// The data of a page.
fn data(page: &str) -> serde_json::Value {
    let data = page.split("type=\"application/json\">").nth(1).unwrap();
    serde_json::from_str(data.split("</script>").next().unwrap()).unwrap()
}

#[test]
fn a_picture_of_ours_is_explained_by_the_prompt_in_its_file() {
    let program = Program::new();
    let draw = [
        "generate",
        "two red turtles",
        "--model",
        model(),
        "--seed",
        "3",
    ];
    program.expect(&[&draw[..], &["-o", "drawn.png"]].concat());
    let printed = program.expect(&["explain", "drawn.png", "--model", model(), "--maps", "maps"]);
    assert_eq!(printed, "drawn.explain.html\n");
    let page = std::fs::read_to_string(program.path("drawn.explain.html")).unwrap();
    // It loads nothing: every address is data, and its own policy forbids all else.
    assert!(page.contains("default-src 'none'; img-src data:"));
    for outside in ["http:", "https:", "src=", "@import", "fetch("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let data = data(&page);
    let explanation = &data["explanation"];
    assert_eq!(explanation["prompt"], "two red turtles");
    let words = explanation["words"].as_array().unwrap();
    let named: Vec<&str> = words
        .iter()
        .map(|word| word["word"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["two", "red", "turtles"]);
    let patches = explanation["patches"].as_array().unwrap();
    let grid = explanation["grid"].as_u64().unwrap() as usize;
    assert_eq!(patches.len(), grid * grid);
    assert!(
        words
            .iter()
            .all(|word| word["map"].as_array().unwrap().len() == grid * grid)
    );
    // Every code of the picture and every alternative has its small picture.
    let codes = data["atlas"]["codes"].as_array().unwrap();
    for patch in patches {
        let alternatives = patch["alternatives"].as_array().unwrap();
        assert_eq!(alternatives.len(), 4);
        assert!(
            alternatives
                .iter()
                .all(|other| codes.contains(&other["id"]))
        );
        assert!(codes.contains(&patch["id"]));
        let (probability, entropy) = (&patch["probability"], &patch["entropy"]);
        assert!(probability.as_f64().unwrap() <= 1.0 && entropy.as_f64().unwrap() >= 0.0);
    }
    for map in [
        "drawn.01-two.png",
        "drawn.02-red.png",
        "drawn.03-turtles.png",
        "drawn.entropy.png",
    ] {
        let heat = Image::open(program.path("maps").join(map)).unwrap();
        assert_eq!((heat.width, heat.height), (512, 512), "{map}");
    }
    // A page is never replaced where the program chose its name.
    let again = program.expect(&["explain", "drawn.png", "--model", model()]);
    assert_eq!(again, "drawn-2.explain.html\n");
}

#[test]
fn a_prompt_is_drawn_and_explained_as_generate_does() {
    let program = Program::new();
    let drawn = program.json(&[
        "explain",
        "--prompt",
        "红色的乌龟",
        "--seed",
        "5",
        "--model",
        model(),
        "--json",
    ]);
    let explained = &drawn["pictures"][0];
    assert_eq!(explained["page"], "红色的乌龟-5.explain.html");
    assert!(explained["path"].is_null());
    let words = explained["words"].as_array().unwrap();
    let named: Vec<&str> = words
        .iter()
        .map(|word| word["word"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["红色", "的", "乌龟"]);
    let generated = program.json(&[
        "generate",
        "红色的乌龟",
        "--seed",
        "5",
        "--model",
        model(),
        "--explain",
        "--json",
        "-o",
        "out/",
    ]);
    let page = generated["pictures"][0]["page"].as_str().unwrap();
    assert_eq!(page, "out/红色的乌龟-5.explain.html");
    let page = std::fs::read_to_string(program.path(page)).unwrap();
    assert_eq!(data(&page)["explanation"]["words"], explained["words"]);
}

/// Where a CLIP looks: on the page, as a heat map, and as numbers.
#[test]
fn a_clip_says_what_its_similarity_rests_on() {
    let program = Program::new();
    let folders = concat!(env!("CARGO_MANIFEST_DIR"), "/../impasto/src/import/");
    let published = format!("{folders}clip/goldens/hugging_face");
    for clip in ["impasto-clip", &published] {
        let flags = [
            "explain",
            "--prompt",
            "a red turtle",
            "--seed",
            "3",
            "--model",
            model(),
        ];
        let out = [
            "--clip",
            clip,
            "--maps",
            "maps",
            "-o",
            "page.html",
            "--json",
        ];
        let printed = program.json(&[&flags[..], &out[..]].concat());
        let found = &printed["pictures"][0]["clip"];
        let grid = found["grid"].as_u64().unwrap() as usize;
        let patches = found["patches"].as_array().unwrap();
        assert_eq!(patches.len(), grid * grid);
        assert!(patches.iter().all(|patch| patch.as_f64().unwrap() >= 0.0));
        let words = found["words"].as_array().unwrap();
        let named: Vec<&str> = words
            .iter()
            .map(|word| word["word"].as_str().unwrap())
            .collect();
        assert_eq!(named, ["a", "red", "turtle"]);
        assert!(
            words
                .iter()
                .all(|word| word["relevance"].as_f64().unwrap() > 0.0),
            "{found}"
        );
        let page = std::fs::read_to_string(program.path("page.html")).unwrap();
        let data = data(&page);
        assert_eq!(data["explanation"]["clip"]["words"], found["words"]);
        // One number for each patch of the model's own grid.
        assert_eq!(
            data["clip"].as_array().unwrap().len(),
            data["explanation"]["patches"].as_array().unwrap().len()
        );
        assert!(page.contains("What CLIP looks at") && page.contains("CLIP 看哪里"));
        let maps = std::fs::read_dir(program.path("maps")).unwrap();
        let mut names = maps.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.any(|name| name.ends_with(".clip.png")));
    }
    let other = format!("{folders}dalle_pytorch/clip_goldens/half");
    let flags = [
        "explain",
        "--prompt",
        "a",
        "--model",
        model(),
        "--clip",
        &other,
    ];
    program.refuses(1, &flags, &["DALLE-pytorch's CLIP", "impasto-clip"]);
}

#[test]
fn attention_is_a_method_of_our_own_models() {
    let program = Program::new();
    for method in ["attention", "rollout", "gradient", "divergence-orders"] {
        let explained = program.json(&[
            "explain",
            "--prompt",
            "a red turtle",
            "--seed",
            "1",
            "--model",
            model(),
            "--method",
            method,
            "--json",
            "-o",
            &format!("{method}.html"),
        ]);
        let words = explained["pictures"][0]["words"].as_array().unwrap();
        for word in words {
            let map = word["map"].as_array().unwrap();
            let values: Vec<f64> = map.iter().map(|value| value.as_f64().unwrap()).collect();
            assert!(values.iter().all(|value| *value >= 0.0), "{method}");
            assert!(values.iter().any(|value| *value > 0.0), "{method}: {word}");
        }
    }
}

#[test]
fn one_bad_picture_is_named_and_the_others_are_explained() {
    let program = Program::new();
    let draw = |seed: &str, name: &str| {
        program.expect(&[
            "generate",
            "a cat",
            "--model",
            model(),
            "--seed",
            seed,
            "-o",
            name,
        ]);
    };
    draw("1", "one.png");
    draw("2", "two.png");
    std::fs::write(program.path("bad.png"), b"no picture").unwrap();
    let plain = Image::filled(64, 64, [9; 3]);
    let plain = plain.encode(impasto::image::Format::Png, 100).unwrap();
    std::fs::write(program.path("silent.png"), plain).unwrap();
    let ran = program.run(&[
        "explain",
        "one.png",
        "bad.png",
        "silent.png",
        "two.png",
        "--model",
        model(),
        "-o",
        "pages/",
    ]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        "pages/one.explain.html\npages/two.explain.html\n"
    );
    for said in [
        "skipped bad.png",
        "silent.png has no prompt inside",
        "2 of 4 pictures could not be explained",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
}

#[test]
fn what_can_not_be_explained_is_refused() {
    let program = Program::new();
    program.refuses(2, &["explain"], &[]);
    program.refuses(
        2,
        &["explain", "--prompt", "a cat", "--method", "magic"],
        &["rollout"],
    );
    program.refuses(
        1,
        &[
            "explain",
            "--prompt",
            "?!",
            "--seed",
            "1",
            "--model",
            model(),
        ],
        &["expected 1 to 256 words, got 0"],
    );
    program.refuses(
        2,
        &[
            "explain",
            "--prompt",
            "a cat",
            "--model",
            model(),
            "-o",
            "a.txt",
        ],
        &["is no name of a page"],
    );
    assert!(program.files().is_empty());
}
