//! What picture files say of their origin: written, verified, removed, signed.

use std::fs;

use impasto::image::{Format, Image, Original};
use impasto::provenance::{Settings, read_parameters};
use serde_json::Value;

use crate::program::Program;

const EMBEDDED: &[&str] = &["generate", "a red cat", "--seed", "7", "-o"];

fn verified(program: &Program, arguments: &[&str]) -> Value {
    program.json(&[&["verify", "--json"], arguments].concat())[0].clone()
}

#[test]
fn pictures_say_that_a_model_made_them_and_pixels_stay_without_a_watermark() {
    let program = Program::new();
    for name in ["a.png", "a.jpg", "a.webp"] {
        program.expect(&[EMBEDDED, &[name]].concat());
        let found = verified(&program, &[name]);
        let kind = found["xmp"]["digital_source_type"].as_str().unwrap();
        assert!(kind.ends_with("/trainedAlgorithmicMedia"), "{found}");
        assert_eq!(found["manifest"]["state"], "none");
        assert_eq!(found["watermarks"][0]["found"], false);
        assert!(found["parameters"].as_str().unwrap().contains("Seed: 7"));
    }
    program.expect(&[EMBEDDED, &["off.png", "--no-xmp"]].concat());
    assert_eq!(verified(&program, &["off.png"])["xmp"], Value::Null);
    let open = |name: &str| Image::open(program.path(name)).unwrap();
    assert_eq!(open("off.png"), open("a.png"));
    let text = program.expect(&["verify", "off.png"]);
    for part in [
        "C2PA: no manifest",
        "XMP: none",
        "that does not mean that the picture was not generated",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_watermark_is_found_by_its_key_alone_and_outlives_the_settings() {
    let program = Program::new();
    fs::write(program.path("key"), b"a secret").unwrap();
    program.expect(&[EMBEDDED, &["plain.png"]].concat());
    program.expect(&[EMBEDDED, &["public.png", "--watermark"]].concat());
    program.expect(&[EMBEDDED, &["secret.png", "--watermark=key"]].concat());
    let found = verified(&program, &["public.png"]);
    assert_eq!(
        (
            &found["watermarks"][0]["key"],
            &found["watermarks"][0]["found"]
        ),
        (&"public".into(), &true.into())
    );
    // A file's bytes are the same key as the same text.
    for key in ["key", "a secret"] {
        let found = verified(&program, &["secret.png", "--watermark", key]);
        assert_eq!(found["watermarks"][0]["found"], false, "{found}");
        assert_eq!(found["watermarks"][1]["found"], true, "{found}");
    }
    assert_eq!(
        verified(&program, &["secret.png", "--watermark", "another"])["watermarks"][1]["found"],
        false
    );
    let open = |name: &str| Image::open(program.path(name)).unwrap();
    let (plain, marked) = (open("plain.png"), open("public.png"));
    let squares: u64 = plain
        .rgb
        .iter()
        .zip(&marked.rgb)
        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
        .sum();
    let psnr = 10.0 * (255.0 * 255.0 * plain.rgb.len() as f64 / squares as f64).log10();
    assert!((40.0..60.0).contains(&psnr), "{psnr}");

    let removed = program.run(&["provenance", "strip", "public.png", "-o", "bare.png"]);
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert!(
        removed.stderr.contains("removed: XMP, text"),
        "{}",
        removed.stderr
    );
    let found = verified(&program, &["bare.png"]);
    assert_eq!(
        (&found["xmp"], &found["parameters"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(found["watermarks"][0]["found"], true);
    assert_eq!(open("bare.png"), marked);
}

#[test]
fn known_pixels_of_an_edit_stay_and_what_holds_no_watermark_is_said_to_hold_none() {
    let program = Program::new();
    let noise = |i: usize| (i * 7919 % 251) as u8;
    let photo = Image::new(128, 128, (0..3 * 128 * 128).map(noise).collect()).unwrap();
    fs::write(
        program.path("photo.png"),
        photo.encode(Format::Png, 100).unwrap(),
    )
    .unwrap();
    let edit = |hole: &str, output: &str| {
        let ran = program.run(&[
            "edit",
            "photo.png",
            "--box",
            hole,
            "--prompt",
            "a red cat",
            "--tries",
            "1",
            "--seed",
            "3",
            "--clip",
            "none",
            "--watermark",
            "-o",
            output,
        ]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr
    };
    let notes = edit("8,8,12,12", "small.png");
    assert!(
        notes.contains("no watermark: what was drawn can't hold one"),
        "{notes}"
    );
    let notes = edit("0,0,128,112", "large.png");
    assert!(!notes.contains("no watermark"), "{notes}");
    let found = verified(&program, &["large.png"]);
    assert_eq!(found["watermarks"][0]["found"], true, "{found}");
    assert!(
        found["xmp"]["digital_source_type"]
            .as_str()
            .unwrap()
            .ends_with("/compositeWithTrainedAlgorithmicMedia")
    );
    let (before, after) = (
        Original::from(&photo),
        Original::open(program.path("large.png")).unwrap(),
    );
    assert!((0..128 * 16).all(|i| after.same_at(&before, i % 128, 112 + i / 128)));
}

#[test]
fn labels_and_policies_are_written() {
    let program = Program::new();
    program.expect(
        &[
            EMBEDDED,
            &["label.png", "--aigc", "甲公司", "--visible-label"],
        ]
        .concat(),
    );
    let found = verified(&program, &["label.png"]);
    let label: Value = serde_json::from_str(found["xmp"]["aigc"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&label["Label"], &label["ContentProducer"]),
        (&"1".into(), &"甲公司".into())
    );
    program.expect(&[EMBEDDED, &["plain.png"]].concat());
    let open = |name: &str| Image::open(program.path(name)).unwrap().rgb;
    let (plain, labelled) = (open("plain.png"), open("label.png"));
    assert_eq!(plain[..3 * 64 * 40], labelled[..3 * 64 * 40]);
    assert_ne!(plain, labelled);

    let policy = r#"{"watermark": true, "xmp": false, "aigc": "x"}"#;
    fs::write(program.path("policy.json"), policy).unwrap();
    program.expect(&[EMBEDDED, &["policy.png", "--provenance", "policy.json"]].concat());
    let found = verified(&program, &["policy.png"]);
    assert_eq!(found["watermarks"][0]["found"], true);
    assert_eq!(found["xmp"]["digital_source_type"], Value::Null);
    assert!(
        found["xmp"]["aigc"]
            .as_str()
            .unwrap()
            .contains("\"ContentProducer\":\"x\"")
    );
    fs::write(program.path("wrong.json"), r#"{"watermarks": true}"#).unwrap();
    program.refuses(
        1,
        &[EMBEDDED, &["no.png", "--provenance", "wrong.json"]].concat(),
        &["wrong.json"],
    );
    program.refuses(
        2,
        &[EMBEDDED, &["no.png", "--certificate", "c.pem"]].concat(),
        &["--private-key"],
    );
}

/// A licence that forbids commercial use comes from the model's folder into the files.
#[test]
fn a_licence_that_forbids_commerce_travels() {
    let program = Program::new();
    let model = program.own_model();
    let config = program.path(model).join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    value["licence"] = "cc-by-nc-4.0".into();
    fs::write(&config, value.to_string()).unwrap();
    program.expect(&[
        "generate", "a", "--model", model, "--seed", "1", "-o", "nc.png",
    ]);
    let found = verified(&program, &["nc.png"]);
    assert!(
        found["xmp"]["usage_terms"]
            .as_str()
            .unwrap()
            .contains("cc-by-nc-4.0, forbids commercial use")
    );
    let text = read_parameters(&fs::read(program.path("nc.png")).unwrap()).unwrap();
    assert_eq!(
        Settings::parse(&text).unwrap().licence.as_deref(),
        Some("cc-by-nc-4.0")
    );
    assert!(
        program
            .expect(&["verify", "nc.png"])
            .contains("forbids commercial use")
    );
}

#[test]
fn files_that_are_no_pictures_are_named_and_the_others_go_on() {
    let program = Program::new();
    program.expect(&[EMBEDDED, &["a.png"]].concat());
    fs::write(program.path("text.png"), "no picture").unwrap();
    let whole = fs::read(program.path("a.png")).unwrap();
    fs::write(program.path("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let ran = program.run(&["verify", "text.png", "cut.png", "missing.png", "a.png"]);
    assert_eq!(ran.code, 1);
    for name in ["text.png", "cut.png", "missing.png"] {
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
    }
    assert!(ran.stdout.starts_with("a.png\n"), "{}", ran.stdout);
    assert!(
        ran.stderr
            .contains("of 4 files, 3 can't be read and 0 have"),
        "{}",
        ran.stderr
    );
}

#[cfg(not(feature = "c2pa"))]
#[test]
fn without_c2pa_nothing_is_signed_and_no_manifest_is_said_to_hold() {
    let program = Program::new();
    program.refuses(
        2,
        &[EMBEDDED, &["a.png", "--sign"]].concat(),
        &["was built without C2PA"],
    );
    let signed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/provenance/signed.png"
    );
    let found = verified(&program, &[signed]);
    assert_eq!(found["manifest"]["state"], "not_checked");
    assert!(
        program
            .expect(&["verify", signed])
            .contains("not checked: this program was built without C2PA")
    );
}

#[cfg(feature = "c2pa")]
#[test]
fn signed_files_hold_until_a_byte_changes() {
    let program = Program::new();
    let home = program.path("data");
    let run = |arguments: &[&str]| -> crate::program::Ran {
        program
            .command(arguments)
            .env("XDG_DATA_HOME", &home)
            .output()
            .unwrap()
            .into()
    };
    for name in ["a.png", "a.jpg", "a.webp"] {
        let first = run(&[EMBEDDED, &[name, "--sign", "--watermark"]].concat());
        assert_eq!(first.code, 0, "{}", first.stderr);
        assert_eq!(
            name == "a.png",
            first
                .stderr
                .contains("made a key and a certificate that nobody vouches for")
        );
        let found = verified(&program, &[name]);
        assert_eq!(
            found["manifest"]["state"], "valid_unknown_signer",
            "{found}"
        );
        assert_eq!(found["manifest"]["model"]["model"], "impasto-styles");
        assert_eq!(found["manifest"]["actions"][0]["action"], "c2pa.created");
        assert_eq!(found["watermarks"][0]["found"], true);
        // The word stands in an assertion of the manifest and in the XMP, which the manifest's hash covers; WebP has the
        // manifest last.
        let bytes = fs::read(program.path(name)).unwrap();
        let words = bytes.windows(8).enumerate();
        let places: Vec<usize> = words
            .filter(|(_, word)| word == b"trainedA")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(places.len(), 2, "{name}");
        let mut codes = ["hashedURI.mismatch", "dataHash.mismatch"];
        if name == "a.webp" {
            codes.reverse();
        }
        for (at, code) in places.into_iter().zip(codes) {
            let mut changed = bytes.clone();
            changed[at] = b'T';
            fs::write(program.path(&format!("changed-{name}")), changed).unwrap();
            let ran = run(&["verify", &format!("changed-{name}")]);
            assert_eq!(ran.code, 1, "{} {}", ran.stdout, ran.stderr);
            assert!(
                ran.stdout.contains("C2PA: does NOT hold") && ran.stdout.contains(code),
                "{name}, {code}: {}",
                ran.stdout
            );
        }
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(home.join("impasto/signer.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let edited = run(&[
        "edit",
        "a.jpg",
        "--box",
        "8,8,40,40",
        "--tries",
        "1",
        "--seed",
        "1",
        "--sign",
        "-o",
        "edit.png",
    ]);
    assert_eq!(edited.code, 0, "{}", edited.stderr);
    let found = verified(&program, &["edit.png"]);
    assert_eq!(
        found["manifest"]["state"], "valid_unknown_signer",
        "{found}"
    );
    assert_eq!(found["manifest"]["ingredients"][0], "a.jpg");
    let stripped = run(&["provenance", "strip", "a.jpg", "-o", "bare.jpg"]);
    assert!(
        stripped.stderr.contains("C2PA manifest"),
        "{}",
        stripped.stderr
    );
    assert_eq!(
        verified(&program, &["bare.jpg"])["manifest"]["state"],
        "none"
    );
    let again = run(&["provenance", "sign", "bare.jpg", "-o", "again/"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let found = verified(&program, &["again/bare.jpg"]);
    assert_eq!(found["manifest"]["state"], "valid_unknown_signer");
    assert_eq!(
        found["manifest"]["actions"][0]["digital_source_type"],
        Value::Null
    );
}
