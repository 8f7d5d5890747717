//! A hole of a picture drawn anew; all other pixels stay as they are.
//!
//! ```sh
//! cargo run --release -p impasto --example edit -- docs/pictures/turtle.png 16,16,32,32 "a blue fish" edited.png
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use impasto::edit::Region;
use impasto::image::{Format, Original};
use impasto::observer::NoObserver;
use impasto::{Edit, Model, OpenOptions, device, files};

fn main() -> impasto::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or(default.into());
    let picture = Original::open(next("docs/pictures/turtle.png"))?;
    let area = next("16,16,32,32").parse()?;
    let prompt = next("a blue fish");
    let path = next("edited.png");

    let (device, _) = device::select("auto")?;
    let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
    let mut request = Edit::new(picture, Region::Box(area), 3);
    request.prompt = Some(prompt);
    let outcome = model.run(&request, &mut NoObserver)?;
    let edited = outcome.image(&outcome.candidates[0]);
    files::write_atomic(&path, &edited.picture().encode(Format::Png, 100)?)?;
    println!("{path}: {} pixels drawn", outcome.mask.count());
    Ok(())
}
