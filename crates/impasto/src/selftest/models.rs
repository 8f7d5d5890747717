//! A tiny model of every family: what goes in and what comes out of it, on the device and on the CPU.

use burn::tensor::Tensor;

use super::Kind;
use super::check::{Check, Room, forward};
use super::compare::{Scores, Values};
use super::weights::random;
use crate::Result;
use crate::engine::{AutoregressiveModel, Input, Prompted, Rows, TextModel, image_log_likelihoods};
use crate::image::Image;
use crate::models::clip::{Activation, EndOfText, Normalisation, TowerConfig};
use crate::models::dalle::{Part as DallePart, image_part, shuffled};
use crate::models::dalle_bart::{CaptionRows, StackConfig};
use crate::models::dalle_pytorch::{AttentionKind, DallePytorchClipConfig, DallePytorchTower};
use crate::models::discrete_vae::{DiscreteVaeConfig, Normalization};
use crate::models::dvae::DvaeConfig;
use crate::models::janus::{Conversation, Part, VisionConfig};
use crate::models::taming_vqgan::{PixelRange, TamingVqganConfig};
use crate::models::vqgan::VqganConfig;
use crate::models::{
    ClipConfig, DalleBartConfig, DalleConfig, DallePytorchConfig, ImageTokenizer,
    ImageTokenizerConfig, JanusConfig,
};
use crate::nn::Init;
use crate::nn::block::AttentionMask;

/// Pictures in a batch.
const ROWS: usize = 3;

/// All of them.
pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    for config in dalle_configs() {
        dalle(&mut all, config);
    }
    for scaled in [false, true] {
        let config = dalle_bart_config(scaled);
        let shapes = format!(
            "width {}, {}+{} layers, grid {}",
            config.width, config.encoder.n_layers, config.decoder.n_layers, config.grid
        );
        all.push(forward(
            "models/dalle_bart",
            shapes,
            Kind::Model,
            move |room| dalle_bart(room, &config),
        ));
    }
    for config in dalle_pytorch_configs() {
        let shapes = format!(
            "width {}, {} layers, grid {}{}",
            config.width,
            config.n_layers,
            config.grid,
            if config.reversible {
                ", reversible"
            } else {
                ", rotary"
            },
        );
        all.push(forward(
            "models/dalle_pytorch",
            shapes,
            Kind::Model,
            move |room| dalle_pytorch(room, &config),
        ));
    }
    let config = janus_config();
    all.push(forward(
        "models/janus",
        format!(
            "width {}, {} layers, grid {}",
            config.width, config.n_layers, config.grid
        ),
        Kind::Model,
        move |room| janus(room, &config),
    ));
    all.extend(super::llamagen::checks());
    all.extend(super::rudalle::checks());
    all.extend(super::upscaler::checks());
    all.extend(super::masked::checks());
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let config = clip_config(activation);
        let shapes = format!(
            "{} px, width {}+{}, {activation:?}",
            config.image_size, config.image.width, config.text.width
        );
        all.push(forward("models/clip", shapes, Kind::Model, move |room| {
            clip(room, &config)
        }));
    }
    all.push(forward(
        "models/dalle_pytorch clip",
        "15 px, width 24+20".to_owned(),
        Kind::Model,
        dalle_pytorch_clip,
    ));
    for config in tokenizer_configs() {
        let shapes = format!(
            "{} px, grid {}, {} codes{}",
            config.picture_size(),
            config.grid(),
            config.codebook_size(),
            match &config {
                ImageTokenizerConfig::TamingVqgan(config) if config.gumbel => ", gumbel",
                ImageTokenizerConfig::TamingVqgan(config) if config.normalised_codes => {
                    ", normalised"
                }
                _ => "",
            }
        );
        let name = format!("models/{}", config.name());
        all.push(forward(&name, shapes, Kind::Model, move |room| {
            image_tokenizer(room, &config)
        }));
    }
    all
}

pub(super) fn dalle_configs() -> [DalleConfig; 2] {
    [
        DalleConfig {
            text_vocab_size: 50,
            text_length: 7,
            padded_text: true,
            codebook_size: 37,
            grid: 3,
            width: 24,
            n_layers: 2,
            n_heads: 2,
            hidden: 40,
            contrastive_width: Some(10),
        },
        DalleConfig {
            text_vocab_size: 300,
            text_length: 16,
            padded_text: true,
            codebook_size: 256,
            grid: 6,
            width: 128,
            n_layers: 2,
            n_heads: 2,
            hidden: 320,
            contrastive_width: None,
        },
    ]
}

fn dalle(all: &mut Vec<Check>, config: DalleConfig) {
    let shapes = format!(
        "width {}, {} layers, grid {}",
        config.width, config.n_layers, config.grid
    );
    let own = config.clone();
    let mut check = forward("models/dalle", shapes.clone(), Kind::Model, move |room| {
        dalle_logits(room, &own)
    });
    check.bf16 = true;
    all.push(check);
    all.push(forward(
        "models/dalle, likelihood",
        shapes,
        Kind::Model,
        move |room| {
            let model = random(config.init(&mut Init::empty(&room.device)), room);
            let text = room.id_rows(ROWS, config.text_length, config.text_vocab_size);
            let images = room.id_rows(ROWS, config.image_length(), config.codebook_size);
            let prompts: Vec<&Vec<u32>> = text.iter().collect();
            let likelihoods = image_log_likelihoods(&model, &prompts, &images)?;
            let mut values = Values::default();
            values.add_host(
                "log-likelihoods",
                likelihoods.into_iter().map(|x| x as f32).collect(),
            );
            Ok(values)
        },
    ));
}

/// Text first, then pictures in random orders; at once, and through a cache in three steps.
fn dalle_logits(room: &mut Room, config: &DalleConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let text_ids = room.id_rows(ROWS, config.text_length, config.text_vocab_size);
    let positions = config.image_length();
    let image_ids = room.id_rows(ROWS, positions, config.codebook_size);
    let orders: Vec<Vec<u32>> = (0..ROWS)
        .map(|_| shuffled(positions, room.random()))
        .collect();
    let text = || DallePart::Text {
        ids: text_ids.concat(),
        start: 0,
    };
    let image = image_part(&image_ids, &orders, config.codebook_size, false);
    let mut values = Values::default();
    let states = model.forward(&[text(), image.clone()], ROWS, None, AttentionMask::Causal);
    let text_states = states.clone().narrow(1, 0, config.text_length);
    values.add("text logits", model.text_logits(text_states))?;
    let image_states = states.narrow(1, config.text_length, positions);
    values.add("image logits", model.image_logits(image_states))?;
    let mut caches = model.caches();
    model.forward(&[text()], ROWS, Some(&mut caches), AttentionMask::Causal);
    let split = positions / 2;
    for (range, sight) in [
        (0..split, AttentionMask::Causal),
        (split..split + 1, AttentionMask::Causal),
        (split + 1..positions, AttentionMask::QueryOnly),
    ] {
        let part = columns(&image, positions, range.clone());
        let states = model.forward(&[part], ROWS, Some(&mut caches), sight);
        let name = format!("image logits {range:?} through the cache");
        values.add(name, model.image_logits(states))?;
    }
    Ok(values)
}

/// The places `range` of each row of image inputs.
fn columns(part: &DallePart, length: usize, range: std::ops::Range<usize>) -> DallePart {
    let cut = |all: &[u32]| -> Vec<u32> {
        all.chunks(length)
            .flat_map(|row| row[range.clone()].to_vec())
            .collect()
    };
    match part {
        DallePart::Image { ids, own, target } => DallePart::Image {
            ids: cut(ids),
            own: cut(own),
            target: cut(target),
        },
        DallePart::Text { ids, start } => DallePart::Text {
            ids: cut(ids),
            start: start + range.start,
        },
    }
}

pub(super) fn dalle_bart_config(scaled_norms: bool) -> DalleBartConfig {
    let stack = |n_layers, n_heads, hidden| StackConfig {
        n_layers,
        n_heads,
        hidden,
    };
    DalleBartConfig {
        text_vocab_size: 60,
        text_length: 9,
        image_vocab_size: 45,
        codebook_size: 40,
        start_id: 45,
        grid: 4,
        width: 48,
        encoder: stack(2, 4, 50),
        decoder: stack(2, 3, 70),
        scaled_norms,
    }
}

fn dalle_bart(room: &mut Room, config: &DalleBartConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = [room.ids(9, 60), room.ids(5, 60)];
    let read = model.encode_all(&[&captions[0], &captions[1]])?;
    let images = room.id_rows(ROWS, config.image_length(), config.codebook_size);
    let caption_rows = [
        CaptionRows {
            caption: &read[0],
            rows: ROWS - 1,
        },
        CaptionRows {
            caption: &read[1],
            rows: 1,
        },
    ];
    let mut values = Values::default();
    values.add("logits", model.logits(&images, &caption_rows)?)?;
    values.add("nats", model.image_nll(&images, &caption_rows)?)?;
    let mut caches = model.caches();
    let mut known = 0;
    for length in [6, 1, 9] {
        let inputs: Vec<Vec<u32>> = images
            .iter()
            .map(|row| row[known..known + length].to_vec())
            .collect();
        let states = model.decode(&inputs, known, &caption_rows, Some(&mut caches))?;
        values.add(
            format!("logits {known} on through the cache"),
            model.image_logits(states),
        )?;
        known += length;
    }
    Ok(values)
}

pub(super) fn dalle_pytorch_configs() -> [DallePytorchConfig; 2] {
    let rotary = DallePytorchConfig {
        text_vocab_size: 30,
        text_length: 6,
        codebook_size: 25,
        grid: 5,
        width: 40,
        n_layers: 4,
        n_heads: 3,
        head_width: 16,
        attention: vec![
            AttentionKind::Full,
            AttentionKind::AxialRow,
            AttentionKind::AxialCol,
            AttentionKind::ConvLike,
        ],
        reversible: false,
        stable: false,
        sandwich_norm: true,
        shift_tokens: true,
        rotary_width: 12,
    };
    let reversible = DallePytorchConfig {
        grid: 4,
        n_layers: 2,
        attention: vec![AttentionKind::Full],
        reversible: true,
        stable: true,
        sandwich_norm: false,
        shift_tokens: false,
        rotary_width: 0,
        ..rotary.clone()
    };
    [rotary, reversible]
}

fn dalle_pytorch(room: &mut Room, config: &DallePytorchConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = vec![room.ids(6, 30), room.ids(2, 30)];
    let images = room.id_rows(2, config.image_length(), config.codebook_size);
    let (text, image) = model.logits(&captions, &images)?;
    let mut values = Values::default();
    values.add("text logits", text)?;
    values.add("image logits", image)?;
    let (text, image) = model.nll(&captions, &images)?;
    values.add("text nats", text)?;
    values.add("image nats", image)?;
    // Step by step, as it draws.
    let (_, mut known) = model.prefill(&captions)?;
    for place in 0..3 {
        let newest: Vec<Vec<u32>> = images.iter().map(|row| vec![row[place]]).collect();
        let states = model.step(&newest, &mut known)?;
        values.add(format!("logits after {place}"), model.image_logits(states))?;
    }
    Ok(values)
}

pub(super) fn clip_config(activation: Activation) -> ClipConfig {
    let tower = |width, n_heads, hidden| TowerConfig {
        width,
        n_layers: 2,
        n_heads,
        hidden,
    };
    ClipConfig {
        image_size: 21,
        patch_size: 7,
        image: tower(48, 3, 100),
        text_vocab_size: 40,
        text_length: 11,
        text: tower(32, 2, 90),
        projection_width: 19,
        activation,
        end_of_text: EndOfText::HighestId,
        logit_bias: true,
        normalisation: Normalisation::default(),
    }
}

fn clip(room: &mut Room, config: &ClipConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let size = config.image_size;
    let pixels: Tensor<4> = room.input([ROWS, 3, size, size]);
    let image = model.encode_image(pixels);
    let captions = [11, 4, 7].map(|length| room.ids(length, 40));
    let text = model.encode_text(&captions)?;
    let mut values = Values::default();
    values.add("pictures", image.clone())?;
    values.add("captions", text.clone())?;
    values.add("logits", model.logits(image, text))?;
    Ok(values)
}

fn dalle_pytorch_clip(room: &mut Room) -> Result<Values> {
    let tower = |width, n_layers| DallePytorchTower {
        width,
        n_layers,
        n_heads: 1,
    };
    let config = DallePytorchClipConfig {
        image_size: 15,
        patch_size: 5,
        image: tower(24, 2),
        text_vocab_size: 30,
        text_length: 7,
        text: tower(20, 1),
        projection_width: 13,
    };
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let captions = [room.ids(7, 30), room.ids(3, 30)];
    let pictures = pictures(room, 2, 15)?;
    let mut values = Values::default();
    values.add("captions", model.encode_text(&captions)?)?;
    values.add("pictures", model.encode_pictures(&pictures)?)?;
    Ok(values)
}

fn janus_config() -> JanusConfig {
    JanusConfig {
        text_vocab_size: 60,
        text_length: 12,
        max_positions: 700,
        end_id: 2,
        width: 32,
        hidden: 44,
        n_layers: 2,
        n_heads: 2,
        norm_epsilon: 1e-6,
        rope_base: 10_000.0,
        codebook_size: 35,
        code_width: 6,
        grid: 3,
        image_aligner_depth: 2,
        vision: VisionConfig {
            image_size: 12,
            patch_size: 4,
            width: 20,
            n_layers: 2,
            n_heads: 2,
            hidden: 36,
            norm_epsilon: 1e-6,
            aligner_depth: 2,
        },
    }
}

/// Whole pictures after prompts of two lengths, ids through the cache, and an answer's first logits.
fn janus(room: &mut Room, config: &JanusConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let prompts = [room.ids(7, 60), room.ids(4, 60)];
    let images = room.id_rows(ROWS, config.image_length(), config.codebook_size);
    let mut values = Values::default();
    values.add("logits", model.whole_logits(&prompts[0], &images)?)?;
    let prompted: Vec<Prompted<'_, Vec<u32>>> = prompts
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
    let inputs: Vec<Vec<Input>> = images[..2].iter().map(inputs).collect();
    let mut group = Rows {
        inputs: &inputs,
        state: &mut state,
    };
    let logits = model.step(std::slice::from_mut(&mut group), 4)?;
    values.add("logits through the cache", logits)?;

    let pictures = pictures(room, 1, config.vision.image_size)?;
    let pixels = crate::models::image_tokenizer::pixels(&pictures, 12, &room.device)?;
    let (features, seen) = model.see(pixels);
    values.add("features", features)?;
    let conversation = Conversation {
        parts: vec![Part::Text(prompts[1].clone()), Part::Image(seen)],
    };
    let (mut state, logits) = model.begin_text(Some(&conversation), &[])?;
    values.add("text logits", logits)?;
    let logits = model.step_text(&[5], 0, &mut state)?;
    values.add("text logits through the cache", logits)?;
    Ok(values)
}

fn pictures(room: &mut Room, count: usize, size: usize) -> Result<Vec<Image>> {
    (0..count)
        .map(|_| Image::from_chw(&room.numbers(3 * size * size), size, size))
        .collect()
}

pub(super) fn vqgan_config() -> VqganConfig {
    VqganConfig {
        picture_size: 20,
        patch: 2,
        widths: vec![12, 20],
        n_res_blocks: 1,
        groups: 4,
        codebook_size: 33,
        code_width: 6,
    }
}

pub(super) fn dvae_config() -> DvaeConfig {
    DvaeConfig {
        picture_size: 20,
        n_groups: 3,
        n_blocks: 1,
        width: 12,
        code_width: 10,
        codebook_size: 31,
    }
}

fn tokenizer_configs() -> Vec<ImageTokenizerConfig> {
    let taming = TamingVqganConfig {
        picture_size: 12,
        base_width: 32,
        multipliers: vec![1, 2],
        n_res_blocks: 1,
        attention_sizes: vec![6],
        latent_width: 10,
        codebook_size: 29,
        code_width: 7,
        gumbel: false,
        normalised_codes: false,
        middle_attention: true,
        pixel_range: PixelRange::Unit,
        encoder: true,
    };
    let gumbel = TamingVqganConfig {
        gumbel: true,
        pixel_range: PixelRange::Signed,
        ..taming.clone()
    };
    let discrete = DiscreteVaeConfig {
        picture_size: 20,
        codebook_size: 27,
        code_width: 9,
        n_layers: 2,
        n_res_blocks: 1,
        width: 14,
        normalization: Normalization::default(),
    };
    let normalised = TamingVqganConfig {
        normalised_codes: true,
        middle_attention: true,
        pixel_range: PixelRange::Signed,
        ..taming.clone()
    };
    vec![
        ImageTokenizerConfig::Vqgan(vqgan_config()),
        ImageTokenizerConfig::Dvae(dvae_config()),
        ImageTokenizerConfig::TamingVqgan(taming),
        ImageTokenizerConfig::TamingVqgan(gumbel),
        ImageTokenizerConfig::TamingVqgan(normalised),
        ImageTokenizerConfig::DiscreteVae(discrete),
    ]
}

/// Scores of the codes, ids, and pixels of other ids.
fn image_tokenizer(room: &mut Room, config: &ImageTokenizerConfig) -> Result<Values> {
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let (size, grid, codes) = (config.picture_size(), config.grid(), config.codebook_size());
    let pixels: Tensor<4> = room.input([2, 3, size, size]);
    let rows = |x: Tensor<4>| {
        let [batch, codes, rows, columns] = x.dims();
        x.permute([0, 2, 3, 1])
            .reshape([batch * rows * columns, codes])
    };
    let scores = match &model {
        ImageTokenizer::Vqgan(model) => model.nearness(model.encode_vectors(pixels.clone())),
        ImageTokenizer::Dvae(model) => rows(model.encode_logits(pixels.clone())),
        ImageTokenizer::TamingVqgan(model) => model.evidence(pixels.clone())?,
        ImageTokenizer::DiscreteVae(model) => rows(model.encode_logits(pixels.clone())),
    };
    let ids = model.encode_pixels(pixels)?.concat();
    let mut values = Values::default();
    values.add("scores of codes", scores.clone())?;
    values.add_best("ids", ids, Scores::of(scores, codes)?);
    let ids = room.id_rows(2, grid * grid, codes);
    values.add("pixels", model.decode_pixels(&ids))?;
    // And on a grid that is no square.
    let ids = [room.ids((grid + 1) * 2, codes)];
    let sides = [2, grid + 1];
    let wide = match &model {
        ImageTokenizer::Vqgan(model) => model.decode_grid(&ids, sides),
        ImageTokenizer::Dvae(model) => model.decode_grid(&ids, sides),
        ImageTokenizer::TamingVqgan(model) => model.decode_grid(&ids, sides),
        ImageTokenizer::DiscreteVae(model) => model.decode_grid(&ids, sides),
    };
    values.add("pixels of a wide grid", wide)?;
    Ok(values)
}
