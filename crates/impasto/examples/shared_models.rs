//! Two models, shared by two threads, opened and dropped a hundred times: what a server does. Prints how much memory
//! the process has grown by, and fails if that is more than a few MiB.
//!
//! ```sh
//! cargo run --release -p impasto --example shared_models
//! ```
//!
//! Another number of loads can be given; with 0, memory is not measured (for sanitizers, which take some of it).

#![allow(clippy::print_stdout)] // what an example is for

use std::thread;

use impasto::checkpoint::{ModelSource, weights::Precision};
use impasto::families::{ModelFiles, SaveAs, open_native};
use impasto::observer::NoObserver;
use impasto::text::clip::LongCaption;
use impasto::{Device, Generate, Model, OpenOptions, device};

/// The resident memory of this process in bytes; none where the system does not say it.
fn resident() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn open(name: &str, device: &Device) -> impasto::Result<Model> {
    Model::open(name, device, &OpenOptions::default())
}

/// The ids of a picture of `model`.
fn draw(model: &Model, seed: u64) -> impasto::Result<Vec<u32>> {
    let mut request = Generate::new("a red turtle", seed);
    request.long = LongCaption::Truncate;
    let outcome = model.run(&request, &mut NoObserver)?;
    Ok(outcome.images[0].image_ids.clone())
}

fn main() -> impasto::Result<()> {
    let loads: usize = std::env::args()
        .nth(1)
        .map_or(100, |text| text.parse().expect("a number of loads"));
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/import/dalle_mini/goldens/flax_stacked"
    );
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/impasto-mini");
    // Weights in a file are mapped; this folder has one of its own.
    let folder = std::env::temp_dir().join(format!("impasto-shared-{}", std::process::id()));
    let (device, _) = device::select("cpu")?;
    let files = ModelFiles::find(&ModelSource::Dir(small.into()))?;
    let stored = open_native(&files, &device, None)?;
    stored.save(&folder, SaveAs::Floats(Precision::F32))?;
    drop(stored);
    let mapped = folder.to_string_lossy().into_owned();

    // Both at once, each thread with both models.
    let (first, second) = (open(&mapped, &device)?, open(tiny, &device)?);
    let drawn: Vec<impasto::Result<[Vec<u32>; 2]>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| Ok([draw(&first, 3)?, draw(&second, 3)?])))
            .collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|drawn| drawn.unwrap_or(Err(impasto::Error::Stopped)))
            .collect()
    });
    let drawn: Vec<[Vec<u32>; 2]> = drawn.into_iter().collect::<impasto::Result<_>>()?;
    assert_eq!(drawn[0], drawn[1]);
    drop((first, second));

    let load = || -> impasto::Result<()> {
        for name in [mapped.as_str(), tiny] {
            let model = open(name, &device)?;
            assert!(draw(&model, 3)? == drawn[0][usize::from(name == tiny)]);
        }
        Ok(())
    };
    // The allocator's and the threads' own memory is there after a few.
    for _ in 0..5 {
        load()?;
    }
    let before = resident();
    for _ in 0..loads {
        load()?;
    }
    let grown = resident().zip(before).map(|(after, before)| after - before);
    std::fs::remove_dir_all(&folder).map_err(impasto::Error::io("remove", &folder))?;
    let Some(grown) = grown else {
        println!("this system does not say how much memory a process has");
        return Ok(());
    };
    println!(
        "grown by {:.1} MiB after {loads} loads",
        grown as f64 / f64::from(1 << 20)
    );
    // One of the models has 13 MiB of weights: a leak of either would be a hundred times that.
    assert!(loads == 0 || grown < 8 << 20, "{grown} bytes");
    Ok(())
}
