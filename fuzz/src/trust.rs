//! Readers of what people write for safety and privacy: policies, lists, concepts, and the texts that are looked at.

use std::fs;
use std::path::Path;

use impasto::data::pairs::{Exclusions, PairSource};
use impasto::privacy::captions::captions::{Names, Scanner};
use impasto::safety::concepts::Concepts;
use impasto::safety::{Category, Filter, Lists, load_policy};

use super::readers::TEXT;
use super::{Reader, seeds};

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn owned<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A policy with a list beside it.
pub fn safety_policy(folder: &Path) -> Reader {
    fs::write(folder.join("mine.txt"), "blue | green + hat = 0.5\n").unwrap();
    let path = folder.join("policy.yaml");
    let seeds = owned([
        "mode: flag\ncategories:\n  sexual: blur\n  violence/graphic: refuse\n  illicit: \"off\"\nthreshold: 0.5\n\
         thresholds: {hate: 0.8}\nwords:\n  embedded: false\n  lists: {harassment: [mine.txt]}\n  allow: [mine.txt]\n\
         pictures:\n  checker: nsfw-vit\n  adjustment: 0.1\n  labels: {drawings: hate}\n",
        r#"{"mode": "refuse", "words": {"embedded": false}, "pictures": {"concepts": "concepts.json"}}"#,
        "words: &a {embedded: false, lists: {hate: [mine.txt, mine.txt]}}\nmode: \"off\"\n",
    ]);
    Reader::new(seeds, move |bytes| {
        fs::write(&path, bytes).unwrap();
        load_policy(&path).is_ok_and(|policy| {
            for category in [Category::Sexual, Category::SexualMinors, Category::Hate] {
                policy.action(category);
                policy.is_flagged(category, 0.5);
            }
            // The program's own lists take longer to prepare than any input to read.
            let filter = (!policy.words.embedded).then(|| policy.filter());
            filter.is_none_or(|filter| {
                filter.is_ok_and(|filter| {
                    policy.decide(&filter.screen(TEXT));
                    true
                })
            })
        })
    })
}

/// A list of terms, and of allowed ones.
pub fn safety_list(_: &Path) -> Reader {
    let seeds = owned([
        "# a comment\nstab wound\n!nudes\n裸体\ntopless = 0.6\n!killing | massacre + civilians | villagers\n",
        "@minor = child | 小孩\n@other = @minor | cat\n@minor + @other = 0.25\nred | turtle\n",
        "\u{feff}a - b\r\nred turtle's\r\n夜空下 + 龟\r\n",
    ]);
    Reader::new(seeds, |bytes| {
        let Some(text) = text(bytes) else {
            return false;
        };
        let mut lists = Lists::default();
        let added = lists.add(Category::Violence, Path::new("a"), text).is_ok();
        let allowed = lists.allow(Path::new("a"), text).is_ok();
        let filter = Filter::new(&lists);
        let filter = filter.map(|filter| {
            filter.screen(TEXT);
            filter.screen(text);
        });
        (added || allowed) && filter.is_ok()
    })
}

/// A prompt, through the program's own lists.
pub fn prompt(_: &Path) -> Reader {
    let filter = Filter::embedded().unwrap();
    let mut seeds = owned([
        TEXT,
        "k.i.l.l y0urself, a n u d e woman, f*ck, po-rn, nakedwoman; the Essex coast, 裸-体, 口交通灯",
    ]);
    // What disguises are looked for in, many times.
    for part in ["k.", "0", "裸 ", "aa", "s3x ", "\u{200b}n", "!", "ｎ"] {
        seeds.push(part.repeat(3000).into_bytes());
    }
    Reader::new(seeds, move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let found = filter.screen(&text);
        found.matches.len() < usize::MAX && found.scores.values().all(|score| score.is_finite())
    })
}

/// Concepts before a calibration and after it.
pub fn safety_concepts(folder: &Path) -> Reader {
    let path = folder.join("concepts.yaml");
    let seeds = owned([
        "clip: impasto-clip\nconcepts:\n  - {name: mouse, category: violence, texts: [a mouse, two mice, 老鼠]}\n",
        r#"{"concepts": [{"name": "a", "category": "sexual/minors", "texts": ["a"], "threshold": 0.25}]}"#,
    ]);
    Reader::new(seeds, move |bytes| {
        fs::write(&path, bytes).unwrap();
        Concepts::load(&path).is_ok()
    })
}

/// A list of pictures that are left out, and the pictures.
pub fn exclude_list(folder: &Path) -> Reader {
    let (data, path) = (folder.join("data"), folder.join("exclude.txt"));
    fs::create_dir_all(&data).unwrap();
    for name in ["a", "b"] {
        fs::write(data.join(name).with_extension("png"), seeds::png()).unwrap();
        fs::write(data.join(name).with_extension("txt"), "a cat").unwrap();
    }
    let digest = "0123456789abcdef".repeat(4);
    let seeds = [
        format!("# left out\na.png\n\n{digest}  b.png\r\n{digest}\n"),
        "\u{feff}\"b.png\"\n\"\\u0061.png#1\"\ndata/a.png\n../x\\y\n".to_owned(),
    ];
    let seeds = seeds.map(String::into_bytes).to_vec();
    Reader::new(seeds, move |bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(list) = Exclusions::read(&path) else {
            return false;
        };
        let source = PairSource::Folder(data.clone());
        // All of them may be left out.
        let _ = source.open_without(Some(&list));
        true
    })
}

/// A list of names.
pub fn names_list(_: &Path) -> Reader {
    let seeds = owned([
        "# names\nJane Doe\n王小明\n",
        "a\n\u{200b}\nA\u{301}. b-c (d)\n*\n",
    ]);
    Reader::new(seeds, |bytes| {
        let Some(text) = text(bytes) else {
            return false;
        };
        let mut names = Names::none();
        names.list(text);
        names.allow(&text.chars().rev().collect::<String>());
        let scanner = Scanner::new(&names);
        scanner.scan(TEXT);
        scanner.redact(text);
        true
    })
}

/// A caption that is searched for personal data.
pub fn caption(_: &Path) -> Reader {
    let scanner = Scanner::new(&Names::default());
    let mut seeds = owned([
        "photo by Jane Doe, jane dot doe at example dot com, +44 20 7946 0958, 4111 1111 1111 1111",
        "摄影：王小明，邮箱 jane艾特qq点com，电话一三八零零一三八零零零，证件号 11010519491231002X，IBAN DE89370400440532013000",
    ]);
    for part in ["1", "1-", "a@", "a.", "王", "点", "+1 (", "Jane "] {
        seeds.push(part.repeat(3000).into_bytes());
    }
    Reader::new(seeds, move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let found = scanner.scan(&text);
        let inside = found
            .iter()
            .all(|one| text.get(one.bytes.clone()).is_some());
        assert!(inside, "places are of letters");
        scanner.redact(&text);
        true
    })
}
