//! Drawing with DALLE-pytorch's models: the caption is read once for all of its pictures.
//!
//! Guidance is the original's `cond_scale`: a second pass of each picture over the caption of nothing but filling,
//! and the mix of logits that [`Sampler`] makes. Its `filter_thres` keeps a share of the joint vocabulary, which is
//! a `top_k` here; see [`crate::pipeline::dalle_pytorch`].

use burn::tensor::Tensor;

use super::raster::{self, Progress, Teller};
use super::{DrawnIds, Filling};
use crate::Result;
use crate::models::dalle_pytorch::{DallePytorch, Known};
use crate::sampling::SamplingOptions;

/// Draws a picture of one caption for each seed, all in one batch, each going on from `beginning`.
pub fn draw(
    model: &DallePytorch,
    caption: &[u32],
    beginning: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    let fillings = raster::begun(beginning, model.config().image_length(), seeds)?;
    fill(model, caption, &fillings, options, progress)
}

/// Draws what canvases of one caption ask for; the captions that they tell are not looked at.
pub fn fill(
    model: &DallePytorch,
    caption: &[u32],
    fillings: &[Filling],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    let config = model.config();
    let sizes = [config.image_length(), config.codebook_size];
    let mut captions = vec![caption.to_vec()];
    if options.needs_unconditional() {
        captions.push(Vec::new());
    }
    let begin = |rows| {
        let (prefix, mut known) = model.read(&captions)?;
        // The pictures once for each caption that they follow.
        let of: Vec<usize> = (0..captions.len())
            .flat_map(|caption| std::iter::repeat_n(caption, rows))
            .collect();
        known.select_rows(&of);
        let last = prefix.narrow(1, config.text_length, 1);
        let parts = of
            .iter()
            .map(|&caption| last.clone().narrow(0, caption, 1))
            .collect();
        Ok(Pictures {
            model,
            known,
            states: Tensor::cat(parts, 0),
        })
    };
    raster::fill(sizes, fillings, options, begin, progress)
}

/// Pictures behind their captions.
struct Pictures<'a> {
    model: &'a DallePytorch,
    known: Known,
    /// The last ones told.
    states: Tensor<3>,
}

impl Teller for Pictures<'_> {
    fn tell(&mut self, newest: Vec<Vec<u32>>) -> Result<Tensor<3>> {
        let n = newest.first().map_or(0, Vec::len);
        if n > 0 {
            let states = self.model.go_on(&newest, &mut self.known)?;
            self.states = states.narrow(1, n - 1, 1);
        }
        Ok(self.model.image_logits(self.states.clone()))
    }
}
