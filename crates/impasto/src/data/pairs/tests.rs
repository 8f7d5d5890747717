#![allow(clippy::unwrap_used)]

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::image::Format;

fn png(colour: [u8; 3]) -> Vec<u8> {
    Picture::filled(8, 6, colour)
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
    fs::write(&path, &bytes[..700]).unwrap();
    assert!(PairSource::Tars(vec![path]).open().is_err());
}

#[test]
fn pairs_stay_on_their_side_of_the_split() {
    let pairs = |n: usize| Pairs {
        pairs: (0..n)
            .map(|i| Pair {
                key: format!("{i}.png"),
                location: Location::File(PathBuf::new()),
                captions: vec!["c".into()],
            })
            .collect(),
    };
    let (training, validation) = pairs(1000).split(0.1);
    // 100 expected, standard deviation 9.5; the keys are fixed, so this never changes.
    assert!(
        (60..140).contains(&validation.len()),
        "{}",
        validation.len()
    );
    assert_eq!(training.len() + validation.len(), 1000);
    let (_, fewer) = pairs(500).split(0.1);
    assert!(fewer.iter().all(|index| validation.contains(index)));
    assert_eq!(pairs(1).split(1.0).0.len(), 1);
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
