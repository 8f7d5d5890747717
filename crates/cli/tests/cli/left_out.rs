//! Whatever is there is used, or named as left out; one bad file stops nothing, and nothing waits for ever.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use impasto::image::{Format, Image};

use crate::program::{Program, Ran, clip, model};

fn png(shade: u8) -> Vec<u8> {
    let picture = Image::filled(64, 64, [shade, 99, 199]);
    picture.encode(Format::Png, 100).unwrap()
}

fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The names in one part of `data check --json`'s report.
fn keys(report: &serde_json::Value, part: &str) -> Vec<String> {
    let entries = report[part].as_array().unwrap().iter();
    let key = |entry: &serde_json::Value| match entry {
        serde_json::Value::String(key) => key.clone(),
        entry => entry["key"].as_str().unwrap().to_owned(),
    };
    entries.map(key).collect()
}

fn checked(program: &Program, path: &str) -> serde_json::Value {
    let ran = program.run(&["data", "check", path, "--json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{path}: {}", ran.stderr))
}

/// Runs a command that must end by itself.
fn ends(mut command: Command) -> Ran {
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap().into()
}

#[test]
fn every_entry_of_a_tar_is_used_or_listed() {
    let program = Program::new();
    let (one, two, three, four) = (png(1), png(2), png(3), png(4));
    let mask = png(5);
    let mut bytes = tar_of(&[
        ("track 2.0 (clean).png", &one),
        ("track 2.0 (clean).txt", b"a red cat"),
        ("SHOUTED.PNG", &two),
        ("SHOUTED.TXT", b"a blue dog"),
        ("plain.jpg.png", &three),
        ("0001.png", &four),
        ("0001.json", b"{\"caption\": \"a turtle\"}"),
        ("0001.mask.png", &mask),
        ("0001.cls", b"7"),
        ("0001.txt", b"caf\xe9"),
        ("README", b"no ending"),
    ]);
    // Tars that were joined end to end.
    bytes.extend(tar_of(&[
        ("later.png", &mask),
        ("later.txt", b"the last one"),
    ]));
    fs::write(program.path("t.tar"), &bytes).unwrap();
    let report = checked(&program, "t.tar");
    assert_eq!(report["usable"], 4, "{report}");
    assert_eq!(keys(&report, "without_caption"), ["t/plain.jpg"]);
    assert_eq!(keys(&report, "unreadable"), ["t/0001.txt"]);
    assert_eq!(
        keys(&report, "other"),
        ["t/0001.cls", "t/0001.mask.png", "t/README"]
    );
    let ran = program.run(&["data", "check", "t.tar"]);
    assert_eq!(ran.code, 1);
    let summary = "4 usable pairs; left out: 1 pictures without a caption, 0 captions without a picture, \
                   1 unreadable, 0 repeated, 3 other files";
    assert!(ran.stderr.contains(summary), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("not used: t/README has no ending"),
        "{}",
        ran.stderr
    );

    // What is whole before the damage is used, and the damage is named.
    fs::write(program.path("a.tar"), &bytes[..4 * 1024 + 700]).unwrap();
    fs::write(
        program.path("b.tar"),
        tar_of(&[("b.png", &one), ("b.txt", b"b")]),
    )
    .unwrap();
    let ran = program.run(&["data", "check", "a.tar", "b.tar", "--json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["usable"], 3, "{report}");
    assert_eq!(keys(&report, "unreadable"), ["a.tar"]);
}

#[test]
fn every_file_of_a_folder_is_used_or_listed() {
    let program = Program::new();
    fs::create_dir_all(program.path("p/deeper")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(program.path("p").join(name), bytes).unwrap();
    write("UPPER.PNG", &png(1));
    write("UPPER.TXT", b"a red cat");
    write("deeper/track 2.0 (clean).png", &png(2));
    write("deeper/track 2.0 (clean).txt", b"a blue dog");
    write("scan.HEIC", b"\0\0\0\x18ftypheic");
    write("no-ending", &png(3));
    write(".png", &png(4));
    write("notes.md", b"notes");
    write("alone.TXT", b"no picture");
    let report = checked(&program, "p");
    assert_eq!(report["usable"], 2, "{report}");
    assert_eq!(keys(&report, "without_picture"), ["alone.TXT"]);
    assert_eq!(keys(&report, "unreadable"), ["scan.HEIC"]);
    assert_eq!(keys(&report, "other"), [".png", "no-ending", "notes.md"]);
}

#[test]
fn a_quote_that_never_closes_is_named() {
    let program = Program::new();
    for i in 0..5 {
        fs::write(program.path(&format!("{i}.png")), png(i)).unwrap();
    }
    let table =
        "image,caption\n0.png,\"a, cat\"\n1.png,\"never closed\n2.png,a dog\n3.png,a turtle\n";
    fs::write(program.path("t.csv"), table).unwrap();
    let ran = program.run(&["data", "check", "t.csv"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout
            .contains("row 3\ta quote opens in it and never closes: lines 3 to 5 are not used"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("1 usable pairs"), "{}", ran.stderr);
    // The next quote closes it: the row between them was as silently gone.
    let table =
        "image,caption\n0.png,\"never closed\n1.png,\"a dog\"\n2.png,a, comma\n3.png,a turtle,,\n";
    fs::write(program.path("t.csv"), table).unwrap();
    let report = checked(&program, "t.csv");
    assert_eq!(report["usable"], 1, "{report}");
    assert_eq!(keys(&report, "unreadable"), ["row 2", "row 3"]);
    assert!(
        report["unreadable"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("lines 2 to 3 are not used"),
        "{report}"
    );
}

#[test]
fn one_broken_picture_stops_no_command() {
    let program = Program::new();
    fs::write(program.path("good.png"), png(1)).unwrap();
    fs::write(program.path("also.png"), png(200)).unwrap();
    fs::write(program.path("bad.png"), "no picture").unwrap();
    let files = ["good.png", "bad.png", "also.png"];
    let common = ["--threads", "1"];
    let commands: [(&str, Vec<&str>); 4] = [
        (
            "score",
            [&["score", "a cat"], &files[..], &["--clip", clip()]].concat(),
        ),
        (
            "caption",
            [&["caption"], &files[..], &["--model", model()]].concat(),
        ),
        (
            "likelihood",
            [
                &["likelihood", "--caption", "a cat"],
                &files[..],
                &["--model", model()],
            ]
            .concat(),
        ),
        (
            "embed",
            vec![
                "embed",
                "--image",
                "good.png",
                "--image",
                "bad.png",
                "--image",
                "also.png",
                "--clip",
                clip(),
            ],
        ),
    ];
    for (name, arguments) in commands {
        for json in [false, true] {
            let flags: &[&str] = if json { &["--json"] } else { &[] };
            let ran = program.run(&[&arguments[..], &common, flags].concat());
            assert_eq!(ran.code, 1, "{name}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("skipped bad.png: "),
                "{name}: {}",
                ran.stderr
            );
            let error = "error: 1 of 3 pictures could not be read and is left out";
            assert!(ran.stderr.contains(error), "{name}: {}", ran.stderr);
            if json {
                serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap();
            } else {
                assert_eq!(ran.stdout.lines().count(), 2, "{name}: {}", ran.stdout);
            }
        }
    }
    let none = ["caption", "bad.png", "bad.png", "--model", model()];
    let ran = program.run(&none);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("none of the 2 pictures can be read"),
        "{}",
        ran.stderr
    );
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    let program = Program::new();
    let pipe = |name: &str| {
        let made = Command::new("mkfifo")
            .arg(program.path(name))
            .status()
            .unwrap();
        assert!(made.success());
    };
    fs::create_dir(program.path("p")).unwrap();
    fs::write(program.path("p/1.png"), png(1)).unwrap();
    fs::write(program.path("p/1.txt"), "a cat").unwrap();
    pipe("p/2.png");
    fs::write(program.path("p/2.txt"), "a dog").unwrap();
    fs::write(program.path("p/3.png"), png(3)).unwrap();
    pipe("p/3.txt");
    pipe("p/4.pipe");
    let run = |arguments: &[&str]| ends(program.command(arguments));

    let ran = run(&["data", "check", "p", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["usable"], 1, "{report}");
    assert_eq!(keys(&report, "unreadable"), ["2.png", "3.png"]);
    assert_eq!(keys(&report, "other"), ["4.pipe"]);
    for unreadable in report["unreadable"].as_array().unwrap() {
        let reason = unreadable["reason"].as_str().unwrap();
        assert!(
            reason.contains("is a named pipe, expected a regular file"),
            "{reason}"
        );
    }
    fs::write(
        program.path("l.jsonl"),
        "{\"image\": \"p/2.png\", \"caption\": \"a\"}\n",
    )
    .unwrap();
    assert_eq!(run(&["data", "check", "l.jsonl"]).code, 1);

    let named = "is a named pipe, expected a regular file";
    let index = run(&["index", "build", "p", "--clip", clip()]);
    assert_eq!(index.code, 1, "{}", index.stderr);
    assert!(index.stderr.contains(named), "{}", index.stderr);
    assert!(index.stdout.contains("2 added"), "{}", index.stdout);
    for name in ["t.tar", "t.csv", "t.jsonl", "c.json", "ids.json", "m.pt"] {
        pipe(name);
    }
    fs::create_dir(program.path("m")).unwrap();
    pipe("m/config.json");
    for arguments in [
        &["caption", "p/2.png", "--model", model()][..],
        &["tokens", "encode", "p/2.png", "--model", model()],
        &["reconstruct", "p/2.png", "-o", "r.png", "--model", model()],
        &[
            "edit",
            "p/2.png",
            "--box",
            "0,0,9,9",
            "-o",
            "r.png",
            "--model",
            model(),
        ],
        &["vary", "p/2.png", "-o", "r.png", "--model", model()],
        &["score", "a cat", "p/2.png", "--clip", clip()],
        &["embed", "--image", "p/2.png", "--clip", clip()],
        &["search", "p/2.png", "p", "--image", "--clip", clip()],
        &[
            "tokens",
            "decode",
            "ids.json",
            "-o",
            "r.png",
            "--model",
            model(),
        ],
        &[
            "train",
            "text-tokenizer",
            "--config",
            "c.json",
            "--out",
            "o",
        ],
        &["data", "check", "t.csv"],
        &["data", "check", "t.jsonl"],
        &["model", "info", "m"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "{arguments:?}: {}", ran.stderr);
    }
    for arguments in [&["data", "check", "t.tar"][..], &["model", "info", "m.pt"]] {
        let ran = run(arguments);
        assert_ne!(ran.code, 0, "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_is_named_and_left_out_of_an_index() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    fs::write(program.path("p/good.png"), png(1)).unwrap();
    let bad = Path::new("p").join(OsStr::from_bytes(b"caf\xe9.png"));
    fs::write(program.folder.path().join(&bad), png(2)).unwrap();
    for _ in 0..2 {
        let ran = program.run(&["index", "build", "p", "--clip", clip()]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("skipped p/caf\u{fffd}.png: "),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("not UTF-8"), "{}", ran.stderr);
        assert!(ran.stderr.contains("error: 1 of 2 files"), "{}", ran.stderr);
    }
    let info = program.json(&["index", "info", "p", "--json"]);
    assert_eq!(info["pictures"], 1);
    // Where the name has only to be read it may have any bytes.
    for json in [false, true] {
        let mut command = program.command(&["score", "a cat", "p/good.png"]);
        command.arg(&bad).args(["--clip", clip()]);
        command.args(json.then_some("--json"));
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains("caf\u{fffd}.png"), "{}", ran.stdout);
        let mut command = program.command(&["caption", "--model", model()]);
        command.arg(&bad).args(json.then_some("--json"));
        assert_eq!(command.output().unwrap().status.code(), Some(0));
    }
}

/// As someone who may not read everything: the superuser may.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_can_not_be_read_stops_nothing() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;

    const NOBODY: u32 = 65_534;
    let program = Program::new();
    fs::create_dir_all(program.path("p/lost+found")).unwrap();
    fs::create_dir_all(program.path("p/shut")).unwrap();
    for (name, shade) in [("p/1", 1), ("p/2", 2), ("p/shut/3", 3)] {
        fs::write(program.path(&format!("{name}.png")), png(shade)).unwrap();
        fs::write(program.path(&format!("{name}.txt")), "a cat").unwrap();
    }
    let root = fs::metadata("/proc/self").unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&root) == 0;
    // A copy that everyone may run.
    let executable = program.path("impasto");
    fs::copy(env!("CARGO_BIN_EXE_impasto"), &executable).unwrap();
    let mode = |path: &str, bits: u32| {
        fs::set_permissions(program.path(path), fs::Permissions::from_mode(bits)).unwrap();
    };
    mode("", 0o755);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&executable);
        command.args(arguments).current_dir(program.folder.path());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        Ran::from(command.output().unwrap())
    };
    let clip_folder = program.path("clip");
    fs::create_dir(&clip_folder).unwrap();
    for entry in fs::read_dir(clip()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), clip_folder.join(entry.file_name())).unwrap();
    }
    if is_root {
        for path in ["p", "p/shut"] {
            chown(program.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let build = ["index", "build", "p", "--clip", "clip"];
    assert_eq!(run(&build).code, 0, "{}", run(&build).stderr);
    mode("p/lost+found", 0o000);
    mode("p/shut", 0o000);
    for arguments in [&["data", "check", "p"][..], &build] {
        let ran = run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        for name in ["lost+found", "shut"] {
            let said = ran.stdout.clone() + &ran.stderr;
            assert!(
                said.contains(name) && said.contains("can't be read"),
                "{said}"
            );
        }
    }
    // What can't be looked at is not taken for gone.
    let info = run(&["index", "info", "p", "--json"]);
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(info["pictures"], 3);
    mode("p/lost+found", 0o755);
    mode("p/shut", 0o755);
}

#[test]
fn names_never_command_the_terminal() {
    let program = Program::new();
    fs::create_dir(program.path("p")).unwrap();
    let evil = "p/a\u{1b}[2J\nb.png";
    fs::write(program.path(evil), png(1)).unwrap();
    fs::write(program.path("p/\u{1b}]0;title\u{7}.png"), "no picture").unwrap();
    let built = program.run(&["index", "build", "p", "--clip", clip()]);
    assert_eq!(built.code, 1, "{}", built.stderr);
    let found = program.expect(&["search", "a cat", "p", "--clip", clip()]);
    assert_eq!(found.lines().count(), 1, "{found:?}");
    assert!(found.contains("a\\u{1b}[2J\\nb.png"), "{found:?}");
    let checked = program.run(&["data", "check", "p"]);
    let captioned = program.run(&["caption", evil, "missing\u{1b}c.png", "--model", model()]);
    let missing = program.run(&["model", "info", "no\u{9b}31msuch"]);
    for text in [
        &built.stderr,
        &built.stdout,
        &found,
        &checked.stdout,
        &checked.stderr,
        &captioned.stdout,
        &captioned.stderr,
        &missing.stderr,
    ] {
        let raw = text
            .chars()
            .find(|c| c.is_control() && !"\n\t".contains(*c));
        assert_eq!(raw, None, "{text:?}");
    }
    let json = program.expect(&["search", "a cat", "p", "--clip", clip(), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["hits"][0]["path"], evil);
}
