#![allow(clippy::unwrap_used, clippy::print_stdout)]
use std::ops::ControlFlow;

use burn::tensor::Device;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::graph::Graph;
use super::vectors::Vectors;
use super::*;
use crate::checkpoint::{ClipModel, EMBEDDED_CLIP, ModelSource};
use crate::image::{Format, Image};
use crate::observer::Event;

fn ranker() -> Ranker {
    let source = ModelSource::parse(EMBEDDED_CLIP).unwrap();
    Ranker::load(&source, &Device::flex()).unwrap()
}

/// Rows of length one that vary in sixteen directions and a little in all, as embeddings of pictures do; `aside` moves
/// all of them into another place, as words lie apart from pictures.
fn rows(count: usize, width: usize, seed: u64, aside: f32) -> Vec<Vec<f32>> {
    const FREE: usize = 16;
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut matrix = || -> Vec<f32> { (0..width).map(|_| random.random::<f32>() - 0.5).collect() };
    let directions: Vec<Vec<f32>> = (0..=FREE).map(|_| matrix()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut row = || -> Vec<f32> {
        let mut row: Vec<f32> = (0..width)
            .map(|_| 0.1 * (random.random::<f32>() - 0.5))
            .collect();
        for (number, direction) in directions.iter().enumerate() {
            let far = match number {
                FREE => 1.0 + aside,
                _ => (0..6).map(|_| random.random::<f32>() - 0.5).sum(),
            };
            for (x, y) in row.iter_mut().zip(direction) {
                *x += far * y;
            }
        }
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x / length).collect()
    };
    (0..count).map(|_| row()).collect()
}

fn stored(rows: &[Vec<f32>]) -> Vectors {
    let mut vectors = Vectors::new(rows[0].len());
    for row in rows {
        vectors.push(row);
    }
    vectors
}

/// Which share of the ten nearest rows the graph finds.
fn recall(graph: &Graph, vectors: &Vectors, alive: &(dyn Fn(usize) -> bool + Sync)) -> f64 {
    let width = vectors.row(0).len();
    let queries = [rows(25, width, 9, 0.0), rows(25, width, 9, 3.0)].concat();
    let mut found = 0;
    for query in &queries {
        let exact = exact::search(vectors, 0..vectors.len(), query, 10, alive);
        let near = graph.search(vectors, query, 10, alive);
        assert!(near.iter().all(|&(_, row)| alive(row)));
        found += near.iter().filter(|hit| exact.contains(hit)).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_graph_finds_what_looking_at_each_finds() {
    let all = rows(6000, 32, 1, 0.0);
    let mut vectors = stored(&all[..4000]);
    let mut graph = Graph::new();
    graph.extend(&vectors, &mut go_on);
    assert!(recall(&graph, &vectors, &|_| true) > 0.95);
    // Rows that come later, and every second one taken out: as signposts first, then for good.
    for row in &all[4000..] {
        vectors.push(row);
    }
    graph.extend(&vectors, &mut go_on);
    assert!(recall(&graph, &vectors, &|_| true) > 0.95);
    let odd = |row: usize| row % 2 == 1;
    assert!(recall(&graph, &vectors, &odd) > 0.9);
    graph.bypass(&vectors, &odd);
    assert!(recall(&graph, &vectors, &odd) > 0.95);
    let numbers: Vec<u32> = (0..6000)
        .map(|row| if row % 2 == 1 { row / 2 } else { NOBODY })
        .collect();
    let kept: Vec<Vec<f32>> = all.iter().skip(1).step_by(2).cloned().collect();
    assert!(recall(&graph.renumbered(&numbers), &stored(&kept), &|_| true) > 0.95);
}

#[test]
fn looking_at_each_gives_the_nearest_in_order() {
    let vectors = stored(&[
        vec![1.0, 0.0],
        vec![0.6, 0.8],
        vec![0.0, 1.0],
        vec![0.6, 0.8],
    ]);
    let found = exact::search(&vectors, 0..4, &[0.0, 1.0], 3, &|_| true);
    assert_eq!(found, [(1.0, 2), (0.8, 1), (0.8, 3)]);
    let found = exact::search(&vectors, 0..4, &[0.0, 1.0], 9, &|row| row != 1);
    assert_eq!(found, [(1.0, 2), (0.8, 3), (0.0, 0)]);
    assert!(exact::search(&vectors, 0..4, &[0.0, 1.0], 0, &|_| true).is_empty());
}

/// Pictures of one colour each, named after it.
fn colours(folder: &Path, shades: std::ops::Range<u8>) {
    for shade in shades {
        let pixels = [
            shade.wrapping_mul(40),
            255 - shade.wrapping_mul(23),
            shade.wrapping_mul(91),
        ];
        let picture = Image::new(32, 32, pixels.repeat(32 * 32)).unwrap();
        let bytes = picture.encode(Format::Png, 100).unwrap();
        std::fs::write(folder.join(format!("{shade:03}.png")), bytes).unwrap();
    }
}

fn quiet(_: &Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn update(folder: &Path, ranker: &Ranker, exact: usize) -> Changes {
    let index = folder.join(FOLDER);
    let mut writer = Writer::open(&index, folder, ranker)
        .unwrap()
        .graph_above(exact);
    let pictures = pictures_below(folder).unwrap();
    writer.update(&pictures, &mut quiet).unwrap()
}

fn found(folder: &Path, ranker: &Ranker, name: &str) -> Vec<String> {
    let index = Index::open(&folder.join(FOLDER)).unwrap();
    index.check(ranker).unwrap();
    let picture = Image::open(folder.join(name)).unwrap();
    let hits = index.search_picture(ranker, &picture, 3).unwrap();
    assert!((hits[0].score - 1.0).abs() < 1e-4, "{hits:?}");
    hits.iter()
        .map(|hit| hit.path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_index_follows_its_folder() {
    let ranker = ranker();
    // With a graph and without.
    for exact in [EXACT, 3] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        colours(folder, 0..10);
        let all = |added, changed, removed, unchanged| Changes {
            added,
            changed,
            removed,
            unchanged,
            skipped: 0,
        };
        assert_eq!(update(folder, &ranker, exact), all(10, 0, 0, 0));
        assert_eq!(found(folder, &ranker, "004.png")[0], "004.png");
        assert_eq!(update(folder, &ranker, exact), all(0, 0, 0, 10));
        // A new one, a changed one, one that is gone, and one that is no picture.
        colours(folder, 10..11);
        std::fs::copy(folder.join("005.png"), folder.join("006.png")).unwrap();
        std::fs::remove_file(folder.join("004.png")).unwrap();
        std::fs::write(folder.join("004.jpg"), "no picture").unwrap();
        let changes = update(folder, &ranker, exact);
        assert_eq!(
            changes,
            Changes {
                skipped: 1,
                ..all(1, 1, 1, 8)
            }
        );
        assert_eq!(found(folder, &ranker, "010.png")[0], "010.png");
        assert_eq!(
            &found(folder, &ranker, "005.png")[..2],
            ["005.png", "006.png"]
        );
        let index = Index::open(&folder.join(FOLDER)).unwrap();
        assert_eq!((index.len(), index.has_graph()), (10, exact == 3));
    }
}

#[test]
fn removed_rows_are_given_back_some_day() {
    let ranker = ranker();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    colours(folder, 0..4);
    update(folder, &ranker, 2);
    let size = |generation| std::fs::metadata(vectors::path(&folder.join(FOLDER), generation));
    let one = size(0).unwrap().len() / 4;
    for turn in 0..300 {
        let name = folder.join(format!("{:03}.png", turn % 4));
        let bytes = std::fs::read(&name).unwrap();
        std::fs::write(&name, bytes).unwrap();
        let file = std::fs::File::options().append(true).open(&name).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 + turn);
        file.set_modified(time).unwrap();
        let index = folder.join(FOLDER);
        let mut writer = Writer::open(&index, folder, &ranker).unwrap().slack(64);
        assert_eq!(writer.add(&[name], &mut quiet).unwrap().changed, 1);
    }
    assert!(size(0).is_err());
    let manifest = Manifest::open(&folder.join(FOLDER)).unwrap();
    assert!(
        manifest.generation >= 3 && manifest.rows < 70,
        "{}",
        manifest.rows
    );
    assert_eq!(
        size(manifest.generation).unwrap().len(),
        one * manifest.rows as u64
    );
    for name in ["000.png", "001.png", "002.png", "003.png"] {
        assert_eq!(found(folder, &ranker, name)[0], name);
    }
}

#[test]
fn what_is_done_before_a_stop_is_kept() {
    let ranker = ranker();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    colours(folder, 0..100);
    let index = folder.join(FOLDER);
    let mut writer = Writer::open(&index, folder, &ranker).unwrap();
    let pictures = pictures_below(folder).unwrap();
    let stopped = writer.update(&pictures, &mut |_: &Event<'_>| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Stopped)));
    // While it is open, nobody else writes, but anybody reads.
    let other = Writer::open(&index, folder, &ranker);
    assert!(other.unwrap_err().to_string().contains("another process"));
    let done = Index::open(&index).unwrap().len();
    assert!((1..100).contains(&done), "{done}");
    drop(writer);
    let changes = update(folder, &ranker, EXACT);
    assert_eq!((changes.added, changes.unchanged), (100 - done, done));
}

#[test]
fn another_clip_is_refused() {
    let ranker = ranker();
    let folder = tempfile::tempdir().unwrap();
    colours(folder.path(), 0..3);
    update(folder.path(), &ranker, EXACT);
    let device = Device::flex();
    let source = ModelSource::parse(EMBEDDED_CLIP).unwrap();
    let mut other = ClipModel::load(&source, &device).unwrap();
    let config = other.config.clip.clone();
    other.clip = config.init(&mut crate::nn::Init::new(5, &device));
    other.config.name = "another".into();
    let other = Ranker {
        model: Box::new(other),
    };
    let index = folder.path().join(FOLDER);
    for refused in [
        Index::open(&index).unwrap().check(&other).unwrap_err(),
        Writer::open(&index, folder.path(), &other).unwrap_err(),
    ] {
        let text = refused.to_string();
        assert!(
            text.contains("impasto-clip") && text.contains("another"),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A damaged index is refused, or answers with pictures that it has: no panic, no endless walk.
    #[test]
    fn damage_is_told(file in 0usize..3, at in 0.0f64..1.0, byte: u8, cut: bool) {
        use std::sync::OnceLock;
        static MADE: OnceLock<(tempfile::TempDir, usize)> = OnceLock::new();
        let (made, width) = MADE.get_or_init(|| {
            let ranker = ranker();
            let folder = tempfile::tempdir().unwrap();
            colours(folder.path(), 0..20);
            update(folder.path(), &ranker, 3);
            let index = Index::open(&folder.path().join(FOLDER)).unwrap();
            (folder, index.clip().width)
        });
        let copy = tempfile::tempdir().unwrap();
        let names = [manifest::NAME, "rows-0.f32", "graph-0.u32"];
        for name in names {
            let mut bytes = std::fs::read(made.path().join(FOLDER).join(name)).unwrap();
            if name == names[file] {
                let at = (at * bytes.len() as f64) as usize;
                if cut {
                    bytes.truncate(at);
                } else {
                    bytes[at] = byte;
                }
            }
            std::fs::write(copy.path().join(name), bytes).unwrap();
        }
        if let Ok(index) = Index::open(copy.path()) {
            let mut query = vec![0.0; *width];
            query[0] = 1.0;
            let _ = index.search(&query, 5);
        }
    }
}

/// `cargo test --release -p impasto --lib search::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let all = stored(&rows(100_000, 512, 3, 0.0));
    let queries = rows(20, 512, 4, 3.0);
    let time = |work: &dyn Fn(&[f32])| {
        let mut times: Vec<f64> = queries
            .iter()
            .map(|query| {
                let begin = std::time::Instant::now();
                work(query);
                begin.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let exact = time(&|query| {
        exact::search(&all, 0..all.len(), query, 10, &|_| true);
    });
    let begin = std::time::Instant::now();
    let mut graph = Graph::new();
    graph.extend(&all, &mut go_on);
    let built = begin.elapsed().as_secs_f64();
    let along = time(&|query| {
        graph.search(&all, query, 10, &|_| true);
    });
    println!(
        "100,000 x 512: each {exact:.2} ms, along the graph {along:.2} ms, recall {:.3}; built in {built:.0} s",
        recall(&graph, &all, &|_| true)
    );
}
