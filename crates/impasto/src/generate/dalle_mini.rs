//! Drawing with DALL·E mini: row after row, each caption is encoded once for all of its images.
//!
//! Guidance is the original's "super conditioning": a second decoder pass of each picture over the caption
//! of nothing (`<s></s>`), and the mix of logits that [`crate::sampling::Sampler`] makes. Only ids of the image tokenizer are
//! drawn; the log-likelihood is that of the whole vocabulary, as in training.

use burn::tensor::Tensor;

use super::raster::{self, Progress, Sizes, StepModel};
use super::{InfillSpec, SampledTokens};
use crate::Result;
use crate::models::DalleBart;
use crate::models::dalle_bart::{CaptionRows, CrossAttentionKv};
use crate::nn::KvCache;
use crate::sampling::SamplingOptions;

/// Draws a picture of one caption for each seed, all in one batch, each continuing `prefix_ids`.
pub fn draw(
    model: &DalleBart,
    caption: &CrossAttentionKv,
    null_caption: &CrossAttentionKv,
    prefix_ids: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<SampledTokens>> {
    let fillings = raster::with_prefix(prefix_ids, model.config().image_length(), seeds)?;
    fill(
        model,
        [caption, null_caption],
        &fillings,
        1,
        options,
        progress,
    )
}

/// Fills the masked ids of canvases that share the first of `captions`; the second is the empty one. The captions of
/// the canvases are ignored. Each `tries` consecutive canvases are equal and are resampled together.
pub fn fill(
    model: &DalleBart,
    captions: [&CrossAttentionKv; 2],
    fillings: &[InfillSpec],
    tries: usize,
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<SampledTokens>> {
    let config = model.config();
    let sizes = Sizes {
        positions: config.image_length(),
        codes: config.codebook_size,
        tries,
    };
    let begin = |rows| {
        let read = 1 + usize::from(options.needs_unconditional());
        let caption_rows = captions[..read].iter();
        Ok(Pictures {
            model,
            caption_rows: caption_rows
                .map(|caption| CaptionRows { caption, rows })
                .collect(),
            caches: model.caches(),
            n_tokens: 0,
        })
    };
    raster::fill(sizes, fillings, options, begin, progress)
}

/// A batch of images, each conditioned on its caption.
struct Pictures<'a> {
    model: &'a DalleBart,
    caption_rows: Vec<CaptionRows<'a>>,
    caches: Vec<KvCache>,
    /// Input tokens so far, the start included.
    n_tokens: usize,
}

impl StepModel for Pictures<'_> {
    fn step(&mut self, new_ids: Vec<Vec<u32>>, n_logits: usize) -> Result<Tensor<3>> {
        let start = (self.n_tokens == 0).then_some(self.model.config().start_id);
        let inputs: Vec<Vec<u32>> = new_ids
            .into_iter()
            .map(|ids| start.into_iter().chain(ids).collect())
            .collect();
        let caches = Some(&mut self.caches[..]);
        let states = self
            .model
            .decode(&inputs, self.n_tokens, &self.caption_rows, caches)?;
        let [_, length, _] = states.dims();
        self.n_tokens += length;
        let last = states.narrow(1, length - n_logits, n_logits);
        Ok(self.model.image_logits(last))
    }

    fn select_rows(&mut self, rows: &[usize]) {
        for cache in &mut self.caches {
            cache.select_rows(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use std::ops::ControlFlow;

    use burn::tensor::Device;

    use crate::models::DalleBartConfig;
    use crate::models::dalle_bart::StackConfig;
    use crate::nn::Init;

    fn model() -> DalleBart {
        let stack = |n_layers, n_heads| StackConfig {
            n_layers,
            n_heads,
            hidden: 40,
        };
        let config = DalleBartConfig {
            text_vocab_size: 50,
            text_length: 8,
            image_vocab_size: 30,
            codebook_size: 24,
            start_id: 24,
            grid: 3,
            width: 32,
            encoder: stack(1, 4),
            decoder: stack(2, 2),
            scaled_norms: false,
        };
        config.validate().unwrap();
        config.init(&mut Init::new(5, &Device::flex()))
    }

    fn draw_all(model: &DalleBart, seeds: &[u64]) -> Vec<SampledTokens> {
        let caption = model.encode(&[0, 7, 9, 2]).unwrap();
        let null = model.encode(&[0, 2]).unwrap();
        let options = SamplingOptions {
            guidance_scale: 3.0,
            ..SamplingOptions::default()
        };
        draw(
            model,
            &caption,
            &null,
            &[],
            seeds,
            &options,
            &mut |_, _, _| ControlFlow::Continue(()),
        )
        .unwrap()
    }

    #[test]
    fn a_picture_does_not_depend_on_its_batch_or_on_threads() {
        let model = model();
        let seeds: Vec<u64> = (0..6).collect();
        let together = draw_all(&model, &seeds);
        assert!(
            together
                .iter()
                .any(|drawn| drawn.image_ids != together[0].image_ids)
        );
        for seed in 0..6 {
            let alone = draw_all(&model, &[seed]);
            assert_eq!(alone[0].image_ids, together[seed as usize].image_ids);
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let again = pool.install(|| draw_all(&model, &seeds));
            for (a, b) in again.iter().zip(&together) {
                assert_eq!(a.image_ids, b.image_ids, "{threads} threads");
            }
        }
    }

    /// 1e-3 nats over 9 ids leave room for rounding in f32, not for a wrong position or a lost key.
    #[test]
    fn cached_drawing_equals_one_pass_without_a_cache() {
        let model = model();
        let caption = model.encode(&[0, 7, 9, 2]).unwrap();
        for drawn in draw_all(&model, &[1, 2]) {
            let caption_rows = [CaptionRows {
                caption: &caption,
                rows: 1,
            }];
            let nats = model.image_nats(&[drawn.image_ids], &caption_rows).unwrap();
            let whole = -f64::from(nats.sum().into_scalar::<f32>());
            assert!((whole - drawn.log_likelihood).abs() < 1e-3);
        }
    }

    #[test]
    fn a_continued_prefix_gives_the_same_image() {
        let model = model();
        let whole = draw_all(&model, &[3]).remove(0).image_ids;
        let caption = model.encode(&[0, 7, 9, 2]).unwrap();
        let null = model.encode(&[0, 2]).unwrap();
        let options = SamplingOptions {
            guidance_scale: 3.0,
            ..SamplingOptions::default()
        };
        let go = &mut |_, _, _: &[Vec<u32>]| ControlFlow::Continue(());
        for count in [1, 4, 8] {
            let begun = &whole[..count];
            let drawn = draw(&model, &caption, &null, begun, &[3], &options, go).unwrap();
            assert_eq!(drawn[0].image_ids, whole, "{count}");
        }
        assert!(draw(&model, &caption, &null, &whole, &[3], &options, go).is_err());
    }

    #[test]
    fn ids_and_lengths_that_the_model_lacks_are_refused() {
        let model = model();
        assert!(model.encode(&[]).is_err());
        assert!(model.encode(&[50]).is_err());
        assert!(model.encode(&[1; 9]).is_err());
        let caption = model.encode(&[0, 2]).unwrap();
        let caption_rows = [CaptionRows {
            caption: &caption,
            rows: 1,
        }];
        assert!(model.image_nats(&[vec![24; 9]], &caption_rows).is_err());
        assert!(model.image_nats(&[vec![1; 8]], &caption_rows).is_err());
        assert!(model.decode(&[vec![31]], 0, &caption_rows, None).is_err());
        assert!(
            model
                .decode(&[vec![1], vec![1]], 0, &caption_rows, None)
                .is_err()
        );
        assert!(model.decode(&[vec![1]], 9, &caption_rows, None).is_err());
    }
}
