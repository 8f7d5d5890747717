//! Drawing with DALL·E mini: row after row, each caption read once for all of its pictures.
//!
//! Guidance is the original's "super conditioning": a second decoder pass of each picture over the caption
//! of nothing (`<s></s>`), and the mix of logits that [`Sampler`] makes. Only ids of the image tokenizer are
//! drawn; the log-likelihood is that of the whole vocabulary, as in training.

use std::ops::ControlFlow;

use super::DrawnIds;
use crate::models::DalleBart;
use crate::models::dalle_bart::{Followers, ReadCaption};
use crate::sampling::{Sampler, SamplingOptions, log_prob};
use crate::{Error, Result};

/// Gets the ids of a picture known and to know, with all pictures' ids so far; may stop the work.
pub type Progress<'a> = dyn FnMut(usize, usize, &[Vec<u32>]) -> ControlFlow<()> + 'a;

/// Draws a picture of one caption for each seed, all in one batch, each going on from `beginning`.
pub fn draw(
    model: &DalleBart,
    caption: &ReadCaption,
    null_caption: &ReadCaption,
    beginning: &[u32],
    seeds: &[u64],
    options: &SamplingOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<DrawnIds>> {
    options.validate()?;
    let config = model.config();
    let (positions, codes) = (config.image_length(), config.codebook_size);
    let rows = seeds.len();
    if rows == 0 {
        return Ok(Vec::new());
    }
    if beginning.len() >= positions {
        return Err(Error::invalid(
            "beginning",
            format!(
                "expected fewer than {positions} ids, got {}",
                beginning.len()
            ),
        ));
    }
    let mut followers = vec![Followers { caption, rows }];
    if options.needs_unconditional() {
        followers.push(Followers {
            caption: null_caption,
            rows,
        });
    }
    let samplers: Vec<Sampler> = seeds
        .iter()
        .map(|&seed| Sampler::new(options, seed))
        .collect();
    let mut caches = model.caches();
    let mut image_ids: Vec<Vec<u32>> = vec![beginning.to_vec(); rows];
    let mut log_likelihoods = vec![0.0; rows];
    // What the first pass reads: the start and the beginning; each later one an id.
    let mut told = 0;
    for position in beginning.len()..positions {
        let inputs = |row: &Vec<u32>| -> Vec<u32> {
            let start = std::iter::once(&config.start_id);
            start.chain(row).copied().skip(told).collect()
        };
        // The pictures once for each caption that they follow.
        let inputs: Vec<Vec<u32>> = followers
            .iter()
            .flat_map(|_| image_ids.iter().map(inputs))
            .collect();
        let states = model.decode(&inputs, told, &followers, Some(&mut caches))?;
        let states = states.narrow(1, position - told, 1);
        told = position + 1;
        let logits: Vec<f32> = model
            .image_logits(states)
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| Error::invalid("logits", format!("{e:?}")))?;
        let vocabulary = config.image_vocab_size + 1;
        for (row, sampler) in samplers.iter().enumerate() {
            let of = |row: usize| &logits[row * vocabulary..][..vocabulary];
            let unconditional = (followers.len() == 2).then(|| &of(rows + row)[..codes]);
            let drawn = sampler.sample(&of(row)[..codes], unconditional, position as u64)?;
            image_ids[row].push(drawn.id);
            log_likelihoods[row] += log_prob(of(row), drawn.id as usize);
        }
        if progress(position + 1, positions, &image_ids).is_break() {
            return Err(Error::Stopped);
        }
    }
    let drawn = image_ids.into_iter().zip(log_likelihoods);
    Ok(drawn
        .map(|(image_ids, log_likelihood)| DrawnIds {
            image_ids,
            log_likelihood,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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

    fn draw_all(model: &DalleBart, seeds: &[u64]) -> Vec<DrawnIds> {
        let caption = model.read(&[0, 7, 9, 2]).unwrap();
        let null = model.read(&[0, 2]).unwrap();
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
        let caption = model.read(&[0, 7, 9, 2]).unwrap();
        for drawn in draw_all(&model, &[1, 2]) {
            let followers = [Followers {
                caption: &caption,
                rows: 1,
            }];
            let nats = model.image_nats(&[drawn.image_ids], &followers).unwrap();
            let whole = -f64::from(nats.sum().into_scalar::<f32>());
            assert!((whole - drawn.log_likelihood).abs() < 1e-3);
        }
    }

    #[test]
    fn a_picture_that_is_begun_goes_on_as_if_it_had_been_drawn() {
        let model = model();
        let whole = draw_all(&model, &[3]).remove(0).image_ids;
        let caption = model.read(&[0, 7, 9, 2]).unwrap();
        let null = model.read(&[0, 2]).unwrap();
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
        assert!(model.read(&[]).is_err());
        assert!(model.read(&[50]).is_err());
        assert!(model.read(&[1; 9]).is_err());
        let caption = model.read(&[0, 2]).unwrap();
        let followers = [Followers {
            caption: &caption,
            rows: 1,
        }];
        assert!(model.image_nats(&[vec![24; 9]], &followers).is_err());
        assert!(model.image_nats(&[vec![1; 8]], &followers).is_err());
        assert!(model.decode(&[vec![31]], 0, &followers, None).is_err());
        assert!(
            model
                .decode(&[vec![1], vec![1]], 0, &followers, None)
                .is_err()
        );
        assert!(model.decode(&[vec![1]], 9, &followers, None).is_err());
    }
}
