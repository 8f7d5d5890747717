//! Tiny models of both versions of ruDALL-E.

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::Values;
use super::weights::random;
use crate::Result;
use crate::models::RuDalleConfig;
use crate::models::rudalle::RuDalleVersion;
use crate::nn::Init;

pub(super) fn checks() -> Vec<Check> {
    let check = |version: RuDalleVersion| {
        let config = RuDalleConfig {
            version,
            text_vocab_size: 30,
            text_length: 6,
            codebook_size: 25,
            grid: 7,
            width: 40,
            n_layers: 3,
            n_heads: 2,
            sandwich_norm: version == RuDalleVersion::V3,
        };
        let shapes = format!(
            "width {}, {} layers, grid {}, {}",
            config.width,
            config.n_layers,
            config.grid,
            version.name()
        );
        forward("models/rudalle", shapes, Kind::Model, move |room| {
            rudalle(room, &config)
        })
    };
    RuDalleVersion::ALL.into_iter().map(check).collect()
}

/// Whole pairs, and ids through the cache.
fn rudalle(room: &mut Room, config: &RuDalleConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = vec![room.ids(6, 30), room.ids(2, 30)];
    let images = room.id_rows(2, config.image_length(), config.codebook_size);
    let mut values = Values::default();
    values.add("image logits", model.logits(&captions, &images)?)?;
    let (text, image) = model.nll(&captions, &images)?;
    values.add("text nats", text)?;
    values.add("image nats", image)?;
    // Several ids at once, and one by one, as it draws.
    let (_, mut known) = model.prefill(&captions)?;
    let mut at = 0;
    for n in [9, 1, 1] {
        let next: Vec<Vec<u32>> = images.iter().map(|row| row[at..at + n].to_vec()).collect();
        let states = model.step(&next, &mut known)?;
        at += n;
        values.add(format!("logits after {at}"), model.image_logits(states))?;
    }
    Ok(values)
}
