//! A tiny network of each kind that enlarges pictures.

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::Values;
use super::weights::random;
use crate::Result;
use crate::models::upscaler::{CompactConfig, RrdbConfig, UpscalerConfig};
use crate::nn::Init;

pub(super) fn checks() -> Vec<Check> {
    let configs = [
        UpscalerConfig::Rrdb(RrdbConfig {
            scale: 2,
            width: 12,
            n_blocks: 2,
            growth: 6,
        }),
        UpscalerConfig::Compact(CompactConfig {
            scale: 3,
            width: 10,
            n_convolutions: 3,
        }),
    ];
    let check = |config: UpscalerConfig| {
        let shapes = format!("{} x {}", config.name(), config.scale());
        forward("models/upscaler", shapes, Kind::Model, move |room| {
            upscaler(room, &config)
        })
    };
    configs.into_iter().map(check).collect()
}

fn upscaler(room: &mut Room, config: &UpscalerConfig) -> Result<Values> {
    let net = random(config.init(&mut Init::empty(&room.device)), room);
    let pixels = room.constant([1, 3, 14, 10]) * 0.25 + 0.5;
    let mut values = Values::default();
    values.add("pixels", net.forward(pixels))?;
    Ok(values)
}
