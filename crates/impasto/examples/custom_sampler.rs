//! A sampler of one's own: logits from the net, ids by a rule that the library does not have. Here: greedy, but never
//! the id that was taken before.
//!
//! ```sh
//! cargo run --release -p impasto --example custom_sampler
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use impasto::checkpoint::ModelSource;
use impasto::engine::{AutoregressiveModel, Input, Prompted, Rows};
use impasto::families::{ModelFiles, open_native};
use impasto::text::clip::LongCaption;
use impasto::{Error, device};

fn main() -> impasto::Result<()> {
    let (device, _) = device::select("cpu")?;
    let files = ModelFiles::find(&ModelSource::parse("impasto-styles")?)?;
    let model = open_native(&files, &device, None)?;
    let text_ids = model.encode_caption("two red turtles", LongCaption::Refuse)?;
    let prompt = model.net.read(&text_ids)?;

    let prompts = [Prompted {
        prompt: &prompt,
        rows: 1,
    }];
    let mut state = model.net.prefill(&prompts)?;
    let mut image_ids: Vec<u32> = Vec::new();
    for position in 0..model.net.sizes().positions as u32 {
        // In raster order each input is the id before, and predicts the next position.
        let last = image_ids.last();
        let token = last.map(|&id| (position - 1, id));
        let input = Input {
            token,
            target: position,
        };
        let mut rows = [Rows {
            inputs: &[vec![input]],
            state: &mut state,
        }];
        let logits = model.net.step(&mut rows, 1)?.into_data();
        let logits: Vec<f32> = logits
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        let allowed = (0u32..).zip(&logits).filter(|(id, _)| Some(id) != last);
        let best = allowed.max_by(|a, b| a.1.total_cmp(b.1));
        image_ids.extend(best.map(|(id, _)| id));
    }
    assert!(image_ids.windows(2).all(|pair| pair[0] != pair[1]));
    let picture = model.image.decode(&[image_ids])?.swap_remove(0);
    println!("drew {} x {} px", picture.width, picture.height);
    Ok(())
}
