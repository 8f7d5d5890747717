//! The smallest family: a net (`toy/net.rs`), a name map (`toy/names.rs`), and this file. It shows that a family needs
//! nothing else but its place in the list.

mod names;
mod net;
mod tests;

use std::path::Path;

use super::{Family, FamilyConfig, FamilyLoss, ModelFiles, NoOptions, PublishedForm};
use crate::Result;
use crate::engine::{AutoregressiveModel, Prompted};
use crate::text::TextTokenizer;
use crate::text::clip::LongCaption;
use net::{ToyNet, ToySizes};

/// The family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Toy;

impl Family for Toy {
    const NAME: &'static str = "toy";
    const TITLE: &'static str = "a toy";
    const SIZES: &'static str = "net";
    const WEIGHTS: &'static str = "net.safetensors";

    type Sizes = ToySizes;
    type Options = NoOptions;
    type Net = ToyNet;
    type Text = TextTokenizer;

    fn load_text(files: &ModelFiles, _config: &FamilyConfig<Self>) -> Result<TextTokenizer> {
        TextTokenizer::load(files.folder())
    }

    fn save_text(text: &TextTokenizer, dir: &Path) -> Result<()> {
        text.save(dir)
    }

    fn encode(
        text: &TextTokenizer,
        config: &FamilyConfig<Self>,
        caption: &str,
        long: LongCaption,
    ) -> Result<Vec<u32>> {
        text.encode_caption(caption, config.sizes.text_length, long.truncates())
    }

    fn unconditional(
        text: &TextTokenizer,
        config: &FamilyConfig<Self>,
        _caption: &[u32],
    ) -> Vec<u32> {
        text.null_caption(config.sizes.text_length)
    }

    fn published() -> Option<&'static dyn PublishedForm<Self>> {
        Some(&names::Form)
    }

    fn loss(
        net: &ToyNet,
        captions: &[Vec<u32>],
        image_ids: &[Vec<u32>],
        _image_weight: f64,
    ) -> Result<FamilyLoss> {
        let read = captions.iter().map(|ids| net.read(ids));
        let read: Vec<_> = read.collect::<Result<_>>()?;
        let prompts: Vec<_> = read
            .iter()
            .map(|prompt| Prompted { prompt, rows: 1 })
            .collect();
        let loss = net.token_nll(&prompts, image_ids, false)?.image.mean();
        Ok(FamilyLoss {
            metrics: vec![("image_nats", loss.clone())],
            loss,
        })
    }
}
