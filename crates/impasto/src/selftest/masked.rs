//! Tiny nets of masked ids: aMUSEd and Meissonic.

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::Values;
use super::weights::random;
use crate::engine::{AutoregressiveModel, Input, MaskSchedule, Prompted};
use crate::models::clip::{Activation, ClipTextConfig, EndOfText, TowerConfig};
use crate::models::masked::MaskedNet;
use crate::models::{AmusedConfig, MeissonicConfig};
use crate::nn::Init;
use crate::{Error, Result};

pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    for halved in [false, true] {
        let config = amused_config(halved);
        let shapes = format!(
            "width {} in {}, {} layers, grid {}{}",
            config.width,
            config.block_width,
            config.n_layers,
            config.grid,
            if halved { ", halved" } else { "" }
        );
        all.push(forward("models/amused", shapes, Kind::Model, move |room| {
            amused(room, &config)
        }));
    }
    for (halved, masked_at_start) in [(false, None), (true, None), (true, Some(0.5))] {
        let config = meissonic_config(halved, masked_at_start);
        let shapes = format!(
            "width {}, {}+{} layers, grid {}{}{}",
            config.width(),
            config.n_double_layers,
            config.n_single_layers,
            config.grid,
            if halved { ", halved" } else { "" },
            if masked_at_start.is_some() {
                ", one pass"
            } else {
                ""
            },
        );
        all.push(forward(
            "models/meissonic",
            shapes,
            Kind::Model,
            move |room| meissonic(room, &config),
        ));
    }
    all
}

fn text_config(projection_width: usize) -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: 60,
        length: 9,
        tower: TowerConfig {
            width: 20,
            n_layers: 2,
            n_heads: 2,
            hidden: 36,
        },
        projection_width,
        activation: Activation::QuickGelu,
        end_of_text: EndOfText::HighestId,
    }
}

fn amused_config(halved: bool) -> AmusedConfig {
    AmusedConfig {
        text: text_config(14),
        codebook_size: 35,
        embedding_rows: 37,
        mask_id: 36,
        grid: 4,
        picture_size: 64,
        embedding_width: 22,
        block_width: 24,
        block_heads: 3,
        n_blocks: 2,
        halved,
        width: 32,
        hidden: 44,
        n_layers: 2,
        n_heads: 2,
        number_width: 8,
        norm_epsilon: 1e-6,
        schedule: MaskSchedule::Cosine,
    }
}

fn meissonic_config(halved: bool, masked_at_start: Option<f64>) -> MeissonicConfig {
    MeissonicConfig {
        text: ClipTextConfig {
            activation: Activation::Gelu,
            ..text_config(32)
        },
        codebook_size: 35,
        embedding_rows: 37,
        mask_id: 36,
        grid: 4,
        picture_size: 64,
        halved,
        head_widths: [4, 6, 6],
        n_heads: 2,
        n_double_layers: 2,
        n_single_layers: 1,
        schedule: MaskSchedule::Cosine,
        masked_at_start,
    }
}

fn amused(room: &mut Room, config: &AmusedConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = [room.ids(9, 60), room.ids(9, 60)];
    let mut values = Values::default();
    let (states, embeddings) = model.read_text(&captions)?;
    values.add("text states", states)?;
    values.add("text embeddings", embeddings)?;
    passes(room, &model, &captions, values)
}

fn meissonic(room: &mut Room, config: &MeissonicConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = [room.ids(9, 60), room.ids(9, 60)];
    let mut values = Values::default();
    let (states, embeddings) = model.read_text(&captions)?;
    values.add("text states", states)?;
    values.add("text embeddings", embeddings)?;
    passes(room, &model, &captions, values)
}

/// Pictures of which a few ids are known, under two captions, and a likelihood.
fn passes<M: MaskedNet>(
    room: &mut Room,
    model: &M,
    captions: &[Vec<u32>],
    mut values: Values,
) -> Result<Values> {
    let sizes = model.format().sizes;
    let images = room.id_rows(2, sizes.positions, sizes.codebook_size);
    let prompts = [model.read(&captions[0])?, model.read(&captions[1])?];
    let prompted = prompts
        .each_ref()
        .map(|prompt| Prompted { prompt, rows: 1 });
    let mut state = model.prefill(&prompted)?;
    let known = |ids: &Vec<u32>| {
        let known = (0..).step_by(3).zip(ids).take(4);
        let known = known.map(|(position, &id)| Input {
            token: Some((position, id)),
            target: 0,
        });
        known.collect::<Vec<_>>()
    };
    let passes = model
        .parallel_passes()
        .ok_or_else(|| Error::invalid("model", "expected one of parallel passes"))?;
    let inputs: Vec<Vec<Input>> = images.iter().map(known).collect();
    passes.append(&inputs, &mut state)?;
    let query = |ids: &Vec<u32>| {
        let targets = [1, 2, 4, 15];
        let token = Some((14, ids[14]));
        targets.map(|target| Input { token, target }).to_vec()
    };
    let queries: Vec<Vec<Input>> = images.iter().map(query).collect();
    values.add("logits", passes.query(&queries, &mut state)?)?;
    values.add("nll", model.token_nll(&prompted, &images, false)?.image)?;
    Ok(values)
}
