//! A picture from words, in a file.
//!
//! ```sh
//! cargo run --release -p impasto --example generate -- "two red turtles" turtles.png
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use std::ops::ControlFlow;

use impasto::image::Format;
use impasto::observer::Event;
use impasto::{Generate, Model, OpenOptions, device, files};

fn main() -> impasto::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let prompt = arguments.next().unwrap_or("two red turtles".into());
    let path = arguments.next().unwrap_or("turtles.png".into());

    let (device, description) = device::select("auto")?;
    println!("device: {description}");
    let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
    let mut rows = 0;
    let outcome = model.run(&Generate::new(prompt, 7), &mut |event: &Event<'_>| {
        // Every event has the ids so far: enough for a preview.
        if let Event::Tokens { done, total, .. } = event
            && done / 64 > rows
        {
            rows = done / 64;
            println!("{done} of {total} tokens");
        }
        ControlFlow::Continue(())
    })?;
    let image = &outcome.images[0];
    files::write_atomic(&path, &image.picture.encode(Format::Png, 100)?)?;
    println!("{path}: ln p = {:.1} nats", image.log_likelihood);
    Ok(())
}
