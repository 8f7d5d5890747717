//! How pictures are prepared, as `transformers` saves it beside a CLIP (`image_processing_clip.py`): in
//! `preprocessor_config.json`, or as `image_processor` within `processor_config.json` (version 5), which counts more.
//!
//! All CLIPs of OpenAI's architecture scale the shorter side to the model's size, bicubic, and cut the middle square.
//! Anything else would give other embeddings than the reference's, and is refused.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json;
use crate::error::Reason;
use crate::models::clip::Normalisation;
use crate::{Error, Result};

/// What `transformers` 5 writes for all parts of a processor.
const PROCESSOR: &str = "processor_config.json";
/// What older versions write for pictures.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// What is not there is as OpenAI has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Preprocessor {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    size: Option<Value>,
    crop_size: Option<Value>,
    resample: Option<Value>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_pad: Option<bool>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// Reads the files of a folder whose model has pictures of `image_size`; OpenAI's way where there are none.
pub(in crate::import) fn read(folder: &Path, image_size: usize) -> Result<Normalisation> {
    #[derive(Deserialize)]
    struct Processor {
        image_processor: Option<Value>,
    }
    let path = folder.join(PROCESSOR);
    if path.is_file()
        && let Some(nested) = json::<Processor>(&path)?.image_processor
    {
        let found = serde_json::from_value(nested)
            .map_err(|e| Error::bad_file(&path, Reason::because("image_processor", e)))?;
        return check(&path, found, image_size);
    }
    let path = folder.join(PREPROCESSOR);
    match path.is_file() {
        true => check(&path, json(&path)?, image_size),
        false => Ok(Normalisation::default()),
    }
}

fn check(path: &Path, found: Preprocessor, image_size: usize) -> Result<Normalisation> {
    let bad = |reason: Reason| Error::bad_file(path, reason);
    let kind = found.image_processor_type.or(found.feature_extractor_type);
    if let Some(kind) = kind.filter(|kind| !kind.starts_with("CLIP")) {
        return Err(bad(format!(
            "prepares pictures by {kind}, expected CLIPImageProcessor"
        )
        .into()));
    }
    for (name, step, expected) in [
        ("do_resize", found.do_resize, true),
        ("do_center_crop", found.do_center_crop, true),
        ("do_rescale", found.do_rescale, true),
        ("do_normalize", found.do_normalize, true),
        ("do_pad", found.do_pad, false),
    ] {
        if step == Some(!expected) {
            return Err(bad(
                format!("{name} is {}, expected {expected}", !expected).into()
            ));
        }
    }
    if let Some(resample) = found.resample.filter(|value| !is_bicubic(value)) {
        return Err(bad(
            format!("resample is {resample}, expected 3 (bicubic)").into()
        ));
    }
    // The nearest number to 1/255 that a file may have, in 32 bits.
    if let Some(factor) = found.rescale_factor
        && (factor * 255.0 - 1.0).abs() > 1e-6
    {
        return Err(bad(
            format!("rescale_factor is {factor}, expected 1/255").into()
        ));
    }
    if let Some(size) = &found.size {
        scaled(size, image_size).map_err(|reason| bad(format!("size {reason}").into()))?;
    }
    if let Some(size) = &found.crop_size {
        cut(size, image_size).map_err(|reason| bad(format!("crop_size {reason}").into()))?;
    }
    let default = Normalisation::default();
    Ok(Normalisation {
        mean: found.image_mean.unwrap_or(default.mean),
        std: found.image_std.unwrap_or(default.std),
    })
}

/// As Pillow numbers it, or by the name of Pillow's or torchvision's constant.
fn is_bicubic(value: &Value) -> bool {
    match value {
        Value::String(name) => {
            let name = name.rsplit('.').next().unwrap_or_default();
            name.eq_ignore_ascii_case("bicubic")
        }
        Value::Null => true,
        value => value.as_u64() == Some(3),
    }
}

/// Sides by name, those that are null left out; a number and a list are taken apart.
enum Sides {
    One(u64),
    /// Rows and columns.
    Both([u64; 2]),
    Named(Map<String, Value>),
}

fn sides(size: &Value) -> Result<Sides, Reason> {
    let unknown = || format!("is {size}, expected a number of pixels or sides by name").into();
    match size {
        Value::Array(sides) => match sides[..] {
            [ref one] => one.as_u64().map(Sides::One),
            [ref height, ref width] => height
                .as_u64()
                .zip(width.as_u64())
                .map(|(height, width)| Sides::Both([height, width])),
            _ => None,
        },
        Value::Object(fields) => {
            let mut fields = fields.clone();
            fields.retain(|_, side| !side.is_null());
            let side = |name: &str| fields.get(name).and_then(Value::as_u64);
            match (side("height"), side("width"), fields.len()) {
                (Some(height), Some(width), 2) => Some(Sides::Both([height, width])),
                _ => Some(Sides::Named(fields)),
            }
        }
        size => size.as_u64().map(Sides::One),
    }
    .ok_or_else(unknown)
}

/// What pictures are scaled to: the shorter side to the model's. A number means just that; rows and columns squash.
fn scaled(size: &Value, image_size: usize) -> Result<(), Reason> {
    let shortest = match sides(size)? {
        Sides::One(side) => Some(side),
        Sides::Named(fields) => match (fields.get("shortest_edge"), fields.len()) {
            (Some(side), 1) => side.as_u64(),
            _ => None,
        },
        Sides::Both([height, width]) => {
            return Err(format!(
                "is {height} by {width}, to which pictures of other shapes are squashed; expected shortest_edge {image_size}, which keeps their shape"
            ).into());
        }
    };
    match shortest {
        Some(side) if side == image_size as u64 => Ok(()),
        Some(side) => Err(format!(
            "is {side} for the shortest edge, expected the model's {image_size}"
        )
        .into()),
        None => Err(format!("is {size}, expected shortest_edge {image_size}").into()),
    }
}

/// What is cut out of them: the model's square.
fn cut(size: &Value, image_size: usize) -> Result<(), Reason> {
    let square = image_size as u64;
    let fits = match sides(size)? {
        Sides::One(side) => side == square,
        Sides::Both(sides) => sides == [square; 2],
        Sides::Named(fields) => {
            fields.len() == 1 && fields.get("shortest_edge").and_then(Value::as_u64) == Some(square)
        }
    };
    match fits {
        true => Ok(()),
        false => Err(format!("is {size}, expected the model's {image_size}").into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn read_with(file: &str, content: &Value) -> Result<Normalisation> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file), content.to_string()).unwrap();
        read(dir.path(), 224)
    }

    #[test]
    fn every_form_of_a_size_is_understood() {
        for (size, crop) in [
            (json!(224), json!(224)),
            (json!([224]), json!([224, 224])),
            (
                json!({"shortest_edge": 224}),
                json!({"height": 224, "width": 224}),
            ),
            (
                json!({"shortest_edge": 224, "longest_edge": null, "height": null, "width": null}),
                json!({"height": 224, "width": 224, "shortest_edge": null}),
            ),
            (json!(null), json!({"shortest_edge": 224})),
        ] {
            let config = json!({"size": size, "crop_size": crop});
            assert!(read_with(PREPROCESSOR, &config).is_ok(), "{config}");
        }
        for (field, value, reason) in [
            ("size", json!(256), "is 256 for the shortest edge"),
            ("size", json!({"height": 224, "width": 224}), "are squashed"),
            ("size", json!([224, 224]), "are squashed"),
            (
                "size",
                json!({"shortest_edge": 224, "longest_edge": 400}),
                "expected shortest_edge 224",
            ),
            (
                "size",
                json!({"max_height": 224, "max_width": 224}),
                "expected shortest_edge 224",
            ),
            ("size", json!("224"), "expected a number of pixels"),
            ("size", json!(-1), "expected a number of pixels"),
            (
                "crop_size",
                json!({"height": 224, "width": 200}),
                "expected the model's 224",
            ),
            (
                "crop_size",
                json!(18_446_744_073_709_551_615u64),
                "expected the model's 224",
            ),
            ("resample", json!(2), "resample is 2"),
            ("resample", json!("bilinear"), "bicubic"),
            ("rescale_factor", json!(1), "rescale_factor is 1"),
            ("do_center_crop", json!(false), "do_center_crop is false"),
            ("do_pad", json!(true), "do_pad is true"),
            (
                "image_processor_type",
                json!("SiglipImageProcessor"),
                "SiglipImageProcessor",
            ),
        ] {
            let config = json!({field: value});
            let error = read_with(PREPROCESSOR, &config).unwrap_err().to_string();
            assert!(
                error.contains(field) && error.contains(reason) || error.contains("by Sig"),
                "{error}"
            );
        }
    }

    /// Half-precision resamplers and names, as versions 4 and 5 write them.
    #[test]
    fn the_nested_form_counts_more_than_the_plain_one() {
        let dir = tempfile::tempdir().unwrap();
        let of = |mean: f64| {
            json!({
                "image_processor_type": "CLIPImageProcessorFast", "image_mean": [mean, mean, mean],
                "image_std": [0.5, 0.5, 0.5], "resample": "PILImageResampling.BICUBIC",
                "rescale_factor": 0.00392156862745098, "data_format": "channels_first", "do_pad": null
            })
        };
        let nested = json!({"image_processor": of(0.25), "processor_class": "CLIPProcessor"});
        std::fs::write(dir.path().join(PREPROCESSOR), of(0.5).to_string()).unwrap();
        assert_eq!(read(dir.path(), 224).unwrap().mean, [0.5; 3]);
        std::fs::write(dir.path().join(PROCESSOR), nested.to_string()).unwrap();
        assert_eq!(read(dir.path(), 224).unwrap().mean, [0.25; 3]);
        // Version 4 wrote one with other parts only.
        let other = json!({"processor_class": "CLIPProcessor"});
        std::fs::write(dir.path().join(PROCESSOR), other.to_string()).unwrap();
        assert_eq!(read(dir.path(), 224).unwrap().mean, [0.5; 3]);
    }
}
