//! What a folder is that is no model of ours: said instead of naming the first field that is not understood.

use std::path::Path;

use serde_json::Value;

use crate::{Error, files};

/// What a folder was given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What compares pictures with captions.
    Clip,
    /// Anything else.
    Model,
}

/// Says what a folder is, and what to give instead of it; none where that is not known, or where it is what is `wanted`,
/// only damaged.
pub fn explain(folder: &Path, wanted: Wanted) -> Option<String> {
    let path = folder.join("config.json");
    if !path.exists() {
        return of_pipeline(folder).or_else(|| without_files(folder));
    }
    let config = files::read(path).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    if let Some(kind) = config.get("model_type").and_then(Value::as_str) {
        return Some(of_transformers(folder, kind));
    }
    if config.get("_class_name").is_some_and(Value::is_string)
        || config.get("_diffusers_version").is_some()
    {
        return Some(format!(
            "is a model of diffusers ({}), which generates from noise, not from tokens; expected a model of impasto, aMUSEd (the folder with model_index.json), Janus, DALL·E mini or DALLE-pytorch",
            text(&config["_class_name"])
        ));
    }
    if config
        .get("architecture")
        .is_some_and(|kind| kind == "lora")
    {
        return Some(
            "is an adapter, expected a model; give it with --adapter beside the model that it was trained on"
                .to_owned(),
        );
    }
    if wanted == Wanted::Model && config.get("clip").is_some_and(Value::is_object) {
        return Some(
            "is a CLIP, which compares pictures with captions; give it with --clip".to_owned(),
        );
    }
    if wanted == Wanted::Clip && config.get("dalle").is_some_and(Value::is_object) {
        return Some("is a model that draws, expected a CLIP; give it with --model".to_owned());
    }
    let is_training = config.get("data").is_some() && config.get("run").is_some();
    is_training.then(|| of_training(folder))
}

/// By the class in diffusers' `model_index.json`.
fn of_pipeline(folder: &Path) -> Option<String> {
    let index = files::read(folder.join("model_index.json")).ok()?;
    let index: Value = serde_json::from_slice(&index).ok()?;
    Some(format!(
        "is a pipeline of diffusers ({}), which is not read; expected AmusedPipeline, one of Meissonic, or a model of impasto, Janus, DALL·E mini or DALLE-pytorch",
        text(index.get("_class_name")?)
    ))
}

fn text(value: &Value) -> String {
    let text: String = value.as_str().unwrap_or("?").chars().take(80).collect();
    text.escape_debug().to_string()
}

/// Of a folder without a config, such as that of a `dalle.pt`: whether its weights are there.
fn without_files(folder: &Path) -> Option<String> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let ends = ["pt", "pth", "ckpt", "bin", "pkl", "safetensors", "msgpack"];
            let found = path.extension().and_then(|end| end.to_str());
            found.is_some_and(|found| ends.contains(&found))
        })
        .collect();
    paths.sort();
    paths.iter().find_map(|path| match files::check(path) {
        Err(Error::BadFile { reason, .. }) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Some(format!("{} {reason}", name.escape_debug()))
        }
        _ => None,
    })
}

/// By the `model_type` that `transformers` writes.
fn of_transformers(folder: &Path, kind: &str) -> String {
    let shown = text(&Value::String(kind.to_owned()));
    match kind {
        "clip" => {
            let missing = "is a CLIP of transformers without its weights, expected model.safetensors or pytorch_model.bin";
            let has_weights = [
                "model.safetensors",
                "model.safetensors.index.json",
                "pytorch_model.bin",
                "pytorch_model.bin.index.json",
            ]
            .iter()
            .any(|name| folder.join(name).is_file());
            match has_weights {
                true => "is a CLIP of transformers, which compares pictures with captions; give it with --clip".to_owned(),
                false => missing.to_owned(),
            }
        }
        "janus" | "multi_modality" => {
            "is a Janus without its weights, expected model.safetensors or pytorch_model.bin, or their list of shards"
                .to_owned()
        }
        "dallebart" => {
            "is a DALL·E mini without its weights, expected flax_model.msgpack".to_owned()
        }
        "clip_vision_model" | "clip_text_model" => format!(
            "is one tower of a CLIP (model_type {shown}), expected both: a folder with the model_type clip"
        ),
        _ => format!(
            "is a model of transformers of the model_type {shown}, which is not read; expected clip (or open_clip's and OpenAI's files) for a CLIP, dallebart for DALL·E mini, janus or multi_modality for Janus"
        ),
    }
}

/// By what lies in it.
fn of_training(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).is_file();
    let within = |name: &str| folder.join(name).display().to_string();
    if has("model/config.json") {
        return format!(
            "is the folder of a training, expected the model in it: {}",
            within("model")
        );
    }
    if has("adapter/config.json") {
        return format!(
            "is the folder of a training, expected a model; give the model that it started from, with --adapter {}",
            within("adapter")
        );
    }
    if has("image_tokenizer.safetensors") {
        return "is the folder of an image tokenizer's training, expected a model; `impasto train dalle` makes one with it (\"image_tokenizer\" in its config)".to_owned();
    }
    "is the folder of a training that has not finished, expected a model; `impasto train … --resume` completes it".to_owned()
}
