//! Published image tokenizers and models of DALLE-pytorch from the command line: the library's goldens through the
//! executable.

use impasto::image::{Format, Image};

use crate::program::Program;
use crate::references::{expected, expected_in, first_row, published, unpack, write_picture};

#[test]
fn image_tokenizers_encode_and_reconstruct_as_the_reference_does() {
    for set in [
        "taming_plain",
        "taming_gumbel",
        "taming_one_level",
        "discrete_vae",
        "discrete_vae_plain",
        "discrete_vae_normalised",
    ] {
        let program = Program::new();
        let set = &format!("image_tokenizer/goldens/{set}");
        let model = published(set);
        write_picture(&program, set);
        let encoded = program.json(&["tokens", "encode", "in.png", "--json", "--model", &model]);
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"), "{set}");
        program.expect(&["reconstruct", "in.png", "-o", "back.png", "--model", &model]);
        let back = Image::open(program.path("back.png")).unwrap();
        let (values, shape) = expected(set, "picture_decoded");
        let reference = Image::from_chw(&values, shape[3], shape[2]).unwrap();
        // Rounding to bytes may fall to either side.
        let apart = |(&a, &b): (&u8, &u8)| a.abs_diff(b);
        assert!(
            back.rgb.iter().zip(&reference.rgb).map(apart).max() <= Some(1),
            "{set}"
        );
        let draw = ["generate", "a cat", "--model", &model];
        program.refuses(1, &draw, &["is an image tokenizer alone"]);
    }
}

/// At the size that its files stand for, a picture of 16 px enlarged; of the picture that comes back every eighth pixel
/// is known.
#[test]
fn openais_dvae_encodes_and_reconstructs_as_the_reference_does() {
    for set in ["openai", "openai_legacy", "openai_wide"] {
        let program = Program::new();
        let set = &format!("image_tokenizer/goldens/{set}");
        let reference = |name| expected_in(set, "expected_256.safetensors", name);
        let (small, _) = reference("picture");
        let values = (0..3 * 256 * 256).map(|at| {
            let (channel, y, x) = (at / 65536, at / 256 % 256, at % 256);
            small[256 * channel + 16 * (y / 16) + x / 16] / 127.5 - 1.0
        });
        let picture = Image::from_chw(&values.collect::<Vec<f32>>(), 256, 256).unwrap();
        let bytes = picture.encode(Format::Png, 100).unwrap();
        std::fs::write(program.path("in.png"), bytes).unwrap();
        let model = published(set);
        let encoded = program.json(&["tokens", "encode", "in.png", "--json", "--model", &model]);
        let ids: Vec<f32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, reference("picture_ids").0, "{set}");
        program.expect(&["reconstruct", "in.png", "-o", "back.png", "--model", &model]);
        let back = Image::open(program.path("back.png")).unwrap();
        let (known, shape) = reference("picture_decoded");
        let known = Image::from_chw(&known, shape[3], shape[2]).unwrap();
        for at in 0..32 * 32 {
            let place = 3 * (256 * 8 * (at / 32) + 8 * (at % 32));
            for channel in 0..3 {
                let (found, known) = (back.rgb[place + channel], known.rgb[3 * at + channel]);
                // Rounding to bytes may fall to either side.
                assert!(found.abs_diff(known) <= 1, "{set} {at}: {found} {known}");
            }
        }
    }
}

#[test]
fn a_file_is_a_model_and_info_shows_what_it_is() {
    let program = Program::new();
    write_picture(&program, "image_tokenizer/goldens/openai");
    let openai = published("image_tokenizer/goldens/openai/decoder.pkl");
    program.expect(&["reconstruct", "in.png", "-o", "b.png", "--model", &openai]);
    assert_eq!(Image::open(program.path("b.png")).unwrap().width, 256);
    let text = program.expect(&["model", "info", &openai]);
    for part in ["32x32 grid, 20 codes", "256x256 pixels", "modified-MIT"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("transformer"), "{text}");
    let gumbel = published("image_tokenizer/goldens/taming_gumbel/last.ckpt");
    let text = program.expect(&["model", "info", &gumbel]);
    assert!(text.contains("8x8 grid, 37 codes"), "{text}");
    let dalle = published("dalle_pytorch/goldens/learned/dalle.pt");
    let info = program.json(&["model", "info", &dalle, "--json"]);
    let config = &info["config"]["dalle_pytorch"];
    assert_eq!(config["attention"][1], "axial_col");
    assert_eq!(config["stable"], true);
    std::fs::write(program.path("x.pt"), "nothing").unwrap();
    let unknown = ["generate", "a cat", "--model", "x.pt"];
    program.refuses(1, &unknown, &["x.pt: not a published model"]);
}

#[test]
fn models_of_dalle_pytorch_draw_and_judge_as_the_reference_does() {
    for set in ["rotary", "learned", "reversible", "axial", "alone"] {
        let program = Program::new();
        let alone = set == "alone";
        let set = &format!("dalle_pytorch/goldens/{set}");
        let mut model = published(set);
        if alone {
            // The file by itself: the package's own vocabulary of 49,408 words is the program's, too.
            model = unpack(&program, set, "dalle.pt");
        }
        let ids = serde_json::to_vec(&first_row(set, "guided_ids")).unwrap();
        std::fs::write(program.path("ids.json"), ids).unwrap();
        let caption = "a red turtle on a hat";
        let greedy = ["--temperature", "0", "--guidance", "3"];
        let drawn = ["generate", caption, "-o", "a.png", "--model", &model];
        program.expect(&[&drawn[..], &greedy].concat());
        program.expect(&[
            "tokens", "decode", "ids.json", "-o", "b.png", "--model", &model,
        ]);
        let open = |name| Image::open(program.path(name)).unwrap();
        assert!(open("a.png") == open("b.png"), "{set}");

        write_picture(&program, set);
        let encoded = program.json(&["tokens", "encode", "in.png", "--json", "--model", &model]);
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"), "{set}");
        let arguments = [
            "likelihood",
            "in.png",
            "--caption",
            caption,
            "--json",
            "--model",
            &model,
        ];
        let report = program.json(&arguments);
        let references = [("text", "text_nats"), ("image", "picture_nats")];
        for (part, name) in references {
            let found = &report["pictures"][0][format!("{part}_log_likelihood")];
            let found = found.as_f64().unwrap();
            let reference = -f64::from(expected(set, name).0[0]);
            assert!(
                (found - reference).abs() <= 1e-4 * reference.abs(),
                "{set} {name}: {found} {reference}"
            );
        }
    }
}

#[test]
fn a_picture_goes_on_from_the_upper_part_of_another() {
    let program = Program::new();
    let set = "dalle_pytorch/goldens/rotary";
    let model = published(set);
    write_picture(&program, set);
    let begun = [
        "generate",
        "a cat",
        "-n",
        "2",
        "--grid",
        "--begin-with",
        "in.png",
        "--model",
        &model,
    ];
    let seeded = |rest: &[&'static str]| [&begun[..], &["--seed", "4", "-o"], rest].concat();
    program.expect(&seeded(&["one.png"]));
    program.expect(&seeded(&["two.png", "--begin-rows", "1"]));
    let open = |name| Image::open(program.path(name)).unwrap();
    // One of four rows is also the default.
    assert!(open("one.png") == open("two.png"));
    program.refuses(
        2,
        &seeded(&["x.png", "--begin-rows", "4"]),
        &["leaves nothing of 4 rows"],
    );
    // impasto's own models, too: what is above comes from the picture, whatever is below.
    let own = [
        "generate",
        "a cat",
        "--begin-with",
        "in.png",
        "-o",
        "own.png",
    ];
    program.expect(&[&own[..], &["--model", crate::program::model()]].concat());
    let sparse = published("dalle_pytorch/goldens/sparse");
    let drawn = ["generate", "a cat", "--model", &sparse];
    program.refuses(1, &drawn, &["sparse attention"]);
}

#[test]
fn a_prompt_is_finished_in_the_models_own_words() {
    let program = Program::new();
    let model = published("dalle_pytorch/goldens/learned");
    let caption = |rest: &[&str]| {
        let common = ["generate", "--text-only", "--model", &model];
        program.expect(&[&common[..], rest].concat())
    };
    // The likeliest words of the reference for "a red" are none, and without a prompt these.
    assert_eq!(caption(&["a red", "--temperature", "0"]), "a red\n");
    let whole = caption(&["--temperature", "0", "-n", "2"]);
    assert_eq!(whole, "cats t cats it it ' it '\n".repeat(2));

    let report: serde_json::Value =
        serde_json::from_str(&caption(&["a red", "-n", "3", "--seed", "5", "--json"])).unwrap();
    let texts = report["texts"].as_array().unwrap();
    assert_eq!((texts.len(), texts[1]["seed"].as_u64()), (3, Some(6)));
    for report in texts {
        assert!(report["text"].as_str().unwrap().starts_with("a red"));
        assert!(report["log_likelihood"].as_f64().unwrap() < 0.0);
    }
    // What is drawn from is what would be report.
    let finished = texts[0]["text"].as_str().unwrap();
    let draw = ["a red", "--finish", "--seed", "5", "-o", "a.png"];
    let ran = program.run(&[&["generate", "--model", &model], &draw[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = format!("prompt: {finished}\n");
    assert!(ran.stderr.contains(&line), "{} {finished}", ran.stderr);
    assert!(program.path("a.png").is_file());

    let mini = published("dalle_mini/goldens/flax_stacked");
    let refused = ["generate", "a cat", "--text-only", "--model", &mini];
    program.refuses(1, &refused, &["cannot generate captions"]);
    program.refuses(
        2,
        &["generate", "a", "--text-only", "-o", "a.png"],
        &["--text-only"],
    );
    let own = ["generate", "a red", "--text-only", "-n", "2", "--seed", "1"];
    let report = program.expect(&[&own[..], &["--model", crate::program::model()]].concat());
    assert!(
        report.lines().all(|line| line.starts_with("a red")),
        "{report}"
    );
}

/// In both forms, in 32 bits: what the files have in 16 is drawn with in 16.
#[test]
fn janus_draws_sees_and_answers_as_the_reference_does() {
    for set in ["pro", "sharded", "original", "old_roles"] {
        let program = Program::new();
        let set = &format!("janus/goldens/{set}");
        let model = published(set);
        let ids = serde_json::to_vec(&first_row(set, "guided_ids")).unwrap();
        std::fs::write(program.path("ids.json"), ids).unwrap();
        let model = ["--model", &model, "--precision", "f32"];
        let run = |arguments: &[&str]| program.expect(&[arguments, &model].concat());
        let caption = "a red turtle on a hat";
        run(&["generate", caption, "-o", "a.png", "--temperature", "0"]);
        run(&["tokens", "decode", "ids.json", "-o", "b.png"]);
        let open = |name| Image::open(program.path(name)).unwrap();
        assert!(open("a.png") == open("b.png"), "{set}");
        write_picture(&program, set);
        let encoded = run(&["tokens", "encode", "in.png", "--json"]);
        let encoded: serde_json::Value = serde_json::from_str(&encoded).unwrap();
        let ids: Vec<u32> = serde_json::from_value(encoded["image_ids"].clone()).unwrap();
        assert_eq!(ids, first_row(set, "picture_ids"), "{set}");

        let question = "Describe the picture in detail.";
        let asked = run(&["ask", "in.png", question, "--json"]);
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        let streamed = run(&["ask", "in.png", question]);
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        let answer = asked["answer"]["text"].as_str().unwrap();
        if !answer.contains(char::is_control) {
            assert_eq!(squeezed(&streamed), squeezed(answer), "{set}");
        }
        let captions = run(&["caption", "in.png", "--json", "-n", "2"]);
        let captions: serde_json::Value = serde_json::from_str(&captions).unwrap();
        let captions = captions["pictures"][0]["captions"].as_array().unwrap();
        assert_eq!(captions.len(), 2, "{set}");
    }
    let program = Program::new();
    let small = published("janus/goldens/one_bin");
    program.expect(&["import", &small, "-o", "mine"]);
    program.expect(&["model", "info", "mine"]);
    write_picture(&program, "dalle_pytorch/goldens/rotary");
    let other = published("dalle_pytorch/goldens/rotary");
    let ask = ["ask", "in.png", "What is it?", "--model", &other];
    program.refuses(1, &ask, &["cannot answer questions; Janus can"]);

    let embed = ["embed", "--image", "in.png", "--clip", "mine", "--json"];
    let embedded = program.json(&embed);
    let numbers = embedded["embeddings"][0]["embedding"].as_array().unwrap();
    let squares = numbers.iter().map(|x| x.as_f64().unwrap().powi(2));
    assert!((squares.sum::<f64>() - 1.0).abs() < 1e-4, "{embedded}");
    let words = ["embed", "--text", "a cat", "--clip", "mine"];
    program.refuses(1, &words, &["texts: expected pictures alone"]);
}
