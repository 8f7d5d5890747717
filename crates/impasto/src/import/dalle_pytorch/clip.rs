//! CLIPs of DALLE-pytorch: the state of its class `CLIP`, as `torch.save` writes it. The library has no program that
//! trains one, so nothing stands beside the weights: all sizes follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::{CLASSES, check_size, short, theirs};
use crate::checkpoint::dalle_pytorch_clip::{
    Architecture, DallePytorchClipModel, DallePytorchClipModelConfig,
};
use crate::checkpoint::pytorch::{Archive, mentions};
use crate::error::Reason;
use crate::files::folder_of;
use crate::import::mapping::Mapping;
use crate::import::weights::{Tensors, without_prefix};
use crate::import::{ImportReport, name_of};
use crate::models::dalle_pytorch::{DallePytorchClip, DallePytorchClipConfig, DallePytorchTower};
use crate::models::parameters::shapes;
use crate::nn::Init;
use crate::text::dalle_pytorch::DallePytorchTokenizer;
use crate::{Error, Result, files};

/// What it is called in a folder.
const FILE: &str = "clip.pt";

/// A published model.
#[derive(Debug)]
pub struct PublishedDallePytorchClip {
    /// The model, called after its folder or file.
    pub model: DallePytorchClipModel,
    /// What became of the tensors.
    pub report: ImportReport,
}

/// The file in a folder, or the file itself.
fn file_of(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.join(FILE),
        false => path.to_owned(),
    }
}

/// Whether a folder or file looks like one.
pub fn is_published(path: &Path) -> bool {
    let file = file_of(path);
    let named = file.extension();
    named.is_some_and(|extension| extension == "pt" || extension == "pth")
        && file.is_file()
        && mentions(&file, &["to_text_latent.weight", "to_visual_latent.weight"])
}

/// Loads a folder or a file onto `device`; the text tokenizer is that of the DALL·E, beside it.
pub fn load(path: &Path, device: &Device) -> Result<PublishedDallePytorchClip> {
    let file = file_of(path);
    let bytes = files::map(&file)?;
    let archive = Archive::parse(&file, &bytes, &CLASSES)?;
    let root = archive.root();
    let around = ["weights", "state_dict", "model"];
    let state = around.iter().find_map(|key| root.get(key)).unwrap_or(root);
    let tensors: Tensors<'_> = without_prefix(state.tensors()?, "module.")
        .into_iter()
        .collect();
    let config = config(&tensors).map_err(|reason| Error::bad_file(&file, reason))?;
    config
        .validate()
        .map_err(|e| Error::bad_file(&file, Reason::of(e)))?;
    let text = DallePytorchTokenizer::load(folder_of(&file), config.text_vocab_size)?;
    let (clip, report) = map(&file, tensors, &config, device)?;
    let config = DallePytorchClipModelConfig {
        architecture: Architecture::DallePytorchClip,
        name: name_of(path),
        // The checkpoints are their owners': none states a licence.
        licence: "unknown".to_owned(),
        clip: config,
    };
    Ok(PublishedDallePytorchClip {
        model: DallePytorchClipModel { config, text, clip },
        report,
    })
}

fn config(tensors: &Tensors<'_>) -> Result<DallePytorchClipConfig, Reason> {
    let matrix = |name: &str| match tensors.get(name).map(|tensor| tensor.shape()) {
        Some(&[rows, columns]) => Ok([rows, columns]),
        Some(shape) => Err(format!("{name} has shape {shape:?}, expected a matrix")),
        None => Err(format!(
            "has no {name}, expected the state of DALLE-pytorch's CLIP"
        )),
    };
    let root = |name: &str, square: usize| {
        let side = square.isqrt();
        match side * side == square {
            true => Ok(side),
            false => Err(format!("{name} has {square} of what should be a square")),
        }
    };
    let [text_vocab_size, text_width] = matrix("text_emb.weight")?;
    let [text_length, _] = matrix("text_pos_emb.weight")?;
    let [projection_width, _] = matrix("to_text_latent.weight")?;
    let [image_width, patch] = matrix("to_visual_embedding.weight")?;
    let [patches, _] = matrix("visual_pos_emb.weight")?;
    let patch_size = root("to_visual_embedding.weight", patch / 3)?;
    let side = root("visual_pos_emb.weight", patches)?;
    let tower = |part: &str, width: usize| {
        let start = format!("{part}_transformer.layers.layers.");
        let inner = tensors.keys().filter_map(|name| name.strip_prefix(&start));
        let numbers: BTreeSet<&str> = inner.filter_map(|name| name.split('.').next()).collect();
        let mut names = tensors.keys().filter(|name| name.starts_with(&start));
        let name = names
            .find(|name| name.ends_with("to_qkv.weight"))
            .ok_or_else(|| format!("has no {start}0.0.fn.fn.to_qkv.weight"))?;
        let [rows, _] = matrix(name)?;
        Ok::<_, String>(DallePytorchTower {
            width,
            n_layers: numbers.len(),
            n_heads: DallePytorchTower::heads_of(rows)
                .ok_or_else(|| format!("{name} has {rows} rows, expected a multiple of 192"))?,
        })
    };
    Ok(DallePytorchClipConfig {
        image_size: patch_size
            .checked_mul(side)
            .ok_or("has pictures of no size")?,
        patch_size,
        image: tower("visual", image_width)?,
        text_vocab_size,
        text_length,
        text: tower("text", text_width)?,
        projection_width,
    })
}

/// The model of a state dict.
fn map(
    path: &Path,
    tensors: Tensors<'_>,
    config: &DallePytorchClipConfig,
    device: &Device,
) -> Result<(DallePytorchClip, ImportReport)> {
    check_size(path, config.parameters(), &tensors)?;
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let by_short: BTreeMap<String, String> = tensors
        .keys()
        .map(|name| (shortened(name), name.clone()))
        .collect();
    let model = config.init(&mut Init::empty(device));
    let ours: Vec<String> = shapes(&model).into_keys().collect();
    let mut mapping = Mapping::new(path, tensors, &model);
    for name in ours {
        let (theirs, turned) = of_ours(&name)
            .ok_or_else(|| bad(format!("nothing is known that {name} comes from").into()))?;
        let theirs = by_short.get(&theirs).unwrap_or(&theirs);
        match turned {
            true => mapping.transposed(&name, theirs)?,
            false => mapping.reshaped(&name, theirs)?,
        }
    }
    mapping.finish(model)
}

const TOWERS: [(&str, &str); 2] = [("text", "text"), ("visual", "image")];

/// `text_transformer.layers.layers.3.0.fn.fn.to_qkv.weight` → `text 3.0.to_qkv.weight`; other names as they are.
fn shortened(name: &str) -> String {
    for (part, _) in TOWERS {
        let inner = name
            .strip_prefix(part)
            .and_then(|name| name.strip_prefix('_'));
        if let Some(inner) = inner.filter(|inner| inner.starts_with("transformer.")) {
            return format!("{part} {}", short(inner));
        }
    }
    name.to_owned()
}

/// Their short name of a parameter of ours, and whether it lies the other way.
fn of_ours(ours: &str) -> Option<(String, bool)> {
    let (name, turned) = match ours {
        "text_embedding.weight" => ("text_emb.weight", false),
        "text_positions.weight" => ("text_pos_emb.weight", false),
        "text_projection.weight" => ("to_text_latent.weight", true),
        "patch_embedding.weight" => ("to_visual_embedding.weight", true),
        "patch_embedding.bias" => ("to_visual_embedding.bias", false),
        "image_positions.weight" => ("visual_pos_emb.weight", false),
        "image_projection.weight" => ("to_visual_latent.weight", true),
        "temperature" => ("temperature", false),
        _ => {
            return TOWERS.iter().find_map(|(part, tower)| {
                let inner = ours.strip_prefix(tower)?.strip_prefix('_')?;
                let (name, turned) = theirs(inner)?;
                Some((format!("{part} {name}"), turned))
            });
        }
    };
    Some((name.to_owned(), turned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use proptest::prelude::*;

    use crate::checkpoint::ModelSource;
    use crate::checkpoint::dalle_pytorch_clip::is_dalle_pytorch_clip;
    use crate::checkpoint::weights::Precision;
    use crate::image::Image;
    use crate::import::damage::damage;
    use crate::import::goldens::{Expected, assert_within, copied, numbers};
    use crate::models::clip::unit;
    use crate::text::clip::LongCaption;

    const SETS: [&str; 3] = ["even", "odd", "half"];

    fn golden(set: &str) -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        sources.join("import/dalle_pytorch/clip_goldens").join(set)
    }

    /// Of embeddings of length one, and of logits a few times as large.
    const FAR: f32 = 1e-4;

    #[test]
    fn embeddings_and_logits_are_those_of_the_reference() {
        for set in SETS {
            let folder = golden(set);
            assert!(is_published(&folder) && is_published(&folder.join(FILE)));
            let published = load(&folder, &Device::flex()).unwrap();
            assert_eq!(published.model.config.name, set);
            assert!(published.report.is_complete() && published.report.ignored.is_empty());
            let (model, expected) = (&published.model, Expected::of(&folder));
            let clip = &model.clip;
            let captions: Vec<String> = expected.metadata("captions");
            let length = clip.config().text_length;
            let ids: Vec<Vec<u32>> = captions
                .iter()
                .map(|caption| {
                    let ids = model.text.encode_caption(caption, length, true);
                    ids.unwrap()
                })
                .collect();
            assert_eq!(ids, expected.metadata::<Vec<Vec<u32>>>("text_ids"), "{set}");
            let (values, shape) = expected.tensor("pictures");
            let pictures: Vec<Image> = values
                .chunks(shape[1] * shape[2] * shape[3])
                .map(|values| {
                    let chw: Vec<f32> = values.iter().map(|value| value / 127.5 - 1.0).collect();
                    Image::from_chw(&chw, shape[3], shape[2]).unwrap()
                })
                .collect();
            let texts = unit(clip.encode_text(&ids).unwrap());
            let images = unit(clip.encode_pictures(&pictures).unwrap());
            let logits = images.clone().matmul(texts.clone().transpose());
            let logits = logits * clip.logit_scale().reshape([1, 1]);
            assert_within(&numbers(texts), &expected.floats("texts"), FAR, set);
            assert_within(&numbers(images), &expected.floats("images"), FAR, set);
            assert_within(&numbers(logits), &expected.floats("logits"), 4.0 * FAR, set);
        }
    }

    #[test]
    fn a_folder_of_ours_is_the_same_model() {
        let published = load(&golden("odd"), &Device::flex()).unwrap().model;
        let folder = tempfile::tempdir().unwrap();
        published.save(folder.path(), Precision::F32).unwrap();
        let source = ModelSource::parse(folder.path().to_str().unwrap()).unwrap();
        assert!(is_dalle_pytorch_clip(&source) && !is_published(folder.path()));
        let loaded = DallePytorchClipModel::load(&source, &Device::flex()).unwrap();
        let captions = ["a red turtle".to_owned(), "hat".to_owned()];
        let embedded = |model: &DallePytorchClipModel| {
            let texts = model.embed_texts(&captions, LongCaption::Refuse);
            numbers(texts.unwrap())
        };
        assert_eq!(embedded(&loaded), embedded(&published));
        assert!(loaded.embed_texts(&captions, LongCaption::Chunks).is_err());
    }

    #[test]
    fn captions_that_the_model_can_not_read_are_refused() {
        let clip = load(&golden("odd"), &Device::flex()).unwrap().model.clip;
        let (length, words) = (clip.config().text_length, clip.config().text_vocab_size);
        assert!(clip.encode_text(&[vec![1; length]]).is_ok());
        assert!(clip.encode_text(&[vec![1; length + 1]]).is_err());
        assert!(clip.encode_text(&[vec![words as u32]]).is_err());
        assert!(clip.encode_text(&[]).is_err());
        assert!(clip.encode_pictures(&[]).is_err());
    }

    #[test]
    fn what_lacks_its_words_says_what_to_put_there() {
        let copy = copied(&golden("even"));
        std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
        let error = load(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("text tokenizer"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// An error of one line or a model, nothing else.
        #[test]
        fn damaged_files_are_errors_and_nothing_else(damage in damage()) {
            let folder = copied(&golden("half"));
            let path = folder.path().join(FILE);
            let bytes = damage.of(std::fs::read(&path).unwrap());
            std::fs::write(&path, bytes).unwrap();
            if let Err(error) = load(folder.path(), &Device::flex()) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
            let _ = is_published(&path);
        }
    }
}
