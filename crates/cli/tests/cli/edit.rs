//! `edit`, `complete`, `vary` and `caption`: what is known stays, what can't be is refused.
//!
//! The model is untrained: what it draws is noise, where it draws is what is tested.

use std::fs;
use std::process::Command;

use base64::Engine;
use impasto::edit::{Area, Mask};
use impasto::image::{Format, Image, Original, SampleKind, Samples};
use impasto::provenance::{self, Settings};

use crate::program::{Program, model};

/// Soft slopes, as photographs have them.
fn photograph(width: usize, height: usize) -> Image {
    let rgb = (0..width * height).flat_map(|at| {
        let (x, y) = (at % width, at / width);
        [
            (40 + 150 * x / width) as u8,
            (60 + 120 * y / height) as u8,
            (90 + 60 * (x + y) / (width + height)) as u8,
        ]
    });
    Image::new(width, height, rgb.collect()).unwrap()
}

/// Writes a PNG of any samples; returns its name.
fn write<'a>(program: &Program, name: &'a str, samples: &Samples) -> &'a str {
    let bytes = provenance::encode_samples(samples, Format::Png, 100, "a\nSeed: 1").unwrap();
    fs::write(program.path(name), bytes).unwrap();
    name
}

pub fn write_photograph<'a>(
    program: &Program,
    name: &'a str,
    width: usize,
    height: usize,
) -> &'a str {
    let bytes = photograph(width, height).encode(Format::Png, 100).unwrap();
    fs::write(program.path(name), bytes).unwrap();
    name
}

fn rgba(picture: &Image, alpha: impl Fn(usize, usize) -> u8) -> Samples {
    let pixels = picture.rgb.chunks_exact(3).enumerate();
    Samples {
        width: picture.width,
        height: picture.height,
        colour: SampleKind::Rgba8,
        bytes: pixels
            .flat_map(|(at, rgb)| {
                let alpha = alpha(at % picture.width, at / picture.width);
                [rgb[0], rgb[1], rgb[2], alpha]
            })
            .collect(),
        profile: None,
    }
}

fn open(program: &Program, name: &str) -> Original {
    Original::open(program.path(name)).unwrap()
}

/// `edit` with the tiny model and one seed.
fn edit<'a>(image: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let common = ["edit", image, "--model", model(), "--seed", "5"];
    [&common[..], arguments].concat()
}

/// All pixels outside `area` are the same to the last bit; returns how many inside differ.
pub fn changed_only_within(program: &Program, before: &str, after: &str, area: &str) -> usize {
    let area: Area = area.parse().unwrap();
    let (before, after) = (open(program, before), open(program, after));
    assert_eq!(before.describe(), after.describe());
    assert_eq!(
        (before.width(), before.height()),
        (after.width(), after.height())
    );
    let mut changed = 0;
    for y in 0..before.height() {
        for x in 0..before.width() {
            let same = before.same_at(&after, x, y);
            assert!(same || area.contains(x, y), "{x},{y}");
            changed += usize::from(!same);
        }
    }
    changed
}

#[test]
fn only_the_box_changes_and_a_seed_means_a_picture() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 100, 70);
    let area = "20,10,30,40";
    let arguments = edit(image, &["--box", area, "--prompt", "a red turtle"]);
    assert_eq!(program.expect(&arguments), "a-edited-5.png\n");
    let changed = changed_only_within(&program, image, "a-edited-5.png", area);
    assert!(changed > 600, "{changed} of 1200 pixels");
    let again = [&arguments[..], &["--threads", "1", "-o", "again.png"]].concat();
    program.expect(&again);
    assert_eq!(
        fs::read(program.path("a-edited-5.png")).unwrap(),
        fs::read(program.path("again.png")).unwrap()
    );
    let text = provenance::read_parameters(&fs::read(program.path("again.png")).unwrap());
    let settings = Settings::parse(&text.unwrap()).unwrap();
    assert_eq!(
        (settings.prompt.as_str(), settings.seed),
        ("a red turtle", 5)
    );
    assert_eq!((settings.width, settings.height), (100, 70));
}

#[test]
fn what_was_in_the_hole_leaves_no_trace() {
    let program = Program::new();
    let mut broken = photograph(64, 64);
    fs::write(
        program.path("a.png"),
        broken.encode(Format::Png, 100).unwrap(),
    )
    .unwrap();
    for y in 16..40 {
        broken.rgb[3 * (64 * y + 10)..3 * (64 * y + 50)].fill(255);
    }
    fs::write(
        program.path("b.png"),
        broken.encode(Format::Png, 100).unwrap(),
    )
    .unwrap();
    for image in ["a.png", "b.png"] {
        let output = format!("edited-{image}");
        program.expect(&edit(image, &["--box", "10,16,40,24", "-o", &output]));
    }
    assert_eq!(
        open(&program, "edited-a.png").picture(),
        open(&program, "edited-b.png").picture()
    );
}

#[test]
fn masks_say_it_by_transparency_or_by_brightness() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 80, 64);
    let area: Area = "8,16,30,20".parse().unwrap();
    let mask = Mask::of_area(80, 64, area).unwrap();
    let grey = |value: bool| if value { 255 } else { 0 };
    let bright = Samples {
        width: 80,
        height: 64,
        colour: SampleKind::L8,
        bytes: mask.asked.iter().map(|&asked| grey(asked)).collect(),
        profile: None,
    };
    write(&program, "bright.png", &bright);
    let clear = rgba(&photograph(80, 64), |x, y| grey(!area.contains(x, y)));
    write(&program, "clear.png", &clear);
    let kept = rgba(&photograph(80, 64), |x, y| grey(area.contains(x, y)));
    write(&program, "kept.png", &kept);
    program.expect(&edit(image, &["--box", "8,16,30,20", "-o", "0.png"]));
    program.expect(&edit(image, &["--mask", "bright.png", "-o", "1.png"]));
    program.expect(&edit(image, &["--mask", "clear.png", "-o", "2.png"]));
    let inverted = ["--mask", "kept.png", "--mask-invert", "-o", "3.png"];
    program.expect(&edit(image, &inverted));
    // The picture's own transparency: its hole is filled and opaque.
    program.expect(&edit("clear.png", &["-o", "own.png"]));
    // Transparency that says nothing, as many programs write it: the brightness counts.
    let black_and_white = bright.bytes.iter().flat_map(|&value| [value; 3]).collect();
    let black_and_white = Image::new(80, 64, black_and_white).unwrap();
    write(&program, "opaque.png", &rgba(&black_and_white, |_, _| 255));
    program.expect(&edit(image, &["--mask", "opaque.png", "-o", "4.png"]));
    let none = rgba(&photograph(80, 64), |_, _| 255);
    write(&program, "none.png", &none);
    program.refuses(2, &edit("none.png", &["-o", "5.png"]), &["no transparency"]);
    let first = open(&program, "0.png").picture();
    for name in ["1.png", "2.png", "3.png", "4.png", "own.png"] {
        assert_eq!(open(&program, name).picture(), first, "{name}");
    }
    assert_eq!(open(&program, "own.png").transparent(), None);
    changed_only_within(&program, "clear.png", "own.png", "8,16,30,20");
}

#[test]
fn useless_masks_are_refused_with_what_is_wrong() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 80, 64);
    for (name, width, height) in [("small.png", 40, 32), ("turned.png", 64, 80)] {
        write_photograph(&program, name, width, height);
    }
    let solid = |name, alpha| write(&program, name, &rgba(&photograph(80, 64), |_, _| alpha));
    let full = solid("full.png", 0);
    let black = rgba(&Image::filled(80, 64, [0; 3]), |_, _| 255);
    let empty = write(&program, "empty.png", &black);
    fs::write(program.path("text.png"), "no picture").unwrap();
    let refusals: [(i32, &[&str], &[&str]); 11] = [
        (
            1,
            &["--mask", "small.png"],
            &["mask: is 40x32 pixels, the picture is 80x64"],
        ),
        (1, &["--mask", "turned.png"], &["is 64x80", "EXIF"]),
        (1, &["--mask", empty], &["mask: is empty"]),
        (
            1,
            &["--mask", full],
            &["mask: covers the whole picture", "known pixels"],
        ),
        (1, &["--mask", "text.png"], &["text.png: not a picture"]),
        (1, &["--mask", "none.png"], &["none.png"]),
        (
            1,
            &["--box", "70,0,20,20"],
            &["box: 70,0,20,20 reaches out", "80x64"],
        ),
        (2, &["--box", "1,2,3"], &["expected x,y,width,height"]),
        (
            2,
            &["--box", "1,1,4,4", "--mask", empty],
            &["cannot be used with"],
        ),
        (2, &[], &["a.png has no transparency"]),
        (
            1,
            &["--box", "1,1,4,4", "--window", "65"],
            &["window: expected 1 to 64 pixels"],
        ),
    ];
    for (code, arguments, parts) in refusals {
        program.refuses(code, &edit(image, arguments), parts);
    }
    // A picture that is transparent all over, or nowhere.
    program.refuses(1, &edit(full, &[]), &["covers the whole picture"]);
    program.refuses(2, &edit(empty, &[]), &["empty.png has no transparency"]);
    program.refuses(
        1,
        &edit(
            image,
            &["--box", "1,1,4,4", "--prompt", &"zebra ".repeat(80)],
        ),
        &["caption has ", "but the model reads 80"],
    );
}

#[test]
fn samples_of_16_bits_and_grey_ones_stay_what_they_are() {
    let program = Program::new();
    let noise = |n: usize| (0..n).map(|i| (i * 7919 % 251) as u8).collect::<Vec<u8>>();
    let kinds = [
        ("rgb16", SampleKind::Rgb16, 6),
        ("rgba16", SampleKind::Rgba16, 8),
        ("grey8", SampleKind::L8, 1),
        ("grey16", SampleKind::L16, 2),
        ("grey-alpha", SampleKind::La8, 2),
    ];
    for (name, colour, bytes) in kinds {
        let samples = Samples {
            width: 70,
            height: 64,
            colour,
            bytes: noise(70 * 64 * bytes),
            profile: None,
        };
        let image = format!("{name}.png");
        write(&program, &image, &samples);
        let output = format!("{name}-edited.png");
        program.expect(&edit(&image, &["--box", "30,20,16,25", "-o", &output]));
        let changed = changed_only_within(&program, &image, &output, "30,20,16,25");
        assert!(changed > 300, "{name}: {changed} of 400");
    }
}

/// A JPEG's bytes with an EXIF block that says only how it is turned.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let exif = [
        &b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..],
        &[orientation],
        &[0; 6],
    ]
    .concat();
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn pictures_that_exif_turns_are_edited_upright() {
    let program = Program::new();
    let jpeg = photograph(90, 64).encode(Format::Jpeg, 95).unwrap();
    fs::write(program.path("turned.jpg"), turned(&jpeg, 6)).unwrap();
    let upright = open(&program, "turned.jpg");
    assert_eq!((upright.width(), upright.height()), (64, 90));
    // The box would reach out of the picture as it is stored.
    program.expect(&edit(
        "turned.jpg",
        &["--box", "10,70,20,20", "-o", "a.png"],
    ));
    changed_only_within(&program, "turned.jpg", "a.png", "10,70,20,20");
    write_photograph(&program, "stored.png", 90, 64);
    program.refuses(
        1,
        &edit("turned.jpg", &["--mask", "stored.png"]),
        &["mask: is 90x64 pixels, the picture is 64x90 (turned as its EXIF says)"],
    );
}

/// Made with Pillow: 48 × 32 pixels, cyan from left to right, magenta from top to bottom.
const CMYK: &str = "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJTUjI+WmFaUGBKUVJP/8AAFAgAIAAwBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAEEQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkASwAAPwD0O6713/233rtq9IrHuu9H233oorGuu9H233oorHuu9H233oorGuu9H233oorGuu9H233oor3u671zv233oorHuu9H233oorGuu9H233oorHuu9H233oorGuu9H233oorGuu9H233oor3u671zn233oorHuu9H233oorGuu9H233oorHuu9H233oorGuu9H233oorGuu9H233oor3u671zv233oorHuu9H233oorGuu9H233oorHuu9H233oorGuu9H233oorGuu9H233oor//2Q==";

#[test]
fn a_cmyk_jpeg_is_edited_as_rgb() {
    let program = Program::new();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(CMYK)
        .unwrap();
    fs::write(program.path("cmyk.jpg"), bytes).unwrap();
    program.expect(&edit("cmyk.jpg", &["--box", "10,8,12,12", "-o", "a.png"]));
    let changed = changed_only_within(&program, "cmyk.jpg", "a.png", "10,8,12,12");
    assert!(changed > 70, "{changed} of 144");
    // Little ink at the top left: bright; much cyan at the right: little red.
    let picture = open(&program, "a.png").picture();
    let (first, right) = (&picture.rgb[..3], &picture.rgb[3 * 47..3 * 48]);
    assert!(first.iter().all(|&value| value > 150), "{first:?}");
    assert!(right[0] < 60 && right[1] > 150, "{right:?}");
}

/// Twelve million bytes a picture; of a hole of 60 × 40 pixels only the neighbourhood is looked at.
#[test]
fn a_photograph_with_a_small_hole_takes_little_memory() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 2000, 1500);
    let arguments = edit(
        image,
        &[
            "--box",
            "1200,700,60,40",
            "-n",
            "3",
            "--threads",
            "2",
            "--json",
        ],
    );
    let ran: crate::program::Ran = if cfg!(target_os = "linux") {
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -v 1000000; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_impasto"))
            .args(&arguments)
            .current_dir(program.folder.path());
        limited.output().unwrap().into()
    } else {
        program.run(&arguments)
    };
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let windows = report["windows"].as_array().unwrap();
    let [window] = &windows[..] else {
        panic!("{windows:?}")
    };
    let side = window[2].as_u64().unwrap();
    assert!((64..200).contains(&side), "{side}");
    for candidate in report["candidates"].as_array().unwrap() {
        let path = candidate["path"].as_str().unwrap();
        changed_only_within(&program, image, path, "1200,700,60,40");
    }
}

#[test]
fn candidates_come_in_the_order_of_their_likelihood() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    let arguments = edit(
        image,
        &[
            "--box",
            "16,16,32,32",
            "-n",
            "6",
            "--keep",
            "2",
            "-o",
            "out/",
            "--json",
        ],
    );
    let report = program.json(&arguments);
    let candidates = report["candidates"].as_array().unwrap();
    let likelihoods: Vec<f64> = candidates
        .iter()
        .map(|candidate| candidate["score"].as_f64().unwrap())
        .collect();
    assert_eq!(likelihoods.len(), 6);
    assert!(likelihoods.is_sorted_by(|a, b| a >= b) && likelihoods[0] < 0.0);
    let kept: Vec<bool> = candidates.iter().map(|c| c["path"].is_string()).collect();
    assert_eq!(kept, [true, true, false, false, false, false]);
    // Each is what its seed draws alone.
    let seed = candidates[0]["seed"].to_string();
    let alone = [
        "edit",
        image,
        "--model",
        model(),
        "--box",
        "16,16,32,32",
        "--seed",
    ];
    program.expect(&[&alone[..], &[&seed, "-o", "alone.png"]].concat());
    let path = program.path(candidates[0]["path"].as_str().unwrap());
    assert_eq!(
        fs::read(path).unwrap(),
        fs::read(program.path("alone.png")).unwrap()
    );
}

#[test]
fn pictures_grow_and_keep_what_they_were() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    program.expect(&edit(
        image,
        &["--outpaint", "left=40,bottom=10", "-o", "b.png"],
    ));
    let grown = open(&program, "b.png");
    assert_eq!((grown.width(), grown.height()), (104, 74));
    assert_eq!(grown.region(40, 0, 64, 64), photograph(64, 64));
    let new = grown.region(0, 0, 40, 74).rgb;
    assert!(new.iter().any(|&value| value > 20), "nothing was drawn");
    for bad in ["left", "left=0", "left=4,left=5", "up=4", "left=-4", ""] {
        program.refuses(2, &edit(image, &["--outpaint", bad]), &["left=64,top=32"]);
    }
    program.refuses(
        1,
        &edit(image, &["--outpaint", "left=20000"]),
        &["would be 20064x64 pixels"],
    );
}

#[test]
fn damage_of_one_colour_is_found_and_its_mask_written() {
    let program = Program::new();
    let mut picture = photograph(100, 80);
    for i in 0..40 {
        for thick in 0..3 {
            let at = 3 * ((20 + i + thick) * 100 + 30 + i);
            picture.rgb[at..at + 3].copy_from_slice(&[255, 0, 255]);
        }
    }
    fs::write(
        program.path("a.png"),
        picture.encode(Format::Png, 100).unwrap(),
    )
    .unwrap();
    for (flag, name) in [("--damaged", "b.png"), ("--damaged=#ff00ff", "c.png")] {
        let mask = format!("mask-{name}");
        let arguments = edit("a.png", &[flag, "--save-mask", &mask, "-o", name]);
        let ran = program.run(&arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("damage: #ff00ff"), "{}", ran.stderr);
        let mask = Mask::open(program.path(&mask)).unwrap();
        let repaired = open(&program, name);
        let before = open(&program, "a.png");
        for at in 0..100 * 80 {
            let (x, y) = (at % 100, at / 100);
            assert!(
                mask.asks(x, y) || repaired.same_at(&before, x, y),
                "{x},{y}"
            );
            let rgb = &picture.rgb[3 * at..3 * at + 3];
            assert!(
                mask.asks(x, y) || *rgb != [255, 0, 255],
                "{x},{y} was missed"
            );
        }
    }
    let whole = write_photograph(&program, "whole.png", 100, 80);
    program.refuses(1, &edit(whole, &["--damaged"]), &["damage: found none"]);
    program.refuses(2, &edit(whole, &["--damaged=pinkish"]), &["#rrggbb"]);
}

#[test]
fn a_model_of_one_order_says_so_and_keeps_what_is_known() {
    let program = Program::new();
    let name = program.own_model();
    let path = program.path("model/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["any_order"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    let image = write_photograph(&program, "a.png", 64, 64);
    let ran = program.run(&[
        "edit",
        image,
        "--model",
        name,
        "--seed",
        "5",
        "--box",
        "8,8,30,30",
        "-o",
        "b.png",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("note: tiny was trained in raster order only")
    );
    changed_only_within(&program, image, "b.png", "8,8,30,30");
    let mixed = program.run(&edit(image, &["--box", "8,8,30,30", "-o", "c.png"]));
    assert!(!mixed.stderr.contains("raster order"), "{}", mixed.stderr);
}

#[test]
fn a_jpeg_that_is_written_says_that_it_changes_everything() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    let ran = program.run(&edit(image, &["--box", "8,8,30,30", "-o", "b.jpg"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("note: JPEG changes all pixels"));
}

#[test]
fn pictures_are_completed_from_rows_or_a_box() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 96, 80);
    let complete = |arguments: &[&str]| {
        let common = ["complete", image, "--model", model(), "--seed", "5"];
        [&common[..], arguments]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let expect = |arguments: &[&str]| {
        let arguments = complete(arguments);
        program.expect(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let refuses = |code, arguments: &[&str], part: &str| {
        let arguments = complete(arguments);
        program.refuses(
            code,
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            &[part],
        );
    };
    // One of four rows of the grid is 20 pixels.
    expect(&["--rows", "1", "-o", "rows.png"]);
    changed_only_within(&program, image, "rows.png", "0,20,96,60");
    expect(&["--box", "30,30,20,20", "-o", "box.png"]);
    let (before, after) = (open(&program, image), open(&program, "box.png"));
    assert_eq!(before.region(30, 30, 20, 20), after.region(30, 30, 20, 20));
    assert_ne!(before.region(0, 0, 30, 30), after.region(0, 0, 30, 30));
    refuses(2, &["--rows", "4"], "4 of the model's 4 rows");
    refuses(2, &["--rows", "0"], "--rows");
    refuses(1, &["--box", "0,0,96,80"], "is empty");
    refuses(1, &["--box", "0,0,97,80"], "reaches out");
    refuses(2, &[], "--rows");
}

#[test]
fn variations_reach_from_the_reconstruction_to_a_fresh_picture() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    let vary = |strength: &str, output: &str| {
        program.expect(&[
            "vary",
            image,
            "--model",
            model(),
            "--seed",
            "5",
            "--strength",
            strength,
            "--prompt",
            "a red turtle",
            "-o",
            output,
        ]);
        Image::open(program.path(output)).unwrap()
    };
    program.expect(&["reconstruct", image, "--model", model(), "-o", "back.png"]);
    let back = Image::open(program.path("back.png")).unwrap();
    assert_eq!(vary("0", "0.png"), back);
    program.expect(&[
        "generate",
        "a red turtle",
        "--model",
        model(),
        "--seed",
        "5",
        "-o",
        "fresh.png",
    ]);
    let fresh = Image::open(program.path("fresh.png")).unwrap();
    assert_eq!(vary("1", "1.png"), fresh);
    let half = vary("0.5", "half.png");
    assert!(half != back && half != fresh);
    let report = program.json(&[
        "vary",
        image,
        "--model",
        model(),
        "--seed",
        "5",
        "-n",
        "3",
        "--choose",
        "entropy",
        "--json",
        "-o",
        "out/",
    ]);
    let seeds: Vec<&serde_json::Value> = report["variations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variation| &variation["seed"])
        .collect();
    assert_eq!(seeds, [5, 6, 7]);
    for bad in ["1.1", "-0.1", "NaN", "much"] {
        let arguments = ["vary", image, "--model", model(), "--strength", bad];
        program.refuses(2, &arguments, &["expected a number from 0 to 1"]);
    }
}

/// The untrained model finds both languages alike.
#[test]
fn captions_are_in_the_language_that_is_asked_for() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    let texts = |arguments: &[&str], locale: &str| {
        let common = ["caption", image, "--model", model(), "-n", "8", "--json"];
        let mut command = program.command(&[&common[..], arguments].concat());
        command
            .env_remove("LC_ALL")
            .env_remove("LC_MESSAGES")
            .env("LANG", locale);
        let output = command.output().unwrap();
        assert!(output.status.success());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let captions = report["pictures"][0]["captions"].as_array().unwrap();
        let texts = captions
            .iter()
            .map(|caption| caption["text"].as_str().unwrap().to_owned());
        (report["language"].clone(), texts.collect::<Vec<String>>())
    };
    let has_letters = |text: &String| text.bytes().any(|byte| byte.is_ascii_alphabetic());
    for sample in [&["--sample", "--seed", "3"][..], &[]] {
        let with = |more: &[&'static str]| [sample, more].concat();
        let (language, english) = texts(&with(&["--language", "en"]), "zh_CN.UTF-8");
        assert_eq!(language, "en");
        assert!(english.iter().all(|text| text.is_ascii()), "{english:?}");
        assert!(english.iter().any(has_letters), "{english:?}");
        let (language, chinese) = texts(&with(&["--language", "zh"]), "C");
        assert_eq!(language, "zh");
        assert!(!chinese.iter().any(has_letters), "{chinese:?}");
        assert_eq!(texts(sample, "zh_CN.UTF-8").1, chinese);
        assert_eq!(texts(sample, "de_DE.UTF-8").1, english);
        let (language, any) = texts(&with(&["--language", "any"]), "zh_CN.UTF-8");
        assert!(language.is_null() && any != english && any != chinese);
    }
}

#[test]
fn captions_are_printed_with_their_likelihoods() {
    let program = Program::new();
    let image = write_photograph(&program, "a.png", 64, 64);
    let caption = |arguments: &[&str]| {
        let common = [
            "caption",
            image,
            "--model",
            model(),
            "--json",
            "--language",
            "any",
        ];
        program.json(&[&common[..], arguments].concat())
    };
    let of = |report: &serde_json::Value| -> Vec<(String, f64)> {
        report["pictures"][0]["captions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|caption| {
                let text = caption["text"].as_str().unwrap().to_owned();
                (text, caption["log_likelihood"].as_f64().unwrap())
            })
            .collect()
    };
    let beam = of(&caption(&["-n", "3"]));
    assert_eq!(beam.len(), 3);
    assert!(beam.is_sorted_by(|a, b| a.1 >= b.1) && beam[0].1 < 0.0);
    assert_eq!(beam, of(&caption(&["-n", "3", "--threads", "1"])));
    // What is drawn greedily is what a beam of one finds.
    let one = of(&caption(&["--beam", "1"]));
    let greedy = of(&caption(&["--sample", "--seed", "1", "--temperature", "0"]));
    assert_eq!(one[0].0, greedy[0].0);
    assert!((one[0].1 - greedy[0].1).abs() < 1e-6);
    let drawn = of(&caption(&["--sample", "--seed", "1", "-n", "4"]));
    assert_eq!(drawn, of(&caption(&["--sample", "--seed", "1", "-n", "4"])));
    assert_ne!(drawn, of(&caption(&["--sample", "--seed", "2", "-n", "4"])));
    let lines = program.expect(&["caption", image, image, "--model", model()]);
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.starts_with("a.png\t") && lines.contains(" nats in "));
    let refuses = |code, arguments: &[&str], part: &str| {
        let common = ["caption", image, "--model", model()];
        program.refuses(code, &[&common[..], arguments].concat(), &[part]);
    };
    refuses(1, &["-n", "5", "--beam", "2"], "beam: expected 5");
    refuses(2, &["--temperature", "1"], "--sample");
    refuses(2, &["-n", "0"], "--count");
    program.refuses(
        1,
        &["caption", "none.png", "--model", model()],
        &["none.png"],
    );
}
