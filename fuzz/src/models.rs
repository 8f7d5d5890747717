//! Tiny untrained models of our own formats.

use std::path::Path;

use impasto::checkpoint::weights::Precision;
use impasto::checkpoint::{
    CaptionTokenizer, ClipModel, ClipModelConfig, TextTokenizerKind, WeightFormat,
};
use impasto::device;
use impasto::families::{NativeConfig, NativeModel, NativeOptions, SaveAs};
use impasto::models::clip::{Activation, EndOfText, Normalisation, TowerConfig};
use impasto::models::vqgan::VqganConfig;
use impasto::models::{ClipConfig, DalleConfig, ImageTokenizerConfig};
use impasto::nn::Init;
use impasto::sampling::SamplingOptions;
use impasto::text::TextTokenizer;

/// A text tokenizer of few ids.
pub fn text() -> TextTokenizer {
    let captions = [
        "a red turtle on a yellow background",
        "黄色背景上的红色乌龟",
    ];
    let captions = captions.iter().cycle().take(40);
    TextTokenizer::train(captions.map(|&caption| caption.to_owned()), 300).unwrap()
}

/// A model that draws: 32 px, a grid of 4 × 4.
pub fn write_model(folder: &Path) {
    let text = text();
    let image_tokenizer = ImageTokenizerConfig::Vqgan(VqganConfig {
        picture_size: 32,
        patch: 8,
        widths: vec![8],
        n_res_blocks: 1,
        groups: 4,
        codebook_size: 16,
        code_width: 4,
    });
    let dalle = DalleConfig {
        text_vocab_size: text.vocab_size(),
        text_length: 16,
        padded_text: true,
        codebook_size: 16,
        grid: 4,
        width: 16,
        n_layers: 1,
        n_heads: 2,
        hidden: 32,
        contrastive_width: None,
    };
    let (device, _) = device::select("cpu").unwrap();
    let mut init = Init::new(1, &device);
    let model = NativeModel {
        config: NativeConfig {
            name: "tiny".to_owned(),
            licence: "CC0-1.0".to_owned(),
            image_tokenizer: image_tokenizer.clone(),
            sizes: dalle.clone(),
            sampling: SamplingOptions::default(),
            options: NativeOptions {
                any_order: true,
                captions_images: true,
            },
            precision: WeightFormat::F32,
        },
        text,
        image: image_tokenizer.init(&mut init),
        net: dalle.init(&mut init),
        device,
    };
    model.save(folder, SaveAs::Floats(Precision::F32)).unwrap();
}

/// A CLIP: 32 px, 8 dimensions.
pub fn write_clip(folder: &Path) {
    let text = text();
    let tower = TowerConfig {
        width: 16,
        n_layers: 1,
        n_heads: 2,
        hidden: 32,
    };
    let config = ClipConfig {
        image_size: 32,
        patch_size: 16,
        image: tower,
        text_vocab_size: text.vocab_size(),
        text_length: 16,
        text: tower,
        projection_width: 8,
        activation: Activation::Gelu,
        end_of_text: EndOfText::FirstOf(2),
        logit_bias: false,
        normalisation: Normalisation::default(),
    };
    let (device, _) = device::select("cpu").unwrap();
    let clip = ClipModel {
        config: ClipModelConfig {
            name: "tiny".to_owned(),
            licence: "CC0-1.0".to_owned(),
            text_tokenizer: TextTokenizerKind::ByteLevel,
            clip: config.clone(),
        },
        text: CaptionTokenizer::ByteLevel(text),
        clip: config.init(&mut Init::new(2, &device)),
    };
    clip.save(folder, Precision::F32).unwrap();
}
