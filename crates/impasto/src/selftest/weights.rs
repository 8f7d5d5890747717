//! Weights for tiny models: large enough that every part of a model shows in its result.

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::check::Room;
use crate::models::parameters::{Value, load_each};
use crate::nn::precision::in_bf16;

/// `module` with weights from the room's seed, the same on every device.
pub(super) fn random<M: Module>(module: M, room: &Room) -> M {
    let mut random = ChaCha8Rng::seed_from_u64(room.seed);
    let (module, _) = load_each(module, |place| {
        let count: usize = place.shape.iter().product();
        let is_table = ["embed", "position", "codebook", "rotary", "rows", "columns"]
            .iter()
            .any(|name| place.name.contains(name));
        // Uniform within ±bound about the middle.
        let (middle, bound) = match place.shape {
            [_] if place.name.ends_with("weight") => (1.0, 0.5),
            [_] => (0.0, 0.5),
            _ if is_table => (0.0, 1.0),
            // Deviation 1/√inputs, so that numbers stay about as large as they are.
            &[inputs, _] => (0.0, (3.0 / inputs as f32).sqrt()),
            &[outputs, ..] => (0.0, (3.0 * outputs as f32 / count as f32).sqrt()),
            [] => (0.0, 1.0),
        };
        let values: Vec<f32> = (0..count)
            .map(|_| middle + bound * random.random_range(-1.0f32..1.0))
            .map(|x| match room.is_bf16() {
                true => bf16::from_f32(x).to_f32(),
                false => x,
            })
            .collect();
        Some(Value::Data(TensorData::new(values, place.shape.to_vec())))
    });
    match room.dtype() {
        DType::BF16 => in_bf16(&module),
        _ => module,
    }
}
