//! Pictures enlarged by published networks: alone, and as a part of drawing.

use std::path::{Path, PathBuf};

use impasto::checkpoint::stored::safetensors;
use impasto::image::{Format, Image, Original, SampleKind, Samples};
use impasto::provenance;

use crate::program::{Program, model};

/// A tiny network of random weights in the published form; its factor is 3.
fn upscaler() -> String {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import/upscaler/goldens");
    let file = folder.join("compact_x3/realesr-animevideov3.pth");
    file.to_str().unwrap().to_owned()
}

fn golden(set: &str, file: &str) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto/src/import/upscaler/goldens");
    folder.join(set).join(file)
}

/// Saves a picture of a golden, and returns what the reference makes of it, in 0..1, with its shape.
fn picture_of(program: &Program, set: &str) -> (Vec<f32>, Vec<usize>) {
    let path = golden(set, "expected.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors(&path, &bytes).unwrap();
    let numbers = |wanted: &str| {
        let (_, tensor) = tensors.iter().find(|(name, _)| name == wanted).unwrap();
        (tensor.floats(), tensor.shape().to_vec())
    };
    let (samples, shape) = numbers("input");
    let [_, _, height, width] = shape[..] else {
        panic!("{shape:?}")
    };
    let mut rgb = Vec::new();
    for at in 0..height * width {
        rgb.extend((0..3).map(|channel| samples[channel * height * width + at] as u8));
    }
    let picture = Image::new(width, height, rgb).unwrap();
    let png = picture.encode(Format::Png, 100).unwrap();
    std::fs::write(program.path("picture.png"), png).unwrap();
    numbers("output")
}

#[test]
fn the_executable_makes_what_the_reference_makes() {
    for (set, file) in [
        ("rrdb_x4", "RealESRGAN_x4plus.pth"),
        ("rrdb_x2", "RealESRGAN_x2plus.pth"),
        ("compact_x4", "realesr-general-x4v3.pth"),
        ("safetensors", "compact.safetensors"),
    ] {
        let program = Program::new();
        let (expected, shape) = picture_of(&program, set);
        let weights = golden(set, file);
        let weights = weights.to_str().unwrap();
        let report = program.json(&["upscale", "picture.png", "--model", weights, "--json"]);
        let path = report["pictures"][0]["path"].as_str().unwrap();
        let large = Image::open(program.path(path)).unwrap();
        assert_eq!([large.height, large.width], shape[2..], "{set}");
        let area = large.width * large.height;
        for (at, rgb) in large.rgb.chunks_exact(3).enumerate() {
            for (channel, &found) in rgb.iter().enumerate() {
                let expected = 255.0 * expected[channel * area + at].clamp(0.0, 1.0);
                assert!(
                    (f32::from(found) - expected).abs() < 0.5 + 0.255,
                    "{set}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn several_pictures_keep_their_kind_and_their_settings() {
    let program = Program::new();
    program.expect(&[
        "generate",
        "a red turtle",
        "--model",
        model(),
        "--seed",
        "7",
        "-o",
        "drawn.png",
    ]);
    let transparent = [0u8, 90, 200, 120].repeat(12 * 9);
    let samples = Samples {
        width: 12,
        height: 9,
        colour: SampleKind::Rgba8,
        bytes: transparent,
        profile: None,
    };
    let png = provenance::encode_samples(&samples, Format::Png, 100, "").unwrap();
    std::fs::write(program.path("alpha.png"), png).unwrap();
    std::fs::write(program.path("broken.png"), "no picture").unwrap();
    let ran = program.run(&[
        "upscale",
        "drawn.png",
        "broken.png",
        "alpha.png",
        "--model",
        &upscaler(),
        "-o",
        "large/",
    ]);
    // The bad one is named, the others are there, and the command fails.
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("skipped broken.png"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 of 3 pictures"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "large/drawn-x3.png\nlarge/alpha-x3.png\n");
    let drawn = std::fs::read(program.path("large/drawn-x3.png")).unwrap();
    let text = provenance::read_parameters(&drawn).unwrap();
    assert!(text.starts_with("a red turtle\n"), "{text}");
    let expected = "Size: 64x64";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.ends_with("Postprocess upscale by: 3, Postprocess upscaler: realesr-animevideov3"),
        "{text}"
    );
    let settings = provenance::Settings::parse(&text).unwrap();
    assert_eq!(settings.seed, 7);
    let alpha = Original::open(program.path("large/alpha-x3.png")).unwrap();
    assert_eq!((alpha.width(), alpha.height()), (36, 27));
    assert_eq!(alpha.describe(), "8-bit RGB with transparency");
    // Another factor, in small tiles: the same sides.
    let report = program.json(&[
        "upscale",
        "drawn.png",
        "--model",
        &upscaler(),
        "--factor",
        "2",
        "--tile",
        "32",
        "-o",
        "two.webp",
        "--json",
    ]);
    assert_eq!(report["architecture"], "SRVGGNetCompact");
    let picture = &report["pictures"][0];
    assert_eq!(
        (&picture["width"], &picture["tiles"]),
        (&128.into(), &4.into())
    );
}

#[test]
fn drawn_pictures_are_enlarged_before_they_are_written() {
    let program = Program::new();
    let upscaler = upscaler();
    let with = [
        "--model",
        model(),
        "--seed",
        "3",
        "--upscale",
        "4",
        "--upscaler",
        &upscaler,
    ];
    let run = |arguments: &[&str]| program.expect(&[arguments, &with].concat());
    let side = |name: &str| {
        let picture = Image::open(program.path(name)).unwrap();
        (picture.width, picture.height)
    };
    run(&["generate", "a red turtle", "-o", "a.png"]);
    assert_eq!(side("a.png"), (256, 256));
    let text = provenance::read_parameters(&std::fs::read(program.path("a.png")).unwrap());
    let text = text.unwrap();
    assert!(
        text.contains("Size: 64x64") && text.contains("Postprocess upscale by: 4"),
        "{text}"
    );
    // What `upscale` makes of the same picture.
    program.expect(&[
        "generate",
        "a red turtle",
        "--model",
        model(),
        "--seed",
        "3",
        "-o",
        "plain.png",
    ]);
    program.expect(&[
        "upscale",
        "plain.png",
        "--model",
        &upscaler,
        "--factor",
        "4",
        "-o",
        "b.png",
    ]);
    let [a, b] = ["a.png", "b.png"].map(|name| Image::open(program.path(name)).unwrap());
    assert!(a == b);
    run(&[
        "generate",
        "a red turtle",
        "-n",
        "2",
        "--grid",
        "--seamless",
        "-o",
        "grid.png",
    ]);
    assert_eq!(side("grid.png"), (512, 256));
    run(&[
        "edit",
        "plain.png",
        "--box",
        "8,8,16,16",
        "--clip",
        "none",
        "-o",
        "edited.png",
    ]);
    assert_eq!(side("edited.png"), (256, 256));
    run(&[
        "complete",
        "plain.png",
        "--rows",
        "2",
        "--clip",
        "none",
        "-o",
        "completed.png",
    ]);
    assert_eq!(side("completed.png"), (256, 256));
    run(&["vary", "plain.png", "-n", "2", "-o", "varied/"]);
    assert_eq!(side("varied/plain-varied-4.png"), (256, 256));
}

#[test]
fn bad_requests_are_refused_before_any_work() {
    let program = Program::new();
    program.refuses(
        2,
        &["generate", "a cat", "--upscale", "2"],
        &["realesr-general-x4v3"],
    );
    program.refuses(
        2,
        &["generate", "a cat", "--upscale", "5"],
        &["invalid value '5'"],
    );
    program.refuses(2, &["generate", "a cat", "--upscaler", "x"], &["--upscale"]);
    program.refuses(
        1,
        &["upscale", "none.png", "--model", &upscaler()],
        &["none.png"],
    );
    program.refuses(
        1,
        &["upscale", "a.png", "--model", "impasto-styles"],
        &["expected an upscaler"],
    );
    program.refuses(2, &["upscale"], &["<FILE>"]);
    program.refuses(
        1,
        &[
            "upscale",
            "a.png",
            "--model",
            &upscaler(),
            "--precision",
            "int8",
        ],
        &["expected f32 or bf16"],
    );
    let not_pulled = program.run(&["upscale", "a.png"]);
    assert!(
        not_pulled
            .stderr
            .contains("hint: impasto pull realesr-general-x4v3 brings it"),
        "{}",
        not_pulled.stderr
    );
}
