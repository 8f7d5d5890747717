//! What published nets of masked ids are compared with their references by, whichever family they are of.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::goldens::{Expected, assert_close, assert_within, numbers};
use crate::Error;
use crate::canvas::{Canvas, Conditioning};
use crate::engine::{
    AutoregressiveModel, Batch, FillOptions, FillRequest, InfillRow, MaskSchedule, Prompted,
    confidence_passes, likelihood,
};
use crate::families::{Family, FamilyModel};
use crate::models::dalle::Order;
use crate::models::masked::{Masked, MaskedNet, logits};
use crate::sampling::SamplingOptions;
use crate::text::clip::{ClipTokenizer, LongCaption};

/// A model, what the reference made of its set, and the set's name.
pub struct Golden<'a, F: Family> {
    pub model: &'a FamilyModel<F>,
    pub expected: &'a Expected,
    pub set: &'a str,
}

/// Ids that may be masked, of rows.
pub fn masked(expected: &Expected, name: &str) -> Vec<Vec<Option<u32>>> {
    let (values, shape) = expected.tensor(name);
    let of = |&value: &f32| (value >= 0.0).then_some(value as u32);
    values
        .chunks(*shape.last().unwrap())
        .map(|row| row.iter().map(of).collect())
        .collect()
}

impl<F: Family<Text = ClipTokenizer>> Golden<'_, F>
where
    F::Net: MaskedNet,
{
    pub fn text_ids(&self) -> Vec<Vec<u32>> {
        self.expected.metadata("text_ids")
    }

    pub fn captions_become_the_reference_ids(&self) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let captions: Vec<String> = expected.metadata("captions");
        for (caption, ids) in captions.iter().zip(self.text_ids()) {
            assert_eq!(
                model
                    .encode_caption(caption, LongCaption::Truncate)
                    .unwrap(),
                ids,
                "{set}"
            );
        }
        let null = self.text_ids().pop().unwrap();
        assert_eq!(model.unconditional(&[]), null, "{set}");
        let error = model.encode_caption(&"turtle ".repeat(20), LongCaption::Refuse);
        assert!(error.is_err(), "{set}");
    }

    /// Of a picture that is masked in part and of one that is masked wholly, with these numbers of passes left, under a
    /// caption and under none; alone, and all in one pass.
    pub fn logits_are_those_of_the_reference(&self, left: [Option<usize>; 2]) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let net = &model.net;
        let reference = expected.floats("logits");
        let prompts: Vec<_> = self.text_ids()[1..]
            .iter()
            .map(|ids| net.prompt_of(ids).unwrap())
            .collect();
        let canvases = masked(expected, "canvas");
        let targets: Vec<u32> = (0..canvases[0].len() as u32).collect();
        let mut pictures = Vec::new();
        for prompt in &prompts {
            for (image_ids, left) in canvases.iter().zip(left) {
                pictures.push(Masked {
                    left,
                    ..Masked::new(prompt, image_ids, &targets)
                });
            }
        }
        let together = numbers(logits(net, &pictures).unwrap());
        assert_close(&together, &reference, set);
        let alone: Vec<f32> = pictures
            .iter()
            .flat_map(|picture| numbers(logits(net, std::slice::from_ref(picture)).unwrap()))
            .collect();
        assert_eq!(alone, together, "{set}");
        let some = Masked {
            left: pictures[1].left,
            ..Masked::new(pictures[1].prompt, pictures[1].image_ids, &targets[3..5])
        };
        let codes = net.sizes().codebook_size;
        let start = (targets.len() + 3) * codes;
        let found = numbers(logits(net, &[some]).unwrap());
        assert_eq!(found, together[start..start + 2 * codes], "{set}");
    }

    /// A caption in chunks (`reference/write_long_caption_goldens.py`), of the same pictures; alone, and in one pass with
    /// one that fits, whose bits stay.
    pub fn chunks_are_those_of_the_reference(&self, chunks: &Expected, left: [Option<usize>; 2]) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let long: String = chunks.metadata("caption");
        let ids: Vec<u32> = chunks.metadata("text_ids");
        assert_eq!(
            model.encode_caption(&long, LongCaption::Chunks).unwrap(),
            ids
        );
        let error = model
            .encode_caption(&long, LongCaption::Refuse)
            .unwrap_err();
        assert!(matches!(error, Error::CaptionTooLong { .. }), "{error}");
        let endless = model.encode_caption(&long.repeat(40), LongCaption::Chunks);
        let error = endless.unwrap_err();
        assert!(matches!(error, Error::CaptionTooLong { .. }), "{error}");
        let short: Vec<String> = expected.metadata("captions");
        for caption in &short[..2] {
            let cut = model
                .encode_caption(caption, LongCaption::Truncate)
                .unwrap();
            if model.encode_caption(caption, LongCaption::Refuse).is_ok() {
                assert_eq!(
                    model.encode_caption(caption, LongCaption::Chunks).unwrap(),
                    cut
                );
            }
        }

        let net = &model.net;
        let prompts = [&ids, &self.text_ids()[1]].map(|ids| net.prompt_of(ids).unwrap());
        let canvases = masked(expected, "canvas");
        let targets: Vec<u32> = (0..canvases[0].len() as u32).collect();
        let mut pictures = Vec::new();
        for prompt in &prompts {
            for (image_ids, left) in canvases.iter().zip(left) {
                pictures.push(Masked {
                    left,
                    ..Masked::new(prompt, image_ids, &targets)
                });
            }
        }
        let (of_long, of_short) = pictures.split_at(2);
        let found = numbers(logits(net, of_long).unwrap());
        assert_close(&found, &chunks.floats("logits"), set);
        let alone = numbers(logits(net, of_short).unwrap());
        let together = numbers(logits(net, &pictures).unwrap());
        assert_eq!(together, [found, alone].concat(), "{set}");
        assert!(net.prompt_of(&ids[1..]).is_err() && net.prompt_of(&[]).is_err());
    }

    pub fn pixels_and_ids_are_those_of_the_reference(&self) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let ids = expected.ids("image_ids").swap_remove(0);
        let pixels = numbers(model.image.decode_pixels(&[ids]));
        let pixels: Vec<f32> = pixels.iter().map(|value| (value + 1.0) / 2.0).collect();
        assert_within(&pixels, &expected.floats("pixels"), 1e-3, set);
        let (values, shape) = expected.tensor("picture");
        let pixels: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, shape), &Device::flex());
        let found = model.image.encode_pixels(pixels).unwrap();
        assert_eq!(found, expected.ids("picture_ids"), "{set}");
    }

    /// The ids after each pass.
    pub fn steps(&self, drawings: &[&Drawing]) -> Vec<Vec<Vec<Option<u32>>>> {
        let &Golden {
            model, expected, ..
        } = self;
        let ids = self.text_ids();
        let read = |caption: usize| Arc::new(model.net.read(&ids[caption]).unwrap());
        let rows = drawings.iter().map(|drawing| InfillRow {
            prompt: read(drawing.caption),
            unconditional: read(drawing.negative),
            canvas: Arc::new(drawing.canvas.clone()),
            seed: drawing.seed,
        });
        let request = FillRequest {
            rows: rows.collect(),
            options: FillOptions {
                sampling: SamplingOptions {
                    guidance_scale: drawings[0].guidance_scale,
                    temperature: drawings[0].temperature,
                    top_k: None,
                    top_p: None,
                },
                order: Order::Confidence {
                    steps: expected.metadata("steps"),
                },
                conditioning: Conditioning::Prefix,
                tries: 1,
            },
        };
        let mut batch = Batch::new(&model.net);
        let ticket = batch.join(&request).unwrap();
        let mut steps = Vec::new();
        loop {
            let going = batch.step().unwrap();
            let ids = batch.image_ids(ticket);
            steps.push(ids.into_iter().map(<[Option<u32>]>::to_vec).collect());
            if !going {
                break;
            }
        }
        steps
    }

    /// With the reference's random numbers in the place of its own: which ids every pass keeps, and what they are, with
    /// guidance and without, of whole pictures and of holes, greedily and by chance.
    pub fn every_pass_keeps_what_the_reference_keeps(&self) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let positions = model.net.sizes().positions;
        let drawing = |guidance_scale, temperature, seed| Drawing {
            canvas: Canvas::blank(positions),
            caption: 0,
            negative: 2,
            guidance_scale,
            temperature,
            seed,
        };
        let hole = expected.ids("hole").swap_remove(0);
        let holed = Canvas::of(&expected.ids("picture_ids")[0])
            .masked((0..positions as u32).filter(|&at| hole[at as usize] == 1));
        let inpainting = |temperature, seed| Drawing {
            canvas: holed.clone(),
            caption: 1,
            ..drawing(4.0, temperature, seed)
        };
        let negative = Drawing {
            negative: 1,
            ..drawing(4.0, 0.0, 1)
        };
        for (name, drawing) in [
            ("greedy_steps", drawing(1.0, 0.0, 1)),
            ("guided_steps", drawing(4.0, 0.0, 1)),
            ("negative_steps", negative),
            ("sampled_steps", drawing(1.0, 1.0, 7)),
            ("sampled_guided_steps", drawing(4.0, 1.0, 8)),
            ("inpaint_greedy_steps", inpainting(0.0, 1)),
            ("inpaint_steps", inpainting(1.0, 9)),
        ] {
            let reference = masked(expected, name);
            let found = self.steps(&[&drawing]);
            let alone: Vec<_> = found.into_iter().map(|mut rows| rows.remove(0)).collect();
            assert_eq!(alone, reference, "{set} {name}");
            // Among others in a batch, each its own.
            let other = Drawing {
                canvas: drawing.canvas.clone(),
                seed: 77,
                ..drawing
            };
            let mut among = self.steps(&[&other, &drawing, &other]);
            let last = among.pop().unwrap();
            assert_eq!(Some(&last[1]), reference.last(), "{set} {name}");
            assert_eq!(last[0], last[2], "{set} {name}");
        }
    }

    /// Of the first picture under the first caption.
    pub fn nll(&self) -> f64 {
        let &Golden {
            model, expected, ..
        } = self;
        let prompt = model.net.read(&self.text_ids()[0]).unwrap();
        let ids = &expected.ids("image_ids")[0];
        let found = likelihood(&model.net, &prompt, ids).unwrap();
        found.image_log_likelihood
    }

    /// The likelihood is that of drawing in a few passes, id by id in the order of positions, and the same in a batch.
    pub fn likelihoods_sum_over_passes(&self) {
        let &Golden {
            model,
            expected,
            set,
        } = self;
        let ids = self.text_ids();
        let prompts = [0, 1].map(|caption: usize| model.net.read(&ids[caption]).unwrap());
        let images = expected.ids("image_ids");
        let groups = prompts
            .each_ref()
            .map(|prompt| Prompted { prompt, rows: 1 });
        let together = numbers(model.net.token_nll(&groups, &images, true).unwrap().image);
        let positions = images[0].len();
        assert_eq!(together.len(), 2 * positions);
        for (row, group) in groups.iter().enumerate() {
            let image = std::slice::from_ref(&images[row]);
            let alone = model
                .net
                .token_nll(std::slice::from_ref(group), image, true)
                .unwrap()
                .image;
            let alone = numbers(alone);
            assert_eq!(alone, together[row * positions..][..positions], "{set}");
            // A random picture is about as unlikely as one of codes drawn evenly, or less likely.
            let mean = alone.iter().sum::<f32>() / positions as f32;
            let even = (model.net.sizes().codebook_size as f32).ln();
            assert!((0.5 * even..8.0 * even).contains(&mean), "{set}: {mean}");
        }
        // In an order: the first pass sees nothing, so that its logits are those of a blank picture.
        let order: Vec<u32> = (0..positions as u32).rev().collect();
        let found = model
            .net
            .image_logits_in(&prompts[1], &images[0], &order)
            .unwrap();
        let [rows, codes] = found.dims();
        assert_eq!((rows, codes), (positions, model.net.sizes().codebook_size));
        let nothing = vec![None; positions];
        let prompt = model.net.prompt_of(&ids[1]).unwrap();
        let blank = Masked::new(&prompt, &nothing, &order[..1]);
        let first = numbers(logits(&model.net, &[blank]).unwrap());
        assert_eq!(numbers(found)[..codes], first, "{set}");
    }
}

/// How a picture of the reference was drawn.
pub struct Drawing {
    pub canvas: Canvas,
    pub caption: usize,
    /// The caption that guidance leads away from.
    pub negative: usize,
    pub guidance_scale: f32,
    pub temperature: f32,
    pub seed: u64,
}

/// How many ids each pass leaves masked, for all numbers of passes and ids that matter.
pub fn schedules_are_those_of_the_reference(expected: &Expected) {
    #[derive(Debug, Deserialize)]
    struct Schedule {
        schedule: MaskSchedule,
        positions: usize,
        steps: usize,
        /// At the start, and after each pass.
        masked: Vec<usize>,
    }
    let schedules: Vec<Schedule> = expected.metadata("schedules");
    assert!(schedules.len() > 200);
    for schedule in schedules {
        let (masked, positions) = (schedule.masked[0], schedule.positions);
        let passes = confidence_passes(schedule.schedule, masked, positions, schedule.steps);
        let mut left = vec![masked];
        for number in 0..schedule.steps {
            let pass = passes.iter().find(|pass| pass.number == number);
            let kept = pass.map_or(0, |pass| pass.kept);
            left.push(left[number] - kept);
        }
        assert_eq!(left, schedule.masked, "{schedule:?}");
    }
}
