#![allow(clippy::unwrap_used)]

use burn::tensor::{Distribution, Tolerance};

use super::*;
use crate::models::parameters::shapes;
use crate::nn::Init;

const EOS: u32 = 2;

fn config() -> ClipConfig {
    serde_json::from_value(serde_json::json!({
        "image_size": 12, "patch_size": 4,
        "image": {"width": 12, "n_layers": 2, "n_heads": 3, "hidden": 20},
        "text_vocab_size": 30, "text_length": 9,
        "text": {"width": 8, "n_layers": 2, "n_heads": 2, "hidden": 32},
        "projection_width": 6, "activation": "quick_gelu", "end_of_text": {"first_of": 2}
    }))
    .unwrap()
}

fn clip(config: &ClipConfig) -> Clip {
    config.init(&mut Init::new(5, &Device::flex()))
}

fn pixels(batch: usize) -> Tensor<4> {
    let device = Device::flex();
    device.seed(3);
    Tensor::random([batch, 3, 12, 12], Distribution::Normal(0.0, 1.0), &device)
}

fn values(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

#[test]
fn what_stands_behind_the_end_does_not_count() {
    let clip = clip(&config());
    let embed = |ids: &[u32]| values(clip.encode_text(&[ids.to_vec()]).unwrap());
    let bare = embed(&[1, 7, 9, EOS]);
    assert_eq!(bare, embed(&[1, 7, 9, EOS, 0, 0, 0]));
    assert_eq!(bare, embed(&[1, 7, 9, EOS, 29, EOS, 4, 0, 0]));
    assert_ne!(bare, embed(&[1, 7, 8, EOS]));
    assert_ne!(bare, embed(&[1, 9, 7, EOS]));
}

#[test]
fn a_row_is_the_same_alone_and_in_a_batch() {
    let clip = clip(&config());
    let all = pixels(5);
    let together = values(clip.encode_image(all.clone()));
    let texts = [
        vec![1, EOS],
        vec![1, 5, 6, 7, 8, 9, 10, 11, EOS],
        vec![1, 28, EOS, 0, 0],
    ];
    let texts_together = values(clip.encode_text(&texts).unwrap());
    for row in 0..5 {
        let alone = values(clip.encode_image(all.clone().narrow(0, row, 1)));
        assert_eq!(alone, together[row * 6..(row + 1) * 6], "picture {row}");
    }
    for (row, text) in texts.into_iter().enumerate() {
        let alone = values(clip.encode_text(&[text]).unwrap());
        assert_eq!(alone, texts_together[row * 6..(row + 1) * 6], "text {row}");
    }
}

#[test]
fn the_end_is_the_highest_id_or_the_first_of_one() {
    let ids = [1, 9, 2, 9, 4, 2];
    assert_eq!(EndOfText::HighestId.position(&ids), Some(1));
    assert_eq!(EndOfText::FirstOf(2).position(&ids), Some(2));
    assert_eq!(EndOfText::FirstOf(3).position(&ids), None);
    assert_eq!(EndOfText::HighestId.position(&[]), None);
}

#[test]
fn captions_that_can_not_be_read_are_refused() {
    let clip = clip(&config());
    let error = |texts: &[Vec<u32>]| clip.encode_text(texts).unwrap_err().to_string();
    assert!(error(&[]).contains("1 or more"));
    assert!(error(&[vec![1, EOS], vec![1, 30, EOS]]).contains("below 30, got 30"));
    assert!(error(&[vec![1, 5]]).contains("no end"));
    assert!(error(&[vec![EOS; 10]]).contains("are 10, the model reads up to 9"));
}

/// The picture tower against plain arithmetic: patches in reading order, the class token first, and the
/// published order of everything else, on one layer with one head.
#[test]
fn a_picture_is_embedded_as_published() {
    let mut config = config();
    config.image = TowerConfig {
        width: 4,
        n_layers: 1,
        n_heads: 1,
        hidden: 5,
    };
    config.activation = Activation::Gelu;
    let clip = clip(&config);
    let image = pixels(1);
    let found = values(clip.encode_image(image.clone()));
    let parameters = crate::models::parameters::export(&clip);
    let get = |name: &str| -> Vec<f64> {
        let data = &parameters[&format!("image.{name}")];
        data.iter::<f32>().map(f64::from).collect()
    };
    let product = |x: &[f64], weight: &[f64], bias: Option<&[f64]>| -> Vec<f64> {
        let columns = weight.len() / x.len();
        (0..columns)
            .map(|j| {
                let sum: f64 = (0..x.len()).map(|i| x[i] * weight[i * columns + j]).sum();
                sum + bias.map_or(0.0, |bias| bias[j])
            })
            .collect()
    };
    let linear = |x: &[f64], name: &str| {
        let bias = get(&format!("{name}.bias"));
        product(x, &get(&format!("{name}.weight")), Some(&bias))
    };
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scaled = x.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt());
        scaled
            .zip(w.iter().zip(&b))
            .map(|(x, (w, b))| x * w + b)
            .collect()
    };
    let flat: Vec<f64> = image.into_data().iter::<f32>().map(f64::from).collect();
    let pixel = |c: usize, y: usize, x: usize| flat[(c * 12 + y) * 12 + x];
    let positions = get("position_embedding");
    let mut tokens = vec![get("class_embedding")];
    for (top, left) in (0..9).map(|i| (i / 3 * 4, i % 3 * 4)) {
        let patch: Vec<f64> = (0..48)
            .map(|i| pixel(i / 16, top + i % 16 / 4, left + i % 4))
            .collect();
        tokens.push(product(&patch, &get("patch_embedding.weight"), None));
    }
    let mut x: Vec<Vec<f64>> = tokens
        .iter()
        .zip(positions.chunks(4))
        .map(|(token, position)| {
            let sum: Vec<f64> = token.iter().zip(position).map(|(a, b)| a + b).collect();
            norm(&sum, "pre_norm")
        })
        .collect();
    let qkv: Vec<Vec<f64>> = x
        .iter()
        .map(|x| linear(&norm(x, "blocks.0.attention_norm"), "blocks.0.qkv"))
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let seen: Vec<Vec<f64>> = qkv
        .iter()
        .map(|asks| {
            let weights: Vec<f64> = qkv
                .iter()
                .map(|asked| (dot(&asks[..4], &asked[4..8]) / 2.0).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            (0..4)
                .map(|i| {
                    let sum: f64 = qkv.iter().zip(&weights).map(|(v, w)| v[8 + i] * w).sum();
                    sum / total
                })
                .collect()
        })
        .collect();
    // The class token is all that is read after the last attention.
    let add = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    x[0] = add(&x[0], &linear(&seen[0], "blocks.0.attention_out"));
    let inner: Vec<f64> = linear(&norm(&x[0], "blocks.0.mlp_norm"), "blocks.0.up")
        .into_iter()
        .map(gelu)
        .collect();
    x[0] = add(&x[0], &linear(&inner, "blocks.0.down"));
    let expected = product(&norm(&x[0], "post_norm"), &get("projection.weight"), None);
    for (found, expected) in found.iter().zip(&expected) {
        // Some dozen roundings of numbers of about one.
        assert!(
            (f64::from(*found) - expected).abs() < 1e-5,
            "{found} {expected}"
        );
    }
}

/// x · Φ(x), Φ by Simpson's rule over the density.
fn gelu(x: f64) -> f64 {
    let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let steps = 2000;
    let h = x / f64::from(steps);
    let sum: f64 = (0..=steps)
        .map(|i| {
            let weight = match i {
                _ if i == 0 || i == steps => 1.0,
                _ if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * density(f64::from(i) * h)
        })
        .sum();
    x * (0.5 + sum * h / 3.0)
}

#[test]
fn logits_are_scaled_cosines() {
    let device = Device::flex();
    let clip = clip(&config());
    let image = Tensor::from_data([[3.0, 4.0, 0.0, 0.0, 0.0, 0.0], [0.0; 6]], &device);
    let text = Tensor::from_data([[0.0, 2.0, 0.0, 0.0, 0.0, 0.0]], &device);
    let logits = clip.logits(image, text).into_data();
    let expected = burn::tensor::TensorData::from([[0.8 / 0.07f32], [0.0]]);
    logits.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-6, 1e-6));
}

#[test]
fn losses_equal_plain_arithmetic() {
    let device = Device::flex();
    device.seed(1);
    let rows = 5;
    let logits = Tensor::<2>::random([rows, rows], Distribution::Normal(0.0, 3.0), &device);
    let z: Vec<f64> = values(logits.clone()).into_iter().map(f64::from).collect();
    let at = |i: usize, j: usize| z[i * rows + j];
    let (mut nce, mut sigmoid) = (0.0, 0.0);
    for i in 0..rows {
        let row: f64 = (0..rows).map(|j| at(i, j).exp()).sum();
        let column: f64 = (0..rows).map(|j| at(j, i).exp()).sum();
        nce += (row.ln() + column.ln() - 2.0 * at(i, i)) / (2 * rows) as f64;
        for j in 0..rows {
            let sign = if i == j { 1.0 } else { -1.0 };
            sigmoid += (1.0 + (-sign * at(i, j)).exp()).ln() / rows as f64;
        }
    }
    for (loss, expected) in [
        (ContrastiveLoss::InfoNce, nce),
        (ContrastiveLoss::Sigmoid, sigmoid),
    ] {
        let found = f64::from(loss.of(logits.clone()).into_scalar::<f32>());
        // Sums of 25 numbers of some units.
        assert!(
            (found - expected).abs() < 1e-5,
            "{loss:?}: {found} {expected}"
        );
    }
}

#[test]
fn the_scale_stops_at_a_hundred() {
    let (clip, _) = crate::models::parameters::load(
        clip(&config()),
        [(
            "logit_scale".to_owned(),
            burn::tensor::TensorData::from([9.0f32]),
        )]
        .into(),
    );
    let scale = clip.with_clamped_scale().logit_scale().into_scalar::<f32>();
    assert!((scale - 100.0).abs() < 1e-3, "{scale}");
}

#[test]
fn parameters_have_the_documented_names() {
    let mut config = config();
    config.logit_bias = true;
    let shapes = shapes(&clip(&config));
    for (name, shape) in [
        ("image.patch_embedding.weight", vec![48, 12]),
        ("image.class_embedding", vec![12]),
        ("image.position_embedding", vec![10, 12]),
        ("image.pre_norm.bias", vec![12]),
        ("image.blocks.1.qkv.weight", vec![12, 36]),
        ("image.blocks.1.up.bias", vec![20]),
        ("text.token_embedding.weight", vec![30, 8]),
        ("text.position_embedding", vec![9, 8]),
        ("text.final_norm.weight", vec![8]),
        ("text.projection.weight", vec![8, 6]),
        ("logit_scale", vec![1]),
        ("logit_bias", vec![1]),
    ] {
        assert_eq!(shapes.get(name), Some(&shape), "{name}");
    }
    // 12 a block, 8 beside them in the picture tower, 5 in the text tower, scale and bias.
    assert_eq!(shapes.len(), 4 * 12 + 8 + 5 + 2);
}

#[test]
fn impossible_sizes_are_refused() {
    let error = |change: fn(&mut ClipConfig)| {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    };
    assert!(config().validate().is_ok());
    assert!(error(|c| c.patch_size = 5).contains("multiple of patch_size 5"));
    assert!(error(|c| c.text.n_heads = 3).contains("text.width 8 is not a multiple of 3"));
    assert!(error(|c| c.image.hidden = 0).contains("image.hidden is 0"));
    assert!(error(|c| c.end_of_text = EndOfText::FirstOf(30)).contains("below 30"));
    assert!(error(|c| c.normalisation.std[1] = 0.0).contains("normalisation"));
}
