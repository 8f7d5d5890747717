//! The sizes that are measured, and random weights for them.

use burn::module::Module;

use crate::checkpoint::WeightFormat;
use crate::checkpoint::weights::held;
use crate::models::clip::{Activation, EndOfText, Normalisation, TowerConfig};
use crate::models::dalle_bart::StackConfig;
use crate::models::parameters::{load_each, shapes};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::models::{ClipConfig, DalleBartConfig, DalleConfig};

/// The sizes of a 12-layer transformer of ours over 16×16 pictures.
pub(super) fn own_config() -> DalleConfig {
    DalleConfig {
        text_vocab_size: 8192,
        text_length: 64,
        padded_text: true,
        codebook_size: 8192,
        grid: 16,
        width: 768,
        n_layers: 12,
        n_heads: 12,
        hidden: 2048,
        contrastive_width: None,
    }
}

/// The sizes of DALL·E mini.
pub(super) fn bart_config() -> DalleBartConfig {
    let stack = StackConfig {
        n_layers: 12,
        n_heads: 16,
        hidden: 2730,
    };
    DalleBartConfig {
        text_vocab_size: 50_264,
        text_length: 64,
        image_vocab_size: 16_384,
        codebook_size: 16_384,
        start_id: 16_384,
        grid: 16,
        width: 1024,
        encoder: stack.clone(),
        decoder: stack,
        scaled_norms: false,
    }
}

/// The sizes of DALL·E mini's VQGAN.
pub(super) fn pixels_config() -> TamingVqganConfig {
    TamingVqganConfig {
        picture_size: 256,
        base_width: 128,
        multipliers: vec![1, 1, 2, 2, 4],
        n_res_blocks: 2,
        attention_sizes: vec![16],
        latent_width: 256,
        codebook_size: 16_384,
        code_width: 256,
        gumbel: false,
        normalised_codes: false,
        middle_attention: true,
        pixel_range: PixelRange::Unit,
        encoder: false,
    }
}

/// The sizes of CLIP ViT-B/32; its text tower is as small as can be.
pub(super) fn clip_config() -> ClipConfig {
    let tower = |width: usize, n_layers| TowerConfig {
        width,
        n_layers,
        n_heads: width / 64,
        hidden: 4 * width,
    };
    ClipConfig {
        image_size: 224,
        patch_size: 32,
        image: tower(768, 12),
        text_vocab_size: 512,
        text_length: 77,
        text: tower(64, 1),
        projection_width: 512,
        activation: Activation::QuickGelu,
        end_of_text: EndOfText::HighestId,
        logit_bias: false,
        normalisation: Normalisation::default(),
    }
}

/// The sizes of a small training: 6 layers, sequences of 320.
pub(super) fn training_config() -> DalleConfig {
    DalleConfig {
        text_vocab_size: 4096,
        text_length: 63,
        padded_text: true,
        codebook_size: 1024,
        grid: 16,
        width: 384,
        n_layers: 6,
        n_heads: 6,
        hidden: 1024,
        contrastive_width: None,
    }
}

/// Pairs of a training batch.
pub(super) const TRAINING_ROWS: usize = 8;

/// A module with random weights, those of linear layers held in `format`. Much quicker than fresh ones.
pub(super) fn random<M: Module>(module: M, format: WeightFormat) -> M {
    let mut state = 1u32;
    let (module, _) = load_each(module, |place| {
        let count = place.shape.iter().product();
        let values = match place.shape {
            // Scales of norms are ones, biases zeros: no number shrinks away on its way.
            [_] if place.name.ends_with("weight") => vec![1.0; count],
            [_] => vec![0.0; count],
            _ => (0..count)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.035
                })
                .collect(),
        };
        Some(held(values, place.shape.to_vec(), place, format))
    });
    module
}

/// Numbers of the weights of linear layers whose names `counts`.
pub(crate) fn linear_sizes<M: Module>(
    module: &M,
    counts: impl Fn(&str) -> bool,
) -> Vec<[usize; 2]> {
    shapes(module)
        .into_iter()
        .filter(|(name, _)| {
            name.ends_with("weight") && !name.contains("embed") && !name.contains("position")
        })
        .filter(|(name, _)| counts(name))
        .filter_map(|(_, shape)| shape.try_into().ok())
        .collect()
}

/// Bytes of weights that a token reads.
pub(super) fn streamed(sizes: &[[usize; 2]], format: WeightFormat) -> f64 {
    sizes
        .iter()
        .filter_map(|&shape| format.bytes(shape))
        .map(|bytes| bytes as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Device;

    use super::*;
    use crate::nn::Init;

    #[test]
    fn the_sizes_are_possible() {
        own_config().validate().unwrap();
        bart_config().validate().unwrap();
        pixels_config().validate().unwrap();
        clip_config().validate().unwrap();
        training_config().validate().unwrap();
        assert_eq!(training_config().sequence_length(), 320);
    }

    #[test]
    fn a_token_reads_the_decoders_weights() {
        let config = bart_config();
        let model = config.init(&mut Init::empty(&Device::flex()));
        let sizes = linear_sizes(&model, |name| {
            !name.starts_with("encoder") && !name.contains("key_value")
        });
        // By hand: 12 layers of 3 + 1 + 1 + 1 squares and three of the MLP, and the head.
        let (width, hidden) = (1024, 2730);
        let layer = 6 * width * width + 3 * width * hidden;
        let expected = 12 * layer + width * 16_385;
        let found: usize = sizes.iter().map(|[i, o]| i * o).sum();
        assert_eq!(found, expected);
        assert_eq!(streamed(&sizes, WeightFormat::F32), 4.0 * expected as f64);
    }
}
