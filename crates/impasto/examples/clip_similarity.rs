//! The smallest program with a CLIP: how far a picture is from a caption.
//!
//! ```sh
//! cargo run --release -p impasto --example clip_similarity -- "a turtle on a yellow background" picture.png
//! ```
//! Prints 1 − cos(f(x), g(y)), between 0 (the same direction) and 2: what contrastive training makes small for a pair
//! and large for strangers (Radford et al. 2021, arXiv:2103.00020, section 2.3). A published CLIP does as well: name
//! its folder in place of `impasto-clip`.

#![allow(clippy::print_stdout)] // what an example is for

use impasto::checkpoint::{ClipModel, ModelSource};
use impasto::{device, image::Image, rank::numbers, text::clip::LongCaption};

fn main() -> impasto::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let caption = arguments.next().unwrap_or("a red turtle".into());
    let picture = Image::open(
        arguments
            .next()
            .unwrap_or("docs/pictures/turtle.png".into()),
    )?;
    let (device, _) = device::select("auto")?;
    let clip = ClipModel::load(&ModelSource::parse("impasto-clip")?, &device)?;
    let text = clip.embed_texts(&[caption], LongCaption::Refuse)?;
    let image = clip.embed_pictures(&[picture])?;
    let cosine = numbers(image.matmul(text.transpose()))?[0];
    println!("similarity loss: {:.4}", 1.0 - cosine);
    Ok(())
}
