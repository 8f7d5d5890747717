//! A tiny LlamaGen of captions and one of classes.

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::Values;
use super::weights::random;
use crate::Result;
use crate::engine::{AutoregressiveModel, Input, Prompted, Rows};
use crate::models::LlamaGenConfig;
use crate::models::llamagen::{LlamaGenCondition, NO_CAPTION};
use crate::models::t5::T5Config;
use crate::nn::Init;

pub(super) fn checks() -> Vec<Check> {
    let conditions = [
        LlamaGenCondition::Classes { n_classes: 9 },
        LlamaGenCondition::Caption {
            length: 11,
            text: T5Config {
                vocab_size: 60,
                width: 20,
                n_layers: 2,
                n_heads: 3,
                head_width: 8,
                hidden: 28,
                n_buckets: 8,
                max_distance: 10,
                norm_epsilon: 1e-6,
            },
        },
    ];
    let check = |condition| {
        let config = LlamaGenConfig {
            condition,
            width: 32,
            hidden: 44,
            n_layers: 2,
            n_heads: 2,
            norm_epsilon: 1e-5,
            rope_base: 10_000.0,
            codebook_size: 35,
            grid: 3,
        };
        let condition = match config.condition {
            LlamaGenCondition::Classes { .. } => "classes",
            LlamaGenCondition::Caption { .. } => "captions",
        };
        let shapes = format!(
            "width {}, {} layers, grid {}, {condition}",
            config.width, config.n_layers, config.grid
        );
        forward("models/llamagen", shapes, Kind::Model, move |room| {
            llamagen(room, &config)
        })
    };
    conditions.into_iter().map(check).collect()
}

/// Whole pictures after one prompt and after none, and ids through the cache after prompts of two lengths.
fn llamagen(room: &mut Room, config: &LlamaGenConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let prompts = match config.condition {
        LlamaGenCondition::Classes { n_classes } => [vec![3], vec![n_classes as u32]],
        LlamaGenCondition::Caption { .. } => [room.ids(7, 60), vec![NO_CAPTION; 4]],
    };
    let prompts = prompts.map(|ids| model.read(&ids));
    let prompts = prompts.into_iter().collect::<Result<Vec<_>>>()?;
    let images = room.id_rows(2, config.image_length(), config.codebook_size);
    let mut values = Values::default();
    values.add("logits", model.whole_logits(&prompts[0], &images)?)?;
    values.add(
        "logits after nothing",
        model.whole_logits(&prompts[1], &images)?,
    )?;
    let prompted: Vec<Prompted<'_, _>> = prompts
        .iter()
        .map(|prompt| Prompted { prompt, rows: 1 })
        .collect();
    let mut state = model.prefill(&prompted)?;
    let inputs = |ids: &Vec<u32>| {
        let start = [Input {
            token: None,
            target: 0,
        }];
        let after = (0..).zip(ids).map(|(position, &id)| Input {
            token: Some((position, id)),
            target: position + 1,
        });
        start.into_iter().chain(after.take(3)).collect::<Vec<_>>()
    };
    let inputs: Vec<Vec<Input>> = images.iter().map(inputs).collect();
    let mut group = Rows {
        inputs: &inputs,
        state: &mut state,
    };
    let logits = model.step(std::slice::from_mut(&mut group), 4)?;
    values.add("logits through the cache", logits)?;
    Ok(values)
}
