//! A published model as it is: what it is, before it is loaded, and a picture with it.
//!
//! ```sh
//! cargo run --release -p impasto --example published_model -- path/to/dalle-mini "an avocado armchair"
//! ```
//! Without arguments it takes a tiny model of random weights from the tests.

#![allow(clippy::print_stdout)] // what an example is for

use impasto::checkpoint::ModelSource;
use impasto::families::{self, ModelFiles};
use impasto::observer::NoObserver;
use impasto::{Generate, Model, OpenOptions, device};

fn main() -> impasto::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/import/dalle_mini/goldens/flax_stacked"
    );
    let path = arguments.next().unwrap_or(tiny.into());
    let prompt = arguments.next().unwrap_or("an avocado armchair".into());

    let files = ModelFiles::find(&ModelSource::parse(&path)?)?;
    let info = families::info(&files)?;
    let peak = info.peak_memory_bytes >> 20;
    println!("{}, {}: about {peak} MiB", info.name, info.licence);
    let (device, _) = device::select("auto")?;
    let model = Model::open_files(&files, &device, &OpenOptions::default())?;
    let mut request = Generate::new(prompt, 1);
    request.long = impasto::text::clip::LongCaption::Truncate;
    let outcome = model.run(&request, &mut NoObserver)?;
    let image = &outcome.images[0];
    println!(
        "{} draws {} x {} px, {} ids",
        model.family(),
        image.picture.width,
        image.picture.height,
        image.image_ids.len()
    );
    Ok(())
}
