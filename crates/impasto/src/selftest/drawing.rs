//! Drawing with the same seed on both devices: the same ids come out.
//!
//! Where a rounding error moves a probability across the random number, ids differ for no fault of the device, and
//! everything after them does: so the first difference counts, by how far the random number (the best logit, without
//! one) is from where the reference would have drawn the device's id.

use burn::tensor::Tensor;

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::{Scores, Values};
use super::models::{dalle_bart_config, dalle_configs, dalle_pytorch_configs};
use super::weights::random;
use crate::Result;
use crate::engine::{AutoregressiveModel, SampleSpec, SampledTokens, sample};
use crate::models::dalle::{Order, Part, image_part, raster};
use crate::models::dalle_bart::CaptionRows;
use crate::nn::Init;
use crate::nn::block::AttentionMask;
use crate::observer::NoObserver;
use crate::sampling::{Sampler, SamplingOptions};

/// All of them.
pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    for (what, options) in [("greedy", SamplingOptions::greedy()), ("seeded", seeded())] {
        for config in dalle_configs() {
            let shapes = format!("width {}, grid {}, {what}", config.width, config.grid);
            let options = options.clone();
            all.push(forward("drawing/dalle", shapes, Kind::Model, move |room| {
                let model = random(config.init(&mut Init::empty(&room.device)), room);
                let text_ids = room.ids(config.text_length, config.text_vocab_size);
                let drawn = drawn(&model, &text_ids, &options, room)?;
                let positions = config.image_length();
                let images: Vec<Vec<u32>> = drawn.iter().map(|one| one.image_ids.clone()).collect();
                let text = Part::Text {
                    ids: text_ids,
                    start: 0,
                };
                let image = image_part(&images, &[raster(positions)], config.codebook_size, false);
                let states = model.forward(&[text, image], 1, None, AttentionMask::Causal);
                let states = states.narrow(1, config.text_length, positions);
                let logits = model
                    .image_logits(states)
                    .reshape([positions, config.codebook_size]);
                values(drawn, logits, config.codebook_size, &options, room)
            }));
        }
        let own = options.clone();
        all.push(forward(
            "drawing/dalle_bart",
            format!("grid 4, {what}"),
            Kind::Model,
            move |room| dalle_bart(room, &own),
        ));
        all.push(forward(
            "drawing/dalle_pytorch",
            format!("grid 5, {what}"),
            Kind::Model,
            move |room| dalle_pytorch(room, &options),
        ));
    }
    all
}

/// No guidance and no cuts: an id's place among the probabilities is then known.
fn seeded() -> SamplingOptions {
    SamplingOptions {
        temperature: 1.0,
        ..SamplingOptions::greedy()
    }
}

/// An image of a caption, with the room's seed.
fn drawn<M: AutoregressiveModel>(
    model: &M,
    text_ids: &[u32],
    options: &SamplingOptions,
    room: &Room,
) -> Result<Vec<SampledTokens>> {
    let spec = SampleSpec {
        text_ids: text_ids.to_vec(),
        seed: room.seed,
    };
    sample(
        model,
        &[spec],
        text_ids,
        options,
        Order::Raster,
        &mut NoObserver,
    )
}

fn values(
    drawn: Vec<SampledTokens>,
    logits: Tensor<2>,
    codes: usize,
    options: &SamplingOptions,
    room: &Room,
) -> Result<Values> {
    let ids = drawn
        .into_iter()
        .flat_map(|one| one.image_ids)
        .collect::<Vec<u32>>();
    let sampler = Sampler::new(options, room.seed);
    let uniforms = match options.temperature {
        0.0 => Vec::new(),
        _ => (0..ids.len() as u64)
            .map(|step| sampler.uniform(step))
            .collect(),
    };
    let mut values = Values::default();
    values.add_drawn("ids", ids, Scores::of(logits, codes)?, uniforms);
    Ok(values)
}

fn dalle_bart(room: &mut Room, options: &SamplingOptions) -> Result<Values> {
    // As many codes as the head has logits but the start's, so that shares of probability are those drawn from.
    let config = dalle_bart_config(false);
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let text_ids = room.ids(7, config.text_vocab_size);
    let caption = model.encode(&text_ids)?;
    let drawn = drawn(&model, &text_ids, options, room)?;
    let images: Vec<Vec<u32>> = drawn.iter().map(|one| one.image_ids.clone()).collect();
    let caption_rows = [CaptionRows {
        caption: &caption,
        rows: 1,
    }];
    let logits = model.logits(&images, &caption_rows)?;
    values(drawn, logits, config.codebook_size, options, room)
}

fn dalle_pytorch(room: &mut Room, options: &SamplingOptions) -> Result<Values> {
    let [config, _] = dalle_pytorch_configs();
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let caption = room.ids(4, config.text_vocab_size);
    let drawn = drawn(&model, &caption, options, room)?;
    let images: Vec<Vec<u32>> = drawn.iter().map(|one| one.image_ids.clone()).collect();
    let (_, logits) = model.logits(&[caption], &images)?;
    values(drawn, logits, config.codebook_size, options, room)
}
