#![allow(clippy::unwrap_used)]

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::image::Format;

fn png(colour: [u8; 3]) -> Vec<u8> {
    Image::filled(8, 6, colour)
        .encode(Format::Png, 100)
        .unwrap()
}

#[test]
fn a_folder_lists_what_it_cannot_use() {
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("inner")).unwrap();
    fs::write(root.join("a.png"), png([1, 2, 3])).unwrap();
    fs::write(root.join("a.txt"), "one caption\n\nanother caption\n").unwrap();
    fs::write(root.join("inner/b.png"), png([4, 5, 6])).unwrap();
    fs::write(root.join("inner/b.txt"), "红色\n").unwrap();
    fs::write(root.join("alone.png"), png([0; 3])).unwrap();
    fs::write(root.join("broken.png"), b"not a picture").unwrap();
    fs::write(root.join("broken.txt"), "caption").unwrap();
    let (pairs, report) = PairSource::Folder(root.to_path_buf()).open().unwrap();
    assert_eq!(pairs.len(), 2);
    assert_eq!(report.without_caption, ["alone.png"]);
    assert_eq!(report.unreadable.len(), 1);
    assert_eq!(report.unreadable[0].key, "broken.png");
    let sample = pairs.sample(0, 4).unwrap();
    assert_eq!(sample.captions, ["one caption", "another caption"]);
    assert_eq!((sample.picture.width, sample.picture.height), (4, 4));
}

#[test]
fn lists_report_their_bad_lines() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.png"), png([9; 3])).unwrap();
    let list = dir.path().join("list.jsonl");
    let text = "{\"image\": \"a.png\", \"caption\": \"x\"}\nnot json\n{\"image\": \"a.png\"}\n{\"caption\": \"y\"}\n";
    fs::write(&list, text).unwrap();
    let (pairs, report) = PairSource::Jsonl(list).open().unwrap();
    assert_eq!(
        (
            pairs.len(),
            report.without_caption.len(),
            report.unreadable.len()
        ),
        (1, 1, 2)
    );
    let table = dir.path().join("table.csv");
    fs::write(&table, "image,caption\na.png,\"a, b\"\nmissing.png,c\n").unwrap();
    let (pairs, report) = PairSource::Csv(table.clone()).open().unwrap();
    assert_eq!(pairs.sample(0, 8).unwrap().captions, ["a, b"]);
    assert_eq!(report.unreadable.len(), 1);
    fs::write(&table, "file,text\na.png,b\n").unwrap();
    let error = PairSource::Csv(table).open().unwrap_err().to_string();
    assert!(error.contains("has no column image"), "{error}");
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn tars_are_read_at_random_places() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("shard-0.tar");
    let (first, second) = (png([10; 3]), png([20; 3]));
    let bytes = tar_of(&[
        ("0.png", &first),
        ("0.txt", b"zero"),
        ("1.json", b"{\"caption\": \"one\"}"),
        ("1.png", &second),
        ("2.png", &second),
    ]);
    fs::write(&path, &bytes).unwrap();
    let (pairs, report) = PairSource::Tars(vec![path.clone()]).open().unwrap();
    assert_eq!(pairs.len(), 2);
    assert_eq!(report.without_caption, ["shard-0/2"]);
    let sample = pairs.sample(1, 4).unwrap();
    assert_eq!(
        (sample.captions[0].as_str(), sample.picture.rgb[0]),
        ("one", 20)
    );
    // Damaged tars are listed.
    fs::write(&path, &bytes[..700]).unwrap();
    let (pairs, report) = PairSource::Tars(vec![path.clone()]).open().unwrap();
    assert_eq!((pairs.len(), report.unreadable.len()), (0, 1));
    assert_eq!(report.unreadable[0].key, path.display().to_string());
}

/// `n` pairs of pictures that don't exist, known by their hashes.
fn pairs_of(n: u32) -> Pairs {
    let pair = |i| Pair {
        key: format!("{i}.png"),
        location: Location::File(PathBuf::new()),
        captions: vec!["c".into()],
    };
    Pairs {
        pairs: (0..n).map(pair).collect(),
        digests: (0..n)
            .map(|i| Sha256::digest(i.to_le_bytes()).into())
            .collect(),
    }
}

#[test]
fn pairs_stay_on_their_side_of_the_split() {
    let (training, validation) = pairs_of(1000).split(0.1);
    // 100 expected, standard deviation 9.5; the hashes are fixed, so this never changes.
    assert!(
        (60..140).contains(&validation.len()),
        "{}",
        validation.len()
    );
    assert_eq!(training.len() + validation.len(), 1000);
    let (_, fewer) = pairs_of(500).split(0.1);
    assert!(fewer.iter().all(|index| validation.contains(index)));
    assert_eq!(pairs_of(1).split(1.0).0.len(), 1);
}

/// A list may give one picture many captions; one in training and another in validation would make the
/// validation loss look better than it is.
#[test]
fn one_picture_is_never_on_both_sides() {
    let dir = TempDir::new().unwrap();
    let mut list = String::new();
    for i in 0..40u8 {
        fs::write(dir.path().join(format!("{i}.png")), png([i, 0, 0])).unwrap();
        list += &format!("{{\"image\": \"{i}.png\", \"caption\": \"a\"}}\n");
        list += &format!("{{\"image\": \"{i}.png\", \"caption\": \"b\"}}\n");
    }
    fs::write(dir.path().join("list.jsonl"), list).unwrap();
    let (pairs, _) = PairSource::Jsonl(dir.path().join("list.jsonl"))
        .open()
        .unwrap();
    assert_eq!(pairs.len(), 80);
    let (training, validation) = pairs.split(0.5);
    assert!(!training.is_empty() && !validation.is_empty());
    for index in validation {
        assert!(
            training
                .iter()
                .all(|&other| pairs.digests[other] != pairs.digests[index])
        );
    }
}

#[test]
fn nothing_is_left_out_in_silence() {
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    let bomb = {
        let mut bytes = png([1; 3]);
        bytes[16..24].copy_from_slice(&[0, 0, 0x7f, 0xff, 0, 0, 0x7f, 0xff]);
        bytes
    };
    for (name, bytes) in [
        ("bomb.png", bomb),
        ("used.png", png([2; 3])),
        ("used-too.png", png([2; 3])),
    ] {
        fs::write(root.join(name), bytes).unwrap();
    }
    for name in [
        "bomb.txt",
        "used.txt",
        "used-too.txt",
        "alone.txt",
        "old.txt",
    ] {
        fs::write(root.join(name), "\u{feff}a caption\n").unwrap();
    }
    fs::write(root.join("old.gif"), b"GIF89a").unwrap();
    fs::write(root.join("latin.png"), png([3; 3])).unwrap();
    fs::write(root.join("latin.txt"), b"caf\xe9").unwrap();
    fs::write(root.join("empty.png"), png([4; 3])).unwrap();
    fs::write(root.join("empty.txt"), " \n\n").unwrap();
    let (pairs, report) = PairSource::Folder(root.to_path_buf()).open().unwrap();
    assert_eq!((pairs.len(), report.usable), (1, 1));
    assert_eq!(pairs.captions(0), ["a caption"]);
    assert_eq!(report.without_caption, ["empty.png"]);
    assert_eq!(report.without_picture, ["alone.txt"]);
    let keys: Vec<&str> = report.unreadable.iter().map(|u| u.key.as_str()).collect();
    assert_eq!(keys, ["bomb.png", "latin.png", "old.gif"]);
    let repeated = Repeated {
        key: "used.png".into(),
        same_as: "used-too.png".into(),
    };
    assert_eq!(report.repeated, [repeated]);
    assert!(!report.is_clean());
    let expected = "1 usable pairs; left out: 1 pictures without a caption, 1 captions without a picture, \
                    3 unreadable, 1 repeated";
    assert_eq!(report.summary(), expected);
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_are_followed_once() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.png"), png([1; 3])).unwrap();
    fs::write(dir.path().join("a.txt"), "a").unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
    let (pairs, report) = PairSource::Folder(dir.path().to_path_buf()).open().unwrap();
    assert_eq!((pairs.len(), report.is_clean()), (1, true));
}

#[test]
fn a_missing_source_is_an_error_that_names_it() {
    let nowhere = PathBuf::from("no-such-place/pairs");
    for source in [
        PairSource::Folder(nowhere.clone()),
        PairSource::Jsonl(nowhere.clone()),
        PairSource::Csv(nowhere.clone()),
        PairSource::Tars(vec![nowhere.clone()]),
        PairSource::Tars(vec![nowhere.with_file_name("*.tar")]),
    ] {
        let error = source.open().unwrap_err().to_string();
        assert!(error.contains("no-such-place"), "{error}");
    }
}

#[test]
fn tables_keep_line_breaks_and_windows_marks_out_of_captions() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.png"), png([9; 3])).unwrap();
    let table = dir.path().join("table.csv");
    let text = "\u{feff}image,caption,note\r\na.png,\"two\r\nlines\",x\r\na.png\r\n";
    fs::write(&table, text).unwrap();
    let (pairs, report) = PairSource::Csv(table).open().unwrap();
    assert_eq!(pairs.captions(0), ["two lines"]);
    // Row 3 has no caption; that row 2 has a line break doesn't count.
    assert_eq!(report.unreadable[0].key, "row 3");
    let list = dir.path().join("list.jsonl");
    fs::write(
        &list,
        "\u{feff}{\"image\": \"a.png\", \"captions\": [\"x\", \" \", \"y\"]}",
    )
    .unwrap();
    let (pairs, _) = PairSource::Jsonl(list).open().unwrap();
    assert_eq!(pairs.captions(0), ["x", "y"]);
}

#[test]
fn shards_are_found_by_folder_and_by_pattern() {
    let dir = TempDir::new().unwrap();
    for (shard, value) in [("a-0", 1), ("a-1", 2), ("b-0", 3)] {
        let bytes = tar_of(&[("0.png", &png([value; 3])), ("0.txt", b"zero")]);
        fs::write(dir.path().join(format!("{shard}.tar")), bytes).unwrap();
    }
    fs::write(dir.path().join("notes.md"), "notes").unwrap();
    fs::create_dir(dir.path().join("deeper")).unwrap();
    fs::write(
        dir.path().join("UPPER.TAR"),
        tar_of(&[("0.png", &png([9; 3])), ("0.txt", b"0")]),
    )
    .unwrap();
    let folder = PairSource::Tars(vec![dir.path().to_path_buf()]);
    let (pairs, report) = folder.open().unwrap();
    assert_eq!((pairs.len(), report.is_clean()), (4, true));
    let other: Vec<&str> = report
        .other
        .iter()
        .map(|other| other.key.as_str())
        .collect();
    assert_eq!(other, ["deeper", "notes.md"]);
    fs::write(dir.path().join("c-0.tar.zst"), b"\x28\xb5").unwrap();
    let (_, report) = folder.open().unwrap();
    assert_eq!(report.unreadable[0].key, "c-0.tar.zst");
    assert!(report.unreadable[0].reason.contains("compressed"));
    fs::remove_file(dir.path().join("c-0.tar.zst")).unwrap();
    fs::remove_file(dir.path().join("UPPER.TAR")).unwrap();
    let keys = |path: PathBuf| -> Vec<String> {
        let (pairs, report) = PairSource::Tars(vec![path]).open().unwrap();
        assert!(report.is_clean());
        pairs.pairs.into_iter().map(|pair| pair.key).collect()
    };
    assert_eq!(keys(dir.path().to_path_buf()), ["a-0/0", "a-1/0", "b-0/0"]);
    assert_eq!(keys(dir.path().join("a-*.tar")), ["a-0/0", "a-1/0"]);
    assert_eq!(keys(dir.path().join("*-*.t*r")).len(), 3);
    assert_eq!(keys(dir.path().join("b-0.tar")), ["b-0/0"]);
}

#[test]
fn tars_list_what_they_cannot_use() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s.tar");
    let picture = png([5; 3]);
    let bytes = tar_of(&[
        ("0.png", &picture),
        ("0.txt", b"used"),
        ("0.json", b"{\"image\": {\"any\": 1}}"),
        ("0.jpg", &picture),
        ("1.txt", b"no picture"),
        ("2.avif", b"\0\0\0\x20ftypavif"),
        ("2.txt", b"a foreign one"),
        ("3.png", &picture),
        ("3.json", b"{\"caption\": 3}"),
        ("4.png", b"no picture at all"),
        ("4.json", b"{\"captions\": [\"x\"]}"),
    ]);
    fs::write(&path, bytes).unwrap();
    let (pairs, report) = PairSource::Tars(vec![path]).open().unwrap();
    assert_eq!(
        (pairs.len(), pairs.captions(0)),
        (1, ["used".to_owned()].as_slice())
    );
    assert_eq!(report.without_picture, ["s/1"]);
    let keys: Vec<&str> = report.unreadable.iter().map(|u| u.key.as_str()).collect();
    assert_eq!(keys, ["s/0.jpg", "s/2.avif", "s/3", "s/4"]);
}

#[test]
fn other_content_has_another_fingerprint() {
    let fingerprint = |captions: [&str; 2], colour| {
        let dir = TempDir::new().unwrap();
        for (i, caption) in captions.iter().enumerate() {
            fs::write(
                dir.path().join(format!("{i}.png")),
                png([colour, i as u8, 0]),
            )
            .unwrap();
            fs::write(dir.path().join(format!("{i}.txt")), caption).unwrap();
        }
        PairSource::Folder(dir.path().to_path_buf())
            .open()
            .unwrap()
            .0
            .fingerprint()
    };
    let first = fingerprint(["a", "b"], 1);
    assert_eq!(first, fingerprint(["a", "b"], 1));
    assert_ne!(first, fingerprint(["a", "c"], 1));
    assert_ne!(first, fingerprint(["a\nb", "b"], 1));
    assert_ne!(first, fingerprint(["a", "b"], 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn garbage_lists_and_tars_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, &bytes).unwrap();
        let _ = PairSource::Jsonl(path.clone()).open();
        let _ = PairSource::Csv(path.clone()).open();
        let _ = PairSource::Tars(vec![path]).open();
    }

    /// Every line of a list is in the report or in use, whatever it holds.
    #[test]
    fn every_line_of_a_list_is_accounted_for(
        kinds in proptest::collection::vec(0usize..6, 1..12),
    ) {
        let dir = TempDir::new().unwrap();
        let list = dir.path().join("list.jsonl");
        let mut text = String::new();
        for (i, kind) in kinds.iter().enumerate() {
            fs::write(dir.path().join(format!("{i}.png")), png([i as u8, 0, 0])).unwrap();
            text += &match kind {
                0 => format!("{{\"image\": \"{i}.png\", \"caption\": \"c\"}}"),
                1 => format!("{{\"image\": \"{i}.png\"}}"),
                2 => "{\"caption\": \"c\"}".to_owned(),
                3 => "{\"image\": 3}".to_owned(),
                4 => "{\"image\": \"..\", \"caption\": \"c\"}".to_owned(),
                _ => "\0\u{7f}".to_owned(),
            };
            text.push('\n');
        }
        fs::write(&list, text).unwrap();
        let (pairs, report) = PairSource::Jsonl(list).open().unwrap();
        prop_assert_eq!(pairs.len(), kinds.iter().filter(|&&kind| kind == 0).count());
        prop_assert_eq!(report.without_caption.len(), kinds.iter().filter(|&&kind| kind == 1).count());
        prop_assert_eq!(pairs.len() + report.without_caption.len() + report.unreadable.len(), kinds.len());
    }

    #[test]
    fn damaged_tars_never_panic(at in 0usize..2000, value in any::<u8>()) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.tar");
        let picture = png([7; 3]);
        let mut bytes = tar_of(&[("0.png", &picture), ("0.txt", b"zero")]);
        let at = at % bytes.len();
        bytes[at] = value;
        fs::write(&path, &bytes).unwrap();
        let _ = PairSource::Tars(vec![path]).open();
    }
}
