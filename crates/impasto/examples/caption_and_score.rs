//! What a picture shows, and how well a CLIP thinks that each caption fits.
//!
//! ```sh
//! cargo run --release -p impasto --example caption_and_score -- docs/pictures/turtle.png
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use impasto::checkpoint::ModelSource;
use impasto::observer::NoObserver;
use impasto::rank::Ranker;
use impasto::text::clip::LongCaption;
use impasto::{Caption, Image, Model, OpenOptions, device};

fn main() -> impasto::Result<()> {
    let path = std::env::args().nth(1);
    let picture = Image::open(path.unwrap_or("docs/pictures/turtle.png".into()))?;
    let (device, _) = device::select("auto")?;
    let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
    let request = Caption {
        n: 3,
        ..Caption::new(picture.clone())
    };
    let captions = model.run(&request, &mut NoObserver)?.captions;

    let clip = Ranker::load(&ModelSource::parse("impasto-clip")?, &device)?;
    let texts: Vec<String> = captions
        .iter()
        .map(|caption| caption.text.clone())
        .collect();
    let scores = clip.score(&texts, &[picture], LongCaption::Truncate)?;
    for (number, caption) in captions.iter().enumerate() {
        let (nats, cosine) = (caption.log_likelihood, scores.cosine(0, number));
        println!(
            "{}\tln p = {nats:.2} nats\tcosine {cosine:.3}",
            caption.text
        );
    }
    Ok(())
}
