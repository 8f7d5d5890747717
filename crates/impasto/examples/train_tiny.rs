//! From captioned pictures to a model that draws: a text tokenizer, an image tokenizer and a transformer, all of them
//! tiny, on a world of composed scenes that needs no files.
//!
//! ```sh
//! cargo run --release -p impasto --example train_tiny -- out/tiny
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use std::ops::ControlFlow;
use std::path::PathBuf;

use impasto::observer::{self, NoObserver, Observer};
use impasto::train::{dalle, image_tokenizer, text_tokenizer};
use impasto::{Error, Generate, Model, OpenOptions, device};
use serde_json::{Value, json};

/// Prints what happens.
struct Print;

impl Observer for Print {
    fn event(&mut self, event: &observer::Event<'_>) -> ControlFlow<()> {
        match event {
            observer::Event::Training(observer::TrainingEvent::Metrics { step, values }) => {
                println!("step {step}: {values:?}");
            }
            observer::Event::Training(observer::TrainingEvent::Warning(text)) => {
                println!("warning: {text}")
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// A config, as the files of `impasto train` have it.
fn config<C: serde::de::DeserializeOwned>(value: Value) -> impasto::Result<C> {
    serde_json::from_value(value).map_err(|e| Error::invalid("config", e.to_string()))
}

fn main() -> impasto::Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("out/tiny".into()));
    let (device, _) = device::select("auto")?;
    let data = json!({"scenes": {"world": "tiny", "seed": 1}});
    let run = |steps: u64| {
        json!({"seed": 1, "steps": steps, "batch_size": 8, "learning_rate": 0.003,
               "warmup_steps": 5, "checkpoint_every": steps})
    };

    let words = json!({"data": data, "vocab_size": 300, "samples": 500});
    let text = out.join("text");
    text_tokenizer::run(&config(words)?, &text, &mut Print)?;

    let autoencoder = json!({
        "data": data, "run": run(20), "validation": 8,
        "model": {"architecture": "vqgan", "picture_size": 64, "patch": 16, "widths": [8],
                  "n_res_blocks": 1, "groups": 4, "codebook_size": 32, "code_width": 4}
    });
    let image = out.join("image");
    image_tokenizer::run(&config(autoencoder)?, &image, &device, false, &mut Print)?;

    let transformer = json!({
        "name": "tiny", "licence": "CC0-1.0", "data": data, "run": run(20), "validation": 8,
        "encoded_pictures": 64, "text_tokenizer": text, "image_tokenizer": image,
        "model": {"text_length": 80, "width": 32, "n_layers": 2, "n_heads": 2, "hidden": 64}
    });
    let model = out.join("dalle");
    let model = dalle::run(&config(transformer)?, &model, &device, false, &mut Print)?;

    let path = model.to_string_lossy();
    let model = Model::open(&path, &device, &OpenOptions::default())?;
    let outcome = model.run(&Generate::new("a red circle", 1), &mut NoObserver)?;
    println!("{path} draws {:?}", &outcome.images[0].image_ids[..4]);
    Ok(())
}
